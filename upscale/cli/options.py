"""Options: their types and defaults, and which exclude each other."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from upscale import methods
from upscale.bench.columns import REGISTERED
from upscale.cli.environment import is_variable
from upscale.cli.help import GENERAL, Option
from upscale.errors import UsageError
from upscale.pipeline.request import SCALE, SCALES, SMALLEST_TILE, Setup

if TYPE_CHECKING:
    from upscale.weights.registry import Entry

GENERATING = {
    name: f"{name} makes pictures from noise alone: diffsr generate."
    for name, row in methods.METHODS.items()
    if row.unconditional
}
METHODS = tuple(name for name in methods.METHODS if name not in GENERATING)
TRAINABLE = tuple(name for name, row in methods.METHODS.items() if row.nets)
DOMAINS = methods.domains()


# For the shell's completion only: paths are checked where they are used, so that one unreadable
# picture does not end a batch.
ANY_PATH = click.Path(allow_dash=True, readable=False)


def option(*names: str, group: str = "Options", expert: bool = False, **settings: Any) -> Callable:
    """`click.option` in a group of the help page.

    group: the title of its section; sections appear in the order of their first options. expert:
    only --help-all shows it. `upscale.cli.help` appends the range to `help`, and a default that is
    neither None nor a flag's; show_default="a text" says what a default of None means.
    """
    shown = settings.get("default") is not None and not settings.get("is_flag")
    defaults = {"show_default": shown, "cls": Option}
    return click.option(*names, group=group, expert=expert, **{**defaults, **settings})


def with_options(table: Sequence[Callable]) -> Callable:
    """A decorator that adds options to a command, in the order of the table."""

    def decorate(function: Callable) -> Callable:
        for one in reversed(table):
            function = one(function)
        return function

    return decorate


class Named(click.Choice):
    """A choice of names; a misspelt one gets the nearest as a proposal.

    elsewhere: names that belong to another command, and the message for each.
    """

    def __init__(self, choices: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> None:
        super().__init__(choices)
        self.elsewhere = elsewhere or {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.choices:
            return value
        lower = str(value).lower()
        if lower in self.choices:
            return lower
        if lower in self.elsewhere:
            self.fail(self.elsewhere[lower], param, ctx)
        near = difflib.get_close_matches(lower, self.choices, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}? " if near else ""
        self.fail(f"there is no {value}. {hint}Choose from {', '.join(self.choices)}.", param, ctx)


class Device(Named):
    """A kind of device, or one of several of its kind: cuda:1."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if re.fullmatch(r"(cuda|xpu):[0-9]{1,4}", str(value)):
            return value
        return super().convert(value, param, ctx)


class Several(click.ParamType):
    """Names or numbers, separated by commas."""

    def __init__(self, one: click.ParamType, metavar: str) -> None:
        self.one, self.name = one, metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"{self.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts:
            self.fail("the list is empty.", param, ctx)
        return tuple(dict.fromkeys(self.one.convert(part, param, ctx) for part in parts))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list:
        before, comma, last = incomplete.rpartition(",")
        found = self.one.shell_complete(ctx, param, last)
        for item in found:
            item.value = f"{before}{comma}{item.value}"
        return found


class Finite(click.FloatRange):
    """A finite number in a range; click's own range accepts nan."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Scale(Finite):
    """A magnification as people write it: 2, 2.5, 2x or x2."""

    name = "scale"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str):
            value = re.sub(r"[xX×](?=[0-9.]+$)|(?<=[0-9.])[xX×]$", "", value.strip(), count=1)
        return super().convert(value, param, ctx)


class Size(click.ParamType):
    """WIDTHxHEIGHT as people write it -> (height, width)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,7})[xX×]([0-9]{1,7})", value.strip())
        if not match or 0 in (int(match[1]), int(match[2])):
            self.fail(f"{value!r} is not a size; write width x height: 1920x1080.", param, ctx)
        return int(match[2]), int(match[1])


class NamedFolder(click.ParamType):
    """NAME=DIR, or a folder that is called as it is -> (name, path)."""

    name = "[NAME=]DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name, sign, folder = value.partition("=")
        if not (name and sign) or Path(value).is_dir():  # a folder may have such a name
            name, folder = "", value
        return name or Path(folder).resolve().name, Path(folder)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list:
        return [CompletionItem(incomplete, type="dir")]


class Words(click.ParamType):
    """A text that goes into files and pages, all of which are in UTF-8."""

    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            self.fail("it is not in UTF-8; is the terminal set to another encoding?", param, ctx)
        return str(value)


class Tile(click.ParamType):
    """auto, 0 (the whole picture at once) or a side in pixels of the result."""

    name = "tile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto":
            return value
        try:
            side = int(value)
        except ValueError:
            side = -1
        if side < 0 or 0 < side < SMALLEST_TILE:
            why = f"{value!r} is none of auto, 0 and a number from {SMALLEST_TILE}."
            self.fail(why, param, ctx)
        return side

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list:
        values = ("auto", "0", "256", "512")
        return [CompletionItem(v) for v in values if v.startswith(incomplete)]


