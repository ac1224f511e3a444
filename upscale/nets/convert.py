"""State dicts of the published SR3 code (`*_gen.pth`) in this project's key names."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .sr3 import SR3Net
from .unet import UNetConfig

_PREFIX = "denoise_fn."
# what the published GaussianDiffusion stores besides its network: recomputed here, never read
_SCHEDULE = re.compile(
    r"(betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_.*|posterior_.*|ddim_c1)$"
)
_RENAMED = [
    (r"\.res_block\.noise_func\.noise_func\.0\.", ".block.film."),
    (r"\.res_block\.block1\.block\.0\.", ".block.norm1."),
    (r"\.res_block\.block1\.block\.3\.", ".block.conv1."),
    (r"\.res_block\.block2\.block\.0\.", ".block.norm2."),
    (r"\.res_block\.block2\.block\.3\.", ".block.conv2."),
    (r"\.res_block\.res_conv\.", ".block.skip."),
    (r"\.attn\.", ".attention."),
    (r"^mid\.", "middle."),
    (r"^final_conv\.block\.0\.", "out.0."),
    (r"^final_conv\.block\.3\.", "out.2."),
    (r"^noise_level_mlp\.1\.", "embed.mlp.0."),
    (r"^noise_level_mlp\.3\.", "embed.mlp.2."),
]


def sr3_from_published(
    state: dict[str, Tensor], *, groups: int, dropout: float = 0.0
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """(config, state dict for SR3Net) of a published checkpoint.

    Widths, depths and attention are read off the shapes; `groups` (norm_groups: 32, or 16 in the
    64 -> 512 config) and `dropout` leave no trace in a file. ValueError names every key that is
    missing or unknown.
    """
    renamed = {}
    for key, value in state.items():
        if _SCHEDULE.match(key):
            continue
        name = key.removeprefix(_PREFIX)
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        renamed[f"unet.{name}" if key.startswith(_PREFIX) else key] = value
    config = _config(renamed, groups, dropout)
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in SR3Net(config).state_dict().items()}
    missing, extra = sorted(wanted.keys() - renamed.keys()), sorted(renamed.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"not a published SR3 network: missing {missing}, unexpected {extra}")
    if other := [k for k, shape in wanted.items() if renamed[k].shape != shape]:
        raise ValueError(f"not a published SR3 network: other shapes in {other}")
    return config, renamed


def _config(state: dict[str, Tensor], groups: int, dropout: float) -> UNetConfig:
    """Read the sizes off the way down: blocks end in conv2, levels end in a strided conv."""
    try:
        inner = state["unet.downs.0.weight"].shape[0]
    except KeyError:
        raise ValueError("not a published SR3 network: missing downs.0.weight") from None
    levels: list[list[tuple[int, bool]]] = [[]]
    index = 1
    while True:
        name = f"unet.downs.{index}"
        if f"{name}.conv.weight" in state:
            levels.append([])
        elif f"{name}.block.conv2.weight" in state:
            width = state[f"{name}.block.conv2.weight"].shape[0]
            levels[-1].append((width, f"{name}.attention.qkv.weight" in state))
        else:
            break
        index += 1
    if not all(levels):
        raise ValueError("not a published SR3 network: a level without blocks")
    return UNetConfig(
        inner=inner,
        mults=tuple(level[0][0] // inner for level in levels),
        res_blocks=len(levels[0]),
        attention=tuple(i for i, level in enumerate(levels) if level[0][1]),
        groups=groups,
        dropout=dropout,
        noise_gain=1.0,
        biggan=False,
        scale_shift=False,
    )
