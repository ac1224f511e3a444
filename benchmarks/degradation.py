"""How often `upscale.image.estimate` errs: what share of pictures is taken for real input.

    python benchmarks/degradation.py FOLDER [--limit 150] [--json rows.json]

Of each picture (at most 512 pixels a side, from its centre) small ones are made: clean by bicubic,
and degraded in ways that are known. A clean picture that is taken for real input is an error, and
so is the contrary. The same pictures and numbers each time.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from upscale.bench.protocol import DEGRADATIONS, in_8_bits, make_lr
from upscale.image.compress import compressed
from upscale.image.decode import read
from upscale.image.estimate import estimate
from upscale.image.folders import pictures_of
from upscale.image.picture import Picture, quantised
from upscale.image.resize import blurred
from upscale.train.degrade import degraded as trained_on

SIDE = 512
CLEAN = ("as it is", "clean /2", "clean /4", "JPEG 95", "JPEG 90")


def kinds(hr: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, small picture), all made of `hr`."""
    half, quarter = make_lr(hr, 2)[0], make_lr(hr, 4)[0]
    yield from zip(CLEAN, (hr, half, quarter), strict=False)
    for quality in (95, 90, 85, 75, 60, 40):
        yield f"JPEG {quality}", compressed(quantised(half, 8), "JPEG", quality) / np.float32(255)
    yield "JPEG 60 /4", compressed(quantised(quarter, 8), "JPEG", 60) / np.float32(255)
    shifted = compressed(quantised(half, 8), "JPEG", 60)[3:, 5:] / np.float32(255)
    yield "JPEG 60, cut", shifted
    yield "WebP 60", compressed(quantised(half, 8), "WEBP", 60) / np.float32(255)
    rng = np.random.default_rng(seed)
    for sigma in (2, 4, 8):
        drawn = rng.standard_normal(half.shape, np.float32) * np.float32(sigma / 255)
        yield f"noise {sigma}", in_8_bits(half + drawn)
    for sigma in (1.0, 1.5):
        yield f"blur {sigma}", in_8_bits(blurred(half, sigma))
    for name in list(DEGRADATIONS)[1:]:
        yield f"bench {name}", make_lr(hr, 4, name, str(seed))[0]
    side = min(hr.shape[:2]) // 4 * 4
    x = torch.from_numpy(np.ascontiguousarray(hr[:side, :side])).permute(2, 0, 1) * 2 - 1
    for name, twice in (("training, twice", 1.0), ("training, once", 0.0)):
        made = trained_on(x, side // 4, np.random.default_rng([seed, 3]), twice)
        yield name, ((made + 1) / 2).permute(1, 2, 0).contiguous().numpy()


def measured(paths: list[Path]) -> list[dict]:
    rows = []
    for seed, path in enumerate(paths):
        hr = read(path).rgb
        top, left = (max(0, side - SIDE) // 2 for side in hr.shape[:2])
        hr = np.ascontiguousarray(hr[top : top + SIDE, left : left + SIDE])
        for kind, rgb in kinds(hr, seed):
            found = estimate(Picture(np.ascontiguousarray(rgb, np.float32)))
            rows.append({"picture": path.name, "kind": kind, "noise": found.noise,
                         "blocking": found.blocking, "blur": found.blur,
                         "real": found.real})  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| input | taken for real | noise | blocking | blur |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        same = [row for row in rows if row["kind"] == kind]
        cells = [f"{np.mean([row['real'] for row in same]):.1%}"]
        for name in ("noise", "blocking", "blur"):
            low, middle, high = np.quantile([row[name] for row in same], (0.05, 0.5, 0.95))
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
