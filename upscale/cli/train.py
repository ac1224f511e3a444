"""`diffsr train`: from options to a training run, shown and stopped in good order."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upscale.cli.options import ANY_PATH, CONTEXT, DOMAINS, Finite, Named, option, weights_names
from upscale.cli.progress import Reporter
from upscale.errors import InputError, UsageError
from upscale.image.formats import SUFFIXES
from upscale.train.config import SCALE_LAWS, TrainConfig

if TYPE_CHECKING:
    from upscale.train.loop import Progress

LINE_EVERY = 100  # iterations, where there is no bar
_CHOICES = {
    "method": ("sr3", "ecdp", "idm", "regression", "liif", "edsr"),
    "domain": DOMAINS,
    "noise_law": ("logsnr", "process"),
    "scale_law": SCALE_LAWS,
    "quality_gradient": ("direct", "adjoint"),
}
_HELP = {
    "method": "What to train.",
    "domain": "What is on the pictures.",
    "patch": "Side of the training examples, a multiple of 16.",
    "batch": "Examples an iteration.",
    "iterations": "Length of the run.",
    "learning_rate": "The optimiser's step size at its highest.",
    "warmup": "Iterations over which it rises.",
    "final_learning_rate": "Where it ends.",
    "weight_decay": "Of AdamW.",
    "clip": "Largest norm of the gradient.",
    "ema": "Decay of the moving average of the weights, which is what is exported.",
    "seed": "Of all random numbers of the run.",
    "scale_min": "Smallest magnification learnt.",
    "scale_max": "Largest.",
    "scale_focus": "The one that half of the examples have.",
    "scale_law": "Half of them at the focus, the rest log-uniformly; all log-uniformly; or all "
    "uniformly, as IDM.",
    "lr_side": "Side of the inputs, whose targets are then as large as the magnification makes "
    "them, one a batch; 0: targets of --patch.",
    "lr_side_share": "Share of the batches that --lr-side is for.",
    "whole": "Examples are whole pictures made small (aligned faces), not parts of them.",
    "net": "Network: compact, or a paper's: ecdp-df2k, sr3-16-128, ... (a wrong name lists them).",
    "net_options": "Other values in its configuration, NAME=VALUE,...; idm's ablations: "
    "conditioning=encoder or input, upsampler=nearest or bilinear, fixed_scale=8.",
    "parametrisation": "What the network tells: eps, x0, v; ecdp: hybrid, hybrid:POWER, "
    "hybrid-eps, hybrid-x0. Default: the method's.",
    "std": "Standard deviation of the residual, for normalising it; 0: measured at the start.",
    "noise_law": "How noise levels are drawn.",
    "quality_loss_from": "Iteration from which a loss on finished pictures is added; 0: never.",
    "quality_batch": "Examples an iteration in that stage.",
    "quality_learning_rate": "Step size in that stage.",
    "quality_calls": "Most network calls that a finished picture takes in that stage.",
    "quality_cool": "Their start noise has temperature u^FLOAT, u uniform in [0, 1]; 0: always 1.",
    "quality_gradient": "How it reaches the network: through the last calls, or by the adjoint of "
    "the whole flow.",
    "quality_depth": "Calls that the direct gradient goes through.",
    "quality_tolerance": "Of the flow that the adjoint solves.",
    "quality_score": "Weight of the score loss in that stage.",
    "quality_l1": "Weight of the pixels' distance.",
    "quality_vgg": "Weight of LPIPS (vgg).",
    "quality_alex": "Weight of LPIPS (alex).",
    "quality_features": "Weight of the paper's own distance: L1 of VGG's last features.",
    "quality_phase": "Weight of what keeps a grid away that is the same all over a picture.",
    "quality_grid": "Weight of what keeps lines from ringing at the grid's period.",
}


def _config_options(function: Callable) -> Callable:
    """An option for every field of TrainConfig, with its default."""
    for known in reversed(fields(TrainConfig)):
        name, default = "--" + known.name.replace("_", "-"), known.default
        settings: dict[str, Any] = {"help": _HELP[known.name], "default": default}
        if known.name in _CHOICES:
            settings["type"] = Named(_CHOICES[known.name])
        elif isinstance(default, bool):
            settings["is_flag"] = True
        elif isinstance(default, str):
            settings["metavar"] = "NAME"
        elif isinstance(default, int):
            settings |= {"type": click.IntRange(0), "metavar": "N"}
        else:
            settings |= {"type": Finite(0), "metavar": "FLOAT"}
        function = option(name, known.name, **settings)(function)
    return function


@click.command(name="train", context_settings=CONTEXT)
@option(
    "--dataset",
    required=True,
    metavar="DIR",
    type=ANY_PATH,
    help="Folder of pictures, searched to the bottom (also written folder:DIR).",
)
@option(
    "--output",
    required=True,
    metavar="DIR",
    type=ANY_PATH,
    help="Folder of the run: checkpoints, metrics.jsonl, the weights file.",
)
@option("--name", metavar="NAME", help="Of the weights file. Default: METHOD-DOMAIN.")
@option(
    "--init",
    metavar="WEIGHTS",
    shell_complete=weights_names,
    help="Weights (name, file or hf:...) to start from.",
)
@option(
    "--names-from",
    metavar="FILE",
    type=ANY_PATH,
    help="Use only the pictures whose file names this lists, one a line.",
)
@option(
    "--max-minutes",
    type=Finite(0, min_open=True),
    metavar="FLOAT",
    help="Stop, and export, after this time.",
)
@option("--device", type=Named(("auto", "cpu", "cuda")), default="auto")
@option("--dtype", type=Named(("auto", "fp32", "bf16")), default="auto")
@_config_options
@option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@option("--debug", is_flag=True, help="Show tracebacks.")
def command(dataset: str, output: str, **options: Any) -> int:
    """Train weights from a folder of pictures.

    The same command run again goes on from the last checkpoint in --output. Ctrl-C and SIGTERM
    save one before they end; the second exits with 0. The path of the weights goes to standard
    output.
    """
    config = TrainConfig(**{known.name: options[known.name] for known in fields(TrainConfig)})
    folder = _folder(dataset)
    name = options["name"] or f"{config.method}-{config.domain}"
    if options["dry_run"]:
        _describe(config, folder, Path(output), name)
        return 0
    names = options["names_from"]
    if names and not Path(names).is_file():
        raise InputError(f"--names-from {names}: there is no such file")
    stop = _Stop()
    with Reporter(quiet=options["quiet"], unit="iterations") as reporter, stop:
        from upscale.train.run import run_training

        path = run_training(
            config, folder, Path(output), init=options["init"], name=name,
            device=options["device"], dtype=options["dtype"], max_minutes=options["max_minutes"],
            names_from=Path(names) if names else None, say=reporter.note,
            on_progress=_shown(reporter, config.iterations), should_stop=stop,
        )  # fmt: skip
    if stop.signal is not None:
        click.echo(f"Stopped; the same command goes on from here. Saved in {output}", err=True)
    click.echo(str(path))
    return 130 if stop.signal == signal.SIGINT else 0


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
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, note)
        return self

    def __exit__(self, *ending: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _shown(reporter: Reporter, iterations: int) -> Callable[[Progress], None]:
    """Progress as a bar with the time left, or as a line now and then."""
    reporter.begin("training")

    def show(progress: Progress) -> None:
        reporter.step(progress.iteration, iterations)
        if progress.iteration % LINE_EVERY == 0 or progress.iteration == iterations:
            left = (iterations - progress.iteration) * progress.images_seen / progress.iteration
            minutes = left / max(progress.images_per_second, 1e-9) / 60
            reporter.line(
                f"iteration {progress.iteration} of {iterations}, loss {progress.loss:.4f}, "
                f"{progress.images_per_second:.1f} pictures/s, {minutes:.0f} min left"
            )

    return show


def _folder(dataset: str) -> Path:
    kind, colon, rest = dataset.partition(":")
    if colon and kind.isalpha() and not Path(dataset).exists():
        if kind != "folder":
            raise UsageError(f"--dataset {dataset}: there is no kind {kind}; have folder:DIR")
        dataset = rest
    if not Path(dataset).is_dir():
        raise InputError(f"{dataset}: there is no such folder of training pictures")
    return Path(dataset)


def _describe(config: TrainConfig, folder: Path, output: Path, name: str) -> None:
    count = sum(1 for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not count:
        raise InputError(f"{folder}: no picture in it")
    click.echo(f"{count} pictures in {folder}; would write {output / (name + '.safetensors')}")
    for key, value in config.to_dict().items():
        click.echo(f"  {key:<24} {value}")
