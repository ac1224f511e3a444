"""An opponent that tells finished pictures from true ones, by features that are there anyway.

What L1 and LPIPS cannot ask for: where the truth cannot be known, the likeliest picture is smooth,
and a texture that is wrong in its place costs both of them more than none. An opponent only asks
whether the texture looks true (Goodfellow et al. 2014; in super-resolution SRGAN, Ledig et al.
2017). Ours judges the frozen features that LPIPS has computed of both pictures, each level by a
small head of its own (Sauer et al. 2021), which learns fast and costs little beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from upscale.metrics.perceptual import unit
from upscale.train.chance import Chance, normal
from upscale.train.checkpoint import moments, set_moments, under
from upscale.weights.file import DISCRIMINATOR

# channels of the trunks' levels (`metrics.perceptual`) but the first
WIDTHS = {"vgg": (128, 256, 512, 512), "alex": (192, 384, 256, 256)}
WIDTH = 64  # of a head
NOISE, SMOOTH = 0.1, 0.1  # of the smoothness term: deviation of the features' noise, and weight
BETAS = (0.0, 0.99)  # Adam's: two opponents in turns have no use for momentum


class Discriminator(nn.Module):
    """One small head per level: features (B,C,h,w) -> how true each place looks, (B,1,h,w)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, WIDTH, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(WIDTH, 1, 1, bias=False),  # only differences count
            )
            for channels in widths
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [head(f).float() for head, f in zip(self.heads, features, strict=True)]


class Adversary:
    """A discriminator with its optimiser, and both sides' losses.

    Both are relativistic and paired (Jolicoeur-Martineau 2019): the discriminator wants the truth
    to look truer than the network's picture of the same place, the network the opposite. widths:
    channels of the levels but the first. seed: of its first weights. mean: over the processes of a
    run.
    """

    def __init__(
        self,
        widths: Sequence[int],
        seed: int,
        device: torch.device | str = "cpu",
        mean: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = Discriminator(widths).to(device).to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), betas=BETAS, weight_decay=0.0)
        self.mean = mean

    def loss(self, made: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
        """What the network pays, per example (B,); gradients reach `made` alone.

        made, true: features of each level, (B,C,h,w).
        """
        frozen = {k: v.detach() for k, v in self.net.named_parameters()}
        answers = functional_call(self.net, frozen, (_levels(made),))
        with torch.no_grad():
            wanted = self.net(_levels(true))
        return _each(F.softplus(t - m) for m, t in zip(answers, wanted, strict=True))

    def learn(
        self, made: Sequence[Tensor], true: Sequence[Tensor], chance: torch.Generator | Chance
    ) -> None:
        """Add the gradients of the discriminator's own loss to those that `step` will use.

        Its answer must be smooth: noise on the true features may not change it, which does for a
        gradient penalty without second derivatives.
        """
        made, true = (_levels([f.detach() for f in side]) for side in (made, true))
        mine, theirs = self.net(made), self.net(true)
        moved = self.net([f + NOISE * normal(f.shape, chance).to(f) for f in true])
        wrong = _each(F.softplus(m - t) for m, t in zip(mine, theirs, strict=True))
        rough = _each((a - b).square() for a, b in zip(theirs, moved, strict=True))
        (wrong + SMOOTH / NOISE**2 * rough).mean().backward()

    def step(self, rate: float, parts: int = 1) -> None:
        """Move the discriminator by what it has learnt, in so many `parts`, since the last step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(self.mean(parameter.grad) / parts)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def pack(self) -> dict[str, Tensor]:
        """Its state for a checkpoint."""
        state = {f"adversary.net.{k}": v for k, v in self.net.state_dict().items()}
        state |= moments(self.optimiser, "adversary.opt.")
        return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}

    def unpack(self, state: dict[str, Tensor]) -> None:
        """Inverse of `pack`, in place; KeyError or RuntimeError where the shapes are others."""
        self.begin(under("adversary.net.", state))
        set_moments(self.optimiser, under("adversary.opt.", state))

    def begin(self, state: dict[str, Tensor]) -> None:
        """Go on from what another has learnt; RuntimeError where its levels are others."""
        self.net.load_state_dict(state)

    def weights(self) -> dict[str, Tensor]:
        """What it has learnt, as it stands in a file beside the network's weights."""
        return {f"{DISCRIMINATOR}{k}": v.cpu() for k, v in self.net.state_dict().items()}


def _levels(features: Sequence[Tensor]) -> list[Tensor]:
    """The levels that are judged, of unit variance: all but the first, which is as large as the
    picture and as dear as all others together."""
    return [unit(f, f.shape[1] ** 0.5) for f in features[1:]]


def _each(maps: Iterable[Tensor]) -> Tensor:
    """Maps (B,1,h,w) of several levels -> their mean, (B,)."""
    return torch.stack([m.mean((1, 2, 3)) for m in maps]).mean(0)
