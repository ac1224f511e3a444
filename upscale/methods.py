"""THE table of methods, and how a weights file becomes a network ready to be called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from upscale.diffusion.denoiser import parametrisation
from upscale.diffusion.process import Process, VPDiscrete, VPLinear, process_from
from upscale.diffusion.samplers import ADAPTIVE, nfe
from upscale.errors import UsageError, WeightsError
from upscale.image.resize import KERNELS
from upscale.nets import ddpm, ecdp, idm, sr3
from upscale.nets.compact import CompactConfig, CompactNet
from upscale.nets.compact_idm import CompactIDM, CompactIDMConfig
from upscale.nets.ddpm import DDPMConfig, DDPMNet
from upscale.nets.ecdp import ECDPConfig, ECDPNet
from upscale.nets.idm import IDMConfig, IDMNet
from upscale.nets.liif import EDSRConfig, EDSRNet, LIIFConfig, LIIFNet
from upscale.nets.sr3 import SR3Net
from upscale.nets.unet import UNetConfig


@dataclass(frozen=True)
class Schedule:
    """Noise levels found for one sampler and step count (SR3, section 4.6; `bench.tune`).

    sigmas: one a step, descending, above 0. temperature: of the noise, found with them.
    """

    sampler: str
    steps: int
    sigmas: tuple[float, ...]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        levels = (*self.sigmas, 0.0)
        if len(self.sigmas) != self.steps or not all(map(math.isfinite, levels)):
            raise ValueError(f"a schedule for {self.steps} steps has {len(self.sigmas)} levels")
        if any(a <= b for a, b in zip(levels, levels[1:], strict=False)):
            raise ValueError("a schedule must descend to 0")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"a schedule's temperature is {self.temperature}")


PRESETS = ("fast", "balanced", "best")
Ladder: TypeAlias = dict[str, tuple[str, int]]
_CALLS = {"fast": 4, "balanced": 8, "best": 25}
MOST_FEW = 4  # network calls that the quality loss goes through
BEST_OF_FEW = 4  # steps: measured, docs/performance.md


@dataclass(frozen=True)
class Method:
    """How a method samples unless the weights file or the user says otherwise.

    temperature: of the start noise, for samplers that add no other. Below 1 a few-step sampler
    leaves less noise in the picture. kernel: set for methods without a network, the name of the
    resize they are. continuous: made for every magnification, so past those that the weights were
    trained for it is used as it is, where others go in two stages. unconditional: made from noise
    alone, so that there is nothing to enlarge (`generating`). schedules: noise levels that
    were searched for, which go before `spacing`. ladder: sampler and steps of each preset, for
    weights that were trained by the score alone: about 4, 8 and 25 network calls. presets: the same
    where a weights file says so.
    """

    parametrisation: str = "eps"
    process: Process = field(default_factory=VPDiscrete)
    sampler: str = "ddpm"
    steps: int = 100
    spacing: str = "logsnr"
    temperature: float = 1.0
    kernel: str | None = None
    continuous: bool = False
    unconditional: bool = False
    schedules: tuple[Schedule, ...] = ()
    ladder: Ladder = field(
        default_factory=lambda: {name: ("dpmpp2m", steps) for name, steps in _CALLS.items()}
    )
    presets: Ladder = field(default_factory=dict)

    def preset(self, name: str) -> tuple[str, int]:
        """Sampler and steps of a rung of the ladder. Raises UsageError for an unknown name.

        Weights whose own way takes few calls were trained through them, by the quality loss: they
        know one call more or less, and no other sampler.
        """
        if name not in PRESETS:
            raise UsageError(f"no preset {name!r}; have {', '.join(PRESETS)}")
        if self.sampler == "once":
            return self.sampler, self.steps
        if name in self.presets:
            return tuple(self.presets[name])  # a list where it comes from a file
        few = nfe(self.sampler, self.steps) <= MOST_FEW and self.sampler not in ADAPTIVE
        if few:
            return self.sampler, {"fast": 1, "balanced": self.steps, "best": BEST_OF_FEW}[name]
        return self.ladder[name]

    def tuned(self, sampler: str, steps: int) -> Schedule | None:
        """What a search found for just that, if one was made."""
        found = (s for s in self.schedules if (s.sampler, s.steps) == (sampler, steps))
        return next(found, None)

    def with_schedule(self, schedule: Schedule) -> Method:
        """The same with `schedule` in the place of one for its sampler and steps."""
        own = self.tuned(schedule.sampler, schedule.steps)
        others = tuple(s for s in self.schedules if s is not own)
        return replace(self, schedules=(*others, schedule))


METHODS: dict[str, Method] = {
    "sr3": Method(),
    "ecdp": Method(
        parametrisation="hybrid",
        process=VPLinear(),
        sampler="heun-phi",
        steps=4,
        spacing="phi",
        ladder={"fast": ("midpoint", 2), "balanced": ("midpoint", 4), "best": ("midpoint", 13)},
    ),
    "idm": Method(continuous=True),
    "regression": Method(parametrisation="x0", sampler="once", steps=1),
    "liif": Method(parametrisation="x0", sampler="once", steps=1, continuous=True),
    "edsr": Method(parametrisation="x0", sampler="once", steps=1),
    "ddpm": Method(parametrisation="v", spacing="phi", unconditional=True),
    "bicubic": Method(sampler="once", steps=1, kernel="bicubic"),
    "lanczos": Method(sampler="once", steps=1, kernel="lanczos"),
}

# what a user gets who names no method, by domain: measured, best first (docs/results.md); the last
# one also goes past the range of its weights
PREFERRED = {"photo": ("ecdp", "idm", "sr3"), "face": ("sr3", "idm")}

NETS: dict[str, Callable[[dict], nn.Module]] = {
    "compact": lambda values: CompactNet(CompactConfig.from_dict(values)),
    "compact-idm": lambda values: CompactIDM(CompactIDMConfig.from_dict(values)),
    "sr3": lambda values: SR3Net(UNetConfig.from_dict(values)),
    "ddpm": lambda values: DDPMNet(DDPMConfig.from_dict(values)),
    "ecdp": lambda values: ECDPNet(ECDPConfig.from_dict(values)),
    "idm": lambda values: IDMNet(IDMConfig.from_dict(values)),
    "liif": lambda values: LIIFNet(LIIFConfig.from_dict(values)),
    "edsr": lambda values: EDSRNet(EDSRConfig.from_dict(values)),
}
# the papers' networks by name: method and how to make it
PAPER_NETS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    **{name: ("sr3", partial(SR3Net, config)) for name, config in sr3.CONFIGS.items()},
    **{name: ("ddpm", partial(DDPMNet, config)) for name, config in ddpm.CONFIGS.items()},
    **{f"ecdp-{name}": ("ecdp", partial(ECDPNet, c)) for name, c in ecdp.CONFIGS.items()},
    **{name: ("idm", partial(IDMNet, c)) for name, c in idm.CONFIGS.items()},
    "liif-baseline": ("liif", partial(LIIFNet, LIIFConfig(16, 64, 256, 5))),
    **{f"edsr-baseline-x{n}": ("edsr", partial(EDSRNet, EDSRConfig(n))) for n in (2, 3, 4, 8)},
}


class Diffused:
    """Between a picture and the target that diffuses, in [-1,1]: (hr - lr_up) / std, or hr itself
    where std is None. In sigma coordinates the two differ by a shift and a scale only: SR3's
    process is the same."""

    std: float | None

    def decode(self, target: Tensor, lr_up: Tensor) -> Tensor:
        """Diffusing target -> picture."""
        return target if self.std is None else torch.add(lr_up, target, alpha=self.std)

    def encode(self, picture: Tensor, lr_up: Tensor) -> Tensor:
        """Inverse of `decode`."""
        return picture if self.std is None else (picture - lr_up) / self.std


@dataclass(frozen=True)
class Model(Diffused):
    """A network with all that a sampler must know about it."""

    method: str
    net: nn.Module | None
    law: Method
    std: float | None
    metadata: dict[str, Any]
    kernel: str = "bicubic"  # that enlarges the input to the mean


def preferred(domain: str) -> tuple[str, ...]:
    """The methods of `PREFERRED`. Raises UsageError for domains that have none."""
    if domain not in PREFERRED:
        raise UsageError(f"no domain {domain!r}; have {', '.join(PREFERRED)}, or name a --method")
    return PREFERRED[domain]


def get(name: str) -> Method:
    """The line of the table. Raises UsageError with the valid names."""
    if name not in METHODS:
        raise UsageError(f"no method {name!r}; have {', '.join(METHODS)}")
    return METHODS[name]


def enlarging(name: str) -> Method:
    """The line of a method that enlarges pictures. Raises UsageError for one that makes them."""
    method = get(name)
    if method.unconditional:
        raise UsageError(f"{name} makes pictures from noise alone, it enlarges none: "
                         "diffsr generate")  # fmt: skip
    return method


def build(state: dict[str, Tensor], metadata: dict[str, Any]) -> Model:
    """The model that a weights file describes: strict keys, float32, eval mode."""
    try:
        architecture = dict(metadata["architecture"])
        net = NETS[architecture.pop("kind")](architecture)
        method = get(metadata["method"])
        defaults = dict(metadata.get("defaults", {}))
        found = (dict(raw) for raw in defaults.pop("schedules", ()))
        schedules = tuple(Schedule(**{**raw, "sigmas": tuple(raw["sigmas"])}) for raw in found)
        law = replace(method, **defaults, schedules=schedules)
        law = replace(law, parametrisation=metadata["parametrisation"])
        parametrisation(law.parametrisation)
        if "process" in metadata:
            law = replace(law, process=process_from(metadata["process"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"these weights describe a network this version cannot build ({error!r}): "
            "update diffsr, or train them again"
        ) from error
    try:
        net.load_state_dict({k: v.float() for k, v in state.items()})
    except RuntimeError as error:
        raise WeightsError(f"weights and their own description disagree: {error}") from error
    std = metadata.get("std")
    if std is not None and not (isinstance(std, int | float) and 0 < std < math.inf):
        raise WeightsError(f"the weights' std is {std!r}: it must be a number above 0")
    kernel = metadata.get("kernel", "bicubic")
    if kernel not in KERNELS:
        raise WeightsError(f"the weights' kernel is {kernel!r}: have {', '.join(KERNELS)}")
    return Model(metadata["method"], net.eval().requires_grad_(False), law, std, metadata, kernel)


def make_paper_net(name: str, method: str) -> nn.Module:
    """A paper's network with fresh weights. Raises UsageError."""
    if name not in PAPER_NETS:
        raise UsageError(f"no network {name!r}; have compact, {', '.join(PAPER_NETS)}")
    own, make = PAPER_NETS[name]
    if method != own and not (method == "regression" and own == "sr3"):
        raise UsageError(f"network {name} is for --method {own}, not {method}")
    net = make()
    if method == "regression":
        net = SR3Net(replace(net.config, noisy_input=False))
    return net


def describe(net: nn.Module) -> dict[str, Any]:
    """The "architecture" of a weights file's metadata: what `build` needs to make `net` again."""
    return {"kind": net.kind, **asdict(net.config)}
