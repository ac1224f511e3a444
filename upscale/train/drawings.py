"""Lettering and line art, drawn: what photographs have too little of to be learnt from them.

An example is a background (a flat colour, a gradient, or the photograph that would have been the
example) and a few layers of one colour each on it: text, strokes, hatching, rings, outlines and
filled shapes, chequers. Their masks are drawn four times as large and shrunk by area, so that edges
have the grey values that a rendering has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FINE = 4  # a mask is drawn so many times as large
SIZES = (9, 48)  # of letters, in pixels
WIDTHS = (0.7, 5.0)  # of lines
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SIGNS = "0123456789.,:;!?-+%&()/'"
# letters by how often a language has them: lines of q and z are not what is read
_OFTEN = np.array([8, 1.5, 3, 4, 12, 2, 2, 6, 7, 0.5, 1, 4, 2.5, 7, 7.5, 2, 0.5, 6, 6.5, 9, 3, 1,
                   2.5, 0.5, 2, 0.5])  # fmt: skip
_OFTEN = _OFTEN / _OFTEN.sum()


def drawing(photo: Tensor, rng: np.random.Generator) -> Tensor:
    """(3,P,P) in [-1,1] of the size of `photo`, which a third of them are drawn on."""
    side = photo.shape[-1]
    made, layers = _background(photo, rng), int(rng.integers(1, 4))
    for _ in range(layers):
        colour = torch.from_numpy(_colour(rng)).float()[:, None, None]
        if float((made.mean((1, 2)) - colour[:, 0, 0]).abs().max()) < 0.3:
            colour = -colour.sign() * (0.5 + 0.5 * rng.random())  # what is drawn can be seen
        mask = Image.new("L", (side * FINE, side * FINE))
        kind = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
        kind(ImageDraw.Draw(mask), side * FINE, rng)
        mask = torch.from_numpy(np.asarray(mask.reduce(FINE), np.float32) / 255)
        made = torch.lerp(made, colour, mask * float(rng.choice((1.0, rng.uniform(0.3, 1.0)))))
    return made.clamp(-1, 1)


def _background(photo: Tensor, rng: np.random.Generator) -> Tensor:
    """(3,P,P): the photograph, paper, a flat colour or a gradient."""
    chance, side = rng.random(), photo.shape[-1]
    if chance < 0.35:
        return photo
    first = np.full(3, rng.choice((1.0, 0.9, -1.0))) if chance < 0.7 else _colour(rng)
    second = first if chance < 0.85 else _colour(rng)
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:side, :side] / max(1, side - 1) - 0.5
    along = np.clip(x * math.cos(angle) + y * math.sin(angle) + 0.5, 0, 1)
    made = first[:, None, None] * (1 - along) + second[:, None, None] * along
    return torch.from_numpy(made).float()


def _colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) in [-1,1]; half of them black, white or grey."""
    if rng.random() < 0.5:
        return np.full(3, rng.choice((-1.0, 1.0, rng.uniform(-1, 1))))
    return rng.uniform(-1, 1, 3)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _words(length: int, rng: np.random.Generator) -> str:
    """So many characters of words, numbers and signs."""
    text = ""
    while len(text) < length:
        if rng.random() < 0.2:
            word = "".join(rng.choice(list(_SIGNS), rng.integers(1, 5)))
        else:
            word = "".join(rng.choice(list(_LETTERS), rng.integers(1, 10), p=_OFTEN))
            form = rng.random()
            word = word.upper() if form < 0.15 else word.capitalize() if form < 0.4 else word
        text += word + " "
    return text


