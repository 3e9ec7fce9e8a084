from __future__ import annotations

import pytest

from immiscible.cli.exit import tell
from immiscible.cli.results import report
from immiscible.errors import one_line, shown
from immiscible.training import metrics as events

# Clears the screen, deletes, turns the line around, ends the line, is half of a pair.
HOSTILE = "a\x1b[2J\x7f\x9b\u202e\u2066\u2028\udcffb"
ESCAPED = r"a\x1b[2J\x7f\x9b\u202e\u2066\u2028\udcffb"


def test_what_a_terminal_would_act_on_is_escaped() -> None:
    assert shown(HOSTILE) == ESCAPED
    assert one_line(ValueError(HOSTILE.replace("\u2028", "\n"))) == ESCAPED.replace(r"\u2028", " ")


def test_letters_of_all_scripts_and_emoji_are_left_as_they_are() -> None:
    text = "Ärger نص नमस्ते 中文 \N{WOMAN}\u200d\N{ROCKET}\ufe0f C:\\x"
    assert shown(text) == text


@pytest.mark.parametrize("most", [50, 300])
def test_the_middle_of_long_text_is_left_out(most: int) -> None:
    line = shown("begin" + "x" * 5000 + "\x1b" * 5000 + "hint", most)
    assert len(line) == most
    assert line.startswith("beginx")
    assert line.endswith("hint")


def test_lines_of_the_program_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(HOSTILE.replace("\u2028", ""), 2) == 2
    said = ESCAPED.replace(r"\u2028", "")
    assert capsys.readouterr().err == f"immiscible: {said}\n"
    events.say(HOSTILE)
    assert capsys.readouterr().err == f"{ESCAPED}\n"
    report(False, {}, f"x\n{HOSTILE}")
    assert capsys.readouterr().out == f"x\n{ESCAPED}\n"
    report(True, {"out": HOSTILE}, "")
    assert "\x1b" not in capsys.readouterr().out