def some(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The named options alone."""
    return {name: options[name] for name in names}


def require(command: str, *modules: str) -> None:
    """UsageError naming the command's extra where one of `modules` is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"`diffsr {command}` needs {', '.join(missing)}; install the extra: "
            f"pip install 'diffsr[{command}]'"
        )


def path_of(text: str | None) -> Path | None:
    return Path(text) if text else None


def completed(names: Callable[[], Iterable[str]], otherwise: str = "") -> Callable:
    """What a shell completes an option by: names, or where none begins so a "file" or a "dir"."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list:
        found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type=otherwise)] if otherwise else [])

    return complete


def _listed(wanted: Callable[[Entry], bool]) -> list[str]:
    from upscale.weights.registry import entries

    return [name for name, entry in entries().items() if wanted(entry)]


weights_names = completed(lambda: _listed(lambda entry: entry.domain in DOMAINS), "file")
generating_names = completed(lambda: _listed(lambda entry: entry.method in GENERATING), "file")
dataset_names = completed(lambda: REGISTERED, "dir")


_LINE, _VARIABLE, _FILE, _NOWHERE = range(4)  # where options are set; each goes before the next


def place_of(ctx: click.Context, name: str) -> int:
    """Where a parameter is set: on the command line, by a variable, in the file of settings."""
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return _LINE
    if source is not ParameterSource.ENVIRONMENT:
        return _NOWHERE
    param = next(param for param in ctx.command.params if param.name == name)
    return _VARIABLE if is_variable(param, ctx.auto_envvar_prefix) else _FILE


def one_of(ctx: click.Context, names: Iterable[str]) -> str | None:
    """Which of some exclusive parameters is given; the nearest place counts.

    Raises UsageError for two from the same place.
    """
    places = {n: place_of(ctx, n) for n in names if ctx.params.get(n) not in (None, False)}
    nearest = min(places.values(), default=_NOWHERE)
    given = [name for name, place in places.items() if place == nearest < _NOWHERE]
    if len(given) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{flags} exclude each other; give one")
    return given[0] if given else None


ONE_METHOD = Named(METHODS, GENERATING)

# what a record's fields do not hold: how a text becomes a value, or what a shell completes
_SPECIAL: dict[str, dict[str, Any]] = {
    "scale": {"default": SCALE, "type": Scale(*SCALES)},
    "size": {"type": Size()},
    "seed": {"type": click.IntRange(0, 2**63 - 1)},
    "temperature": {"type": Finite(0, 10)},
    "tile": {"type": Tile()},
    "method": {"type": Several(ONE_METHOD, f"[{'|'.join(METHODS)}]")},
    "weights": {"shell_complete": weights_names},
    "distill": {"shell_complete": weights_names},
    "domain": {"type": Named(DOMAINS)},
    "device": {"type": Device(("auto", "cpu", "cuda", "xpu", "mps"))},
    "dtype": {"type": Named(("auto", "fp32", "bf16", "fp16"))},
}


_SHORT = {"scale": ("-s",)}


def asked(record: type, *wanted: str, **more: Any) -> list[Callable]:
    """The options for some fields of a record; `request.asked` makes such fields."""
    known, found = {one.name: one for one in fields(record)}, []
    for name in wanted:
        rule, own = known[name].metadata["asked"], _type_of(known[name])
        own |= {"help": rule.help, "group": rule.group, "expert": rule.expert}
        own |= {"metavar": rule.metavar, "default": known[name].default}
        own |= {"show_default": rule.shown} if rule.shown else {}
        own |= _SPECIAL.get(name, {}) | more
        found.append(option(*_SHORT.get(name, ()), "--" + name.replace("_", "-"), **own))
    return found


def _type_of(one: Field) -> dict[str, Any]:
    """How a field's text is read: by its choices, or by its annotation and bounds."""
    rule, kind = one.metadata["asked"], one.type.split(" ")[0]
    if rule.choices:
        return {"type": Named(rule.choices)}
    if kind == "int":
        return {"type": click.IntRange(rule.least, rule.most)}
    if kind == "float":
        low, open_ = (rule.least, False) if rule.above is None else (rule.above, True)
        return {"type": Finite(low, rule.most, min_open=open_)}
    return {"is_flag": True} if kind == "bool" else {}


# options that several commands share
MACHINE = "Machine"
DEVICE, DTYPE, OFFLINE = asked(Setup, "device", "dtype", "offline")
QUIET = option(
    "-q", "--quiet", is_flag=True, group=GENERAL, help="Of all messages, print errors only."
)
DEBUG = option(
    "--debug", is_flag=True, group=GENERAL, expert=True, help="Show tracebacks of errors."
)


def serving(port: int, who: str) -> list[Callable]:
    """The options of commands that serve a web page. who: needs its link, in words."""
    return [
        option("--host", metavar="ADDRESS", default="127.0.0.1",
               help=f"Address to listen on. {who}"),
        option("--port", type=click.IntRange(0, 65535), default=port, metavar="N",
               help="Port to listen on. 0: any free one."),
        option("--tunnel", metavar="URL",
               help="Public address of the page behind a tunnel or proxy, which needs the link."),
        option("--no-browser", is_flag=True, help="Do not open the browser."),
    ]  # fmt: skip


COMMON = (DEVICE, DTYPE, OFFLINE, QUIET, DEBUG)
