"""The layers' page in a real browser: its figures are the arrays', and its address holds its state."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from vlq.query.schema import LENSES, LensSpec
from vlq.service.app import create_app
from vlq.service.settings import Settings

from ..doors import running
from ..synthetic import make_cache, make_run
from .browser import accessible, watched
from .conftest import Site
from .test_token_page_browser import loaded, table


def decoded(site: Site, at: str) -> np.ndarray:
    """(image, layer, position) of the images that have readings: all but the second."""
    read = site.arrays["patch/top1"] if at == "patch" else site.arrays["prompt/top1"][:, :, -1:]
    return np.delete(read, 1, axis=0)


@pytest.mark.parametrize("at", ["last", "patch"])
def test_figures(site: Site, chromium: Browser, at: str) -> None:
    read = decoded(site, at)
    with watched(chromium, f"{site.url}/one/layers?at={at}&unit=position&from=1&to=3") as page:
        loaded(page)
        agree = (read == read[:, -1:]).sum((0, 2))
        figures = table(page, "agreement")
        for layer in range(5):
            assert figures[str(layer)][2] == str(agree[layer])
            assert figures[str(layer)][0] == f"{agree[layer] / read[:, 0].size:.1%}"
        # The warning says from which layer on half of the positions agree.
        first = next(layer for layer in range(5) if agree[layer] >= read[:, 0].size / 2)
        assert (
            f"below {'the last layer, 4' if first == 4 else f'layer {first}'}" in page.locator(".warning").inner_text()
        )
        for layer, row in enumerate(page.locator("#defaults tbody tr").all()):
            counts = Counter(read[:, layer].reshape(-1).tolist())
            most = sorted(counts, key=lambda id: (-counts[id], id))
            shown = [int(chip.get_attribute("data-token") or "") for chip in row.locator(".chip").all()]
            assert shown == most[: len(shown)]
            assert row.locator("small").first.inner_text() == f"{counts[most[0]] / read[:, layer].size:.1%}"
        tokens = table(page, "divergence")
        assert [int(tokens[str(layer)][0]) for layer in range(5)] == [
            len(np.unique(read[:, layer])) for layer in range(5)
        ]
        before, after = (Counter(read[:, layer].reshape(-1).tolist()) for layer in (1, 3))
        for row in page.locator("#changes tbody tr").all():
            id = int(row.locator(".chip").get_attribute("data-token") or "")
            assert [int(cell) for cell in row.locator("td").all_inner_texts()[:3]] == [
                after[id] - before[id],
                before[id],
                after[id],
            ]
        flows = Counter(zip(read[:, 1].reshape(-1).tolist(), read[:, 3].reshape(-1).tolist(), strict=True))
        for row in page.locator("#flows tbody tr").all():
            source, target = (int(chip.get_attribute("data-token") or "") for chip in row.locator(".chip").all())
            assert row.locator("td").nth(1).inner_text() == str(flows[source, target])


def query_of(page: Page, panel: str) -> str:
    return page.locator(f"#{panel} details.asked").first.get_attribute("data-query") or ""


def test_what_a_lens_makes_of_early_layers_is_told(tmp_path: Path) -> None:
    """A tuned lens reads early layers with maps that were made for them."""
    for kind in LENSES:
        make_cache(tmp_path / kind, make_run(lens=LensSpec(kind)), images=3)
    app = create_app(Settings({kind: str(tmp_path / kind) for kind in LENSES}))
    with running(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        home = client.get("/").text
        for kind in LENSES:
            assert f"<td>{kind}</td>" in home
            pages = [
                client.get(f"/{kind}/{path}").text for path in ("", "images/0", "layers", "layers/agreement?at=last")
            ]
            assert [f"{kind} lens" in page for page in pages[:3]] == [kind != "logit"] * 3
            assert [("for which they were not made" in page) for page in pages[2:]] == [kind in ("logit", "head")] * 2
            assert ("own prediction" in pages[3]) == (kind in ("logit", "tuned"))


def test_controls(site: Site, chromium: Browser) -> None:
    plain = f"{site.url}/one/layers"
    with watched(chromium, plain) as page:
        loaded(page)
        assert query_of(page, "divergence") == "divergence(at='last')"
        page.locator("#at").select_option("patch")
        page.locator("#unit").select_option("position")
        page.locator("#from").select_option("0")
        page.locator("#to").select_option("3")
        expect(page).to_have_url(f"{plain}?at=patch&unit=position&from=0&to=3")
        expect(page.locator("#changes .headline")).to_contain_text("layers 0 and 3")
        expect(page.locator("#divergence details.asked code")).to_have_text("divergence(at='patch', unit='position')")
        page.locator("#swap").click()
        expect(page.locator("#changes .headline")).to_contain_text("layers 3 and 0")
        page.reload()
        loaded(page)
        assert [page.locator(f"#{name}").input_value() for name in ("at", "unit", "from", "to")] == [
            "patch",
            "position",
            "3",
            "0",
        ]
        page.go_back()
        expect(page.locator("#from")).to_have_value("0")
        page.locator("h1").click()
        page.keyboard.press("]")
        expect(page.locator("#from")).to_have_value("1")
        page.locator("#changes button[data-whole]").click()
        assert page.locator("#changes").evaluate("e => e.getBoundingClientRect().width > innerWidth - 20")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible_on_a_phone(site: Site, chromium: Browser, theme: str) -> None:
    options = {"color_scheme": theme, "viewport": {"width": 390, "height": 800}}
    with watched(chromium, f"{site.url}/one/layers", **options) as page:
        loaded(page)
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
