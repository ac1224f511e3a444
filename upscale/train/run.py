"""From pictures to a weights file that describes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from upscale import methods
from upscale.atomic import make_folder
from upscale.diffusion.denoiser import parametrisation
from upscale.document import counted
from upscale.errors import InputError, UsageError, WeightsError
from upscale.machine import available_memory, pick_bf16
from upscale.metrics.perceptual import Lpips
from upscale.nets import winograd
from upscale.nets.compact import CompactConfig
from upscale.train import checkpoint, dist
from upscale.train.adversary import WIDTHS, Adversary
from upscale.train.card import metadata, write_card
from upscale.train.config import TrainConfig, flag
from upscale.train.data import Pairs
from upscale.train.datasets import (
    Data,
    fingerprint,
    held_out,
    names_in,
    of_folder,
    pictures_of,
)
from upscale.train.distill import teacher_of
from upscale.train.feed import default_workers
from upscale.train.log import Log
from upscale.train.loop import OnProgress, train
from upscale.train.loss import Judge, QualityLoss, Spec
from upscale.train.networks import make_net, start
from upscale.train.pictures import OnRead, unseen
from upscale.train.sources import Items, Say
from upscale.train.state import Run
from upscale.train.validate import Validator, examples, trained_on
from upscale.weights import store

CACHE = 8 << 30  # bytes of decoded pictures that are kept in memory at most


@dataclass(frozen=True)
class Options:
    """How a run is done: nothing here changes what comes out but for rounding.

    cache: bytes of decoded pictures in memory; None: see `default_cache`. workers: processes that
    make batches; None: as many as the device wants. validation: where pictures to validate on are.
    validate_every: iterations, 0: never. strategy: "ddp" or "fsdp". compiled: a backend of
    torch.compile, "": none.
    """

    save_minutes: float = 5.0
    cache: int | None = None
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
    on_read: OnRead = unseen,
    should_stop: Callable[[], bool] = lambda: False,
    net: CompactConfig | None = None,
    options: Options | None = None,
    command: dict[str, Any] | None = None,
) -> Path | None:
    """Train, or go on training, in folder `output`; returns its weights file, or None where it was
    stopped before anything was learnt.

    names_from: a text file of picture names (one a line) that the run is limited to.
    init: weights (name or file) to start from, or another run's folder; else the teacher's if there
    is one. net: sizes of the network. command: kept in the checkpoints, for who resumes by them.
    Raises UsageError, InputError, WeightsError.
    """
    options = options or Options()
    spec_of(config)  # what cannot be trained is refused before pictures are read
    with dist.world(device) as world, ExitStack() as held:
        say = say if world.first else lambda line: None
        names = names_in(names_from) if names_from else None
        data = dataset
        if isinstance(dataset, Path):
            data = of_folder(dataset, names, config)
        if config.std == 0:  # it was measured when the run began
            began = checkpoint.record_of(output).get("config", {})
            config = replace(config, std=began.get("std", 0.0))
        run, validation = prepared(config, data, world, dtype, options, say, init, net, on_read)
        run.command = command or {}
        log = Log(output, options.tensorboard and world.first)
        if world.first:
            held.enter_context(alone(output))
        run.resume(output, say, log if world.first else None)
        path = output / f"{name or config.method}.safetensors"
        workers = options.workers
        if workers is None:
            workers = default_workers(world.device, world.here)
        try:
            train(
                run, output, max_minutes=max_minutes, save_minutes=options.save_minutes,
                should_stop=should_stop, on_progress=on_progress, log=log, workers=workers,
                say=say, validate=_validator(run, validation, data, path, options, say),
                validate_every=options.validate_every,
            )  # fmt: skip
        finally:
            log.close()
        if not run.iteration:
            return None
        state = run.weights()
        if world.first:
            described = _described(run, data)
            store.save(path, run.exported(state), described, half=True)
            write_card(path.with_suffix(".md"), path.stem, described, run.best)
        world.wait()
    return path


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made, until it is left or the process ends.
    Raises UsageError where one is in it, OutputError where it cannot be made."""
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"another run is training in {folder}: give another --output") from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks
    try:
        yield
    finally:
        lock.release()


