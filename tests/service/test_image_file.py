"""An image's page as one file, and in a notebook: its data are the stored readings, and nothing in it comes from
elsewhere or runs by accident."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from playwright.sync_api import Browser, FrameLocator, Page
from safetensors.numpy import load

from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import one_image
from vlq.query.client.remote import RemoteCorpus
from vlq.query.errors import NotFound
from vlq.query.image.geometry import patch_box
from vlq.query.schema import Transform
from vlq.service.app import create_app
from vlq.service.pages.image_file import image_file
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run, vocabulary_table
from .browser import accessible, watched
from .conftest import Site, picture

HOSTILE = "</script><script>alert(1)</script>\"'<b>&amp;\u2028.png"
PADDED = Transform(2.0, 2.0, 30.0, -8.0, 112, 112)
"""The image is 40 x 64; of the patches' columns the first shows the padding on the left, in part."""

POLICY = re.compile(
    r"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    r"style-src 'nonce-([0-9a-f]{64})'; script-src 'nonce-\1'"
)


class Elements(HTMLParser):
    """Every element with its attributes and its own text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}, ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def named(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for tag, attributes, text in self.found if tag == name]


def held(text: str) -> dict[str, bytes]:
    """The answers in a page by what their paths end with."""
    (answers,) = (text for attributes, text in Elements(text).named("script") if attributes.get("id") == "embedded")
    return {path: gzip.decompress(base64.b64decode(data)) for path, data in json.loads(answers).items()}


def readings(text: str, number: int, site: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities (layer, position, k) of a page; -1 where nothing was read."""
    arrays = load(held(text)[f"/v1/images/{number}/lens?site={site}&k={k}&corpus="])
    ids = np.append(arrays["ids"].astype(int), -1)[arrays["token"]]
    return np.moveaxis(ids, 0, -1), np.moveaxis(arrays["prob"], 0, -1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalCorpus, dict[str, np.ndarray]]:
    """Images with grids and answers of their own; the second could not be read."""
    folder = tmp_path_factory.mktemp("cache")
    run = make_run(grid=None, answer=3, at=("patch", "prompt", "answer"))
    vocabulary = vocabulary_table(run.vocabulary_size)
    pieces = vocabulary["piece"].to_pylist()
    pieces[3] = f"▁{HOSTILE}"
    vocabulary = vocabulary.set_column(1, "piece", pa.array(pieces, pa.string()))
    names = [HOSTILE, *(f"{i}.png" for i in range(1, 6))]
    _, _, arrays = make_cache(
        folder, run, images=6, failed=[1], names=names, transform=PADDED, pixels=(40, 64), vocabulary=vocabulary
    )
    return LocalCorpus(Cache.open(str(folder))), arrays


@pytest.mark.parametrize("number", [0, 2, 5])
def test_the_data_are_the_stored_readings(cache: tuple[LocalCorpus, dict[str, np.ndarray]], number: int) -> None:
    corpus, arrays = cache
    one = one_image(corpus, number)
    text = image_file(corpus, number)
    for site, count in {"patch": one.patches, "prompt": 3, "answer": len(one.answer_ids)}.items():
        if not count:
            assert f"site={site}" not in " ".join(held(text))
            continue
        ids, probabilities = readings(text, number, site, 4)
        assert np.array_equal(ids, arrays[f"{site}/token"][number][:, :count])
        expected = np.exp(arrays[f"{site}/logprob"][number][:, :count].astype(float))
        np.testing.assert_allclose(probabilities.astype(float), expected, rtol=2e-3)
    about = json.loads(held(text)[f"/v1/images/{number}?corpus="])
    assert [piece["id"] for piece in about["answer_tokens"]] == list(one.answer_ids)
    for patch in range(one.patches):
        row, column = divmod(patch, one.grid[1])
        box = about["x"][column], about["y"][row], about["x"][column + 1], about["y"][row + 1]
        assert box == patch_box(PADDED, (40, 64), one.grid, patch)


