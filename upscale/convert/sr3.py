"""State dicts of the published SR3 code (`*_gen.pth`) in this project's key names."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from upscale.convert.table import Settings
from upscale.nets.sr3 import SR3Net
from upscale.nets.unet import UNetConfig

# what the published GaussianDiffusion stores besides its network: recomputed here, never read
SCHEDULE_KEYS = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    }
)
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
    state = {k: v for k, v in state_dict.items() if k not in SCHEDULE_KEYS}
    if strange := sorted(str(k) for k, v in state.items() if not isinstance(v, Tensor)):
        raise ValueError(f"not a published SR3 network: no tensors in {strange}")
    config = _config(state, norm_groups, dropout)
    with torch.device("meta"):
        wanted = {_published(k): (k, v.shape) for k, v in SR3Net(config).state_dict().items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"not a published SR3 network: missing {missing}, unexpected {extra}")
    if other := sorted(k for k, (_, shape) in wanted.items() if state[k].shape != shape):
        raise ValueError(f"not a published SR3 network: other shapes in {other}")
    return config, {ours: state[k] for k, (ours, _) in wanted.items()}


def _published(key: str) -> str:
    for ours, theirs in _NAMES:
        key = key.replace(ours, theirs)
    return key


def _config(state: dict[str, Tensor], norm_groups: int, dropout: float) -> UNetConfig:
    """Read the sizes off the way down, whose levels end in a strided convolution."""
    modules: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if found := _DOWN.fullmatch(key):
            modules.setdefault(int(found[1]), {})[found[2]] = value
    inner = _outputs(modules.pop(0, {}), ("",), "denoise_fn.downs.0.weight")
    levels: list[list[tuple[int, bool]]] = [[]]
    for index, module in sorted(modules.items()):
        if any(name.startswith("conv.") for name in module):
            levels.append([])
            continue
        width = _outputs(module, _WIDTH, f"denoise_fn.downs.{index}.{_WIDTH[0]}.weight")
        levels[-1].append((width, any(name.startswith("attn.") for name in module)))
    if not all(levels) or any(level[0][0] % inner for level in levels):
        widths = [[width for width, _ in level] for level in levels]
        raise ValueError(
            f"not a published SR3 network: downs.1 and on have widths {widths}, level by level, "
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


def _outputs(module: dict[str, Tensor], layers: tuple[str, ...], wanted: str) -> int:
    """Output channels of the first of these layers that has a weight or a bias."""
    for layer in layers:
        for name in ("weight", "bias"):
            value = module.get(f"{layer}.{name}" if layer else name)
            if value is not None and value.ndim and value.shape[0]:
                return value.shape[0]
    raise ValueError(f"not a published SR3 network: missing {wanted}")