def prepared(
    config: TrainConfig,
    data: Data,
    world: dist.World,
    dtype: str,
    options: Options,
    say: Say,
    init: str | None = None,
    sizes: CompactConfig | None = None,
    on_read: OnRead = unseen,
) -> tuple[Run, Items | None]:
    """(a run at its beginning, the pictures to validate on)."""
    teacher = None
    # what does not fit is refused before pictures are read
    if config.distill:
        teacher = teacher_of(config, spec_of(config), sizes)
        config = replace(config, std=config.std or teacher.model.std or 0.0)
        teacher.config = config
        steps = counted(config.distill_steps, f"{teacher.sampler} step")
        say(f"learning from {teacher.name}, {steps}")
    quality = quality_loss(config, world)
    torch.manual_seed(config.seed)
    network = make_net(config, sizes)
    branched = Path(init) if init and Path(init).is_dir() else None  # a run that goes another way
    begun = init or config.distill
    taught = start(network, begun) if begun and not branched else {}
    items, apart = held_out(data.train, config.holdout)
    if options.validation:
        if apart:
            say(f"--holdout {config.holdout}: these pictures are left out and not validated on, "
                f"for --validation {options.validation} has others")  # fmt: skip
        apart = of_folder(options.validation, None, config).train
    cache = default_cache(world) if options.cache is None else options.cache
    pairs = Pairs(pictures_of(items, config, cache, say, on_read), config)
    count = counted(len(pairs.pictures), "picture")
    say(f"{count} from {data.label}{not_in_memory(pairs)}")
    if pairs.paired == len(pairs.pictures):
        for name in ("degradation", "drawings"):
            if (value := getattr(config, name)) != getattr(TrainConfig, name):
                say(f"{flag(name)} {value} changes no example: pairs are used as they are")
    if spec_of(config).std == 0:
        config = replace(config, std=estimate_std(pairs))
        say(f"standard deviation of the residual: {config.std}")
    run = Run(
        network,
        spec_of(config),
        config,
        pairs,
        world.device,
        pick_bf16(dtype, world.device),
        quality,
        world=world,
        strategy=options.strategy,
        compiled=options.compiled,
        teacher=teacher,
    )
    if branched:
        run.branch(branched, say)
    elif run.adversary and taught:
        try:
            run.adversary.begin(taught)
            say(f"the discriminator goes on from that of {begun}")
        except RuntimeError:  # it judges other features
            say(f"the discriminator begins anew: that of {begun} judges other features")
    run.data = fingerprint(items)
    return run, apart or data.validation


def not_in_memory(pairs: Pairs) -> str:
    """Which pictures are not in memory."""
    count = sum(map(len, pairs.streamed))
    which = f", {count:,} of them" if count < len(pairs.pictures) else ","
    return f"{which} read from where they are at each use" if count else ""