def test_patches_and_layers_that_were_not_read(tmp_path: Path) -> None:
    """The page is told which were read, and nothing is known of the others."""
    _, run, arrays = make_cache(tmp_path, make_run(patches_column="objects", read_layers=(0, 3)), images=8, seed=1)
    corpus, kinds = LocalCorpus(Cache.open(str(tmp_path))), set()
    for number in range(8):
        text = image_file(corpus, number)
        read = list(one_image(corpus, number).patches_read)
        kinds.add((len(read) > 0) + (len(read) == 12))
        about = json.loads(held(text)[f"/v1/images/{number}?corpus="])
        assert (about["patches_read"] or []) == read or len(read) == 12
        ids, _ = readings(text, number, "patch", 4)
        expected = arrays["patch/token"][number].astype(int)
        expected[expected == run.no_id] = -1
        assert np.array_equal(ids, expected)
        assert (ids[[1, 2, 4]] == -1).all()
        assert f"({len(read)} read), 5 layers of synthetic, read at 0, 3" in text
    assert kinds == {0, 1, 2}


def test_an_image_without_readings(cache: tuple[LocalCorpus, dict[str, np.ndarray]]) -> None:
    for number in (1, 6):
        with pytest.raises(NotFound, match=f"no image {number} with readings"):
            image_file(cache[0], number)


def test_of_many_readings_the_best_are_kept(cache: tuple[LocalCorpus, dict[str, np.ndarray]]) -> None:
    corpus, arrays = cache
    one = one_image(corpus, 5)
    positions = one.patches + 3 + len(one.answer_ids)
    for most, k in ((5 * positions * 3 - 1, 2), (5 * positions * 3, 3), (1, 1)):
        text = image_file(corpus, 5, most=most)
        assert np.array_equal(readings(text, 5, "prompt", k)[0], arrays["prompt/token"][5][..., :k])
        assert f'data-k="{k}"' in text


def test_nothing_comes_from_elsewhere_and_texts_stay_texts(cache: tuple[LocalCorpus, dict[str, np.ndarray]]) -> None:
    text = image_file(cache[0], 0)
    page = Elements(text)
    assert page.named("title")[0][1].strip() == f"{HOSTILE} · VLQ"
    assert page.named("bdi")[0][1].strip() == HOSTILE
    assert not {"b", "iframe", "object", "base"} & {name for name, *_ in page.found}
    for name, attributes, _ in page.found:
        for address in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(address) or ""
            assert value.startswith(("data:", "#")) or not value, (name, value)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert not re.search(r"@import|url\(", text)
    first, _ = page.named("meta")[0]
    assert first["http-equiv"] == "Content-Security-Policy"
    policy = POLICY.fullmatch(first["content"] or "")
    assert policy
    kinds = {attributes["type"]: attributes.get("nonce") for attributes, _ in page.named("script")}
    assert kinds == {"application/json": None, "importmap": policy[1], "module": policy[1]}
    assert all(attributes["nonce"] == policy[1] for attributes, _ in page.named("style"))
    assert f"▁{HOSTILE}" in load_texts(held(text)["/v1/images/0/lens?site=patch&k=4&corpus="])
    assert "The image is not where it was" in text
    assert ">Save<" not in text  # which it is already


def load_texts(data: bytes) -> list[str]:
    """The pieces of a lens' tokens."""
    length = int.from_bytes(data[:8], "little")
    texts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["texts"])
    return [text if isinstance(text, str) else text[1] for text in texts]


def test_the_same_page_for_the_same_image(cache: tuple[LocalCorpus, dict[str, np.ndarray]]) -> None:
    """What its scripts are called by follows from all of it."""
    asked = ((0, ""), (0, ""), (0, "elsewhere"), (2, ""))
    policies = [POLICY.search(image_file(cache[0], number, where)) for number, where in asked]
    same, again, elsewhere, other = (policy and policy[1] for policy in policies)
    assert same == again
    assert len({same, elsewhere, other}) == 3


