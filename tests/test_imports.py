"""Who imports what: layers go down only, the core is light, and the command line answers without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "numpy", "lap", "accelerate", "diffusers", "matplotlib", "sklearn", "torchdiffeq", "torchmetrics"}
COMMANDS = ["", "train", "train flow", "train ddim", "train consistency", "sample", "evaluate", "compare"]
COMMANDS += ["compare flow", "compare ddim", "compare consistency", "describe", "export", "doctor"]


def modules_after(code: str) -> tuple[set[str], str]:
    """The top-level modules outside the standard library that a fresh interpreter has loaded, and what it printed."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", f"{code}\n{report}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *printed, loaded = done.stdout.splitlines()
    return set(json.loads(loaded)) - set(sys.stdlib_module_names), "\n".join(printed)


def test_imports_go_down_only(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_the_core_adds_nothing_to_torch_numpy_and_lap() -> None:
    dependencies, _ = modules_after("import torch, numpy, lap")
    every_name = "import immiscible; [getattr(immiscible, name) for name in immiscible.__all__]"
    with_core, _ = modules_after(f"import torch, numpy, lap; {every_name}")
    assert with_core - dependencies == {"immiscible"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_without_torch(command: str) -> None:
    arguments = [*command.split(), "--help"]
    loaded, printed = modules_after(f"""
import sys
from immiscible.cli import main
sys.argv = ["immiscible", *{arguments}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
""")
    assert printed.startswith("usage: immiscible")
    assert command in printed
    assert not loaded & HEAVY


def test_configurations_are_made_without_torch() -> None:
    code = "from pathlib import Path; from immiscible.config.recipes import FlowConfig; FlowConfig(out=Path('run'))"
    assert not modules_after(code)[0] & HEAVY
