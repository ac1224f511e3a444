"""What a user can ask of an enlargement: each field's default, bounds, check and help stand here.

The command line, `Upscaler`, batches, Ray's workers, the ledger's key and the report read these
records. No torch: the command line needs them before it knows whether there is anything to do.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

from upscale.diffusion.table import SAMPLERS, SPACINGS
from upscale.errors import UsageError, check_known
from upscale.methods import PRESETS

SCALE = 4.0  # where no size is asked for
SCALES = (1, 16)
SMALLEST_TILE = 128
CONSISTENCY = ("project", "blend", "colour", "off")
INPUTS = ("auto", "clean", "real")
STORED = "stored in weights"


@dataclass(frozen=True)
class Asked:
    """What `checked` and the command line need to know of a field.

    least, most, above: bounds of a number. choices: the names that it may have; empty where any
    name may be meant. flags: what its error calls it; its own flag by default. shown: what a
    default of None means. group, expert, metavar: as in `cli.options.option`.
    """

    help: str
    group: str
    expert: bool = False
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: Collection[str] = ()
    flags: str = ""
    shown: str | None = None
    metavar: str | None = None

    @property
    def bounds(self) -> str:
        """In words; empty where there are none."""
        if self.above is not None:
            return f"above {self.above:g}"
        if self.most is not None:
            return f"from {self.least:g} to {self.most:g}"
        return "" if self.least is None else f"at least {self.least:g}"

    def allows(self, value: Any) -> bool:
        """Whether this is a number within the bounds; none that is not finite is."""
        if not isinstance(value, Real):
            return False
        low = value > self.above if self.above is not None else value >= self.least
        return low and math.isfinite(value) and (self.most is None or value <= self.most)


def asked(default: Any, help: str, **known: Any) -> Any:
    """A field with this default; known: the other fields of `Asked`."""
    return field(default=default, metadata={"asked": Asked(help, **known)})


def checked(record: Any) -> None:
    """Raises UsageError for the first field whose value is out of its bounds or choices. Numbers of
    other kinds, such as numpy's, become Python's own: seeds are mixed and reports written of them.
    """
    for one in fields(record):
        value, rule = getattr(record, one.name), one.metadata["asked"]
        kind = _NUMBERS.get(one.type.partition(" ")[0])
        if value is None and (kind is None or one.type.endswith("None")):
            continue
        if rule.choices:
            check_known(value, rule.choices, one.name.replace("_", " "))
            continue
        flags = rule.flags or "--" + one.name.replace("_", "-")
        if rule.bounds and not rule.allows(value):
            raise UsageError(f"{flags} must be {rule.bounds}, not {value!r}")
        if kind and not isinstance(value, kind.abstract):
            raise UsageError(f"{flags} must be {kind.words}, not {value!r}")
        if kind and type(value) not in (int, float):
            object.__setattr__(record, one.name, kind.own(value))


class _Number(NamedTuple):
    abstract: type
    own: type
    words: str


# the types that fields are annotated with
_NUMBERS = {
    "int": _Number(Integral, int, "a whole number"),
    "float": _Number(Real, float, "a number"),
}


def _is_size(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(isinstance(side, Integral) for side in value)


@dataclass(frozen=True)
class Request:
    """How a picture is to be enlarged. Raises UsageError for values out of their bounds, TypeError
    for names that are no fields.

    One of scale, size (height, width) and max_side says how large; without any it is SCALE.
    None is otherwise what the weights say. The same seed gives the same pixels whatever the
    order of pictures, and the same up to rounding whatever the tile.
    """

    scale: float | None = asked(
        None, "Magnification.", group="Size", least=SCALES[0], most=SCALES[1], metavar="FLOAT"
    )
    size: tuple[int, int] | None = asked(
        None, "Exact size of the result, in pixels.", group="Size", metavar="WxH"
    )
    max_side: int | None = asked(
        None,
        "Length of the longer side of the result, in pixels.",
        group="Size",
        expert=True,
        least=1,
        metavar="N",
    )
    preset: str | None = asked(
        None,
        "Trade speed for quality, by sampler and steps.",
        group="Method", choices=PRESETS, shown=STORED,
    )  # fmt: skip
    steps: int | None = asked(
        None, "Sampler steps.", group="Method", least=1, shown=STORED, metavar="N"
    )
    sampler: str | None = asked(
        None, "Sampling method.",
        group="Sampling", expert=True, choices=SAMPLERS, shown=STORED,
    )  # fmt: skip
    spacing: str | None = asked(
        None, "Spacing of the noise levels.",
        group="Sampling", expert=True, choices=SPACINGS, shown=STORED,
    )  # fmt: skip
    seed: int = asked(
        0,
        "Seed of all noise. The same seed and picture give the same result.",
        group="Sampling",
        expert=True,
        metavar="N",
    )
    same_noise: bool = asked(
        False,
        "The same noise for every picture, so that the frames of a film do not flicker.",
        group="Sampling",
        expert=True,
    )
    temperature: float | None = asked(
        None,
        "Strength of the noise. Lower values give smoother results.",
        group="Sampling", expert=True, least=0, shown=STORED, metavar="FLOAT",
    )  # fmt: skip
    parametrisation: str | None = asked(
        None,
        "How the two heads of ecdp are combined: hybrid, hybrid:POWER, hybrid-eps, hybrid-x0.",
        group="Sampling", expert=True, shown=STORED, metavar="NAME",
    )  # fmt: skip
    rtol: float = asked(
        1e-3,
        "Relative tolerance of --sampler rk45.",
        group="Sampling", expert=True, above=0, flags="--rtol and --atol", metavar="FLOAT",
    )  # fmt: skip
    atol: float = asked(
        1e-3,
        "Absolute tolerance of --sampler rk45.",
        group="Sampling", expert=True, above=0, flags="--rtol and --atol", metavar="FLOAT",
    )  # fmt: skip
    denoise: float | None = asked(
        None,
        "Strength of the cleaning. 0 keeps grain and blocks.",
        group="Method", least=0, most=1, metavar="FLOAT", shown="by --input",
    )  # fmt: skip
    consistency: str | None = asked(
        None,
        "Whether the shrunk result must equal the input. colour: only in coarse structure.",
        group="Sampling", expert=True, choices=CONSISTENCY,
        shown="stored in the weights: project, or off for real input",
    )  # fmt: skip
    tile: str | int = asked(
        "auto",
        "Side of the tiles in which large pictures are computed. 0: no tiles.",
        group="Machine", expert=True, metavar="auto|0|N",
    )  # fmt: skip
    overlap: int = asked(
        64,
        "Pixels by which tiles overlap, for networks that look at all of the picture.",
        group="Machine",
        expert=True,
        least=0,
        metavar="N",
    )
    faces: bool = asked(
        False,
        "Draw the small faces in a photograph by weights for faces: they look more like faces, not "
        "always more alike (needs diffsr[faces]).",
        group="Method",
        expert=True,
    )  # fmt: skip
    one_stage: bool = asked(
        False,
        "Use the weights at exactly this scale, even if they were not trained for it.",
        group="Sampling", expert=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.scale is None and self.size is None and self.max_side is None:
            object.__setattr__(self, "scale", SCALE)
        checked(self)
        if self.size is not None and not _is_size(self.size):
            raise UsageError(f"--size must be (height, width) in pixels, not {self.size!r}")
        if self.size is not None:
            object.__setattr__(self, "size", tuple(map(int, self.size)))
        side = str(self.tile)
        if side not in ("auto", "0") and not (side.isdecimal() and int(side) >= SMALLEST_TILE):
            raise UsageError(f"--tile must be auto, 0, or at least {SMALLEST_TILE}, not {side}")


@dataclass(frozen=True)
class Setup:
    """Which weights enlarge pictures, and where. Raises UsageError for an unknown input.

    method: a name in `methods.METHODS`; None takes the first of `methods.preferred` that has
    weights for domain and scale. weights: a name in weights.toml, a file of diffsr's or of another
    program's network, or hf:ORG/REPO[@REVISION]/FILE (whose own method then counts); None takes the
    bundled weights that fit method and scale. input: real has pictures that are blurred, noisy or
    compressed done by weights for such, clean by the others; auto looks at each picture, where
    neither a method nor weights are named. offline: never ask the network. compile: by
    torch.compile, which takes a minute or more at the first picture.
    """

    method: str | None = asked(
        None, "How to enlarge.", group="Method", shown="by scale and domain",
    )  # fmt: skip
    weights: str | None = asked(
        None,
        "A name (`diffsr weights list`), a file (.safetensors, .pth) or hf:ORG/REPO/FILE.",
        group="Method", metavar="NAME|FILE|hf:...",
    )  # fmt: skip
    domain: str = asked("photo", "What the pictures show.", group="Method")
    input: str = asked(
        "auto",
        "Kind of pictures: clean (rendered or shrunk) or real (noisy, compressed or blurred). auto "
        "examines each.",
        group="Method", choices=INPUTS,
    )  # fmt: skip
    device: str = asked("auto", "cpu, cuda, cuda:1, xpu or mps.", metavar="DEVICE", group="Machine")
    dtype: str = asked("auto", "Number format of the network.", group="Machine", expert=True)
    offline: bool = asked(False, "Never use the network.", group="General", expert=True)
    compile: bool = asked(
        False,
        "Compile the network with torch first. This takes a minute or more and suits long batches "
        "on a GPU.",
        group="Machine", expert=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        checked(self)
