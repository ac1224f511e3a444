"""A weights file's tensors and its description become a network ready to be called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from upscale.diffusion.table import SAMPLERS, SPACINGS, loaded
from upscale.errors import WeightsError
from upscale.methods import METHODS, PRESETS, Method, Schedule

if TYPE_CHECKING:
    from torch import Tensor

    from upscale.nets.net import Net

MOST_STEPS = 10_000  # the most that a weights file may ask for


class Diffused:
    """Converts between a picture in [-1,1] and the target that diffuses: (hr - lr_up) / std, or hr
    itself where std is None. In sigma coordinates the two differ by a shift and a scale only:
    SR3's process is the same."""

    std: float | None

    def decode(self, target: Tensor, lr_up: Tensor) -> Tensor:
        """Diffusing target -> picture."""
        return target if self.std is None else lr_up.add(target, alpha=self.std)

    def encode(self, picture: Tensor, lr_up: Tensor) -> Tensor:
        """Inverse of `decode`."""
        return picture if self.std is None else (picture - lr_up) / self.std


@dataclass(frozen=True)
class Model(Diffused):
    """A network with all that a sampler must know about it."""

    method: str
    net: Net
    law: Method
    std: float | None
    metadata: dict[str, Any]
    kernel: str = "bicubic"  # the resize that enlarges the input to the mean
    parts: tuple[tuple[Model, float], ...] = ()  # whose pictures it is the mean of, and the shares

    @property
    def networks(self) -> int:
        """How many are called for a picture."""
        return max(1, len(self.parts))

    @property
    def consistency(self) -> str:
        """The mode that its file asks for."""
        return self.metadata.get("consistency") or "project"


def build(state: dict[str, Tensor], metadata: dict[str, Any]) -> Model:
    """The model that a weights file describes: strict keys, float32, eval mode. Raises
    WeightsError; what is described is compared with the tensors before any of it is made."""
    from upscale.diffusion.denoiser import parametrisation
    from upscale.image.resize import KERNELS
    from upscale.nets.net import at_most

    try:
        architecture = dict(metadata["architecture"])
        name = metadata["method"]
        if name not in METHODS:
            raise ValueError(f"method {str(name)[:60]!r}")
        if METHODS[name].foreign:
            net = loaded(METHODS[name].foreign)(architecture, state)
            return Model(name, net, METHODS[name], None, metadata)
        network = network_of(architecture.pop("kind"), name)
        with at_most(100 + 2 * len(state)):  # some are made and left again
            _check_tensors(network.from_dict(architecture).state_dict(), state)
        defaults = checked_defaults(metadata.get("defaults", {}))
        law = replace(METHODS[name], **defaults)
        law = replace(law, parametrisation=metadata["parametrisation"])
        parametrisation(law.parametrisation)
        law = replace(law, noising=metadata.get("process", law.noising))
        law.process  # noqa: B018  it is made here, where what is wrong with it can be said
        std, kernel = metadata.get("std"), metadata.get("kernel", "bicubic")
        if std is not None and not _number(std, above=0):
            why = f"the weights' std is {str(std)[:60]!r}: it must be a number above 0"
            raise WeightsError(why)
        if kernel not in list(KERNELS):
            known = ", ".join(KERNELS)
            raise WeightsError(f"the weights' kernel is {str(kernel)[:60]!r}: choose from {known}")
        net = network.from_dict(architecture)
    # the last three: sizes that no tensor has
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise WeightsError(
            f"this version cannot build the network of these weights ({error!r:.400}): "
            "update diffsr, or train them again"
        ) from error
    net.load_state_dict({k: v.float() for k, v in state.items()})
    return Model(name, net.eval().requires_grad_(False), law, std, metadata, kernel)


def mean(clean: Model, real: Model, share: float) -> Model:
    """The model whose pictures are the mean of theirs, `share` of it real's: cut into parts for the
    network that sees further, in the steps of the one that counts more. Raises WeightsError."""
    if clean.net.align != real.net.align:
        raise WeightsError("weights that need other tiles cannot be mixed")
    net = max(
        (one.net for one in (clean, real)),
        key=lambda net: (net.halo is None, net.halo or 0, net.bytes_per_pixel),
    )
    nearer = real if share >= 0.5 else clean
    return replace(nearer, net=net, parts=((clean, 1 - share), (real, share)))