@pytest.mark.parametrize(("size", "form"), [((90, 60), "png"), ((2000, 1000), "jpeg")])
def test_the_picture_is_inside(tmp_path: Path, size: tuple[int, int], form: str) -> None:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    make_cache(tmp_path / "cache", images=1, pixels=size, columns={"uri": [path.as_uri()], "sha256": [digest]})
    text = image_file(LocalCorpus(Cache.open(str(tmp_path / "cache"))), 0)
    ((attributes, _),) = Elements(text).named("img")
    kind, _, data = (attributes["src"] or "").partition(";base64,")
    assert kind == f"data:image/{form}"
    with Image.open(io.BytesIO(base64.b64decode(data))) as drawn:
        assert drawn.size == (size if form == "png" else (1600, 800))
        difference = np.asarray(drawn.convert("L").resize((45, 30))).astype(int)
    expected = np.asarray(Image.open(path).convert("L").resize((45, 30))).astype(int)
    assert np.abs(difference - expected).max() <= 4


# --- in a browser ----------------------------------------------------------------------------------------------


def named(token: int) -> str:
    """What pages show of a token."""
    piece = vocabulary_table(make_run().vocabulary_size)["piece"][token].as_py()
    return str(token) if piece is None else str(piece)


def spoken(page: Page | FrameLocator) -> list[tuple[str, float]]:
    """What the active row of the table reads, layer by layer."""
    cells = page.locator(".spoken [role=gridcell]")
    cells.first.wait_for(state="attached")
    parts = [text.partition(": ")[2].rpartition(", ") for text in cells.all_text_contents()]
    return [(token, float(probability)) for token, _, probability in parts]


def check_spoken(page: Page | FrameLocator, arrays: dict[str, np.ndarray], number: int, patch: int) -> None:
    tokens, logprobs = (arrays[f"patch/{name}"][number, :, patch, 0] for name in ("token", "logprob"))
    found = spoken(page)
    assert [token for token, _ in found] == [named(int(token)) for token in tokens]
    assert [p for _, p in found] == pytest.approx(np.exp(logprobs.astype(float)).tolist(), abs=1e-3)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalCorpus, dict[str, np.ndarray]]:
    """Images that are there; names that are markup."""
    folder = tmp_path_factory.mktemp("shown")
    digests = [picture(folder / f"{i}.png", (112, 112), i) for i in range(3)]
    files = {"uri": [(folder / f"{i}.png").as_uri() for i in range(3)], "sha256": digests}
    names = [HOSTILE, "<img src=x onerror=alert(2)>.png", "c.png"]
    _, _, arrays = make_cache(folder / "cache", make_run(k=9), images=3, names=names, columns=files)
    return LocalCorpus(Cache.open(str(folder / "cache"))), arrays


def test_a_file_opens_anywhere(
    shown: tuple[LocalCorpus, dict[str, np.ndarray]], chromium: Browser, tmp_path: Path
) -> None:
    """What its address names is shown: the stored readings of a patch, and where a word is read."""
    corpus, arrays = shown
    (tmp_path / "page.html").write_text(image_file(corpus, 0), "utf-8")
    with watched(chromium, f"file://{tmp_path}/page.html#layer=2&patch=7&pins=7&token=DOG") as page:
        check_spoken(page, arrays, 0, 7)
        assert page.locator("h1").inner_text().startswith("</script><script>alert(1)</script>")
        assert page.locator("#picture").evaluate("picture => [picture.naturalWidth, picture.complete]") == [112, True]
        ids = [id for id in range(make_run().vocabulary_size) if named(id).lower() == "▁dog"]
        for id in ids:
            assert f"{named(id)} ({id})" in page.locator("#word-said").inner_text()
        page.locator("#curves polyline, #curves circle").first.wait_for()  # which go by all nine tokens
        page.keyboard.press("[")
        page.wait_for_url("**layer=1**")
        accessible(page)
        page.reload()
        check_spoken(page, arrays, 0, 7)
        assert page.locator("[data-tool]").count() == 3
        page.locator("#help").click()
        page.get_by_role("dialog").get_by_role("button", name="Close").click()


