"""SR3's network (Saharia et al., section 2.5): a U-Net on the enlarged input beside the noise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.unet import UNet, UNetConfig

_PUBLISHED = UNetConfig(noise_gain=1.0, biggan=False, scale_shift=False)
_TINY = UNetConfig(inner=16, mults=(1, 2), res_blocks=1, attention=(1,), groups=8)

# The published code's sizes (its configs 16_128 and 64_512; the paper's are in its Table 1, which
# its text leaves out), in its own form and with the paper's blocks. Attention stands where the
# nominal side is 16: level 3 of 128; 512 reaches 32 only, so there the middle alone has it.
CONFIGS: dict[str, UNetConfig] = {
    "sr3-16-128": UNetConfig(dropout=0.2),
    "sr3-64-512": UNetConfig(mults=(1, 2, 4, 8, 16), res_blocks=1, attention=(), groups=16),
    "sr3-16-128-published": replace(_PUBLISHED, dropout=0.2),
    "sr3-64-512-published": replace(
        _PUBLISHED, mults=(1, 2, 4, 8, 16), res_blocks=1, attention=(), groups=16
    ),
    # for trying things out: 0.2M parameters
    "sr3-tiny": _TINY,
    "sr3-tiny-published": replace(_TINY, noise_gain=1.0, biggan=False, scale_shift=False),
}


class SR3Net(nn.Module):
    """`encode(lr_up, scale) -> cond`, then `forward(x, cond, c_noise) -> raw` at every call."""

    kind = "sr3"  # its name in methods.NETS and in weights files
    wide = True  # hundreds of channels: see `winograd`
    # of the output, while a call runs in float32, at 64 inner channels (measured: peak memory)
    bytes_per_pixel = 5800
    cond_bytes_per_pixel = 12  # of the output: what `encode` keeps

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or CONFIGS["sr3-16-128"]
        self.align = 2 ** (len(self.config.mults) - 1)
        self.unet = UNet(self.config, 6 if self.config.noisy_input else 3)

    def encode(self, lr_up: Tensor, scale: Tensor, lr: Tensor | None = None) -> Tensor:
        """SR3 conditions on the enlarged input itself, (B,3,H,W) in [-1,1]; not on the scale."""
        return lr_up

    def forward(self, x: Tensor, cond: Tensor, c_noise: Tensor) -> Tensor:
        """Raw output (B,3,H,W) for the variance-preserved noisy picture x (B,3,H,W).

        c_noise (B,) is sqrt(alpha_bar). Any H, W >= 1: padded inside by repetition.
        """
        height, width = x.shape[-2:]
        h = torch.cat([cond, x], 1) if self.config.noisy_input else cond
        pad = (0, -width % self.align, 0, -height % self.align)
        h = F.pad(h, pad, mode="replicate") if any(pad) else h
        return self.unet(h, c_noise.to(x.dtype))[..., :height, :width]
