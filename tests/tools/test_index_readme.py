"""README on a package index shows its pictures and leads somewhere, and is short."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
HOME = "https://github.com/owner/name"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The hook of the build, without the builder, which only builds have."""
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin", "hatchling.metadata.plugin.interface"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["hatchling.metadata.plugin.interface"].MetadataHookInterface = object  # pyright: ignore
    spec = importlib.util.spec_from_file_location("index_readme", ROOT / "tools/index_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<img src="a/b.png">', '<img src="https://raw.githubusercontent.com/owner/name/main/a/b.png">'),
        ('<source srcset="b.png">', '<source srcset="https://raw.githubusercontent.com/owner/name/main/b.png">'),
        ("[two\nlines](docs/a.md#part)", f"[two\nlines]({HOME}/blob/main/docs/a.md#part)"),
        ("[here](#part), [there](https://arxiv.org)", "[here](#part), [there](https://arxiv.org)"),
    ],
)
def test_relative_addresses_become_absolute(hook: ModuleType, text: str, expected: str) -> None:
    assert hook.with_addresses(text, HOME + "/") == expected


def test_no_relative_address_is_left_in_the_description(hook: ModuleType) -> None:
    builder = hook.IndexReadme()
    builder.root = str(ROOT)
    metadata = {"urls": {"Repository": HOME}}
    builder.update(metadata)
    text = metadata["readme"]["text"]
    addresses = re.findall(r'\]\(([^)]+)\)|src(?:set)?="([^"]+)"', text)
    assert len(addresses) > 15
    assert all(link.startswith("https://") for link in map("".join, addresses))
    builder.update(bare := {})
    assert bare["readme"]["text"] == (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_readme_leads_to_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r'\]\(([^)]+)\)|src(?:set)?="([^"]+)"', text):
        place, _, part = "".join(link).partition("#")
        if place.startswith("https://"):
            continue
        assert (ROOT / place).exists(), place
        if part:
            heads = re.findall(r"^#+ (.*)$", (ROOT / place).read_text(encoding="utf-8"), re.MULTILINE)
            assert part in [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]


def test_readme_is_read_in_two_minutes() -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(text.split()) < 600
