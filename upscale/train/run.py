"""From a folder of pictures to a weights file that describes itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from .. import __version__, methods, weights
from ..device import pick_bf16, pick_device
from ..diffusion.process import VPDiscrete
from ..errors import UsageError
from ..metrics.perceptual import Lpips
from ..nets.compact import CompactConfig, CompactNet
from .config import TrainConfig
from .data import Pairs, load_folder
from .loop import OnProgress, Run, train
from .loss import QualityLoss, Spec


def run_training(
    config: TrainConfig,
    dataset: Path,
    output: Path,
    *,
    init: str | None = None,
    name: str = "",
    device: str = "auto",
    dtype: str = "auto",
    max_minutes: float | None = None,
    names_from: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_progress: OnProgress = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    net: CompactConfig | None = None,
) -> Path:
    """Train, or go on training, in folder `output`; returns its weights file.

    names_from: a text file of picture names (one a line) that the run is limited to.
    init: weights (name or file) to start from. net: sizes of the network.
    Raises UsageError, InputError, WeightsError.
    """
    place = pick_device(device)
    names = names_from.read_text().split() if names_from else None
    pictures = load_folder(dataset, names, say)
    say(f"{len(pictures)} pictures from {dataset}")
    torch.manual_seed(config.seed)
    regression = config.method == "regression"
    network = CompactNet(replace(net or CompactConfig(), noisy_input=not regression))
    if init:
        start(network, init)
    run = Run(
        network,
        Spec("x0" if regression else "v", config.std),
        config,
        Pairs(pictures, config),
        place.type,
        pick_bf16(dtype, place),
        quality_loss(config, place),
    )
    run.resume(output, say)
    train(run, output, max_minutes=max_minutes, should_stop=should_stop, on_progress=on_progress)
    path = output / f"{name or config.method}.safetensors"
    export(run, path, dataset.name)
    return path


def start(net: nn.Module, init: str) -> None:
    """Fill a network from other weights: the same layout, or a diffusion network's for its
    regression twin (the convolution from the noise and the noise embedding are left out)."""
    state, _ = weights.load(weights.find(init))
    state = {k: v.float() for k, v in state.items()}
    if not net.config.noisy_input and "noise_mlp.0.weight" in state:
        state = {k: v for k, v in state.items() if not k.startswith("noise_mlp")}
        state["stem.weight"] = state["stem.weight"][:, -net.stem.in_channels :]
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"--init {init} has another layout: {error}") from error


def quality_loss(config: TrainConfig, device: torch.device) -> QualityLoss | None:
    """The distances that the config weighs; None where its stage is off."""
    if not config.quality_from:
        return None
    wanted = (("vgg", config.quality_vgg), ("alex", config.quality_alex))
    distances = tuple((weight, Lpips(net, device).loss) for net, weight in wanted if weight)
    return QualityLoss(config.quality_l1, config.quality_phase, distances)


def metadata(run: Run, dataset: str) -> dict:
    """What a weights file tells of itself: enough to use it with no flags."""
    config, spec = run.config, run.spec
    regression = config.method == "regression"
    ranged = config.scale_min < config.scale_max
    sampling = {"sampler": "once", "steps": 1} if regression else {"sampler": "ddim", "steps": 4}
    if config.quality_from:  # what that stage leaves of the noise is less visible when cooler
        sampling |= {"steps": 2, "temperature": 0.4}
    return {
        "method": config.method,
        "net": f"CompactNet, {sum(p.numel() for p in run.net.parameters())} parameters",
        "architecture": methods.describe(run.net),
        "domain": config.domain,
        "scales": {"min": config.scale_min, "max": config.scale_max}
        if ranged
        else [config.scale_max],
        "parametrisation": spec.parametrisation,
        "std": spec.std,
        "process": asdict(VPDiscrete()),
        "defaults": {**sampling, "spacing": "phi"},
        "training": {
            "dataset": dataset,
            "images_seen": run.images_seen,
            "iteration": run.iteration,
            "config": config.to_dict(),
            "diffsr": __version__,
            "revision": revision(),
        },
    }


def revision() -> str:
    """The source's git commit, or "" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def export(run: Run, path: Path, dataset: str) -> None:
    """The moving average as fp16, ready for `diffsr upscale --weights`."""
    weights.save(path, run.ema, metadata(run, dataset), half=True)
