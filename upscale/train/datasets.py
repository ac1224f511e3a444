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

from upscale.document import counted
from upscale.errors import InputError, UsageError
from upscale.image.folders import partners_of, small_versions
from upscale.image.folders import pictures_of as pictures_in
from upscale.train.catalogue import DATASETS, Part
from upscale.train.config import TrainConfig
from upscale.train.crops import AREA_WEIGHED, smallest_side
from upscale.train.pictures import OnRead, Pair, Streamed, headers, load, unseen
from upscale.train.sources import Files, Items, Mixed, Say, called, chosen, find, joined

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
    config: TrainConfig | None = None,
) -> Data:
    """NAME, folder:PATH, hf:ORG/NAME[@REVISION], pairs:PATH, pairs:INPUTS=TARGETS or a plain path,
    or several of them with commas between -> its pictures.

    A known name overrides a folder of that name. root: the data folder (DIFFSR_DATA). names:
    only these file names. alone: this is no process among several. config: has the magnification of
    pairs, and the shares of a mix. Raises InputError, with what to do, and UsageError.
    """
    config = config or TrainConfig()
    each = [_one(part, root, names, say, alone, config) for part in separate(spec)]
    if names is not None:
        there = {data.train[i].file for data in each for i in range(len(data.train))}
        if missing := [name for name in names if name not in there]:
            say(f"{len(missing):,} of the {len(names):,} names in --names-from are of no picture "
                f"there, as {missing[0]}")  # fmt: skip
    shares = config.shares(len(each))
    if len(each) == 1:
        return each[0]
    label = ", ".join(f"{share:.3g} {d.label}" for d, share in zip(each, shares, strict=True))
    validation = [data.validation for data in each if data.validation]
    licences = dict.fromkeys(data.licence for data in each if data.licence)
    return Data(
        label,
        Mixed([data.train for data in each]),
        joined(validation) if validation else None,
        "; ".join(licences),
    )


