"""The page of an analysis as a reader opens it: wide and narrow, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from immiscible.analysis.study import MEASUREMENTS
from immiscible.cli import main

pytestmark = pytest.mark.slow
COUPLINGS = "independent,knn:8,knn:8:dot,assignment,assignment@0.5"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analysis") / "out"
    words = "analyze data --data digits --samples 300 --points 16 --batch-size 64 --device cpu".split()
    assert main([*words, "--couplings", COUPLINGS, "--out", str(out)]) == 0
    return out / "analysis.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_shows_its_pictures_and_fetches_nothing(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    troubles: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("request", lambda request: request.url.startswith("data:") or troubles.append(request.url))
    opened.goto(page.as_uri())
    assert troubles == [page.as_uri()]
    headings = opened.eval_on_selector_all("h2", "all => all.map(h => h.textContent.trim())")
    assert headings[: len(MEASUREMENTS)] == [measurement.title for measurement in MEASUREMENTS]
    assert len(MEASUREMENTS) == 6
    assert opened.get_by_text("Left out").count() == 0
    assert opened.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [width, width]
    outside = """all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest('.scroll'))
                           .map(e => e.outerHTML.slice(0, 80))"""
    assert opened.eval_on_selector_all("main *", outside) == []
    images = opened.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.clientWidth])")
    assert images
    assert all(natural > 0 and shown > 200 for natural, shown in images)
    sources = opened.eval_on_selector_all("source", "all => all.map(s => s.srcset)")
    current = opened.eval_on_selector_all("picture img", "all => all.map(i => i.currentSrc)")
    assert (current == sources) is (scheme == "dark")
    opened.close()
