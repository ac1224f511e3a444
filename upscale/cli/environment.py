"""Environment variables and the file of settings: what an option's are called, what is nobody's."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from upscale.errors import UsageError

PREFIX = "DIFFSR"
# options that mean the same in every command: DIFFSR_DEVICE counts for all that have it
SHARED = ("data", "debug", "device", "dtype", "offline", "quiet", "seed", "verbose")
# variables that are no options
_OTHERS = ("CONFIG", "INCEPTION", "LPIPS_VGG", "NO_BUNDLED", "RESNET50", "WEIGHTS_TOML")


def word_of(param: click.Parameter) -> str:
    """--skip-existing -> skip_existing."""
    return max(param.opts, key=len).lstrip("-").replace("-", "_")


def variables(param: click.Parameter, prefix: str | None) -> list[str]:
    """Those of an option, the first that is set counts. prefix: of its command, DIFFSR_UPSCALE."""
    word = word_of(param)
    own = [f"{prefix}_{word.upper()}"] if prefix else []
    return own + ([f"{PREFIX}_{word.upper()}"] if word in SHARED else [])


def value_of(param: click.Parameter, prefix: str | None) -> str | None:
    """What the environment, or else the file of settings, says of an option."""
    names = variables(param, prefix)
    return next((table[n] for table in (os.environ, settings()) for n in names if table.get(n)),
                None)  # fmt: skip


def settings() -> dict[str, str]:
    """The file of settings as if it were variables: `scale = 2` below [upscale] is
    DIFFSR_UPSCALE_SCALE. Raises UsageError."""
    from upscale.weights.registry import settings_folder

    named = os.environ.get(f"{PREFIX}_CONFIG")
    path = Path(named).expanduser() if named else settings_folder() / "config.toml"
    return _read(path) if named or path.is_file() else {}


@functools.cache
def _read(path: Path) -> dict[str, str]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(_flat(tomllib.loads(path.read_text("utf-8")), PREFIX))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: the settings cannot be read: {error}") from error


def _flat(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        name = f"{prefix}_{key.upper().replace('-', '_')}"
        if isinstance(value, dict):
            yield from _flat(value, name)
        elif isinstance(value, list):
            yield name, ",".join(map(str, value))
        else:
            yield name, str(value)


def unread(root: click.Group) -> str:
    """A sentence about variables and settings that look like diffsr's and are none; "" if there
    are none. A command is loaded only where one may be its own."""
    present = {*os.environ, *settings()}
    plain = {f"{PREFIX}_{word.upper()}" for word in (*SHARED, *_OTHERS)}
    strange = sorted({n for n in present if n.startswith(f"{PREFIX}_")} - plain)
    ctx = click.Context(root, info_name="diffsr")
    for name in root.list_commands(ctx) if strange else ():
        own = f"{PREFIX}_{name.upper()}"
        if any(one.startswith(f"{own}_") for one in strange):
            strange = sorted(set(strange) - set(_names(root.get_command(ctx, name), own)))
    if not strange:
        return ""
    every = [n for name in root.list_commands(ctx)
             for n in _names(root.get_command(ctx, name), f"{PREFIX}_{name.upper()}")]  # fmt: skip
    return "; ".join(f"{one} is not read{_instead(one, [*every, *plain])}" for one in strange)


def _names(command: click.Command, prefix: str) -> Iterator[str]:
    """The variables of a command and of those below it."""
    for param in command.params:
        if isinstance(param, click.Option):
            yield from variables(param, prefix)[:1]
    for name, inner in getattr(command, "commands", {}).items():
        yield from _names(inner, f"{prefix}_{name.upper().replace('-', '_')}")


def _instead(name: str, names: list[str]) -> str:
    """What may have been meant: the same word for one command, or a name that is like it."""
    word = name.removeprefix(f"{PREFIX}_")
    likely = [one for one in names if one.endswith(f"_{word}")]
    likely = likely or difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f": write {' or '.join(likely[:3])}" if likely else ""
