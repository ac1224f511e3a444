"""`--watch`: pictures are named while the program runs, and answered one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from upscale.batch.engine import Engine, Pace
from upscale.batch.names import Item, Naming, Source, plan
from upscale.cli.upscale.run import Hopeless, Teller
from upscale.errors import DiffsrError, InputError

_BLOCK = 1 << 16


def run(
    teller: Teller, pace: Pace, naming: Naming, output: str | None, stream: BinaryIO, ending: bytes
) -> int:
    """Answer each line of `stream` before the next is read; returns the exit code.

    A line (ended by `ending`) is a path, or an object {"input": ..., "output": ..., "id": ...}
    with its own place for the result, and an id that comes back in the answer.
    """
    for line in lines(stream, ending):
        text = os.fsdecode(line)
        teller.also = {}
        try:
            asked = _asked(text)
            teller.also = {"id": asked["id"]} if "id" in asked else {}
            item = _item(asked["input"], asked.get("output", output), naming)
        except DiffsrError as error:
            teller.failed(text, error)
        else:
            engine = Engine(teller.job, pace, teller.reporter.picture)
            with suppress(Hopeless):  # a disk may be emptied, and the next picture be smaller
                for ticket in engine.run([item]):
                    teller.outcome(item, ticket.record, ticket.error)
        if teller.enough:
            break
    teller.also = {}
    teller.summary()
    return teller.tally.exit_code


def lines(stream: BinaryIO, ending: bytes) -> Iterator[bytes]:
    """Each as soon as it is whole, without its ending; empty ones are passed over."""
    rest = b""
    read = getattr(stream, "read1", stream.read)
    while block := read(_BLOCK):
        *whole, rest = (rest + block).split(ending)
        yield from (line.rstrip(b"\r") for line in whole if line.strip())
    if rest.strip():
        yield rest


def _asked(text: str) -> dict[str, Any]:
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
