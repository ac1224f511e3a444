"""THE table of recipes: what the papers say about training, one line for each (method, dataset).

A recipe is a set of TrainConfig's fields and a dataset; whatever it leaves out is the config's own
default, and everything can be overridden. Where a paper says nothing, `note` says what stands
there. Numbers from the papers' sections on training; ECDP's table of learning rates and sizes is
incomplete in the text that could be had, so that its released settings are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from upscale.errors import check_known
from upscale.train.catalogue import usual_settings


@dataclass(frozen=True)
class Recipe:
    """dataset: as `datasets.resolve` takes it; "" where the user's own is meant."""

    source: str
    dataset: str
    settings: Mapping[str, Any]
    note: str = ""


def _recipe(
    source: str, dataset: str, note: str, *bases: Mapping[str, Any], scale: float = 0, **own: Any
) -> Recipe:
    """bases: settings, of which a later one overrides an earlier and `own` all. scale: the one
    magnification; 0 for several."""
    fixed = dict.fromkeys(("scale_min", "scale_max", "scale_focus"), float(scale)) if scale else {}
    usual = usual_settings(dataset)  # also for a folder of the user's that is given in its place
    settings = {key: value for base in (usual, *bases, fixed, own) for key, value in base.items()}
    return Recipe(source, dataset, MappingProxyType(settings), note)


# SR3 section 4.2: Adam, batch 256, 1M steps, 10k warm-up, then a fixed rate
_SR3 = {
    "method": "sr3", "batch": 256, "iterations": 1_000_000, "optimiser": "adam", "beta2": 0.999,
    "warmup": 10_000, "learning_rate": 1e-4, "schedule": "constant", "clip": 0.0, "ema": 0.9999,
    "noise_law": "process", "loss": "l1",
}  # fmt: skip
_SR3_NOTE = "the norm of the loss and the average's decay are the published code's and DDPM's"
_REGRESSION = {**_SR3, "method": "regression", "learning_rate": 1e-5, "loss": "l2"}
# IDM section 4.1: Adam at 1e-4 for 1M iterations at the largest scale, then 2e-5 for 0.5M
_IDM = {
    "method": "idm", "batch": 128, "iterations": 1_000_000, "optimiser": "adam", "beta2": 0.999,
    "warmup": 1, "learning_rate": 1e-4, "schedule": "constant", "clip": 0.0, "ema": 0.9999,
    "noise_law": "process", "loss": "l1", "net": "idm-16-128",
}  # fmt: skip
_IDM_NOTE = "batch of the published code (4 x 32); the paper trained on two 24 GB GPUs"
_ANY = {"iterations": 500_000, "learning_rate": 2e-5, "scale_min": 1.0, "scale_law": "uniform"}
_ANY_NOTE = "second stage: --init the weights of the first; scales drawn between 1 and the largest"
# ECDP's released settings: 500 warm-up steps, halved at 60 % and 80 %
_ECDP = {
    "method": "ecdp", "optimiser": "adam", "beta2": 0.999, "warmup": 500, "learning_rate": 1e-4,
    "schedule": "steps", "milestones": "0.6,0.8", "clip": 0.0, "ema": 0.999,
    "noise_law": "process", "loss": "l2", "parametrisation": "hybrid", "std": 0.4,
}  # fmt: skip
_ECDP_NOTE = (
    "std 0.4 in [-1,1] is the published 1/5 in [0,1]; one learning rate, where the published code "
    "gives the encoder a tenth"
)
# section 3.4 and the released second stage: 1000 iterations of the quality loss alone, but for the
# first, which is of the score loss
_FINETUNE = {
    "warmup": 1, "learning_rate": 1e-5, "quality_loss_from": 1, "quality_batch": 12,
    "quality_learning_rate": 1e-5, "schedule": "constant", "iterations": 1000, "clip_value": 10.0,
    "quality_gradient": "adjoint", "quality_tolerance": 1e-3, "quality_cool": 0.0,
    "quality_score": 0.0, "quality_l1": 0.0, "quality_phase": 0.0, "quality_vgg": 0.0,
    "quality_alex": 0.0, "ema": 0.9,
}  # fmt: skip
_FINETUNE_NOTE = "second stage: --init the weights of the first"
# ours: the quality loss against LPIPS's two networks and against grids
_FINE = {
    "quality_loss_from": 1, "quality_learning_rate": 2.5e-4, "quality_l1": 5.0,
    "quality_vgg": 1.5, "quality_alex": 0.25, "quality_grid": 0.1,
}  # fmt: skip
# whole faces, more varied than the portraits are, mostly at 8x
_FACE = {
    "domain": "face", "whole": True, "patch": 128, "std": 0.24, "scale_focus": 8.0, "turn": 15.0,
    "zoom": 0.25, "colour": 0.5,
}  # fmt: skip
# faces from noise alone, as SR3's cascades begin
_DRAWN = {
    "domain": "face", "whole": True, "net": "ddpm-64", "learning_rate": 8e-4, "warmup": 100,
    "ema": 0.998, "seed": 5, "noise_law": "cosine", "loss": "l2",
}  # fmt: skip
# the compact ecdp's trunk as a regression, and ecdp from it: some iterations of the score loss,
# then the quality loss on larger parts of pictures
_TRUNK = {
    "net_options": "encoder=6,inject=1+3+5", "std": 0.1069, "learning_rate": 6e-4,
    "final_learning_rate": 5e-5, "iterations": 2900, "warmup": 50, "ema": 0.998, "seed": 71,
}  # fmt: skip
_REGRESSED = {
    "std": 0.1069, "patch": 128, "batch": 9, "learning_rate": 5e-4, "iterations": 1400,
    "warmup": 30, "ema": 0.997, "seed": 81, "quality_loss_from": 100, "quality_batch": 5,
    "quality_learning_rate": 4e-4, "quality_l1": 3.0, "quality_vgg": 2.0, "quality_alex": 0.6,
    "quality_grid": 0.15, "quality_mesh": 1.5,
}  # fmt: skip
_REAL = {"degradation": "real", "second_order": 0.2}
_CONTINUOUS = "encoder=6,inject=1+3+5,hidden=64,encoder_blocks=3,encoder_features=24,branch=48"
# another method's network with the same trunk: nothing is learnt, only written down
_AS_IT_IS = {
    "std": 0.1069, "iterations": 1, "quality_loss_from": 1, "batch": 1, "learning_rate": 0.0,
    "final_learning_rate": 0.0,
}  # fmt: skip


