"""The table of methods. Nothing here needs torch: rows only name networks and noising laws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from upscale.diffusion.table import SAMPLERS, Sampler, loaded
from upscale.errors import UsageError, check_known

if TYPE_CHECKING:
    from upscale.diffusion.process import Process
    from upscale.nets.net import Config, Net


@dataclass(frozen=True)
class Schedule:
    """Noise levels found for one sampler and step count (SR3, section 4.6; `bench.tune`).

    sigmas: one per step, descending, above 0. temperature: factor of the noise, found with them.
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
TRAINED = "ddim"  # the sampler of training's losses, stored in the weights it makes


def sampler_of(name: str) -> Sampler:
    """The row of the table. Raises UsageError with the valid names."""
    check_known(name, SAMPLERS, "sampler")
    return SAMPLERS[name]


@dataclass(frozen=True)
class Method:
    """All that distinguishes a method, and how it samples unless the weights file or the user says
    otherwise.

    Sampling. noising: the process, as `diffusion.process.process_from` takes it. temperature:
    factor of the start noise, for samplers that add no other noise; below 1 a few-step sampler
    leaves less noise in the picture. schedules: noise levels found by a search, which override
    `spacing`. ladder: sampler and steps of each preset, for weights that were trained by the score
    alone: about 4, 8 and 25 network calls. presets: the same, as stored in a weights file.
    deterministic: the sampler with fixed steps and without noise that is nearest to the method.
    clamped: estimates of the picture itself are kept in [-1,1].

    Kind. kernel: the resize that a method without a network applies. continuous: made for every
    magnification, so that it takes one stage even beyond its weights' range, where other methods
    take two. unconditional: makes pictures from noise alone and enlarges none. preferred: by
    domain, its rank among the default methods (measured: docs/results.md). foreign: as
    "module:function", what makes a network of the tensors in another program's file.

    Training. nets: its networks as "module:class"; empty where it cannot be trained. net: the
    network that `--net compact` means. fixed: values that its networks' configurations must have.
    sizes: other values of single configurations, by their names. compact_parametrisation: what our
    network predicts where it is not `parametrisation`. residual: it diffuses what the enlarged
    input lacks, never the picture.
    """

    parametrisation: str = "eps"
    noising: Mapping[str, Any] = field(default_factory=lambda: {"kind": "vp-discrete"})
    sampler: str = "ddpm"
    steps: int = 100
    spacing: str = "logsnr"
    temperature: float = 1.0
    schedules: tuple[Schedule, ...] = ()
    ladder: Ladder = field(
        default_factory=lambda: {name: ("dpmpp2m", steps) for name, steps in _CALLS.items()}
    )
    presets: Ladder = field(default_factory=dict)
    deterministic: str = TRAINED
    clamped: bool = False

    kernel: str | None = None
    continuous: bool = False
    unconditional: bool = False
    preferred: Mapping[str, int] = field(default_factory=dict)
    foreign: str = ""

    nets: tuple[str, ...] = ()
    net: str = "compact"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compact_parametrisation: str = ""
    residual: bool = False

    @cached_property
    def process(self) -> Process:
        """The noising process. Raises KeyError, TypeError, ValueError."""
        from upscale.diffusion.process import process_from

        return process_from(self.noising)

    @property
    def single(self) -> bool:
        """Whether each picture takes one network call, without noise."""
        return sampler_of(self.sampler).single

    @property
    def two_heads(self) -> bool:
        """Whether the network predicts both the noise and the clean target."""
        return self.parametrisation.startswith("hybrid")

    @property
    def networks(self) -> list[type[Net]]:
        """The classes that `nets` names."""
        return [loaded(place) for place in self.nets]

    def preset(self, name: str) -> tuple[str, int]:
        """Sampler and steps of a rung of the ladder, one of PRESETS.

        Weights that take few calls by default were trained through these calls by the quality loss:
        they work with slightly more or fewer calls, and with no other sampler.
        """
        own = sampler_of(self.sampler)
        if own.single:
            return self.sampler, self.steps
        if name in self.presets:
            return tuple(self.presets[name])  # a list if it comes from a file
        if own.calls(self.steps) <= MOST_FEW and not own.adaptive:
            return self.sampler, {"fast": 1, "balanced": self.steps, "best": BEST_OF_FEW}[name]
        return self.ladder[name]

    def tuned(self, sampler: str, steps: int) -> Schedule | None:
        """The schedule that a search found for this sampler and step count, or None."""
        found = (s for s in self.schedules if (s.sampler, s.steps) == (sampler, steps))
        return next(found, None)

    def with_schedule(self, schedule: Schedule) -> Method:
        """The method with `schedule`, which replaces one for the same sampler and steps."""
        own = self.tuned(schedule.sampler, schedule.steps)
        others = tuple(s for s in self.schedules if s is not own)
        return replace(self, schedules=(*others, schedule))


