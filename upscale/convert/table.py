"""THE table of published checkpoints: whose they are by their keys, and what converts them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hints:
    """What leaves no trace in a published checkpoint; None: the published configuration's.

    norm_groups: of sr3 and idm (32; 16 in sr3's 64 -> 512). max_scale: of idm's training.
    selection, resize: of ecdp's encoder, see `convert.ecdp.converted`. scale: that it enlarges by.
    """

    method: str | None = None
    norm_groups: int = 32
    max_scale: float = 8.0
    selection: tuple[int, ...] | None = None
    resize: str = "antialias"
    scale: float | None = None
    domain: str | None = None
    licence: str | None = None
    sampler: str | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Published:
    """keys: how some of a checkpoint's keys begin; the last row that fits is the right one.
    convert: "module:function", (state, Hints) -> (network, its state, metadata). domain: what
    the pictures show. sampler: the published one, for the weights' defaults, where the weights were
    not tuned for few steps."""

    keys: tuple[str, ...]
    convert: str
    domain: str = "face"
    sampler: str = ""


PUBLISHED: dict[str, Published] = {
    "sr3": Published(("denoise_fn.",), "upscale.convert.sr3:converted", sampler="ddpm-posterior"),
    "idm": Published(("encoder.",), "upscale.convert.idm:converted"),
    "ecdp": Published(
        ("model.diffusion.", "model.lr_feats."), "upscale.convert.ecdp:converted", "photo", "rk45"
    ),
}
