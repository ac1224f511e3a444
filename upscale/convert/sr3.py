"""State dicts of the published SR3 code (`*_gen.pth`) in this project's key names."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from upscale.convert.keys import Published
from upscale.convert.table import Settings
from upscale.nets.sr3 import SR3Net
from upscale.nets.unet import UNetConfig

# what the published GaussianDiffusion stores besides its network: recomputed here, never read
SCHEDULE_KEYS = frozenset({
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
})  # fmt: skip
# (ours, published), applied in this order
_NAMES = (
    ("unet.embed.mlp.0.", "denoise_fn.noise_level_mlp.1."),
    ("unet.embed.mlp.2.", "denoise_fn.noise_level_mlp.3."),
    ("unet.out.0.", "denoise_fn.final_conv.block.0."),
    ("unet.out.2.", "denoise_fn.final_conv.block.3."),
    ("unet.middle.", "denoise_fn.mid."),
    ("unet.", "denoise_fn."),
    (".block.film.", ".res_block.noise_func.noise_func.0."),
    (".block.norm1.", ".res_block.block1.block.0."),
    (".block.conv1.", ".res_block.block1.block.3."),
    (".block.norm2.", ".res_block.block2.block.0."),
    (".block.conv2.", ".res_block.block2.block.3."),
    (".block.skip.", ".res_block.res_conv."),
    (".attention.", ".attn."),
)
_DOWN = re.compile(r"denoise_fn\.downs\.(\d{1,4})\.(.+)")
# any of these tells a block's width, so that one missing key is still named as the missing one
_WIDTH = tuple(f"res_block.block{b}.block.{i}" for b, i in [("2", "3"), ("1", "3"), ("2", "0")])


def converted(
    state: dict[str, Tensor], settings: Settings
) -> tuple[SR3Net, dict[str, Tensor], dict[str, Any]]:
    """(network, its state, metadata) of a published checkpoint. ValueError."""
    config, state = sr3_from_published(state, norm_groups=settings.norm_groups)
    return SR3Net(config), state, {"scales": [settings.scale or 8.0], "std": None}


def sr3_from_published(
    state_dict: dict[str, Tensor], *, norm_groups: int, dropout: float = 0.0
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """(config, state dict for SR3Net) of a published checkpoint; the tensors are not copied.

    Widths, depths and attention are read off the shapes; `norm_groups` (32, or 16 in the
    64 -> 512 config) and `dropout` leave no trace in a file. ValueError names, as the file does,
    every key that is missing, unknown or of another shape than the rest implies.
    """
    published = Published("SR3", state_dict, SCHEDULE_KEYS)
    config = unet_config(published, norm_groups, dropout)
    return config, published.named(SR3Net, config, published_key)


def published_key(key: str) -> str:
    """The published name of one of our keys."""
    for ours, theirs in _NAMES:
        key = key.replace(ours, theirs)
    return key


def unet_config(published: Published, norm_groups: int, dropout: float) -> UNetConfig:
    """Read the sizes off the way down, whose levels end in a strided convolution."""
    modules: dict[int, list[str]] = {}
    for key in published.state:
        if found := _DOWN.fullmatch(key):
            modules.setdefault(int(found[1]), []).append(found[2])
    modules.pop(0, None)
    inner = published.size(["denoise_fn.downs.0."])
    levels: list[list[tuple[int, bool]]] = [[]]
    for index, names in sorted(modules.items()):
        if any(name.startswith("conv.") for name in names):
            levels.append([])
            continue
        width = published.size(f"denoise_fn.downs.{index}.{layer}." for layer in _WIDTH)
        levels[-1].append((width, any(name.startswith("attn.") for name in names)))
    if not all(levels) or any(level[0][0] % inner for level in levels):
        widths = [[width for width, _ in level] for level in levels]
        raise ValueError(
            f"{published.wrong} downs.1 and on have widths {widths}, level by level, "
            f"but every level needs blocks, of a multiple of downs.0's {inner} channels"
        )
    return UNetConfig(
        inner=inner,
        mults=tuple(level[0][0] // inner for level in levels),
        res_blocks=max(len(level) for level in levels),
        attention=tuple(i for i, level in enumerate(levels) if any(looks for _, looks in level)),
        groups=norm_groups,
        dropout=dropout,
        noise_gain=1.0,
        biggan=False,
        scale_shift=False,
    )
