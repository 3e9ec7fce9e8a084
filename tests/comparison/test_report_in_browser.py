"""The report as a reader opens it: in a real browser, wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from immiscible.comparison.report import write_report


@pytest.fixture(scope="module")
def report(make_summary, write_samples, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    summary = make_summary(3, ("2", "50", "adaptive"))
    summary["data"]["name"] = "<script>alert(1)</script>/a/path/without/any/blank/" + "long" * 20
    summary["command"] += " --out " + "directory/" * 20
    write_samples(summary, directory)
    return write_report(summary, directory)


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report; at the end of the test no error may have been reported, and nothing fetched."""
    troubles: list[str] = []
    pages: list[Any] = []

    def open_page(width: int, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith("data:") or troubles.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert troubles == [report.as_uri()] * len(pages)


def test_without_a_browser_continuous_integration_fails_and_others_skip(
    unavailable: Callable[[str], NoReturn], monkeypatch
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="must run the browser tests"):
        unavailable("no browser")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        unavailable("no browser")


@pytest.mark.parametrize("width", [400, 1200])
def test_all_pictures_load_and_all_headings_show(opened, width: int) -> None:
    page = opened(width)
    images = page.eval_on_selector_all("img", "all => all.map(i => [i.complete, i.naturalWidth, i.clientWidth])")
    assert len(images) == 4 + 3 * 4
    assert all(complete and natural > 0 and shown > 100 for complete, natural, shown in images)
    headings = page.locator("h1, h2, h3")
    assert headings.count() > 12
    assert all(headings.nth(place).is_visible() for place in range(headings.count()))


@pytest.mark.parametrize("width", [320, 400, 1200])
def test_the_page_never_scrolls_sideways(opened, width: int) -> None:
    page = opened(width)
    overflow = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert page.evaluate(overflow) == [width, width]
    outside = """all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest('.scroll'))
                           .map(e => e.outerHTML.slice(0, 80))"""
    assert page.eval_on_selector_all("main *", outside) == []


def test_captions_stay_readable_where_a_table_scrolls(opened) -> None:
    page = opened(320)
    widths = page.eval_on_selector_all("caption span", "all => all.map(e => e.getBoundingClientRect().right)")
    assert widths
    assert max(widths) <= 320


def test_a_hostile_name_shows_as_text(opened) -> None:
    assert "<script>alert(1)</script>" in opened(1200).locator("h1").inner_text()


def test_the_colours_and_the_plots_follow_the_reader(opened) -> None:
    grounds, plots = [], []
    for scheme in ("light", "dark"):
        page = opened(400, scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        plots.append(page.eval_on_selector("picture img", "image => image.currentSrc"))
    assert grounds == ["rgb(243, 245, 247)", "rgb(15, 18, 22)"]
    assert plots[0] != plots[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened, scheme: str) -> None:
    """The contrast of WCAG 2, level AA: at least 4.5 to 1."""
    contrast = """all => Math.min(...all.map(e => {
        const channels = c => c.match(/[\\d.]+/g).map(Number);
        const light = c => channels(c).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        let ground = e;
        while (ground.parentElement && channels(getComputedStyle(ground).backgroundColor)[3] === 0)
            ground = ground.parentElement;
        const [text, behind] = [light(getComputedStyle(e).color), light(getComputedStyle(ground).backgroundColor)];
        return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    }))"""
    page = opened(1200, scheme)
    assert page.eval_on_selector_all("p, li, td, th, caption, figcaption, small, strong, dd, code", contrast) >= 4.5
