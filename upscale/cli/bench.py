"""`diffsr bench`: from options to a table of methods, and to files for other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from upscale.cli.options import (
    ANY_PATH,
    CONSISTENCY,
    CONTEXT,
    DOMAINS,
    METHODS,
    SAMPLERS,
    SPACINGS,
    Finite,
    Named,
    Several,
    option,
    weights_names,
)
from upscale.cli.progress import Reporter
from upscale.errors import InputError, OutputError, UsageError

METRICS = (
    "psnr_y", "ssim_y", "psnr", "ssim", "lpips", "lpips_vgg", "consistency", "lr_psnr",
    "grid_ratio",
)  # fmt: skip
_DEFAULT_METRICS = ("psnr_y", "ssim_y", "lpips", "consistency")


@click.command(name="bench", context_settings=CONTEXT)
@option(
    "--dataset",
    required=True,
    metavar="DIR",
    type=ANY_PATH,
    help="Folder of pictures at full size; they are shrunk, enlarged and compared.",
)
@option(
    "--method",
    type=Several(Named(METHODS), "METHOD"),
    default="bicubic,sr3",
    help="What to measure.",
)
@option(
    "--weights",
    metavar="NAME|FILE|hf:...",
    shell_complete=weights_names,
    help="For the one method given, as in `diffsr upscale`. Default: what fits method and scale.",
)
@option("--domain", type=Named(DOMAINS), default="photo", help="For choosing weights.")
@option("--scale", type=Finite(1, 16), default=4.0, metavar="FLOAT", help="Magnification.")
@option(
    "--steps",
    type=Several(click.IntRange(1), "N"),
    help="Sampler steps, each measured. Default: the weights'.",
)
@option(
    "--sampler",
    type=Several(Named(SAMPLERS), "SAMPLER"),
    help="Samplers, each measured. Default: the weights'.",
)
@option(
    "--temperature",
    type=Several(Finite(0, 10), "FLOAT"),
    help="Strengths of the noise, each measured. Default: the weights'.",
)
@option(
    "--parametrisation",
    type=Several(click.STRING, "NAME"),
    help="How ecdp's two heads are read (hybrid, hybrid:POWER, hybrid-eps, hybrid-x0), each "
    "measured. Default: the weights'.",
)
@option("--spacing", type=Named(SPACINGS), help="Of the noise levels. Default: the weights'.")
@option(
    "--one-stage",
    is_flag=True,
    help="Use the weights at this very scale, also where they were not trained for it.",
)
@option(
    "--consistency",
    type=Named(CONSISTENCY),
    default="project",
    help="Whether the result, shrunk, must equal the input.",
)
@option(
    "--metrics",
    type=Several(Named(METRICS), "METRIC"),
    default=",".join(_DEFAULT_METRICS),
    help=f"Of {', '.join(METRICS)}.",
)
@option(
    "--outputs",
    metavar="DIR",
    type=ANY_PATH,
    help="Measure the pictures in DIR, made by any program and named as in --dataset, "
    "instead of methods.",
)
@option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N pictures.")
@option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N", help="Of the samples.")
@option("--device", type=Named(("auto", "cpu", "cuda")), default="auto", help="Where to run.")
@option(
    "--dtype",
    type=Named(("auto", "fp32", "bf16")),
    default="auto",
    help="Number format of the network.",
)
@option("--save", metavar="DIR", type=ANY_PATH, help="Also write the enlarged pictures.")
@option(
    "--json",
    "json_file",
    metavar="FILE|-",
    type=ANY_PATH,
    help="Write all rows as JSON.",
)
@option(
    "--csv",
    "csv_file",
    metavar="FILE|-",
    type=ANY_PATH,
    help="Write all rows as CSV.",
)
@option(
    "--markdown",
    "markdown_file",
    metavar="FILE|-",
    type=ANY_PATH,
    help="Write the table of means as Markdown.",
)
@option("--offline", is_flag=True, help="Never use the network.")
@option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@option("--debug", is_flag=True, help="Show tracebacks.")
def command(**options: Any) -> int:
    """Measure methods on a folder of pictures.

    Every picture is shrunk by Pillow's bicubic, enlarged by every combination of method, sampler
    and steps, and compared with what it was. The table of means goes to standard output, unless
    something else is sent there.
    """
    targets = _targets(options)
    _check(options)
    with Reporter(quiet=options["quiet"]) as reporter:
        rows = run_bench(options, reporter)
    from upscale.bench import report

    texts: dict[str, Callable[[list[dict]], str]] = {
        "json": report.to_json, "csv": report.to_csv, "markdown": report.to_markdown,
    }  # fmt: skip
    for kind, target in targets.items():
        _put(texts[kind](rows), target, reporter)
    if "-" not in targets.values() and not options["quiet"]:
        if sys.stdout.isatty():
            _table(report.summary(rows))
        else:  # a file or a pipe has no width to fit
            click.echo(report.to_markdown(rows), nl=False)
    return 1 if any("error" in row for row in rows) else 0


def run_bench(options: dict[str, Any], reporter: Reporter) -> list[dict[str, Any]]:
    """The rows, one for every picture and combination; tests put a fake here."""
    from upscale.bench.run import Settings, run

    settings = Settings(
        methods=options["method"],
        scale=options["scale"],
        steps=options["steps"] or (None,),
        samplers=options["sampler"] or (None,),
        temperatures=options["temperature"] or (None,),
        parametrisations=options["parametrisation"] or (None,),
        metrics=options["metrics"],
        **{
            name: options[name]
            for name in ("weights", "domain", "spacing", "consistency", "one_stage", "limit",
                         "seed", "device", "dtype", "offline")
        },
    )  # fmt: skip
    reporter.begin("measuring")
    try:
        return run(
            Path(options["dataset"]),
            settings,
            outputs=Path(options["outputs"]) if options["outputs"] else None,
            save=Path(options["save"]) if options["save"] else None,
            say=reporter.note,
            on_row=lambda row, done, total: _row(row, done, total, reporter),
        )
    finally:
        reporter.end()


def _check(options: dict[str, Any]) -> None:
    for name in ("dataset", "outputs"):
        if options[name] and not Path(options[name]).is_dir():
            raise InputError(f"--{name} {options[name]}: there is no such folder")
    if options["weights"] and len(options["method"]) > 1:
        raise UsageError("--weights belong to one method; name it: --method sr3")


def _targets(options: dict[str, Any]) -> dict[str, str]:
    """Kind of text -> file, or - for standard output, which holds one."""
    targets = {
        kind: options[f"{kind}_file"]
        for kind in ("json", "csv", "markdown")
        if options[f"{kind}_file"]
    }
    if list(targets.values()).count("-") > 1:
        raise UsageError("standard output holds one of --json, --csv and --markdown")
    for target in targets.values():  # hours of work should not end at a folder that is not there
        folder = Path(target).absolute().parent
        if target != "-" and not folder.is_dir():
            raise OutputError(f"{target}: there is no folder {folder}; make it first")
    return targets


def _row(row: dict[str, Any], done: int, total: int, reporter: Reporter) -> None:
    reporter.step(done, total)
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k in METRICS and v is not None)
    reporter.line(f"{done}/{total} {row.get('picture', '')} {row.get('method', '')}: {numbers}")


def _put(text: str, target: str, reporter: Reporter) -> None:
    text = text.rstrip("\n") + "\n"
    if target == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    reporter.note(f"wrote {target}")


def _table(rows: list[dict[str, Any]]) -> None:
    """The means, one line for every combination, columns as the rows have them."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else ()), box=None)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
