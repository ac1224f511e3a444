"""The list of weights: weights.toml, read and checked."""

from __future__ import annotations

import functools
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscale.errors import WeightsError

PACKAGE = Path(__file__).parent
_DOMAINS = ("photo", "face", "metric")
_REQUIRED = ("method", "net", "domain", "scales", "sha256", "size", "licence")
_OPTIONAL = ("card", "bundled", "hub")


@dataclass(frozen=True)
class Hub:
    """A file in a Hugging Face repository at one commit."""

    repo: str
    revision: str
    file: str


@dataclass(frozen=True)
class Entry:
    """One file of weights. Exactly one of `bundled`, `hub` and `path` says where it is."""

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
    bundled: str | None = None
    hub: Hub | None = None
    path: Path | None = None

    def covers(self, scale: float) -> bool:
        if self.any_scale:
            return self.scales[0] * 0.999 <= scale <= self.scales[1] * 1.001
        return any(math.isclose(scale, own, rel_tol=1e-3) for own in self.scales)

    def distance(self, scale: float) -> float:
        """How far `scale` is from the nearest it was trained for, in octaves; 0 if covered."""
        if self.covers(scale):
            return 0.0
        return min((abs(math.log2(scale / own)) for own in self.scales), default=math.inf)

    def scales_text(self) -> str:
        names = [f"x{scale:g}" for scale in self.scales]
        return " to ".join(names) if self.any_scale else ", ".join(names)


def entries() -> dict[str, Entry]:
    """Every entry of weights.toml by name, in its order. Raises WeightsError if it is malformed."""
    return dict(_entries(_list_path()))


def _list_path() -> Path:
    inside = PACKAGE / "weights.toml"
    return inside if inside.is_file() else PACKAGE.parent / "weights.toml"  # source checkout


@functools.cache
def _entries(path: Path) -> dict[str, Entry]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: the list of weights cannot be read ({error.strerror}); "
                           "install diffsr again") from error  # fmt: skip
    except ValueError as error:  # syntax or encoding
        raise WeightsError(f"{path}: not TOML: {error}") from error
    section = table.get("weights", {})
    if set(table) - {"weights"} or not isinstance(section, dict):
        raise WeightsError(f"{path}: it may hold [weights.NAME] tables only")
    return {name: _parse(name, raw) for name, raw in section.items()}


def _parse(name: str, raw: Any) -> Entry:
    """One table of weights.toml, checked. Raises WeightsError naming the entry and the key."""

    def need(key: str, holds: bool, what: str) -> None:
        if not holds:
            raise WeightsError(f"weights.toml: [weights.{name}]: {key} must be {what}")

    need("it", isinstance(raw, dict), "a table")
    for key in _REQUIRED:
        need(key, key in raw, "given")
    for key in raw:
        need(key, key in _REQUIRED + _OPTIONAL, "left out: there is no such key")
    for key in ("method", "net", "licence", "card"):
        need(key, isinstance(raw.get(key, "-"), str) and raw.get(key, "-") != "", "a text")
    need("domain", raw["domain"] in _DOMAINS, f"one of {', '.join(_DOMAINS)}")
    need("sha256", bool(re.fullmatch("[0-9a-f]{64}", str(raw["sha256"]))), "64 hex digits")
    need("size", type(raw["size"]) is int and raw["size"] > 0, "a number of bytes")
    need("card", "card" in raw or raw["domain"] == "metric", "given")
    need("bundled or hub", ("bundled" in raw) != ("hub" in raw), "given, and only one of them")
    scales = scales_of(raw["scales"])
    need("scales", scales is not None, "a list of numbers above 0, or { min = , max = }")
    need("scales", bool(raw["scales"]) or raw["domain"] == "metric", "not empty")
    bundled, hub = raw.get("bundled", "a.safetensors"), raw.get("hub")
    plain = isinstance(bundled, str) and re.fullmatch(r"[\w.-]+\.safetensors", bundled)
    need("bundled", bool(plain), "the name of a .safetensors file in upscale/bundled")
    if hub is not None:
        texts = isinstance(hub, dict) and all(isinstance(v, str) for v in hub.values())
        need("hub", texts and set(hub) == {"repo", "revision", "file"},
             "{ repo = , revision = , file = } in texts")  # fmt: skip
        need("hub.revision", bool(re.fullmatch("[0-9a-f]{40}", hub["revision"])),
             "a commit: 40 hex digits")  # fmt: skip
        need("hub.file", hub["file"].endswith(".safetensors"), "a .safetensors file")
    values = {**raw, "scales": scales, "any_scale": isinstance(raw["scales"], dict)}
    return Entry(name=name, **{**values, "hub": Hub(**hub) if hub else None})


def scales_of(raw: Any) -> tuple[float, ...] | None:
    """A list of scales or {min, max} -> a tuple; None if it is neither."""
    numbers = raw
    if isinstance(raw, dict):
        if set(raw) != {"min", "max"}:
            return None
        numbers = [raw["min"], raw["max"]]
    if not isinstance(numbers, list):
        return None
    if any(type(n) not in (int, float) or not 0 < n < math.inf for n in numbers):
        return None
    if isinstance(raw, dict) and numbers[0] > numbers[1]:
        return None
    return tuple(float(n) for n in numbers)