def _text(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Lines of text of one size, from anywhere on, now and then turned."""
    size = math.exp(rng.uniform(*np.log(SIZES))) * FINE
    gap = size * rng.uniform(1.1, 1.8)
    turned = rng.random() < 0.3
    page = Image.new("L", (2 * side, 2 * side)) if turned else None
    pen, wide = (ImageDraw.Draw(page), 2 * side) if page else (draw, side)
    top, left, font = rng.uniform(-gap, gap), rng.uniform(-2, 1) * size, _font(round(size))
    for row in range(int(wide / gap) + 1):
        if rng.random() < 0.85:
            line = _words(int(2.2 * wide / size) + 1, rng)
            pen.text((left, top + row * gap), line, fill=255, font=font)
    if page:
        angle = rng.uniform(-90, 90)
        part = page.rotate(angle, Image.Resampling.BILINEAR)
        edge = side // 2
        draw.bitmap((0, 0), part.crop((edge, edge, edge + side, edge + side)), fill=255)


def _width(rng: np.random.Generator) -> int:
    return max(1, round(math.exp(rng.uniform(*np.log(WIDTHS))) * FINE))


def _strokes(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Straight lines and curves, as of a pen."""
    width = _width(rng)
    for _ in range(int(rng.integers(2, 9))):
        if rng.random() < 0.1:
            width = _width(rng)
        a, b, c = rng.uniform(-0.2, 1.2, (3, 2)) * side
        t = np.linspace(0, 1, 24 if rng.random() < 0.6 else 2)[:, None]
        curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
        draw.line([tuple(p) for p in curve], fill=255, width=width, joint="curve")


def _hatching(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Parallel lines, now and then crossed, in a part of the picture."""
    gap, angle = rng.uniform(3, 16) * FINE, rng.uniform(0, math.pi)
    width = max(1, round(gap * rng.uniform(0.15, 0.6)))
    centre, reach = rng.uniform(0, 1, 2) * side, rng.uniform(0.3, 1.0) * side
    for turn in (0, math.pi / 2)[: 2 if rng.random() < 0.3 else 1]:
        along = np.array([math.cos(angle + turn), math.sin(angle + turn)])
        across = np.array([-along[1], along[0]])
        for step in np.arange(-reach, reach, gap):
            middle = centre + step * across
            ends = [tuple(middle - reach * along), tuple(middle + reach * along)]
            draw.line(ends, fill=255, width=width)


def _rings(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Ellipses in one another."""
    x, y = rng.uniform(0, 1, 2) * side
    gap, flat = rng.uniform(3, 14) * FINE, rng.uniform(0.5, 1.0)
    width, outer = max(1, round(gap * rng.uniform(0.15, 0.6))), rng.uniform(0.2, 0.8) * side
    for radius in np.arange(gap, outer, gap):
        box = (x - radius, y - radius * flat, x + radius, y + radius * flat)
        draw.ellipse(box, outline=255, width=width)


def _shapes(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Polygons and ellipses, filled or in outline."""
    for _ in range(int(rng.integers(1, 5))):
        centre, reach = rng.uniform(0, 1, 2) * side, rng.uniform(0.05, 0.35) * side
        filled, width = rng.random() < 0.5, _width(rng)
        if rng.random() < 0.4:
            box = (*(centre - reach), *(centre + reach * rng.uniform(0.3, 1)))
            draw.ellipse(box, fill=255 if filled else None, outline=255, width=width)
            continue
        angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 7)))
        corners = centre + reach * np.stack([np.cos(angles), np.sin(angles)], 1)
        points = [tuple(p) for p in corners]
        if filled:
            draw.polygon(points, fill=255)
        else:
            draw.line([*points, points[0]], fill=255, width=width, joint="curve")


def _chequers(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Fields of a board, or the lines of a table."""
    wide, high = rng.uniform(5, 30, 2) * FINE
    left, top = -rng.uniform(0, 1, 2) * (wide, high)
    columns, rows = np.arange(left, side, wide), np.arange(top, side, high)
    if rng.random() < 0.5:
        width = _width(rng)
        for x in columns:
            draw.line([(x, 0), (x, side)], fill=255, width=width)
        for y in rows:
            draw.line([(0, y), (side, y)], fill=255, width=width)
        return
    for row, y in enumerate(rows):
        for x in columns[row % 2 :: 2]:
            draw.rectangle((x, y, x + wide, y + high), fill=255)


KINDS: tuple[Callable[[ImageDraw.ImageDraw, int, np.random.Generator], None], ...] = (
    _text, _strokes, _hatching, _rings, _shapes, _chequers,
)  # fmt: skip
SHARES = (0.4, 0.2, 0.1, 0.1, 0.1, 0.1)
