"""LPIPS (alex, vgg) by strength of the cleaning, for one kind of damage at a time.

    python benchmarks/strengths.py FOLDER "JPEG 95" "noise 2" "blur 0.8" [--every 3]

Each picture is shrunk by four, damaged, and enlarged again at each `--denoise`; the last column is
the strength that the estimate finds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from upscale import Upscaler, read
from upscale.bench.protocol import in_8_bits, make_lr
from upscale.image.compress import lossy_file
from upscale.image.estimate import estimate
from upscale.image.folders import pictures_of
from upscale.image.picture import Picture, quantised
from upscale.image.resize import blurred
from upscale.metrics.perceptual import Lpips

STRENGTHS = (0, 0.25, 0.5, 0.75, 1)


def damaged(lr: np.ndarray, kind: str, seed: int) -> Picture:
    """kind: JPEG and a quality, noise and a sigma in grey levels of 255, blur and one in pixels."""
    name, number = kind.split()
    if name == "JPEG":
        return read(lossy_file(quantised(lr, 8), "JPEG", int(number)))
    if name == "noise":
        drawn = np.random.default_rng(seed).standard_normal(lr.shape, np.float32)
        return Picture(in_8_bits(lr + drawn * np.float32(float(number) / 255)))
    return Picture(in_8_bits(blurred(lr, float(number))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="take each N-th picture alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    upscaler, nets = Upscaler(dtype="fp32"), (Lpips("alex"), Lpips("vgg"))
    pairs = [make_lr(read(path).rgb, 4) for path in pictures_of(given.folder)[:: given.every]]
    print("| | " + " | ".join(map(str, STRENGTHS)) + " | found |\n" + "|---" * 7 + "|")
    for kind in given.kinds:
        inputs = [damaged(lr, kind, seed) for seed, (lr, _) in enumerate(pairs)]
        cells = []
        for strength in STRENGTHS:
            found = []
            for picture, (_, hr) in zip(inputs, pairs, strict=True):
                sr = np.clip(upscaler(picture, scale=4, denoise=strength).picture.rgb, 0, 1)
                found.append([net.distance(sr, hr) for net in nets])
            cells.append(" / ".join(f"{x:.4f}" for x in np.mean(found, 0)))
        own = [estimate(picture).strength for picture in inputs]
        cells.append(f"{min(own):.2f} to {max(own):.2f}")
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
