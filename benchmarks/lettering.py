"""Pages of text, to measure what becomes of lettering.

    python benchmarks/lettering.py OUT FONT...

Twelve pictures of 320x240, each in one of the given fonts (files), at 14, 18, 24 and 32 pixels,
dark on white and on paper, white on dark blue. For `diffsr bench --dataset OUT`. docs/results.md
was measured with the 22 DejaVu fonts (2.37), none of which is in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TEXT = (
    "The quick brown fox jumps over the lazy dog; 1,234.50 pounds (12% off) were paid on 7/8/1936. "
    "Sphinx of black quartz, judge my vow! Pack my box with five dozen jugs & call 555-0143. "
    "HOW VEXINGLY QUICK DAFT ZEBRAS JUMP: see page 208, table 4, or write to info@example.org. "
)
SIZES = (14, 18, 24, 32)
PAPERS = ("white", "white", "#f4ecd8", "#203040")
INKS = ("black", "#303030", "#702020")
WIDTH, HEIGHT, MARGIN = 320, 240, 6


def page(index: int, fonts: list[str]) -> Image.Image:
    """One of the twelve."""
    paper = PAPERS[index % len(PAPERS)]
    ink = "white" if paper == PAPERS[-1] else INKS[index % len(INKS)]
    size = SIZES[index // 3]
    font = ImageFont.truetype(fonts[(5 * index + 2) % len(fonts)], size)
    picture = Image.new("RGB", (WIDTH, HEIGHT), paper)
    pen, at = ImageDraw.Draw(picture), 37 * index
    for top in range(MARGIN, HEIGHT, round(1.4 * size)):
        line = (TEXT * 3)[at % len(TEXT) :][:60]
        pen.text((MARGIN, top), line, ink, font)
        at += 31
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("fonts", nargs="+", metavar="FONT", help="files, in any order")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    fonts = sorted(options.fonts, key=lambda path: Path(path).name)
    for index in range(12):
        page(index, fonts).save(options.out / f"{index:02d}.png")


if __name__ == "__main__":
    main()
