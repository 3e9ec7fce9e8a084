"""Datasets of LeRobot, written here as its versions 2.1 and 3.0 lay them out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from immiscible.data.demonstrations import read_demonstrations
from immiscible.errors import InputError

OBSERVATIONS = np.arange(14, dtype=np.float32).reshape(7, 2) / 3
ACTIONS = np.arange(21, dtype=np.float32).reshape(7, 3)
EPISODES = np.array([0, 0, 0, 1, 1, 2, 2])
FEATURES: dict[str, Any] = {
    "observation.image": {"dtype": "video", "shape": [96, 96, 3]},
    "observation.state": {"dtype": "float32", "shape": [2]},
    "observation.keypoints": {"dtype": "float32", "shape": [16]},
    "action": {"dtype": "float32", "shape": [3]},
    "timestamp": {"dtype": "float32", "shape": [1]},
}
INFO: dict[str, Any] = {"fps": 10, "total_episodes": 3, "total_frames": 7, "features": FEATURES}


def frames(rows: Any, fixed: bool = False, **changes: Any) -> pa.Table:
    """Some frames as rows; columns may be changed, or left out with None."""

    def lists(values: np.ndarray) -> pa.Array:
        return pa.array(list(values[rows]), pa.list_(pa.float32(), values.shape[1] if fixed else -1))

    columns = {
        "observation.state": lists(OBSERVATIONS),
        "action": lists(ACTIONS),
        "episode_index": pa.array(EPISODES[rows]),
        "index": pa.array(np.arange(7)[rows]),
        "timestamp": pa.array(np.arange(7)[rows] / 10),
        **changes,
    }
    return pa.table({key: column for key, column in columns.items() if column is not None})


def write(folder: Path, version: str = "v3.0", tables: dict[str, pa.Table] | None = None, **info: Any) -> str:
    if tables is None and version.startswith("v2"):
        tables = {f"episode_{episode:06d}": frames(np.flatnonzero(episode == EPISODES)) for episode in range(3)}
    elif tables is None:
        tables = {"file-000": frames(np.arange(5), fixed=True), "file-001": frames(np.arange(5, 7), fixed=True)}
    for name, table in tables.items():
        path = folder / f"data/chunk-000/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path)
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    said = {"codebase_version": version, **INFO, **info}
    (folder / "meta/info.json").write_text(json.dumps(said))
    return str(folder)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_both_layouts_are_read(tmp_path: Path, version: str) -> None:
    data = read_demonstrations(write(tmp_path / "own", version))
    torch.testing.assert_close(data.observations, torch.from_numpy(OBSERVATIONS), rtol=0, atol=0)
    torch.testing.assert_close(data.actions, torch.from_numpy(ACTIONS), rtol=0, atol=0)
    assert (data.name, data.rate, data.ends.tolist()) == ("own", 10.0, [3, 5, 7])
    assert data.passed_over == {
        "images of observation.image, which are not read": 1,
        "numbers of observation.keypoints, which are not read": 1,
    }


def test_frames_are_put_in_order(tmp_path: Path) -> None:
    tables = {"file-000": frames([5, 6, 4, 3]), "file-001": frames([2, 0, 1])}
    data = read_demonstrations(write(tmp_path, tables=tables))
    torch.testing.assert_close(data.actions, torch.from_numpy(ACTIONS), rtol=0, atol=0)


def test_a_feature_of_one_number_and_one_of_several_axes_are_rows(tmp_path: Path) -> None:
    grids = pa.array(ACTIONS.repeat(2, 1).reshape(7, 3, 2).tolist(), pa.list_(pa.list_(pa.float64())))
    changes = {"observation.state": pa.array(np.arange(7)), "action": grids}
    data = read_demonstrations(write(tmp_path, tables={"file-000": frames(np.arange(7), **changes)}))
    assert (data.observations.shape, data.actions.shape) == ((7, 1), (7, 6))
    torch.testing.assert_close(data.actions, torch.from_numpy(ACTIONS).repeat_interleave(2, 1))


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"codebase_version": "v1.6"}, "must be a LeRobot dataset of version 2 or 3, got v1.6"),
        ({"codebase_version": None}, "version 2 or 3, got None"),
        ({"features": []}, "must say its features"),
        ({"features": {"action": {}}}, "must have observation.state and action, got action"),
        ({"fps": "10"}, "must say its frames a second"),
        ({"fps": 0}, "the rate must be a positive number"),
        ({"total_frames": 8}, "must have the 8 that meta/info.json says as total_frames, got 7: is it whole"),
        ({"total_episodes": 4}, "must have the 4 that .* total_episodes, got 3"),
        ({"features": {**FEATURES, "action": {"shape": [10**9, 10**9]}}}, "must fit into memory"),
    ],
)
def test_metadata_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, info: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_demonstrations(write(tmp_path, **info))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": None}, "must have the columns observation.state, .* got no action"),
        ({"action": pa.array([[1.0]] * 6 + [None])}, "must have a value in each frame, got none in some of action"),
        ({"action": pa.array([[1.0]] * 6 + [[None]])}, "action must be rows of numbers, got double with 1 empty"),
        ({"action": pa.array([[1.0]] * 6 + [[1.0, 2.0]])}, r"as many numbers in each frame, got \[1, 2\]"),
        ({"action": pa.array([["a"]] * 7)}, "action must be rows of numbers, got string"),
        ({"action": pa.array([[float("nan")]] * 7)}, "actions must be finite, got others in 7 frames"),
        ({"index": pa.array([0, 1, 2, 3, 4, 5, 5])}, "each frame from 0 on once"),
        ({"index": pa.array(np.arange(7) / 1)}, "index must be integers, got double"),
        ({"episode_index": pa.array([0, 0, 1, 1, 0, 2, 2])}, "go on after others"),
    ],
)
def test_frames_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_demonstrations(write(tmp_path, tables={"file-000": frames(np.arange(7), **changes)}))
    assert "\n" not in str(caught.value)


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "own")
    path = tmp_path / "own/data/chunk-000/file-001.parquet"
    whole = path.read_bytes()
    for part in (whole[:-20], whole[:40], b"", b"PAR1" + bytes(60) + whole[-8:]):
        path.write_bytes(part)
        with pytest.raises(InputError, match="must be a whole parquet file"):
            read_demonstrations(folder)
    path.unlink()
    with pytest.raises(InputError, match="says as total_frames, got 5"):
        read_demonstrations(folder)
    (tmp_path / "own/data/chunk-000/file-000.parquet").unlink()
    with pytest.raises(InputError, match="got no such file"):
        read_demonstrations(folder)


def test_files_whose_columns_differ_in_type_are_refused(tmp_path: Path) -> None:
    tables = {"file-000": frames(np.arange(5)), "file-001": frames([5, 6], action=pa.array(["a", "b"]))}
    with pytest.raises(InputError, match="must have columns of the same types in all files"):
        read_demonstrations(write(tmp_path, tables=tables))


def test_paths_in_the_metadata_are_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", data_path="../../other/{chunk_index}.parquet")
    assert len(read_demonstrations(folder)) == 7


def test_without_pyarrow_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow, .*pip install 'immiscible-diffusion\[policy\]'"):
        read_demonstrations(folder)
