"""What `upscale.image.estimate` makes of pictures whose history is known.

    python benchmarks/degradation.py FOLDER [--limit 150] [--json rows.json]

Of each picture (at most 512 pixels a side, from its centre) small ones are made: clean by bicubic,
and degraded in ways that are known. Of those that went through a file, once as that file and once
by the pixels alone, as a PNG of it would be. The same pictures and numbers each time.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from upscale.bench.columns import DEGRADATIONS
from upscale.bench.protocol import degraded, in_8_bits, make_lr
from upscale.image.compress import lossy_file
from upscale.image.decode import read
from upscale.image.estimate import estimate
from upscale.image.folders import pictures_of
from upscale.image.picture import Picture, quantised
from upscale.image.resize import blurred
from upscale.train.degrade import degraded as trained_on

SIDE = 512
CLEAN = ("as it is", "clean /2", "clean /4")


def kinds(hr: np.ndarray, seed: int) -> Iterator[tuple[str, Picture]]:
    """(name, small picture), all made of `hr`."""
    half, quarter = make_lr(hr, 2)[0], make_lr(hr, 4)[0]
    yield from zip(CLEAN, map(Picture, (hr, half, quarter)), strict=True)

    def saved(codec: str, quality: int) -> Picture:
        return read(lossy_file(quantised(half, 8), codec, quality))

    for quality in (97, 95, 92, 90, 85, 80, 75, 60, 40):
        yield f"JPEG {quality}", saved("JPEG", quality)
    yield "JPEG 60, cut", Picture(np.ascontiguousarray(saved("JPEG", 60).rgb[3:, 5:]))
    for quality in (90, 75, 60):
        yield f"WebP {quality}", saved("WEBP", quality)
    rng = np.random.default_rng(seed)
    for sigma in (2, 4, 8):
        drawn = rng.standard_normal(half.shape, np.float32) * np.float32(sigma / 255)
        noisy = in_8_bits(half + drawn)
        yield f"noise {sigma}", Picture(noisy)
        yield f"noise {sigma}, JPEG 95", read(lossy_file(quantised(noisy, 8), "JPEG", 95))
    for sigma in (0.5, 0.6, 0.7, 1.0, 1.5):
        yield f"blur {sigma}", Picture(in_8_bits(blurred(half, sigma)))
    for name in list(DEGRADATIONS)[1:]:
        yield f"bench {name}", degraded(hr, 4, name, str(seed))[0]
    side = min(hr.shape[:2]) // 4 * 4
    x = torch.from_numpy(np.ascontiguousarray(hr[:side, :side])).permute(2, 0, 1) * 2 - 1
    for name, twice in (("training, twice", 1.0), ("training, once", 0.0)):
        made = trained_on(x, side // 4, np.random.default_rng([seed, 3]), twice)
        yield name, Picture(((made + 1) / 2).permute(1, 2, 0).contiguous().numpy())


def measured(paths: list[Path]) -> list[dict]:
    rows = []
    for seed, path in enumerate(paths):
        hr = read(path).rgb
        top, left = (max(0, side - SIDE) // 2 for side in hr.shape[:2])
        hr = np.ascontiguousarray(hr[top : top + SIDE, left : left + SIDE])
        for kind, picture in kinds(hr, seed):
            found = estimate(replace(picture, coded=None)).report()
            told = estimate(picture).report() if picture.coded else {}
            rows.append({"picture": path.name, "kind": kind, **found, "file": told})
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| input | taken for real | strength | of the file | noise | quality | blur |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for kind in dict.fromkeys(row["kind"] for row in rows):
        same = [row for row in rows if row["kind"] == kind]
        cells = [f"{np.mean([row['real'] for row in same]):.0%}", _spread(same, "strength"),
                 _spread([row["file"] for row in same], "strength"), _spread(same, "noise"),
                 _spread(same, "quality", 0), _spread(same, "blur")]  # fmt: skip
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(rows: list[dict], name: str, digits: int = 2) -> str:
    """The median, 5% and 95% of a number, and the share that has it where not all have."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return ""
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    share = "" if len(values) == len(rows) else f" of {len(values) / len(rows):.0%}"
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){share}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=150)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = pictures_of(given.folder)
    random.Random(0).shuffle(paths)
    rows = measured(paths[: given.limit])
    print(f"{len(rows) and len({row['picture'] for row in rows})} pictures\n\n{table(rows)}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