def _sr3(dataset: str, note: str, *bases: Mapping[str, Any], **own: Any) -> Recipe:
    return _recipe("SR3 4.2", dataset, _SR3_NOTE + note, *bases, **own)


def _idm(dataset: str, note: str, *bases: Mapping[str, Any], **own: Any) -> Recipe:
    return _recipe("IDM 4.1", dataset, note, _IDM, *bases, **own)


def _ecdp(dataset: str, scale: float, **own: Any) -> Recipe:
    # the published code clips values at 10, of the gradient of a sum where ours is of a mean
    clip = 10 / (3 * own["patch"] ** 2)
    base = {**_ECDP, "net": f"ecdp-{dataset}", "clip_value": clip}
    return _recipe("ECDP 4.1, B", dataset, _ECDP_NOTE, base, scale=scale, **own)


def _ecdp_quality(dataset: str, scale: float, **own: Any) -> Recipe:
    base = {**_ECDP, **_FINETUNE, "net": f"ecdp-{dataset}"}
    return _recipe("ECDP 3.4", dataset, _FINETUNE_NOTE, base, scale=scale, **own)


def _ours(method: str, note: str, *bases: Mapping[str, Any], **own: Any) -> Recipe:
    """How bundled weights were made (docs/models), each from the ones before."""
    return _recipe("ours", "", note, {"method": method}, *bases, **own)


