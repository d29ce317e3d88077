"""What an exported folder holds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlq.query.cache.reader import Cache
from vlq.query.cli import main
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import NotFound, QueryError, StoreError
from vlq.service.export import export
from vlq.service.pages.exported import PAIRS, pairs
from vlq.service.pages.links import rewritten

from ..synthetic import make_cache, make_run
from .conftest import picture


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> LocalCorpus:
    folder = tmp_path_factory.mktemp("exported")
    make_cache(folder, images=5, failed=[3], names=[f"{name}.png" for name in "abcde"])
    return LocalCorpus(Cache.open(str(folder)))


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<a href="/c/images/7?layer=3">x</a>', '<a href="seven.html">x</a>'),
        (
            '<a class="chip" href="/c/tokens/9" rel="next" title="&gt;">x</a>',
            '<span class="chip" title="&gt;">x</span>',
        ),
        (
            '<a href="/c/images/7?layer=3"><b>x</b> <a href="/">y</a></a>',
            '<a href="seven.html"><b>x</b> <span>y</span></a>',
        ),
        ('<svg><a id="i" href="/" tabindex="-1"><rect/></a></svg>', '<svg><g id="i"><rect/></g></svg>'),
        ('<svg></svg><a href="/">y</a>', "<svg></svg><span>y</span>"),
        ('<img alt="a > b" src="/v1/images/7/pixels?side=9&amp;corpus=c">', '<img alt="a > b" src="7.png">'),
        ('<img src="/v1/images/8/pixels" alt="x">', '<img  alt="x">'),
        ("<abbr>a</abbr> <b>&lt;a href=&#34;/&#34;&gt;</b>", "<abbr>a</abbr> <b>&lt;a href=&#34;/&#34;&gt;</b>"),
    ],
)
def test_links_lead_to_files_or_nowhere(html: str, expected: str) -> None:
    links = {"/c/images/7?layer=3": "seven.html"}
    pictures = {"/v1/images/7/pixels?side=9&corpus=c": "7.png"}
    assert rewritten(html, links.get, pictures.get) == expected


def test_pairs_of_layers_are_bounded() -> None:
    """Of LLaVA's 33 layers all neighbours are among them, and each with the last, either way."""
    read = list(range(33))
    found = pairs(read)
    assert len(found) == len(set(found)) == PAIRS
    wanted = {(one, one + 1) for one in range(32)} | {(one, 32) for one in range(32)}
    assert wanted | {(other, one) for one, other in wanted} <= set(found)
    assert set(pairs([0, 4, 9])) == {(one, other) for one in (0, 4, 9) for other in (0, 4, 9)}


def test_pictures_are_beside_the_pages(tmp_path: Path) -> None:
    """The very pixels, of an image of which the size is known; without it the page says that it is not there."""
    digest = picture(tmp_path / "one.png", (112, 112))
    uris = {"uri": [(tmp_path / name).as_uri() for name in ("one.png", "two.png")], "sha256": [digest] * 2}
    make_cache(tmp_path / "cache", images=2, columns=uris)
    corpus = LocalCorpus(Cache.open(str(tmp_path / "cache")))
    export(corpus, [0, 1], tmp_path / "site")
    assert files(tmp_path / "site", "pictures/*.png") == ["0-384.png"]  # it is as small as others are among others
    with Image.open(tmp_path / "site" / "pictures" / "0-384.png") as drawn, Image.open(tmp_path / "one.png") as own:
        assert np.array_equal(np.asarray(drawn), np.asarray(own))
    assert 'src="pictures/0-384.png"' in (tmp_path / "site" / "image-0.html").read_text()
    assert "not where it was" in (tmp_path / "site" / "image-1.html").read_text()


def test_pictures_have_two_sizes(tmp_path: Path) -> None:
    digest = picture(tmp_path / "one.png", (640, 480))
    uris = {"uri": [(tmp_path / "one.png").as_uri()], "sha256": [digest]}
    make_cache(tmp_path / "cache", images=1, columns=uris, pixels=(640, 480))
    export(LocalCorpus(Cache.open(str(tmp_path / "cache"))), "images()", tmp_path / "site")
    sizes = []
    for path in sorted((tmp_path / "site" / "pictures").glob("0-*")):
        with Image.open(path) as drawn:
            sizes.append(drawn.size)
    assert sizes == [(640, 480), (384, 288)]
    assert '{"0":"pictures/0-1600' in (tmp_path / "site" / "contents.js").read_text()


def test_few_pages_are_written_of_many_images(corpus: LocalCorpus, tmp_path: Path) -> None:
    told: list[str] = []
    written = export(corpus, "images()", tmp_path / "site", most=2, most_tokens=1, tell=told.append)
    assert told == ["2 images", "layers", "1 token", "the answer"]
    assert (written.images, written.tokens, written.left_out) == (2, 1, (2, 0))
    assert written.size == sum(path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.is_file())
    assert files(tmp_path / "site", "image-*.html") == ["image-0.html", "image-1.html"]
    assert "those of 2 images (2 more left out) and 1 token." in (tmp_path / "site" / "index.html").read_text()