_ONE_CALL: dict[str, Any] = {"parametrisation": "x0", "sampler": "once", "steps": 1}
METHODS: dict[str, Method] = {
    "sr3": Method(
        clamped=True,  # as the published samplers do: pictures end at white
        preferred={"photo": 3, "face": 1},
        nets=("upscale.nets.compact:CompactNet", "upscale.nets.sr3:SR3Net"),
        compact_parametrisation="v",
    ),
    "ecdp": Method(
        parametrisation="hybrid",
        noising={"kind": "vp-linear"},
        sampler="heun-phi",
        steps=4,
        spacing="phi",
        ladder={"fast": ("midpoint", 2), "balanced": ("midpoint", 4), "best": ("midpoint", 13)},
        deterministic="heun-phi",
        preferred={"photo": 1},
        nets=("upscale.nets.compact:CompactNet", "upscale.nets.ecdp:ECDPNet"),
        fixed={"heads": 2},
        # a deeper encoder, whose features every block receives
        sizes={"compact": {"encoder": 6, "inject": (1, 3, 5)}, "compact-tiny": {"inject": (0, 1)}},
        residual=True,  # its process reverts to the input
    ),
    "idm": Method(
        continuous=True,
        preferred={"photo": 2, "face": 2},
        nets=("upscale.nets.compact_idm:CompactIDM", "upscale.nets.idm:IDMNet"),
        compact_parametrisation="v",
    ),
    "regression": Method(
        **_ONE_CALL,
        nets=("upscale.nets.compact:CompactNet", "upscale.nets.sr3:SR3Net"),
        fixed={"noisy_input": False},
    ),
    "liif": Method(
        **_ONE_CALL, continuous=True, nets=("upscale.nets.liif:LIIFNet",), residual=True
    ),
    "edsr": Method(**_ONE_CALL, nets=("upscale.nets.liif:EDSRNet",), residual=True),
    "ddpm": Method(
        parametrisation="v",
        spacing="phi",
        unconditional=True,
        nets=("upscale.nets.ddpm:DDPMNet",),
        net="ddpm-64",
    ),
    "spandrel": Method(**_ONE_CALL, foreign="upscale.nets.others:network"),
    "bicubic": Method(sampler="once", steps=1, kernel="bicubic"),
    "lanczos": Method(sampler="once", steps=1, kernel="lanczos"),
}


def domains() -> tuple[str, ...]:
    """What pictures can show, as far as there are default methods for it."""
    return tuple(dict.fromkeys(domain for row in METHODS.values() for domain in row.preferred))


def preferred(domain: str) -> tuple[str, ...]:
    """The default methods for a domain, best first; `weights.choice.choose` has what each is for.
    Raises UsageError for domains that have none."""
    found = {
        name: row.preferred[domain] for name, row in METHODS.items() if domain in row.preferred
    }
    if not found:
        have = ", ".join(domains())
        raise UsageError(f"no domain {domain!r}; choose from {have}, or name a --method")
    return tuple(sorted(found, key=found.__getitem__))


def get(name: str) -> Method:
    """The row of the table. Raises UsageError with the valid names."""
    check_known(name, METHODS, "method")
    return METHODS[name]


def enlarging(name: str) -> Method:
    """The row of a method that enlarges pictures. Raises UsageError for one that makes them."""
    method = get(name)
    if method.unconditional:
        raise UsageError(f"{name} makes pictures from noise alone, it enlarges none: "
                         "diffsr generate")  # fmt: skip
    return method


def foreign() -> str:
    """The method of files that other programs wrote."""
    return next(name for name, row in METHODS.items() if row.foreign)


def named(method: str) -> Iterator[tuple[str, type[Net]]]:
    """The names that `--net` takes for a method, each with its network class."""
    for network in get(method).networks:
        for name in network.named:
            yield name, network


def network_named(name: str, method: str) -> type[Net]:
    """The network class that `--net` means. Raises UsageError for another method's name or an
    unknown one."""
    own = dict(named(method))
    if name in own:
        return own[name]
    for other in METHODS:
        if name in dict(named(other)):
            raise UsageError(f"network {name} is for --method {other}, not {method}")
    raise UsageError(f"no network {name!r}; choose from {', '.join(own)}")


def adjusted(config: Config, method: str, name: str = "") -> Config:
    """A network's configuration as the method needs it. name: its name in the network's table, ""
    if it is not from there."""
    row = get(method)
    changes = {**row.sizes.get(name, {}), **row.fixed}
    own = {key: value for key, value in changes.items() if hasattr(config, key)}
    return replace(config, **own) if own else config
