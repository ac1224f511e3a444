"""Environment variables and the file of settings: what an option's are called, what is nobody's."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from upscale.errors import UsageError

PREFIX = "DIFFSR"
OFF = {"", "0", "no", "false", "off"}  # values of a flag
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
    return _value(variables(param, prefix))


def is_quiet(command: str) -> bool:
    """Whether a variable or the file of settings asks a command to print only errors."""
    return (_value([_joined(command, "quiet"), _joined("quiet")]) or "").lower() not in OFF


def _value(names: list[str]) -> str | None:
    return next((table[n] for table in (os.environ, settings()) for n in names if table.get(n)),
                None)  # fmt: skip


def is_variable(param: click.Parameter, prefix: str | None) -> bool:
    """Whether a variable sets an option, and so not the file of settings."""
    return any(os.environ.get(name) for name in variables(param, prefix))


def settings() -> dict[str, str]:
    """The file of settings as if it were variables: `scale = 2` below [upscale] is
    DIFFSR_UPSCALE_SCALE. Raises UsageError."""
    path = _file()
    return {name: value for name, (_, value) in _read(path).items()} if path else {}


def _file() -> Path | None:
    """The file of settings, where one is named or there is one."""
    from upscale.weights.registry import at_home, settings_folder

    named = os.environ.get(f"{PREFIX}_CONFIG")
    path = at_home(named) if named else settings_folder() / "config.toml"
    return path if named or os.path.isfile(path) else None  # that of another user's home is none


@functools.cache
def _read(path: Path) -> dict[str, tuple[str, str]]:
    """As a variable is called -> the key, with its table, and the value."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(_flat(tomllib.loads(path.read_text("utf-8"))))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: the settings cannot be read: {why}") from error


def _flat(table: dict[str, Any], *within: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for key, value in table.items():
        path = (*within, key)
        if isinstance(value, dict):
            yield from _flat(value, *path)
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield _joined(*path), (".".join(path), text)


def _joined(*words: str) -> str:
    return "_".join((PREFIX, *words)).upper().replace("-", "_")


def unread(root: click.Group) -> str:
    """A sentence about variables and settings that look like diffsr's and are none; "" if there
    are none. A command is loaded only where one may be its own."""
    file = _file()
    keys = {name: key for name, (key, _) in _read(file).items()} if file else {}
    known = {_joined(word): word for word in SHARED}  # what a variable is called in the file
    others = {_joined(word) for word in _OTHERS}
    present = {name for name in os.environ if name.startswith(f"{PREFIX}_")} - others
    strange = {*present, *keys} - known.keys()
    ctx = click.Context(root, info_name="diffsr")
    for name in root.list_commands(ctx) if strange else ():
        if any(one.startswith(f"{_joined(name)}_") for one in strange):
            strange -= dict(_names(root.get_command(ctx, name), name)).keys()
    if not strange:
        return ""
    for name in root.list_commands(ctx):
        known |= _names(root.get_command(ctx, name), name)
    own = {name: name for name in (*known, *others)}
    told = [f"{n} is not read{_instead(n, own)}" for n in sorted(strange & present)]
    told += [f"{file}: {keys[n]} is not read{_instead(n, known)}"
             for n in sorted(strange & keys.keys())]  # fmt: skip
    return "; ".join(told)


def _names(command: click.Command, *path: str) -> Iterator[tuple[str, str]]:
    """The variables of a command and of those below it, each with its key in the file."""
    for param in command.params:
        if isinstance(param, click.Option):
            yield variables(param, _joined(*path))[0], ".".join((*path, word_of(param)))
    for name, inner in getattr(command, "commands", {}).items():
        yield from _names(inner, *path, name)


def _instead(name: str, names: Mapping[str, str]) -> str:
    """What may have been meant: the same word for one command, or a name that is like it. names:
    of variables -> what is to be written."""
    word = name.removeprefix(f"{PREFIX}_")
    likely = [one for one in names if one.endswith(f"_{word}")]
    likely = likely or difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f": write {' or '.join(names[one] for one in likely[:3])}" if likely else ""
