"""State dicts of the published ECDP code (`checkpoint.pt`) in this project's key names."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from upscale.convert.table import Settings
from upscale.errors import UsageError
from upscale.nets.ecdp import ECDPConfig, ECDPNet

# what the published Diffusion stores besides its network: recomputed here, never read
SCHEDULE_KEYS = frozenset(
    {"model.diffusion.betas", "model.diffusion.alphas", "model.diffusion.alpha_bars"}
)
# encoder blocks -> those that are read, of the paper's three networks
SELECTIONS = {23: (1, 8, 15, 22), 16: (1, 5, 10, 15), 8: (1, 3, 5, 7)}

_NETWORK, _ENCODER = "model.diffusion.network.", "model.lr_feats."
# (ours, published) names of a layer, behind their module's
_LAYERS = (
    (re.compile(r"^((?:downs|ups|mid)\.\d+)\.time\."), r"\1.time_in."),
    (re.compile(r"\.project\."), ".extra_in.network."),
    (re.compile(r"\.(conv1|conv2|skip)\."), r".\1.network."),
    (re.compile(r"^(downs\.\d+)\.conv\."), r"\1.downconv.network."),
    (re.compile(r"^(ups\.\d+)\.conv\."), r"\1.upconv.1.network."),
    (re.compile(r"^time\."), "time_in."),
    (re.compile(r"^in_conv\."), "in_conv.network."),
    (re.compile(r"^out\.0\."), "out_conv.0."),
    (re.compile(r"^out\.2\."), "out_conv.2.network."),
)
_DOWN = re.compile(re.escape(_NETWORK) + r"downs\.(\d{1,4})\.(.+)")
_RRDB = re.compile(re.escape(_ENCODER) + r"blocks\.(\d{1,4})\..+")
# any of these tells a block's width, so that one missing key is still named as the missing one
_WIDTH = ("conv1.network", "conv2.network", "norm2")
_WRONG = "not a published ECDP network:"


def converted(
    state: dict[str, Tensor], settings: Settings
) -> tuple[ECDPNet, dict[str, Tensor], dict[str, Any]]:
    """(network, its state, metadata) of a published checkpoint. UsageError, ValueError."""
    scale = settings.scale
    if scale is not None and scale != int(scale):
        raise UsageError(f"ecdp's networks enlarge by a whole number, not by {scale:g}")
    config, state = ecdp_from_published(
        state, resize=settings.resize, selection=settings.selection,
        scale=None if scale is None else int(scale),
    )  # fmt: skip
    # r = 5 (x - mu) on [0, 1] is (x - mu) / 0.4 on [-1, 1]
    kernel = "bicubic" if settings.resize == "antialias" else "bicubic-plain"
    return ECDPNet(config), state, {"scales": [float(config.scale)], "std": 0.4, "kernel": kernel}


def ecdp_from_published(
    state_dict: dict[str, Tensor],
    *,
    resize: str = "antialias",
    selection: tuple[int, ...] | None = None,
    scale: int | None = None,
) -> tuple[ECDPConfig, dict[str, Tensor]]:
    """(config, state dict for ECDPNet) of a checkpoint's "model" or, better, "model_avg".

    The tensors are not copied. Widths and depths are read off the shapes. What leaves no trace in
    a file: `resize` (antialias: the weights were trained with torchvision 0.17 or later),
    `selection` of encoder blocks (default: the paper's, see SELECTIONS) and `scale` (default: 8
    for the paper's CelebA encoder of 8 blocks, else 4).

    ValueError names, as the file does, every key that is missing, unknown or of another shape than
    the rest implies.
    """
    state = {k: v for k, v in state_dict.items() if k not in SCHEDULE_KEYS}
    if strange := sorted(str(k) for k, v in state.items() if not isinstance(v, Tensor)):
        raise ValueError(f"{_WRONG} no tensors in {strange}")
    config = _config(state, resize, selection, scale)
    with torch.device("meta"):
        wanted = {_published(k): (k, v.shape) for k, v in ECDPNet(config).state_dict().items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"{_WRONG} missing {missing}, unexpected {extra}")
    if other := sorted(k for k, (_, shape) in wanted.items() if state[k].shape != shape):
        raise ValueError(f"{_WRONG} other shapes in {other}")
    return config, {ours: state[k] for k, (ours, _) in wanted.items()}


def _published(key: str) -> str:
    if key.startswith("encoder."):
        return _ENCODER + key.removeprefix("encoder.")
    key = re.sub(r"^middle\.", "mid.", key)
    for ours, theirs in _LAYERS:
        key = ours.sub(theirs, key)
    return _NETWORK + key


def _config(
    state: dict[str, Tensor], resize: str, selection: tuple[int, ...] | None, scale: int | None
) -> ECDPConfig:
    in_conv = _size(state, [(f"{_NETWORK}in_conv.network.{n}", 0) for n in ("weight", "bias")])
    first = f"{_NETWORK}time_in.0.weight"
    hidden = [(first, 0), (f"{_NETWORK}time_in.0.bias", 0), (f"{_NETWORK}time_in.2.bias", 0)]
    encoder_blocks = 1 + max((int(f[1]) for k in state if (f := _RRDB.fullmatch(k))), default=-1)
    rrdbs = [f"{_ENCODER}blocks.{i}.block{j}." for i in range(encoder_blocks) for j in (1, 2, 3)]
    firsts = [f"{_ENCODER}conv_first.{n}" for n in ("weight", "bias")]
    grown = [f"{rrdb}conv1.{n}" for rrdb in rrdbs for n in ("weight", "bias")]
    if selection is None and encoder_blocks and encoder_blocks not in SELECTIONS:
        raise ValueError(
            f"{encoder_blocks} encoder blocks are none of the paper's networks, which have "
            f"{', '.join(map(str, SELECTIONS))}: give the selection of those that are read"
        )
    channels, blocks = _levels(state)
    return ECDPConfig(
        in_conv=in_conv,
        channels=channels,
        blocks=blocks,
        time_channels=_size(state, [(first, 1)]),
        time_hidden=_size(state, hidden),
        encoder_features=_size(state, [(key, 0) for key in firsts]),
        encoder_growth=_size(state, [(k, 0) for k in grown] or [(f"{_ENCODER}blocks.0", 0)]),
        encoder_blocks=encoder_blocks,
        encoder_selection=SELECTIONS[encoder_blocks] if selection is None else tuple(selection),
        scale=(8 if encoder_blocks == 8 else 4) if scale is None else scale,
        resize=resize,
    )


def _levels(state: dict[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and blocks per level, off the way down, whose levels end in a convolution."""
    modules: dict[int, set[str]] = {}
    for key in state:
        if found := _DOWN.fullmatch(key):
            modules.setdefault(int(found[1]), set()).add(found[2])
    levels: list[list[int]] = [[]]
    for index, names in sorted(modules.items()):
        if any(name.startswith("downconv.") for name in names):
            levels.append([])
            continue
        at = f"{_NETWORK}downs.{index}."
        levels[-1].append(
            _size(state, [(f"{at}{w}.{n}", 0) for w in _WIDTH for n in ("weight", "bias")])
        )
    if not all(levels):
        raise ValueError(f"{_WRONG} downs have widths {levels}, but every level needs blocks")
    return tuple(level[0] for level in levels), tuple(len(level) for level in levels)


def _size(state: dict[str, Tensor], places: list[tuple[str, int]]) -> int:
    """The first of these (key, dimension) that is there and not 0."""
    for key, dimension in places:
        value = state.get(key)
        if value is not None and value.ndim > dimension and value.shape[dimension]:
            return value.shape[dimension]
    raise ValueError(f"{_WRONG} missing {places[0][0]}")
