"""`diffsr generate`: pictures from noise alone, and the files that they go to."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upscale import __version__
from upscale.cli.generate.outputs import STDOUT, Work, work_of
from upscale.cli.help import GENERAL, Command
from upscale.cli.options import (
    ANY_PATH,
    COMMON,
    MACHINE,
    Named,
    Several,
    asked,
    generating_names,
    option,
    some,
    weights_names,
    with_options,
)
from upscale.cli.progress import Reporter, stopped
from upscale.cli.upscale.command import FORMATS
from upscale.document import counted
from upscale.pipeline.request import STORED, Request

if TYPE_CHECKING:
    from upscale.image.picture import Picture
    from upscale.pipeline.generator import Generator, Level, Made


_PICTURES, _FILES, _SAMPLING = "Pictures", "Output", "Sampling"
_OPTIONS = [
    option("-o", "--output", metavar="DIR|FILE|-", type=ANY_PATH, group=_FILES,
        help="Where to write: a folder for seed0_0000.png, seed0_0001.png, ...; a file for one "
             "picture or for the sheet of --grid; - for standard output."),
    option("--count", type=click.IntRange(1), default=1, metavar="N", group=_PICTURES,
        help="Number of pictures."),
    option("--first", type=click.IntRange(0), default=0, metavar="N", group=_PICTURES, expert=True,
        help="Number of the first picture. Picture N of a seed is always the same."),
    *asked(Request, "seed", group=_PICTURES, expert=False, help="Seed of all noise."),
    option("--size", type=click.IntRange(1), metavar="N",
        group=_PICTURES, show_default="128 for ddpm-face-16, else the network's own size",
        help="Longer side of the result, up to 16 times the default. Super-resolution is repeated "
             "until it is reached (SR3, section 4.7)."),
    option("--weights", metavar="NAME|FILE|hf:...",
        shell_complete=generating_names, group=_PICTURES,
        show_default="ddpm-face-16", help="Weights of method ddpm."),
    option("--upscale-weights", type=Several(click.STRING, "NAME|FILE|hf:..."), group=_SAMPLING,
        shell_complete=weights_names, expert=True,
        show_default="ecdp-photo from 128 pixels on, else as in diffsr upscale",
        help="Weights for each super-resolution stage. The last serves all later stages."),
    *asked(Request, "sampler"),
    *asked(Request, "steps", group=_SAMPLING, help="Sampler steps of the first network."),
    option("--upscale-steps", metavar="N,...", group=_SAMPLING, expert=True,
        show_default=f"{STORED}, at most half of the stage before",
        help="Sampler steps of each super-resolution stage."),
    *asked(Request, "spacing"),
    *asked(Request, "temperature",
        help="Strength of the noise. Below 1, pictures are plainer and more alike."),
    option("--batch", type=click.IntRange(1, 1024), default=8, metavar="N", group=MACHINE,
        expert=True,
        help="Pictures per network call on a GPU. On a CPU they are made one by one."),
    option("--grid", is_flag=True, group=_FILES,
        help="Also write all pictures to one sheet, seed0_grid.png; with -o FILE only the sheet."),
    option("--format", type=Named(FORMATS), group=_FILES, expert=True,
        show_default="by the suffix of -o, else png", help="File format."),
    option("--quality", type=click.IntRange(1, 100), metavar="N", group=_FILES, expert=True,
        help="Quality of JPEG, WebP (100: lossless) and AVIF."),
    option("--strip", is_flag=True, group=_FILES, expert=True,
        help="Write no comment about how a picture was made."),
    option("--overwrite", is_flag=True, group=_FILES, help="Replace existing files."),
    option("--skip-existing", is_flag=True, group=_FILES,
        help="Make only the pictures whose files do not exist."),
    *COMMON,
    option("--json", "as_json", is_flag=True, group=GENERAL,
        help="Print a JSON object per picture, not its path."),
    option("-v", "--verbose", is_flag=True, group=GENERAL, expert=True, help="Print more."),
    option("--dry-run", is_flag=True, group=GENERAL, help="Show what would be done."),
]  # fmt: skip


@click.command(
    name="generate",
    cls=Command,
    examples=[
        ("diffsr generate -o made/ --count 8", "eight pictures of seed 0"),
        ("diffsr generate -o made/ --size 256", "enlarged by super-resolution"),
        ("diffsr generate -o sheet.png --count 16 --grid", "one sheet of sixteen"),
    ],
)
@with_options(_OPTIONS)
def command(**options: Any) -> int:
    """Make pictures from noise alone. They show nobody, but a face may resemble one that the
    weights were trained on.

    The paths written go to standard output, one per line; everything else goes to standard error.
    `diffsr bench --unpaired` measures how close a folder of them is to real pictures.
    """
    work = work_of(options)
    with Reporter(len(work.items), quiet=options["quiet"], verbose=options["verbose"]) as reporter:
        generator = make_generator(options, reporter)
        wanted = some(options, "sampler", "steps", "spacing", "temperature", "seed")
        way = generator.resolved(Request(**wanted))
        cascade = generator.cascade(
            options["size"], options["upscale_weights"] or (), options["counts"], way.steps
        )
        if work.stays:
            reporter.note(f"{work.stays}: exists and stays as it is; --overwrite renews it")
        if options["dry_run"]:
            _planned(work, generator, way, cascade, options, reporter)
            return 0
        work.prepare()
        make = partial(generator, request=way, cascade=cascade, on_step=reporter.step)
        most = options["batch"] if generator.device.type != "cpu" else 1  # a file when it can be
        try:
            _make(work, make, most, options, reporter)
        except KeyboardInterrupt as end:  # each file that is there was named when it was
            done = sum(bool(path and path.exists()) for _, path in work.items)
            again = "The same command with --skip-existing goes on from there."
            raise type(end)(stopped(done, len(work.items), again)) from None
    return 0


def make_generator(options: dict[str, Any], reporter: Reporter) -> Generator:
    """The one place that loads torch and the network."""
    from upscale.pipeline.generator import Generator

    where = some(options, "device", "dtype", "offline")
    return Generator(options["weights"], on_bytes=reporter.fetching, **where)


def _planned(
    work: Work,
    generator: Generator,
    way: Request,
    cascade: list[Level],
    options: dict[str, Any],
    reporter: Reporter,
) -> None:
    """--dry-run's lines: the stages, then the files."""
    height, width = generator.size
    steps = counted(way.steps, f"{way.sampler} step") if way.steps else f"{way.sampler} steps"
    click.echo(f"{width}x{height} by {generator.entry.name}, {steps}", err=True)
    for level in cascade:
        law = "its own steps" if level.steps is None else counted(level.steps, "step")
        click.echo(f"{level.size[1]}x{level.size[0]} by {level.name}, {law}", err=True)
    named = [(generator.entry.name, generator.size, way.steps)]
    named += [(level.name, level.size, level.steps) for level in cascade]
    stages = [dict(zip(("weights", "size", "steps"), one, strict=True)) for one in named]
    for number, path in work.items:
        if number in work.done:
            click.echo(f"{path}: exists, skipped", err=True)
            row = _skipped(number, path, options)
        else:
            _would_write(path)
            planned = _row(number, path, options, "planned")
            row = {**planned, "size": stages[-1]["size"], "stages": stages}
        if options["as_json"]:
            reporter.result(json.dumps(row))
    _would_write(Path(work.sheet) if work.sheet else None)


