"""`diffsr upscale`: from options to a list of work, and its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upscale.batch import names, sheet
from upscale.batch.engine import BATCH, Pace
from upscale.batch.files import Files
from upscale.batch.job import Job
from upscale.batch.ledger import Ledger, settings_of
from upscale.batch.shard import parse
from upscale.cli.help import GENERAL, Command
from upscale.cli.options import (
    ANY_PATH,
    DEBUG,
    QUIET,
    Finite,
    Named,
    asked,
    one_of,
    option,
    place_of,
    with_options,
)
from upscale.cli.progress import Reporter
from upscale.cli.upscale import inputs, run, watch
from upscale.cli.upscale.account import Account
from upscale.errors import UsageError
from upscale.pipeline.request import Request, Setup

if TYPE_CHECKING:
    from upscale.pipeline.upscaler import Upscaler

FORMATS = ("png", "jpeg", "jpg", "webp", "tiff", "bmp", "ppm", "tga", "avif", "gif")
FILES = "Files"

_OPTIONS = [
    option("-o", "--output", metavar="FILE|DIR|-", type=ANY_PATH, group=FILES,
           help="File, folder (exists or ends in /), or - for standard output.",
           show_default="beside the input"),
    option("--from-file", metavar="FILE|-", type=ANY_PATH, group=FILES, expert=True,
           help="Also enlarge the pictures whose paths are in FILE, one per line."),
    option("--null", is_flag=True, group=FILES, expert=True,
           help="Paths in --from-file are separated by NUL (find -print0)."),
    *asked(Request, "scale", "size", "max_side"),
    *asked(Setup, "method", "weights", "domain", "input"),
    *asked(Request, "denoise", "faces", "preset", "steps", "sampler", "spacing", "seed",
           "same_noise"),
    *asked(Files, "samples", "uncertainty"),
    *asked(Request, "temperature", "parametrisation", "rtol", "atol"),
    *asked(Setup, "device", "dtype", "compile"),
    *asked(Request, "tile", "overlap", "one_stage", "consistency"),
    *asked(Files, "sheet", type=ANY_PATH),
    *asked(Files, "overwrite", "skip_existing"),
    *asked(Files, "format", type=Named(FORMATS)),
    *asked(Files, "quality", "strip", "preserve_times", "frames", "allow_truncated", "max_pixels"),
    *asked(Pace, "jobs", "batch"),
    option("--resume", group=FILES, metavar="LEDGER.jsonl", type=ANY_PATH,
           help="Record finished pictures in this file, and skip those that it records."),
    option("--retry-failed", group=BATCH, expert=True, is_flag=True,
           help="With --resume: try only the pictures that failed before."),
    option("--max-failures", group=BATCH, expert=True, type=click.IntRange(1), metavar="N",
           help="Start no more pictures after N failures."),
    *asked(Pace, "timeout"),
    option("--shard", group=BATCH, expert=True, metavar="I/N|auto",
           help="Do only part I (from 0) of N; the parts are the same on every machine. auto: take "
                "I and N from SLURM_ARRAY_TASK_*, or from RANK and WORLD_SIZE."),
    option("--watch", group=BATCH, expert=True, is_flag=True,
           help="With --from-file: do each line as it arrives and answer it with a JSON line. The "
                "network stays loaded."),
    option("--engine", group=BATCH, expert=True, type=Named(("local", "ray")), default="local",
           help="Work in this process (local) or on a Ray cluster (ray; needs diffsr[ray])."),
    option("--workers", group=BATCH, expert=True, type=click.IntRange(1), metavar="N",
           help="Number of Ray workers.", show_default="as many as fit the CPUs or GPUs"),
    option("--address", group=BATCH, expert=True, metavar="HOST:PORT|auto",
           help="Address of a running Ray cluster.", show_default="start one on this machine"),
    option("--worker-gpus", group=BATCH, expert=True, type=Finite(0), metavar="FLOAT",
           help="GPUs per Ray worker. With 0.25, four workers share one.",
           show_default="1 if the cluster has any and --device takes it, else 0"),
    option("--json", "as_json", group=GENERAL, is_flag=True,
           help="Print a JSON object per picture, not its path."),
    QUIET,
    option("-v", "--verbose", is_flag=True, group=GENERAL, expert=True, help="Say more."),
    option("--dry-run", is_flag=True, group=GENERAL,
           help="Say what would be done, and do nothing."),
    *asked(Setup, "offline"),
    DEBUG,
]  # fmt: skip


@click.command(
    name="upscale",
    cls=Command,
    examples=[
        ("diffsr in.jpg", "write in_x4.jpg beside it"),
        ("diffsr in.png --scale 8 --steps 8 -o out.webp", "choose scale, steps, file"),
        ("diffsr photos/ -o large/ --resume large.jsonl", "a folder, resumable"),
    ],
)
@click.argument("paths", nargs=-1, metavar="INPUTS...", type=ANY_PATH)
@with_options(_OPTIONS)
@click.pass_context
def command(ctx: click.Context, paths: tuple[str, ...], **options: Any) -> int:
    """Enlarge pictures.

    INPUTS are files, folders (searched recursively), quoted patterns, or - for standard input. The
    paths written go to standard output, everything else to standard error. `diffsr --help` lists
    exit codes.
    """
    _check(ctx, paths, options)
    reporter = Reporter(quiet=options["quiet"], verbose=options["verbose"])
    request, files = (record(kind, options) for kind in (Request, Files))
    options["method"], beside = sheet.methods_of(options["method"], options["weights"], files)
    setup = record(Setup, options)
    naming = names.naming_of(request, files)
    shard = parse(options["shard"], os.environ) if options["shard"] else None
    ends = not options["watch"]

    def make(setup: Setup) -> Upscaler:
        return make_upscaler(setup, ends, reporter.fetching)

    job = Job(lambda: make(setup), setup, request, files)
    job.deliver, job.on_frame = run.to_stdout(job), reporter.frame
    if options["resume"]:
        settings = settings_of(setup, request, files, options["batch"])
        beside_results = Path(options["resume"]).parent == Path(options["output"] or "")
        if beside_results and not options["dry_run"]:  # in a folder that may not be there yet
            names.prepare(options["output"], many=True)
        job.ledger = Ledger(options["resume"], settings, options["dry_run"])
        if job.ledger.torn:
            lines, more = job.ledger.torn_at, job.ledger.torn - len(job.ledger.torn_at)
            numbers = ", ".join(map(str, lines)) + (f" and {more} more" if more else "")
            reporter.note(f"{job.ledger.path}: unreadable lines are skipped: {numbers}")
    account = Account(job, reporter, options)
    try:
        if options["watch"]:
            return watch.run(account, naming, options)
        items = inputs.items_of(paths, naming, shard, account, options)
        if files.sheet:
            again, dry = bool(options["resume"]), options["dry_run"]
            job.sheet = sheet.begin(job, items, beside, make, shard=shard, resumed=again, dry=dry)
            if job.sheet is None:
                reporter.note(f"{files.sheet}: exists and stays as it is; --overwrite renews it")
        return run.run(account, items, options)
    finally:
        if job.ledger:
            job.ledger.close()


def record(kind: type, options: dict[str, Any]) -> Any:
    """A record of those of the options that are its fields; of other fields, the defaults."""
    return kind(**{one.name: options[one.name] for one in fields(kind) if one.name in options})


def make_upscaler(
    setup: Setup, ends: bool, on_bytes: Callable[[int, int | None], None]
) -> Upscaler:
    """The one place that loads torch and the network; tests put a fake here. ends: the process
    does, and until then may keep the memory it once had."""
    from upscale.machine import keep_pages
    from upscale.pipeline.upscaler import Upscaler

    upscaler = Upscaler(**vars(setup), on_bytes=on_bytes)
    if ends and upscaler.device.type == "cpu":
        keep_pages()
    return upscaler


def _check(ctx: click.Context, paths: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse wrong combinations; of options that exclude each other, keep the one that is given."""
    if options["output"] in names.STDOUTS:
        options["output"] = names.STDOUT
    wanted = one_of(ctx, ("scale", "size", "max_side"))
    if wanted:
        for name in {"scale", "size", "max_side"} - {wanted}:
            options[name] = None
    for pair in (("overwrite", "skip_existing"), ("quiet", "verbose")):
        if chosen := one_of(ctx, pair):
            options[pair[1 - pair.index(chosen)]] = False
    # The weights bring their method; one named farther away must not stand against them.
    apart = place_of(ctx, "method") != place_of(ctx, "weights")
    explicit = one_of(ctx, ("method", "weights")) if apart else None
    if explicit == "weights":
        options["method"] = None
    elif explicit == "method":
        options["weights"] = None
    if not paths and not options["from_file"]:
        raise UsageError(
            "no input; name pictures, a folder, or - for standard input: diffsr in.png"
        )
    if options["null"] and not options["from_file"]:
        raise UsageError("--null needs --from-file")
    if options["retry_failed"] and not options["resume"]:
        raise UsageError("--retry-failed needs the earlier run's ledger: --resume LEDGER.jsonl")
    if options["watch"]:
        _check_watch(paths, options)
    if options["sheet"] and (options["watch"] or options["engine"] == "ray"):
        raise UsageError("a sheet is made at the end of a list, on this machine: leave --sheet out")
    if options["engine"] == "local" and (
        options["workers"] or options["address"] or options["worker_gpus"] is not None
    ):
        raise UsageError("--workers, --address and --worker-gpus need --engine ray")
    if options["from_file"] == "-" and "-" in paths:
        raise UsageError("standard input cannot be a picture and --from-file at once")


def _check_watch(paths: tuple[str, ...], options: dict[str, Any]) -> None:
    if not options["from_file"] or paths:
        raise UsageError("--watch takes its pictures from --from-file only: --from-file - --watch")
    for name in ("shard", "dry_run", "retry_failed"):
        if options[name]:
            raise UsageError(
                f"--watch does lines as they arrive; --{name.replace('_', '-')} needs a whole list"
            )
    if options["engine"] == "ray" or options["batch"] > 1 or options["output"] == "-":
        raise UsageError(
            "--watch does one picture at a time: leave out --engine ray, --batch and -o -"
        )
    options["as_json"] = True
