"""What every coupling promises, whatever it does with the noise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import immiscible
from immiscible import InputError, InSpace, LinearAssignment, ResidualSpace
from immiscible.couplings import protocol as base
from immiscible.couplings.protocol import check_generator

PLAIN: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}


class OnResiduals:
    """An assignment of what a condition leaves open."""

    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        count, *shape = getattr(x, "shape", ()) or (1,)
        ones, conditions = torch.ones(shape, **PLAIN), torch.arange(count, **PLAIN) % 3
        given = ResidualSpace(torch.ones(1, **PLAIN), ones.view(1, -1), 0.1 * ones, 2 * ones).given(conditions)
        return InSpace(LinearAssignment(), given)(x, noise, labels=labels, generator=generator)

    def __str__(self) -> str:
        return "residuals"


class FittedToNormal:
    """A coupling that is fitted to other data of the same shape, once."""

    def __init__(self, spelling: str) -> None:
        self.spelling = spelling
        self.fitted: dict[tuple[int, ...], Any] = {}

    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        base.check_inputs(x, noise, labels, generator)
        shape = tuple(x.shape[1:])
        if shape not in self.fitted:
            # Mixtures are fitted by scikit-learn, which the core does without.
            pytest.importorskip("sklearn")
            data = torch.randn((40, *shape), generator=seeded(8))
            self.fitted[shape] = cast(Any, immiscible.coupling(self.spelling)).fit(data)
        return self.fitted[shape](x, noise, generator=generator)

    def __str__(self) -> str:
        return self.spelling


SPELLINGS: list[Any] = [
    "independent",
    "knn:1",
    "knn:4",
    "knn:100000",
    "knn:4:dot",
    "knn:2.5:dot",
    "assignment",
    "assignment:3",
    "assignment:auction",
    "assignment:sinkhorn",
    "assignment:slabs:3",
    "assignment:auto",
    "assignment:global",
    "assignment:worst",
    "assignment:entropic:0.5",
    "reservoir:5",
    "assignment@0.5",
    OnResiduals(),
    FittedToNormal("components:3:0.8"),
    FittedToNormal("mixture:2:3"),
]
DRAWS = [
    "knn:4",
    "knn:100000",
    "knn:4:dot",
    "knn:2.5:dot",
    "assignment:3",
    "assignment:sinkhorn",
    "assignment:slabs:3",
    "assignment:entropic:0.5",
    "assignment@0.5",
]
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
    (torch.float32, torch.float64),
]
SHAPES = [(7,), (7, 5), (5, 3, 7, 2), (1, 5), (1,)]

every = pytest.mark.parametrize("spelling", SPELLINGS, ids=str)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def couple(spelling: str, x: Tensor, noise: Tensor, seed: int = 1, labels: Tensor | None = None) -> Tensor:
    return immiscible.coupling(spelling)(x, noise, labels=labels, generator=seeded(seed))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@every
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda pair: "-".join(str(dtype)[6:] for dtype in pair))
def test_result_is_like_the_noise_and_inputs_stay(spelling, shape, dtypes):
    x, noise = (tensor.to(dtype) for tensor, dtype in zip(batch(*shape), dtypes, strict=True))
    kept = x.clone(), noise.clone()
    coupled = couple(spelling, x.requires_grad_(), noise.requires_grad_())
    assert (coupled.shape, coupled.dtype, coupled.device) == (noise.shape, noise.dtype, noise.device)
    assert not coupled.requires_grad
    assert coupled.isfinite().all()
    assert_same(x.detach(), kept[0])
    assert_same(noise.detach(), kept[1])


@every
def test_result_moves_some_noise_exactly_if_the_coupling_does(spelling):
    x, noise = batch(7, 5)
    moved = [not couple(spelling, x, noise, seed).equal(noise) for seed in range(20)]
    assert (any(moved), all(moved)) == (
        spelling not in ("independent", "knn:1"),
        spelling not in ("independent", "knn:1", "assignment@0.5"),
    )


@every
def test_global_state_is_untouched_when_a_generator_is_given(spelling):
    x, noise = batch(7, 5)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    couple(spelling, x, noise, labels=torch.arange(7) % 2)
    assert_same(torch.get_rng_state(), torch_state)
    for now, then in zip(np.random.get_state(), numpy_state, strict=True):
        np.testing.assert_array_equal(now, then)


@every
def test_same_generator_state_gives_the_same_result(spelling):
    x, noise = batch(7, 5)
    assert_same(couple(spelling, x, noise, seed=3), couple(spelling, x, noise, seed=3))


@pytest.mark.parametrize("spelling", [*DRAWS, "reservoir:5"])
def test_other_generator_states_give_other_results(spelling):
    x, noise = batch(13, 5)
    results = [couple(spelling, x, noise, seed) for seed in range(10)]
    assert any(not result.equal(results[0]) for result in results)


@pytest.mark.parametrize("spelling", DRAWS)
def test_global_state_is_used_without_a_generator(spelling):
    x, noise = batch(13, 5)
    coupling = immiscible.coupling(spelling)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        before = torch.get_rng_state()
        first = coupling(x, noise)
        assert not torch.get_rng_state().equal(before)
        torch.manual_seed(4)
        assert_same(coupling(x, noise), first)


@every
def test_autocast_changes_nothing(spelling):
    x, noise = batch(211, 3, 7, 5)
    expected = couple(spelling, x, noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(couple(spelling, x, noise), expected)


@pytest.fixture
def products():
    """Leaves the precision of float32 products as it was."""
    before = base._precision()
    yield
    base._set_precision(before)


@every
@pytest.mark.usefixtures("products")
def test_coarse_matrix_products_change_nothing_and_stay_set(spelling):
    x, noise = batch(211, 3, 7, 5)
    expected = couple(spelling, x, noise)
    torch.set_float32_matmul_precision("medium")
    coarse = base._precision()
    assert_same(couple(spelling, x, noise), expected)
    assert base._precision() == coarse
    with pytest.raises(InputError):
        couple(spelling, x * torch.nan, noise)
    assert base._precision() == coarse
    assert torch.get_float32_matmul_precision() == "medium"


@every
@pytest.mark.usefixtures("products")
@pytest.mark.skipif(not base.BACKENDS, reason="torch keeps one precision for all backends before 2.9")
def test_coarse_matrix_products_of_one_backend_change_nothing_and_stay_set(spelling):
    x, noise = batch(211, 3, 7, 5)
    expected = couple(spelling, x, noise)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert_same(couple(spelling, x, noise), expected)
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


class Products(TorchDispatchMode):
    """Notes with which precision float32 matrices are multiplied, since not every CPU has a coarser one to show."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.mv.default):
            self.seen.add(base._precision())
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("spelling", ["assignment", "assignment:3", "assignment@1"])
def test_matrices_are_multiplied_in_full_precision(spelling):
    x, noise = batch(211, 47)
    torch.set_float32_matmul_precision("medium")
    with Products() as products:
        couple(spelling, x, noise)
    assert products.seen == {("ieee", "ieee") if base.BACKENDS else ("highest",)}


