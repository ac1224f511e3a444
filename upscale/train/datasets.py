"""Which pictures a run is about: every way to say where they are."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upscale.errors import InputError, UsageError
from upscale.train.catalogue import DATASETS, Part
from upscale.train.config import TrainConfig
from upscale.train.crops import AREA_WEIGHED, smallest_side
from upscale.train.pictures import Streamed, headers, load
from upscale.train.sources import Files, Items, Say, chosen, find, joined

MANY = 20_000  # files whose headers are not read where nothing depends on their sizes


@dataclass(frozen=True)
class Data:
    """What a run trains on. label: for the weights' metadata, no path of this machine."""

    label: str
    train: Items
    validation: Items | None = None
    licence: str = ""


def resolve(
    spec: str,
    root: Path,
    names: Sequence[str] | None = None,
    say: Say = lambda line: None,
    alone: bool = True,
) -> Data:
    """NAME, folder:PATH, hf:ORG/NAME[@REVISION] or a plain path -> its pictures.

    A known name overrides a folder of that name. root: the data folder (DIFFSR_DATA). names:
    only these file names. alone: this is no process among several. Raises InputError, with what
    to do, and UsageError.
    """
    if spec in DATASETS:
        return _known(spec, root, names, say)
    kind, colon, rest = spec.partition(":")
    if colon and kind.isalpha() and len(kind) > 1 and not Path(spec).exists():
        if kind == "hf":
            from upscale.train.tables import fetched

            path, label, licence = fetched(rest, root / "hf", say, alone)
            return Data(label, _filled(find(path, names), path), None, licence)
        if kind != "folder":
            raise UsageError(
                f"--dataset {spec}: there is no kind {kind}; use folder:DIR, hf:ORG/NAME and "
                f"the names {', '.join(DATASETS)}"
            )
        spec = rest
    path = Path(spec).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(spec, DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{spec}: there is no such folder of training pictures, nor a dataset of that "
            f"name{hint} (`diffsr train --list` shows them)"
        )
    return Data(path.resolve().name, _filled(find(path, names), path))


def _filled(items: Items, path: Path) -> Items:
    if not len(items):
        raise InputError(f"{path}: no picture in it")
    return items


def _known(name: str, root: Path, names: Sequence[str] | None, say: Say) -> Data:
    known = DATASETS[name]
    missing = [part.path for part in known.train if not (root / part.path).exists()]
    if missing:
        raise InputError(instructions(name, root, missing))
    train = joined([_part(part, root) for part in known.train])
    if not len(train):
        raise InputError(instructions(name, root, [part.path for part in known.train]))
    if len(train) < known.pictures:
        say(f"{name}: {len(train):,} of {known.pictures:,} pictures are there")
    if names is not None:
        wanted, count = set(names), range(len(train))
        train = chosen(train, [i for i in count if os.path.basename(train[i].name) in wanted])
        _filled(train, root / known.train[0].path)
    there = [part for part in known.validation if (root / part.path).exists()]
    validation = joined([_part(part, root) for part in there]) if there else None
    return Data(name, train, validation if validation and len(validation) else None, known.licence)


def _part(part: Part, root: Path) -> Items:
    items = find(root / part.path)
    if part.first == 0 and part.last is None:
        return items
    last = len(items) if part.last is None else min(part.last, len(items))
    return chosen(items, range(min(part.first, last), last))


def instructions(name: str, root: Path, missing: Sequence[str]) -> str:
    """For a user who does not have the dataset: where it is from and where it belongs."""
    known = DATASETS[name]
    return (
        f"{name} is not here: no pictures in {', '.join(str(root / path) for path in missing)}\n"
        f"  what     {known.title}, {known.pictures:,} training pictures\n"
        f"  from     {known.where}\n"
        f"  licence  {known.licence}\n"
        f"  to       {root}{os.sep}{known.layout}\n"
        "The data folder is --data or DIFFSR_DATA. Or train on a folder: --dataset folder:DIR"
    )


# --- into memory, or not ------------------------------------------------------------------------


def pictures_of(
    items: Items, config: TrainConfig, cache: int, say: Say
) -> list[np.ndarray] | Streamed:
    """The pictures of a run: decoded in memory if `cache` bytes hold them, else read at each use.

    Packed pictures (tar, LMDB) are always read at each use, all with the same chance. InputError
    where nothing is left.
    """
    smallest = smallest_side(config)
    weighed = config.crop in AREA_WEIGHED and not config.whole
    found: list[np.ndarray] | Streamed
    if not isinstance(items, Files) or (len(items) > MANY and not weighed):
        return Streamed(items, smallest)
    kept, areas = headers(items, say, smallest)
    good = chosen(items, kept)
    if 3 * int(areas.sum()) <= cache:
        found = load(good, say, smallest)
    else:
        found = Streamed(good, smallest, areas)
    if not len(found):
        raise InputError(
            f"no readable picture of at least {smallest}x{smallest} in the dataset (searched "
            f"{len(items)} files); a smaller --patch takes smaller ones"
        )
    return found


def held_out(items: Items, count: int) -> tuple[Items, Items | None]:
    """(for training, for validation): `count` items evenly spread over the list. UsageError."""
    if not count:
        return items, None
    if count >= len(items):
        raise UsageError(f"--holdout {count} leaves nothing of {len(items)} pictures to train on")
    apart = [int((i + 0.5) * len(items) / count) for i in range(count)]
    others = sorted(set(range(len(items))) - set(apart))
    return chosen(items, others), chosen(items, apart)


def fingerprint(items: Items) -> str:
    """How many, a hash of the names in their order (the folders above do not count) and, of files,
    one of their sizes."""
    names, sizes = hashlib.sha256(), hashlib.sha256()
    for index in range(len(items)):
        item = items[index]
        names.update(os.path.basename(item.name).encode(errors="replace") + b"\n")
        if isinstance(items, Files):
            with suppress(OSError):  # who reads it has the better words
                sizes.update(b"%d\n" % item.open().stat().st_size)
    return f"{len(items)}:{names.hexdigest()[:16]}:{sizes.hexdigest()[:16]}"


def data_difference(before: str, now: str) -> str:
    """What differs between two fingerprints, in words, or nothing. Older ones lack the sizes."""
    kinds = ("another number of pictures", "other names", "other sizes of files")
    pairs = zip(kinds, before.split(":"), now.split(":"), strict=False)
    return next((kind for kind, old, new in pairs if old != new), "")
