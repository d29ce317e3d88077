"""What studies found in an image stands on its page, in a service and in a file: it is what their rows say."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import httpx2
import pytest
from playwright.sync_api import Browser, expect

from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.service.app import create_app
from vlq.service.effects import MOST_SETS
from vlq.service.settings import Settings

from ..doors import running
from ..studies import Row, finish, make_study, random_curves, random_effects
from ..synthetic import make_cache
from .browser import accessible, watched

IMAGES = [0, 2, 3, 5]
OTHER = 4
"""An image that no study is of."""


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], list[Row]]:
    """A cache with two studies, and the rows of each."""
    folder = tmp_path_factory.mktemp("image_effects")
    store, run, _ = make_cache(folder, images=6, failed=[1])
    every = make_study(run, combinations="regions", baselines=("random", "gradient"), repeats=3)
    singles = make_study(run, mode="zero", buffer=1, combinations="singles", baselines=(), repeats=0)
    one = random_effects(every, IMAGES, 12)
    (whole,) = random_effects(make_study(run, baselines=()), [2], 12, seed=1)
    other = [whole] + [
        {**whole, "set": f"patch {patch}", "kind": "patch", "patches": [patch], "after": whole["before"] - patch / 4}
        for patch in range(12)
    ]
    other += [{**other[1], "set": f"patch {patch}", "after": whole["before"] + 9} for patch in (20, 21)]
    finish(store, every, one)
    finish(store, singles, other)
    # One that another VLQ left, whose language is not this one's.
    strange = make_study(run, patches="gaze('rock')", seed=7)
    finish(store, strange, random_effects(strange, [3], 12))
    return folder, one, other


@pytest.fixture(scope="module")
def url(studied: tuple[Path, list[Row], list[Row]]) -> Iterator[str]:
    with running(create_app(Settings({"one": str(studied[0])}))) as url:
        yield url


def tables(page: str) -> list[tuple[str, list[list[str]]]]:
    """Of each study what is said of it, and the texts of its table's rows."""
    found = []
    for study in re.findall(r"<details.*?</details>", page.partition('<section id="effects"')[2], re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", study, re.DOTALL)[1:]
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        (said,) = re.findall("<summary>(.*?)</summary>", study)
        texts = [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in cells]
        found.append((html.unescape(said), texts))
    return found


def goes(gone: bool | None) -> str:
    return {None: "–", True: "goes", False: "stays"}[gone]


def test_other_interventions_have_a_row_for_each_window(tmp_path: Path) -> None:
    store, run, _ = make_cache(tmp_path, images=3)
    windows = ((1, 2), (2, 3), (3, 4))
    none = {"mode": "", "baselines": (), "repeats": 0}
    cut = make_study(run, intervention="knockout", windows=windows, to="last", combinations="regions", **none)
    own = {"intervention": "steer", "patches": "'last'", "token": "'rock'", "token_ids": cut.target_ids}
    added = make_study(run, windows=((0, 4),), strengths=(0.5, 2.0), **{**none, **own})
    curves = {study.digest: random_curves(study, [0, 1], 12) for study in (cut, added)}
    for study in (cut, added):
        finish(store, study, curves[study.digest])
    with running(create_app(Settings({"one": str(tmp_path)}))) as url:
        shown = tables(httpx2.get(f"{url}/one/images/1").text)
        assert tables(httpx2.get(f"{url}/one/images/2").text) == []
    for study, (said, (_, *rows)) in zip((added, cut), shown, strict=True):
        expected = [row for row in curves[study.digest] if row["image_id"] == 1 and row["set"] == "all"]
        assert [row[0] for row in rows] == (
            ["layers 1-2", "layers 2-3", "layers 3-4"]
            if study is cut
            else [f"layers 0-4, strength {s}" for s in (0.5, 2)]
        )
        for row, values in zip(expected, rows, strict=True):
            assert int(values[1]) == len(row["patches"])
            assert float(values[2]) == pytest.approx(row["before"] - row["after"], abs=0.006)
            assert values[3:] == [str(row["rank_after"]), row["answer"], goes(row["gone"])]
        most = max(expected, key=lambda row: abs(row["before"] - row["after"]))
        assert f"it {'gains' if most['after'] > most['before'] else 'loses'} " in said


@pytest.mark.parametrize("image", IMAGES)
def test_the_table_is_what_the_study_found(url: str, studied: tuple[Path, list[Row], list[Row]], image: int) -> None:
    own = {row["set"]: row for row in studied[1] if row["image_id"] == image}
    page = httpx2.get(f"{url}/one/images/{image}").text
    (said, (none, *rows)) = tables(page)[-1]
    assert said.startswith("Patches of readings('rock') taken, the corpus' mean patch in their place: 'rock' ")
    assert none[0] == "none"
    assert (int(none[3]), none[4]) == (own["all"]["rank_before"], own["all"]["answer_before"])
    parts = sorted(
        (row for row in own.values() if row["kind"] in ("region", "regions")),
        key=lambda row: row["after"] - row["before"],
    )
    expected = [own["all"], *parts, own["gradient"]]
    assert [row[0] for row in rows] == [*(row["set"] for row in expected), "random, 3 times"]
    for row, shown in zip(expected, rows, strict=False):
        assert int(shown[1]) == len(row["patches"])
        assert float(shown[2]) == pytest.approx(row["before"] - row["after"], abs=0.006)
        assert shown[3:] == [str(row["rank_after"]), row["answer"], goes(row["gone"])]
        assert f'data-patches="{" ".join(map(str, row["patches"]))}"' in page
    random = [row for row in own.values() if row["kind"] == "random"]
    assert float(rows[-1][2]) == pytest.approx(fmean(row["before"] - row["after"] for row in random), abs=0.006)
    gone = [row["gone"] for row in random]
    assert rows[-1][5] == ("–" if None in gone else f"goes in {sum(gone)} of 3")


def test_of_many_sets_those_that_matter_most(url: str, studied: tuple[Path, list[Row], list[Row]]) -> None:
    shown = tables(httpx2.get(f"{url}/one/images/2").text)
    assert len(shown) == 2
    (said, rows) = shown[0]  # the newest study first
    assert said.startswith(
        "Patches of readings('rock'), and of 1 ring around them taken, zeros in their place: 'rock' "
    )
    assert [row[0] for row in rows] == ["none", "all", *(f"patch {patch}" for patch in range(11, 0, -1))]
    assert len(rows) == 1 + MOST_SETS
    assert "And 3 more sets with smaller effects." in httpx2.get(f"{url}/one/images/2").text


def test_the_whole_studys_question_is_a_link(url: str) -> None:
    page = html.unescape(httpx2.get(f"{url}/one/images/2").text)
    for query in ("effect(readings('rock'), 'rock', combinations='regions')", "mode='zero', buffer=1"):
        (where,) = (href for href, code in re.findall(r'<a href="([^"]*)"><code>(.*?)</code>', page) if query in code)
        assert httpx2.get(f"{url}{where}").status_code == 200
    strange = tables(httpx2.get(f"{url}/one/images/3").text)[0]
    assert strange[0].startswith("gaze('rock'): the corpus' mean patch in their place: 'rock' ")


def test_where_there_is_none_nothing_is_said(url: str) -> None:
    for image in (OTHER, 1):
        assert 'id="effects"' not in httpx2.get(f"{url}/one/images/{image}").text


def test_patches_are_outlined_and_chosen(
    url: str, studied: tuple[Path, list[Row], list[Row]], tmp_path: Path, chromium: Browser
) -> None:
    (row,) = (row for row in studied[2] if row["set"] == "patch 7")
    file = tmp_path / "image.html"
    file.write_text(LocalCorpus(Cache.open(str(studied[0])))._image_file(2))
    for address in (f"{url}/one/images/2", file.as_uri()):
        with watched(chromium, address, viewport={"width": 390, "height": 800}) as page:
            button = page.get_by_role("button", name="patch 7", exact=True)
            expect(button).to_be_enabled()
            canvas = "canvas => canvas.toDataURL()"
            marks = page.locator("#stage canvas").last
            plain = marks.evaluate(canvas)
            button.hover()
            outlined = marks.evaluate(canvas)
            assert outlined != plain
            page.locator("h1").hover()
            assert marks.evaluate(canvas) == plain
            button.focus()
            assert marks.evaluate(canvas) == outlined
            page.keyboard.press("Enter")
            expect(page.locator("#chosen-title")).to_have_text(re.compile("^1 chosen patch "))
            page.wait_for_url(re.compile(f"area={row['patches'][0]}$"))
            accessible(page)
