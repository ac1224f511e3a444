"""What another program is to enlarge (benchmarks/teacher.py): small pictures as diffsr makes them.

    python benchmarks/inputs.py bench scikit-photos LR [--degradation peers] [--data DIR]
    python benchmarks/inputs.py pairs PHOTOS PAIRS --number 400

`bench` writes those of a set that `diffsr bench` measures. `pairs` writes parts of photographs,
degraded as by `diffsr train --degradation mixed` but never clean, to PAIRS/LR, and the parts
themselves to PAIRS/truth. Each picture has its turn before any has a second one. The names say
which part of the sequence it is, how it was degraded (mild, once, twice) and what it was cut from.
The sequence depends on --seed alone, and what is there already is skipped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upscale import read, write
from upscale.bench import testsets
from upscale.bench.columns import DEGRADATIONS
from upscale.bench.protocol import open_pair
from upscale.image.picture import Picture
from upscale.train.config import TrainConfig
from upscale.train.crops import random_part
from upscale.train.degrade import degraded, mildly

SCALE = 4
MILD = TrainConfig.mild_share / (1 - TrainConfig.clean_share)


def of_bench(name: str, folder: Path, degradation: str, data: Path | None) -> int:
    """Writes them as PNG and returns how many there are."""
    pairs = testsets.pairs_of(testsets.find(name, data)[1], SCALE)
    for pair in pairs:
        small, _ = open_pair(pair, SCALE, degradation)
        write(small, folder / f"{pair.hr.stem}.png", overwrite=True)
    return len(pairs)


def worse(hr: Tensor, rng: np.random.Generator, second_order: float) -> tuple[str, Tensor]:
    """(3,P,P) in [-1,1] -> how it was degraded, and (3,P/4,P/4)."""
    side = hr.shape[-1] // SCALE
    if rng.random() < MILD:
        return "mild", mildly(hr, side, rng)
    if rng.random() < second_order:
        return "twice", degraded(hr, side, rng, 1.0)
    return "once", degraded(hr, side, rng, 0.0)


def pairs(photos: Path, folder: Path, number: int, largest: int, twice: float, seed: int) -> int:
    """Writes them and returns how many are new. twice: the share of what is not mild."""
    paths, made = testsets.pictures_of(photos), 0
    (folder / "LR").mkdir(parents=True, exist_ok=True)
    (folder / "truth").mkdir(exist_ok=True)
    there = {path.name.partition("-")[0] for path in (folder / "LR").glob("*.png")}
    for index in range(number):
        if f"{index:05d}" in there:
            continue
        turn, at = divmod(index, len(paths))
        path = paths[np.random.default_rng((seed, turn)).permutation(len(paths))[at]]
        rng, rgb = np.random.default_rng((seed, turn, at)), read(path).rgb
        part = random_part(rgb, min(largest, *rgb.shape[:2]) // SCALE * SCALE, rng)
        hr = torch.from_numpy(part.transpose(2, 0, 1).copy())
        kind, lr = worse(hr * 2 - 1, rng, twice)
        name = f"{index:05d}-{kind}-{path.stem}.png"
        for place, picture in (("truth", hr), ("LR", (lr + 1) / 2)):  # LR last: it says it is done
            rows = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
            write(Picture(rows), folder / place / name, overwrite=True)
        made += 1
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    bench = kinds.add_parser("bench", help="of a set of `diffsr bench`")
    bench.add_argument("dataset", help="a folder, or the name of a set in --data")
    bench.add_argument("folder", type=Path)
    bench.add_argument("--degradation", choices=DEGRADATIONS, default="none")
    bench.add_argument("--data", type=Path, default=os.environ.get(testsets.VARIABLE))
    learnt = kinds.add_parser("pairs", help="of photographs, to learn from")
    learnt.add_argument("photos", type=Path)
    learnt.add_argument("folder", type=Path)
    learnt.add_argument("--number", type=int, default=400)
    learnt.add_argument("--largest", type=int, default=512, help="side of the parts, in pixels")
    learnt.add_argument("--second-order", type=float, default=0.4, help="as of `diffsr train`")
    learnt.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kind == "bench":
        options.folder.mkdir(parents=True, exist_ok=True)
        data = Path(options.data) if options.data else None
        made = of_bench(options.dataset, options.folder, options.degradation, data)
    else:
        made = pairs(options.photos, options.folder, options.number, options.largest,
                     options.second_order, options.seed)  # fmt: skip
    print(f"{made} small pictures in {options.folder}")


if __name__ == "__main__":
    main()
