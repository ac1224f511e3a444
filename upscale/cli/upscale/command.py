"""`diffsr upscale`: from options to a list of work, and its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from upscale.batch import names
from upscale.batch.job import Job
from upscale.batch.shard import parse
from upscale.cli.help import Command
from upscale.cli.options import (
    ANY_PATH,
    CONSISTENCY,
    CONTEXT,
    DEBUG,
    DEVICE,
    DOMAINS,
    DTYPE,
    GENERATING,
    INPUTS,
    METHODS,
    OFFLINE,
    QUIET,
    Finite,
    Named,
    Size,
    Tile,
    one_of,
    option,
    weights_names,
)
from upscale.cli.progress import Reporter
from upscale.cli.upscale import items as working
from upscale.cli.upscale import run
from upscale.diffusion.table import SAMPLERS, SPACINGS
from upscale.errors import UsageError
from upscale.methods import PRESETS

if TYPE_CHECKING:
    from upscale.pipeline.upscaler import Upscaler

FORMATS = ("png", "jpeg", "jpg", "webp", "tiff", "bmp", "avif", "gif")

_OPTIONS = [
    option("-o", "--output", metavar="FILE|DIR|-", type=ANY_PATH,
           help="Where to write. A folder exists or ends in /; - is standard output. "
                "Default: beside the input, in.png -> in_x4.png."),
    option("--from-file", metavar="FILE|-", type=ANY_PATH,
           help="Also take the paths in FILE, one a line."),
    option("--null", is_flag=True, help="The paths in --from-file end in NUL (find -print0)."),
    option("--scale", type=Finite(1, 16), default=4.0, metavar="FLOAT",
           help="Magnification, 1 to 16."),
    option("--size", type=Size(), metavar="WxH", help="Exact size of the result, in pixels."),
    option("--max-side", type=click.IntRange(1), metavar="N",
           help="Length of the result's longer side."),
    option("--method", type=Named(METHODS, GENERATING),
           help="How to enlarge. Default: ecdp to 4x, idm at others, sr3 past 8x; "
                "for faces sr3 at 4x and 8x, else idm."),
    option("--weights", metavar="NAME|FILE|hf:...", shell_complete=weights_names,
           help="Weights by name (`diffsr weights list`), a .safetensors file, or "
                "hf:ORG/REPO[@REVISION]/FILE; they bring their method."),
    option("--domain", type=Named(DOMAINS), default="photo",
           help="What is on the pictures, for choosing weights."),
    option("--input", type=Named(INPUTS), default="auto",
           help="What the pictures are like: clean (rendered, or made small from large ones) or "
                "real (of cameras and the web: noisy, compressed, blurred), for choosing weights; "
                "auto looks at each. Without effect beside --weights."),
    option("--preset", type=Named(PRESETS),
           help="Speed against quality: the sampler and the steps, where these are not given. "
                "Default: what the weights were made for."),
    option("--steps", type=click.IntRange(1), metavar="N",
           help="Sampler steps. Default: what the weights were made for."),
    option("--sampler", type=Named(SAMPLERS), help="Default: the weights'."),
    option("--spacing", type=Named(SPACINGS), help="Of the noise levels. Default: the weights'."),
    option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N",
           help="Same seed and picture, same result."),
    option("--samples", type=click.IntRange(1), default=1, metavar="N",
           help="Write N variants: in_x4_s1.png, in_x4_s2.png, ..."),
    option("--uncertainty", is_flag=True,
           help="With --samples: also in_x4_std.png, their standard deviation; black is 0, white "
                "is 0.25 or more of the range from black to white."),
    option("--temperature", type=Finite(0, 10), metavar="FLOAT",
           help="Strength of the noise; below 1 smoother. Default: the weights'."),
    option("--parametrisation", metavar="NAME",
           help="How ecdp's two heads are read: hybrid, hybrid:POWER, hybrid-eps, hybrid-x0. "
                "Default: the weights'."),
    option("--rtol", type=Finite(0, min_open=True), default=1e-3, metavar="FLOAT",
           help="Relative tolerance of --sampler rk45."),
    option("--atol", type=Finite(0, min_open=True), default=1e-3, metavar="FLOAT",
           help="Absolute tolerance of --sampler rk45."),
    DEVICE,
    DTYPE,
    option("--compile", is_flag=True,
           help="Compile the network first (torch.compile): a minute or more, then each call is "
                "quicker; for long batches, on a GPU above all."),
    option("--tile", type=Tile(), metavar="auto|0|N", default="auto",
           help="Side of the windows that a large picture is worked in; 0: no windows."),
    option("--overlap", type=click.IntRange(0), default=64, metavar="N",
           help="Pixels that windows share."),
    option("--one-stage", is_flag=True,
           help="Use the weights at this very scale, also where they were not trained for it."),
    option("--consistency", type=Named(CONSISTENCY),
           help="Whether the result, shrunk, must equal the input. Default: the weights' (project, "
           "but off for those that clean up). colour: only in what is coarse."),
    option("--overwrite", is_flag=True, help="Replace results that exist."),
    option("--skip-existing", is_flag=True, help="Leave out pictures whose results exist."),
    option("--format", type=Named(FORMATS), help="Of the results. Default: the input's."),
    option("--quality", type=click.IntRange(1, 100), metavar="1-100",
           help="For JPEG, WebP (100: lossless) and AVIF."),
    option("--strip", is_flag=True, help="Write no EXIF, colour profile or comment."),
    option("--frames", type=Named(("error", "first")), default="error",
           help="What to do with an animation."),
    option("--allow-truncated", is_flag=True, help="Take what is there of a file cut short."),
    option("--max-pixels", type=click.IntRange(1), default=250_000_000, metavar="N",
           help="Refuse larger inputs."),
    option("--jobs", type=click.IntRange(0, 256), default=2, metavar="N",
           help="Threads that read pictures ahead, and as many that write them; 0: one thing after "
                "the other."),
    option("--batch", type=click.IntRange(1, 256), default=1, metavar="N",
           help="Pictures that go through the network together: faster for small ones. The last "
                "bits of a result may then depend on its neighbours."),
    option("--resume", metavar="LEDGER.jsonl", type=ANY_PATH,
           help="Note what is done in this file, and do only what it does not name as done."),
    option("--retry-failed", is_flag=True,
           help="With --resume: only the pictures that failed last time."),
    option("--max-failures", type=click.IntRange(1), metavar="N",
           help="Begin nothing more after N failures."),
    option("--timeout", type=Finite(0, min_open=True), metavar="SECONDS",
           help="Give up a picture after so long."),
    option("--shard", metavar="I/N|auto",
           help="Do only part I (from 0) of N, the same on every machine; auto: as the variables "
                "SLURM_ARRAY_TASK_* or RANK and WORLD_SIZE say."),
    option("--watch", is_flag=True,
           help="With --from-file: do each line as it comes and answer with a JSON line; the model "
                "stays loaded."),
    option("--engine", type=Named(("local", "ray")), default="local",
           help="Who does the work: this process, or workers of a Ray cluster (diffsr[ray])."),
    option("--workers", type=click.IntRange(1), metavar="N",
           help="Of --engine ray. Default: as many as its CPUs or GPUs carry."),
    option("--address", metavar="HOST:PORT|auto",
           help="Of a running Ray cluster. Default: one of its own on this machine."),
    option("--worker-gpus", type=Finite(0), metavar="FLOAT",
           help="GPUs of each Ray worker; 0.25 lets four share one. Default: 1 with --device cuda, "
                "else 0."),
    option("--json", "as_json", is_flag=True,
           help="Print an object a line for every picture instead of the paths."),
    QUIET,
    option("-v", "--verbose", is_flag=True, help="Say more."),
    option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    OFFLINE,
    DEBUG,
]  # fmt: skip


def _with_options(function: Callable) -> Callable:
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


@click.command(name="upscale", cls=Command, context_settings=CONTEXT)
@click.argument("paths", nargs=-1, metavar="INPUTS...", type=ANY_PATH)
@_with_options
@click.pass_context
def command(ctx: click.Context, paths: tuple[str, ...], **options: Any) -> int:
    """Enlarge pictures: files, folders (with all below them), quoted patterns, - for standard
    input.

    The paths written go to standard output, one a line; everything else to standard error.
    Options can also be set by environment variables. Exit codes: `diffsr --help`.
    """
    _check(ctx, paths, options)
    reporter = Reporter(quiet=options["quiet"], verbose=options["verbose"])
    naming = names.Naming(
        names.tag_of(options["scale"] or 4.0, options["size"], options["max_side"]),
        names.asked_format(options["format"]),
        options["samples"],
        options["uncertainty"],
    )
    shard = parse(options["shard"], os.environ) if options["shard"] else None
    job = Job(lambda: _upscaler(options, reporter), options)
    job.deliver = run.to_stdout(job)
    if options["resume"] and not options["dry_run"]:
        job.ledger = working.ledger_of(options, reporter)
    teller = run.Teller(job, reporter, options["max_failures"])
    try:
        if options["watch"]:
            return working.watch(teller, naming, options)
        items = working.items_of(paths, naming, shard, teller)
        return run.run(teller, items, working.doing(job, items, reporter))
    finally:
        if job.ledger:
            job.ledger.close()


def make_upscaler(
    method: str | None,
    weights: str | None,
    domain: str,
    device: str,
    dtype: str,
    offline: bool,
    compile: bool,
    input: str,
    ends: bool = True,
    on_bytes: Callable[[int, int | None], None] | None = None,
) -> Upscaler:
    """The one place that loads torch and the network; tests put a fake here. ends: the process
    does, and until then may keep the memory it once had."""
    from upscale.machine import keep_pages
    from upscale.pipeline.upscaler import Upscaler

    upscaler = Upscaler(
        method, weights=weights, domain=domain, device=device, dtype=dtype, offline=offline,
        compile=compile, input=input,
        on_bytes=on_bytes,
    )  # fmt: skip
    if ends and upscaler.device.type == "cpu":
        keep_pages()
    return upscaler


def _upscaler(options: dict[str, Any], reporter: Reporter) -> Upscaler:
    names = ("method", "weights", "domain", "device", "dtype", "offline", "compile", "input")
    ends = not options["watch"]
    return make_upscaler(*(options[name] for name in names), ends=ends, on_bytes=reporter.fetching)


def _check(ctx: click.Context, paths: tuple[str, ...], options: dict[str, Any]) -> None:
    """Combinations that cannot be meant; of exclusive options the one given stays."""
    wanted = one_of(ctx, ("scale", "size", "max_side"))
    if wanted:
        for name in {"scale", "size", "max_side"} - {wanted}:
            options[name] = None
    for pair in (("overwrite", "skip_existing"), ("quiet", "verbose")):
        if chosen := one_of(ctx, pair):
            options[pair[1 - pair.index(chosen)]] = False
    # The weights bring their method; one that only the environment names must not stand against.
    explicit = one_of(ctx, ("method", "weights")) if not _both(ctx, "method", "weights") else None
    if explicit == "weights":
        options["method"] = None
    elif explicit == "method":
        options["weights"] = None
    if not paths and not options["from_file"]:
        raise UsageError(
            "no input; name pictures, a folder, or - for standard input: diffsr in.png"
        )
    if options["null"] and not options["from_file"]:
        raise UsageError("--null belongs to --from-file")
    if options["uncertainty"] and options["samples"] < 2:
        raise UsageError("--uncertainty is a deviation between samples: add --samples 8")
    if options["retry_failed"] and not options["resume"]:
        raise UsageError("--retry-failed needs the ledger of the last time: --resume LEDGER.jsonl")
    if options["watch"]:
        _check_watch(paths, options)
    if options["engine"] == "local" and (options["workers"] or options["address"]):
        raise UsageError("--workers and --address belong to --engine ray")
    if options["from_file"] == "-" and "-" in paths:
        raise UsageError("standard input cannot be a picture and --from-file at once")


def _check_watch(paths: tuple[str, ...], options: dict[str, Any]) -> None:
    if not options["from_file"] or paths:
        raise UsageError("--watch takes its pictures from --from-file alone: --from-file - --watch")
    for name in ("shard", "dry_run", "retry_failed"):
        if options[name]:
            raise UsageError(
                f"--watch does what comes; --{name.replace('_', '-')} needs a whole list"
            )
    if options["engine"] == "ray" or options["batch"] > 1 or options["output"] == "-":
        raise UsageError("--watch does one picture at a time here; no --engine ray, --batch, -o -")
    options["as_json"] = True


def _both(ctx: click.Context, *names: str) -> bool:
    return len({ctx.get_parameter_source(name) for name in names}) == 1
