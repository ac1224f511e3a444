"""loss.svg: how a run goes, drawn from its metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from upscale import atomic
from upscale.train.log import METRICS, explained

WIDTH, HEIGHT, LEFT, TOP = 640, 180, 70, 30  # of a panel, and its margins
MOST = 300  # points of a line: each is the mean of what lies between two
Curve = Sequence[tuple[float, float]]  # (iteration, value)


def draw(log: Path) -> None:
    """The loss, and what validations measured, beside the log. Raises OutputError, DiskFull."""
    curves: dict[str, list[tuple[float, float]]] = {"loss": []}
    for line in map(json.loads, log.read_text().splitlines()) if log.is_file() else ():
        for name, value in line.get("validation", {"": line.get("loss")}).items():
            title = f"validation: {METRICS[name]}" if name else "loss"
            curves.setdefault(title, []).append((line["iteration"], value))
    there = [(title, curve) for title, curve in curves.items() if curve]
    panels = [_panel(*one, index * (HEIGHT + TOP)) for index, one in enumerate(there)]
    height = len(panels) * (HEIGHT + TOP) + TOP
    path = log.with_name("loss.svg")
    with explained(path), atomic.replacing(path) as temporary:
        temporary.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n'
        )


def _panel(title: str, curve: Curve, top: int) -> str:
    """A title, a frame with the numbers at its ends, and the line."""
    x, y = np.array([np.mean(part, 0) for part in _parts(curve)], dtype=float).T
    last, low = float(curve[-1][0]), float(y.min())
    high = max(float(np.quantile(y, 0.98)), low + 1e-12)  # the first losses may be huge
    across = LEFT + x / max(last, 1) * (WIDTH - LEFT - 10)
    down = top + TOP + HEIGHT - TOP - (y.clip(low, high) - low) / (high - low) * (HEIGHT - TOP)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
    bottom, right = top + HEIGHT, WIDTH - 10
    return (
        f'<text x="{LEFT}" y="{top + TOP - 8}" font-weight="bold">{escape(title)}</text>'
        f'<path d="M{LEFT} {top + TOP}V{bottom}H{right}" fill="none" stroke="#999"/>'
        f'<g text-anchor="end"><text x="{LEFT - 6}" y="{top + TOP + 10}">{high:.4g}</text>'
        f'<text x="{LEFT - 6}" y="{bottom}">{low:.4g}</text>'
        f'<text x="{right}" y="{bottom + 15}">iteration {last:,.0f}</text></g>'
        f'<polyline points="{points}" fill="none" stroke="#1668b8" stroke-width="1.5"/>'
        f'<circle cx="{across[-1]:.1f}" cy="{down[-1]:.1f}" r="3" fill="#1668b8"/>'
    )


def _parts(curve: Curve) -> list[np.ndarray]:
    return np.array_split(np.array(curve, dtype=float), min(len(curve), MOST))