def test_tokens_have_pages(corpus: LocalCorpus, tmp_path: Path) -> None:
    """First those that the query names, then those in its rows, then what the images decode to at the last layer."""
    rows = corpus.query("top(4, layers=2, rank=1)").rows
    in_rows = {row["token"] for row in rows}
    export(corpus, "top(4, layers=2, rank=1)", tmp_path / "rows", most_tokens=100)
    found = {int(name[6:-5]) for name in files(tmp_path / "rows", "token-*.html")}
    assert in_rows <= found
    export(corpus, "first_layer('dog', rank=4)", tmp_path / "named", most_tokens=2)
    assert files(tmp_path / "named", "token*.html") == ["token-0.html", "token-1.html", "tokens.html"]  # dog and Dog
    written = export(corpus, "first_layer(matching('.'), rank=4)", tmp_path / "many", most_tokens=3)
    assert (written.tokens, written.left_out[1]) == (3, len(corpus.query("first_layer(matching('.'))").tokens) - 3)
    last = corpus.query("top(4, layers=4, rank=1)").rows
    counts = {row["token"]: sum(other["token"] == row["token"] for other in last) for row in last}
    export(corpus, [4], tmp_path / "image", most_tokens=1)
    (name,) = files(tmp_path / "image", "token-*.html")
    assert counts[int(name[6:-5])] == max(counts.values())
    export(corpus, [4], tmp_path / "none", most_tokens=0)
    assert not files(tmp_path / "none", "token*.html")


def test_answers_without_images(corpus: LocalCorpus, tmp_path: Path) -> None:
    written = export(corpus, "defaults(at='patch', layers=4)", tmp_path / "site")
    assert written.images == 0
    assert files(tmp_path / "site", "*.html")[:2] == ["index.html", "layers.html"]


def test_rows_of_another_cache(corpus: LocalCorpus, tmp_path: Path) -> None:
    """Their images are that cache's."""
    make_cache(tmp_path / "other", images=5, failed=[3], names=[f"{name}.png" for name in "abcde"], seed=1)
    other = LocalCorpus(Cache.open(str(tmp_path / "other")))
    query = f"compare({corpus.url!r}, {other.url!r}, first_layer('dog', rank=4))"
    export(other, query, tmp_path / "site", most_tokens=1)
    page = (tmp_path / "site" / "image-0.html").read_text()
    assert ">Save<" not in page  # which it is already
    assert f'data-cache="{corpus.url}"' in page
    assert "lens" in (tmp_path / "site" / "data" / "image-0.js").read_text()
    answer = (tmp_path / "site" / "index.html").read_text()
    assert 'href="image-0.html#layer=' in answer


def test_text_readings_alone(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", make_run(at=("prompt",)), images=2)
    corpus = LocalCorpus(Cache.open(str(tmp_path / "cache")))
    export(corpus, "images()", tmp_path / "site", most_tokens=1)
    assert "compare.html" not in files(tmp_path / "site", "*.html")
    assert "layers.html" in files(tmp_path / "site", "*.html")


def test_mistakes_leave_nothing_behind(corpus: LocalCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(StoreError, match="is there already"):
        export(corpus, "images()", tmp_path / "full")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for here in (Path("."), tmp_path / "empty"):
        with pytest.raises(StoreError, match="is the folder that you are in"):
            export(corpus, "images()", here)
    with pytest.raises(StoreError, match=r"expected a folder on this machine\. Got s3:/bucket/site"):
        export(corpus, "images()", Path("s3://bucket/site"))
    assert not [*(tmp_path / "empty").iterdir()]
    with pytest.raises(QueryError):
        export(corpus, "images(", tmp_path / "site")
    with pytest.raises(NotFound, match="no image 3, 77 with readings"):  # the one could not be read
        export(corpus, [0, 3, 77], tmp_path / "site")

    def fail(folder: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlq.service.pages.folder.write_static", fail)
    with pytest.raises(StoreError, match="No space left"):
        export(corpus, "images()", tmp_path / "site", most_tokens=0)
    monkeypatch.setattr("vlq.service.pages.folder.write_static", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(corpus, "images()", tmp_path / "site", most_tokens=0)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "full"]


def test_the_command(corpus: LocalCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "0, 2", "--out", str(tmp_path / "site"), "--tokens", "1", "--cache", corpus.url])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert re.fullmatch(r"2 images and 1 token, [\d.]+ KiB: (.*)\n", said), said
    assert said.endswith(f": {tmp_path / 'site' / 'index.html'}\n")