def _would_write(path: Path | None) -> None:
    if path:
        there = ", exists already" if path.exists() else ""
        click.echo(f"would write {path}{there}", err=True)


def _make(
    work: Work,
    generator: Callable[..., list[Made]],
    most: int,
    options: dict[str, Any],
    reporter: Reporter,
) -> None:
    """generator: numbers -> pictures; most: so many at once."""
    from upscale.image.decode import read
    from upscale.image.encode import write

    settings = {"format": work.format, **some(options, "quality", "strip", "overwrite")}
    shown: dict[int, Picture] = {}
    for number, path in work.items:
        if number in work.done:
            reporter.line(f"{path}: exists, skipped")
            if options["as_json"]:
                reporter.result(json.dumps(_skipped(number, path, options)))
            reporter.end()
            if work.sheet:
                shown[number] = read(path)
    left = [item for item in work.items if item[0] not in work.done]
    for start in range(0, len(left), most):
        batch = left[start : start + most]
        numbers = [number for number, _ in batch]
        reporter.begin(f"picture {numbers[0]}" + (f" to {numbers[-1]}" if numbers[1:] else ""))
        made = generator(numbers)
        for one, (number, path) in zip(made, batch, strict=True):
            if work.sheet:
                shown[number] = one.picture
            target = path or (sys.stdout.buffer if work.single else None)
            if target:
                write(one.picture, target, comment=_comment(one.report), **settings)
            _tell(one, path, options, reporter)
            reporter.end()
    if work.sheet:
        from upscale.image.picture import sheet

        whole = sheet([shown[number] for number, _ in work.items])
        target = sys.stdout.buffer if work.sheet == STDOUT else Path(work.sheet)
        write(whole, target, comment=f"diffsr {__version__}; generated, no photographs", **settings)
        if work.sheet != STDOUT and not options["as_json"]:
            reporter.result(work.sheet)


def _row(number: int, path: Path | None, options: dict[str, Any], status: str) -> dict[str, Any]:
    """What --json says of each picture, whatever becomes of it."""
    named = {"output": str(path) if path else None, "status": status}
    return {**named, "index": number, "seed": options["seed"]}


def _skipped(number: int, path: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    return {**_row(number, path, options, "skipped"), "why": "exists"}


def _comment(report: dict[str, Any]) -> str:
    """Provenance, for the picture's own metadata."""
    weights = " ".join(stage["weights"] for stage in report["stages"])
    return (
        f"diffsr {__version__}; generated, no photograph: weights={weights} "
        f"seed={report['seed']} number={report['index']}"
    )


def _tell(one: Made, path: Path | None, options: dict[str, Any], reporter: Reporter) -> None:
    report = one.report
    height, width = report["size"]
    name = path or f"picture {report['index']}"
    reporter.line(
        f"{name}: {width}x{height}, {counted(report['nfe'], 'network call')}, "
        f"{report['seconds']:.1f} s"
    )
    if options["as_json"]:
        reporter.result(json.dumps(_row(report["index"], path, options, "ok") | report))
    elif path:
        reporter.result(str(path))
