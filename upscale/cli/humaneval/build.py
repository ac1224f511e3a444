"""`diffsr humaneval build`: from folders and methods to a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upscale.cli.help import Command
from upscale.cli.options import (
    ANY_PATH,
    COMMON,
    METHODS,
    Finite,
    Named,
    NamedFolder,
    Scale,
    Several,
    Words,
    asked,
    option,
    require,
    some,
    with_options,
)
from upscale.cli.progress import Reporter
from upscale.document import counted
from upscale.errors import InputError, UsageError
from upscale.pipeline.request import SCALE, SCALES, Request, Setup

if TYPE_CHECKING:
    import numpy as np

    from upscale.humaneval.sources import Sources

_KERNELS = ("bicubic", "nearest")


class Pair(click.ParamType):
    """Two words with a colon between them."""

    name = "NAME:NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        first, sign, second = (part.strip() for part in value.partition(":"))
        if not (first and sign and second):
            self.fail(f"{value!r} is not of the form {self.name}.", param, ctx)
        return first, second


_STUDY, _PICTURES, _TRIALS, _DISPLAY = "Study", "Pictures", "Trials", "Display"
_OPTIONS = [
    option("--hr", required=True, metavar="DIR", type=ANY_PATH, group=_PICTURES,
        help="Folder of original pictures."),
    option("--lr", metavar="DIR", type=ANY_PATH, group=_PICTURES, expert=True,
        show_default="--hr, shrunk by --scale with bicubic",
        help="Folder of low-resolution versions with the same names."),
    option("--outputs", multiple=True, type=NamedFolder(), group=_PICTURES,
        help="Folder of results that any program made, and what it is called; files named as in "
             "--hr, or baby_x4.png for baby.png. May be repeated."),
    option("--method", type=Several(Named(METHODS), "METHOD"), group=_PICTURES,
        help=f"Enlarge with these methods, as diffsr upscale does: {', '.join(METHODS)}."),
    option("--scale", type=Scale(*SCALES), default=SCALE, metavar="FLOAT", group=_PICTURES,
        help="Magnification, where --lr is not given."),
    *asked(Setup, "domain", group=_PICTURES,
        help="What the pictures show; decides which weights are chosen."),
    *asked(Setup, "weights", group=_PICTURES, expert=True,
        help="Weights for the --method that they are for: a name, a file or hf:..."),
    *asked(Request, "steps", group=_PICTURES, expert=True),
    option("--limit", type=click.IntRange(1), metavar="N", group=_PICTURES, expert=True,
        help="Use the first N pictures only."),
    option("-o", "--output", required=True, metavar="DIR", type=ANY_PATH, group=_STUDY,
        help="Folder for the study."),
    option("--title", type=Words(), group=_STUDY, expert=True, help="Title of the page."),
    option("--consent", metavar="FILE", type=ANY_PATH, group=_STUDY,
        help="Text file (UTF-8) that subjects must agree to."),
    option("--subjects", type=click.IntRange(1, 100_000), default=50, metavar="N", group=_STUDY,
        help="Number of subjects after which the study is complete."),
    *asked(Request, "seed", group=_STUDY, help="Seed of the plan and of the samples."),
    option("--task", "tasks", type=Several(click.Choice(["1", "2"]), "TASK"), default="1,2",
        group=_TRIALS,
        help="1: with the low-resolution picture in the middle; 2: without it. Each subject does "
             "one task."),
    option("--images", type=click.IntRange(1), metavar="N", group=_TRIALS,
        show_default="50, or as many as there are", help="Pictures per subject."),
    option("--checks", type=click.IntRange(0, 1000), default=5, metavar="N", group=_TRIALS,
        help="Attention checks per subject. In such a pair the right answer is obvious."),
    option("--practice", type=click.IntRange(0, 1000), default=2, metavar="N", group=_TRIALS,
        expert=True, help="Practice trials per subject. They do not count."),
    option("--pairs", type=Several(Pair(), "NAME:NAME"), group=_TRIALS, expert=True,
        help="Also compare these methods with each other."),
    option("--seconds", type=Finite(0.05, 60), metavar="FLOAT", group=_TRIALS,
        show_default="3 for faces, 6 for photos, as in SR3", help="Viewing time per trial."),
    option("--crop", type=click.IntRange(0, 16384), default=256, metavar="N", group=_DISPLAY,
        expert=True, help="Show the central NxN pixels. 0: the whole picture."),
    option("--show-lr", type=Named(_KERNELS), default="bicubic", group=_DISPLAY, expert=True,
        help="How the low-resolution picture is enlarged for display."),
    *COMMON,
]  # fmt: skip


@click.command(
    name="build",
    cls=Command,
    short_help="Make a study from original pictures and their results.",
    examples=[
        ("diffsr humaneval build --hr photos --method sr3,ecdp -o study", "two methods"),
        ("diffsr humaneval build --hr photos --outputs gan=out -o study", "any program"),
        ("diffsr humaneval build --hr hr --lr lr --method sr3 -o study", "given inputs"),
    ],
)
@with_options(_OPTIONS)
def build(**options: Any) -> int:
    """Make a study from original pictures and the results of methods or programs.

    Pictures are copied, and a plan says who sees which pair on which side. The folder of the study
    goes to standard output.
    """
    require("humaneval", "scipy")
    from upscale.humaneval.build import StudySettings, check_free, plan_of
    from upscale.humaneval.build import build as make

    target = Path(options["output"])
    given = some(options, "title", "pairs") | {"consent": _consent(options["consent"])}
    settings = StudySettings(
        tasks=tuple(int(task) for task in options["tasks"]),
        seconds=options["seconds"] or (3.0 if options["domain"] == "face" else 6.0),
        **some(options, "images", "subjects", "checks", "practice", "crop", "seed"),
        **{name: value for name, value in given.items() if value is not None},
    )
    check_free(target)
    if target.exists() and target.samefile("."):  # the study takes its place
        raise UsageError(f"-o {target} is the folder that you are in; name another, which is made")
    owner = _with_owner(options)
    _check(options)
    with Reporter(quiet=options["quiet"]) as reporter:
        sources = _sources(options, owner, reporter)
        methods = (*sources.outputs, *sources.makers)
        plan_of(len(sources.hr), methods, settings)  # before the work
        reporter.begin("pictures")
        design = make(
            sources.entries(),
            len(sources.hr),
            methods,
            settings,
            target,
            say=reporter.note,
            on_picture=reporter.step,
        )
        reporter.end()
        reporter.note(
            f"{counted(settings.subjects, 'subject')}, each {design.images} of "
            f"{counted(design.pictures, 'picture')}, "
            f"{settings.seconds:g} s; task {' or '.join(map(str, design.tasks))}; "
            f"{', '.join(methods)}. Next: diffsr humaneval serve {target}"
        )
        reporter.result(str(target))
    return 0


def _check(options: dict[str, Any]) -> None:
    """UsageError for options that exclude each other."""
    names = [name for name, _ in options["outputs"]]
    methods = list(options["method"] or ())
    if not names + methods:
        raise UsageError("nothing to compare; give --outputs NAME=DIR or --method")
    twice = {name for name in names + methods if (names + methods).count(name) > 1}
    if twice:
        raise UsageError(f"{', '.join(sorted(twice))}: named twice; give another NAME=DIR")


def _with_owner(options: dict[str, Any]) -> str | None:
    """The method that --weights are for, which needs no --method of its own. Raises UsageError
    where others are named and it is not."""
    if not options["weights"]:
        return None
    from upscale.weights.store import find

    owner, named = find(options["weights"], options["offline"]).method, options["method"]
    if named and owner not in named:
        raise UsageError(
            f"weights {options['weights']} are for --method {owner}, not {', '.join(named)}"
        )
    options["method"] = named or (owner,)
    return owner


def _consent(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        text = Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--consent {file}: cannot be read as UTF-8 text: {why}") from error
    if not text:
        raise InputError(f"--consent {file}: is empty, and subjects must know what they agree to")
    return text


def _sources(options: dict[str, Any], owner: str | None, reporter: Reporter) -> Sources:
    """owner: the method that has --weights."""
    from upscale.bench.protocol import make_lr
    from upscale.humaneval.sources import Sources
    from upscale.image.folders import partners_of, pictures_of
    from upscale.image.resize import resize_array

    def enlarge(lr: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if options["show_lr"] == "nearest":
            rows = [y * lr.shape[0] // size[0] for y in range(size[0])]
            columns = [x * lr.shape[1] // size[1] for x in range(size[1])]
            return lr[rows][:, columns]
        return resize_array(lr, size)

    hr = {path.stem: path for path in pictures_of(Path(options["hr"]))}
    lr = partners_of(hr, Path(options["lr"])) if options["lr"] else None
    others = {name: partners_of(hr, folder) for name, folder in options["outputs"]}
    armed, bare = options, {**options, "weights": None}
    return Sources(
        dict(list(hr.items())[: options["limit"]]),
        make_lr=lambda rgb: make_lr(rgb, options["scale"]),
        enlarge=enlarge,
        lr=lr,
        outputs=others,
        makers={
            name: make_maker(name, armed if name == owner else bare, reporter.fetching)
            for name in options["method"] or ()
        },
    )


def make_maker(
    method: str, options: dict[str, Any], on_bytes: Callable[[int, int | None], None] | None = None
) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
    """(lr, size) -> sr; tests put a fake here."""
    from upscale.image.picture import Picture
    from upscale.pipeline.upscaler import Upscaler

    chosen = some(options, "weights", "domain", "device", "dtype", "offline")
    upscaler = Upscaler(method, **chosen, on_bytes=on_bytes)

    def make(lr: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        result = upscaler(Picture(lr), size=size, steps=options["steps"], seed=options["seed"])
        return result.picture.rgb

    return make
