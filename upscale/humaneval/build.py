"""A study is made: pictures cut and copied under random names, every subject's plan written."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from upscale.document import counted
from upscale.errors import InputError, OutputError, UsageError
from upscale.humaneval import store as stores
from upscale.humaneval.design import CHECK, LR, TRUTH, Design, conditions
from upscale.image.encode import write
from upscale.image.picture import Picture

CONSENT = (
    "You will be shown pairs of pictures and asked to choose one of each. Your choices and how "
    "long they took are stored under a number; nothing that tells who you are is. Taking part is "
    "voluntary: close the page whenever you like."
)
_GREY = np.float32(0.302)  # the page's background, under what is transparent
_COARSE = 16  # an attention check's wrong picture: this many squares along the shorter side


@dataclass(frozen=True)
class StudySettings:
    """seconds: viewing time. crop: side of the central square that is shown, 0: all of it."""

    images: int | None = None  # None: 50, or as many as there are
    subjects: int = 50
    tasks: tuple[int, ...] = (1, 2)
    seconds: float = 6.0
    checks: int = 5
    practice: int = 2
    crop: int = 256
    seed: int = 0
    pairs: tuple[tuple[str, str], ...] = ()
    title: str = "Which picture is real?"
    consent: str = CONSENT


@dataclass(frozen=True)
class Entry:
    """One picture of the study, all of its images of one size. lr_up: the input, enlarged."""

    name: str
    truth: Picture
    lr_up: np.ndarray  # (H,W,3) float32
    outputs: dict[str, np.ndarray]


def build(
    entries: Iterable[Entry],
    count: int,
    methods: tuple[str, ...],
    settings: StudySettings,
    target: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Design:
    """Write a study of `count` entries to the folder `target`, which appears whole or not at all.

    Raises UsageError for settings that do not fit together, OutputError where `target` exists.
    """
    design = plan_of(count, methods, settings)
    check_free(target)
    place = Path(os.path.realpath(target))  # a link stays
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        _write(partial, entries, methods, design, settings, say, on_picture)
        if place.exists():
            place.rmdir()  # empty, or it fails
        os.rename(partial, place)
    except OSError as error:
        raise OutputError(f"{target}: the study cannot be written: {error.strerror}") from error
    except stores.Failure as error:
        raise OutputError(f"{target}: the study cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return design


def plan_of(count: int, methods: tuple[str, ...], settings: StudySettings) -> Design:
    """The design that `settings` ask for, with `count` pictures. Raises UsageError."""
    for name in methods:
        if name in (TRUTH, LR, CHECK) or not name.isprintable() or not name.strip():
            raise UsageError(f"a method cannot be named {name!r}; give another NAME=DIR")
    for pair in settings.pairs:
        if len(set(pair)) < 2 or not set(pair) <= set(methods):
            raise UsageError(
                f"--pairs {':'.join(pair)}: name two of the methods; choose from "
                f"{', '.join(methods)}"
            )
    if len({frozenset(pair) for pair in settings.pairs}) < len(settings.pairs):
        raise UsageError("--pairs names a pair twice")
    images = settings.images
    if images is None:
        images = max(1, min(50, count - settings.checks - settings.practice))
    own = {name: getattr(settings, name) for name in ("tasks", "checks", "practice", "seed")}
    return Design(count, conditions(methods, settings.pairs), images=images, **own)


def check_free(target: Path) -> None:
    """OutputError where a study cannot be put; one with answers is never overwritten."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target}: exists; give another -o, or move it away")


def _write(
    folder: Path,
    entries: Iterable[Entry],
    methods: tuple[str, ...],
    design: Design,
    settings: StudySettings,
    say: Callable[[str], None],
    on_picture: Callable[[int, int], None],
) -> None:
    (folder / stores.PICTURES).mkdir()
    meta = asdict(settings)
    meta |= {"images": design.images, "methods": methods, "conditions": design.conditions}
    meta |= {"study": secrets.token_hex(4), "secret": secrets.token_hex(32)}
    meta["access"] = secrets.token_urlsafe(16)
    study = stores.create(folder / stores.DATABASE, meta)
    cut = 0
    with study.change() as db:
        for index, entry in enumerate(entries):
            name = entry.name.encode(errors="backslashreplace").decode()  # SQLite takes only text
            db.execute("INSERT INTO picture VALUES (?, ?)", (index, name))
            height, width = entry.truth.size
            cut += bool(settings.crop) and max(height, width) > settings.crop
            images = {
                role: _shown(entry.truth, rgb, settings)
                for role, rgb in _images(entry, methods).items()
            }
            images[CHECK] = replace(images[TRUTH], rgb=coarse(images[TRUTH].rgb))
            for role, shown in images.items():
                file = f"{secrets.token_hex(16)}.png"
                write(shown, folder / stores.PICTURES / file)
                db.execute(
                    "INSERT INTO image VALUES (?, ?, ?, ?, ?)", (index, role, file, *shown.size)
                )
            on_picture(index + 1, design.pictures)
        study.plan(range(settings.subjects))
    # one file instead of three: the study may be copied as it lies
    study.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    study.close()
    if cut:
        say(
            f"{counted(cut, 'picture')} shown by the central {settings.crop}x{settings.crop}; "
            "--crop 0 shows them whole, where screens are large enough"
        )


def _images(entry: Entry, methods: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Role -> (H,W,3). Raises InputError where a size is not the truth's."""
    truth = entry.truth.rgb
    images = {TRUTH: truth, LR: entry.lr_up, **{name: entry.outputs[name] for name in methods}}
    for role, rgb in images.items():
        if rgb.shape != truth.shape:
            sizes = [f"{a.shape[1]}x{a.shape[0]}" for a in (rgb, truth)]
            raise InputError(f"{entry.name}: {role} has {sizes[0]} pixels, the truth {sizes[1]}")
    return images


def _shown(truth: Picture, rgb: np.ndarray, settings: StudySettings) -> Picture:
    """An image as it is stored: cut, opaque, 8 bits, without what its file said but the profile."""
    if truth.alpha is not None:
        rgb = rgb * truth.alpha[..., None] + _GREY * (1 - truth.alpha[..., None])
    rgb = _centre(rgb, settings.crop)
    return Picture(np.ascontiguousarray(rgb, np.float32), icc=truth.icc)


def coarse(rgb: np.ndarray) -> np.ndarray:
    """(H,W,3) -> the same in squares of one colour: what nobody who looks takes for the truth."""
    side = max(2, -(-min(rgb.shape[:2]) // _COARSE))
    rows, columns = (np.arange(0, length, side) for length in rgb.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(rgb, rows, 0), columns, 1)
    heights = np.diff([*rows, rgb.shape[0]])
    widths = np.diff([*columns, rgb.shape[1]])
    means = sums / (heights[:, None, None] * widths[None, :, None])
    return means.repeat(heights, 0).repeat(widths, 1).astype(np.float32)


def _centre(rgb: np.ndarray, side: int) -> np.ndarray:
    if not side:
        return rgb
    height, width = (min(side, length) for length in rgb.shape[:2])
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return rgb[top : top + height, left : left + width]
