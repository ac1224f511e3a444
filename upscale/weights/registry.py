"""The lists of weights: diffsr's weights.toml and the user's own, read and checked."""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscale.errors import WeightsError
from upscale.weights.hub.names import Hub
from upscale.weights.pickles import PICKLES

PACKAGE = Path(__file__).parents[1]
LIST_VARIABLE = "DIFFSR_WEIGHTS_TOML"
BARE_VARIABLE = "DIFFSR_NO_BUNDLED"  # as if the package had been made without weights
_DOMAINS = ("photo", "face", "metric")
INPUTS = ("clean", "real")
_PLACES = ("bundled", "hub", "path")


@dataclass(frozen=True)
class Mix:
    """Weights for clean and for real input, and the share of the latter's picture."""

    clean: Entry
    real: Entry
    share: float


@dataclass(frozen=True)
class Entry:
    """One file of weights, or two whose pictures are mixed. In diffsr's list `bundled` or `hub` is
    given, or both: then a package without the file fetches it. In a list of the user's own it is
    `hub` or `path`. A table with `head_of` is another's file as this method reads it
    (`model.headed`)."""

    name: str
    method: str
    net: str  # in words; the exact configuration is in the file's metadata
    domain: str
    scales: tuple[float, ...]  # those it was trained for; (min, max) if `any_scale`
    any_scale: bool
    sha256: str
    size: int  # bytes
    licence: str
    card: str = ""
    input: str = "clean"  # what they were trained for; real: blurred, noisy, compressed
    clean: str | None = None  # of those for real input: the ones for clean that they mix with
    shrinks_to: float | None = None  # down to this scale their result, shrunk, is as good as any
    stages_past: float | None = None  # past this scale, if within its own, two stages are better
    steps_to: int | None = None  # in more steps than these it measured worse than in its own
    enlarged_to: int | None = None  # of generate: the side of what it makes, its first stage's
    head_of: str | None = None  # the weights whose file it is, as another method reads it
    bundled: str | None = None
    hub: Hub | None = None
    path: Path | None = None
    source: Path | None = None  # the list that it stands in
    mix: Mix | None = None  # what it is made of, if it is no file

    @property
    def inside(self) -> Path | None:
        """Where the file is in the package, if it was installed with it."""
        if self.bundled is None or os.environ.get(BARE_VARIABLE):
            return None
        path = PACKAGE / "bundled" / self.bundled
        return path if path.is_file() else None

    @property
    def loose(self) -> bool:
        """Whether it is a file that no list and no cache knows by its hash: it may be changed."""
        return self.path is not None and self.source is None and self.hub is None

    def covers(self, scale: float) -> bool:
        if self.any_scale:
            return self.scales[0] * 0.999 <= scale <= self.scales[1] * 1.001
        return any(math.isclose(scale, own, rel_tol=1e-3) for own in self.scales)

    def serves(self, scale: float) -> bool:
        """Whether it is for this scale, if by shrinking its result."""
        shrunk = self.shrinks_to is not None and self.shrinks_to <= scale <= max(self.scales)
        return shrunk or self.covers(scale)

    def distance(self, scale: float) -> float:
        """How far `scale` is from the nearest it was trained for, in octaves; 0 if covered."""
        if self.covers(scale):
            return 0.0
        return min((abs(math.log2(scale / own)) for own in self.scales), default=math.inf)

    def scales_text(self) -> str:
        names = [f"x{scale:g}" for scale in self.scales]
        return " to ".join(names) if self.any_scale else ", ".join(names)


def entries() -> dict[str, Entry]:
    """Every entry by name: diffsr's own, then the user's. Raises WeightsError if a list is
    malformed or tells of a name that another has."""
    found = dict(_entries(_list_path()))
    for path in _own_lists():
        for name, entry in _entries(path, own=True).items():
            if name in found:
                line = _line(path.read_text("utf-8"), name, None)
                raise WeightsError(
                    f"{path}:{line}: [weights.{name}] is already defined in {found[name].source}: "
                    "give it another name"
                )
            found[name] = entry
    return found


