"""Which coupling to try on some data: a rule of few conditions, each with the measurements that speak for it.

The first row of :data:`RULE` whose condition holds decides. What the conditions ask of the data is measured on it: how
much nearer an assignment brings the noise, what it lets the noise say of a model's condition, and what it costs. How
often the rule is right on the comparisons that this package has run is counted by ``benchmarks/advise.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from immiscible.analysis.batches import Batches
from immiscible.analysis.cost import cost
from immiscible.analysis.leak import leak
from immiscible.analysis.reduction import Reduction, Table, reductions
from immiscible.analysis.study import couplings_of
from immiscible.couplings import Coupling
from immiscible.data.measured import Measured

Condition = Literal["none", "classes", "observations", "texts"]
# Up to this many network calls all batches are coupled, and half of them beyond: fitted to the comparisons.
FEW_CALLS = 10
# KNN by distance up to this many calls, by scalar product beyond.
FEW_CALLS_KNN = 5
# A batch below this is pooled with others, up to the next.
SMALL_BATCH, POOL = 64, 2048
# Data of a class that an assignment should have to choose from.
OF_A_CLASS = 8
# Above this an exact solver takes too long, see the page on scaling.
EXACT_UP_TO = 2048
# Vectors shorter than this are brought too near by eight candidates.
LONG = 256
# Nearer by less than this many standard errors is not nearer.
ERRORS = 3.0
# Pairs that are measured, and how often a pairing is timed.
PAIRS, TIMED = 2048, 5


@dataclass(frozen=True)
class Wish:
    """What is to be trained, and how it is to be sampled.

    Attributes:
        system: The system, such as ``flow``.
        condition: What the model is conditioned on.
        batch_size: The data of a training step.
        nfe: The numbers of network calls that samples are to be drawn with.
        budget_ms: What pairing may cost a training step, in milliseconds; 0 for anything.
        cost_space: The space that the coupling ranks in.
        seed: The seed of all that is measured.
    """

    system: str = "flow"
    condition: Condition = "none"
    batch_size: int = 256
    nfe: tuple[int, ...] = (5, 50)
    budget_ms: float = 0.0
    cost_space: str = "centered"
    seed: int = 0


@dataclass(frozen=True)
class Facts:
    """What the rule asks for.

    Attributes:
        wish: What is wanted.
        pool: The data that an assignment would pair at once.
        dims: The numbers in a datum.
        nearer: By how many per cent an assignment of the pool brings the noise nearer, within classes where there are.
        nearer_error: Its standard error.
        told: The share of the observations' variance that the noise of an assignment tells; 0 without any.
        told_error: The standard error of that.
        few_calls: Up to how many network calls all batches are coupled.
    """

    wish: Wish
    pool: int
    dims: int
    nearer: float
    nearer_error: float
    told: float = 0.0
    told_error: float = 0.0
    few_calls: int = FEW_CALLS

    @property
    def calls(self) -> int:
        """The most network calls."""
        return max(self.wish.nfe)

    @property
    def alone(self) -> bool:
        """Whether there is no batch to pair."""
        return self.wish.batch_size == 1


@dataclass(frozen=True)
class Row:
    """A row of the rule.

    Attributes:
        when: Its condition in words.
        holds: Its condition.
        coupling: What it recommends.
        because: What speaks for it.
        evidence: The pages of results that it rests on.
    """

    when: str
    holds: Callable[[Facts], bool]
    coupling: Callable[[Facts], str]
    because: str
    evidence: tuple[str, ...] = ()


def _independent(facts: Facts) -> str:
    return "independent"


RULE = (
    Row(
        "consistency training",
        lambda facts: facts.wish.system == "consistency",
        _independent,
        "no coupling was ahead there: assignment had an FID 72 % higher at 1 call and 141 % at 2",
        ("consistency-digits",),
    ),
    Row(
        "the model is conditioned on texts",
        lambda facts: facts.wish.condition == "texts",
        _independent,
        "every pairing across captions lost, with an FID 46 to 155 % higher: the noise tells the caption",
        ("stable-diffusion",),
    ),
    Row(
        "the noise of an assignment tells the observations",
        lambda facts: facts.told > ERRORS * facts.told_error,
        _independent,
        "a model learns to read them from the noise, which tells nothing when it samples: assignments ruined policies "
        "on Push-T (a prototype, with R² = 0.61), and pairing across captions did harm",
        ("stable-diffusion",),
    ),
    Row(
        "an assignment brings the noise no nearer",
        lambda facts: not facts.alone and facts.nearer <= ERRORS * facts.nearer_error,
        _independent,
        "there is nothing to gain: no noise is nearer to one datum of a batch than to another",
    ),
    Row(
        "a batch of one, and a condition",
        lambda facts: facts.alone and facts.wish.condition in ("classes", "observations"),
        _independent,
        "of a single datum KNN alone can choose, and it pairs across conditions, which lost by 46 to 155 %",
        ("stable-diffusion",),
    ),
    Row(
        f"a batch of one, at most {FEW_CALLS_KNN} network calls, data of fewer than {LONG} numbers",
        lambda facts: facts.alone and facts.calls <= FEW_CALLS_KNN and facts.dims < LONG,
        lambda facts: "knn:4",
        "KNN needs no batch; k = 4 was ahead by 37 and 23 % at 2 and 5 calls on digits",
        ("flow-digits",),
    ),
    Row(
        "a batch of one",
        lambda facts: facts.alone,
        lambda facts: "knn:8:dot" if facts.dims >= LONG else "knn:4:dot",
        "KNN needs no batch; by distance it shortens the noise and was behind from 10 calls on in flow matching, by "
        "scalar product it was ahead at few calls and level at 50",
        ("flow-fashion-mnist", "ddim-fashion-mnist"),
    ),
    Row(
        "the model is conditioned on classes",
        lambda facts: facts.wish.condition == "classes",
        lambda facts: "assignment",
        "within classes the noise of each keeps its law, and the FID was 11 to 13 % lower at 5, 20 and 50 calls, level "
        "within the spread of two seeds; across classes it was 50 to 67 % higher",
        ("stable-diffusion",),
    ),
    Row(
        f"at most {FEW_CALLS} network calls",
        lambda facts: facts.calls <= facts.few_calls,
        lambda facts: "assignment",
        "the strongest at few calls: at 5 the FID was 48 % lower on digits and 40 % on Fashion-MNIST",
        ("flow-digits", "flow-fashion-mnist", "ddim-fashion-mnist"),
    ),
    Row(
        "more network calls too",
        lambda facts: True,
        lambda facts: "assignment@0.5",
        "coupling half of the batches keeps most of the gain at few calls and was level or ahead at 50, where coupling "
        "all of them was 35 % behind on digits",
        ("flow-digits", "flow-fashion-mnist", "ddim-fashion-mnist"),
    ),
)


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes:
        coupling: The coupling.
        cost_space: The space that it ranks in.
        pool: The data paired at once, 0 for those of the batch.
        within_classes: Whether noise stays within classes.
        cost_ms: What pairing a training step takes on this machine, without what runs in the background.
        when: The row of the rule.
        because: What speaks for it.
        evidence: The pages of results that it rests on.
        figures: What was measured on the data, in a line each.
        watch: What to look at, in a line each.
    """

    coupling: str
    cost_space: str
    pool: int
    within_classes: bool
    cost_ms: float
    when: str
    because: str
    evidence: list[str]
    figures: list[str] = field(default_factory=list)
    watch: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def decide(facts: Facts) -> tuple[Row, str]:
    """The row of the rule that decides, and the coupling that it recommends."""
    row = next(row for row in RULE if row.holds(facts))
    return row, row.coupling(facts)


