"""`diffsr weights import`, `publish` and `export`: weights made of checkpoints, made public, made
files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from upscale.atomic import make_folder
from upscale.batch.names import prepare
from upscale.cli.help import Command
from upscale.cli.options import (
    ANY_PATH,
    DEBUG,
    DOMAINS,
    OFFLINE,
    QUIET,
    Finite,
    Named,
    Scale,
    Several,
    Words,
    option,
    path_of,
    with_options,
)
from upscale.cli.progress import Reporter
from upscale.cli.weights.rows import JSON, WHICH, described
from upscale.convert.table import PUBLISHED, Hints
from upscale.diffusion.table import SAMPLERS
from upscale.errors import OutputError, UsageError
from upscale.pipeline.request import SCALES

_LICENCE = option("--licence", type=Words(), help="Licence of the weights (SPDX identifier).")


_IMPORT = [
    option("--method", type=Named(PUBLISHED),
        show_default="by the names of its tensors", help="Method of the checkpoint."),
    option("-o", "--output", metavar="FILE", type=ANY_PATH,
        show_default="beside the input, X.pth -> X.safetensors", help="Where to write."),
    option("--norm-groups", type=click.IntRange(1), default=32, metavar="N",
        help="Groups of the normalisation of sr3 and idm, as in their config; 16 for sr3 from 64 "
             "to 512."),
    option("--max-scale", type=Finite(1, min_open=True), default=8.0, metavar="FLOAT",
        help="Largest magnification that idm was trained for."),
    option("--scale", type=Scale(*SCALES), metavar="FLOAT",
        show_default="sr3: 8, ecdp: 4 or, for faces, 8", help="Magnification of sr3 and ecdp."),
    option("--selection", type=Several(click.IntRange(0), "N"), show_default="the paper's",
        help="Encoder blocks that ecdp reads (rrdb_block_selection)."),
    option("--resize", type=Named(("antialias", "plain")), default="antialias",
        help="How the training of ecdp resized pictures: plain with torchvision before 0.17."),
    option("--domain", type=Named(DOMAINS), show_default="photo for ecdp, else face",
        help="What the pictures show."),
    option("--sampler", type=Named(SAMPLERS), help="Sampler to store as the default."),
    option("--steps", type=click.IntRange(1), metavar="N", help="Steps to store as the default."),
    _LICENCE,
    option("--fp16", is_flag=True, help="Store as fp16: half the size, with a little rounding."),
    option("--overwrite", is_flag=True, help="Replace an existing file."),
    JSON,
    DEBUG,
]  # fmt: skip


@click.command(
    name="import",
    cls=Command,
    examples=[
        ("diffsr weights import I640000_E37_gen.pth --scale 8", "SR3"),
        ("diffsr weights import checkpoint.pt --method ecdp", "ECDP"),
        ("diffsr weights import runs/a/checkpoint-00000400.safetensors", "a run of diffsr train"),
    ],
)
@click.argument("file", type=ANY_PATH)
@with_options(_IMPORT)
def import_(
    file: str,
    output: str | None,
    fp16: bool,
    overwrite: bool,
    as_json: bool,
    debug: bool,
    **settings: Any,
) -> int:
    """Convert a checkpoint to weights.

    Takes published checkpoints of SR3, IDM and ECDP (*_gen.pth, checkpoint.pt) and those of
    `diffsr train`, and prints the path of the weights. Only tensors are read: a file that would run
    code is refused. Sizes follow from the shapes of the tensors; options give what does not.
    """
    target = Path(output) if output else _beside(Path(file))
    if target.suffix != ".safetensors":
        raise UsageError(f"-o {target}: the name of weights ends in .safetensors")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists; give --overwrite or another -o")
    from upscale.convert import checkpoints
    from upscale.weights import store

    state, metadata, half = checkpoints.convert(Path(file), Hints(**settings))
    store.save(target, state, metadata, half=fp16 or half)
    entry = store.find(target)
    row = {**described(entry, "local"), "path": str(target)}
    click.echo(json.dumps(row) if as_json else target)
    return 0


_PUBLISH = [
    _LICENCE,
    option("--card", metavar="FILE", type=ANY_PATH, show_default="made from the metadata",
        help="Markdown file for the repository's page."),
    option("--private", is_flag=True,
        help="Make the repository private, if it does not exist yet."),
    option("--output", metavar="DIR", type=ANY_PATH,
        help="Write the files to DIR instead of uploading them."),
    JSON,
    QUIET,
    DEBUG,
]  # fmt: skip


@click.command(
    name="publish",
    cls=Command,
    examples=[
        ("diffsr weights publish my.safetensors ORG/REPO --output out", "look first"),
        ("diffsr weights publish my.safetensors ORG/REPO --licence MIT", "upload"),
        ("diffsr weights publish my.safetensors ORG/REPO --private", "privately"),
    ],
)
@WHICH
@click.argument("repo", metavar="ORG/REPO")
@with_options(_PUBLISH)
def publish(name: str, repo: str, output: str | None, **options: Any) -> int:
    """Upload weights, a card and golden test vectors to the Hub.

    Prints the entry for weights.toml. Needs a token with write access: HF_TOKEN, or `hf auth
    login`.
    """
    from upscale.weights import publish as making
    from upscale.weights import store
    from upscale.weights.hub import files
    from upscale.weights.hub.names import Hub

    Hub(repo)  # its name is looked at before the work
    entry = store.find(name)
    stated = options["licence"] or entry.licence
    made = making.bundle(entry, repo, stated, path_of(options["card"]))
    if output:
        make_folder(Path(output))
        making.write(made, Path(output))
        commit = "0" * 40
        if not options["quiet"]:
            click.echo("Not uploaded: the entry's revision is for you to fill in.", err=True)
    else:
        with Reporter(quiet=options["quiet"]) as reporter:
            reporter.line(f"uploading {', '.join(made)} to {repo}")
            commit = files.upload(
                repo, made, f"{entry.name}: weights for diffsr", options["private"]
            )
    text = making.listed(entry, Hub(repo, commit, making.file_of(entry)), stated)
    row = {"repo": repo, "revision": None if output else commit, "files": list(made), "entry": text}
    as_json = options["as_json"]
    click.echo(json.dumps(row) if as_json else text, nl=as_json)
    return 0


_EXPORT = [
    option("--onnx", "output", metavar="FILE", type=ANY_PATH, required=True,
        help="ONNX file to write."),
    option("--overwrite", is_flag=True, help="Replace an existing file."),
    OFFLINE,
    JSON,
    QUIET,
    DEBUG,
]  # fmt: skip


@click.command(
    name="export",
    cls=Command,
    examples=[("diffsr weights export ecdp-photo --onnx ecdp-photo.onnx", "for onnxruntime")],
)
@WHICH
@with_options(_EXPORT)
def export(
    name: str, output: str, overwrite: bool, offline: bool, as_json: bool, quiet: bool, debug: bool
) -> int:
    """Write weights as an ONNX file for other programs.

    Needs diffsr[onnx]. Prints its path. The file holds one network call with all resizing, for
    pictures of any size, and says itself what its inputs and outputs are. It is written once
    onnxruntime has given the same picture as torch; that takes a minute. docs/other-tools.md shows
    how it is used.
    """
    target = Path(output)
    if target.suffix != ".onnx":
        raise UsageError(f"--onnx {target}: the name of an ONNX file ends in .onnx")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists; give --overwrite or another --onnx")
    from upscale.weights import store

    store.find(name, offline)  # no folder is made for what is not there
    prepare(output, many=False)  # a folder that takes no file is said before, not in a minute
    from upscale.convert import onnx

    with Reporter(quiet=quiet) as reporter:
        reporter.line(f"exporting {name}: this takes a minute")
        facts = onnx.export(
            name, target, overwrite=overwrite, offline=offline, on_bytes=reporter.fetching
        )
    click.echo(json.dumps({"path": str(target), **facts}) if as_json else target)
    return 0


def _beside(file: Path) -> Path:
    target = file.with_suffix(".safetensors")
    return target if target != file else file.with_name(f"{file.stem}-diffsr.safetensors")
