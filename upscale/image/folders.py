"""The pictures of a folder, and those of another that belong to them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from upscale.errors import InputError
from upscale.image.formats import SUFFIXES

Size = tuple[int, int]  # (height, width)
# what programs add to a picture's name: baby_x4, baby-4x, baby_SR, DIV2K's 0801x4
_ADDED = re.compile(r"[_\-. ].+|x\d+(\.\d+)?")


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, by name: those in its subfolder HR if it has one.

    Raises InputError if there are none, or two that differ only in their suffix."""
    inner = folder / "HR" if (folder / "HR").is_dir() else folder
    try:
        found = sorted(p for p in inner.iterdir() if p.suffix.lower() in SUFFIXES)
    except NotADirectoryError as error:
        raise InputError(f"{inner}: is a file; name the folder of the pictures") from error
    except OSError as error:
        raise InputError(f"{inner}: {error.strerror}") from error
    found = [p for p in found if p.is_file() and not p.name.startswith(".")]
    if not found:
        raise InputError(f"{inner}: no pictures in this folder")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise InputError(f"{inner}: {stems[path.stem].name} and {path.name} have one name")
        stems[path.stem] = path
    return found


def partners_of(
    stems: Iterable[str], folder: Path, needed: Iterable[str] | None = None
) -> dict[str, Path]:
    """Stem -> the picture in `folder` of that name, to which something may be added (`baby_x4`).
    needed: the stems that must have one; None: all. Raises InputError naming what has no partner on
    either side, or two."""
    wanted, results = set(stems), {}
    for path in pictures_of(folder):
        stem = _meant(path.stem, wanted)
        if stem in results:
            raise InputError(
                f"{folder}: {results[stem].name} and {path.name} can both be meant for {stem}; "
                "leave one of them there"
            )
        results[stem] = path
    _check_names("the dataset", wanted if needed is None else needed, folder, results)
    _check_names(folder, results, "the dataset", wanted)
    return results


def _meant(name: str, wanted: set[str]) -> str:
    """The longest of the wanted names that this one is, or is with something added."""
    for end in range(len(name), 0, -1):
        if name[:end] in wanted and (end == len(name) or _ADDED.fullmatch(name, end)):
            return name[:end]
    return name


def _check_names(here: object, names: Iterable[str], there: object, others: Iterable[str]) -> None:
    """InputError naming what one set of pictures has and the other has not; each with what it is
    called."""
    if lonely := sorted(set(names) - set(others)):
        some = ", ".join(lonely[:5]) + (", ..." if len(lonely) > 5 else "")
        raise InputError(
            f"{there}: nothing named as {some} of {here} (a name may have something "
            "added to it: baby.png, baby_x4.png)"
        )


def small_versions(folder: Path, scale: float) -> Path | None:
    """Where the small versions of a set's pictures are, if there are any."""
    beside = folder.name.replace("_HR", "_LR_bicubic")
    places = [folder / f"LRx{scale:g}", folder / "LR_bicubic" / f"X{scale:g}"]
    if beside != folder.name:  # DIV2K_valid_HR
        places.append(folder.parent / beside / f"X{scale:g}")
    return next((place for place in places if place.is_dir()), None)


def fitting(lr: Path, small: Size, hr: Path, large: Size, scale: float) -> Size:
    """The size that a picture is cut to, so that it is `scale` times its small version. InputError
    where more than a remainder would have to go, or something is missing."""
    height, width = (math.floor(side * scale + 0.5) for side in small)
    spare = (large[0] - height, large[1] - width)
    if min(spare) < 0 or max(spare) >= math.ceil(scale):
        raise InputError(
            f"{lr}: {small[1]}x{small[0]}, which times {scale:g} is not "
            f"{hr.name}'s {large[1]}x{large[0]}"
        )
    return height, width
