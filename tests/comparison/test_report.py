from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import image

from immiscible.comparison.plots import draw
from immiscible.comparison.report import render, write_report
from immiscible.errors import InputError

VOID = {"br", "img", "link", "meta", "source", "wbr"}
HOSTILE = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """A page taken apart: its tags with attributes, its text, its headings, and its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.headings: list[str] = []
        self.captions: list[str] = []
        self.rows: list[list[list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        starts = {"caption": (self.captions, ""), "tr": (self.rows[-1:] and self.rows[-1], [])}
        if tag == "table":
            self.rows.append([])
        elif tag in starts:
            starts[tag][0].append(starts[tag][1])
        elif tag in ("td", "th"):
            self.rows[-1][-1].append("")
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        for name, texts in (("caption", self.captions), ("td", self.cells), ("th", self.cells)):
            if name in self.open:
                texts[-1] += data
        if {"h1", "h2", "h3"} & set(self.open):
            self.headings[-1] += data

    @property
    def cells(self) -> list[str]:
        return self.rows[-1][-1] if self.rows and self.rows[-1] else []

    def table(self, caption: str) -> dict[str, list[str]]:
        """The rows by their heading, of the table whose caption begins so."""
        place = [text.startswith(caption) for text in self.captions].index(True)
        return {row[0]: row[1:] for row in self.rows[place]}


def rendered(summary, directory: Path) -> str:
    """A page without the cost of drawing: what is in the pictures does not matter to the text around them."""
    names = [f"fid-nfe{nfe}" for nfe in summary["nfes"]] + ["final"]
    return render(summary, {name + end: b"picture" for name in names for end in ("", "-dark")}, directory)


@pytest.fixture
def parsed(tmp_path: Path):
    return lambda summary: Page(rendered(summary, tmp_path))


@pytest.fixture(scope="module")
def report(make_summary, write_samples, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    write_samples(make_summary(3, ("5", "50")), directory)
    return write_report(make_summary(3, ("5", "50")), directory)


def test_scores_stand_in_the_tables_with_their_spread(make_summary, parsed) -> None:
    page = parsed(make_summary(3))
    fid = page.table("FID")
    assert fid["Coupling"] == ["2 calls", "5 calls", "10 calls", "50 calls"]
    assert fid["independent"] == ["138.1 ± 2.1", "29.9 ± 0.5", "16.4 ± 0.2", "9.87 ± 0.15"]
    assert fid["assignment"] == ["36.5 ± 0.8", "17.0 ± 0.4", "13.9 ± 0.3", "12.61 ± 0.26"]
    assert "one half of the data against the other half scores 1.20" in next(c for c in page.captions if "FID" in c)
    assert list(page.table("KID")) == list(page.table("Precision")) == list(page.table("Recall")) == list(fid)
    assert page.table("Recall")["knn:4"][3] == "0.642 ± 0.006"


def test_the_best_is_marked_only_where_it_is_ahead_of_all_others(make_summary, set_final, tmp_path: Path) -> None:
    def marked(summary) -> list[str]:
        table = re.search(r"<b>FID</b>.*?</table>", rendered(summary, tmp_path), re.DOTALL)
        assert table
        return [re.sub("<.*?>", "", cell) for cell in re.findall(r'<strong class="best".*?</strong>', table[0])]

    summary = make_summary(3)
    assert marked(summary) == ["36.5 ± 0.8", "16.0 ± 0.2", "11.1 ± 0.1", "8.89 ± 0.09"]
    set_final(summary, "independent", "50", 8.0, 9.0, 10.0)
    assert marked(summary) == ["36.5 ± 0.8", "16.0 ± 0.2", "11.1 ± 0.1"]
    assert marked(make_summary(1)) == []


def test_one_seed_shows_no_spread_and_says_so(make_summary, parsed) -> None:
    page = parsed(make_summary(1))
    assert page.table("FID")["independent"] == ["137.7", "29.8", "16.4", "9.83"]
    assert "±" not in page.text
    assert "One seed gives no spread, so nothing is marked as best." in page.text
    assert "how much of a difference is chance can be told from more seeds only" in page.text


def test_the_adaptive_solver_shows_the_calls_it_made(make_summary, parsed) -> None:
    fid = parsed(make_summary(1, ("5", "adaptive"))).table("FID")
    assert fid["Coupling"] == ["5 calls", "adaptive"]
    assert fid["independent"] == ["29.8", "9.3261 calls"]


def test_calls_other_than_the_ones_asked_for_are_shown(make_summary, parsed) -> None:
    summary = make_summary(1, ("5",))
    summary["couplings"]["knn:4"]["curves"]["5"][-1]["nfe_mean"] = 6.0
    fid = parsed(summary).table("FID")
    assert (fid["independent"], fid["knn:4"]) == (["29.8"], ["21.26 calls"])


def test_steps_are_ratios_or_not_reached(make_summary, parsed) -> None:
    summary = make_summary(3, ("5", "50"))
    summary["couplings"]["knn:4"]["steps_to_baseline"]["5"].update(reached=2)
    page = parsed(summary)
    steps = page.table("Steps to the final FID of independent")
    assert steps["knn:4"] == ["0.62 ± 0.02only 2 of 3 seeds", "not reached0 of 3 seeds"]
    assert steps["assignment@0.5"] == ["0.42 ± 0.02", "0.77 ± 0.02"]
    assert "independent" not in steps
    assert "Scores were taken every 250 steps" in page.text


def test_cost_and_noise_stand_in_tables_and_drift_is_warned_of(make_summary, parsed) -> None:
    page = parsed(make_summary(1))
    assert page.table("Cost")["assignment"] == ["2.200", "16.5", "15.38"]
    assert page.table("Law of the noise")["knn:4"] == ["0.890", "0.350", "0.031", "drifts"]
    assert page.table("Law of the noise")["assignment"] == ["1.000", "0.030", "0.031", "no drift seen"]
    assert "Warning, knn:4: the noise law drifts: E|n|²/D = 0.89" in page.text
    assert "Warning, assignment" not in page.text


def test_without_the_baseline_there_are_tables_but_no_steps(make_summary, parsed) -> None:
    page = parsed(make_summary(3, names=("knn:4", "assignment")))
    assert "nothing to compare against" in page.text
    assert "Training steps saved or lost" not in page.headings
    assert "vanilla" not in page.text
    assert list(page.table("FID")) == ["Coupling", "knn:4", "assignment"]


def test_the_parts_come_in_order(make_summary, parsed) -> None:
    page = parsed(make_summary(3))
    assert page.headings[0] == "Flow matching on digits: 4 couplings compared"
    ranked = [name for name, _ in page.tags if name in ("h1", "h2", "h3")]
    assert [text for name, text in zip(ranked, page.headings, strict=True) if name == "h2"] == [
        "What came out",
        "Quality against training steps",
        "Scores at the end of training",
        "Training steps saved or lost",
        "What pairing costs",
        "The law of the noise",
        "Samples side by side",
        "Run it again",
        "Couplings, settings, environment",
        "How to read this",
    ]


def test_the_command_the_settings_and_the_machine_are_told(make_summary, parsed) -> None:
    page = parsed(make_summary(1))
    assert make_summary(1)["command"] in page.text
    assert page.table("Training")["batch_size"] == ["256"]
    assert page.table("Environment")["torch"] == ["2.13.0"]
    assert "classifier on digits (64 features, 98.1 % held-out accuracy)" in page.text
    assert "A lower training loss is no evidence" in page.text


def test_names_cannot_become_markup(make_summary, tmp_path: Path) -> None:
    summary = make_summary(1, ("5",), ("independent", HOSTILE))
    summary.update(command=f"immiscible {HOSTILE}", features=HOSTILE, task=HOSTILE)
    summary["data"]["name"] = HOSTILE
    summary["config"] = summary["environment"] = {HOSTILE: HOSTILE}
    result = summary["couplings"][HOSTILE]
    result.update(warning=HOSTILE, description=dict.fromkeys(("moves", "marginal", "cost"), HOSTILE))
    text = rendered(summary, tmp_path)
    assert "<script" not in text
    page = Page(text)
    assert "script" not in {name for name, _ in page.tags}
    assert all(not key.startswith("on") for _, given in page.tags for key in given)
    assert page.text.count(HOSTILE) >= 12
    assert HOSTILE in page.table("FID")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_that_are_not_finite_are_refused_with_their_place(make_summary, tmp_path: Path, value: float) -> None:
    summary = make_summary(3)
    summary["couplings"]["knn:4"]["curves"]["5"][2]["kid"]["values"][1] = value
    with pytest.raises(InputError, match="in the summary, couplings, knn:4, curves, 5, 2, kid, values, 1"):
        write_report(summary, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_points_that_a_seed_lacks_are_refused(make_summary, tmp_path: Path) -> None:
    summary = make_summary(3)
    summary["couplings"]["knn:4"]["curves"]["5"][2]["kid"]["values"].pop()
    with pytest.raises(InputError, match="the scores of 'knn:4' at nfe '5' for every seed"):
        write_report(summary, tmp_path)


def test_the_page_fetches_nothing(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    addresses = [given[key] or "" for _, given in page.tags for key in ("src", "srcset", "href") if key in given]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not {"script", "iframe", "object"} & {name for name, _ in page.tags}
    assert not re.search(r"https?://|url\(|@import", text)
    policies = [
        given["content"] or "" for _, given in page.tags if given.get("http-equiv") == "Content-Security-Policy"
    ]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_pictures_are_embedded_whole_and_described(report: Path) -> None:
    page = Page(report.read_text(encoding="utf-8"))
    images = [given for name, given in page.tags if name == "img"]
    assert len(images) == 3 + 2 * 4
    for given in images:
        assert given["alt"]
        png = base64.b64decode((given["src"] or "").removeprefix("data:image/png;base64,"), validate=True)
        assert image.imread(io.BytesIO(png), format="png").size > 0
    assert images[0]["alt"] == (
        "FID against training steps, 5 network calls. At the end: independent 29.9 ± 0.5, knn:4 21.1 ± 0.4, "
        "assignment 17.0 ± 0.4 and assignment@0.5 16.0 ± 0.2."
    )


def test_pictures_also_stand_beside_the_page_the_same_each_time(report: Path, make_summary) -> None:
    drawn = draw(make_summary(3, ("5", "50")))
    assert {path.stem: path.read_bytes() for path in (report.parent / "plots").iterdir()} == drawn


def test_the_page_is_told_in_words_to_a_screen_reader(report: Path) -> None:
    page = Page(report.read_text(encoding="utf-8"))
    assert ("html", {"lang": "en"}) in page.tags
    assert all("scope" in given for name, given in page.tags if name == "th")
    assert len(page.captions) == len(page.rows) == 9


def test_pictures_from_elsewhere_or_of_another_kind_are_not_embedded(make_summary, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (tmp_path / "outside.png").write_bytes(b"\x89PNG\r\n\x1a\n secret")
    (report / "note.png").write_bytes(b"secret")
    summary = make_summary(1, ("5",), ("independent", "knn:4", "assignment"))
    for name, path in (("independent", "../outside.png"), ("knn:4", "note.png"), ("assignment", "absent.png")):
        summary["couplings"][name]["samples"]["5"] = path
    page = Page(rendered(summary, report))
    assert page.text.count("The picture is not beside this report.") == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "must have format 1, got 2"),
        ({"couplings": {}}, "at least one coupling"),
        ({"nfes": ["5", "7"]}, "scores of 'independent' at nfe '7'"),
        ({"seeds": [0, 1, 2, 3]}, "for every seed"),
    ],
)
def test_a_summary_that_cannot_be_presented_is_refused(make_summary, tmp_path: Path, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_report(make_summary(3, ("5",)) | change, tmp_path)
    assert list(tmp_path.iterdir()) == []
