"""FID of a folder of generated pictures against a folder of real ones: sets, not pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from upscale import document
from upscale.bench.protocol import in_8_bits
from upscale.document import counted
from upscale.errors import InputError
from upscale.image.decode import read
from upscale.image.folders import pictures_of
from upscale.image.resize import resize_area
from upscale.machine import pick_device, versions

KERNEL = "largest central crop of the real pictures, area-resized to the made ones' size"
OnPicture = Callable[[str, int, int], None]
Row = dict[str, Any]


def run(
    real: Path,
    outputs: Sequence[tuple[str, Path]],
    *,
    name: str | None = None,
    device: str = "auto",
    limit: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_picture: OnPicture = lambda name, done, total: None,
    features: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[Row]:
    """A row with `fid` for each of `outputs` (name, folder). limit: of the pictures of each folder.

    features: instead of Inception's. The real pictures are cut and shrunk as SR3 section 4.1 makes
    its sets; those that are too small are left out. Raises InputError, UsageError, WeightsError.
    """
    from upscale.metrics.fid import Inception, fid

    where = pick_device(device)
    features = features or Inception(where).features
    files = {folder: pictures_of(folder)[:limit] for folder in (real, *dict(outputs).values())}
    total = sum(len(files[folder]) for _, folder in outputs) + len(files[real])
    done = 0

    def seen(pictures: Iterator[tuple[Path, np.ndarray | None]]) -> list[np.ndarray]:
        nonlocal done
        found = []
        for path, picture in pictures:
            done += 1
            if picture is not None:
                found.append(features(picture))
            on_picture(path.name, done, total)
        return found

    known: dict[tuple[int, int], list[np.ndarray]] = {}  # the real ones' at a size
    rows = []
    for label, folder in outputs:
        size = read(files[folder][0]).size
        made = seen(_made(files[folder], size))
        if size not in known:
            total += len(files[real]) if known else 0
            known[size] = seen(_real(files[real], size))
        counts = {"made": len(made), "real": len(known[size])}
        for what, count in counts.items():
            if count < 2:
                raise InputError(
                    f"{folder if what == 'made' else real}: FID needs two pictures or more, of "
                    f"{size[1]}x{size[0]} at least, and there are {count}"
                )
        if left := len(files[real]) - counts["real"]:
            say(f"{real}: {counted(left, 'picture')} smaller than {size[1]}x{size[0]} left out")
        rows.append({
            "dataset": name or real.name, "picture": counted(counts["made"], "picture"),
            "method": label, "scale": 1.0, "real": counts["real"], "made": counts["made"],
            "height": size[0], "width": size[1], "kernel": KERNEL,
            "fid": float(fid(made, known[size])), "versions": versions(),
        })  # fmt: skip
    return rows


def to_markdown(rows: Sequence[Row]) -> str:
    """A line for every folder."""
    cells = (
        (row["method"], row["made"], row["dataset"], row["real"],
         f"{row['width']}x{row['height']}", f"{row['fid']:.3f}")
        for row in rows
    )  # fmt: skip
    heads = ("made", "pictures", "real", "pictures", "size", "FID")
    return "\n".join(document.markdown(heads, cells)) + "\n"


def _made(files: Sequence[Path], size: tuple[int, int]) -> Iterator[tuple[Path, np.ndarray]]:
    for path in files:
        picture = read(path)
        if picture.size != size:
            raise InputError(
                f"{path}: {picture.size[1]}x{picture.size[0]} pixels, and {files[0].name} has "
                f"{size[1]}x{size[0]}: FID needs pictures of one size"
            )
        yield path, in_8_bits(picture.rgb)


def _real(files: Sequence[Path], size: tuple[int, int]) -> Iterator[tuple[Path, np.ndarray | None]]:
    """None for one that is too small."""
    for path in files:
        rgb = read(path).rgb
        factor = min(rgb.shape[0] / size[0], rgb.shape[1] / size[1])
        if factor < 1:
            yield path, None
            continue
        cut = [min(side, round(want * factor)) for side, want in zip(rgb.shape, size, strict=False)]
        top, left = ((side - part) // 2 for side, part in zip(rgb.shape, cut, strict=False))
        yield path, in_8_bits(resize_area(rgb[top : top + cut[0], left : left + cut[1]], size))
