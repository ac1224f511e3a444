"""`diffsr weights`: what there is, fetched, checked and removed."""

from __future__ import annotations

import json
from typing import Any

import click

from upscale.cli.help import Group
from upscale.cli.options import DEBUG, OFFLINE, QUIET, option
from upscale.cli.progress import Reporter
from upscale.cli.weights.make import export, import_, publish
from upscale.cli.weights.rows import JSON, NAMES, WHICH, described, each, table
from upscale.errors import UsageError


@click.group(
    name="weights",
    cls=Group,
    examples=[
        ("diffsr weights list", "names and licences"),
        ("diffsr weights pull hf:ORG/REPO/FILE", "fetch from the Hub"),
        ("diffsr weights import x_gen.pth -o x.safetensors", "convert a checkpoint"),
    ],
)
def command() -> None:
    """List, fetch, check, convert, export and publish weights.

    \b
    Weights are given as
      NAME                           a name in weights.toml, or in your own list
      FILE                           a .safetensors file that diffsr made, or a network of
                                     another program (.pth, .safetensors; needs spandrel)
      hf:ORG/REPO[@REVISION]/FILE    a file on the Hugging Face Hub
    """


@command.command(name="list")
@JSON
@DEBUG
def list_(as_json: bool, debug: bool) -> int:
    """List all named weights.

    Where neither --method nor --weights is named, those are used whose column default holds the
    magnification, for their domain and kind of input. The state is bundled (in the package),
    cached (on this machine), remote (on the Hub; fetched when first used), local (your own file)
    or missing (a package without it). You can list your own weights in
    ~/.config/diffsr/weights.toml and in the file that DIFFSR_WEIGHTS_TOML names.
    """
    from upscale.weights.choice import defaults
    from upscale.weights.store import entries, state_of

    chosen = defaults()
    rows = [described(e, state_of(e), chosen.get(e.name, ())) for e in entries().values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return 0
    shown = ("name", "method", "domain", "input", "scales", "default", "size", "state", "licence")
    click.echo(table([row for row in rows if row["domain"] != "metric"], shown))
    if metrics := [row for row in rows if row["domain"] == "metric"]:
        click.echo("\nFiles that only metrics read:")
        click.echo(table(metrics, ("name", "method", "size", "state", "licence")))
    return 0


@command.command()
@WHICH
@OFFLINE
@JSON
@DEBUG
def show(name: str, offline: bool, as_json: bool, debug: bool) -> int:
    """Show the entry of weights and the metadata in their file."""
    from upscale.weights.choice import defaults
    from upscale.weights.store import described as told
    from upscale.weights.store import find, locate, state_of

    entry = find(name, offline)
    state = state_of(entry)
    row: dict[str, Any] = described(entry, state, defaults().get(entry.name, ()))
    own: dict[str, Any] = {}
    if state != "remote":
        path = locate(entry, offline=True)
        row["path"], own = str(path), told(entry, path)
    if as_json:
        click.echo(json.dumps({**row, "file": own} if own else row, indent=2))
        return 0
    for key, value in {**own, **row}.items():
        click.echo(f"{key:<16} {_shown(value)}")
    return 0


def _shown(value: Any) -> str:
    """A text as it is, unless a terminal would take some of it for orders; else as JSON."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


@command.command()
@NAMES
@option("--revision", metavar="REV", help="Branch, tag or commit of hf:ORG/REPO/FILE.")
@OFFLINE
@JSON
@QUIET
@DEBUG
def pull(names: tuple[str, ...], revision: str | None, offline: bool, **options: Any) -> int:
    """Fetch weights from the Hugging Face Hub into its cache.

    Prints their path. hf:ORG/REPO without a file means the only weights in that repository. An
    interrupted download resumes when the command is run again. These variables have an effect:
    HF_HOME, HF_ENDPOINT, HF_TOKEN (or `hf auth login`), HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT
    and HF_HUB_ETAG_TIMEOUT.
    """
    from upscale.weights import store

    if not names:
        raise UsageError("no weights named; `diffsr weights list` shows all names")

    def one(name: str, reporter: Reporter) -> dict[str, Any]:
        entry, path = store.pull(name, revision, offline, reporter.fetching)
        return {"name": entry.name, "path": str(path), "sha256": entry.sha256, "size": entry.size}

    return each(names, one, "path", options)


@command.command()
@NAMES
@option("--golden", is_flag=True, help="Also compute the published golden test vectors.")
@OFFLINE
@JSON
@QUIET
@DEBUG
def verify(names: tuple[str, ...], golden: bool, offline: bool, **options: Any) -> int:
    """Check the sha256 and the content of weights.

    Without names, all weights on this machine are checked. --golden runs the network on the input
    and the noise that were published with the weights and compares the results; without names,
    where these vectors are on this machine, too. The exit code is 5 if anything is wrong.
    """
    from upscale.weights import store

    if everything := not names:
        known = store.entries().values()
        names = tuple(e.name for e in known if store.state_of(e) != "remote")

    def one(name: str, reporter: Reporter) -> dict[str, Any]:
        fetching = {"offline": offline, "on_bytes": reporter.fetching}
        entry = store.find(name, **fetching)
        store.load(entry, **fetching)
        row = {"name": entry.name, "sha256": entry.sha256, "status": "right"}
        if golden:
            from upscale.weights.golden import check, has

            if has(entry) or not everything:
                row["golden"] = round(check(entry, **fetching), 4)
        return row

    return each(names, one, "name", options)


@command.command()
@WHICH
@JSON
@DEBUG
def path(name: str, as_json: bool, debug: bool) -> int:
    """Check weights on this machine and print their path.

    Uses no network.
    """
    from upscale.weights.store import find, locate

    entry = find(name, offline=True)
    place = str(locate(entry, offline=True))
    row = {"name": entry.name, "path": place, "sha256": entry.sha256, "size": entry.size}
    click.echo(json.dumps(row) if as_json else place)
    return 0


@command.command()
@NAMES
@JSON
@QUIET
@DEBUG
def rm(names: tuple[str, ...], **options: Any) -> int:
    """Remove weights from the Hub's cache.

    Prints the removed paths.
    """
    from upscale.weights.store import remove

    if not names:
        raise UsageError("no weights named; `diffsr weights list` shows all names")

    def one(name: str, reporter: Reporter) -> dict[str, Any]:
        return {"name": name, "path": str(remove(name))}

    return each(names, one, "path", options)


command.add_command(export)
command.add_command(import_)
command.add_command(publish)
