"""What `diffsr train` prints without training: its tables, and the cost of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from upscale.document import counted
from upscale.errors import InputError
from upscale.train.catalogue import DATASETS
from upscale.train.config import TrainConfig
from upscale.train.recipes import RECIPES

if TYPE_CHECKING:
    from upscale.train.datasets import Data
    from upscale.train.measure import Estimate

Find = Callable[[Callable[[str], None]], "Data"]


def listed() -> None:
    """Datasets and recipes, for people."""
    click.echo("Datasets (--dataset NAME; their folders are under --data)\n")
    for name, known in DATASETS.items():
        click.echo(f"{name}: {known.title}, {known.pictures:,} training pictures")
        click.echo(f"  from     {known.where}")
        click.echo(f"  licence  {known.licence}")
        click.echo(f"  layout   {known.layout}")
        click.echo(f"  as       {known.preparing}")
    click.echo("\nRecipes (--recipe NAME; every option given overrides them)\n")
    for name, recipe in RECIPES.items():
        settings = " ".join(f"{key}={value}" for key, value in recipe.settings.items())
        click.echo(f"{name}: {recipe.source}, {recipe.dataset or 'any dataset'}")
        click.echo(f"  {settings}")
        if recipe.note:
            click.echo(f"  ({recipe.note})")


def planned(
    config: TrainConfig, dataset: str, find: Find, name: str, options: dict[str, Any]
) -> None:
    """The resolved settings, the data, and what the run takes on this machine."""
    from upscale.train.measure import estimate

    data = _data(find, known=dataset in DATASETS)
    if data is not None:
        held = f", {config.holdout} of them held out" if config.holdout else ""
        click.echo(f"{counted(len(data.train), 'picture')} in {data.label}{held}")
    for key, value in config.to_dict().items():
        click.echo(f"  {key:<24} {value}")
    found = estimate(config, options["device"], options["dtype"])
    for key, value in _estimated(config, found):
        click.echo(f"{key:<14} {value}")
    click.echo(f"would write {name}.safetensors")


def _data(find: Find, known: bool) -> Data | None:
    """What is there; of a dataset that diffsr knows but does not find, how to get it."""
    try:
        return find(lambda line: click.echo(line))
    except InputError as error:
        if not known:
            raise
        click.echo(str(error))
        return None


def _estimated(config: TrainConfig, found: Estimate) -> list[tuple[str, str]]:
    needs, has = found.memory / 2**30, found.free / 2**30
    room = "" if needs < has else "; more than is free: raise --accumulate"
    head = [
        ("parameters", f"{found.parameters:,}"),
        *([("teacher", found.teacher)] if found.teacher else []),
        (
            "memory",
            f"{needs:.2f} GiB with {counted(found.at_once, 'example')} at once, "
            f"{has:.1f} GiB free{room}",
        ),
    ]
    if not found.network:
        return [*head, ("network", "not measured: there is too little memory for it here")]
    hours = config.images / found.network / 3600
    return [
        *head,
        ("network", f"{found.network:.2f} examples/s, {1000 / found.network:.0f} s per 1000, "
                    f"{hours:.1f} h for {config.images:,}"),
        ("data", f"{found.data:.0f} examples/s in one process, "
                 f"{found.data / found.network:.1f} times what the network takes"),
        ("arithmetic", f"{found.operations / 1e9:.1f} GFLOP per example, "
                       f"{found.network * found.operations / 1e9:.0f} GFLOP/s, {found.share:.0%} "
                       "of this device's rate at matrix products"),
    ]  # fmt: skip
