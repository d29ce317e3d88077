"""`vlq demo`: its answers against the ground truth, and what it does where another demo was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlq.query.cache.reader import Cache
from vlq.query.client.local import open as open_corpus
from vlq.query.errors import StoreError
from vlq.query.schema import FORMAT
from vlq.workers.demo import command
from vlq.workers.job import Outcome, run_job

from ...synthetic import edit_record


def boxes(cache: Path, label: str) -> dict[str, list[list[float]]]:
    """The boxes of one kind of object by image."""
    rows = pq.read_table(cache.parent / "scenes" / "manifest.parquet").to_pylist()
    return {row["image"]: [one["box"] for one in row["objects"] if one["label"] == label] for row in rows}


def test_every_scene_is_cached(demo_cache: Path) -> None:
    info = Cache.open(str(demo_cache)).info()
    assert info["images"] == 300
    assert info["errors"] == []


@pytest.mark.parametrize("word", ["dog", "cat", "rock"])
def test_patches_lie_on_the_object(demo_cache: Path, word: str) -> None:
    """A patch is 14 pixels wide, eight to a row; it lies on an object whose box holds its centre."""
    result = open_corpus(str(demo_cache)).query(f"first_layer(token='{word}', min_prob=0.5)")
    truth = boxes(demo_cache, word)
    on = total = 0
    for row in result.rows:
        for patch in row["patches"]:
            x, y = patch % 8 * 14 + 7, patch // 8 * 14 + 7
            on += any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in truth[row["image"]])
            total += 1
    assert len(result.rows) > 20
    assert on / total >= 0.8


def test_min_prob_parts_the_present_from_chance(demo_cache: Path) -> None:
    truth = {image for image, found in boxes(demo_cache, "dog").items() if found}
    corpus = open_corpus(str(demo_cache))
    by_chance = {row["image"] for row in corpus.query("first_layer(token='dog')").rows} - truth
    sure = {row["image"] for row in corpus.query("first_layer(token='dog', min_prob=0.5)").rows}
    assert len(sure - truth) <= len(by_chance)
    assert len(sure - truth) <= 0.05 * 300
    assert len(sure & truth) >= 0.85 * len(truth)


def test_it_prints_lines_to_type_and_their_answers(
    demo_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLQ_HOME", str(demo_cache.parents[1]))
    monkeypatch.delenv("VLQ_CACHE", raising=False)
    before = state(demo_cache)
    command.demo()
    printed = capsys.readouterr()
    assert "300 scenes, nothing to do" in printed.err
    assert state(demo_cache) == before
    corpus = open_corpus(str(demo_cache))
    for _, query in command.QUERIES:
        assert f'$ vlq "{query}"\n{corpus.query(query).headline}\n' in printed.out
    for query in command.NEXT:  # what it tells to type next works too
        assert f'  vlq "{query}"\n' in printed.out
        assert corpus.query(query).summary["matched"]


def state(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_what_another_version_left_is_made_anew(
    demo_cache: Path,
    tmp_path: Path,
    no_ray: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, scenes = tmp_path / "demo" / "cache", tmp_path / "demo" / "scenes"
    assert not command.has_scenes(scenes, 3)
    assert command.has_scenes(scenes, 3)
    shutil.copytree(demo_cache, cache)
    edit_record(cache / "run.json", lambda run: run.update({"format": FORMAT - 1}))
    command.make_cache(str(cache), 3)
    assert "made anew" in capsys.readouterr().err
    assert Cache.open(str(cache)).info()["images"] == 3

    # Another model's is removed, too. It would be made anew in the same way, which is stopped here.
    edit_record(cache / "run.json", lambda run: run.update({"model_hash": "0" * 64}))
    runs = iter([run_job, interrupted])
    monkeypatch.setattr("vlq.workers.job.run_job", lambda *arguments: next(runs)(*arguments))
    with pytest.raises(KeyboardInterrupt):
        command.make_cache(str(cache), 3)
    assert "made anew" in capsys.readouterr().err
    assert not cache.exists()


def interrupted(*arguments: object) -> Outcome:
    raise KeyboardInterrupt


def test_a_cache_of_other_scenes_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes, cache = tmp_path / "demo" / "scenes", tmp_path / "demo" / "cache"
    assert not command.has_scenes(scenes, 3)
    (scenes / "scenes.sha256").write_text("another")
    (cache / "of-another-version").mkdir(parents=True)
    monkeypatch.setattr("vlq.workers.job.run_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.make_cache(str(cache), 3)
    assert not cache.exists()
    assert command.has_scenes(scenes, 3)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLQ_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"The demo cannot be put into .*/file/demo: Not a directory"):
        command.demo()


def test_lines_name_the_cache_where_another_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLQ_CACHE", "/elsewhere")
    assert command.shell_line("tokens()", "/here") == 'vlq "tokens()" --cache /here'
    assert command.shell_line("tokens()", "/my home") == 'vlq "tokens()" --cache "/my home"'
