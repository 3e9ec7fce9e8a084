"""Blocks of code whose noise is coupled as it is drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor

import immiscible
from immiscible import KNN, InputError, LinearAssignment, coupled
from immiscible.couplings import hidden

SHAPE = (7, 3, 5, 2)
DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "randn_like": torch.randn_like,
    "randn_like with a layout": lambda x: torch.randn_like(x, memory_format=torch.channels_last),
    "randn of a shape": lambda x: torch.randn(x.shape),
    "randn of numbers": lambda x: torch.randn(*x.shape, generator=torch.default_generator, device="cpu"),
    "randn by name": lambda x: torch.randn(size=x.shape, dtype=x.dtype),
    "randn into a tensor": lambda x: torch.randn(x.shape, out=torch.empty_like(x)),
    "randn with gradient": lambda x: torch.randn(x.shape, requires_grad=True),
    "normal_": lambda x: torch.empty_like(x).normal_(),
    "normal_ with numbers": lambda x: torch.empty_like(x).normal_(0, std=1),
    "init.normal_": lambda x: torch.nn.init.normal_(torch.empty_like(x)),
    "normal of numbers": lambda x: torch.normal(0.0, 1.0, x.shape),
    "normal by names": lambda x: torch.normal(mean=0.0, std=1.0, size=x.shape),
    "normal of tensors": lambda x: torch.normal(torch.zeros_like(x), torch.ones_like(x)),
    "normal of a mean": lambda x: torch.normal(torch.zeros_like(x)),
    "a distribution": lambda x: torch.distributions.Normal(0.0, 1.0).sample(x.shape),
    "a reparametrised distribution": lambda x: torch.distributions.Normal(torch.zeros_like(x), 1.0).rsample(),
}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _left() -> Any:
    """No test leaves a block behind."""
    with torch.random.fork_rng(devices=[]):
        yield
    assert not hidden._here.blocks
    assert not hidden._here.coupling


def drawn(draw: Callable[[Tensor], Tensor], x: Tensor, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return draw(x).detach()


@contextmanager
def refused(message: str) -> Iterator[None]:
    """Raises unless what happens inside is refused in one line with this message."""
    with pytest.raises(InputError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", DRAWS)
def test_every_way_to_draw_is_coupled(name: str, x: Tensor) -> None:
    vanilla = drawn(DRAWS[name], x)
    with coupled("assignment", x):
        noise = drawn(DRAWS[name], x)
    assert_same(noise, LinearAssignment()(x, vanilla))
    assert not noise.equal(vanilla)
    assert noise.stride() == vanilla.stride()


def test_what_is_drawn_in_place_is_the_tensor_itself_and_keeps_its_gradient(x: Tensor) -> None:
    buffer = torch.empty_like(x)
    with coupled("assignment", x):
        assert buffer.normal_() is buffer
    with coupled("assignment", x):
        leaf = torch.randn(x.shape, requires_grad=True)
    assert leaf.requires_grad
    assert leaf.is_leaf


def test_independent_noise_gives_the_loss_without_the_block_to_the_bit(x: Tensor) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(30, 30), torch.nn.Dropout(0.5))

    def loss(x: Tensor) -> Tensor:
        noise, t = torch.randn_like(x), torch.rand(len(x), 1, 1, 1)
        return net((1 - t) * x + t * noise).sub((noise - x).flatten(1)).square().mean()

    expected = drawn(loss, x)
    with coupled("independent", x):
        assert_same(drawn(loss, x), expected)
    with coupled("assignment", x):
        assert not drawn(loss, x).equal(expected)


def test_other_draws_and_the_stream_of_numbers_are_left_alone(x: Tensor) -> None:
    def draws(x: Tensor) -> list[Tensor]:
        before, noise = torch.randn(len(x)), torch.randn_like(x)
        return [before, torch.rand_like(x), torch.randn(7, 1, 1, 1), torch.randint(9, (7,)), noise]

    torch.manual_seed(1)
    *others, vanilla = draws(x)
    torch.manual_seed(1)
    with coupled(LinearAssignment(), x):
        *same, noise = draws(x)
    for other, left in zip(others, same, strict=True):
        assert_same(left, other)
    assert_same(noise, LinearAssignment()(x, vanilla))


def test_labels_and_generator_reach_the_coupling(x: Tensor) -> None:
    labels, vanilla = torch.arange(7) % 2, drawn(torch.randn_like, x)
    with coupled("assignment", x, labels=labels):
        assert_same(drawn(torch.randn_like, x), LinearAssignment()(x, vanilla, labels=labels))
    expected = KNN(4)(x, vanilla, generator=torch.Generator().manual_seed(2))
    with coupled(KNN(4), x, generator=torch.Generator().manual_seed(2)):
        assert_same(drawn(torch.randn_like, x), expected)
        state = torch.get_rng_state()
    drawn(torch.randn_like, x)
    assert_same(torch.get_rng_state(), state)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_of_several_draws_is_chosen(which: int, x: Tensor) -> None:
    def three(x: Tensor) -> Tensor:
        return torch.stack([torch.randn_like(x) for _ in range(3)])

    expected = drawn(three, x)
    with coupled("assignment", x, which=which):
        noises = drawn(three, x)
    expected[which] = LinearAssignment()(x, expected[which])
    assert_same(noises, expected)


def test_blocks_within_each_other_couple_their_own_draws(x: Tensor) -> None:
    # Another shape, and another draw of the same shape.
    sound = torch.randn(7, 11, generator=torch.Generator().manual_seed(3))

    def draws(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn_like(x), torch.randn_like(sound), torch.randn_like(x)

    torch.manual_seed(1)
    first, other, second = draws(x)
    torch.manual_seed(1)
    with coupled("assignment", x, which=0), coupled("assignment", sound), coupled("assignment", -x, which=1):
        results = draws(x)
    assign = LinearAssignment()
    for result, expected in zip(results, (assign(x, first), assign(sound, other), assign(-x, second)), strict=True):
        assert_same(result, expected)


def test_what_a_coupling_draws_is_not_noise_of_a_block_around(x: Tensor) -> None:
    # KNN draws scalars in the shape (B, k), which is that of the outer block's data.
    scalars = torch.randn(7, 4)
    with refused(r"shape \(7, 4\) once, got none"), coupled("assignment", scalars), coupled(KNN(4), x):
        torch.randn_like(x)


def test_blocks_for_the_same_draw_are_refused(x: Tensor) -> None:
    with refused("two for the same draw of shape"), coupled("assignment", x), coupled("assignment", x + 1):
        pass
    block = coupled("assignment", x)
    with refused("two for the same draw of shape"), block, block:
        pass


def test_a_block_can_be_entered_again(x: Tensor) -> None:
    block, expected = coupled("assignment", x), LinearAssignment()(x, drawn(torch.randn_like, x))
    for _ in range(2):
        with block:
            assert_same(drawn(torch.randn_like, x), expected)


UNCOUPLED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "nothing": (lambda x: None, "once, got none: hand over `x` as the loop adds noise to it"),
    "other shapes": (
        lambda x: (torch.randn(7, 1), torch.randn(3, 2), torch.randn(7, 1)),
        r"got none, but 2 of shape \(7, 1\), 1 of shape \(3, 2\)",
    ),
    "flat noise": (lambda x: torch.randn(7, 30), r"got none, but 1 of shape \(7, 30\)"),
    "uniform": (torch.rand_like, "got none:"),
    "complex": (lambda x: torch.randn(x.shape, dtype=torch.complex64), "got none, but 1 of a complex dtype"),
    "scaled": (lambda x: torch.normal(0.0, 2.0, x.shape), "got none, but 1 of a mean or deviation that is not 0 and 1"),
    "shifted": (lambda x: torch.normal(x, torch.ones_like(x)), "got none, but 1 of a mean or deviation"),
    "scaled in place": (lambda x: torch.empty_like(x).normal_(std=0.02), "got none, but 1 of a mean or deviation"),
}


@pytest.mark.parametrize("name", UNCOUPLED)
def test_a_block_without_noise_is_an_error_that_names_what_it_drew(name: str, x: Tensor) -> None:
    draw, message = UNCOUPLED[name]
    with refused(message), coupled("assignment", x):
        draw(x)


def test_a_second_draw_is_an_error_where_it_happens(x: Tensor) -> None:
    reached = False
    with refused("once, got 2 draws: say which is the noise, `which=0` for the first"), coupled("assignment", x):
        torch.randn_like(x)
        torch.randn_like(x)
        reached = True
    assert not reached


def test_a_loop_that_swallows_the_error_meets_it_at_the_end(x: Tensor) -> None:
    with refused("once, got 2 draws"), coupled("assignment", x):
        torch.randn_like(x)
        with suppress(ValueError):
            torch.randn_like(x)


def test_too_few_draws_for_the_chosen_one_are_an_error(x: Tensor) -> None:
    with refused("must draw standard normal noise of .* 3 times, got 2: "), coupled("assignment", x, which=2):
        torch.randn_like(x)
        torch.randn_like(x)


def test_an_error_in_the_block_stays_what_it_is(x: Tensor) -> None:
    with pytest.raises(KeyError, match="their own"), coupled("assignment", x):
        raise KeyError("their own")
    torch.manual_seed(1)
    noise = torch.randn_like(x)
    assert_same(noise, drawn(torch.randn_like, x))


def test_noise_on_another_device_is_an_error_with_the_remedy(x: Tensor) -> None:
    with refused(r'drawn on, meta, got it on cpu: hand over `x\.to\("meta"\)`'), coupled("assignment", x):
        torch.randn(x.shape, device="meta")


def test_a_default_device_is_followed(x: Tensor) -> None:
    expected = LinearAssignment()(x, drawn(torch.randn_like, x))
    with torch.device("cpu"), coupled("assignment", x):
        assert_same(drawn(lambda x: torch.randn(x.shape), x), expected)
    with coupled("assignment", x), torch.device("cpu"):
        assert_same(drawn(lambda x: torch.randn(x.shape), x), expected)
    # Numbers are not made into tensors there.
    with torch.device("meta"), coupled("assignment", x):
        assert_same(drawn(lambda x: torch.normal(0.0, 1.0, x.shape, device="cpu"), x), expected)


def test_other_threads_are_neither_coupled_nor_counted(x: Tensor) -> None:
    results: list[Tensor] = []
    with coupled("assignment", x):
        thread = threading.Thread(target=lambda: results.append(torch.randn(x.shape)))
        thread.start()
        thread.join()
        torch.randn_like(x)
    assert (x * results[0]).mean().abs() < 0.2
    with refused(r"got none: .*this thread"), coupled("assignment", x):
        thread = threading.Thread(target=lambda: torch.randn(x.shape))
        thread.start()
        thread.join()


def test_threads_have_blocks_of_their_own(x: Tensor) -> None:
    # Both are in a block for the same shape at once.
    both = threading.Barrier(2, timeout=30)
    drawn_by: dict[int, Tensor] = {}

    def train(thread: int) -> None:
        with coupled("assignment", x + thread * x.flip(0)):
            both.wait()
            drawn_by[thread] = torch.randn(x.shape, generator=torch.Generator().manual_seed(thread))
            both.wait()

    threads = [threading.Thread(target=train, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for thread in range(2):
        vanilla = torch.randn(x.shape, generator=torch.Generator().manual_seed(thread))
        assert_same(drawn_by[thread], LinearAssignment()(x + thread * x.flip(0), vanilla))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_noise_of_any_precision_is_coupled_under_autocast_too(dtype: torch.dtype, autocast: bool, x: Tensor) -> None:
    vanilla = drawn(lambda x: torch.randn(x.shape, dtype=dtype), x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), coupled("assignment", x):
        noise = drawn(lambda x: torch.randn(x.shape, dtype=dtype), x)
    assert noise.dtype == dtype
    assert_same(noise, LinearAssignment()(x, vanilla))


def test_inference_mode_is_no_obstacle(x: Tensor) -> None:
    expected = LinearAssignment()(x, drawn(torch.randn_like, x))
    with torch.inference_mode(), coupled("assignment", x):
        assert_same(drawn(torch.randn_like, x), expected)


def noisy(x: Tensor) -> Tensor:
    return torch.randn_like(x) + 1


@pytest.mark.parametrize("where", ["around", "inside", "made before"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_is_coupled_or_is_an_error(where: str, backend: str, x: Tensor) -> None:
    before = coupled("assignment", x)

    def block(x: Tensor) -> Tensor:
        with before if where == "made before" else coupled("assignment", x):
            return noisy(x)

    def around(x: Tensor) -> Tensor:
        with coupled("assignment", x):
            return inner(x)

    torch.compiler.reset()
    inner = torch.compile(noisy, backend=backend)
    expected = LinearAssignment()(x, drawn(torch.randn_like, x)) + 1
    # A graph that makes its own random numbers shows none of it.
    hides = refused("got none: .* outside of compiled code") if backend == "aot_eager" else nullcontext()
    with hides:
        assert_same(drawn(around if where == "around" else torch.compile(block, backend=backend), x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coupling": "nearest"}, "unknown coupling 'nearest'"),
        ({"coupling": None}, "a coupling must be a spelling or a callable, got NoneType"),
        ({"x": [1.0]}, "`x` must be a torch.Tensor, got list"),
        ({"x": torch.arange(4)}, "`x` must have a real floating dtype, got torch.int64"),
        ({"labels": torch.arange(3)}, r"`labels` must have shape \(7,\)"),
        ({"which": -1}, "`which` must be the number of a draw, 0 for the first, got -1"),
        ({"which": True}, "`which` must be the number of a draw"),
        ({"which": "first"}, "`which` must be the number of a draw"),
    ],
)
def test_wrong_arguments_are_refused_before_the_block(arguments: dict[str, Any], message: str, x: Tensor) -> None:
    given: dict[str, Any] = {"coupling": "assignment", "x": x, **arguments}
    with pytest.raises(InputError, match=message):
        coupled(**given)


def test_wrong_values_are_told_at_the_draw(x: Tensor) -> None:
    with refused("`x` must be finite"), coupled("assignment", x * torch.nan):
        torch.randn_like(x)


@pytest.mark.parametrize("returned", [lambda noise: noise[:1], lambda noise: None, lambda noise: noise.numpy()[0]])
def test_a_function_that_returns_no_noise_is_refused(returned: Callable[[Tensor], Any], x: Tensor) -> None:
    message = r"a coupling must return noise of shape \(7, 3, 5, 2\), got "
    with refused(message), coupled(lambda x, noise, **_: returned(noise), x):
        torch.randn_like(x)


def test_it_is_public() -> None:
    assert immiscible.coupled is coupled
    assert "coupled" in immiscible.__all__
