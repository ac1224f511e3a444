"""Who may import whom, and which room is the one door to a dependency (DESIGN: rooms)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import upscale

ROOT = Path(upscale.__file__).parent
# a room may import those of lower floors; the rooms of one floor do not know each other
FLOORS = {
    "__main__": 11,
    "cli": 10,
    "convert": 9, "ui": 9,
    "train": 8, "batch": 8, "bench": 8,
    "metrics": 7, "pipeline": 7,
    "weights": 6,
    "model": 5,
    "methods": 4, "humaneval": 4,
    "image": 3, "web": 3,
    "atomic": 2, "machine": 2, "document": 2,
    "errors": 1, "signals": 1, "nets": 1, "diffusion": 1,
}  # fmt: skip
# the same floor, where one room does serve the other
SIDEWAYS: set[tuple[str, str]] = set()
DOORS = {
    "PIL": ("image", "train.drawings", "cli.doctor"),  # doctor asks for its version and formats
    "png": ("image",),
    "tifffile": ("image",),
    "pillow_heif": ("image", "cli.doctor"),
    "click": ("cli", "__main__"),
    "rich": ("cli",),
    "huggingface_hub": ("weights.hub",),
    "lpips": ("metrics.perceptual",),
    "torchdiffeq": ("diffusion.samplers",),
    "torchvision": ("nets.vision",),
    "spandrel": ("nets.others",),
    "onnx": ("convert.onnx",),
    "onnxruntime": ("convert.onnx",),
    "torch_fidelity": ("metrics.fid",),
    "dlib": ("image.faces",),
    "torch.distributed": ("train.dist",),
    "safetensors": ("weights.file", "train.checkpoint"),
    "starlette": ("web", "humaneval.server", "ui.server"),
    "uvicorn": ("web.listener",),
    "sqlite3": ("humaneval.store",),
    "matplotlib": ("humaneval.plots",),
    "scipy": ("humaneval",),
    "lmdb": ("train.sources",),
    "pyarrow": ("train.tables",),
    "ray": ("batch.ray_engine",),
    "fsspec": ("batch.remote",),
}
PLACE = re.compile(r"upscale(\.\w+)+:\w+")
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path, source: str | None = None) -> set[str]:
    """Absolute names of everything a module imports, wherever and however it does."""
    found = set()
    package = ["upscale", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8") if source is None else source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {f"{start}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "torch":  # torch.distributed needs no import of its own
                found.add(f"torch.{node.attr}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = (
                node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            )
            if isinstance(name, ast.Constant):
                found.add(name.value.strip("."))
        elif isinstance(node, ast.Constant) and PLACE.fullmatch(str(node.value)):
            found.add(node.value.replace(":", "."))  # a row of a table: loaded when it is used
    return found


def upward(name: str, targets: set[str]) -> list[str]:
    """Those of a module's imports that its floor forbids."""
    room = name.split(".")[0]
    assert room in FLOORS, f"{room} has no floor yet: DESIGN section 2, and FLOORS here"
    wrong = []
    for target in sorted(targets):
        parts = target.split(".")
        if parts[0] != "upscale" or len(parts) == 1 or parts[1] in (room, "__version__"):
            continue
        # a name that is no room is one the package hands on: from some floor, nobody sees which
        below = parts[1] in FLOORS and FLOORS[parts[1]] < FLOORS[room]
        if not below and (room, parts[1]) not in SIDEWAYS:
            wrong.append(target)
    return wrong


