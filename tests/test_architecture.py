"""Who may import whom, and which room is the one door to a dependency (DESIGN: rooms)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import upscale

ROOT = Path(upscale.__file__).parent
FLOORS = {
    "cli": 6, "__main__": 6, "bench": 5, "pipeline": 4, "train": 4, "methods": 3, "metrics": 3,
    "plan": 3, "consistency": 3,
    "image": 2, "device": 2, "weights": 2, "registry": 2, "nets": 1, "diffusion": 1, "errors": 1,
}  # fmt: skip
# the same floor, where one room does serve the other
SIDEWAYS = {("weights", "registry"), ("__main__", "cli")}
DOORS = {
    "PIL": ("image", "cli.doctor"),  # doctor asks for its version and formats
    "png": ("image",),
    "tifffile": ("image",),
    "pillow_heif": ("image", "cli.doctor"),
    "click": ("cli", "__main__"),
    "rich": ("cli",),
    "huggingface_hub": ("weights",),
    "lpips": ("metrics.perceptual",),
    "torchvision": ("metrics.perceptual",),
    "safetensors": ("weights", "train.checkpoint"),
}
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Absolute names of everything a module imports, wherever it does."""
    found = set()
    package = ["upscale", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downwards_only(path: Path) -> None:
    room = name_of(path).split(".")[0]
    if room in ("__init__", ""):
        return
    for target in imports(path):
        parts = target.split(".")
        if parts[0] != "upscale" or len(parts) == 1 or parts[1] not in FLOORS:
            continue
        other = parts[1]
        below = FLOORS[other] < FLOORS[room] or (room, other) in SIDEWAYS
        assert other == room or below, f"{name_of(path)} may not import {target}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_dependency_has_one_door(path: Path) -> None:
    name = name_of(path)
    for target in imports(path):
        for package, doors in DOORS.items():
            if target.split(".")[0] == package:
                assert any(name == d or name.startswith(f"{d}.") for d in doors), (
                    f"{name} may not import {package}: the door is {', '.join(doors)}"
                )


@pytest.mark.parametrize("module", ["upscale", "upscale.cli.main", "upscale.image.io"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
