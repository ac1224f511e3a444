"""From a folder of pictures to a weights file that describes itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__, methods, weights
from ..device import pick_bf16, pick_device
from ..diffusion.denoiser import parametrisation
from ..diffusion.process import describe
from ..errors import InputError, UsageError
from ..metrics.perceptual import Lpips
from ..nets.compact import CompactConfig, CompactNet
from ..nets.compact_idm import CONFIGS, CompactIDM
from ..nets.liif import EDSRConfig, EDSRNet, LIIFNet
from .config import TrainConfig
from .data import Pairs, load_folder
from .loop import OnProgress, Run, train
from .loss import QualityLoss, Spec

# ECDP's conditioning in our network: a deeper encoder, whose features every block receives
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
ECDP_COMPACT = CompactConfig(encoder=6, inject=(1, 3, 5))


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
    spec_of(config)  # what cannot be trained is told before pictures are read
    names = names_from.read_text().split() if names_from else None
    pictures = load_folder(dataset, names, say)
    say(f"{len(pictures)} pictures from {dataset}")
    if spec_of(config).std == 0:
        config = replace(config, std=estimate_std(Pairs(pictures, config)))
        say(f"standard deviation of the residual: {config.std}")
    torch.manual_seed(config.seed)
    network = make_net(config, net)
    if init:
        start(network, init)
    run = Run(
        network,
        spec_of(config),
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


def make_net(config: TrainConfig, sizes: CompactConfig | None = None) -> nn.Module:
    """The network of a run with fresh weights; `sizes` are for the compact one. UsageError."""
    if config.net == "compact":
        net = _compact(config, sizes)
    else:
        net = methods.make_paper_net(config.net, config.method)
        scales = {config.scale_min, config.scale_focus, config.scale_max}
        if config.method in ("ecdp", "edsr") and len(scales) > 1:
            raise UsageError(
                f"network {config.net} is for one magnification: "
                "give --scale-min, --scale-focus and --scale-max one value"
            )
    if config.method == "idm":
        net = type(net)(replace(net.config, max_scale=config.scale_max))
    if config.net_options:
        net = type(net)(altered(net.config, config.net_options))
    return net


def _compact(config: TrainConfig, sizes: CompactConfig | None) -> nn.Module:
    """Our own network for a method; `sizes` instead of its usual ones."""
    if config.method == "liif":
        return LIIFNet()
    if config.method == "edsr":
        return EDSRNet(EDSRConfig(round(config.scale_max), blocks=10, features=56))
    if config.method == "idm":
        return CompactIDM(sizes or CONFIGS[config.domain])
    if config.method == "ecdp":
        sizes = replace(sizes or ECDP_COMPACT, heads=2)
    return CompactNet(replace(sizes or CompactConfig(), noisy_input=config.method != "regression"))


def altered(sizes: Any, text: str) -> Any:
    """A network's configuration with the fields that "name=value,name=value" gives. UsageError."""
    plain = {k: v for k, v in vars(sizes).items() if isinstance(v, bool | int | float | str)}
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in plain:
            raise UsageError(f"--net-options: no {name!r}; have {', '.join(plain)}")
        kind = type(plain[name])
        try:
            changes[name] = _BOOLS[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError) as error:
            raise UsageError(f"--net-options {part}: not a {kind.__name__}") from error
    try:
        return replace(sizes, **changes)
    except ValueError as error:
        raise UsageError(f"--net-options: {error}") from error


def spec_of(config: TrainConfig) -> Spec:
    """What the network of a run tells of what. Raises UsageError.

    Ours diffuses the residual and tells v (regression the clean target, ECDP noise and clean
    target); SR3's own network diffuses the picture and tells the noise.
    """
    law = methods.get(config.method)
    compact = config.net == "compact"
    own = "v" if config.method in ("sr3", "idm") and compact else law.parametrisation
    name = config.parametrisation or own
    try:
        parametrisation(name)
    except ValueError as error:
        raise UsageError(f"--parametrisation: {error}") from error
    if name.startswith("hybrid") != (config.method == "ecdp"):
        raise UsageError(
            f"--parametrisation {name} does not go with --method {config.method}: ecdp's network "
            "has two heads (hybrid, hybrid:POWER, hybrid-eps, hybrid-x0), the others' one"
        )
    whole = not compact and config.method not in ("ecdp", "liif", "edsr")
    return Spec(name, None if whole else config.std, law.process)


