"""What weights for faces gain on the small faces of a photograph (docs/faces.md).

    python benchmarks/faces.py aligned FACES
    python benchmarks/faces.py pasted FACES
    python benchmarks/faces.py photograph PICTURE

FACES: a folder of portraits (faces50/HR). aligned: twelve of them, shrunk to the side of a small
face, enlarged by the photograph's weights and by the face's as `--faces` does. pasted: seventeen
laid on grey, enlarged without and with `--faces`, and measured in their square where one was found.
photograph: one with a face in it, shrunk so that the face has several sides, the same.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from upscale import Upscaler, read
from upscale.image.faces import Face, find
from upscale.image.folders import pictures_of
from upscale.image.picture import Picture
from upscale.image.resize import resize_array
from upscale.metrics.identity import Identity
from upscale.metrics.perceptual import Lpips
from upscale.metrics.pixel import psnr
from upscale.pipeline.faces import DOMAIN, SCALE

FOUND = 128  # height at which a photograph's face is looked for: the search is for small ones
SIDES = {4: (16, 20, 24, 32, 40), 8: (16, 20, 24)}  # of aligned faces, by magnification


def sized(rgb: np.ndarray, height: int) -> np.ndarray:
    width = round(rgb.shape[1] * height / rgb.shape[0])
    made = np.clip(resize_array(rgb, (height, width)), 0, 1)
    return np.rint(made * 255).astype(np.float32) / 255


def enlarged(upscaler: Upscaler, lr: np.ndarray, scale: float, **how: object) -> np.ndarray:
    return np.clip(upscaler(Picture(lr), scale=scale, **how).picture.rgb, 0, 1)


def aligned(hr: np.ndarray, side: int, scale: int, photo: Upscaler, face: Upscaler) -> list:
    """[truth, by the photograph's weights, by the face's], (S,S,3) each."""
    truth = sized(hr, side * scale)
    lr = sized(truth, side)
    drawn = enlarged(face, lr, SCALE)
    drawn = drawn if scale == SCALE else sized(drawn, side * scale)
    return [truth, enlarged(photo, lr, scale), drawn]


def pasted(hr: np.ndarray, side: int, scale: int, photo: Upscaler) -> list | None:
    """The same in the face's square; None where no face was found."""
    ground = np.full((4 * side * scale,) * 2 + (3,), 0.5, np.float32)
    first = 3 * side * scale // 2
    place = (slice(first, first + side * scale),) * 2
    ground[place] = sized(hr, side * scale)
    lr = sized(ground, 4 * side)
    return seen(ground, lr, scale, photo, place)


def shrunk(rgb: np.ndarray, face: Face, side: float, scale: int, photo: Upscaler) -> list | None:
    """The same of a photograph (H,W,3), shrunk so that its face has this side."""
    small = round(rgb.shape[0] * side / face.side)
    truth = sized(rgb, small * scale)
    centre = (round(at * side / face.side * scale) for at in face.centre)
    half = round(side * scale / 2)
    place = tuple(slice(at - half, at + half) for at in centre)
    return seen(truth, sized(truth, small), scale, photo, place)


def seen(
    truth: np.ndarray, lr: np.ndarray, scale: int, photo: Upscaler, place: tuple
) -> list | None:
    """[truth, without, with `--faces`] at a place; None where no face was found."""
    result = photo(Picture(lr), scale=scale, faces=True)
    if not result.report["faces"]:
        return None
    made = enlarged(photo, lr, scale), np.clip(result.picture.rgb, 0, 1)
    return [np.ascontiguousarray(picture[place]) for picture in (truth, *made)]


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
    parser.add_argument("what", choices=("aligned", "pasted", "photograph"))
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lpips, identity, photo = Lpips("alex"), Identity(), Upscaler(dtype="fp32")
    print("| side, magnification | faces | PSNR | LPIPS (alex) | identity |\n" + "|---" * 5 + "|")

    def show(side: float, scale: int, made: list) -> None:
        found = [one for one in made if one]
        if found:
            print(line(f"{side:g}, {scale}x", found, lpips, identity), flush=True)

    if given.what == "photograph":
        rgb = read(given.path).rgb
        face = find(sized(rgb, FOUND))[0]
        factor = rgb.shape[0] / FOUND
        face = replace(face, side=face.side * factor, centre=tuple(x * factor for x in face.centre))
        for side in (25.5, 27, 29):
            show(side, 4, [shrunk(rgb, face, side, 4, photo)])
        return
    paths, count = pictures_of(given.path), 12 if given.what == "aligned" else 17
    portraits = [read(path).rgb for path in paths[:: len(paths) // count][:count]]
    if given.what == "aligned":
        face = Upscaler(domain=DOMAIN, dtype="fp32")
        for scale, sides in SIDES.items():
            for side in sides:
                show(side, scale, [aligned(hr, side, scale, photo, face) for hr in portraits])
    else:
        for side in (16, 20, 24, 28):
            show(side, 4, [pasted(hr, side, 4, photo) for hr in portraits])


if __name__ == "__main__":
    main()
