"""State dicts of the published IDM code (`*_gen.pth`) in this project's key names."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from upscale.convert.keys import Published
from upscale.convert.sr3 import SCHEDULE_KEYS, published_key, unet_config
from upscale.convert.table import Hints
from upscale.nets.idm import IDMConfig, IDMNet

# stored, and read by nothing: the published forward passes over them
_DEAD = re.compile(
    r"encoder\.(sub|add)_mean\..+|imnet\..+"
    r"|denoise_fn\.(final_(down1|down2|linear|styleconv)|condition_(shift|scale1|scale2)\.0)\..+"
    r"|denoise_fn\.ups\.\d+\.style\.(weight|modulated_conv\..+)"
)
_BODY = re.compile(r"encoder\.body\.(\d{1,4})\.(body\.)?.+")
_MLP = re.compile(r"denoise_fn\.ups\.\d+\.imnet\.0")


def converted(
    state: dict[str, Tensor], settings: Hints
) -> tuple[IDMNet, dict[str, Tensor], dict[str, Any]]:
    """(network, its state, metadata) of a published checkpoint.

    Sizes and attention are read off the shapes; the settings leave no trace in a file.
    What the published layers multiply at every call, equalised learning rates and the sqrt(2) of
    a leaky ReLU, is multiplied in once. ValueError names, as the file does, every key that is
    missing, unknown or of another shape than the rest implies.
    """
    published = Published("IDM", state, SCHEDULE_KEYS | {"ddim_c1"})
    config = _config(published, settings)
    # the published CNN goes one level deeper than what is read of it
    last = f"denoise_fn.conv_body_down.{len(config.unet.mults) - 1}."
    published.drop(lambda key: bool(_DEAD.fullmatch(key)) or key.startswith(last))
    with torch.device("meta"):
        net = IDMNet(config)
    state = published.named(IDMNet, config, lambda key: _published(key, net))
    state = {key: _folded(_published(key, net), value) for key, value in state.items()}
    scales = {"min": 1.0, "max": settings.max_scale}
    return IDMNet(config), state, {"scales": scales, "std": None}


def _config(published: Published, settings: Hints) -> IDMConfig:
    state = published.state
    blocks = [int(m[1]) + bool(m[2]) for k in state if (m := _BODY.fullmatch(k))]
    hidden = [v.shape[0] for k, v in state.items() if _MLP.match(k) and v.ndim]
    unet = unet_config(published, settings.norm_groups)
    try:
        return IDMConfig(
            unet=unet,
            encoder_blocks=max(blocks, default=0),
            encoder_features=published.size(["encoder.head.0."]),
            hidden=max(set(hidden), key=hidden.count, default=256),
            max_scale=settings.max_scale,
            published=True,
        )
    except ValueError as error:
        raise ValueError(f"{published.wrong} {error}") from error


def _published(key: str, net: IDMNet) -> str:
    """The published name of one of our keys."""
    head, _, rest = key.partition(".")
    number, _, name = rest.partition(".")
    if head == "encoder":
        key = key.replace(".head.", ".head.0.").replace(".blocks.", ".body.")
        key = key.replace(".last.", f".body.{net.config.encoder_blocks}.")
        return key.replace(".conv1.", ".body.0.").replace(".conv2.", ".body.2.")
    if head == "tail":
        return f"encoder.tail.0.{rest}"
    if head == "stem":
        return f"denoise_fn.conv_body_first.{'0' if rest == 'weight' else '1'}.{rest}"
    if head == "shrink":
        name = name.removeprefix("conv.")
        return f"denoise_fn.conv_body_down.{number}.{'1' if name == 'weight' else '2'}.{name}"
    if head == "project":
        return f"denoise_fn.condition_shift.{int(number) + 1}.0.{name}"
    if head in ("alpha1", "alpha2"):  # theirs count the other way: 1 is the U-Net's
        which = {"alpha1": "scale2", "alpha2": "scale1"}[head]
        return f"denoise_fn.condition_{which}.{int(number) + 1}.{name}"
    if head == "offset":
        return f"denoise_fn.ups.{net.sites[int(number)]}.style.activate.bias"
    return published_key(key).replace(".first.", ".imnet.0.").replace(".second.", ".imnet.1.")


def _folded(key: str, value: Tensor) -> Tensor:
    """A published parameter, times what is multiplied with it or with its output."""
    equalised = "conv_body" in key or "condition_shift" in key
    if equalised and value.ndim == 4:
        value = value / math.sqrt(value[0].numel())
    if "conv_body" in key:  # a leaky ReLU of 2x is twice that of x
        return value * math.sqrt(2)
    if key.endswith("imnet.0.weight"):  # reads an activation, and the offsets, which are none
        return torch.cat([value[:, :-2] * math.sqrt(2), value[:, -2:]], 1)
    return value