def estimate_std(pairs: Pairs, batches: int = 32) -> float:
    """Standard deviation of hr - lr_up over the first examples of a run, in [-1,1] units.

    Raises InputError where the pictures have no detail at all.
    """
    squares = [
        (batch.hr - batch.lr_up).square().mean() for batch in map(pairs.batch, range(batches))
    ]
    std = float(torch.stack(squares).mean().sqrt())
    if std < 0.0025:  # the small pictures' rounding to 8 bits alone makes 0.0023
        raise InputError(
            f"the pictures have no detail that the scale takes away (std {std:.1e}): "
            "nothing can be learnt from them"
        )
    return round(std, 4)


def start(net: nn.Module, init: str) -> None:
    """Fill a network from other weights: the same layout, or a smaller sibling's.

    A diffusion network's for its regression twin: the convolution from the noise and the noise
    embedding are left out. One head's for both heads; CompactNet's trunk for IDM's. What the
    sibling has not (later blocks of the encoder, injections) starts as if it were not there.
    """
    state, description = weights.load(weights.find(init))
    state = {k: v.float() for k, v in state.items()}
    ours = net.state_dict()
    kind = description.get("architecture", {}).get("kind")
    if isinstance(net, CompactIDM) and kind == CompactNet.kind:
        # the trunk; what IDM has of its own, and how it draws, starts afresh
        same = {k: v for k, v in state.items() if k in ours and v.shape == ours[k].shape}
        state = ours | same
    elif isinstance(net, CompactNet) and not isinstance(net, CompactIDM):
        if not net.config.noisy_input:
            state = {k: v for k, v in state.items() if not k.startswith("noise_mlp")}
            state["stem.weight"] = state["stem.weight"][:, -net.stem.in_channels :]
        for key in ("head3.weight", "head3.bias"):
            if key in state and 2 * len(state[key]) == len(ours[key]):
                state[key] = torch.cat([state[key]] * 2)
        fresh = {k: v for k, v in ours.items() if k.startswith(("enc.", "inject."))}
        state = fresh | state
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"--init {init} has another layout: {error}") from error


def quality_loss(config: TrainConfig, device: torch.device) -> QualityLoss | None:
    """The distances that the config weighs; None where its stage is off."""
    if not config.quality_loss_from:
        return None
    wanted = (
        ("vgg", "loss", config.quality_vgg),
        ("alex", "loss", config.quality_alex),
        ("vgg", "feature_loss", config.quality_features),
    )
    nets: dict[str, Lpips] = {}
    distances = []
    for name, kind, weight in wanted:
        if weight:
            if name not in nets:
                nets[name] = Lpips(name, device)
            distances.append((weight, getattr(nets[name], kind)))
    return QualityLoss(
        config.quality_l1, config.quality_phase, config.quality_grid, tuple(distances)
    )


def metadata(run: Run, dataset: str) -> dict:
    """What a weights file tells of itself: enough to use it with no flags."""
    config, spec = run.config, run.spec
    regression = methods.get(config.method).sampler == "once"
    ranged = config.scale_min < config.scale_max
    sampling = {"sampler": "once", "steps": 1} if regression else {"sampler": "ddim", "steps": 4}
    if config.net != "compact":
        law = methods.get(config.method)
        sampling = {"sampler": law.sampler, "steps": law.steps}
    if config.quality_loss_from:  # what that stage leaves of the noise is less visible when cooler
        sampling |= {"steps": 2, "temperature": 0.2 if config.quality_cool else 0.4}
    size = sum(p.numel() for p in run.net.parameters())
    return {
        "method": config.method,
        "net": f"{type(run.net).__name__}, {size} parameters",
        "architecture": methods.describe(run.net),
        "domain": config.domain,
        "scales": {"min": config.scale_min, "max": config.scale_max}
        if ranged
        else [config.scale_max],
        "parametrisation": spec.parametrisation,
        "std": spec.std,
        "process": describe(spec.process),
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
