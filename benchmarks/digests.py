"""Whether a change leaves every picture, report and training step as it was, bit for bit.

    python benchmarks/digests.py > before.json        (at the commit before)
    python benchmarks/digests.py --against before.json

Digests depend on the processor and on torch, so both runs belong on one machine. A run is a
command line; its digest covers the bytes of each file it writes, without seconds and versions.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

UPSCALE = {  # name -> input, options
    "default": ("photo.png", ""),
    "default 2x": ("photo.png", "--scale 2"),
    "default 6x": ("small.png", "--scale 6"),
    "default 12x": ("small.png", "--scale 12"),
    "ecdp 3.3x": ("small.png", "--method ecdp --scale 3.3"),
    "ecdp 8x": ("small.png", "--method ecdp --scale 8"),
    "ecdp seed": ("photo.png", "--seed 7 --temperature 0.6"),
    "ecdp tiles": ("photo.png", "--tile 128 --overlap 32"),
    "ecdp rk45": ("small.png", "--sampler rk45 --rtol 0.01 --atol 0.01"),
    "ecdp heads": ("small.png", "--method ecdp --parametrisation hybrid-x0"),
    "ecdp blend": ("small.png", "--consistency blend --steps 4"),
    "ecdp fp32": ("small.png", "--dtype fp32"),
    "real": ("noisy.jpg", "--input real"),
    "auto on a noisy JPEG": ("noisy.jpg", "--format png"),
    "real colour": ("noisy.jpg", "--input real --consistency colour --scale 2"),
    "sr3 ddpm": ("small.png", "--method sr3 --sampler ddpm --steps 6"),
    "sr3 posterior": ("small.png", "--method sr3 --sampler ddpm-posterior --steps 5 --spacing t"),
    "sr3 dpmpp2m": ("small.png", "--method sr3 --sampler dpmpp2m --steps 8 --scale 8"),
    "sr3 cascade": ("small.png", "--method sr3 --scale 16"),
    "sr3 tiles": ("photo.png", "--method sr3 --tile 160 --steps 3"),
    "idm 3.7x": ("small.png", "--method idm --scale 3.7"),
    "idm tiles": ("photo.png", "--method idm --tile 128 --scale 2.5"),
    "idm past its range": ("small.png", "--method idm --scale 11"),
    "regression": ("photo.png", "--method regression"),
    "liif": ("small.png", "--method liif --size 333x271"),
    "bicubic": ("photo.png", "--method bicubic --max-side 400"),
    "lanczos": ("alpha.png", "--method lanczos"),
    "face 8x": ("face.png", "--domain face --scale 8"),
    "face 5x": ("face.png", "--domain face --scale 5"),
    "alpha": ("alpha.png", "--scale 2"),
    "16 bits": ("deep.tif", "--scale 3"),
    "grey jpeg": ("grey.jpg", "--scale 2 --quality 90"),
    "presets": ("small.png", "--method idm --preset best"),
    "samples": ("small.png", "--samples 3 --uncertainty"),
    "webp": ("small.png", "--format webp --quality 80"),
    "blocks": ("wide.png", "--method regression --scale 8 --format tiff"),
    "batch of two": ("small.png photo.png", "--batch 2 --jobs 1"),
}
TRAIN = {
    "sr3": "--method sr3 --quality-loss-from 3 --quality-batch 2 --quality-vgg 0",
    "ecdp": "--method ecdp --scale 4 --degradation real",
    "idm": "--method idm --scale-law log",
    "regression": "--method regression --scale 4 --drawings 0.5",
    "ddpm": "--method ddpm --net ddpm-64 --whole --patch 64 --scale 1 --batch 1 --iterations 2",
    "liif": "--method liif --scale-law uniform",
}
NOT_COMPARED = (
    "seconds",
    "images_per_second",
    "memory",
    "diffsr",
    "version",
    "name",
    "per_s",
    "peak",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="digests of another commit")
    parser.add_argument("--only", default="", help="runs whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pictures()
        made = {}
        for name, (names, extra) in UPSCALE.items():
            if options.only in name:
                made[name] = upscaled(names.split(), extra.split())
        for name, extra in TRAIN.items():
            if options.only in f"train {name}":
                made[f"train {name}"] = trained(name, extra.split())
        if options.only in "bench":
            made["bench"] = benched()
        os.chdir(before)
    if options.against is None:
        print(json.dumps(made, indent=1))
        return
    known = json.loads(options.against.read_text())
    different = [name for name, digest in made.items() if known.get(name) != digest]
    print(f"{len(made)} runs, {len(different)} differ" + "".join(f"\n  {n}" for n in different))
    sys.exit(bool(different))


def pictures() -> None:
    """The inputs, made by program."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:96, 0:80].astype(np.float32)
    waves = 0.5 + 0.3 * np.sin(x / (2 + y / 40)) * np.cos(y / 5)
    photo = np.stack([x / 80, waves, y / 96], 2)
    photo[20:50, 15:60] = [0.8, 0.3, 0.2]
    photo = np.clip(photo + rng.normal(0, 0.01, photo.shape), 0, 1)
    eight = (photo * 255).round().astype(np.uint8)
    Image.fromarray(eight).save("photo.png")
    Image.fromarray(eight[10:43, 12:53]).save("small.png")
    Image.fromarray(np.tile(eight, (2, 4, 1))).save("wide.png")
    Image.fromarray(eight[30:46, 30:46]).save("face.png")
    Image.fromarray(eight[:60, :50, 1]).save("grey.jpg", quality=95)
    noisy = np.clip(photo + rng.normal(0, 0.06, photo.shape), 0, 1)
    Image.fromarray((noisy * 255).astype(np.uint8)).save("noisy.jpg", quality=50)
    alpha = (255 * (np.hypot(x[:40, :30] - 15, y[:40, :30] - 20) < 12)).astype(np.uint8)
    Image.fromarray(np.dstack([eight[:40, :30], alpha])).save("alpha.png")
    tifffile.imwrite("deep.tif", (photo[:40, :50] * 65535).astype(np.uint16), photometric="rgb")
    Path("train").mkdir()
    for index in range(6):
        turned = np.roll(np.tile(eight, (3, 3, 1)), 17 * index, (0, 1))
        Image.fromarray(turned).save(f"train/{index}.png")