def test_its_policy_lets_nothing_else_run(
    shown: tuple[LocalCorpus, dict[str, np.ndarray]], chromium: Browser, tmp_path: Path
) -> None:
    """Scripts, styles and pictures that come to be in it after all, as by a mistake in its own scripts, do nothing."""
    (tmp_path / "page.html").write_text(image_file(shown[0], 2), "utf-8")
    (tmp_path / "beside.js").write_text("window.ran = 'a file'")
    page = chromium.new_page()
    try:
        page.goto(f"file://{tmp_path}/page.html")
        page.get_by_role("grid").wait_for()
        found = page.evaluate(
            """async () => {
              const refused = [], wait = () => new Promise((done) => setTimeout(done, 100));
              document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
              const script = (values) => document.body.append(Object.assign(document.createElement("script"), values));
              script({ textContent: "window.ran = 'a script'" });
              script({ src: "data:text/javascript,window.ran='an address'" });
              script({ src: "beside.js" });
              script({ type: "module", textContent: "import 'data:text/javascript,window.ran=1'" });
              document.body.insertAdjacentHTML("beforeend", "<img src=nowhere.png onerror='window.ran = 2'>");
              const styled = "<p id=styled style='color: red'><style>p { color: red }</style>";
              document.body.insertAdjacentHTML("beforeend", styled);
              await fetch("https://example.com/").catch(() => {});
              await wait();
              return { ran: window.ran ?? null, refused: [...new Set(refused)].sort(),
                       colour: getComputedStyle(document.getElementById("styled")).color };
            }"""
        )
    finally:
        page.close()
    assert found["ran"] is None
    assert found["colour"] != "rgb(255, 0, 0)"
    kinds = ["connect-src", "img-src", "script-src-attr", "script-src-elem", "style-src-attr", "style-src-elem"]
    assert found["refused"] == kinds


def test_a_file_of_texts_alone(chromium: Browser, tmp_path: Path) -> None:
    _, _, arrays = make_cache(tmp_path / "cache", make_run(at=("prompt",), read_layers=(1, 4)), images=1)
    corpus = LocalCorpus(Cache.open(str(tmp_path / "cache")))
    (tmp_path / "page.html").write_text(image_file(corpus, 0), "utf-8")
    with watched(chromium, f"file://{tmp_path}/page.html#patch=1") as page:
        cells = page.locator(".spoken [role=gridcell]")
        cells.first.wait_for(state="attached")
        said = dict(text.split(": ", 1) for text in cells.all_text_contents())
        assert [layer for layer, text in said.items() if text != "not read"] == ["layer 1", "layer 4"]
        assert said["layer 4"].startswith(f"{named(int(arrays['prompt/token'][0, 4, 1, 0]))}, ")


