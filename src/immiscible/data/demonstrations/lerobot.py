"""Demonstrations from a LeRobot dataset in a folder, of version 2 or 3.

``meta/info.json`` says what each frame has, and how many there are. The frames are rows of the parquet files under
``data``: one file an episode in version 2, several episodes a file in version 3. Read are the columns
``observation.state`` and ``action``, and for the order ``index`` and ``episode_index``. Pictures and videos are not
read, nor other observations; both are counted by name. Paths in the metadata are not followed.

Source: the library LeRobot, https://github.com/huggingface/lerobot.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from immiscible.data.claims import check_memory
from immiscible.data.demonstrations.episodes import Demonstrations
from immiscible.data.demonstrations.values import as_rows, ends_of_index, read_object
from immiscible.errors import InputError, one_line

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table
    from pyarrow.parquet import ParquetFile

INFO = "meta/info.json"
STATE, ACTION, EPISODE, INDEX = "observation.state", "action", "episode_index", "index"
VERSIONS = re.compile(r"v[23]\.\d+")
PICTURES = ("image", "video")
# Bytes of a number, as it comes and as it is kept.
NUMBER = 16


def matches(spec: str) -> bool:
    """Whether data is the folder of a LeRobot dataset."""
    return (Path(os.path.expanduser(spec)) / INFO).is_file()


def read(spec: str) -> Demonstrations:
    """Reads a dataset, see this module's description.

    Raises:
        InputError: If it is damaged, of another version, or not whole.
    """
    folder = Path(os.path.expanduser(spec))
    name = folder.resolve().name
    info = read_object(folder / INFO)
    features = _checked(name, info)
    table = _table(name, folder, sum(_numbers(features[key]) for key in (STATE, ACTION)) + 2)
    table = table.sort_by(INDEX)
    index, episodes = (_integers(name, key, table[key]) for key in (INDEX, EPISODE))
    if not np.array_equal(index, np.arange(len(index))):
        raise InputError(f"`{name}` must have each frame from 0 on once, by the column {INDEX}: is the copy whole?")
    data = Demonstrations(
        name,
        as_rows(name, STATE, _rows(name, STATE, table[STATE])),
        as_rows(name, ACTION, _rows(name, ACTION, table[ACTION])),
        ends_of_index(name, EPISODE, episodes),
        float(info["fps"]),
        _passed_over(features),
    )
    there = {"total_frames": len(data), "total_episodes": data.episodes}
    for key, count in there.items():
        if info.get(key, count) != count:
            raise InputError(f"`{name}` must have the {info[key]} that {INFO} says as {key}, got {count}: is it whole?")
    return data


def _checked(name: str, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The features of a dataset whose metadata say what is needed."""
    version, features, rate = (info.get(key) for key in ("codebase_version", "features", "fps"))
    if not (isinstance(version, str) and VERSIONS.fullmatch(version)):
        raise InputError(f"`{name}` must be a LeRobot dataset of version 2 or 3, got {version}: convert it by LeRobot.")
    if not (isinstance(features, dict) and all(isinstance(feature, dict) for feature in features.values())):
        raise InputError(f"`{name}` must say its features in {INFO}, got {type(features).__name__}.")
    missing = [key for key in (STATE, ACTION) if key not in features]
    if missing:
        raise InputError(f"`{name}` must have {STATE} and {ACTION}, got {', '.join(features)}.")
    if not (isinstance(rate, int | float) and not isinstance(rate, bool)):
        raise InputError(f"`{name}` must say its frames a second as fps in {INFO}, got {rate}.")
    return features


def _numbers(feature: dict[str, Any]) -> int:
    """How many numbers a frame has of a feature, as far as its shape says."""
    shape = feature.get("shape")
    lengths = shape if isinstance(shape, list) else []
    return int(np.prod([each for each in lengths if isinstance(each, int) and 0 < each < 2**31], dtype=object))


def _passed_over(features: dict[str, dict[str, Any]]) -> dict[str, int]:
    """What a policy might see and does not, by name."""
    pictures = {f"images of {key}, which are not read": 1 for key in features if _is_picture(features[key])}
    others = [key for key in features if key.startswith("observation.") and key != STATE]
    return pictures | {f"numbers of {key}, which are not read": 1 for key in others if not _is_picture(features[key])}


def _is_picture(feature: dict[str, Any]) -> bool:
    return feature.get("dtype") in PICTURES


def _table(name: str, folder: Path, width: int) -> Table:
    """The columns that are read, of all files.

    Arguments:
        name: What messages call the dataset.
        folder: Where it is.
        width: The numbers of a frame.
    """
    try:
        from pyarrow import ArrowException, concat_tables
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise InputError(
            "a LeRobot dataset needs pyarrow, which is not installed: `pip install 'immiscible-diffusion[policy]'`."
        ) from error
    paths = sorted((folder / "data").glob("*/*.parquet"))
    if not paths:
        raise InputError(f"`{name}` must have its frames in data/*/*.parquet, got no such file.")
    tables, frames = [], 0
    for path in paths:
        try:
            # Closed also where it turns out to be damaged.
            with path.open("rb") as source, ParquetFile(source) as file:
                frames += file.metadata.num_rows
                check_memory(name, frames * width * NUMBER, "take a part of it")
                tables.append(_columns(path, file))
        except InputError:
            raise
        except (ArrowException, ValueError, OSError, MemoryError) as error:
            raise InputError(f"`{path}` must be a whole parquet file, got: {one_line(error)}.") from error
    try:
        return concat_tables(tables)
    except ArrowException as error:
        raise InputError(
            f"`{name}` must have columns of the same types in all files, got: {one_line(error)}."
        ) from error


def _columns(path: Path, file: ParquetFile) -> Table:
    wanted = [STATE, ACTION, EPISODE, INDEX]
    missing = [key for key in wanted if key not in file.schema_arrow.names]
    if missing:
        raise InputError(f"`{path}` must have the columns {', '.join(wanted)}, got no {', '.join(missing)}.")
    table = file.read(columns=wanted, use_threads=False).replace_schema_metadata(None)
    empty = [key for key in wanted if table[key].null_count]
    if empty:
        raise InputError(f"`{path}` must have a value in each frame, got none in some of {', '.join(empty)}.")
    return table


def _integers(name: str, key: str, column: ChunkedArray) -> np.ndarray[Any, Any]:
    values = column.to_numpy()
    if values.dtype.kind not in "iu":
        raise InputError(f"{name}: {key} must be integers, got {column.type}.")
    return values


def _rows(name: str, key: str, column: ChunkedArray) -> np.ndarray[Any, Any]:
    """A column of lists of numbers, all of one length, as rows."""
    from pyarrow import types

    frames, kind = len(column), column.type
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        column, kind = _flat(name, key, column), kind.value_type
    if not (types.is_integer(kind) or types.is_floating(kind)) or column.null_count:
        raise InputError(
            f"{name}: {key} must be rows of numbers, got {column.type} with {column.null_count} empty ones."
        )
    return column.to_numpy().reshape(frames, -1)


def _flat(name: str, key: str, column: ChunkedArray) -> ChunkedArray:
    """The entries of lists, one after the other."""
    from pyarrow import chunked_array
    from pyarrow.compute import call_function

    lengths = call_function("list_value_length", [column]).unique()
    if len(lengths) != 1 or column.null_count:
        raise InputError(f"{name}: {key} must have as many numbers in each frame, got {lengths.to_pylist()[:5]}.")
    return chunked_array([chunk.flatten() for chunk in column.chunks])