def _list_path() -> Path:
    inside = PACKAGE / "weights.toml"
    return inside if inside.is_file() else PACKAGE.parent / "weights.toml"  # source checkout


def settings_folder() -> Path:
    """Where the user's own files lie."""
    return at_home(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "diffsr"


def at_home(text: str) -> Path:
    """The path of a text that may begin with ~, as it stands where nobody knows that home: pathlib
    raises RuntimeError there, as for a user of a container who has no name."""
    return Path(os.path.expanduser(text))


def _own_lists() -> list[Path]:
    """The user's own: the file that $DIFFSR_WEIGHTS_TOML names, and the one among the settings."""
    named = os.environ.get(LIST_VARIABLE)
    usual = settings_folder() / "weights.toml"
    found = [*([at_home(named)] if named else []), *([usual] if os.path.isfile(usual) else [])]
    return list({os.path.realpath(path): path for path in found}.values())  # they may be one


@functools.cache
def _entries(path: Path, own: bool = False) -> dict[str, Entry]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    cure = f"see {LIST_VARIABLE}" if own else "install diffsr again"
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise WeightsError(
            f"{path}: the list of weights cannot be read ({error.strerror}); {cure}"
        ) from error
    except ValueError as error:  # syntax, with its line, or encoding
        raise WeightsError(f"{path}: not TOML: {error}") from error
    section = table.get("weights", {})
    if strange := [key for key in table if key != "weights"]:
        where = _line(text, None, strange[0])
        raise WeightsError(f"{path}:{where}: it may hold [weights.NAME] tables only")
    if not isinstance(section, dict):
        raise WeightsError(f"{path}:{_line(text, None, 'weights')}: weights must be a table")
    tables = {name: _whole(path, text, section, name) for name in section}
    return {name: _parse(path, text, name, raw, own) for name, raw in tables.items()}


def _whole(path: Path, text: str, section: dict[str, Any], name: str) -> Any:
    """A table of a list; with `head_of`, what it leaves out is as in the table that it names."""
    raw = section[name]
    if not (isinstance(raw, dict) and "head_of" in raw):
        return raw
    whole = section.get(raw["head_of"]) if _text(raw["head_of"]) else None
    if not isinstance(whole, dict) or "head_of" in whole:
        raise WeightsError(
            f"{path}:{_line(text, name, 'head_of')}: [weights.{name}]: head_of must be the name of "
            "weights of this list that have a file"
        )
    return {**whole, **raw}


def _line(text: str, name: str | None, key: str | None) -> int:
    """The line (from 1) of a key in [weights.NAME], or of that header; of what stands before all
    tables without a name. The text is known to be TOML, so a search finds what a parser would."""
    header = re.compile(r"""\s*\[\s*weights\s*\.\s*["']?([^"'\]]+?)["']?\s*\]""")
    wanted = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(key or "")}["']?\s*[=.\]]""")
    inside, at = name is None, 1
    for number, line in enumerate(text.splitlines(), 1):
        if found := header.match(line):
            inside = found[1] == name
            at = number if inside else at
        if inside and key and wanted.match(line):
            return number
    return at


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _hub(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"repo", "revision", "file"}
        and all(isinstance(v, str) for v in value.values())
    )


