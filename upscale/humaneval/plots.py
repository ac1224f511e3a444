"""The report's plots, as SVG to stand in the page; the only door to matplotlib."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

TASKS = {1: "Task 1: with the input", 2: "Task 2: without"}
_BLUE, _GREY = "#2f6db5", "#777777"
# paths instead of text, no date, no random ids: the same answers make the same bytes
_STYLE = {"svg.fonttype": "path", "svg.hashsalt": "diffsr", "font.size": 10}


def fool_rates(rates: list[dict[str, Any]]) -> str:
    """A point and its interval for each method, a panel for each task; 50% is indistinguishable."""
    tasks = sorted({row["task"] for row in rates})
    longest = max(sum(row["task"] == task for row in rates) for task in tasks)
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(len(tasks), 1.1 + 0.42 * longest)
        for axes, task in zip(panels, tasks, strict=True):
            own = [row for row in rates if row["task"] == task][::-1]
            for y, row in enumerate(own):
                axes.plot([100 * v for v in row["interval"]], [y, y], color=_BLUE, lw=2)
                axes.plot([100 * row["rate"]], [y], "o", color=_BLUE)
            axes.axvline(50, color=_GREY, lw=1, ls="--")
            axes.set(
                xlim=(0, 100), ylim=(-0.6, len(own) - 0.4), title=TASKS[task], xlabel="fool rate, %"
            )
            axes.set_yticks(range(len(own)), [row["method"] for row in own])
        return _svg(figure)


def by_picture(rates: list[dict[str, Any]], pictures: list[dict[str, Any]]) -> str:
    """Every picture's rate, sorted: whether a method fools with all pictures or with some."""
    tasks = sorted({row["task"] for row in rates})
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(len(tasks), 2.8)
        for axes, task in zip(panels, tasks, strict=True):
            for method in [row["method"] for row in rates if row["task"] == task]:
                own = sorted(
                    100 * row["rate"]
                    for row in pictures
                    if row["task"] == task and row["method"] == method and "against" not in row
                )
                share = np.linspace(0, 100, len(own) + 1)
                axes.step(share, [*own, own[-1]], where="post", label=method)
            axes.axhline(50, color=_GREY, lw=1, ls="--")
            axes.set(xlim=(0, 100), ylim=(-3, 103), title=TASKS[task], ylabel="fool rate, %")
            axes.set_xlabel("pictures, %, least fooling first")
            axes.legend(fontsize=8, frameon=False)
        return _svg(figure)


def response_times(answers: list[dict[str, Any]]) -> str | None:
    """Seconds from the end of the display to the choice; None where none were taken."""
    counted = [row["rt_ms"] for row in answers if row["excluded"] is None]
    times = [milliseconds / 1000 for milliseconds in counted if milliseconds is not None]
    if not times:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _panels(1, 2.4)
        top = max(1.0, float(np.percentile(times, 98)))
        axes.hist(np.minimum(times, top), bins=30, range=(0, top), color=_BLUE)
        axes.set(xlim=(0, top), ylabel="answers")
        axes.set_xlabel("response time, s (the last bin holds all slower ones)")
        return _svg(figure)


def _panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(4.6 * count, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    return text[text.index("<svg") :]  # without the XML prologue
