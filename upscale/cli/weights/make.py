"""`diffsr weights import` and `publish`: weights made of checkpoints, and made public."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from upscale.cli.help import Command
from upscale.cli.options import (
    ANY_PATH,
    CONTEXT,
    DEBUG,
    DOMAINS,
    QUIET,
    SAMPLERS,
    Finite,
    Named,
    Several,
    option,
)
from upscale.cli.progress import Reporter
from upscale.cli.weights.rows import JSON, WHICH, told
from upscale.errors import OutputError, UsageError

_LICENCE = option("--licence", metavar="TEXT", help="Under which the weights are given (SPDX).")


@click.command(name="import", cls=Command, context_settings=CONTEXT)
@click.argument("file", type=ANY_PATH)
@option(
    "--method",
    type=Named(("sr3", "idm", "ecdp")),
    help="Whose checkpoint it is. Default: by its keys.",
)
@option(
    "-o",
    "--output",
    metavar="FILE",
    type=ANY_PATH,
    help="Where to write. Default: beside the input, X.pth -> X.safetensors.",
)
@option(
    "--norm-groups",
    type=click.IntRange(1),
    default=32,
    metavar="N",
    help="Of sr3 and idm, as in their config; 16 in sr3's 64 -> 512.",
)
@option(
    "--max-scale",
    type=Finite(1, min_open=True),
    default=8.0,
    metavar="FLOAT",
    help="Largest magnification that idm was trained for.",
)
@option(
    "--scale",
    type=Finite(1, 16),
    metavar="FLOAT",
    help="Magnification of sr3 (default 8) and ecdp (default 4; faces 8).",
)
@option(
    "--selection",
    type=Several(click.IntRange(0), "N"),
    help="Encoder blocks that ecdp reads (rrdb_block_selection). Default: the paper's.",
)
@option(
    "--resize",
    type=Named(("antialias", "plain")),
    default="antialias",
    help="How ecdp's training resized: plain with torchvision before 0.17.",
)
@option(
    "--domain",
    type=Named(DOMAINS),
    help="What is on the pictures. Default: photo for ecdp, else face.",
)
@option("--sampler", type=Named(SAMPLERS), help="To store as the weights' default.")
@option("--steps", type=click.IntRange(1), metavar="N", help="Likewise.")
@_LICENCE
@option("--fp16", is_flag=True, help="Half the size, and a little rounding.")
@option("--overwrite", is_flag=True, help="Replace a result that exists.")
@JSON
@DEBUG
def import_(
    file: str, output: str | None, fp16: bool, overwrite: bool, as_json: bool, debug: bool,
    **settings: Any,
) -> int:  # fmt: skip
    """Convert a published checkpoint of SR3, IDM or ECDP (*_gen.pth, checkpoint.pt), or a
    checkpoint of `diffsr train`, to weights; prints their path.

    The file is opened as tensors alone: one that would run code is refused. Sizes are read off the
    shapes; what leaves no trace in them is an option.
    """
    target = Path(output) if output else _beside(Path(file))
    if target.suffix != ".safetensors":
        raise UsageError(f"-o {target}: the name of weights ends in .safetensors")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists; give --overwrite or another -o")
    from upscale.convert import checkpoints
    from upscale.weights import store

    state, metadata, half = checkpoints.convert(Path(file), checkpoints.Settings(**settings))
    store.save(target, state, metadata, half=fp16 or half)
    entry = store.find(target)
    click.echo(json.dumps({**told(entry, "local"), "path": str(target)}) if as_json else target)
    return 0


@click.command(name="publish", cls=Command, context_settings=CONTEXT)
@WHICH
@click.argument("repo", metavar="ORG/REPO")
@_LICENCE
@option(
    "--card",
    metavar="FILE",
    type=ANY_PATH,
    help="Markdown for the repository's page. Default: made from what the file tells.",
)
@option("--private", is_flag=True, help="Make a private repository, if there is none yet.")
@option(
    "--output",
    metavar="DIR",
    type=ANY_PATH,
    help="Write the files into DIR instead of uploading them.",
)
@JSON
@QUIET
@DEBUG
def publish(
    name: str, repo: str, licence: str | None, card: str | None, private: bool,
    output: str | None, as_json: bool, quiet: bool, debug: bool,
) -> int:  # fmt: skip
    """Upload weights, a card and golden test vectors to the Hub; prints the entry for weights.toml.

    Needs a token that may write: HF_TOKEN, or `hf auth login`.
    """
    from upscale.weights import publish as making
    from upscale.weights import store
    from upscale.weights.hub import files
    from upscale.weights.hub.names import Hub

    Hub(repo)  # its name is looked at before the work
    entry = store.find(name)
    stated = licence or entry.licence
    made = making.bundle(entry, repo, stated, Path(card) if card else None)
    if output:
        _folder(Path(output))
        making.write(made, Path(output))
        commit = "0" * 40
        if not quiet:
            click.echo("Not uploaded: the entry's revision is for you to fill in.", err=True)
    else:
        with Reporter(quiet=quiet) as reporter:
            reporter.line(f"uploading {', '.join(made)} to {repo}")
            commit = files.upload(repo, made, f"{entry.name}: weights for diffsr", private)
    text = making.listed(entry, Hub(repo, commit, making.file_of(entry)), stated)
    row = {"repo": repo, "revision": None if output else commit, "files": list(made), "entry": text}
    click.echo(json.dumps(row) if as_json else text, nl=as_json)
    return 0


def _beside(file: Path) -> Path:
    target = file.with_suffix(".safetensors")
    return target if target != file else file.with_name(f"{file.stem}-diffsr.safetensors")


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: no such folder can be made: {error.strerror}") from error
