"""The page of inspected runs as a reader opens it: wide and narrow, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from immiscible.cli import main

pytestmark = pytest.mark.slow
TRAIN = "--data digits --steps 4 --batch-size 16 --checkpoint-every 2 --device cpu --no-tensorboard --width 16".split()
SMALL = "--num 24 --starts 4 --features pixels --device cpu".split()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inspection")
    runs = [str(place / name) for name in ("flow", "consistency", "a-long-name-without-any-blank-" + "long" * 10)]
    for run, task in zip(runs, ("flow", "consistency", "ddim"), strict=True):
        assert main(["train", task, *TRAIN, "--network", "mlp", "--out", run]) == 0
    assert main(["analyze", "run", *runs, *SMALL, "--out", str(place / "out")]) == 0
    return place / "out/analysis.html"


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
    assert opened.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [width, width]
    outside = """all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest('.scroll'))
                           .map(e => e.outerHTML.slice(0, 80))"""
    assert opened.eval_on_selector_all("main *", outside) == []
    images = opened.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.clientWidth])")
    strips = opened.eval_on_selector_all(".strip img", "all => all.map(i => i.clientWidth)")
    assert len(strips) == 3
    assert all(shown >= 640 for shown in strips), "a step of a strip is too small to be seen"
    assert all(natural > 0 and shown > 200 for natural, shown in images)
    assert opened.locator(".note").count() == 1
    opened.close()
