"""Strings become couplings in one place, and couplings the same strings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from immiscible import (
    KNN,
    Cells,
    Components,
    Coupling,
    Independent,
    InputError,
    LinearAssignment,
    Mixed,
    Mixture,
    Reservoir,
    coupling,
)

SPELLED = {
    "independent": Independent(),
    "knn:1": KNN(1),
    "knn:8": KNN(8),
    "knn:1000000": KNN(1_000_000),
    "knn:8:dot": KNN(8, "dot"),
    "knn:2.5:dot": KNN(2.5, "dot"),
    "assignment": LinearAssignment(),
    "assignment:512": LinearAssignment(block=512),
    "assignment:slabs": LinearAssignment(solver="slabs"),
    "assignment:auto:4096:global": LinearAssignment(4096, "auto", "global"),
    "assignment:global": LinearAssignment(pool="global"),
    "assignment:worst": LinearAssignment(goal="worst"),
    "assignment:entropic:0.3": LinearAssignment(temperature=0.3),
    "assignment:auction:worst:entropic:2:64:global@0.5": Mixed(
        LinearAssignment(64, "auction", "global", goal="worst", temperature=2), 0.5
    ),
    "assignment:sinkhorn@0.5": Mixed(LinearAssignment(solver="sinkhorn"), 0.5),
    "assignment@0.5": Mixed(LinearAssignment(), 0.5),
    "reservoir:256": Reservoir(),
    "cells:256:16": Cells(),
    "cells:64:8@0.5": Mixed(Cells(64, rank=8), 0.5),
    "components:16:0.8": Components(),
    "components:8:0.25": Components(8, 0.25),
    "mixture:10:16": Mixture(10),
    "reservoir:64:0.25@0.75": Mixed(Reservoir(64, 0.25), 0.75),
    "assignment:512@0.25": Mixed(LinearAssignment(block=512), 0.25),
    "knn:2.5:dot@1": Mixed(KNN(2.5, "dot"), 1),
    "independent@0": Mixed(Independent(), 0),
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_spelling_names_its_coupling_and_back(spelling):
    assert repr(coupling(spelling)) == repr(SPELLED[spelling])
    assert str(SPELLED[spelling]) == spelling


@pytest.mark.parametrize(
    ("other", "spelling"),
    [
        (" knn:8 ", "knn:8"),
        ("knn:8:l2", "knn:8"),
        ("knn:8.0", "knn:8"),
        ("knn:1e3", "knn:1000"),
        ("assignment@5e-1", "assignment@0.5"),
        ("assignment:global:exact:64", "assignment:64:global"),
        # Noise that is assigned with its sign turned is as far apart as can be.
        ("assignment:flipped", "assignment:worst"),
        ("assignment:64:entropic:0.5:flipped", "assignment:worst:entropic:0.5:64"),
        ("assignment:entropic:0", "assignment"),
        ("reservoir:256:0.5", "reservoir:256"),
        ("cells:64", "cells:64:16"),
        ("components:8", "components:8:0.8"),
        ("mixture:5", "mixture:5:16"),
    ],
)
def test_other_ways_to_write_the_same(other, spelling):
    assert str(coupling(other)) == spelling


plain = st.one_of(
    st.just(Independent()),
    st.integers(1, 10**9).map(KNN),
    st.floats(1, 1e15).map(lambda k: KNN(k, "dot")),
    st.none().map(LinearAssignment),
    st.integers(2, 10**9).map(LinearAssignment),
    st.builds(Cells, st.integers(1, 2**16), st.integers(1, 2**12)),
    st.builds(Reservoir, st.integers(1, 2**24), st.floats(0, 1e9)),
    st.floats(0, 1e9).map(lambda temperature: LinearAssignment(temperature=temperature)),
)
informed = st.one_of(
    st.builds(Components, st.integers(1, 2**12), st.floats(0, 1)),
    st.builds(Mixture, st.integers(1, 2**10), st.integers(1, 2**12)),
)
mixed = st.builds(Mixed, plain, st.one_of(st.floats(0, 1), st.integers(0, 1)))


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(st.one_of(plain, informed, mixed))
def test_every_coupling_is_read_back_from_its_string(original):
    assert coupling(str(original)) == original


UNKNOWN = [
    "", " ", "vanilla", "KNN:8", "Independent", "independent:2", "knn", "knn:", "knn:many", "knn:8:cosine",
    "knn:8:dot:2", "knn::dot", "assignment:", "assignment:many", "assignment:2.5", "assignment:3:4", "lap", "@0.5",
    "assignment:entropic", "assignment:entropic:", "assignment:entropic:hot", "assignment:worst:flipped",
    "assignment:best", "assignment@", "assignment@half", "assignment@0.5@0.5", "knn:8@0.5:dot", "knn 8",
    "knn:8,assignment", "reservoir", "reservoir:", "reservoir:many", "reservoir:2.5", "reservoir:8:old",
    "reservoir:8:1:1", "cells", "cells:", "cells:many", "cells:8:2.5", "cells:8:4:2",
    "components", "components:", "components:8:", "components:8:0.5:2", "components:2.5", "mixture", "mixture:8:4:2",
]  # fmt: skip


@pytest.mark.parametrize("spelling", UNKNOWN)
def test_unknown_spelling_is_refused_in_one_line_that_lists_what_is_allowed(spelling):
    with pytest.raises(InputError) as caught:
        coupling(spelling)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(spelling) in message
    for allowed in (
        "independent",
        "knn:K",
        "knn:K:dot",
        "assignment",
        "assignment:BLOCK",
        "assignment:worst",
        "reservoir:SIZE",
        "@PROBABILITY",
    ):
        assert allowed in message


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("knn:0", "K must be a finite number of at least 1, got 0"),
        ("knn:-4", "K must be a finite number of at least 1, got -4"),
        ("knn:0.5:dot", "K must be a finite number of at least 1, got 0.5"),
        ("knn:nan", "K must be a finite number"),
        ("knn:inf:dot", "K must be a finite number"),
        ("knn:2.5", "K must be whole for score 'l2', got 2.5"),
        ("assignment:1", "BLOCK must be None or a whole number of at least 2, got 1"),
        ("assignment:-4", "BLOCK must be None or a whole number of at least 2, got -4"),
        ("assignment:entropic:-1", "TEMPERATURE must be a finite number of at least 0, got -1"),
        ("assignment:entropic:nan", "TEMPERATURE must be a finite number"),
        ("assignment:entropic:inf@0.5", "TEMPERATURE must be a finite number"),
        ("assignment:slabs:entropic:1", "TEMPERATURE is for solver exact, auction, sinkhorn, got it with 'slabs'"),
        ("reservoir:0", "SIZE must be a whole number from 1 to 16,777,216, got 0"),
        ("reservoir:8:-1", "AGE must be a finite number of at least 0, got -1"),
        ("cells:0", "COUNT must be a whole number from 1 to 65,536, got 0"),
        ("cells:8:0", "RANK must be a whole number from 1 to 4,096, got 0"),
        ("assignment@1.5", r"PROBABILITY must be a probability in \[0, 1\], got 1.5"),
        ("assignment@nan", r"PROBABILITY must be a probability in \[0, 1\], got nan"),
    ],
)
def test_number_out_of_range_is_refused_in_one_line(spelling, message):
    with pytest.raises(InputError, match=message) as caught:
        coupling(spelling)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given_instead", [None, 4, ["knn:8"]])
def test_neither_spelling_nor_callable_is_refused(given_instead):
    with pytest.raises(InputError, match=r"must be a spelling or a callable, got .*: independent, knn:K"):
        coupling(given_instead)


def reversed_noise(
    x: torch.Tensor,
    noise: torch.Tensor,
    *,
    labels: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    return noise.flip(0)


def test_plain_function_is_a_coupling_and_stays_itself():
    function: Coupling = reversed_noise
    assert isinstance(function, Coupling)
    assert coupling(function) is function


@pytest.mark.parametrize("spelling", SPELLED)
def test_coupling_is_a_coupling_and_stays_itself(spelling):
    original = SPELLED[spelling]
    assert isinstance(original, Coupling)
    assert coupling(original) is original


@pytest.mark.parametrize("spelling", SPELLED)
def test_coupling_is_frozen_and_hashable(spelling):
    original = SPELLED[spelling]
    assert hash(original) == hash(coupling(spelling))
    with pytest.raises(AttributeError):
        original.k = 3
