"""State dicts of the published ECDP code (`checkpoint.pt`) in this project's key names."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from upscale.convert.keys import Published
from upscale.convert.table import Hints
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
_RRDB = re.compile(re.escape(_ENCODER) + r"blocks\.(\d{1,4})\..+")
_WIDTH = ("conv1.network", "conv2.network", "norm2")


def converted(
    state: dict[str, Tensor], settings: Hints
) -> tuple[ECDPNet, dict[str, Tensor], dict[str, Any]]:
    """(network, its state, metadata) of a checkpoint's "model" or, better, "model_avg".

    The tensors are not copied. Widths and depths are read off the shapes. What leaves no trace in
    a file: `resize` (antialias: the weights were trained with torchvision 0.17 or later),
    `selection` of encoder blocks (default: the paper's, see SELECTIONS) and `scale` (default: 8
    for the paper's CelebA encoder of 8 blocks, else 4). UsageError for a scale that is not whole.

    ValueError names, as the file does, every key that is missing, unknown or of another shape than
    the rest implies.
    """
    scale = settings.scale
    if scale is not None and scale != int(scale):
        raise UsageError(f"ecdp's networks enlarge by a whole number, not by {scale:g}")
    published = Published("ECDP", state, SCHEDULE_KEYS)
    config = _config(published, settings)
    state = published.named(ECDPNet, config, _published)
    # r = 5 (x - mu) on [0, 1] is (x - mu) / 0.4 on [-1, 1]
    kernel = "bicubic" if settings.resize == "antialias" else "bicubic-plain"
    return ECDPNet(config), state, {"scales": [float(config.scale)], "std": 0.4, "kernel": kernel}


def _published(key: str) -> str:
    if key.startswith("encoder."):
        return _ENCODER + key.removeprefix("encoder.")
    key = re.sub(r"^middle\.", "mid.", key)
    for ours, theirs in _LAYERS:
        key = ours.sub(theirs, key)
    return _NETWORK + key


def _config(published: Published, settings: Hints) -> ECDPConfig:
    state, size = published.state, published.size
    time = f"{_NETWORK}time_in."
    encoder_blocks = 1 + max((int(f[1]) for k in state if (f := _RRDB.fullmatch(k))), default=-1)
    rrdbs = [f"{_ENCODER}blocks.{i}.block{j}." for i in range(encoder_blocks) for j in (1, 2, 3)]
    selection = settings.selection or SELECTIONS.get(encoder_blocks, ())
    if not selection and encoder_blocks:
        raise ValueError(
            f"{encoder_blocks} encoder blocks are none of the paper's networks, which have "
            f"{', '.join(map(str, SELECTIONS))}: give those that are read, the config's "
            "rrdb_block_selection, as in --selection 0,2"
        )
    if encoder_blocks and any(block >= encoder_blocks for block in selection):
        raise ValueError(
            f"--selection {','.join(map(str, selection))}: its encoder has {encoder_blocks} "
            f"blocks, 0 to {encoder_blocks - 1}"
        )
    levels = published.levels(f"{_NETWORK}downs", "downconv", _WIDTH)
    if not all(levels):
        widths = [[width for width, _ in level] for level in levels]
        raise ValueError(
            f"{published.wrong} downs have widths {widths}, but every level needs blocks"
        )
    return ECDPConfig(
        in_conv=size([f"{_NETWORK}in_conv.network."]),
        channels=tuple(level[0][0] for level in levels),
        blocks=tuple(map(len, levels)),
        time_channels=size([f"{time}0.weight"], 1),
        time_hidden=size([f"{time}0.", f"{time}2.bias"]),
        encoder_features=size([f"{_ENCODER}conv_first."]),
        encoder_growth=size([f"{rrdb}conv1." for rrdb in rrdbs] or [f"{_ENCODER}blocks.0"]),
        encoder_blocks=encoder_blocks,
        encoder_selection=tuple(selection),
        scale=int(settings.scale or (8 if encoder_blocks == 8 else 4)),
        resize=settings.resize,
    )
