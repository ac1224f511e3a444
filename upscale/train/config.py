"""Everything that decides what a training run computes, in one frozen record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from ..errors import UsageError

SMALLEST = 48  # side that the feature networks of the quality loss need
SCALE_LAWS = ("focus", "log", "uniform")


@dataclass(frozen=True)
class TrainConfig:
    """A run is a function of this record and the pictures; resuming compares it field by field.

    scale_min, scale_max: magnifications drawn log-uniformly; half of all examples are at
    `scale_focus`. scale_law "log": all of them log-uniformly; "uniform": s ~ U(scale_min,
    scale_max] (IDM eq. 10). whole: resize each picture to patch * U(1, 1.15) and crop (aligned
    faces) instead of cropping at its own size.
    lr_side: small inputs of this side, and targets of lr_side * s instead of `patch`, one s a batch
    (IDM's protocol: 16x16 faces); in lr_side_share of the batches. 0: never.
    net_options: "name=value,..." for the network's configuration (`nets/`), for ablations.
    net: "compact", or one of the papers' networks (`methods.PAPER_NETS`).
    parametrisation: what the network tells, "" for the method's own (see `run.spec_of`).
    std: of the residual (hr - lr_up); 0: estimated from the pictures when the run starts.
    noise_law: "logsnr" (ours) or "process" (the paper's: SR3's piecewise-uniform one, ECDP's
    uniform time).
    quality_loss_from: iteration from which the image quality loss replaces most of the score loss
    (0: never); quality_batch: examples sampled in an iteration of that stage. quality_cool: the
    temperature of their start noise is u ** quality_cool, u uniform in [0, 1]; 0: always 1.
    quality_gradient: "direct" through the last `quality_depth` of 1 to `quality_calls` calls, or
    "adjoint", through the whole probability flow solved to quality_tolerance, in constant memory.
    quality_score: weight of the score loss in that stage (the published code has 0 there).
    """

    method: str = "sr3"
    domain: str = "photo"
    patch: int = 96
    batch: int = 16
    iterations: int = 10_000
    learning_rate: float = 4e-4
    warmup: int = 200
    final_learning_rate: float = 2e-5
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    scale_min: float = 1.0
    scale_max: float = 8.0
    scale_focus: float = 4.0
    scale_law: str = "focus"
    lr_side: int = 0
    lr_side_share: float = 1.0
    whole: bool = False
    net: str = "compact"
    net_options: str = ""
    parametrisation: str = ""
    std: float = 0.24
    noise_law: str = "logsnr"
    quality_loss_from: int = 0
    quality_batch: int = 8
    quality_learning_rate: float = 2e-4
    quality_calls: int = 4
    quality_cool: float = 2.0
    quality_gradient: str = "direct"
    quality_depth: int = 2
    quality_tolerance: float = 1e-2
    quality_score: float = 1.0
    quality_l1: float = 10.0
    quality_vgg: float = 1.0
    quality_alex: float = 0.5
    quality_features: float = 0.0
    quality_phase: float = 1.0
    quality_grid: float = 0.0

    def __post_init__(self) -> None:
        if self.patch % 16:
            raise UsageError(f"--patch must be a multiple of 16, not {self.patch}")
        if self.quality_loss_from and self.patch < SMALLEST:
            raise UsageError(
                f"the quality loss's feature networks need a --patch of at least {SMALLEST}"
            )
        if not 1 <= self.scale_min <= self.scale_max <= self.patch:
            raise UsageError(
                f"scales {self.scale_min} to {self.scale_max} do not fit a patch of {self.patch}"
            )
        if self.scale_law not in SCALE_LAWS:
            raise UsageError(
                f"--scale-law {self.scale_law!r}: there is none; have {', '.join(SCALE_LAWS)}"
            )
        if self.lr_side * self.scale_max > self.patch or not 0 <= self.lr_side_share <= 1:
            raise UsageError(
                f"--lr-side {self.lr_side} at x{self.scale_max:g} must not be larger than --patch "
                f"{self.patch}, and --lr-side-share lies between 0 and 1"
            )
        if self.batch < 1 or self.iterations < 1:
            raise UsageError("--batch and --iterations must be at least 1")
        if min(self.quality_calls, self.quality_depth) < 1 or not self.quality_tolerance > 0:
            raise UsageError(
                "--quality-calls and --quality-depth must be at least 1, "
                "--quality-tolerance above 0"
            )

    def to_dict(self) -> dict:
        return asdict(self)

    def with_(self, **changes: object) -> TrainConfig:
        """A copy with the given fields; names are checked."""
        known = {f.name for f in fields(self)}
        if extra := set(changes) - known:
            raise UsageError(f"unknown training setting: {', '.join(sorted(extra))}")
        return replace(self, **changes)
