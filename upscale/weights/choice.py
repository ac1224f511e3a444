"""Which listed weights a picture gets: by method, magnification, what it shows and what it is."""

from __future__ import annotations

import itertools
from dataclasses import replace

from upscale.errors import WeightsError
from upscale.methods import METHODS, domains, foreign, preferred
from upscale.weights.registry import INPUTS, Entry, Mix, entries
from upscale.weights.store import find

SCALES_TO = 16  # the largest magnification that is told of


def choose(
    names: tuple[str, ...], scale: float, domain: str = "photo", input: str = "clean"
) -> Entry:
    """The listed weights of these methods for a picture that is enlarged by `scale`.

    For real input the nearest to the scale of those that were trained for it, the first method's
    before others. Where there are none, and for clean input: what the first method that has some
    for the scale has, if by shrinking, or past all of its scales by two stages or a resize;
    else the nearest of the last method. One trained for just that scale comes before a range.
    Raises WeightsError.
    """
    if input == "real" and (real := _listed(names, domain, "real")):
        return min(real, key=lambda e: (e.distance(scale), names.index(e.method), e.any_scale))
    able: list[Entry] = []
    for name in names:
        same = _listed((name,), domain)
        past = all(scale > own for entry in same for own in entry.scales)
        able = able or [entry for entry in same if past or entry.serves(scale)]
    if able or same:
        return min(able or same, key=lambda e: (e.distance(scale), e.any_scale))
    others = [entry.name for entry in entries().values() if entry.method == name]
    if name == foreign():
        raise WeightsError(f"{name} needs a file: --weights MODEL.pth or MODEL.safetensors")
    train = f"train some: diffsr train --method {name} --scale {scale:g}"
    if others:
        raise WeightsError(
            f"no {domain} weights for {name}; choose from {', '.join(others)} (--weights), "
            f"or {train}"
        )
    raise WeightsError(f"no weights for {name}; give a file with --weights, or {train}")


def candidates(
    names: tuple[str, ...], scale: float | None, domain: str, input: str = "auto"
) -> list[Entry]:
    """All that `choose` may return for pictures of a batch, and what that is mixed with. scale:
    None where it differs."""
    inputs = ("clean", "real") if input == "auto" else (input,)
    if scale is not None:
        found = [choose(names, scale, domain, one) for one in inputs]
    else:
        found = [entry for one in inputs for entry in _listed(names, domain, one)]
        found = found or _listed(names, domain)
    if input == "auto":
        found += [entry for one in found for entry in pair_of(one) or ()]
    return list(dict.fromkeys(found))


def pair_of(entry: Entry) -> tuple[Entry, Entry] | None:
    """(the weights for clean input, those for real input), either of which is `entry`; None
    where the list tells of no such two. Raises WeightsError."""
    if entry.source is None:
        return None
    known = entries()
    if entry.input == "real":
        real = entry
    else:
        real = next((one for one in known.values() if one.clean == entry.name), None)
    if real is None or real.clean is None:
        return None
    if real.clean not in known:
        raise WeightsError(f"{real.source}: [weights.{real.name}]: no weights named {real.clean}")
    return known[real.clean], real


def mixed(clean: Entry, real: Entry, share: float) -> Entry:
    """Both, real's share in the mean of their pictures; the files themselves at 0 and 1."""
    if share in (0, 1):
        return real if share else clean
    return replace(
        real,
        name=f"{1 - share:g} {clean.name} + {share:g} {real.name}",
        sha256=f"{clean.sha256}+{real.sha256}",
        mix=Mix(clean, real, share),
    )


def defaults() -> dict[str, list[int]]:
    """Name -> the whole magnifications at which a picture of its domain and kind gets these
    weights, where the user names neither a method nor weights."""
    found: dict[str, list[int]] = {}
    for domain, kind in itertools.product(domains(), INPUTS):
        if _listed(preferred(domain), domain, kind):
            for scale in range(1, SCALES_TO + 1):
                name = choose(preferred(domain), scale, domain, kind).name
                found.setdefault(name, []).append(scale)
    return found


def hashes(
    method: str | None,
    weights: str | None,
    scale: float | None,
    domain: str,
    input: str = "auto",
    offline: bool = False,
    mixing: bool = False,
) -> list[str]:
    """The sha256 of every file that `pipeline.Models` may use, given what the user names. mixing:
    the user says by how much weights are mixed."""
    if weights:
        found = find(weights, offline)
        return [one.sha256 for one in (mixing and pair_of(found)) or [found]]
    if method and METHODS[method].kernel:
        return []
    names = (method,) if method else preferred(domain)
    input = "auto" if mixing else "clean" if method and input == "auto" else input
    return sorted(entry.sha256 for entry in candidates(names, scale, domain, input))


def _listed(names: tuple[str, ...], domain: str, input: str = "clean") -> list[Entry]:
    wanted = domain, input
    return [e for e in entries().values() if e.method in names and (e.domain, e.input) == wanted]
