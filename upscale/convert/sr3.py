"""State dicts of the published SR3 code (`*_gen.pth`) in this project's key names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from upscale.convert.keys import Published
from upscale.convert.table import Hints
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
_WIDTH = tuple(
    f"res_block.{layer}" for layer in ("block2.block.3", "block1.block.3", "block2.block.0")
)


def converted(
    state: dict[str, Tensor], settings: Hints
) -> tuple[SR3Net, dict[str, Tensor], dict[str, Any]]:
    """(network, its state, metadata) of a published checkpoint; the tensors are not copied.

    Widths, depths and attention are read off the shapes; the number of groups (32, or 16 in the
    64 -> 512 config) leaves no trace in a file. ValueError names, as the file does, every key that
    is missing, unknown or of another shape than the rest implies.
    """
    published = Published("SR3", state, SCHEDULE_KEYS)
    config = unet_config(published, settings.norm_groups)
    state = published.named(SR3Net, config, published_key)
    return SR3Net(config), state, {"scales": [settings.scale or 8.0], "std": None}


def published_key(key: str) -> str:
    """The published name of one of our keys."""
    for ours, theirs in _NAMES:
        key = key.replace(ours, theirs)
    return key


def unet_config(published: Published, norm_groups: int) -> UNetConfig:
    """Read the sizes off the way down, whose levels end in a strided convolution."""
    inner = published.size(["denoise_fn.downs.0."])
    if norm_groups and inner % norm_groups:
        most = min(32, inner & -inner)  # their configs have powers of two
        raise ValueError(
            f"--norm-groups {norm_groups} does not divide its {inner} channels: take the "
            f"norm_groups of its config, such as --norm-groups {most}"
        )
    levels = published.levels("denoise_fn.downs", "conv", _WIDTH, first=1)
    looking = [any("attn." in name for _, names in level for name in names) for level in levels]
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
        attention=tuple(i for i, looks in enumerate(looking) if looks),
        groups=norm_groups,
        noise_gain=1.0,
        biggan=False,
        scale_shift=False,
    )
