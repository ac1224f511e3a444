"""From the options of `diffsr upscale` to a list of work and how it is done."""

from __future__ import annotations

import sys
from typing import Any

from upscale.batch import names
from upscale.batch.engine import Pace
from upscale.batch.job import Job
from upscale.batch.ledger import Ledger
from upscale.batch.settings import settings_of
from upscale.batch.shard import Shard
from upscale.cli.progress import Reporter
from upscale.cli.upscale import inputs, run
from upscale.cli.upscale import watch as watching
from upscale.errors import InputError, UsageError


def items_of(
    paths: tuple[str, ...], naming: names.Naming, shard: Shard | None, teller: run.Teller
) -> list[names.Item]:
    """The work: planned for all inputs, so that shards agree on names; then what is this run's."""
    options, reporter = teller.job.options, teller.reporter
    found = _find(paths, options)
    many, output = found.many, options["output"]
    items = names.plan(found.sources, output, naming, many=many) if found.sources else []
    _check_stdout(items, options)
    if found.left_out:
        reporter.note(f"{found.left_out} earlier results in these folders left out")
    if items and not options["dry_run"]:
        names.prepare(output, many)
    wanted = shard.has if shard else lambda inside: True
    retry, ledger = options["retry_failed"], teller.job.ledger
    for name, error in found.failures:
        if wanted(name) and not (retry and ledger and not ledger.failed(name)):
            teller.failed(name, error)
    items = [item for item in items if wanted(item.source.inside.as_posix())]
    if retry and ledger:
        items = [item for item in items if ledger.failed(item.source.name)]
    reporter.total = len(items)
    return items


def doing(job: Job, items: list[names.Item], reporter: Reporter) -> run.Run:
    """Where and how the work is done."""
    options = job.options
    if options["dry_run"]:
        return run.dry(job)
    if options["engine"] == "ray":
        if not all(item.outputs and item.source.data is None for item in items):
            raise UsageError("--engine ray is for files; no - for standard input or output")
        return run.on_ray(job)
    return run.here(job, _pace(options, len(items)), reporter)


def _pace(options: dict[str, Any], count: int) -> Pace:
    jobs = options["jobs"]
    if count == 1 and not options["timeout"]:
        jobs = 0  # nothing to do meanwhile
    return Pace(
        jobs if not options["timeout"] else max(1, jobs), options["batch"], options["timeout"]
    )


def ledger_of(options: dict[str, Any], reporter: Reporter) -> Ledger:
    ledger = Ledger(options["resume"], settings_of(options))
    if ledger.torn:
        reporter.note(f"{ledger.path}: {ledger.torn} torn lines passed over")
    return ledger


def watch(teller: run.Teller, naming: names.Naming, options: dict[str, Any]) -> int:
    ending = b"\0" if options["null"] else b"\n"
    output = options["output"]
    if output:
        names.prepare(output, many=True)
    if options["from_file"] == "-":
        stream = inputs.stdin()
        return watching.run(teller, _pace(options, 1), naming, output, stream, ending)
    try:
        with open(options["from_file"], "rb", buffering=0) as stream:  # a pipe with a name, mostly
            return watching.run(teller, _pace(options, 1), naming, output, stream, ending)
    except OSError as error:
        raise InputError(f"{options['from_file']}: cannot be read: {error.strerror}") from error


def _find(paths: tuple[str, ...], options: dict[str, Any]) -> inputs.Found:
    listed: list[str] = []
    if options["from_file"]:
        listed = inputs.read_list(options["from_file"], options["null"])
        if not listed and not paths:
            raise UsageError(f"--from-file {options['from_file']}: the list is empty")
    return inputs.find(paths, listed, but_not=options["output"])


def _check_stdout(items: list[names.Item], options: dict[str, Any]) -> None:
    if not items or items[0].outputs or options["dry_run"]:
        return
    if options["resume"]:
        raise UsageError("a ledger is of files; --resume needs -o FILE")
    if options["as_json"]:
        raise UsageError("standard output holds the picture; --json needs -o FILE")
    if options["uncertainty"]:
        raise UsageError("standard output holds one picture; --uncertainty needs -o FILE")
    if sys.stdout.buffer.isatty():
        raise UsageError("a picture is not written to a terminal; use -o FILE, or pipe it: > out")
