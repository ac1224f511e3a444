"""What is on a sheet, as an HTML page or as one picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from upscale import __version__, document

if TYPE_CHECKING:
    import numpy as np

    from upscale.image.picture import Picture

HTML = (".html", ".htm")  # of Files.sheet
_STYLE = """
body { max-width: max-content; --zoom: 1; }
body:has(#z2:checked) { --zoom: 2; } body:has(#z3:checked) { --zoom: 3; }
fieldset { border: 0; padding: 0; } label { margin-right: 1em; }
h2 { overflow-wrap: anywhere; } .strip { display: flex; gap: 8px; margin: 0 0 1em; }
img { display: block; image-rendering: pixelated; width: calc(var(--wide) * var(--zoom) * 1px); }
figcaption small { display: block; opacity: .7; }
figcaption { min-width: 8em; max-width: calc(256px * var(--zoom)); }
"""
_ZOOM = "".join(
    f'<label><input type="radio" name="zoom" id="z{n}"{" checked" if n == 1 else ""}> {n}x</label>'
    for n in (1, 2, 3)
)


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture on the sheet. heads: title and remark of each column; places: what each of them
    shows there, in bytes (H,W,3), and None where it has nothing."""

    name: str
    sizes: str
    heads: Sequence[tuple[str, str]]
    places: Sequence[tuple[str, Sequence[np.ndarray | None]]]
    difference: float


def page(shown: Sequence[Shown], what: str) -> str:
    """As HTML that needs no other file. what: how many pictures there are, in words."""
    body = [
        "<h1>Before and after</h1>",
        f"<p>{what.capitalize()}, enlarged by diffsr {__version__}: parts in "
        "which the result differs most from bicubic enlargement, without loss.</p>",
        f"<fieldset>Magnification: {_ZOOM}</fieldset>",
    ]
    for one in shown:
        body.append(f"<h2>{escape(_plain(one.name))}</h2>\n<p>{escape(one.sizes)}</p>")
        for where, cuts in one.places:
            cells = (_figure(head, cut, where)
                     for head, cut in zip(one.heads, cuts, strict=True))  # fmt: skip
            body.append(f'<div class="strip">{"".join(cells)}</div>')
    return document.page("diffsr: before and after", "\n".join(body), _STYLE)


def drawn(shown: Sequence[Shown]) -> Picture:
    """As one picture."""
    from upscale.image.board import Strip, board

    strips = [
        Strip(f"{_plain(one.name)}: {one.sizes}, {where}", one.heads, cuts)
        for one in shown
        for where, cuts in one.places
    ]
    return board(strips)


def _plain(name: str) -> str:
    """A file's name as text: bytes that are no characters become a sign for such."""
    return os.fsencode(name).decode(errors="replace")


def _figure(head: tuple[str, str], cut: np.ndarray | None, where: str) -> str:
    title, remark = map(escape, head)
    if cut is None:
        shown = ""
    else:
        from upscale.image.crops import as_webp

        url, (high, wide) = document.data_url(as_webp(cut), "webp"), cut.shape[:2]
        shown = (f'<img src="{url}" alt="{title}, {where}" width="{wide}" height="{high}" '
                 f'style="--wide: {wide}; height: auto">')  # fmt: skip
    return f"<figure>{shown}<figcaption>{title}<small>{remark}</small></figcaption></figure>"
