"""Whatever is handed to a coupling by mistake is refused in one line, and what works is not refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

import immiscible
from immiscible import KNN, CostSpace, InputError, InSpace, LinearAssignment, Mixed, coupled, noise_like, permutation

ROWS, COLUMNS = 6, 5
COUPLINGS: dict[str, Any] = {
    spelling: immiscible.coupling(spelling)
    for spelling in (
        *("independent", "knn:1", "knn:4", "knn:4:dot", "assignment", "assignment:2", "assignment:auto"),
        *("assignment:worst", "assignment:entropic:0.5"),
        *("assignment:auction", "assignment:sinkhorn", "assignment:slabs", "assignment:global", "assignment@0.5"),
    )
}
COUPLINGS["centred"] = InSpace(LinearAssignment(), CostSpace(centre=torch.tensor(0.5)))
COUPLINGS["coarse"] = InSpace(KNN(4), CostSpace(basis=torch.eye(COLUMNS)[:2]))
COUPLINGS["mixed space"] = Mixed(COUPLINGS["coarse"], 1)


def rows() -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.empty(ROWS, COLUMNS)


def quantized() -> Tensor:
    with warnings.catch_warnings():
        # torch announces that it will do without these dtypes.
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(rows(), 0.1, 0, torch.qint8)


def quietly(make: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        # Nested and compressed tensors are announced as unfinished.
        warnings.simplefilter("ignore")
        return make()


# What is no data, and a word of the line that refuses it.
NO_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "must be a torch.Tensor, got NoneType|floating tensor, got NoneType"),
    "array": (lambda: rows().numpy(), "got ndarray: use `torch.from_numpy`|floating tensor, got float32"),
    "scalar of numpy": (lambda: np.float32(1), "got float32"),
    "list of numbers": (lambda: rows().tolist(), "got list"),
    "buckets": (
        lambda: [rows(), rows()[:, :3]],
        "got list of tensors: couple those of each shape by themselves|got list",
    ),
    "tuple": (lambda: (rows(), rows()), "got tuple of tensors|got tuple"),
    "packed": (lambda: pack_sequence([rows(), rows()[:3]]), "pad_packed_sequence|got PackedSequence"),
    "number": (lambda: 3, "got int"),
    "text": (lambda: "x", "got str"),
    "bool": (lambda: rows() > 0, "got torch.bool"),
    "integers": (lambda: rows().int(), r"got torch.int32: .*x\.float\(\)"),
    "complex": (lambda: rows().cfloat(), "got torch.complex64"),
    "float8": (
        lambda: rows().to(torch.float8_e4m3fn),
        r"16 bits or more, got torch.float8_e4m3fn: use `\w+\.float\(\)`",
    ),
    "quantized": (quantized, r"dense tensor, got torch.qint8: use `\w+\.dequantize\(\)`"),
    "sparse": (lambda: rows().to_sparse(), r"dense tensor, got torch.sparse_coo: use `\w+\.to_dense\(\)`"),
    "compressed": (lambda: quietly(rows().to_sparse_csr), "dense tensor, got torch.sparse_csr"),
    "nested": (
        lambda: quietly(lambda: torch.nested.nested_tensor([rows(), rows()[:3]])),
        r"of one shape, got a nested one: couple `\w+\.to_padded_tensor\(0\.0\)`",
    ),
    "jagged": (
        lambda: torch.nested.nested_tensor([rows(), rows()[:3]], layout=torch.jagged),
        "of one shape, got a nested one",
    ),
    "meta": (lambda: rows().to("meta"), "must hold values|same device, got"),
    "fake": (fake, r"must hold values, .* of a fake mode: call couplings on real data"),
    "no rows": (lambda: rows()[:0], r"at least one element, got \(0, 5\)|same shape"),
    "no columns": (lambda: rows()[:, :0], r"at least one element, got \(6, 0\)|same shape"),
    "one number": (lambda: torch.tensor(1.0), r"at least one element, got \(\)|same shape"),
    "NaN": (lambda: rows() * torch.nan, "must be finite"),
    "infinity": (lambda: rows() * torch.inf, "must be finite"),
}
NO_LABELS: dict[str, Callable[[], Any]] = {
    "array": lambda: np.zeros(ROWS, int),
    "list": lambda: [0] * ROWS,
    "number": lambda: 1,
    "text": lambda: "cat",
    "floats": lambda: torch.zeros(ROWS),
    "complex": lambda: torch.zeros(ROWS, dtype=torch.complex64),
    "one-hot": lambda: torch.eye(ROWS).long(),
    "short": lambda: torch.zeros(ROWS - 1).long(),
    "scalar": lambda: torch.tensor(1),
    "sparse": lambda: torch.ones(ROWS).long().to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2).long(), torch.zeros(4).long()], layout=torch.jagged),
    "quantized": lambda: quantized()[:, 0],
    "meta": lambda: torch.zeros(ROWS, dtype=torch.int64, device="meta"),
}
NO_GENERATOR: dict[str, Any] = {
    "number": 0,
    "array": np.random.default_rng(0),
    "text": "cpu",
    "device": torch.device("cpu"),
}


def refused(call: Callable[[], Any], message: str | None = None) -> None:
    """Raises unless this is refused in one line."""
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("case", NO_DATA)
def test_what_is_no_data_and_what_is_no_noise_is_refused(case: str) -> None:
    make, message = NO_DATA[case]
    for x, noise in ((make(), rows()), (rows(), make()), (make(), make())):
        for coupling in COUPLINGS.values():
            refused(partial(coupling, x, noise), message)


@pytest.mark.parametrize("case", NO_LABELS)
def test_what_is_no_label_is_refused(case: str) -> None:
    for coupling in COUPLINGS.values():
        refused(partial(coupling, rows(), rows(), labels=NO_LABELS[case]()), "`labels` must")


@pytest.mark.parametrize("case", NO_GENERATOR)
def test_what_is_no_generator_is_refused(case: str) -> None:
    message = "`generator` must be a torch.Generator, got"
    for coupling in COUPLINGS.values():
        refused(partial(coupling, rows(), rows(), generator=NO_GENERATOR[case]), message)
        refused(partial(noise_like, rows(), coupling, generator=NO_GENERATOR[case]), message)


@pytest.mark.parametrize("case", NO_DATA)
def test_all_that_takes_data_refuses_what_is_none(case: str) -> None:
    make, message = NO_DATA[case]
    refused(lambda: noise_like(make(), "assignment"), message)
    refused(lambda: permutation("assignment", make(), rows()), message)
    refused(lambda: permutation("independent", rows(), make()), message)

    def block() -> None:
        with coupled("assignment", make()):
            torch.randn(ROWS, COLUMNS)

    refused(block, message)


@pytest.mark.parametrize("name", COUPLINGS)
def test_parameters_and_views_and_whatever_else_holds_real_numbers_is_taken(name: str) -> None:
    good = [
        torch.nn.Parameter(rows()),
        rows().double(),
        rows().half(),
        rows().T.contiguous().T,
        rows().requires_grad_(),
    ]
    for x in good:
        result = COUPLINGS[name](x, x.detach().clone(), labels=torch.zeros(ROWS, dtype=torch.uint16))
        assert result.shape == x.shape


FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OTHERS = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.complex64, torch.float8_e5m2]
shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)
dtypes = st.sampled_from(FLOATING * 2 + OTHERS)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(set(COUPLINGS) - {"coarse", "mixed space"})),
    shape=shapes,
    other=st.none() | shapes,
    dtype=dtypes,
    noise_dtype=dtypes,
    labels=st.none() | st.lists(st.integers(-2, 2), max_size=4),
)
def test_input_is_taken_exactly_if_it_fits(
    name: str,
    shape: tuple[int, ...],
    other: tuple[int, ...] | None,
    dtype: torch.dtype,
    noise_dtype: torch.dtype,
    labels: list[int] | None,
) -> None:
    noise_shape = shape if other is None else other
    x, noise = torch.ones(shape).to(dtype), torch.ones(noise_shape).to(noise_dtype)
    classes = None if labels is None else torch.tensor(labels, dtype=torch.int64)

    def call() -> Tensor:
        return COUPLINGS[name](x, noise, labels=classes, generator=torch.Generator().manual_seed(0))

    fits = {dtype, noise_dtype} <= set(FLOATING) and shape == noise_shape and len(shape) > 0 and 0 not in shape
    if fits and (labels is None or len(labels) == shape[0]):
        result = call()
        assert (result.shape, result.dtype) == (noise.shape, noise.dtype)
        assert result.isfinite().all()
    else:
        refused(call)


SETTINGS: dict[str, Callable[[Any], object]] = {
    "k": KNN,
    "score": lambda value: KNN(4, value),
    "block": LinearAssignment,
    "solver": lambda value: LinearAssignment(solver=value),
    "pool": lambda value: LinearAssignment(pool=value),
    "budget": lambda value: LinearAssignment(solver="auto", budget=value),
    "coupling of Mixed": lambda value: Mixed(value, 0.5),
    "p": lambda value: Mixed(KNN(4), value),
    "spelling": immiscible.coupling,
    "description": immiscible.describe,
    "cost": immiscible.assign,
}
WRONG = ["", "8x", -1, 0.5j, True, [], {}, np.array([1, 2]), torch.ones(2), float("nan"), b"8", float("inf")]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_wrong_kind_are_refused(name: str) -> None:
    # A budget without a bound is one.
    for value in WRONG[: -1 if name == "budget" else None]:
        refused(partial(SETTINGS[name], value))
