"""A picture of plans: what a policy would do next after one observation, beside what was demonstrated."""

from __future__ import annotations

import io
from pathlib import Path

from torch import Tensor

from immiscible.io.files import write_bytes


def write_plans(out: Path, plans: Tensor, demonstrated: Tensor) -> None:
    """Writes the picture of :func:`plans_png`."""
    write_bytes(out, plans_png(plans, demonstrated))


def plans_png(plans: Tensor, demonstrated: Tensor) -> bytes:
    """Draws plans as paths of their first two numbers, or over time where an action is one number.

    Arguments:
        plans: Plans after one observation, with shape (N, T, A), in the units of the demonstrations.
        demonstrated: What was done, with shape (T, A).

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    flat = plans.shape[2] == 1
    for plan in plans.float().cpu().numpy():
        axes.plot(*(plan.T if flat else plan[:, :2].T), color="#0072b2", alpha=0.35, linewidth=1)
    shown = demonstrated.float().cpu().numpy()
    axes.plot(*(shown.T if flat else shown[:, :2].T), color="#d55e00", linewidth=2, marker=".", label="demonstrated")
    axes.plot([], [], color="#0072b2", label=f"{len(plans)} plans")
    if not flat:
        axes.set_aspect("equal", "datalim")
    axes.legend(loc="best", fontsize="small")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
