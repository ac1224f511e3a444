"""The README's and the cards' pictures: cuts of pictures, enlarged, beside bicubic and the truth.

    python benchmarks/montage.py first KODAK24/HR before-after.jpg
    python benchmarks/montage.py limits KODAK24/HR photo-limits.png
    python benchmarks/montage.py real KODAK24/HR photo-real.png
    python benchmarks/montage.py denoise KODAK24/HR denoise.jpg
    python benchmarks/montage.py cuts FOLDER out.png --weights A,B --cut NAME:TOP:LEFT ...

Each picture of the folder is enlarged as a whole, by the defaults, as `diffsr upscale` does; then
it is cut. `chelsea` is a picture of the scikit-image package (CC0), `lettering` one that is drawn
here: Kodak's have neither fur nor line art.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from upscale import Upscaler, read, write
from upscale.bench import testsets
from upscale.bench.protocol import make_lr
from upscale.image.picture import Picture


@dataclass(frozen=True)
class Cut:
    """A part of a picture, as wide as it is high."""

    name: str
    top: int
    left: int
    scale: int = 4
    degradation: str = "none"


FIRST = (Cut("kodim15", 104, 400), Cut("kodim07", 200, 300),
         Cut("kodim23", 90, 400, degradation="jpeg75"))  # fmt: skip
LIMITS = (
    Cut("kodim19", 248, 20), Cut("kodim13", 160, 300), Cut("kodim05", 160, 420),
    Cut("kodim24", 160, 240), Cut("kodim15", 110, 440), Cut("chelsea", 60, 140),
    Cut("kodim04", 200, 200, 2), Cut("kodim04", 200, 200, 8), Cut("lettering", 0, 0, 2),
    Cut("lettering", 0, 0, 4),
)  # fmt: skip
REAL = tuple(
    Cut(name, top, left, degradation="peers")
    for name, top, left in (
        ("kodim19", 250, 300), ("kodim23", 70, 380), ("kodim15", 110, 440), ("kodim24", 160, 240),
        ("kodim13", 160, 300), ("kodim08", 150, 300),
    )
)  # fmt: skip
STRENGTHS = ("bicubic", "--denoise 0", "--denoise 0.5", "--denoise 1")


class Montage:
    """columns: "bicubic", "truth", "diffsr" (its choice for the picture), a strength of the
    cleaning, a method, or weights."""

    def __init__(self, columns: Sequence[str], side: int, data: Path) -> None:
        self.columns, self.side, self.data = columns, side, data
        self.enlarged = cache(self._enlarged)
        self.upscaler = cache(self._upscaler)

    def row(self, cut: Cut) -> np.ndarray:
        """(side, side * columns, 3) in [0,1]."""
        at = np.s_[cut.top : cut.top + self.side, cut.left : cut.left + self.side]
        made = [self.enlarged(column, cut.name, cut.scale, cut.degradation)[at]
                for column in self.columns]  # fmt: skip
        return np.concatenate(made, 1)

    def whole(self, cuts: Sequence[Cut], across: int) -> np.ndarray:
        """`across` cuts in a row."""
        rows = [self.row(cut) for cut in cuts]
        lines = [np.concatenate(rows[i : i + across], 1) for i in range(0, len(rows), across)]
        return np.concatenate(lines, 0)

    def _enlarged(self, column: str, name: str, scale: int, degradation: str) -> np.ndarray:
        lr, hr = make_lr(self._truth(name), scale, degradation, name)
        if column == "truth":
            return hr
        method, _, strength = column.partition("--denoise ")
        fields = {"denoise": float(strength)} if strength else {}
        upscaler = self.upscaler(method or "ecdp")
        return upscaler(Picture(lr), scale=float(scale), **fields).picture.rgb.clip(0, 1)

    def _truth(self, name: str) -> np.ndarray:
        if name == "lettering":
            return lettering(160)
        folder = testsets.find(testsets.SCIKIT)[1] if name == "chelsea" else self.data
        return read(next(folder.glob(f"{name}.*"))).rgb

    def _upscaler(self, column: str) -> Upscaler:
        if column == "diffsr":
            return Upscaler()
        if column in ("bicubic", "regression", "sr3", "idm", "ecdp"):
            return Upscaler(column)
        return Upscaler(weights=column)


def titled(picture: np.ndarray, titles: Sequence[str], zoom: int) -> np.ndarray:
    """(h, w, 3) -> (zoom h + 44, zoom w, 3): pixels as squares, and titles above the columns."""
    large = picture.repeat(zoom, 0).repeat(zoom, 1)
    strip = Image.new("RGB", (large.shape[1], 44), "white")
    for column, title in enumerate(titles):
        middle = (large.shape[1] * (2 * column + 1) // (2 * len(titles)), 22)
        font = ImageFont.load_default(26)
        ImageDraw.Draw(strip).text(middle, title, "black", font, anchor="mm")
    return np.concatenate([np.asarray(strip, np.float32) / 255, large], 0)


def lettering(side: int) -> np.ndarray:
    """Letters of three sizes, lines and circles on white, (side,side,3) in [0,1]."""
    im = Image.new("RGB", (4 * side, 4 * side), "white")  # drawn larger, for smooth edges
    draw = ImageDraw.Draw(im)
    for top, size in ((8, 26), (120, 44), (270, 72)):
        draw.text((16, top), "diffsr 4096 Quick brown fox", "black", ImageFont.load_default(size))
    for i in range(8):
        draw.line((20, 400 + 26 * i, 300, 380 + 32 * i), "black", 3 + i)
        draw.ellipse((340 + 14 * i, 380 + 14 * i, 610 - 14 * i, 620 - 14 * i), None, "navy", 4)
    return np.asarray(im.resize((side, side), Image.Resampling.LANCZOS), np.float32) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("first", "limits", "real", "denoise", "cuts"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", default="ecdp")
    parser.add_argument("--cut", action="append", default=[], help="NAME:TOP:LEFT[:SCALE[:KIND]]")
    parser.add_argument("--side", type=int, default=176)
    chosen = parser.parse_args()
    if chosen.what == "first":
        made = Montage(("bicubic", "diffsr", "truth"), 136, chosen.folder).whole(FIRST, 1)
        made = titled(made, ("bicubic", "diffsr", "original"), 3)
    elif chosen.what == "denoise":
        cuts = (Cut("kodim23", 70, 380, degradation="peers"),)
        made = titled(Montage(STRENGTHS, 160, chosen.folder).whole(cuts, 1), STRENGTHS, 2)
    elif chosen.what == "limits":
        made = Montage(("bicubic", "ecdp", "truth"), 160, chosen.folder).whole(LIMITS, 2)
    elif chosen.what == "real":
        made = Montage(("bicubic", "ecdp-photo-real", "truth"), 160, chosen.folder).whole(REAL, 2)
    else:
        cuts = []
        for text in chosen.cut:
            name, top, left, *rest = text.split(":")
            scale, kind = (*rest, *("4", "none")[len(rest) :])
            cuts.append(Cut(name, int(top), int(left), int(scale), kind))
        columns = ("bicubic", *chosen.weights.split(","), "truth")
        made = Montage(columns, chosen.side, chosen.folder).whole(cuts, 1)
    write(Picture(made), chosen.output, quality=88, overwrite=True)


if __name__ == "__main__":
    main()
