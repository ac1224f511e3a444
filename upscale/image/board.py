"""Pictures beside each other with words above them, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from upscale.image.picture import Picture

_GAP, _LETTERS = 8, 13  # pixels between pictures; of the letters' height
_LINE = _LETTERS + 5
_NARROWEST = 120  # room for the words over a small picture
_PAPER, _INK, _FAINT = "white", "black", "#555555"


@dataclass(frozen=True)
class Strip:
    """Cuts in a row, bytes (H,W,3), or None for one that is missing; words over all of them, and
    lines of words over each."""

    words: str
    heads: Sequence[Sequence[str]]
    cuts: Sequence[np.ndarray | None]


def board(strips: Sequence[Strip]) -> Picture:
    """One below the other, the columns in line. Words that have no room are cut off."""
    count = max(len(strip.cuts) for strip in strips)
    widths = [
        max([_NARROWEST, *(s.cuts[i].shape[1] for s in strips if i < len(s.cuts)
                           if s.cuts[i] is not None)])
        for i in range(count)
    ]  # fmt: skip
    tops = [_GAP]
    for strip in strips:
        tops.append(tops[-1] + _height(strip) + 2 * _GAP)
    width = sum(widths) + _GAP * (count + 1)
    image = Image.new("RGB", (width, tops[-1]), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_LETTERS)
    for strip, top in zip(strips, tops, strict=False):
        draw.text((_GAP, top), _fitting(strip.words, width - 2 * _GAP, font), _INK, font)
        left = _GAP
        for heads, cut, room in zip(strip.heads, strip.cuts, widths, strict=False):
            for number, text in enumerate(heads, 1):
                at = (left, top + number * _LINE)
                draw.text(at, _fitting(text, room, font), _FAINT, font)
            if cut is not None:
                image.paste(Image.fromarray(cut), (left, top + _words(strip)))
            left += room + _GAP
    return Picture(np.asarray(image, np.float32) / 255)


def _words(strip: Strip) -> int:
    """The height of the words over a strip's pictures."""
    return _LINE * (1 + max(map(len, strip.heads))) + 2


def _height(strip: Strip) -> int:
    return _words(strip) + max(len(cut) for cut in strip.cuts if cut is not None)


def _fitting(text: str, room: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= room:
        return text
    kept = len(text)
    while kept and font.getlength(text[:kept] + "...") > room:
        kept -= 1
    return text[:kept] + "..."
