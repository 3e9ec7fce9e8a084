from __future__ import annotations

import io
import runpy
import sys
from importlib.resources import files

import numpy
import pytest
from matplotlib import image

from immiscible.comparison import plots
from immiscible.comparison.plots import curve_name, draw, overview_nfes, style_of
from immiscible.pages.drawing import DARK, LIGHT, MARKERS, plain


@pytest.fixture(scope="module")
def pictures(make_summary) -> dict[str, bytes]:
    return draw(make_summary(3, ("5", "50")))


def pixels(png: bytes) -> numpy.ndarray:
    return image.imread(io.BytesIO(png), format="png")


def test_there_is_a_picture_per_number_of_network_calls_and_two_of_all_in_light_and_dark(pictures) -> None:
    names = {"fid-nfe5", "fid-nfe50", "final", "overview"}
    assert set(pictures) == names | {f"{name}-dark" for name in names}


def test_pictures_are_small_files_of_a_readable_size(pictures) -> None:
    for png in pictures.values():
        height, width = pixels(png).shape[:2]
        assert 500 <= height <= 700
        assert 700 <= width <= 1600
        assert len(png) < 80_000


def test_many_long_names_fit_into_the_pictures(make_summary) -> None:
    # matplotlib warns where a legend leaves the axes no room, and cuts off one that is wider than its figure.
    names = [f"independent[start=components:{rank}@0.45,noise-scale=0.9]" for rank in range(10, 17)]
    for png in draw(make_summary(3, ("5", "50"), names), [LIGHT]).values():
        shown = pixels(png)[..., :3]
        assert shown[:, [0, -1]].min() == 1.0
        assert shown.shape[0] <= 1000


def test_the_ground_is_light_or_dark(pictures) -> None:
    assert pixels(pictures["final"])[0, 0].min() == 1.0
    assert pixels(pictures["final-dark"])[0, 0, :3].max() < 0.2


def test_every_coupling_is_drawn_in_its_colour(pictures, make_summary) -> None:
    shown = pixels(pictures["fid-nfe5"])[..., :3]
    for name in make_summary(3)["couplings"]:
        colour = style_of(make_summary(3), name, LIGHT)["color"]
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (numpy.abs(shown - wanted).max(axis=-1) < 0.05).sum() > 100, name


def test_the_band_appears_with_several_seeds_only(make_summary, set_final) -> None:
    def tinted(seeds: int) -> int:
        summary = make_summary(seeds, ("5",), ("knn:4",))
        for point in summary["couplings"]["knn:4"]["curves"]["5"]:
            point["fid"]["std"] = None if seeds == 1 else 0.3 * point["fid"]["mean"]
        shown = pixels(draw(summary, [LIGHT])["fid-nfe5"])[..., :3]
        band = 1 - 0.18 * (1 - numpy.array([0, 0x72, 0xB2]) / 255)
        return int((numpy.abs(shown - band).max(axis=-1) < 0.03).sum())

    assert tinted(3) > 10_000
    assert tinted(1) < 1_000


def test_couplings_are_told_apart_by_more_than_their_colour(make_summary) -> None:
    names = ("independent", *(f"knn:{k}" for k in range(2, 2 + len(MARKERS))))
    for theme in (LIGHT, DARK):
        looks = [style_of(make_summary(1, names=names), name, theme) for name in names]
        assert len({look["marker"] for look in looks}) == len(names)
        assert len({(look["color"], str(look["linestyle"])) for look in looks}) == len(names)


@pytest.mark.parametrize(
    ("nfes", "expected"),
    [
        (["10", "2", "50", "adaptive"], ["2", "50"]),
        (["5", "adaptive"], ["5", "adaptive"]),
        (["adaptive"], ["adaptive"]),
        (["5"], ["5"]),
    ],
)
def test_the_overview_shows_both_ends_of_the_range(nfes: list[str], expected: list[str]) -> None:
    assert overview_nfes(nfes) == expected


@pytest.mark.filterwarnings("error")
def test_hostile_names_are_drawn_letter_by_letter(make_summary) -> None:
    summary = make_summary(1, ("5",), ("independent", "_$\\frac{$", "\u6570\u5b57\n" * 30))
    summary["data"]["name"] = "$x^{$ \\$ <b>"
    assert len(draw(summary, [LIGHT])) == 3
    assert plain("a$b") == r"a\$b"
    assert plain("_x") == " _x"
    assert plain("\u6570x") == "?x"
    assert len(plain("x" * 300)) < 40


def test_scores_at_or_below_zero_and_single_points_can_be_drawn(make_summary, set_final) -> None:
    summary = make_summary(3, ("5",), ("independent", "knn:4"))
    for result in summary["couplings"].values():
        result["curves"]["5"] = result["curves"]["5"][-1:]
    set_final(summary, "knn:4", "5", -0.1, 0.1, 0.0)
    assert len(draw(summary, [LIGHT])) == 3


def test_file_names_hold_no_separators() -> None:
    assert curve_name("../a b") == "fid-nfe..-a-b"


def test_drawing_needs_no_pyplot(make_summary, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    module = runpy.run_path(str(plots.__file__))
    assert set(module["draw"](make_summary(1, ("5",)), [LIGHT])) == {"fid-nfe5", "final", "overview"}


def test_plots_have_the_colours_of_the_page() -> None:
    """The name of a coupling stands behind a dot in the colour of its curve."""
    sheet = (files("immiscible.pages") / "templates/page.css").read_text(encoding="utf-8")
    light, dark = sheet.split("@media (prefers-color-scheme: dark)")
    for theme, part in ((LIGHT, light), (DARK, dark)):
        named = {"card": theme.face, "text": theme.text, "baseline": theme.baseline}
        named |= {f"c{place}": colour for place, colour in enumerate(theme.colours)}
        assert all(f"--{name}: {colour};" in part for name, colour in named.items())
