"""What weights for faces gain on the small faces of a photograph (docs/faces.md).

    python benchmarks/faces.py FACES --aligned | --pasted

FACES: a folder of portraits (faces50/HR). --aligned: twelve of them, shrunk to the side of a small
face, enlarged by the photograph's weights and by the face's as `--faces` does, both held to the
input. --pasted: seventeen laid on grey, enlarged without and with `--faces`, and measured in their
square where one was found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from upscale import Upscaler, read
from upscale.image.folders import pictures_of
from upscale.image.picture import Picture
from upscale.image.resize import resize_array
from upscale.metrics.identity import Identity
from upscale.metrics.perceptual import Lpips
from upscale.metrics.pixel import psnr

WEIGHTS, LARGE = "sr3-face-x8", 8  # that `--faces` draws with, and how much it enlarges


def sized(rgb: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    made = np.clip(resize_array(rgb, (height, width or height)), 0, 1)
    return np.rint(made * 255).astype(np.float32) / 255


def enlarged(upscaler: Upscaler, lr: np.ndarray, scale: float, **how: object) -> np.ndarray:
    return np.clip(upscaler(Picture(lr), scale=scale, **how).picture.rgb, 0, 1)


def aligned(hr: np.ndarray, side: int, scale: int, photo: Upscaler, face: Upscaler) -> list:
    """[truth, by the photograph's weights, by the face's], (S,S,3) each."""
    truth = sized(hr, side * scale)
    lr = sized(truth, side)
    drawn = enlarged(face, lr, LARGE)
    drawn = drawn if scale == LARGE else sized(drawn, side * scale)
    return [truth, enlarged(photo, lr, scale), drawn]


def pasted(hr: np.ndarray, side: int, scale: int, photo: Upscaler) -> list | None:
    """The same in the face's square; None where no face was found."""
    ground = np.full((4 * side * scale,) * 2 + (3,), 0.5, np.float32)
    first = 3 * side * scale // 2
    place = (slice(first, first + side * scale),) * 2
    ground[place] = sized(hr, side * scale)
    lr = sized(ground, 4 * side)
    result = photo(Picture(lr), scale=scale, faces=True)
    if not result.report["faces"]:
        return None
    made = enlarged(photo, lr, scale), np.clip(result.picture.rgb, 0, 1)
    return [picture[place] for picture in (ground, *made)]


def line(name: str, made: list, lpips: Lpips, identity: Identity) -> str:
    """made: [truth, one, other] of each face."""
    columns = [
        [[measure(sr, truth) for sr in (one, other)] for truth, one, other in made]
        for measure in (psnr, lpips.distance, identity.distance)
    ]
    cells = [
        ", ".join(f"{x:.{digits}f}" for x in np.nanmean(column, 0))
        for column, digits in zip(columns, (2, 3, 3), strict=True)
    ]
    return f"| {name} | {len(made)} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--aligned", action="store_true")
    kind.add_argument("--pasted", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lpips, identity = Lpips("alex"), Identity()
    photo, face = Upscaler(dtype="fp32"), Upscaler(weights=WEIGHTS, dtype="fp32")
    paths = pictures_of(given.folder)
    print("| side, magnification | faces | PSNR | LPIPS (alex) | identity |\n" + "|---" * 5 + "|")
    if given.aligned:
        portraits = [read(path).rgb for path in paths[:: len(paths) // 12][:12]]
        for scale in (4, 8):
            for side in (16, 20, 24, 32)[: 4 if scale == 4 else 3]:
                made = [aligned(hr, side, scale, photo, face) for hr in portraits]
                print(line(f"{side}, {scale}x", made, lpips, identity), flush=True)
    else:
        portraits = [read(path).rgb for path in paths[:: len(paths) // 17][:17]]
        for side in (16, 20, 24, 28):
            made = [one for hr in portraits if (one := pasted(hr, side, 4, photo))]
            print(line(f"{side}, 4x", made, lpips, identity), flush=True)


if __name__ == "__main__":
    main()
