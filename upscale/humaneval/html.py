"""The report as one page without scripts and without links to anything outside it."""

from __future__ import annotations

from html import escape
from typing import Any

from upscale import document
from upscale.document import data_url, table
from upscale.humaneval import plots
from upscale.humaneval.design import LR, QUESTIONS, TRUTH

_QUARTILES = ("quartile1", "median", "quartile3")
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
    parts += [_about(found), _rates(found)]
    if found["preferences"]:
        parts.append(_preferences(found["preferences"]))
    if found["comparisons"]:
        parts.append(_comparisons(found["comparisons"]))
    for rate in found["rates"]:
        parts.append(_pictures(found, rate, thumbnails, top))
    parts += [_answers(found), _excluded(found["exclusions"])]
    return document.page(study["title"], "\n".join(parts), _STYLE)


def of(pictures: list[dict[str, Any]], rate: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of pictures that belong to a fool rate."""
    return [
        row
        for row in pictures
        if row["task"] == rate["task"] and row["method"] == rate["method"] and "against" not in row
    ]


def ends(pictures: list[dict[str, Any]], top: int) -> tuple[list[dict], list[dict]]:
    """The `top` pictures that fool most and those that fool least; none is in both."""
    best = pictures[:top]
    return best, pictures[len(best) :][::-1][:top]


def _about(found: dict[str, Any]) -> str:
    study = found["study"]
    tasks = "".join(f"<li>Task {task}: “{escape(QUESTIONS[task])}”</li>" for task in study["tasks"])
    return (
        f"<p>Two-alternative forced choice as in SR3 (section 4.5.3), {study['seconds']:g} s of "
        f"viewing, {study['images']} pictures a subject, seed {study['seed']}. The fool rate is "
        f"the share of trials in which the model's output is chosen over the truth; at 50% the two "
        f"cannot be told apart.</p><ul>{tasks}</ul>"
    )


def _rates(found: dict[str, Any]) -> str:
    rates = found["rates"]
    rows = [
        (row["task"], row["method"], row["n"], _percent(row["rate"]),
         *(_interval(row[kind]) for kind in ("interval", "wilson", "by_subjects", "by_pictures")))
        for row in rates
    ]  # fmt: skip
    head = ("task", "method", "answers", "fool rate", "95% interval", "Wilson", "subjects alone",
            "pictures alone")  # fmt: skip
    note = (
        "<p>95% interval: over subjects and pictures, which is the one to quote. Wilson takes the "
        "answers for independent; the last two are bootstrap percentiles.</p>"
    )
    plotted = plots.fool_rates(rates) + plots.by_picture(rates, found["pictures"])
    return f"<h2>Fool rates</h2>{table(head, rows)}{note}{plotted}{_agreement(rates)}"


def _agreement(rates: list[dict[str, Any]]) -> str:
    rows = [
        (row["task"], row["method"], row["subjects"], row["pictures"], _number(row["agreement"]),
         _number(row["alpha"]), *(_seconds(row[f"rt_{q}"]) for q in _QUARTILES))
        for row in rates
    ]  # fmt: skip
    head = ("task", "method", "subjects", "pictures", "agreement", "alpha", "time, 1st quartile",
            "median", "3rd quartile")  # fmt: skip
    return (
        f"<h2>Subjects</h2>{table(head, rows)}<p>Agreement: share of pairs of subjects with the "
        "same answer to a picture; alpha: Krippendorff's, 0 by chance. Time: from the end of the "
        "display to the choice.</p>"
    )


def _preferences(preferences: list[dict[str, Any]]) -> str:
    rows = [
        (row["task"], f"{row['method']} over {row['against']}", row["n"], _percent(row["rate"]),
         _interval(row["interval"]), _interval(row["wilson"]))
        for row in preferences
    ]  # fmt: skip
    head = ("task", "pair", "answers", "chosen", "95% interval", "Wilson")
    return f"<h2>Method against method</h2>{table(head, rows)}"


def _comparisons(comparisons: list[dict[str, Any]]) -> str:
    rows = [
        (row["task"], f"{row['method']} less {row['against']}",
         f"{100 * row['difference']:+.1f}", _interval(row["interval"]), _p(row["p"]),
         _p(row["p_holm"]))
        for row in comparisons
    ]  # fmt: skip
    head = ("task", "difference of fool rates", "points", "95% interval", "p", "p (Holm)")
    return (
        f"<h2>Comparison</h2>{table(head, rows)}<p>Paired bootstrap over subjects and over "
        "pictures; p is adjusted for the comparisons of a task.</p>"
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
            caption = (
                f"{escape(row['picture'])}: {row['chosen']} of {row['n']}, "
                f"{_percent(row['rate'])} ({_interval(row['wilson'])})"
            )
            parts.append(
                f"<figure>{images}<figcaption>{caption}; input, {escape(method)}, truth"
                "</figcaption></figure>"
            )
    return "".join(parts)


def _answers(found: dict[str, Any]) -> str:
    sides, timing = found["sides"], found["timing"]
    lines = [
        f"Left was chosen in {sides['left']} of {sides['n']} answers, {_percent(sides['rate'])} "
        f"({_interval(sides['wilson'])})."
    ]
    for key, what in (
        ("shown_ms", "by the page's frames"),
        ("presented_ms", "by the browser's paint times"),
    ):
        if timing[key]:
            told = timing[key]
            lines.append(
                f"Viewing time {what}: median {told['median']:.1f} ms, from {told['min']:.1f} to "
                f"{told['max']:.1f} ({told['n']} trials)."
            )
    if timing["frame_ms"]:
        lines.append(f"A frame took {timing['frame_ms']['median']:.1f} ms (median).")
    plot = plots.response_times(found["answers"]) or ""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<h2>Answers</h2>{text}{plot}"


def _excluded(exclusions: dict[str, Any]) -> str:
    rules = "".join(f"<li>{escape(rule)}</li>" for rule in exclusions["rules"])
    said = "".join(f"<li>{escape(line)}</li>" for line in exclusions["said"])
    return f"<h2>What counts</h2><ul>{rules}</ul><ul>{said}</ul>"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _interval(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.1f} to {100 * value[1]:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1000:.2f} s"