def headed(
    state: Mapping[str, Tensor], metadata: Mapping[str, Any], method: str, name: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file with ECDP's two heads as weights of `method`: (state dict, metadata).

    ECDP's head for the clean target answers with the velocity of the same residual that SR3's
    network answers with, at a noise level that both networks are given; what differs is by which
    process and sampler it is called. So one trunk, trained once, serves both. Raises WeightsError
    where the file has no second head, or its answer is not the method's.
    """
    from upscale.nets.compact import second_head

    architecture = dict(metadata.get("architecture") or {})
    given = METHODS[method].compact_parametrisation if method in METHODS else ""
    if architecture.get("heads") != 2 or given != "v":
        raise WeightsError(f"{name}: its file has no head for {method}")
    kept = {key: value for key, value in metadata.items() if key != "process"}
    kept |= {"architecture": {**architecture, "heads": 1}, "method": method, "name": name}
    return second_head(state), {**kept, "parametrisation": given}


def _check_tensors(described: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raises WeightsError where the file's tensors are not those of the network."""
    wrong = described.keys() ^ state.keys()
    wrong |= {k for k in described.keys() & state.keys() if described[k].shape != state[k].shape}
    wrong |= {k for k, v in state.items() if not v.is_floating_point()}
    if wrong:
        few = ", ".join(sorted(wrong)[:3]) + (", ..." if len(wrong) > 3 else "")
        raise WeightsError(
            f"weights and their own description disagree about {len(wrong)} tensors ({few:.300}): "
            "make them again"
        )


def _number(value: Any, above: float = -math.inf, most: float = 1e6) -> bool:
    return type(value) in (int, float) and above < value <= most


def _rung(value: Any) -> bool:
    """Whether a value is a pair of a sampler's name and its steps."""
    if not (isinstance(value, list | tuple) and len(value) == 2):
        return False
    return value[0] in list(SAMPLERS) and _DEFAULTS["steps"](value[1])


def _rungs(value: Any) -> bool:
    return (
        isinstance(value, dict) and value.keys() <= set(PRESETS) and all(map(_rung, value.values()))
    )


def _scheduled(raw: Any) -> bool:
    return (
        isinstance(raw, dict)
        and _rung((raw.get("sampler"), raw.get("steps")))
        and isinstance(raw.get("sigmas"), list | tuple)
        and all(map(_number, raw["sigmas"]))
        and _number(raw.get("temperature", 1.0))
    )


_DEFAULTS: dict[str, Callable[[Any], bool]] = {
    "sampler": lambda value: value in list(SAMPLERS),
    "steps": lambda value: type(value) is int and 1 <= value <= MOST_STEPS,
    "spacing": lambda value: value in list(SPACINGS),
    "temperature": lambda value: _number(value, above=-1e-9, most=100),
    "schedules": lambda v: isinstance(v, list | tuple) and len(v) < 100 and all(map(_scheduled, v)),
    "presets": _rungs,
    "ladder": _rungs,
}


def checked_defaults(raw: Any) -> dict[str, Any]:
    """The sampling defaults of a weights file as fields of `Method`. TypeError, ValueError."""
    defaults = dict(raw)
    for key, value in defaults.items():
        if key not in _DEFAULTS or not _DEFAULTS[key](value):
            raise ValueError(f"defaults {key:.60} cannot be {str(value)[:60]}")
    made = (
        Schedule(**{**one, "sigmas": tuple(one["sigmas"])}) for one in defaults.pop("schedules", ())
    )
    return {**defaults, "schedules": tuple(made)}


def network_of(kind: str, first: str = "") -> type[Net]:
    """The network class of this kind; those of method `first` are tried first. KeyError."""
    rows = [METHODS[first]] if first in METHODS else []
    for row in (*rows, *METHODS.values()):
        for network in row.networks:
            if network.kind == kind:
                return network
    raise KeyError(kind)
