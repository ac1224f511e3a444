"""`--watch`: pictures are named while the program runs, and answered one by one."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from upscale.batch.engine import Engine
from upscale.batch.names import Item, Naming, Source, plan, prepare
from upscale.cli.upscale.account import Account, Hopeless
from upscale.cli.upscale.inputs import stdin
from upscale.cli.upscale.run import pace_of
from upscale.errors import DiffsrError, InputError

_BLOCK = 1 << 16


def run(account: Account, naming: Naming, options: Mapping[str, Any]) -> int:
    """Answer each line of --from-file before the next is read; returns the exit code.

    A line (ended by NUL with --null) is a path, or an object {"input": ..., "output": ...,
    "id": ...} with its own place for the result, and an id that comes back in the answer.
    """
    if options["output"]:
        prepare(options["output"], many=True)
    if options["from_file"] == "-":
        return _answered(account, naming, options, stdin())
    try:
        with open(options["from_file"], "rb", buffering=0) as stream:  # a pipe with a name, mostly
            return _answered(account, naming, options, stream)
    except OSError as error:
        raise InputError(f"{options['from_file']}: cannot be read: {error.strerror}") from error


def _answered(
    account: Account, naming: Naming, options: Mapping[str, Any], stream: BinaryIO
) -> int:
    pace = pace_of(options, 1)
    for line in lines(stream, b"\0" if options["null"] else b"\n"):
        text = os.fsdecode(line)
        account.also = {}
        try:
            wish = _wish(text)
            account.also = {"id": wish["id"]} if "id" in wish else {}
            item = _item(wish["input"], wish.get("output", options["output"]), naming)
        except DiffsrError as error:
            account.failed(text, error)
        else:
            engine = Engine(account.job, pace, account.reporter.picture)
            with suppress(Hopeless):  # a disk may be emptied, and the next picture be smaller
                for ticket in engine.run([item]):
                    account.outcome(item, ticket.record, ticket.error)
        if account.enough:
            break
    account.also = {}
    account.summary()
    return account.exit_code


def lines(stream: BinaryIO, ending: bytes) -> Iterator[bytes]:
    """Each as soon as it is whole, without its ending; empty ones are skipped."""
    rest, first = b"", True
    read = getattr(stream, "read1", stream.read)
    while block := read(_BLOCK):
        if first:
            block, first = block.removeprefix(BOM_UTF8), False
        *whole, rest = (rest + block).split(ending)
        yield from (line.rstrip(b"\r") for line in whole if line.strip())
    if rest.strip():
        yield rest


def _wish(text: str) -> dict[str, Any]:
    """What a line asks for. Raises InputError."""
    if not text.startswith("{"):
        return {"input": text}
    try:
        asked = json.loads(text)
    except ValueError as error:
        raise InputError(f"neither a path nor a JSON object: {error}") from error
    unknown = asked.keys() - {"input", "output", "id"}
    if unknown or not all(isinstance(asked.get(k, ""), str) for k in ("input", "output")):
        raise InputError('a JSON line has "input", and if wanted "output" and "id"; both are texts')
    if not asked.get("input"):
        raise InputError('a JSON line needs an "input"')
    return asked


def _item(name: str, output: str | None, naming: Naming) -> Item:
    """One picture, named as if it were alone in a batch."""
    if not os.path.isfile(name):
        raise InputError(f"{name}: no such file")
    source = Source(name, Path(Path(name).name))
    return plan([source], output, naming, many=False)[0]
