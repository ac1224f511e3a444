"""What the page can ask for, taken from the records of the command line, and the command of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from upscale import methods
from upscale.batch.files import Files
from upscale.errors import UsageError
from upscale.pipeline.request import SCALE, Request, Setup

# in the order of the page; the rest is fixed when the server starts
SHOWN = ("scale", "size", "preset", "domain", "input", "denoise")


@dataclass(frozen=True)
class Wish:
    """How a picture is to be enlarged: the three records of `diffsr upscale`."""

    setup: Setup = field(default_factory=Setup)
    request: Request = field(default_factory=Request)
    files: Files = field(default_factory=Files)

    @cached_property
    def kind(self) -> tuple[Setup, Request]:
        """What the time of a pixel depends on."""
        return self.setup, replace(self.request, scale=1.0, size=None)

    def with_values(self, values: Mapping[str, Any]) -> Wish:
        """The same with what the page sent, by the names in `SHOWN`; None is the default. Raises
        UsageError for other names, and for values of a wrong type or out of bounds."""
        if unknown := values.keys() - set(SHOWN):
            raise UsageError(f"no option {', '.join(sorted(unknown))}")
        given = {name: _read(_FIELDS[name], value) for name, value in values.items()
                 if value is not None}  # fmt: skip
        if "size" in given:
            given.pop("scale", None)
        own = {one.name for one in fields(Setup)}
        setup = {name: value for name, value in given.items() if name in own}
        methods.preferred(setup.get("domain", self.setup.domain))
        rest = {name: value for name, value in given.items() if name not in own}
        return replace(self, setup=replace(self.setup, **setup), request=Request(**rest))

    def command(self, name: str, output: str) -> str:
        """What to type for the same file, in the folder of the picture."""
        words = ["diffsr", "upscale", f"./{name}" if name.startswith("-") else name, "-o", output]
        for record in (self.request, self.setup, self.files):
            for one in fields(record):
                value = getattr(record, one.name)
                if value == one.default or (one.name == "max_pixels" and value < one.default):
                    continue  # a lower limit changes no result
                words.append("--" + one.name.replace("_", "-"))
                if one.name == "weights" and os.path.exists(value):
                    value = os.path.abspath(value)  # it may lie elsewhere
                words += [] if value is True else [_text(value)]
        return shlex.join(words)


_FIELDS = {one.name: one for kind in (Request, Setup) for one in fields(kind)}


def form(wish: Wish) -> list[dict[str, Any]]:
    """The page's options: their names, kinds, bounds, choices, defaults and helps."""
    named = ("domain", "input") if wish.setup.weights else ()  # such leave nothing to choose
    return [_described(_FIELDS[name], wish) for name in SHOWN if name not in named]


def _described(one: Field, wish: Wish) -> dict[str, Any]:
    rule, default = one.metadata["asked"], one.default
    choices = methods.domains() if one.name == "domain" else tuple(rule.choices)
    if one.name in vars(wish.setup):
        default = getattr(wish.setup, one.name)
    kind = "choice" if choices else "size" if "tuple" in one.type else "number"
    return {
        "name": one.name, "kind": kind, "help": rule.help, "choices": choices,
        "least": rule.least, "most": rule.most, "shown": rule.shown,
        "default": SCALE if one.name == "scale" else default,
    }  # fmt: skip


def _read(one: Field, value: Any) -> Any:
    """A value of JSON as the field's type. Raises UsageError."""
    kind = one.type.split(" ")[0]
    if kind == "float" and type(value) in (int, float):
        return float(value)
    if kind == "str" and isinstance(value, str):
        return value
    sides = value if kind.startswith("tuple") and isinstance(value, list) else ()
    if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
        return tuple(sides)
    raise UsageError(f"--{one.name.replace('_', '-')} cannot be {value!r:.40}")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[1]}x{value[0]}"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