@pytest.mark.usefixtures("products")
def test_full_precision_works_with_the_older_interface_of_torch(monkeypatch):
    torch.set_float32_matmul_precision("medium")
    monkeypatch.setattr(base, "BACKENDS", ())
    with base.full_float32(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"


class NoFloat64(TorchDispatchMode):
    """Refuses every operation that makes a float64 tensor, as some devices do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        assert torch.float64 not in made, f"{func} makes float64"
        return result


# The winner of very many is found from a few numbers of each datum in float64, on the CPU whatever the device.
@pytest.mark.parametrize("spelling", [spelling for spelling in SPELLINGS if spelling != "knn:100000"])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_no_float64_where_the_inputs_have_none(spelling, default):
    x, noise = batch(211, 47)
    expected = couple(spelling, x, noise)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        with NoFloat64():
            coupled = couple(spelling, x, noise)
    finally:
        torch.set_default_dtype(before)
    assert_same(coupled, expected)


@every
def test_default_device_of_torch_is_not_read(spelling):
    x, noise = batch(7, 5)
    expected = couple(spelling, x, noise)
    with torch.device("meta"):
        assert_same(immiscible.coupling(spelling)(x, noise, generator=seeded(1)), expected)
        assert immiscible.coupling(spelling)(x, noise).device == x.device


@every
@pytest.mark.parametrize("shape", [(7,), (7, 5), (5, 3, 7, 2)], ids=str)
def test_row_of_zeros_is_no_obstacle(spelling, shape):
    x, noise = batch(*shape)
    x[2] = 0
    x[3] *= 1e-20
    kept = x.clone()
    assert couple(spelling, x, noise).isfinite().all()
    assert_same(x, kept)
    assert couple(spelling, torch.zeros_like(x), noise).isfinite().all()
    assert couple(spelling, x, torch.zeros_like(noise)).isfinite().all()


STRIDED = {
    "columns reversed in memory": ((7, 5), lambda t: t.T.contiguous().T),
    "every second row": ((7, 5), lambda t: t.repeat_interleave(2, 0)[::2]),
    "every second datum": ((7,), lambda t: t.repeat_interleave(2)[::2]),
    "channels last": ((5, 3, 7, 2), lambda t: t.to(memory_format=torch.channels_last)),
    "axes permuted": ((5, 3, 7, 2), lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)),
}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", STRIDED)
def test_memory_layout_does_not_matter(spelling, layout, dtype):
    shape, strided = STRIDED[layout]
    x, noise = (tensor.to(dtype) for tensor in batch(*shape))
    assert not strided(x).is_contiguous()
    expected = couple(spelling, x, noise)
    for inputs in ((strided(x), noise), (x, strided(noise)), (strided(x), strided(noise))):
        torch.testing.assert_close(couple(spelling, *inputs), expected)


@every
def test_expanded_data_is_no_obstacle(spelling):
    x, noise = batch(7, 5)
    expanded = x[:1].expand(7, 5)
    kept = x.clone()
    torch.testing.assert_close(couple(spelling, expanded, noise), couple(spelling, expanded.contiguous(), noise))
    assert_same(x, kept)


@every
def test_compiled_callers_get_the_eager_result(spelling):
    # One each, since what they hold may change with the first call.
    eager, compiled = immiscible.coupling(spelling), immiscible.coupling(spelling)

    def caller(x: Tensor, noise: Tensor, coupling: immiscible.Coupling) -> Tensor:
        return coupling(2 * x, noise).square() + 1

    x, noise = batch(7, 5)
    torch.compiler.reset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = caller(x, noise, eager)
        torch.manual_seed(5)
        assert_same(torch.compile(caller, backend="eager")(x, noise, compiled), expected)


@pytest.mark.parametrize("spelling", ["assignment", "assignment:3"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_permuted_as_its_float32_copy(spelling, dtype):
    # The scalar products are beyond float16, and their differences below the resolution of bfloat16.
    x, noise = (tensor.to(dtype) for tensor in batch(97, 3, 11, 13))
    x = 100 * x + 300
    expected = couple(spelling, x.float(), noise.float())
    assert_same(couple(spelling, x, noise), expected.to(dtype))


@pytest.mark.parametrize("spelling", ["knn:4", "knn:4:dot", "knn:2.5:dot"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_ranks_as_its_float32_copy(spelling, dtype):
    x, noise = (tensor.to(dtype) for tensor in batch(97, 3, 11, 13))
    x = 100 * x + 300
    expected = couple(spelling, x.float(), noise.float())
    torch.testing.assert_close(couple(spelling, x, noise), expected.to(dtype))


@every
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_labels_of_any_integer_dtype_are_taken(spelling, dtype):
    x, noise = batch(7, 5)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    assert_same(couple(spelling, x, noise, labels=labels.to(dtype)), couple(spelling, x, noise, labels=labels))


def broken(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[3, 2] = value
    return tensor


X, NOISE = batch(7, 5)
WRONG = {
    "shapes differ": (X, NOISE[:, :4], {}, r"the same shape, got \(7, 5\) and \(7, 4\): .*randn_like"),
    "batches differ": (X[:5], NOISE, {}, r"the same shape, got \(5, 5\) and \(7, 5\)"),
    "no batch": (torch.tensor(1.0), torch.tensor(1.0), {}, r"shape \(B, \*\) with at least one element, got \(\)"),
    "no data": (X[:0], NOISE[:0], {}, r"at least one element, got \(0, 5\)"),
    "no columns": (X[:, :0], NOISE[:, :0], {}, r"at least one element, got \(7, 0\)"),
    "NaN in x": (broken(X, torch.nan), NOISE, {}, "`x` must be finite, got NaN or infinite values in 1 of 7 rows"),
    "infinity in x": (broken(X, -torch.inf), NOISE, {}, "`x` must be finite, got NaN or infinite"),
    "NaN in noise": (X, broken(NOISE, torch.nan), {}, "`noise` must be finite, got NaN or infinite"),
    "infinity in noise": (X, broken(NOISE, torch.inf), {}, "`noise` must be finite, got NaN or infinite"),
    "opposite infinities": (broken(X, torch.inf), broken(NOISE, -torch.inf), {}, "`x` must be finite"),
    "beyond float32": (broken(X, 3e38), NOISE, {}, "`x` must be finite, got values too large for float32 in 1 of 7"),
    "float64 beyond float32": (broken(X.double(), 1e300), NOISE, {}, "`x` must be finite, got values too large"),
    "integer x": (X.int(), NOISE, {}, r"`x` must have a real floating dtype, got torch.int32: .*x\.float\(\)"),
    "integer noise": (X, NOISE.long(), {}, "`noise` must have a real floating dtype, got torch.int64"),
    "complex x": (X.cfloat(), NOISE, {}, "`x` must have a real floating dtype, got torch.complex64"),
    "array for x": (X.numpy(), NOISE, {}, "`x` must be a torch.Tensor, got ndarray"),
    "list for noise": (X, NOISE.tolist(), {}, "`noise` must be a torch.Tensor, got list"),
    "noise elsewhere": (X, NOISE.to("meta"), {}, "the same device, got cpu and meta"),
    "short labels": (X, NOISE, {"labels": torch.arange(6)}, r"`labels` must have shape \(7,\).*got \(6,\)"),
    "one-hot labels": (X, NOISE, {"labels": torch.eye(7).long()}, r"`labels` must have shape \(7,\).*got \(7, 7\)"),
    "float labels": (X, NOISE, {"labels": torch.zeros(7)}, "`labels` must be an integer tensor, got torch.float32"),
    "list of labels": (X, NOISE, {"labels": [0] * 7}, "`labels` must be an integer tensor, got list"),
}


@every
@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_refused_in_one_line(spelling, case):
    x, noise, options, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        immiscible.coupling(spelling)(x, noise, generator=seeded(), **options)
    assert "\n" not in str(caught.value)


@every
@pytest.mark.parametrize("batch_size", [7, 211])
def test_large_but_finite_data_is_taken(spelling, batch_size):
    x, noise = batch(batch_size, 5)
    # The squares of the norms are still finite in float32, and their sum is not.
    assert couple(spelling, x.sign() * 5e18, noise).isfinite().all()


@every
def test_generator_on_another_device_is_refused(spelling):
    x, noise = (tensor.to("meta") for tensor in batch(7, 5))
    message = r'`generator` must be on the device of `x`, meta, got one on cpu: .*torch\.Generator\("meta"\)'
    with pytest.raises(InputError, match=message):
        couple(spelling, x, noise)
    with pytest.raises(InputError, match=message):
        immiscible.noise_like(x, spelling, generator=seeded())


@pytest.mark.parametrize(("generator", "data"), [("cuda:1", "cuda:0"), ("cpu", "cuda:0"), ("cuda:0", "cpu")])
def test_generator_of_another_device_or_index_is_told_apart(generator, data):
    with pytest.raises(InputError, match=f"device of `x`, {data}, got one on {generator}"):
        check_generator(SimpleNamespace(device=torch.device(generator)), torch.device(data))


@pytest.mark.parametrize(("generator", "data"), [("cuda", "cuda:0"), ("cuda:0", "cuda"), ("cuda:1", "cuda:1")])
def test_generator_without_an_index_fits_any(generator, data):
    check_generator(SimpleNamespace(device=torch.device(generator)), torch.device(data))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_noise_like_draws_and_couples(dtype):
    x = batch(7, 5)[0].to(dtype)
    generator = seeded(6)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    expected = LinearAssignment(block=3)(x, noise, generator=generator)
    assert_same(immiscible.noise_like(x, "assignment:3", generator=seeded(6)), expected)
    assert_same(immiscible.noise_like(x, LinearAssignment(block=3), generator=seeded(6)), expected)


def test_noise_like_hands_on_the_labels():
    x, _ = batch(7, 5)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    generator = seeded(6)
    noise = torch.randn(x.shape, generator=generator)
    expected = LinearAssignment()(x, noise, labels=labels)
    assert_same(immiscible.noise_like(x, "assignment", labels=labels, generator=seeded(6)), expected)
    with pytest.raises(InputError, match=r"`labels` must have shape \(7,\)"):
        immiscible.noise_like(x, "assignment", labels=labels[:3])


@pytest.mark.parametrize("x", [torch.arange(4), [1.0, 2.0]], ids=["integers", "list"])
def test_noise_like_refuses_what_has_no_floating_dtype(x):
    with pytest.raises(InputError, match=r"`x` must be a floating tensor, got .*: use `x\.float\(\)`"):
        immiscible.noise_like(x, "knn:2")
