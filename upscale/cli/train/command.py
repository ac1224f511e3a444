"""`diffsr train`: from options to a training run, shown and stopped in good order."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from upscale.cli.help import GENERAL, Command
from upscale.cli.options import (
    ANY_PATH,
    DEBUG,
    DEVICE,
    DTYPE,
    MACHINE,
    QUIET,
    TRAINABLE,
    Finite,
    Named,
    Scale,
    Words,
    asked,
    completed,
    option,
    path_of,
    some,
    weights_names,
    with_options,
)
from upscale.cli.progress import Reporter
from upscale.cli.train.lists import listed, planned
from upscale.cli.train.shown import Shown
from upscale.errors import UsageError
from upscale.signals import after, handled
from upscale.train.catalogue import usual_settings
from upscale.train.config import TrainConfig
from upscale.train.recipes import RECIPES, settings_of

if TYPE_CHECKING:
    from upscale.train.datasets import Data

# what a run's checkpoints hold for --resume, beside its config
KEPT = ("data", "names_from", "validation", "validate_every", "name")


_SETTINGS = [known.name for known in fields(TrainConfig)]
_OPTIONS = [
    option("--dataset", metavar="WHAT", type=ANY_PATH, group="Run", show_default="the recipe's",
        help="Pictures to train on: a folder (also folder:DIR), tar shards, an LMDB, a name from "
             "--list, or hf:ORG/NAME on the Hugging Face Hub. pairs:DIR (with LR and HR in it) and "
             "pairs:INPUTS=TARGETS name inputs that another program made and their targets. "
             "Several, separated by commas, are mixed (--mix)."),
    option("--data", metavar="DIR", type=ANY_PATH, default="data", group="Run", expert=True,
        help="Folder that holds the named datasets."),
    option("--recipe", metavar="NAME", shell_complete=completed(lambda: RECIPES), group="Run",
        help="Use the settings of a paper or of bundled weights (--list shows them). Every option "
             "given overrides them."),
    option("--list", "list_", is_flag=True, group="Run", help="Show datasets and recipes."),
    option("--output", metavar="DIR", type=ANY_PATH, group="Run",
        show_default="runs/ and the name of the recipe, or METHOD-DOMAIN",
        help="Folder of the run: checkpoints, metrics.jsonl, samples, the weights and their card."),
    option("--name", metavar="NAME", type=Words(), group="Run", expert=True,
        show_default="my- and the recipe, or METHOD-DOMAIN", help="Name of the weights file."),
    option("--resume", metavar="DIR", type=ANY_PATH, group="Run",
        help="Go on with the run in this folder, with its settings and pictures. Options given "
             "again override them. --output DIR alone does the same."),
    option("--init", metavar="WEIGHTS", shell_complete=weights_names, group="Run",
        help="Weights to start from (a name, a file or hf:...). With several, separated by commas, "
             "what the first lack comes from the next. The folder of a run gives its network, "
             "average, optimiser and discriminator."),
    option("--images", type=click.IntRange(1), metavar="N", group="Run", expert=True,
        help="Length of the run in examples; replaces --iterations."),
    option("--max-minutes", type=Finite(0, min_open=True), metavar="FLOAT", group="Run",
        help="Stop and export after this time."),
    option("--save-minutes", type=Finite(0), default=5.0, metavar="FLOAT", group="Run", expert=True,
        help="Time between checkpoints."),
    option("--scale", type=Scale(1), metavar="FLOAT", group="Run",
        help="Learn this magnification only; replaces --scale-min, --scale-max and --scale-focus."),
    *asked(TrainConfig, _SETTINGS[0], type=Named(TRAINABLE)),
    *asked(TrainConfig, *_SETTINGS[1:]),
    option("--names-from", metavar="FILE", type=ANY_PATH, group="Pictures", expert=True,
        help="Use only the pictures whose file names are in this list, one per line."),
    option("--validation", metavar="DIR", type=ANY_PATH, group="Validation", expert=True,
        show_default="the dataset's own, or --holdout", help="Pictures to validate on."),
    option("--validate-every", type=click.IntRange(0), default=2000, metavar="N",
        group="Validation", expert=True, help="Iterations between validations. 0: never."),
    option("--tensorboard", is_flag=True, group="Validation", expert=True,
        help="Also write the contents of metrics.jsonl for TensorBoard."),
    DEVICE,
    DTYPE,
    option("--workers", type=click.IntRange(0), metavar="N", group=MACHINE, expert=True,
        show_default="up to 8 on a GPU, else none", help="Processes that prepare batches."),
    option("--cache", type=Finite(0), metavar="GIB", group=MACHINE, expert=True,
        show_default="8, or half of the free memory",
        help="Memory for decoded pictures. Larger datasets are read again at each use."),
    option("--compile", "compiled", is_flag=True, group=MACHINE, expert=True,
        help="Compile the network with torch.compile."),
    option("--strategy", type=Named(("ddp", "fsdp")), default="ddp", group=MACHINE, expert=True,
        help="Under torchrun: each process holds the whole network (ddp) or a share of it (fsdp)."),
    option("--dry-run", is_flag=True, group=GENERAL,
        help="Show the settings and measure time and memory, without training."),
    QUIET,
    DEBUG,
]  # fmt: skip


@click.command(
    name="train",
    cls=Command,
    examples=[
        ("diffsr train --list", "show datasets and recipes"),
        ("diffsr train --dataset photos/ --iterations 20000", "train SR3 on a folder"),
        ("diffsr train --recipe ecdp-photo --dry-run", "show what a recipe takes"),
    ],
)
@with_options(_OPTIONS)
def command(dataset: str | None, output: str | None, **options: Any) -> int:
    """Train weights from pictures.

    Running the same command again, or --resume and the folder of the run, resumes from its last
    checkpoint. Ctrl-C, SIGTERM and SIGHUP save a checkpoint first; after the last two the exit code
    is 0. The path of the weights goes to standard output. For several processes: torchrun
    --nproc-per-node N -m upscale train ...
    """
    if options["list_"]:
        listed()
        return 0
    recipe = options["recipe"]
    record = _begun(dataset or recipe, output, options["resume"])
    output, began = options["resume"] or output, record.get("command", {})
    options |= {key: began[key] for key in KEPT if key in began and not _given(key)}
    settings = settings_of(recipe) if recipe else {}
    dataset = dataset or (RECIPES[recipe].dataset if recipe else "") or began.get("dataset", "")
    if not dataset:
        raise click.UsageError("Missing option '--dataset'.")
    config = _config(dataset, record.get("config", {}) | settings, options)
    usual = recipe or f"{config.method}-{config.domain}"
    name = options["name"] or f"my-{usual}"  # which no bundled file is called
    output = output or str(Path("runs") / (options["name"] or usual))
    if options["dry_run"]:
        planned(config, dataset, lambda say: _data(dataset, config, options, say), name, options)
        return 0
    stop = _Stop()
    with Reporter(quiet=options["quiet"] or _rank(), unit="pictures") as reporter, stop:
        from upscale.train.run import Options, run_training

        how = Options(
            cache=None if options["cache"] is None else int(options["cache"] * 2**30),
            compiled="inductor" if options["compiled"] else "",
            validation=path_of(options["validation"]),
            **some(options, "save_minutes", "workers", "validate_every", "tensorboard", "strategy"),
        )
        shown = Shown(reporter, config, stop)
        data = _data(dataset, config, options, reporter.note)
        path = None
        with suppress(KeyboardInterrupt):  # `shown` raises it while pictures are read
            path = run_training(
                config,
                data,
                Path(output),
                name=name,
                # names may hold ends of lines
                say=lambda line: reporter.note(line.replace("\n", "\\n")),
                on_progress=shown,
                on_read=shown.reading,
                should_stop=stop,
                options=how,
                command={key: options[key] for key in KEPT} | {"dataset": dataset, "name": name},
                **some(options, "init", "device", "dtype", "max_minutes"),
            )
    if not _rank():
        if path is None:
            click.echo("Stopped before anything was learnt; no file has changed.", err=True)
        elif stop.signal is not None:
            again = f"`diffsr train --resume {shlex.quote(output)}`"
            click.echo(f"Stopped; {again} or the same command goes on from there.", err=True)
        if path is not None:
            click.echo(str(path))
    return 130 if stop.signal == signal.SIGINT else 0


def _begun(what: str | None, output: str | None, resume: str | None) -> dict[str, Any]:
    """The record of the run that is to go on where its folder alone is given, else {}. UsageError.

    what: the dataset or recipe that is given.
    """
    if resume and output and Path(resume) != Path(output):
        raise UsageError(f"--resume {resume}: the run goes on there; leave --output out")
    if not (resume or (output and not what)):
        return {}
    from upscale.train.checkpoint import record_of

    folder = Path(resume or output)
    record = record_of(folder)
    if not record:
        raise UsageError(
            f"{folder} holds no run that could go on (no checkpoint in it); give --dataset or "
            "--recipe with --output to begin one there"
        )
    if not what and "dataset" not in record.get("command", {}):
        raise UsageError(f"{folder}: an older diffsr began this run; name its --dataset too")
    known = {name: record["config"][name] for name in _SETTINGS if name in record["config"]}
    return record | {"config": known}


def _given(name: str) -> bool:
    """Whether an option was given, on the command line or by the environment."""
    source = click.get_current_context().get_parameter_source(name)
    return source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def _rank() -> int:
    """This process among those that torchrun started; only the first speaks."""
    return int(os.environ.get("RANK", "0"))


def _data(
    dataset: str, config: TrainConfig, options: dict[str, Any], say: Callable[[str], None]
) -> Data:
    """The pictures, found but not read. Raises InputError."""
    from upscale.train.datasets import names_in, resolve

    names = options["names_from"]
    wanted = names_in(Path(names)) if names else None
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return resolve(dataset, Path(options["data"]), wanted, say, alone, config)


def _config(dataset: str, recipe: dict[str, Any], options: dict[str, Any]) -> TrainConfig:
    """What is given, before the recipe, before what the papers do with the dataset, before the
    defaults. Raises UsageError."""
    given = {name: options[name] for name in _SETTINGS if _given(name)}
    if options["scale"]:
        fixed = dict.fromkeys(("scale_min", "scale_max", "scale_focus"), options["scale"])
        given = fixed | given
    settings = {**usual_settings(dataset), **recipe, **given}
    if settings.get("whole") and "crop" not in given:  # a crop of its own
        settings["crop"] = "augmented"
    config = TrainConfig(**settings)
    return config.of_images(options["images"]) if options["images"] else config


class _Stop:
    """Asked between iterations whether a signal came; a second signal ends the program at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> _Stop:
        def note(number: int, frame: object) -> None:
            self.signal = number
            signal.signal(number, after(number))

        self._before = handled(note)
        return self

    def __exit__(self, *ending: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
