"""The pictures of a folder, and those of another that belong to them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from upscale.errors import InputError
from upscale.image.formats import SUFFIXES

Size = tuple[int, int]  # (height, width)


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, by name: those in its subfolder HR if it has one.

    Raises InputError if there are none, or two that differ only in their suffix."""
    inner = folder / "HR" if (folder / "HR").is_dir() else folder
    try:
        found = sorted(p for p in inner.iterdir() if p.suffix.lower() in SUFFIXES)
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


def partners_of(stems: Iterable[str], folder: Path, scale: float | None = None) -> dict[str, Path]:
    """Stem -> the picture in `folder` with that name without suffix (with a scale, DIV2K's
    `0801x4` for `0801` too). Raises InputError naming what has no partner on either side."""
    results = {path.stem: path for path in pictures_of(folder)}
    wanted = set(stems)
    if scale is not None:
        ending = f"x{scale:g}"
        results = {
            s.removesuffix(ending) if s.removesuffix(ending) in wanted else s: p
            for s, p in results.items()
        }
    check_names(("the dataset", wanted), (folder, results))
    return results


def check_names(one: tuple[object, Iterable[str]], other: tuple[object, Iterable[str]]) -> None:
    """InputError naming what only one of two sets of pictures has; each with what it is called."""
    for (here, names), (there, others) in ((one, other), (other, one)):
        if lonely := sorted(set(names) - set(others)):
            some = ", ".join(lonely[:5]) + (", ..." if len(lonely) > 5 else "")
            raise InputError(
                f"{there}: nothing named as {some} of {here} (names without suffix must agree)"
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