def names_in(path: Path) -> list[str]:
    """The file names in a list, one a line, without the mark that some editors begin it with.
    InputError."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"--names-from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--names-from {path}: not a text in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def separate(spec: str) -> list[str]:
    """A,B -> each on its own; the comma of a path that is there belongs to it. UsageError."""
    pieces, found = spec.split(","), []
    while pieces:
        longest = (",".join(pieces[:count]) for count in range(len(pieces), 0, -1))
        first = next((text for text in longest if all(p.exists() for p in _paths(text))), None)
        found.append(pieces[0].strip() if first is None else first)
        del pieces[: 1 if first is None else first.count(",") + 1]
    if not all(found):
        raise UsageError(f"--dataset {spec}: nothing stands before or after a comma")
    return found


def _paths(spec: str) -> list[Path]:
    """Where the pictures are if they are in folders: one, or of pairs that of the inputs too."""
    kind, rest = _kind(spec)
    two = kind == "pairs" and not Path(rest).expanduser().exists()
    return [Path(name).expanduser() for name in (rest.split("=", 1) if two else [rest])]


def _kind(spec: str) -> tuple[str, str]:
    """("pairs", "a=b") of pairs:a=b; ("", "C:/a") of a path or a name."""
    kind, colon, rest = spec.partition(":")
    given = colon and kind.isalpha() and len(kind) > 1 and not Path(spec).exists()
    return (kind, rest) if given else ("", spec)


def _one(
    spec: str, root: Path, names: Sequence[str] | None, say: Say, alone: bool, config: TrainConfig
) -> Data:
    if spec in DATASETS:
        return _known(spec, root, names, say)
    kind, rest = _kind(spec)
    if kind == "hf":
        from upscale.train.tables import fetched

        path, label, licence = fetched(rest, root / "hf", say, alone)
        return Data(label, _filled(find(path, names), path, names), None, licence)
    if kind not in ("", "folder", "pairs"):
        raise UsageError(
            f"--dataset {spec}: there is no kind {kind}; use folder:DIR, pairs:DIR, "
            f"hf:ORG/NAME and the names {', '.join(DATASETS)}"
        )
    *inputs, path = _paths(spec)
    if kind == "pairs":
        return _pairs(path, inputs, names, config)
    if not path.exists():
        near = difflib.get_close_matches(spec, DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{spec}: there is no such folder of training pictures, nor a dataset of that "
            f"name{hint} (`diffsr train --list` shows them)"
        )
    return of_folder(path, names, config)


def of_folder(path: Path, names: Sequence[str] | None, config: TrainConfig) -> Data:
    """A folder's pictures, or where LR and HR are in it its pairs; where HR alone is, what lies
    beside it (LRx4) is no truth. InputError, UsageError."""
    large = path / "HR"
    if (path / "LR").is_dir() and large.is_dir():
        return _pairs(path, [], names, config)
    found = find(large if large.is_dir() else path, names)
    return Data(path.resolve().name, _filled(found, path, names))


def _pairs(
    targets: Path, inputs: Sequence[Path], names: Sequence[str] | None, config: TrainConfig
) -> Data:
    """The pictures of a folder with those of another, or of its subfolder, that belong to them.
    UsageError where they cannot be what the run learns, InputError where one has no partner."""
    scale = int(config.scale_max)
    if not config.scale_min == config.scale_max == scale:
        raise UsageError(
            f"{targets}: pairs are of one magnification, a whole one: give it, as in --scale 4"
        )
    if config.patch % scale:
        raise UsageError(
            f"{targets}: --patch {config.patch} is no multiple of {scale}, the magnification of "
            "the pairs"
        )
    pictures = pictures_in(targets)
    lr = targets / "LR"
    small = inputs[0] if inputs else lr if lr.is_dir() else small_versions(targets, scale)
    if small is None:
        raise InputError(
            f"{targets}: no folder LR or LRx{scale} in it (pairs:INPUTS=TARGETS names any two)"
        )
    partners = partners_of([path.stem for path in pictures], small)
    if names is not None:
        wanted = set(names)
        pictures = [path for path in pictures if path.name in wanted]
    items = Files(pictures, [partners[path.stem] for path in pictures], scale)
    return Data(f"{targets.resolve().name} (pairs)", _filled(items, targets, names))


def _filled(items: Items, path: Path, names: Sequence[str] | None) -> Items:
    if not len(items):
        of_names = "" if names is None else " of a name in --names-from"
        raise InputError(f"{path}: no picture{of_names} in it")
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
        train = _filled(called(train, set(names)), root / known.train[0].path, names)
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
    items: Items, config: TrainConfig, cache: int, say: Say, on_read: OnRead = unseen
) -> list[np.ndarray | Pair] | Streamed | Mixed:
    """The pictures of a run: decoded in memory if `cache` bytes hold them, else read at each use.

    Packed pictures (tar, LMDB) are always read at each use, all with the same chance. InputError
    where nothing is left.
    """
    if isinstance(items, Mixed):
        parts = []
        for part in items.datasets:
            parts.append(pictures_of(part, config, cache, say, on_read))
            if isinstance(parts[-1], list):
                cache -= sum(picture.nbytes for picture in parts[-1])
        return Mixed(parts)
    smallest = smallest_side(config)
    if not isinstance(items, Files):
        return Streamed(items, smallest)
    weighed = config.crop in AREA_WEIGHED and not config.whole
    if len(items) > MANY and not weighed and not items.inputs:
        return Streamed(items, smallest)
    kept, areas = headers(items, say, smallest, on_read)
    good = chosen(items, kept)
    found: list[np.ndarray | Pair] | Streamed
    each = 3 * (1 + 1 / items.scale**2) if items.inputs else 3  # bytes of a pixel
    if each * int(areas.sum()) <= cache:
        found = load(good, say, smallest, on_read)
    else:
        found = Streamed(good, smallest, areas)
    if not len(found):
        raise InputError(
            f"no readable picture of at least {smallest}x{smallest} in the dataset (searched "
            f"{len(items)} files as {items[0].name}); a smaller --patch takes smaller ones"
        )
    return found


def held_out(items: Items, count: int) -> tuple[Items, Items | None]:
    """(for training, for validation): `count` items evenly spread over the list. UsageError."""
    if not count:
        return items, None
    if count >= len(items):
        there = counted(len(items), "picture")
        raise UsageError(f"--holdout {count} leaves nothing of {there} to train on")
    apart = [int((i + 0.5) * len(items) / count) for i in range(count)]
    train = chosen(items, sorted(set(range(len(items))) - set(apart)))
    if isinstance(train, Mixed) and not all(map(len, train.datasets)):
        raise UsageError(f"--holdout {count} leaves nothing of one of the datasets to train on")
    return train, chosen(items, apart)


def fingerprint(items: Items) -> str:
    """How many, a hash of the names in their order (the folders above do not count) and, of files,
    one of their sizes; of a mix each of them for every source."""
    if isinstance(items, Mixed):
        each = [fingerprint(part).split(":") for part in items.datasets]
        return ":".join(map("+".join, zip(*each, strict=True)))
    names, sizes = hashlib.sha256(), hashlib.sha256()
    for index in range(len(items)):
        item = items[index]
        names.update(os.path.basename(item.name).encode(errors="replace") + b"\n")
        if isinstance(items, Files):
            with suppress(OSError):  # who reads it has the better words
                for path in filter(None, (item.open(), item.small)):
                    sizes.update(b"%d\n" % path.stat().st_size)
    return f"{len(items)}:{names.hexdigest()[:16]}:{sizes.hexdigest()[:16]}"


def data_difference(before: str, now: str) -> str:
    """What differs between two fingerprints, in words, or nothing. Older ones lack the sizes."""
    kinds = ("another number of pictures", "other names", "other sizes of files")
    pairs = zip(kinds, before.split(":"), now.split(":"), strict=False)
    return next((kind for kind, old, new in pairs if old != new), "")