def run(*arguments: str) -> str:
    """Standard output of `diffsr` in this process. Raises SystemExit where it failed."""
    from upscale.cli.main import main as diffsr

    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            diffsr(list(arguments))
    except SystemExit as ending:
        if ending.code:
            sys.exit(f"{' '.join(arguments)}: {err.getvalue()}")
    out.flush()
    return out.buffer.getvalue().decode()


def upscaled(names: list[str], extra: list[str]) -> str:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        told = run("upscale", *names, *extra, "-o", f"{folder}/", "--json")
        digest = hashlib.sha256()
        for line in sorted(told.splitlines()):
            digest.update(told_of(line, folder))
        for path in sorted(Path(folder).iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()


def trained(name: str, extra: list[str]) -> str:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        small = ["--batch", "2", "--patch", "64", "--iterations", "5"]
        if name in ("sr3", "ecdp", "regression"):
            small += ["--net", "compact-tiny"]
        run("train", "--dataset", "train", "--output", folder, *small, *extra,
            "--warmup", "1", "--validate-every", "0", "--dtype", "fp32")  # fmt: skip
        lines = Path(folder, "metrics.jsonl").read_text().splitlines()
        digest = hashlib.sha256()
        for line in lines:
            digest.update(told_of(line, folder))
        from safetensors.numpy import load_file

        for path in sorted(Path(folder).glob("*-*.safetensors")):
            if "checkpoint" in path.name:
                continue
            for key, value in sorted(load_file(path).items()):
                digest.update(key.encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def benched() -> str:
    run("bench", "--dataset", "train", "--method", "bicubic,regression,ecdp", "--scale", "4",
        "--metrics", "psnr,ssim,lpips,consistency,grid_ratio", "--no-cache",
        "--json", "bench.json")  # fmt: skip
    found = json.loads(Path("bench.json").read_text())
    return hashlib.sha256(json.dumps(without(found, ""), sort_keys=True).encode()).hexdigest()


def told_of(line: str, folder: str) -> bytes:
    return json.dumps(without(json.loads(line), Path(folder).name), sort_keys=True).encode()


def without(told: object, folder: str) -> object:
    """The account without what differs from run to run."""
    if isinstance(told, dict):
        return {k: without(v, folder) for k, v in told.items()
                if not any(part in k for part in NOT_COMPARED)}  # fmt: skip
    if isinstance(told, list):
        return [without(one, folder) for one in told]
    return told.replace(folder, "") if isinstance(told, str) and folder else told


if __name__ == "__main__":
    main()
