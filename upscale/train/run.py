"""From pictures to a weights file that describes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import methods, weights
from ..device import pick_bf16
from ..diffusion.denoiser import parametrisation
from ..errors import InputError, UsageError
from ..metrics.perceptual import Lpips
from ..nets.compact import CompactConfig, CompactNet
from ..nets.compact_idm import CONFIGS, CompactIDM
from ..nets.liif import EDSRConfig, EDSRNet, LIIFNet
from . import dist
from .card import metadata, write_card
from .config import TrainConfig
from .data import Pairs
from .datasets import Data, fingerprint, held_out, pictures_of
from .feed import default_workers
from .log import Log
from .loop import OnProgress, train
from .loss import QualityLoss, Spec
from .sources import Items, Say, find
from .state import Run
from .validate import Validator, examples

# ECDP's conditioning in our network: a deeper encoder, whose features every block receives
ECDP_COMPACT = CompactConfig(encoder=6, inject=(1, 3, 5))
# for trying things out: 0.04M parameters
TINY = CompactConfig(
    channels=(16, 16, 24), down=(1, 1, 1), up=(1, 1), encoder=2, head=(8, 4), embedding=32
)
ECDP_TINY = replace(TINY, inject=(0, 1))
SIZES = {  # of the compact network: by itself, and with ECDP's conditioning
    "compact": (CompactConfig(), ECDP_COMPACT),
    "compact-tiny": (TINY, ECDP_TINY),
}
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ONE_SIZE = ("idm", "liif", "edsr")
CACHE = 8 << 30  # bytes of decoded pictures that are kept in memory


@dataclass(frozen=True)
class Options:
    """How a run is done: nothing here changes what comes out but for rounding.

    cache: bytes of decoded pictures in memory. workers: processes that make batches; None: as
    many as the device wants. validation: where pictures to validate on are. validate_every:
    iterations, 0: never. strategy: "ddp" or "fsdp". compiled: a backend of torch.compile.
    """

    save_minutes: float = 5.0
    cache: int = CACHE
    workers: int | None = None
    validation: Path | None = None
    validate_every: int = 2000
    tensorboard: bool = False
    strategy: str = "ddp"
    compiled: str = ""


def run_training(
    config: TrainConfig,
    dataset: Path | Data,
    output: Path,
    *,
    init: str | None = None,
    name: str = "",
    device: str = "auto",
    dtype: str = "auto",
    max_minutes: float | None = None,
    names_from: Path | None = None,
    say: Say = lambda line: None,
    on_progress: OnProgress = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    net: CompactConfig | None = None,
    options: Options | None = None,
) -> Path:
    """Train, or go on training, in folder `output`; returns its weights file.

    names_from: a text file of picture names (one a line) that the run is limited to.
    init: weights (name or file) to start from. net: sizes of the network.
    Raises UsageError, InputError, WeightsError.
    """
    options = options or Options()
    spec_of(config)  # what cannot be trained is told before pictures are read
    with dist.world(device) as world:
        told = say if world.first else lambda line: None
        names = names_from.read_text().split() if names_from else None
        data = dataset
        if isinstance(dataset, Path):
            data = Data(dataset.name, find(dataset, names))
        run, validation = prepared(config, data, world, dtype, options, told, init, net)
        log = Log(output, options.tensorboard and world.first)
        if world.first:
            output.mkdir(parents=True, exist_ok=True)
        run.resume(output, told, log if world.first else None)
        path = output / f"{name or config.method}.safetensors"
        workers = options.workers
        if workers is None:
            workers = default_workers(world.device, world.size)
        try:
            train(
                run, output, max_minutes=max_minutes, save_minutes=options.save_minutes,
                should_stop=should_stop, on_progress=on_progress, log=log, workers=workers,
                say=told, validate=_validator(run, validation, data, output, path, options, told),
                validate_every=options.validate_every,
            )  # fmt: skip
        finally:
            log.close()
        state = run.weights()
        if world.first:
            described = _described(run, data)
            weights.save(path, state, described, half=True)
            write_card(path.with_suffix(".md"), path.stem, described, run.best)
        world.wait()
    return path


def prepared(
    config: TrainConfig,
    data: Data,
    world: dist.World,
    dtype: str,
    options: Options,
    say: Say,
    init: str | None = None,
    sizes: CompactConfig | None = None,
) -> tuple[Run, Items | None]:
    """(a run at its beginning, the pictures to validate on)."""
    items, apart = held_out(data.train, config.holdout)
    pictures = pictures_of(items, config, options.cache, say)
    kept = "" if isinstance(pictures, list) else ", read from where they are at each use"
    say(f"{len(pictures):,} pictures from {data.label}{kept}")
    if spec_of(config).std == 0:
        config = replace(config, std=estimate_std(Pairs(pictures, config)))
        say(f"standard deviation of the residual: {config.std}")
    torch.manual_seed(config.seed)
    network = make_net(config, sizes)
    if init:
        start(network, init)
    quality = quality_loss(config, world.device)
    if quality is not None:
        quality = replace(quality, mean=world.joint_mean)
    run = Run(
        network,
        spec_of(config),
        config,
        Pairs(pictures, config),
        world.device,
        pick_bf16(dtype, world.device),
        quality,
        world=world,
        strategy=options.strategy,
        compiled=options.compiled,
    )
    run.data = fingerprint(items)
    given = find(options.validation) if options.validation else None
    return run, given or apart or data.validation


def _described(run: Run, data: Data) -> dict[str, Any]:
    return metadata(run, data.label, len(run.pairs.pictures), data.licence)


def _validator(
    run: Run, items: Items | None, data: Data, output: Path, path: Path, options: Options, say: Say
) -> Validator | None:
    """What measures the run from time to time, if there are pictures for it."""
    if not options.validate_every:
        return None
    if items is None:
        say("no validation: give --validation DIR or --holdout N for it")
        return None
    best = path.with_name(f"{path.stem}-best.safetensors")

    def keep(run: Run, state: dict[str, Tensor]) -> None:
        weights.save(best, state, _described(run, data), half=True)

    truths = examples(items, run.config, say)
    return Validator(truths, run.config, output, lambda run: _described(run, data), keep, say)


def make_net(config: TrainConfig, sizes: CompactConfig | None = None) -> nn.Module:
    """The network of a run with fresh weights; `sizes` are for the compact one. UsageError."""
    if config.compact:
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
    """Our own network for a method; `sizes` instead of its usual ones. UsageError."""
    if config.net not in SIZES or (config.net != "compact" and config.method in _ONE_SIZE):
        raise UsageError(
            f"no network {config.net!r} for --method {config.method}; have compact, and "
            "compact-tiny for sr3, ecdp and regression"
        )
    if config.method == "liif":
        return LIIFNet()
    if config.method == "edsr":
        return EDSRNet(EDSRConfig(round(config.scale_max), blocks=10, features=56))
    if config.method == "idm":
        return CompactIDM(sizes or CONFIGS[config.domain])
    plain, ecdp = SIZES[config.net]
    if config.method == "ecdp":
        sizes = replace(sizes or ecdp, heads=2)
    return CompactNet(replace(sizes or plain, noisy_input=config.method != "regression"))


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
    compact = config.compact
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
    std = None if whole else config.std
    return Spec(name, std, law.process, squared=config.loss == "l2")


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
