"""Whether faces made from noise look like faces, and like nobody whom the network has seen.

    python benchmarks/generated.py FACES names.txt LR_16
    python benchmarks/generated.py FACES names.txt LR_16 --sampler ddpm --steps 100 --count 60

FACES and names.txt are what the network was trained on, LR_16 holds faces of 16x16 of other people.
One line for these, and one for pictures of seed 0, all enlarged to 128x128 by sr3-face-x8: in how
many dlib finds a face, and how sure it is; how far its descriptor of them is from the nearest of
the training faces (below 0.6 dlib takes two for one person); and the root mean square distance of
the 16x16 pixels from the nearest training face, mirrored ones too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from upscale import Upscaler, read
from upscale.image import faces
from upscale.image.picture import Picture, quantised
from upscale.image.resize import resize_array
from upscale.pipeline.generator import Generator
from upscale.pipeline.request import Request


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("faces", type=Path)
    parser.add_argument("names", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--temperature", type=float)
    asked = parser.parse_args()
    upscaler = Upscaler(weights="sr3-face-x8", domain="face", input="clean", dtype="fp32")
    look = _Look()
    known, pixels = [], []
    for name in asked.names.read_text().split():
        large = resize_array(read(asked.faces / name).rgb, (128, 128)).clip(0, 1)
        small = resize_array(large, (16, 16)).clip(0, 1)
        pixels += [small.ravel(), small[:, ::-1].ravel()]
        known += [one] if (one := look(large)[1]) is not None else []
    generator = Generator(asked.weights, dtype="fp32")
    way = {key: getattr(asked, key) for key in ("sampler", "steps", "temperature")}
    made = generator(range(asked.count), Request(**{k: v for k, v in way.items() if v is not None}))
    others = [read(path).rgb.clip(0, 1) for path in sorted(asked.others.iterdir())]
    for title, smalls in (("other people", others), ("made", [m.picture.rgb for m in made])):
        print(f"{title}: {_told(smalls, upscaler, look, np.array(known), np.array(pixels))}")


class _Look:
    """(H,W,3) in [0,1] -> how sure dlib is of a face there, and what it knows it by."""

    def __init__(self) -> None:
        dlib, models = faces.packages()
        path = models / "dlib_face_recognition_resnet_model_v1.dat"
        self.describe = dlib.face_recognition_model_v1(str(path)).compute_face_descriptor

    def __call__(self, rgb: np.ndarray) -> tuple[float, np.ndarray | None]:
        shown = quantised(np.ascontiguousarray(rgb), 8)
        boxes, scores, _ = faces.detector().run(shown, 1, 0.0)
        if not boxes:
            return 0.0, None
        best = int(np.argmax(scores))
        return scores[best], np.array(self.describe(shown, faces.landmarks()(shown, boxes[best])))


def _told(
    smalls: Iterable[np.ndarray], upscaler: Any, look: _Look, known: np.ndarray, pixels: np.ndarray
) -> str:
    scores, people, near = [], [], []
    for small in smalls:
        picture = Picture(np.ascontiguousarray(small))
        score, one = look(upscaler(picture, scale=8).picture.rgb.clip(0, 1))
        near.append(np.sqrt(np.square(pixels - small.ravel()).mean(1)).min())
        if one is not None:
            scores.append(score)
            people.append(np.linalg.norm(known - one, axis=1).min())
    return (
        f"a face in {len(scores)} of {len(near)}, score {np.mean(scores):.2f}; nearest person "
        f"{np.mean(people):.3f} (least {np.min(people):.3f}); nearest pixels {np.mean(near):.3f} "
        f"(least {np.min(near):.3f})"
    )


if __name__ == "__main__":
    main()