def past_the_door(name: str, targets: set[str]) -> list[str]:
    """Those of a module's imports that belong to another room."""

    def within(a: str, b: str) -> bool:
        return a == b or a.startswith(f"{b}.")

    return sorted(
        target
        for target in targets
        for package, doors in DOORS.items()
        if within(target, package) and not any(within(name, door) for door in doors)
    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downwards_only(path: Path) -> None:
    if name_of(path) != "__init__":
        assert upward(name_of(path), imports(path)) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_dependency_has_one_door(path: Path) -> None:
    assert past_the_door(name_of(path), imports(path)) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_mathematics_and_networks_need_torch_alone(path: Path) -> None:
    room = name_of(path).split(".")[0]
    if room in ("nets", "diffusion"):
        roots = {target.split(".")[0] for target in imports(path)}
        known = {"torch", "torchdiffeq", "numpy", "upscale"}
        if name_of(path) in ("nets.others", "nets.vision"):  # what other programs' networks need
            known |= {"spandrel", "torchvision"}
        assert roots - sys.stdlib_module_names <= known


@pytest.mark.parametrize(
    "file, source, forbidden",
    [
        ("nets/new.py", "from ..diffusion import process", "upscale.diffusion.process"),
        ("nets/new.py", "import upscale.diffusion.process", "upscale.diffusion.process"),
        ("diffusion/__init__.py", "from ..nets.unet import UNet", "upscale.nets.unet.UNet"),
        ("diffusion/new.py", "def f():\n    from upscale import errors", "upscale.errors"),
        ("image/new.py", "from .. import weights", "upscale.weights"),
        ("pipeline/new.py", "from ..train.loop import run", "upscale.train.loop.run"),
        ("train/new.py", "from ..batch import many", "upscale.batch.many"),
        ("metrics/new.py", "from ..pipeline import plan", "upscale.pipeline.plan"),
        ("methods.py", "from upscale.weights import store", "upscale.weights.store"),
        ("methods.py", "nets = 'upscale.weights.store:Net'", "upscale.weights.store.Net"),
        ("bench/new.py", "from upscale.cli import main", "upscale.cli.main"),
        ("bench/new.py", "import_module(f'upscale.cli.{name}')", "upscale.cli"),
        ("image/new.py", "from .. import Upscaler", "upscale.Upscaler"),
    ],
)
def test_a_forbidden_import_is_seen(file: str, source: str, forbidden: str) -> None:
    path = ROOT / file
    assert upward(name_of(path), imports(path, source)) == [forbidden]


@pytest.mark.parametrize(
    "file, source",
    [
        ("pipeline/new.py", "from PIL import Image"),
        ("nets/new.py", "import PIL.Image as Image"),
        ("train/new.py", "import_module('PIL.Image')"),
        ("pipeline/new.py", "import click"),
        ("bench/new.py", "from rich.table import Table"),
        ("pipeline/new.py", "from huggingface_hub import hf_hub_download"),
        ("metrics/pixel.py", "import lpips"),
        ("nets/new.py", "from torchvision.ops import Conv2dNormActivation"),
        ("train/loop.py", "import torch.distributed as dist"),
        ("train/loop.py", "from torch import distributed"),
        ("train/loop.py", "import torch\ntorch.distributed.barrier()"),
        ("methods.py", "from safetensors.torch import load_file"),
        ("train/data.py", "import png"),
        ("cli/inputs.py", "import tifffile"),
    ],
)
def test_a_dependency_past_its_door_is_seen(file: str, source: str) -> None:
    path = ROOT / file
    assert len(past_the_door(name_of(path), imports(path, source))) == 1


def test_what_is_allowed_is_left_alone() -> None:
    for file, source in [
        ("train/new.py", "from ..metrics.pixel import psnr"),
        ("metrics/new.py", "from ..weights import store\nfrom ..image.resize import resize"),
        ("cli/new.py", "from .. import __version__\nfrom .options import option"),
        ("nets/new.py", "import torch\nfrom . import blocks\nfrom .unet import UNet"),
        ("weights/hub/new.py", "from huggingface_hub import hf_hub_download"),
        ("train/dist.py", "import torch.distributed as dist"),
        ("pipeline/new.py", "import pngless, clicker"),
    ]:
        path = ROOT / file
        found = imports(path, source)
        assert upward(name_of(path), found) == past_the_door(name_of(path), found) == []


def test_light_modules_do_not_import_torch() -> None:
    light = [
        "upscale", "upscale.cli.main", "upscale.image.encode", "upscale.humaneval.build",
        "upscale.methods", "upscale.cli.upscale.command", "upscale.cli.train.command",
        "upscale.cli.ui", "upscale.cli.generate.command", "upscale.cli.bench.command",
        "upscale.cli.weights.command",
    ]  # fmt: skip
    code = (
        "import sys\nfrom importlib import import_module\n"
        "for name in sys.argv[1:]:\n    import_module(name)\n"
        "    assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
