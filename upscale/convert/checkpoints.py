"""Checkpoints of other programs, and of training, converted to weights that describe themselves.

Opened as tensors alone (`torch.load(weights_only=True)`): a file that would run code is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from upscale import __version__, methods
from upscale.convert.table import PUBLISHED, Hints
from upscale.diffusion.process import describe
from upscale.diffusion.table import loaded
from upscale.errors import DiffsrError, UsageError, WeightsError
from upscale.model import build
from upscale.weights import file as tensors
from upscale.weights import golden, pickles, store

State = dict[str, Tensor]
LONGEST = 2000  # characters of a message: a file of another kind has hundreds of strange keys


def convert(path: Path, settings: Hints) -> tuple[State, dict[str, Any], bool]:
    """(state, metadata, whether it may be stored as fp16) for `weights.save`, of a checkpoint.

    path: of the published SR3, IDM or ECDP code (.pth, .pt, or the same keys in .safetensors), or
    a checkpoint of `diffsr train`. The network is built and called before it is returned.
    Raises UntrustedWeights, DamagedWeights, and WeightsError naming every key that is too many or
    too few.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    trained = False
    try:
        if path.suffix.lower() in pickles.PICKLES:
            state, metadata = _published(path, pickles.opened(path), settings)
        elif trained := "record" in tensors.header_of(path):
            state, metadata = _trained(path, settings)
        elif "method" in tensors.metadata_of(path):
            raise UsageError(f"{path} is diffsr's already: use it as it is, --weights {path}")
        else:
            state, metadata = _published(path, tensors.read(path)[0], settings)
        golden.make(build(state, metadata), _largest(metadata))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {_cut(str(error))}") from error
    except WeightsError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {_cut(str(error))}") from error
    return state, metadata, trained


# --- published ----------------------------------------------------------------------------------


def _published(path: Path, opened: Any, settings: Hints) -> tuple[State, dict[str, Any]]:
    state = _state_dict(path, opened)
    seen = _method_of(state)
    method = settings.method or seen
    if method is None:
        raise WeightsError(f"{path}: none of the published SR3, IDM and ECDP codes writes its keys")
    if seen is not None and seen != method:
        raise WeightsError(f"{path}: its keys are those of {seen}: --method {seen}")
    row, known = PUBLISHED[method], methods.get(method)
    net, state, law = loaded(row.convert)(state, settings)
    parameters = sum(p.numel() for p in net.parameters())
    metadata = {
        "method": method,
        "net": f"{type(net).__name__}, {parameters} parameters, published",
        "architecture": net.architecture(),
        "parametrisation": known.parametrisation,
        "process": describe(known.process),
        "defaults": {
            "sampler": settings.sampler or row.sampler or known.sampler,
            "steps": settings.steps or known.steps, "spacing": known.spacing,
        },
        "domain": settings.domain or row.domain,
        "licence": settings.licence or "not stated",
        "imported": {
            "file": path.name, "sha256": store.sha256_of(path), "diffsr": __version__,
        },
        **law,
    }  # fmt: skip
    return state, metadata


def _state_dict(path: Path, opened: Any) -> State:
    """The one to use of a checkpoint: ECDP's tests take its moving average."""
    if not isinstance(opened, dict):
        raise WeightsError(f"{path} holds no state dict, but a {type(opened).__name__}")
    for key in ("model_avg", "model", "state_dict"):
        if isinstance(opened.get(key), dict):
            opened = opened[key]
            break
    else:
        if "optimizer" in opened:
            raise WeightsError(f"{path} holds an optimiser's state: import the *_gen.pth beside it")
    state = {key: value for key, value in opened.items() if key != "n_averaged"}
    if state and all(str(key).startswith("module.") for key in state):  # DataParallel's, averages'
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _method_of(state: State) -> str | None:
    """Whose names these are."""
    for method, row in reversed(PUBLISHED.items()):
        if any(str(key).startswith(row.keys) for key in state):
            return method
    return None


# --- of training --------------------------------------------------------------------------------


def _trained(path: Path, settings: Hints) -> tuple[State, dict[str, Any]]:
    """The moving average in a checkpoint of `diffsr train`, and the metadata of its run."""
    from upscale.train.card import metadata as described
    from upscale.train.config import TrainConfig
    from upscale.train.networks import make_net
    from upscale.train.run import spec_of

    try:
        record = json.loads(tensors.header_of(path)["record"])
        config = TrainConfig().with_(**record["config"])
        net = make_net(config)
        iteration, seen = int(path.stem.rpartition("-")[2]), int(record["images_seen"])
    except (KeyError, TypeError, ValueError, DiffsrError) as error:
        raise WeightsError(
            f"{path}: this version cannot read that checkpoint ({error}); go on training with it, "
            "which exports the weights at the end"
        ) from error
    if settings.method not in (None, config.method):
        raise WeightsError(f"{path}: it is a checkpoint of --method {config.method}")
    raw = tensors.read(path)[0]
    state = {k.removeprefix("ema."): v for k, v in raw.items() if k.startswith("ema.")}
    run = SimpleNamespace(
        config=config, spec=spec_of(config), net=net, iteration=iteration, images_seen=seen,
        taught=record.get("teacher", {}), paired=record.get("paired", 0),
    )  # fmt: skip
    metadata = {**described(run, ""), "licence": settings.licence or "not stated"}
    if settings.domain:
        metadata["domain"] = settings.domain
    chosen = {"sampler": settings.sampler, "steps": settings.steps}
    metadata["defaults"] |= {k: v for k, v in chosen.items() if v is not None}
    return state, metadata


def _largest(metadata: dict[str, Any]) -> float:
    scales = metadata["scales"]
    return float(scales["max"] if isinstance(scales, dict) else max(scales))


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} ... ({len(text) - LONGEST} characters more)"