RECIPES: dict[str, Recipe] = {
    "sr3-ffhq-16-128": _sr3("ffhq", "", _SR3, net="sr3-16-128", patch=128, scale=8),
    "sr3-ffhq-64-512": _sr3("ffhq", "", _SR3, net="sr3-64-512", patch=512, scale=8),
    "sr3-imagenet-64-256": _sr3(
        "imagenet", "; the network is that for 64 -> 512", _SR3,
        net="sr3-64-512", patch=256, scale=4,
    ),
    "regression-ffhq-16-128": _sr3(
        "ffhq", "", _REGRESSION, net="sr3-16-128", patch=128, scale=8
    ),
    "regression-imagenet-64-256": _sr3(
        "imagenet", "", _REGRESSION, net="sr3-64-512", patch=256, scale=4
    ),
    "idm-ffhq-16-128": _idm("ffhq", _IDM_NOTE, patch=128, scale=8),
    "idm-ffhq-any": _idm(
        "ffhq", _ANY_NOTE, _ANY, patch=128, lr_side=16, scale_max=8.0, scale_focus=8.0
    ),
    "idm-df2k-4x": _idm(
        "df2k", _IDM_NOTE + "; 40 -> 160 patches", batch=64, patch=160, scale=4
    ),
    **{
        f"idm-lsun-{name}-16x": _idm(f"lsun-{name}", _IDM_NOTE, batch=64, patch=256, scale=16)
        for name in ("cats", "bedrooms", "towers")
    },
    "ecdp-df2k": _ecdp("df2k", 4, batch=16, patch=160, iterations=107_500),
    "ecdp-celeba": _ecdp("celeba", 8, batch=12, patch=160, iterations=100_000),
    "ecdp-imagenet": _ecdp(
        "imagenet", 4, learning_rate=2e-4, milestones="0.8,0.9", batch=6, patch=256,
        iterations=100_000,
    ),
    "ecdp-df2k-quality": _ecdp_quality(
        "df2k", 4, batch=16, patch=160, quality_features=0.5
    ),
    "ecdp-celeba-quality": _ecdp_quality(
        "celeba", 8, batch=12, patch=160, quality_features=1.0
    ),
    "ecdp-imagenet-quality": _ecdp_quality(
        "imagenet", 4, batch=6, quality_batch=6, patch=256, quality_features=0.5
    ),
    "sr3-photo": _ours("sr3", "", iterations=5600, quality_loss_from=4000),
    "sr3-photo-quality": _ours(
        "sr3", "--init the weights of sr3-photo",
        iterations=1060, warmup=50, ema=0.998, quality_loss_from=1,
    ),
    "ecdp-photo": _ours(
        "ecdp", "--init sr3-photo", scale=4,
        std=0.0, learning_rate=3e-4, iterations=1500, warmup=50, ema=0.998, quality_loss_from=200,
    ),
    "ecdp-photo-quality": _ours(
        "ecdp", "--init the weights of ecdp-photo", scale=4,
        std=0.1069, iterations=780, warmup=30, ema=0.998, seed=1, quality_loss_from=1,
        quality_learning_rate=1.8e-4, quality_l1=5.0, quality_vgg=1.5, quality_alex=0.25,
    ),
    "sr3-photo-student": _ours(
        "sr3", "--distill your own teacher: the default is bundled and takes few steps itself",
        _FINE, distill="sr3-photo", distill_steps=4, scale=4, std=0.0,
        net_options="encoder=6,inject=1+3+5",  # the teacher's
        iterations=1000, warmup=50, ema=0.998, learning_rate=2e-4,
    ),
    "ecdp-photo-grid": _ours(
        "ecdp", "--init the weights of ecdp-photo-quality", _FINE, scale=4,
        std=0.1069, iterations=720, warmup=30, ema=0.998, seed=21,
        quality_l1=4.0, quality_alex=0.5, quality_grid=0.2,
    ),
    "ecdp-photo-mesh": _ours(
        "ecdp", "--init the weights of ecdp-photo-grid", _FINE, scale=4,
        std=0.1069, iterations=320, warmup=20, ema=0.998, seed=41,
        quality_l1=4.0, quality_alex=0.4, quality_grid=0.2, quality_mesh=2.0,
    ),
    "regression-photo-ecdp": _ours(
        "regression", "--init the weights of ecdp-photo; the trunk that ecdp-photo-regressed needs",
        _TRUNK, scale=4,
    ),
    "ecdp-photo-regressed": _ours(
        "ecdp", "--init A,B: A of regression-photo-ecdp, B of ecdp-photo", _REGRESSED, scale=4
    ),
    "ecdp-photo-adversarial": _ours(
        "ecdp", "--init the weights of ecdp-photo-regressed", _REGRESSED, scale=4,
        iterations=2700, ema=0.998, seed=95, quality_loss_from=1, quality_adversarial=0.06,
    ),
    "ecdp-photo-drawings": _ours(
        "ecdp", "--init the folder of an ecdp-photo-adversarial run; drawings too",
        _REGRESSED, scale=4, iterations=3400, ema=0.998, seed=105, quality_loss_from=1,
        quality_adversarial=0.06, quality_score=0.0, drawings=0.15,
    ),
    "ecdp-photo-any": _ours(
        "ecdp", "--init ecdp-photo; every magnification, for idm-photo-any",
        _REGRESSED, iterations=2000, ema=0.998, seed=502, quality_loss_from=1,
        quality_adversarial=0.06, quality_score=0.0, quality_alex=0.8, quality_calls=10,
        quality_learning_rate=3e-4, final_learning_rate=1e-5, drawings=0.1,
    ),
    "idm-photo-any": _ours(
        "idm", "--init the weights of ecdp-photo-any: all that it has, as it is",
        _AS_IT_IS, net_options=_CONTINUOUS,
    ),
    "idm-photo-adversarial": _ours(
        "idm", "--init the weights of idm-photo-any; IDM's own layers learn, beside the others",
        _REGRESSED, net_options=_CONTINUOUS, iterations=900, ema=0.998, seed=504,
        quality_loss_from=1, quality_adversarial=0.06, quality_score=0.0, quality_alex=0.8,
        quality_learning_rate=3e-4, final_learning_rate=1e-5, drawings=0.1,
    ),
    "regression-photo-real": _ours(
        "regression", "--init ecdp-photo; the trunk that ecdp-photo-real-adversarial needs",
        _TRUNK, _REAL, scale=4, std=0.0, patch=128, iterations=3300, ema=0.999, seed=92,
    ),
    "ecdp-photo-real-adversarial": _ours(
        "ecdp", "--init A,B: A of regression-photo-real, B of ecdp-photo-real",
        _REGRESSED, _REAL, scale=4, std=0.1405, iterations=3000, ema=0.998, seed=94,
        quality_l1=2.0, quality_vgg=1.5, quality_alex=1.0, quality_grid=0.2,
        quality_adversarial=0.1,
    ),
    "ecdp-photo-real": _ours(
        "ecdp", "--init ecdp-photo; for pictures as the world makes them",
        _FINE, _REAL, scale=4, std=0.0, second_order=0.4, iterations=1300, warmup=40, ema=0.998,
        seed=11, quality_learning_rate=3e-4, quality_l1=4.0, quality_vgg=1.0, quality_alex=0.6,
    ),
    "ecdp-photo-real-mixed": _ours(
        "ecdp", "--init ecdp-photo-real, --dataset PAIRS,PHOTOS: a teacher's pairs and photographs",
        _REGRESSED, scale=4, std=0.1405, seed=301, ema=0.998, iterations=3900,
        net_options="encoder=6,inject=1+3+5,down=3+2+4,up=4+3", degradation="mixed",
        second_order=0.3, drawings=0.1, quality_loss_from=1, quality_score=0.0, quality_l1=2.0,
        quality_vgg=1.5, quality_alex=1.0, quality_grid=0.2, quality_adversarial=0.1,
    ),
    "regression-photo": _ours(
        "regression", "--init the weights of regression-photo-ecdp", _TRUNK,
        patch=128, learning_rate=5e-4, final_learning_rate=1e-5, iterations=1550, ema=0.996,
        seed=401,
    ),
    "regression-face-x8": _ours(
        "regression", "--init regression-photo, --dataset FACES,PHOTOS: the trunk of all for faces",
        _TRUNK, _FACE, iterations=2600, seed=701,
    ),
    "ecdp-face-x8": _ours(
        "ecdp", "--init the weights of regression-face-x8, --dataset as for it",
        _REGRESSED, _FACE, batch=16, iterations=1500, ema=0.998, seed=702, learning_rate=4e-4,
        quality_loss_from=400, quality_batch=6, quality_calls=10, quality_depth=1,
        quality_learning_rate=2.5e-4, final_learning_rate=1e-5, quality_alex=1.0,
        quality_score=0.5, quality_adversarial=0.05,
    ),
    "idm-photo": _ours(
        "idm", "--init the weights of sr3-photo", _FINE,
        scale_law="log", iterations=1200, warmup=60, ema=0.998, seed=2,
    ),
    "idm-face": _ours(
        "idm", "--init the weights of ecdp-face-x8; IDM's own layers learn, beside the others",
        _REGRESSED, _FACE, net_options=_CONTINUOUS, iterations=500, ema=0.997, seed=703,
        lr_side=16, lr_side_share=0.5, scale_law="uniform", quality_loss_from=1,
        quality_batch=6, quality_depth=1, quality_learning_rate=3e-4, final_learning_rate=1e-5,
        quality_alex=1.0, quality_score=0.0, quality_adversarial=0.08,
    ),
    "ddpm-face-16": _ours(
        "ddpm", "what `diffsr generate` starts from", _DRAWN, scale=1, net_options="patch=1",
        patch=16, batch=64, iterations=3200, turn=6.0, zoom=0.1, colour=0.15,
    ),
    "ddpm-face-64": _ours(
        "ddpm", "the same at SR3's size (4.7)", _DRAWN, scale=1, patch=64, batch=16,
        iterations=3000,
    ),
    "liif-photo": _ours(
        "liif", "", scale_law="uniform", patch=64, batch=16, iterations=1000, warmup=40, ema=0.997,
        learning_rate=1e-3, seed=4,
    ),
}  # fmt: skip


def settings_of(name: str) -> dict[str, Any]:
    """The fields that a recipe sets. Raises UsageError with the valid names."""
    check_known(name, RECIPES, "recipe")
    return dict(RECIPES[name].settings)
