"""`diffsr bench`: from options to a table of methods, and to files for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from upscale.bench import published
from upscale.bench.columns import DEFAULT_METRICS, DEGRADATIONS, METRICS, REGISTERED, SHIPPED
from upscale.cli.bench.run import compare_runs, compare_sets, deliver, parts_of, run_bench, texts_of
from upscale.cli.help import Command
from upscale.cli.options import (
    ANY_PATH,
    COMMON,
    GENERATING,
    METHODS,
    Finite,
    Named,
    NamedFolder,
    Scale,
    Several,
    asked,
    dataset_names,
    option,
    weights_names,
    with_options,
)
from upscale.cli.progress import Reporter, printable
from upscale.diffusion.table import SAMPLERS
from upscale.errors import InputError, OutputError, UsageError
from upscale.methods import PRESETS
from upscale.pipeline.request import SCALES, STORED, Request, Setup

_MEASURE, _SHOW, _NETWORK, _TUNE = "What to measure", "Results", "Sampling", "Schedule search"
_OPTIONS = [
    option("--dataset", metavar="DIR|NAME", shell_complete=dataset_names, group=_MEASURE,
        show_default=f"{SHIPPED}, eight pictures that come with diffsr",
        help="A folder of pictures at full size, a folder with HR/ and LRx4/, or the name of a set "
             f"in --data: {', '.join(REGISTERED)}."),
    option("--data", metavar="DIR", type=ANY_PATH, group=_MEASURE, expert=True,
        help="Folder that holds the named sets."),
    option("--method", type=Several(Named(("auto", *METHODS), GENERATING), "METHOD"),
        default="bicubic,auto", group=_MEASURE,
        help="Methods to measure. auto: the weights that upscale chooses for each picture."),
    option("--weights", type=Several(click.STRING, "NAME|FILE|hf:..."), group=_MEASURE,
        shell_complete=weights_names, show_default="those for method and scale",
        help="Weights to measure, each with its own method. --method can add methods without a "
             "network."),
    option("--scale", type=Several(Scale(*SCALES), "FLOAT"), default="4", group=_MEASURE,
        help=f"Magnifications to measure, from {SCALES[0]} to {SCALES[1]}."),
    *asked(Setup, "domain", group=_MEASURE, expert=True,
        help="What the pictures show; decides which weights are chosen."),
    option("--degradation", type=Named(DEGRADATIONS), default="none", group=_MEASURE, expert=True,
        help="What the small pictures have gone through besides bicubic. peers: blur before, noise "
             "of 4/255 and JPEG 60 after; the others are milder (docs/bench.md)."),
    option("--outputs", multiple=True, type=NamedFolder(), group=_MEASURE,
        help="Also measure the pictures in DIR, which any program may have made, under NAME; files "
             "named as in --dataset, or baby_x4.png for baby.png. May be repeated."),
    option("--unpaired", is_flag=True, group=_MEASURE, expert=True,
        help="Compare each --outputs with --dataset as sets, by FID alone. For pictures made "
             "from nothing (diffsr generate)."),
    option("--metrics", type=Several(Named(tuple(METRICS)), "METRIC"), group=_MEASURE,
        show_default=f"{', '.join(DEFAULT_METRICS)} (lpips_vgg where its weights are found)",
        help=f"Metrics: {', '.join(METRICS)}."),
    option("--limit", type=click.IntRange(1), metavar="N", group=_MEASURE,
        help="Measure the first N pictures only."),
    option("--steps", type=Several(click.IntRange(1), "N"), group=_NETWORK, expert=True,
        show_default=STORED, help="Numbers of sampler steps to measure."),
    option("--sampler", type=Several(Named(SAMPLERS), "SAMPLER"), group=_NETWORK, expert=True,
        show_default=STORED, help=f"Samplers to measure: {', '.join(SAMPLERS)}."),
    option("--preset", type=Several(Named(PRESETS), "PRESET"), group=_NETWORK, expert=True,
        help="Presets to measure: fast, balanced, best."),
    option("--denoise", type=Several(Finite(0, 1), "FLOAT"), group=_NETWORK, expert=True,
        show_default="as upscale does", help="Strengths of the cleaning to measure, from 0 to 1."),
    option("--temperature", type=Several(Finite(0, 10), "FLOAT"), group=_NETWORK, expert=True,
        show_default=STORED, help="Strengths of the noise to measure, from 0 to 10."),
    option("--parametrisation", type=Several(click.STRING, "NAME"), group=_NETWORK, expert=True,
        show_default=STORED,
        help="Ways to combine the two heads of ecdp: hybrid, hybrid:POWER, hybrid-eps, hybrid-x0."),
    *asked(Request, "spacing", "one_stage", "consistency", "seed", group=_NETWORK),
    option("--samples", type=click.IntRange(1, 100), default=1, metavar="N", group=_NETWORK,
        expert=True,
        help="Samples per picture. Metrics are their means, and their diversity is measured."),
    option("--save", metavar="DIR", type=ANY_PATH, group=_SHOW, expert=True,
        help="Save the enlarged pictures."),
    option("--html", "html_file", metavar="FILE", type=ANY_PATH, group=_SHOW,
        help="Write a report with plots and pictures to one self-contained file."),
    option("--json", "json_file", metavar="FILE|-", type=ANY_PATH, group=_SHOW,
        help="Write all rows as JSON."),
    option("--csv", "csv_file", metavar="FILE|-", type=ANY_PATH, group=_SHOW, expert=True,
        help="Write all rows as CSV."),
    option("--markdown", "markdown_file", metavar="FILE|-", type=ANY_PATH, group=_SHOW, expert=True,
        help="Write the table of means as Markdown."),
    option("-v", "--verbose", is_flag=True, group=_SHOW,
        help="Show intervals, costs and what each trial was, too."),
    option("--crop", type=click.IntRange(32, 1024), default=128, metavar="PIXELS", group=_SHOW,
        expert=True, help="Side of the crops in the --html report."),
    option("--published", default="auto", metavar="auto|none|NAME,...", group=_SHOW, expert=True,
        help="Tables from papers to show beside the results, marked as such. auto: in --html, the "
             "tables for this dataset and scale."),
    option("--cache", metavar="DIR", type=ANY_PATH, group=_SHOW, expert=True,
        show_default="in the user's cache folder",
        help="Folder that keeps rows, so that a run that was interrupted continues."),
    option("--no-cache", is_flag=True, group=_SHOW, expert=True,
        help="Measure everything again and keep nothing."),
    option("--compare", metavar="A.json B.json", nargs=2, type=ANY_PATH, group=_SHOW,
        help="Report which differences between two --json files are significant; nothing is "
             "measured."),
    option("--trials", metavar="ONE OTHER", nargs=2, group=_SHOW, expert=True,
        help="With --compare: a trial of the first file and one of the second, as tables call "
             "them. Both files may be the same."),
    option("--tune-schedule", is_flag=True, group=_TUNE, expert=True,
        help="Search for the best noise levels for --steps and store them in --weights."),
    option("--candidates", type=click.IntRange(4, 10000), default=40, metavar="N", group=_TUNE,
        expert=True, help="Number of schedules that --tune-schedule tries."),
    option("-o", "--output", metavar="FILE", type=ANY_PATH, group=_TUNE, expert=True,
        show_default="the file of the weights", help="File that --tune-schedule writes."),
    *COMMON,
]  # fmt: skip


_FILES = {"json_file", "csv_file", "markdown_file", "html_file"}
_PICTURES = {"dataset", "data", "metrics", "limit", "device"}
# what is done instead of a benchmark, and the options that it reads
_INSTEAD = {
    "compare": {*_FILES, "trials"},
    "unpaired": {*_FILES, *_PICTURES, "outputs", "method", "weights"},
    "tune_schedule": {
        *_PICTURES, "json_file", "candidates", "output", "weights", "steps", "scale", "sampler",
        "degradation", "seed", "dtype", "offline",
    },
}  # fmt: skip
_ALONE = {"trials": "compare", "candidates": "tune_schedule", "output": "tune_schedule"}


@click.command(
    name="bench",
    cls=Command,
    examples=[
        ("diffsr bench", "the default weights on eight pictures"),
        ("diffsr bench --dataset photos/ --html report.html", "a report on a folder"),
        ("diffsr bench --compare a.json b.json", "which differences are significant"),
    ],
)
@with_options(_OPTIONS)
@click.pass_context
def command(ctx: click.Context, **options: Any) -> int:
    """Measure methods on a folder of pictures.

    Each picture is shrunk with Pillow's bicubic (unless the set has low-resolution pictures),
    enlarged by each combination of method, weights, scale, sampler and steps, and compared with the
    original. The table of means goes to standard output.
    """
    _check_way(ctx, options)
    targets = _targets(options)
    if options["compare"]:
        return compare_runs(options, targets)
    _check(ctx, options)
    if options["unpaired"]:
        return compare_sets(options, targets)
    if options["tune_schedule"]:
        from upscale.cli.bench.tune import tune_schedule

        return tune_schedule(options)
    shown: dict[int, Any] = {}
    with Reporter(quiet=options["quiet"]) as reporter:
        rows = run_bench(options, reporter, shown if "html" in targets else None)
    on_screen = (lambda: _show(parts_of(rows, options))) if sys.stdout.isatty() else None
    deliver(texts_of(rows, shown, options), targets, reporter, on_screen)
    return 1 if any("error" in row for row in rows) else 0


def _check_way(ctx: click.Context, options: dict[str, Any]) -> None:
    """Refuse options on the command line that would have no effect. UsageError."""
    flags = {param.name: max(param.opts, key=len) for param in ctx.command.params}
    way = next((name for name in _INSTEAD if options[name]), None)
    for name, flag in flags.items():
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if way and name not in {*_INSTEAD[way], way, "quiet", "debug"}:
            raise UsageError(f"{flags[way]} makes no use of {flag}: leave it out")
        if not way and name in _ALONE:
            raise UsageError(f"{flag} belongs to {flags[_ALONE[name]]}")


def _check(ctx: click.Context, options: dict[str, Any]) -> None:
    """Refuse wrong options before torch is loaded, and set the methods that are to be measured."""
    for name, folder in options["outputs"]:
        if not folder.is_dir():
            raise InputError(f"--outputs {name}: there is no folder {folder}")
    if options["data"] and not Path(options["data"]).is_dir():
        raise InputError(f"--data {options['data']}: there is no such folder")
    asked = ctx.get_parameter_source("method") is not ParameterSource.DEFAULT
    if not asked and (options["weights"] or options["outputs"]):
        options["method"] = ()
    if options["unpaired"]:
        if not options["outputs"] or not options["dataset"]:
            raise UsageError("--unpaired compares two sets: --dataset REAL --outputs MADE")
        if options["method"] or options["weights"] or options["metrics"] not in (None, ("fid",)):
            raise UsageError(
                "--unpaired measures FID of --outputs; no --method, --weights, and no "
                "other --metrics"
            )
    published.choose(options["published"], "", ())  # a name that is none is no end of the work
    if options["outputs"] and len(options["scale"]) > 1:
        raise UsageError("--outputs need a single --scale")


def _targets(options: dict[str, Any]) -> dict[str, str]:
    """Kind of text -> file, or - for standard output, which holds one."""
    targets = {
        kind: options[f"{kind}_file"]
        for kind in ("json", "csv", "markdown", "html")
        if options[f"{kind}_file"]
    }
    if targets.get("html") == "-":
        raise UsageError("--html needs a file: a terminal cannot show it")
    if list(targets.values()).count("-") > 1:
        raise UsageError("only one of --json, --csv and --markdown can go to standard output")
    for target in targets.values():  # hours of work should not end at a folder that is not there
        folder = Path(target).absolute().parent
        if target != "-" and not folder.is_dir():
            raise OutputError(f"{target}: there is no folder {folder}; make it first")
        if Path(target).is_dir():
            raise OutputError(f"{target}: is a folder, and a file is to be written; name a file")
    return targets


def _show(parts: list[str | list[dict[str, Any]]]) -> None:
    """The report on a terminal: tables in parts that fit it, the best in bold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from upscale import document

    console = Console()
    for part in parts:
        if isinstance(part, str):
            console.print(printable(part), markup=False, highlight=False)
            continue
        for rows in document.fitted(part, console.width):
            table = Table(*rows[0], box=None, padding=(0, 2, 0, 0))
            for row in rows:
                cells = ["-" if v is None else printable(str(v)) for v in row.values()]
                bold = [cell.startswith("**") for cell in cells]
                table.add_row(
                    *(
                        Text(c.strip("*"), "bold" if b else "")
                        for c, b in zip(cells, bold, strict=True)
                    )
                )
            console.print(table)
        console.print()