@torch.no_grad()
def advise(data: Measured, wish: Wish) -> Advice:
    """Measures data and recommends a coupling.

    Arguments:
        data: The data, or enough of them.
        wish: What is to be trained.

    Raises:
        InputError: If the data have no such cost space, or are too few.
    """
    facts, figures = measure(data, wish)
    advice = _within_budget(data, facts, _advice(facts, figures))
    return replace(advice, watch=_to_watch(advice, facts, data))


def _advice(facts: Facts, figures: list[str]) -> Advice:
    """What the rule says, before it is known what that costs."""
    row, coupling = decide(facts)
    pool = facts.pool if "assignment" in coupling and facts.pool != facts.wish.batch_size else 0
    if pool > EXACT_UP_TO:
        coupling = coupling.replace("assignment", "assignment:auto", 1)
    return Advice(
        coupling=coupling,
        cost_space=facts.wish.cost_space if coupling != "independent" else "raw",
        pool=pool,
        within_classes="assignment" in coupling and facts.wish.condition == "classes",
        cost_ms=0.0,
        when=row.when,
        because=row.because,
        evidence=list(row.evidence),
        figures=figures,
    )


def pool_of(wish: Wish, classes: int) -> int:
    """The data that an assignment should pair at once: a multiple of the batch.

    Arguments:
        wish: What is wanted.
        classes: The number of classes that noise stays within, at least 1.
    """
    wanted = wish.batch_size if wish.batch_size >= SMALL_BATCH else POOL
    wanted = max(wanted, OF_A_CLASS * classes if classes > 1 else 0)
    return wish.batch_size * -(-wanted // wish.batch_size)


def measure(data: Measured, wish: Wish) -> tuple[Facts, list[str]]:
    """What the rule asks of some data, and the same in words.

    Raises:
        InputError: If the data have no such cost space, or are too few.
    """
    labels = data.labels if wish.condition == "classes" else None
    pool = pool_of(wish, 1 if labels is None else int(labels.max()) + 1)
    paired = min(pool, len(data), POOL)
    coupling = couplings_of("assignment", wish.cost_space, data)["assignment"]
    batches = Batches(max(2, -(-PAIRS // paired)), paired, labels, wish.seed)
    nearer = _nearer(data, coupling, batches)
    within = " within classes" if labels is not None else ""
    figures = [
        f"an assignment of {paired:,} data{within} brings the noise {nearer.percent:.2f} ± {nearer.error:.2f} % nearer"
    ]
    facts = Facts(wish, pool, data.dims, nearer.percent, nearer.error)
    observations = data.standard_observations()
    if wish.condition == "observations" and observations is not None:
        found = leak(data.x, observations, coupling, batches)
        facts = replace(facts, told=found.excess, told_error=found.excess_error)
        figures.append(
            f"its noise tells the observations with R² = {found.score:.2f}, independent noise with {found.floor:.2f}"
        )
    if labels is not None and int(labels.max()) > 0:
        across = leak(data.x, labels, coupling, replace(batches, labels=None))
        kept = leak(data.x, labels, coupling, batches)
        figures.append(
            f"a class is read from the noise with an accuracy of {across.score:.2f} across classes, {kept.score:.2f} "
            f"within, {kept.floor:.2f} of independent noise"
        )
    return facts, figures


def _nearer(data: Measured, coupling: Coupling, batches: Batches) -> Reduction:
    table = Table([batches.size], ["raw"], PAIRS)
    return reductions(data.x, [coupling], table, labels=batches.labels, seed=batches.seed)[0]


def _within_budget(data: Measured, facts: Facts, advice: Advice) -> Advice:
    """The first of some cheaper versions that costs no more than may be, with what it costs."""
    wish = facts.wish
    choices = [advice]
    if "assignment" in advice.coupling:
        smaller = replace(advice, pool=0)
        blocks = replace(smaller, coupling=advice.coupling.replace("assignment", f"assignment:{SMALL_BATCH}", 1))
        choices += [smaller] * (advice.pool > 0) + [blocks] * (wish.batch_size > SMALL_BATCH)
        # What pairs no batch is what a batch of one would take.
        choices.append(_advice(replace(facts, wish=replace(wish, batch_size=1)), advice.figures))
    independent = replace(advice, coupling="independent", pool=0, within_classes=False, cost_space="raw")
    choices += [independent] if choices[-1].coupling != "independent" else []
    costs = [pairing_ms(data, advice, wish)]
    while wish.budget_ms and costs[-1] > wish.budget_ms and len(costs) < len(choices):
        costs.append(pairing_ms(data, choices[len(costs)], wish))
    choice = choices[len(costs) - 1]
    if choice is not advice:
        over = f"{_named(advice)} takes {costs[0]:.2f} ms a step, more than the {wish.budget_ms:g} ms of the budget"
        paired = "assignment" in choice.coupling
        when = f"{choice.when}, within the budget" if paired else "pairing batches costs more than the budget"
        choice = replace(choice, when=when, figures=[*advice.figures, over])
    return replace(choice, cost_ms=costs[-1])


def _named(advice: Advice) -> str:
    return f"{advice.coupling} in pools of {advice.pool:,}" if advice.pool else advice.coupling


def pairing_ms(data: Measured, advice: Advice, wish: Wish) -> float:
    """What pairing takes for a training step, in milliseconds: the median, and of a pool the batch's share.

    Arguments:
        data: The data.
        advice: The coupling, its space and its pool.
        wish: The batch.
    """
    size = advice.pool or wish.batch_size
    paired = min(size, 2 * POOL)
    coupling = couplings_of(advice.coupling, advice.cost_space, data)[advice.coupling]
    # Data that are too few for a pool stand in it several times: what that costs is the same.
    index = torch.arange(max(paired, len(data))) % len(data)
    x = data.x[index.to(data.x.device)]
    labels = data.labels[index] if advice.within_classes and data.labels is not None else None
    found = cost(x, coupling, Batches(TIMED, paired, labels, wish.seed))
    return found.milliseconds * min(1.0, wish.batch_size / paired)


def _to_watch(advice: Advice, facts: Facts, data: Measured) -> list[str]:
    """What may go wrong with the recommendation."""
    said = []
    if advice.coupling == "independent":
        return ["to make sure: compare with assignment@0.5 on a short run, at all of your numbers of calls"]
    said.append(f"compare with independent noise at {', '.join(map(str, facts.wish.nfe))} calls, with the same seeds")
    if "assignment" in advice.coupling:
        said.append("--coupling-start 25% was better at every number of calls on digits")
        said.append("precision beside FID: on digits it was lower at 10 and 50 calls with every coupling")
    if advice.coupling.startswith("knn"):
        said.append("the drift that train prints: the noise is not N(0, I) any more, and sampling starts from N(0, I)")
        said.append("batches that can be drawn ahead: --pool 2048, or immiscible.Pool, lets an assignment pair them")
    if advice.within_classes:
        said.append("a class with few data in a pool has little to choose from: --pool helps")
    if facts.wish.condition == "none" and data.observations is not None:
        said.append("the file holds observations: if the model is conditioned on them, add --conditional")
    elif facts.wish.condition == "none" and data.labels is not None:
        said.append("the data have labels: if the model is conditioned on them, add --conditional")
    return said