def test_two_in_a_notebook(shown: tuple[LocalCorpus, dict[str, np.ndarray]], chromium: Browser, tmp_path: Path) -> None:
    """Each in a frame of its own that is a stranger to the notebook: neither disturbs the other, nor the history."""
    corpus, arrays = shown
    frames = "".join(corpus.image(number)._repr_html_() for number in (0, 1))
    (tmp_path / "notebook.html").write_text(f"<!doctype html><title>A notebook</title>{frames}", "utf-8")
    options = {"viewport": {"width": 1100, "height": 1700}, "permissions": ["clipboard-write"]}
    with watched(chromium, f"file://{tmp_path}/notebook.html", **options) as page:
        one, two = (page.frame_locator("iframe").nth(i) for i in (0, 1))
        for frame in (one, two):
            frame.get_by_role("grid").wait_for()
        address, entries = page.url, page.evaluate("history.length")
        stage = two.get_by_role("application")
        box = stage.bounding_box()
        assert box
        stage.hover(position={"x": box["width"] * 0.55, "y": box["height"] * 0.5})
        two.locator(".tip", has_text="Patch 6 (row 1, column 2)").wait_for()
        assert not one.locator(".tip").is_visible()
        stage.click(position={"x": box["width"] * 0.55, "y": box["height"] * 0.5})
        check_spoken(two, arrays, 1, 6)
        page.keyboard.press("[")
        two.locator("#layers", has_text="Layer 3").wait_for()
        assert one.locator("#layers").inner_text().find("Layer 4") >= 0
        assert one.locator(".spoken [role=gridcell]").count() == 0
        check_spoken(two, arrays, 1, 6)
        two.locator("#word").fill("dog")
        two.locator("#word-said", has_text="▁dog").wait_for()
        two.get_by_role("button", name="Copy query").click()
        two.get_by_text("Copied.").wait_for()
        assert two.get_by_role("button", name="Copy link").count() == 0
        two.locator("#help").click()
        two.get_by_role("dialog").get_by_role("button", name="Close").click()
        assert two.locator("h1").inner_text().startswith("<img src=x onerror=alert(2)>.png")
        page.wait_for_timeout(200)
        assert (page.url, page.evaluate("history.length")) == (address, entries)
        assert page.frames[1].evaluate("origin") == "null"


# --- through a service -----------------------------------------------------------------------------------------


def without_names(text: str) -> str:
    """A page without what its scripts are called by, and without the cache that it is of."""
    return re.sub(r'[0-9a-f]{64}|data-cache="[^"]*"', "", text)


def test_a_service_gives_the_same_file(site: Site) -> None:
    remote = RemoteCorpus.open(f"{site.url}/one")
    here, there = site.corpus.image(4), remote.image(4)
    assert (here.number, here.name) == (there.number, there.name)
    assert without_names(here.page()) == without_names(there.page())
    assert f'data-cache="{site.url}/one"' in there.page()
    about = json.loads(held(there.page())["/v1/images/4?corpus="])
    assert "uri" not in about  # where the image lies is nothing that whom a file is sent to need know
    assert site.corpus.url not in there.page()
    frame = there._repr_html_()
    assert without_names(unescape(frame)) == without_names(unescape(here._repr_html_()))
    response = site.client.get("/v1/images/4/page?most=1&side=64")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="image-4.html"'
    assert 'data-k="1"' in response.text
    again = site.client.get("/v1/images/4/page?most=1&side=64", headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304
    other = site.client.get("/v1/images/4/page?most=1&side=64", headers={"Host": "vlq.example"})
    assert other.headers["etag"] != response.headers["etag"]
    assert 'data-cache="http://vlq.example/one"' in other.text
    assert site.client.get("/v1/images/1/page").status_code == 404
    assert site.client.get("/v1/images/4/page?most=0").status_code == 400


def test_a_page_is_saved(site: Site, chromium: Browser) -> None:
    with watched(chromium, f"{site.url}/one/images/4") as page:
        page.get_by_role("grid").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="Save", exact=True).click()
        assert download.value.suggested_filename == "image-4.html"
        saved = Path(download.value.path()).read_text("utf-8")
    assert without_names(saved) == without_names(site.corpus.image(4).page())


def test_a_service_with_a_token(tmp_path: Path) -> None:
    """The notebook's browser need not know it: who asks for the page does."""
    make_cache(tmp_path, images=2)
    with running(create_app(Settings({"kept": str(tmp_path)}, readers_token="secret"))) as url:
        assert httpx2.get(f"{url}/v1/images/1/page").status_code == 401
        frame = RemoteCorpus.open(url, "secret").image(1)._repr_html_()
    assert "secret" not in frame
    assert "data-k=&quot;4&quot;" in frame
