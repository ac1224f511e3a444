"""`--watch`: pictures are named while the program runs, and answered one by one."""

from __future__ import annotations

import json
import os
import time
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from upscale.batch.engine import Engine, Pace
from upscale.batch.names import STDOUTS, Item, Naming, plan, prepare
from upscale.cli.upscale.account import Account, Hopeless, known
from upscale.cli.upscale.inputs import source_of, stdin
from upscale.cli.upscale.run import pace_of
from upscale.errors import DiskFull, InputError, OutputError

_BLOCK = 1 << 16
_LONGEST = 1 << 20  # bytes of a line
_SHOWN = 80  # of one that is longer


def run(account: Account, naming: Naming, options: Mapping[str, Any]) -> int:
    """Answer each line of --from-file before the next is read; returns the exit code.

    A line (ended by NUL with --null) is a path, or an object {"input": ..., "output": ...,
    "id": ...} with its own place for the result, and an id that comes back in the answer. Every
    answer gives the input as the line does, or the line itself where it names none.
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
        account.also = {}
        account.job.begun = time.time()
        try:
            _answer(account, os.fsdecode(line), naming, options, pace)
        except (Hopeless, DiskFull, OutputError) as error:
            # a disk may be emptied, and the next picture be smaller; the answer is given
            if not isinstance(error, Hopeless):
                account.reporter.error(str(error))
                account.codes.add(error.exit_code)
        if account.enough:
            break
    account.also = {}
    account.summary()
    return account.exit_code


def _answer(
    account: Account, text: str, naming: Naming, options: Mapping[str, Any], pace: Pace
) -> None:
    """Do what a line says. Raises only what ends all: see `Account.outcome`."""
    name = text
    try:
        if len(text) > _LONGEST:
            name = text[:_SHOWN] + " ..."
            raise InputError(f"a line has at most {_LONGEST} bytes")
        asked = _asked(text)
        if isinstance(asked.get("input"), str):
            name = asked["input"] or text
        account.also = _id(asked)
        _check(asked)
        item = _item(asked["input"], asked.get("output", options["output"]), naming)
    except Exception as error:
        account.failed(name, known(error, options))
        return
    for ticket in Engine(account.job, pace, account.reporter.picture).run([item]):
        account.outcome(item, ticket.record, ticket.error)


def lines(stream: BinaryIO, ending: bytes) -> Iterator[bytes]:
    """Each as soon as it is whole, without its ending; empty ones are skipped, and of those above
    `_LONGEST` there is only the beginning, one byte longer than that."""
    rest, first = b"", True
    read = getattr(stream, "read1", stream.read)
    while block := read(_BLOCK):
        if first:
            block, first = block.removeprefix(BOM_UTF8), False
        *whole, rest = (rest + block).split(ending)
        rest = rest[: _LONGEST + 1]
        yield from (line[: _LONGEST + 1].rstrip(b"\r") for line in whole if line.strip())
    if rest.strip():
        yield rest


def _asked(text: str) -> dict[str, Any]:
    """What a line says. Raises InputError."""
    if not text.startswith("{"):
        return {"input": text}
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"neither a path nor a JSON object: {error}") from error


def _id(asked: dict[str, Any]) -> dict[str, Any]:
    """What the answer repeats. Raises InputError where it would be no JSON."""
    wanted = {key: asked[key] for key in asked.keys() & {"id"}}
    try:
        json.dumps([[[[wanted]]]], allow_nan=False)  # deeper than it will be in the answer
    except (ValueError, RecursionError) as error:
        raise InputError(f'this "id" cannot be repeated: {error}') from error
    return wanted


def _check(asked: dict[str, Any]) -> None:
    """InputError where a line asks for what there is not."""
    unknown = asked.keys() - {"input", "output", "id"}
    if unknown or not all(isinstance(asked.get(k, ""), str) for k in ("input", "output")):
        raise InputError('a JSON line has "input", and if wanted "output" and "id"; both are texts')
    if not asked.get("input"):
        raise InputError('a JSON line needs an "input"')
    if asked.get("output") in STDOUTS:
        raise InputError('standard output holds the answers: "output" names a file, not -')
    for key in asked.keys() & {"input", "output"}:
        try:
            possible = b"\0" not in os.fsencode(asked[key])
        except UnicodeEncodeError:  # half of a pair of surrogates
            possible = False
        if not possible:
            raise InputError(f'"{key}" has characters that no name of a file has')


def _item(name: str, output: str | None, naming: Naming) -> Item:
    """One picture, named as if it were alone in a batch."""
    if os.path.isdir(name):
        raise InputError(f"{name}: is a folder; a line names one picture")
    if not os.path.exists(name):
        raise InputError(f"{name}: no such file")
    return plan([source_of(name)], output, naming, many=False)[0]
