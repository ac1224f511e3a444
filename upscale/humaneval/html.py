"""The report as one page without scripts and without links to anything outside it."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from operator import itemgetter
from typing import Any

from upscale import document
from upscale.document import counted, data_url
from upscale.humaneval import plots
from upscale.humaneval.design import LR, QUESTIONS, TRUTH

Row = dict[str, Any]
Cell = Callable[[Row], str]  # the text of a row in a column
_STYLE = """
:root { color-scheme: light; }
body { max-width: 62em; color: #1a1a1a; background: #fff; }
table { margin: 1em 0; }
td:nth-child(2), th:nth-child(2) { text-align: left; }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top; }
figure img { max-width: 192px; }
figcaption { max-width: 40em; }
svg { max-width: 100%; height: auto; }
.warning { background: #ffe9a8; padding: .6em 1em; }
"""


def page(found: dict[str, Any], thumbnails: dict[tuple[int, str], bytes], top: int) -> str:
    """The whole report. thumbnails: (picture, role) -> PNG."""
    study = found["study"]
    parts = [f"<h1>{escape(study['title'])}</h1>"]
    if found.get("simulated"):
        parts.append(
            '<p class="warning">Simulated: no person gave these answers. True fool rates: '
            f"{escape(str(found['simulated']))}.</p>"
        )
    if found["missing"]:
        lines = "<br>".join(map(escape, found["missing"]))
        parts.append(f'<p class="warning">{lines}</p>')
    parts += [_about(found), _rates(found)]
    if found["preferences"]:
        parts.append(_preferences(found["preferences"]))
    if found["comparisons"]:
        parts.append(_comparisons(found["comparisons"]))
    for rate in found["rates"]:
        parts.append(_pictures(found, rate, thumbnails, top))
    parts += [_answers(found), _excluded(found["exclusions"])]
    return document.page(study["title"], "\n".join(parts), _STYLE)


def of(pictures: list[Row], rate: Row) -> list[Row]:
    """The rows of pictures that belong to a fool rate."""
    own = rate["task"], rate["method"]
    return [r for r in pictures if (r["task"], r["method"]) == own and "against" not in r]


def ends(pictures: list[dict[str, Any]], top: int) -> tuple[list[dict], list[dict]]:
    """The `top` pictures that fool most and those that fool least; none is in both."""
    best = pictures[:top]
    return best, pictures[len(best) :][::-1][:top]


def _about(found: dict[str, Any]) -> str:
    study = found["study"]
    tasks = "".join(f"<li>Task {task}: “{escape(QUESTIONS[task])}”</li>" for task in study["tasks"])
    return (
        f"<p>Two-alternative forced choice as in SR3 (section 4.5.3), {study['seconds']:g} s of "
        f"viewing, {counted(study['images'], 'picture')} a subject, seed {study['seed']}. The fool "
        f"rate is the share of trials in which the model's output is chosen over the truth; at 50% "
        f"the two cannot be told apart.</p><ul>{tasks}</ul>"
    )


def _rates(found: dict[str, Any]) -> str:
    rates = found["rates"]
    columns = {"task": "task", "method": "method", "answers": "n", "fool rate": _percent("rate")}
    columns |= {"95% interval": _interval("interval"), "Wilson": _interval("wilson")}
    columns |= {f"{name} alone": _interval(f"by_{name}") for name in ("subjects", "pictures")}
    note = (
        "<p>95% interval: over subjects and pictures, which is the one to quote. Wilson takes the "
        "answers for independent; the last two are bootstrap percentiles. Of a method that was "
        "chosen always or never, or by one subject, the first is Wilson's too, and too narrow.</p>"
    )
    plotted = plots.fool_rates(rates) + plots.by_picture(rates, found["pictures"])
    return f"<h2>Fool rates</h2>{_table(rates, columns)}{note}{plotted}{_agreement(rates)}"


def _agreement(rates: list[Row]) -> str:
    columns = {name: name for name in ("task", "method", "subjects", "pictures")}
    columns |= {name: _format(name, "{:.2f}") for name in ("agreement", "alpha")}
    quartiles = {"time, 1st quartile": "quartile1", "median": "median", "3rd quartile": "quartile3"}
    columns |= {title: _format(f"rt_{key}", "{:.2f} s", 1000) for title, key in quartiles.items()}
    return (
        f"<h2>Subjects</h2>{_table(rates, columns)}<p>Agreement: share of pairs of subjects with "
        "the same answer to a picture; alpha: Krippendorff's, 0 by chance. Time: from the end of "
        "the display to the choice.</p>"
    )


def _preferences(preferences: list[Row]) -> str:
    columns = {"task": "task", "pair": lambda row: f"{row['method']} over {row['against']}"}
    columns |= {"answers": "n", "chosen": _percent("rate")}
    columns |= {"95% interval": _interval("interval"), "Wilson": _interval("wilson")}
    return f"<h2>Method against method</h2>{_table(preferences, columns)}"


def _comparisons(comparisons: list[Row]) -> str:
    columns = {
        "task": "task",
        "difference of fool rates": lambda row: f"{row['method']} less {row['against']}",
        "points": _format("difference", "{:+.1f}", 0.01),
        "95% interval": _interval("interval"),
        "p": _p("p"),
        "p (Holm)": _p("p_holm"),
    }
    return (
        f"<h2>Comparison</h2>{_table(comparisons, columns)}<p>Paired bootstrap over subjects and "
        "over pictures; p is adjusted for the comparisons of a task.</p>"
    )


def _pictures(
    found: dict[str, Any], rate: dict[str, Any], thumbnails: dict[tuple[int, str], bytes], top: int
) -> str:
    own = of(found["pictures"], rate)
    method = rate["method"]
    parts = [f"<h2>Task {rate['task']}, {escape(method)}: pictures</h2>"]
    for title, rows in zip(("Fooled most", "Fooled least"), ends(own, top), strict=True):
        if rows:
            parts.append(f"<h3>{title}</h3>")
        for row in rows:
            images = "".join(
                f'<img alt="{escape(alt)}" src="{data_url(thumbnails[row["id"], role], "png")}">'
                for role, alt in ((LR, "input"), (method, method), (TRUTH, "truth"))
                if (row["id"], role) in thumbnails
            )
            parts.append(
                f"<figure>{images}<figcaption>{escape(row['picture'])}: {row['chosen']} of "
                f"{row['n']}, {_percent('rate')(row)} ({_interval('wilson')(row)}); input, "
                f"{escape(method)}, truth</figcaption></figure>"
            )
    return "".join(parts)


def _answers(found: dict[str, Any]) -> str:
    sides, timing = found["sides"], found["timing"]
    lines = [
        f"Left was chosen in {sides['left']} of {counted(sides['n'], 'answer')}, "
        f"{_percent('rate')(sides)} ({_interval('wilson')(sides)})."
    ]
    for by, clock in (("shown", "page's frames"), ("presented", "browser's paint times")):
        if times := timing[f"{by}_ms"]:
            lines.append(
                f"Viewing time by the {clock}: median {times['median']:.1f} ms, from "
                f"{times['min']:.1f} to {times['max']:.1f} ({counted(times['n'], 'trial')})."
            )
    if timing["frame_ms"]:
        lines.append(f"A frame took {timing['frame_ms']['median']:.1f} ms (median).")
    if found["zooms"]:
        sizes = ", ".join(f"{n}x{n} ({counted(times, 'trial')})" for n, times in found["zooms"])
        lines.append(f"A pixel of the pictures stood on pixels of the screen: {sizes}.")
    plot = plots.response_times(found["answers"]) or ""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<h2>Answers</h2>{text}{plot}"


def _excluded(exclusions: dict[str, Any]) -> str:
    rules = "".join(f"<li>{escape(rule)}</li>" for rule in exclusions["rules"])
    said = "".join(f"<li>{escape(line)}</li>" for line in exclusions["said"])
    return f"<h2>What counts</h2><ul>{rules}</ul><ul>{said}</ul>"


def _table(rows: list[Row], columns: dict[str, str | Cell]) -> str:
    """columns: the heading of each, and its key in a row or what makes its text."""
    makers = [itemgetter(make) if isinstance(make, str) else make for make in columns.values()]
    return document.table(columns, ([make(row) for make in makers] for row in rows))


def _format(key: str, form: str, unit: float = 1) -> Cell:
    return lambda row: "" if row[key] is None else form.format(row[key] / unit)


def _percent(key: str) -> Cell:
    return lambda row: f"{100 * row[key]:.1f}%"


def _interval(key: str) -> Cell:
    return lambda row: f"{100 * row[key][0]:.1f} to {100 * row[key][1]:.1f}"


def _p(key: str) -> Cell:
    return lambda row: "< 0.001" if row[key] < 0.001 else f"{row[key]:.3f}"