def default_cache(world: dist.World) -> int:
    """CACHE, but no more than half of the memory that is free, for all processes of a machine."""
    free = available_memory(torch.device("cpu"))
    return min(CACHE, free // 2 // world.here)


def _described(run: Run, data: Data) -> dict[str, Any]:
    return metadata(run, data.label, len(run.pairs.pictures), data.licence)


def _validator(
    run: Run, items: Items | None, data: Data, path: Path, options: Options, say: Say
) -> Validator | None:
    """What measures the run from time to time."""
    if not options.validate_every:
        return None
    if items is None:
        say("validation on pictures that are trained on; --holdout N or --validation DIR takes "
            "others, and keeps the weights that are best there")  # fmt: skip
        best, pairs = None, trained_on(run.pairs)
    else:
        best = path.with_name(f"{path.stem}-best.safetensors")
        pairs = examples(items, run.config, say)
    return Validator(pairs, run.config, path.parent, best, lambda run: _described(run, data), say)


def spec_of(config: TrainConfig) -> Spec:
    """What the network of a run predicts, of which target. Raises UsageError.

    By default ours diffuses the residual and predicts v (regression the clean target, ECDP noise
    and clean target); SR3's own network diffuses the picture and predicts the noise.
    """
    law = methods.get(config.method)
    own = config.compact and law.compact_parametrisation
    name = config.parametrisation or own or law.parametrisation
    try:
        parametrisation(name)
    except ValueError as error:
        raise UsageError(f"--parametrisation: {error}") from error
    if name.startswith("hybrid") != law.two_heads:
        heads = "two heads" if law.two_heads else "one head"
        raise UsageError(
            f"--parametrisation {name} does not go with --method {config.method}, whose network "
            f"has {heads}; for two there are hybrid, hybrid:POWER, hybrid-eps and hybrid-x0"
        )
    if config.target == "picture" and law.residual:
        raise UsageError(f"--target picture: --method {config.method} has the residual alone")
    if config.target == "residual" and law.unconditional:
        raise UsageError(f"--target residual: --method {config.method} has no input to differ from")
    auto = config.target == "auto"
    residual = law.residual or config.target == "residual" or (auto and config.compact)
    return Spec(name, config.std if residual else None, law.process, squared=config.loss == "l2")


def estimate_std(pairs: Pairs) -> float:
    """Standard deviation of hr - lr_up over the first examples of a run, in [-1,1] units.

    Raises InputError where the pictures have no detail at all.
    """
    squares = [(batch.hr - batch.lr_up).square().mean() for batch in map(pairs.batch, range(32))]
    std = float(torch.stack(squares).mean().sqrt())
    if std < 0.0025:  # the small pictures' rounding to 8 bits alone makes 0.0023
        raise InputError(
            f"the pictures have no detail that the scale takes away (std {std:.1e}): "
            "nothing can be learnt from them"
        )
    return round(std, 4)


def quality_loss(config: TrainConfig, world: dist.World) -> QualityLoss | None:
    """The distances that the config weighs; None where its stage is off."""
    if not config.quality_loss_from:
        return None
    wanted = {
        "vgg": ("vgg", config.quality_vgg),
        "features": ("vgg", config.quality_features),
        "alex": ("alex", config.quality_alex),
    }
    trunks = [t for t in ("vgg", "alex") if any(w for net, w in wanted.values() if net == t)]
    if config.quality_adversarial and not trunks:
        raise UsageError(
            "--quality-adversarial judges the features that LPIPS takes: give --quality-vgg or "
            "--quality-alex too"
        )
    judges = []
    for trunk in trunks:
        try:
            lpips = Lpips(trunk, world.device)
        except WeightsError as error:
            own = [name for name, (net, weight) in wanted.items() if net == trunk and weight]
            without = " ".join(f"{flag(f'quality_{name}')} 0" for name in own)
            raise type(error)(f"{error}; or train without it: {without}") from error
        # twice, for the gradient has weights of its own
        if 2 * winograd.extra_bytes(lpips.trunk) < available_memory(world.device) // 4:
            winograd.quicken(lpips.trunk)
        how = {"features": lpips.last_compared}
        distances = {
            k: (w, how.get(k, lpips.compared))
            for k, (net, w) in wanted.items()
            if net == trunk and w
        }
        opponent = None
        if config.quality_adversarial and trunk == trunks[0]:
            opponent = Adversary(WIDTHS[trunk], config.seed, world.device, world.mean)
        judges.append(Judge(lpips.trunk, distances, opponent, config.quality_adversarial))
    return QualityLoss(
        config.quality_l1,
        config.quality_phase,
        config.quality_grid,
        config.quality_mesh,
        tuple(judges),
        world.joint_mean,
    )
