"""Which pictures are measured: a folder, a name of the field's sets, or those that diffsr ships."""

from __future__ import annotations

import atexit
import csv
import functools
import importlib.util
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from upscale.bench.columns import REGISTERED, SCIKIT, SHIPPED
from upscale.errors import InputError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.folders import partners_of, pictures_of, small_versions
from upscale.image.picture import Picture

VARIABLE = "DIFFSR_DATA"
LABELS = "labels.csv"

# file in the scikit-image package -> (name, height, width): sides that 8 divides, from the top left
_PHOTOS = {
    "astronaut.png": ("astronaut", 512, 512),
    "coffee.png": ("coffee", 400, 400),
    "chelsea.png": ("chelsea", 296, 448),
    "motorcycle_left.png": ("motorcycle", 496, 736),
    "rocket.jpg": ("rocket", 424, 640),
}


@dataclass(frozen=True)
class Pair:
    """A picture at full size; `lr` is its small version if the set has one, `label` its class."""

    hr: Path
    lr: Path | None = None
    label: int | None = None


def find(name: str | None, data: Path | None = None) -> tuple[str, Path]:
    """(what it is called, its folder): of a path, of a name in `REGISTERED`, or of a folder in
    `data`, in this order; None is what diffsr ships. Raises InputError with the names."""
    if name is None or name == SHIPPED:
        return SHIPPED, Path(__file__).parent / "pictures"
    path = Path(name)
    if path.is_dir():
        known = _known_as(path)
        return known or path.resolve().name, path
    lower = name.lower()
    if lower == SCIKIT:
        return SCIKIT, _of_scikit()
    if data is not None:
        for folder in (*REGISTERED.get(lower, ()), name):
            if (data / folder).is_dir():
                return (lower if lower in REGISTERED else name), data / folder
    have = ", ".join(REGISTERED)
    if lower not in REGISTERED:
        raise InputError(f"{name}: no such folder, and no set of this name; choose from {have}")
    wanted = " or ".join(REGISTERED[lower])
    where = f"not in {data}" if data else f"{VARIABLE} is not set"
    raise InputError(
        f"{lower}: {where}. Put its pictures into a folder {wanted}, and set "
        f"{VARIABLE} to the folder that holds it"
    )


def pairs_of(folder: Path, scale: float) -> list[Pair]:
    """The pictures of a set, by name: those in its subfolder HR if it has one, each with its
    small version from LRx4 (or what the scale is; LR_bicubic/X4 and DIV2K's own names do too) if
    there is such a folder, and with its class if there is a labels.csv.

    Raises InputError for none, for two that differ only in their suffix, for partners missing.
    """
    pictures = pictures_of(folder)
    stems = [path.stem for path in pictures]
    small = small_versions(folder, scale)
    partners = partners_of(stems, small) if small else {}
    labels = _labels(folder / LABELS, stems) if (folder / LABELS).is_file() else {}
    return [Pair(path, partners.get(path.stem), labels.get(path.stem)) for path in pictures]


def _labels(path: Path, stems: list[str]) -> dict[str, int]:
    """Lines of `name,class`, the class one of torchvision's 1000 numbers; a heading may stand
    above them. Raises InputError for a picture without one."""
    found: dict[str, int] = {}
    try:
        lines = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"))))  # Excel begins so
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as CSV in UTF-8: {why}") from error
    for number, line in enumerate(lines, 1):
        if len(line) == 2 and line[1].strip().isdecimal() and int(line[1]) < 1000:
            found[Path(line[0]).stem] = int(line[1])
        elif number > 1 and line:
            raise InputError(f"{path}, line {number}: want name,class (0 to 999)")
    missing = [stem for stem in stems if stem not in found]
    if missing:
        raise InputError(f"{path}: no class for {', '.join(missing[:5])}")
    return found


@functools.cache
def _of_scikit() -> Path:
    """A folder, for as long as this process lives, with the photographs of the scikit-image
    package, cut. Raises InputError where it is not installed, or a release has other pictures."""
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"{SCIKIT}: these are pictures of the scikit-image package, which is not "
            "installed: pip install scikit-image"
        )
    source = Path(found.submodule_search_locations[0]) / "data"
    folder = Path(tempfile.mkdtemp(prefix="diffsr-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file, (name, height, width) in _PHOTOS.items():
        picture = read(source / file)
        if picture.size[0] < height or picture.size[1] < width:
            raise InputError(
                f"{source / file}: not the picture that {SCIKIT} means, which has at "
                f"least {width}x{height} pixels"
            )
        cut = Picture(picture.rgb[:height, :width].copy())
        write(cut, folder / f"{name}.png", overwrite=True)
    return folder


def _known_as(path: Path) -> str | None:
    """The registered name of a folder, so that published tables find it."""
    parts = path.resolve().parts
    for name, folders in REGISTERED.items():
        if any(parts[-len(Path(f).parts) :] == Path(f).parts for f in folders):
            return name
    return None
