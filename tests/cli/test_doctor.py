"""What to paste into a report: complete, on one screen, without secrets, and without any extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from immiscible.cli import diagnosis, main
from immiscible.cli.doctor import WIDTH, screen
from immiscible.data import cache
from immiscible.data.readers import cifar10
from immiscible.errors import InputError

SECRET = "hf_abcdefgh"


def found(environment: dict[str, str]) -> dict[str, Any]:
    return diagnosis.diagnosis(environment)


def lines_of(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["doctor", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_it_fits_on_a_screen_and_names_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= max(WIDTH, len(str(Path.cwd())) + 40)
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names[:3] == ["immiscible", "python", "core"]
    assert set(names[3:-6]) == {"train", "policy", "features", "semidiscrete"}
    assert names[-6:] == ["solver", "devices", "variables", "caches", "hub", "problems"]
    told = "\n".join(lines)
    for part in (f"torch {torch.__version__}", "accelerate ", f"threads: {torch.get_num_threads()}", "solver     lapx"):
        assert part in told


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads("\n".join(lines_of(capsys, "--json")))
    assert screen(facts).splitlines()[:5] == lines_of(capsys)[:5]
    assert "torch" in facts["packages"]["core"]
    # What an extra takes from another one is listed once.
    assert "diffusers" in facts["packages"]["train"]
    assert "diffusers" not in facts["packages"]["policy"]


def test_no_secret_and_no_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "somebody"
    (home / "hub").mkdir(parents=True)
    (home / "hub" / "token").write_text(SECRET)
    monkeypatch.setenv("HOME", str(home))
    facts = found(
        {
            "HF_HOME": str(home / "hub"),
            "HF_TOKEN": SECRET,
            "HF_ENDPOINT": f"https://me:{SECRET}@mirror.example/hub",
            "ACCELERATE_API_KEY": SECRET,
            "MASTER_ADDR": "10.11.12.13",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "IMMISCIBLE_CACHE": "/scratch/somebody/cache",
            "TORCHELASTIC_ERROR_FILE": f"{home}/error.json",
            "WORLD_SIZE": "2",
        }
    )
    assert facts["launcher"] == {
        "ACCELERATE_API_KEY": "(set)",
        "HF_ENDPOINT": "https://mirror.example/hub",
        "HF_HOME": "~/hub",
        "IMMISCIBLE_CACHE": "/scratch/USER/cache",
        "MASTER_ADDR": "(set)",
        "TORCHELASTIC_ERROR_FILE": "~/error.json",
        "WORLD_SIZE": "2",
    }
    assert facts["hub"]["token"]
    assert facts["caches"]["hub"]["place"] == "~/hub/hub"
    told = json.dumps(facts) + screen(facts)
    assert SECRET not in told
    assert "somebody" not in told
    assert "10.11" not in told


def test_names_that_only_begin_like_the_home_directory_stay() -> None:
    said = diagnosis.without_names(["/home/al/x", "/home/alice", "/data/al-2", ["in /home/al: x"]], Path("/home/al"))
    assert said == ["~/x", "/home/alice", "/data/al-2", ["in ~: x"]]
    assert diagnosis.without_names("/data", Path("/")) == "/data"


def test_caches_are_where_the_package_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variables in ({}, {"IMMISCIBLE_CACHE": "~/own", "IMMISCIBLE_DATA": str(tmp_path / "data")}):
        for name in ("IMMISCIBLE_CACHE", "IMMISCIBLE_DATA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        places = diagnosis.places(os.environ)
        assert places["immiscible"] == cache.root().parent
        with pytest.raises(InputError, match="cifar10") as error:
            cifar10.find()
        assert str(places["data"]) in str(error.value)


def test_the_hub_keeps_its_files_where_its_library_says(tmp_path: Path) -> None:
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for variables in ({"HF_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path)}, {"HF_HUB_CACHE": str(tmp_path)}):
        environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **variables}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert str(diagnosis.places(environment)["hub"]) == done.stdout.strip()


def test_sizes_of_caches_count_files_and_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/er/c"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    facts = found({"IMMISCIBLE_CACHE": str(tmp_path)})["caches"]["immiscible"]
    assert 3000 <= facts["bytes"] < 3500
    assert facts["all"]
    assert facts["writable"]
    monkeypatch.setattr(diagnosis, "SECONDS_PER_CACHE", -1.0)
    facts = found({"IMMISCIBLE_CACHE": str(tmp_path)})
    assert not facts["caches"]["immiscible"]["all"]
    assert f"immiscible: {facts['caches']['immiscible']['place']}, at least" in screen(facts)


def test_what_stands_in_the_way_of_a_cache_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    facts = found({"IMMISCIBLE_CACHE": str(tmp_path / "file" / "cache")})
    assert not facts["caches"]["immiscible"]["writable"]
    assert any("the cache of immiscible cannot be written to" in line for line in facts["problems"])


def test_offline_variables_are_told() -> None:
    facts = found({"HF_HUB_OFFLINE": "1"})
    assert facts["hub"]["offline"] == {"HF_HUB_OFFLINE": "1"}
    assert "hub        asked for nothing: HF_HUB_OFFLINE=1; no token is set" in screen(facts)
    assert "asked where it is needed" in screen(found({}))


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(name="Card X", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: known)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**34)
    told = screen(found({}))
    assert "cuda:1: Card X, 80.0 GiB, capability 9.0" in told
    assert "16.0 GiB" in told


def test_a_distribution_of_the_same_name_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immiscible.cli.version.distribution", lambda name: SimpleNamespace(version="2.0"))
    assert "immiscible 2.0 is installed beside immiscible-diffusion" in found({})["problems"][0]


def test_another_version_than_the_installed_one_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "version", lambda name: "7.8.9")
    assert any("immiscible-diffusion 7.8.9 is installed, but" in line for line in found({})["problems"])


def test_a_module_that_hides_lapx_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lap", ModuleType("lap"))
    facts = found({})
    assert facts["solver"] == "SciPy, several times slower"
    assert any("pip uninstall lap" in line for line in facts["problems"])


def test_without_an_installation_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis, "requires", nothing)
    monkeypatch.setattr(diagnosis, "version", nothing)
    facts = found({})
    assert facts["packages"] == {"core": {"torch": None, "numpy": None, "lapx": None}}
    assert "core       missing: torch, numpy, lapx\n" in screen(facts)
    assert len(facts["problems"]) == 4


@pytest.mark.parametrize("missing", ["tyro PIL accelerate diffusers transformers", "torch", "lap", "numpy torch lap"])
def test_it_works_where_packages_are_missing_or_broken(missing: str, tmp_path: Path) -> None:
    """A fresh interpreter that finds none of them."""
    program = f"""
import sys
import warnings
sys.modules |= dict.fromkeys({missing.split()})
from immiscible.cli import main
sys.exit(main(["doctor"]))"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in {"torch", "lap"} & set(missing.split()):
        assert f"{name} cannot be imported" in done.stdout
    assert ("problems   none" in done.stdout) == ("tyro" in missing)


def test_what_torch_warns_of_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def available() -> bool:
        warnings.warn("the driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    assert found({})["problems"] == ["torch says: the driver is too old"]