# key -> (whether it must be there, what it is checked by, what it must be)
_SCHEMA: dict[str, tuple[bool, Callable[[Any], bool], str]] = {
    "method": (True, _text, "a text"),
    "net": (True, _text, "a text"),
    "domain": (True, lambda v: v in _DOMAINS, f"one of {', '.join(_DOMAINS)}"),
    "scales": (True, lambda v: scales_of(v) is not None,
               "a list of numbers above 0, or { min = , max = }"),
    "sha256": (True, lambda v: bool(re.fullmatch("[0-9a-f]{64}", str(v))), "64 hex digits"),
    "size": (True, lambda v: type(v) is int and v > 0, "a number of bytes"),
    "licence": (True, _text, "a text"),
    "card": (False, _text, "a text"),
    "input": (False, lambda v: v in INPUTS, f"one of {', '.join(INPUTS)}"),
    "clean": (False, _text, "the name of weights for clean input"),
    "shrinks_to": (False, lambda v: type(v) in (int, float) and v >= 1, "a scale of 1 or more"),
    "stages_past": (False, lambda v: type(v) in (int, float) and v >= 4, "a scale of 4 or more"),
    "steps_to": (False, lambda v: type(v) is int and v > 0, "a whole number above 0"),
    "enlarged_to": (False, lambda v: type(v) is int and v > 0, "a whole number above 0"),
    "head_of": (False, _text, "the name of weights of this list"),
    "bundled": (False, lambda v: _text(v) and bool(re.fullmatch(r"[\w-][\w.-]*\.safetensors", v)),
                "the name of a .safetensors file in upscale/bundled"),
    "hub": (False, _hub, "{ repo = , revision = , file = } in texts"),
    "path": (False, lambda v: _text(v) and Path(v).suffix.lower() in (".safetensors", *PICKLES),
             "the path of a file of weights (.safetensors, .pth)"),
}  # fmt: skip


def _parse(path: Path, text: str, name: str, raw: Any, own: bool) -> Entry:
    """One table of a list, checked. Raises WeightsError naming file, line, entry and key."""

    def need(key: str, holds: bool, what: str, at: str | None = None) -> None:
        if not holds:
            line = _line(text, name, at or key)
            raise WeightsError(f"{path}:{line}: [weights.{name}]: {key} must be {what}")

    if not isinstance(raw, dict):
        raise WeightsError(f"{path}:{_line(text, None, name)}: weights.{name} must be a table")
    for key in raw:
        need(key, key in _SCHEMA, "left out: there is no such key")
    for key, (required, holds, what) in _SCHEMA.items():
        need(key, key in raw or not required, "given")
        need(key, key not in raw or holds(raw[key]), what)
    places = [key for key in _PLACES if key in raw]
    allowed = ("hub", "path") if own else ("bundled", "hub")
    for key in places:
        need(key, key in allowed, f"left out: give {' or '.join(allowed)}")
    choice = f"given, and only one of them: {' or '.join(allowed)}" if own else "given"
    need(" or ".join(allowed), len(places) == 1 or (places and not own), choice)
    need("card", own or "card" in raw or raw["domain"] == "metric", "given")
    need("scales", bool(raw["scales"]) or raw["domain"] == "metric", "not empty")
    need("clean", "clean" not in raw or raw.get("input") == "real", "left out: input is not real")
    values = {**raw, "scales": scales_of(raw["scales"]), "any_scale": type(raw["scales"]) is dict}
    if "hub" in raw:
        need("hub.file", raw["hub"]["file"].endswith(".safetensors"), "a .safetensors file", "hub")
        try:
            values["hub"] = Hub(**raw["hub"])
        except WeightsError as error:
            need("hub", False, f"what the Hub has: {error}")
        need("hub.revision", values["hub"].pinned, "a commit: 40 hex digits", "hub")
    if "path" in raw:
        values["path"] = path.parent / at_home(raw["path"])
    return Entry(name=name, source=path, **values)


def scales_of(raw: Any) -> tuple[float, ...] | None:
    """A list of scales or {min, max} -> a tuple; None if it is neither."""
    numbers = raw
    if isinstance(raw, dict):
        if set(raw) != {"min", "max"}:
            return None
        numbers = [raw["min"], raw["max"]]
    if not isinstance(numbers, list) or len(numbers) > 100:
        return None
    if any(type(n) not in (int, float) or not 0 < n < 1e6 for n in numbers):
        return None
    if isinstance(raw, dict) and numbers[0] > numbers[1]:
        return None
    return tuple(float(n) for n in numbers)
