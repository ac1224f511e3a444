"""Everything that decides what a training run computes, in one frozen record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from upscale import methods
from upscale.errors import UsageError

SMALLEST = 48  # side that the feature networks of the quality loss need
CHOICES = {  # fields that are one of some names
    "scale_law": ("focus", "log", "uniform"),
    "target": ("auto", "residual", "picture"),
    "noise_law": ("logsnr", "process", "cosine"),
    "quality_gradient": ("direct", "adjoint"),
    "distill_kind": ("map", "progressive"),
    "crop": ("augmented", "patch", "square", "stretch"),
    "degradation": ("bicubic", "real"),
    "loss": ("l1", "l2"),
    "optimiser": ("adamw", "adam"),
    "schedule": ("cosine", "constant", "steps"),
}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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
    net: "compact", "compact-tiny", or one of the papers' networks (`Net.named`).
    parametrisation: what the network predicts, "" for the method's own (see `run.spec_of`).
    target: what is diffused, the picture or the residual (hr - lr_up) / std; "auto" is what
    `run.spec_of` says.
    std: of the residual; 0: estimated from the pictures when the run starts.
    noise_law: "logsnr" (ours), "process" (the paper's: SR3's piecewise-uniform one, ECDP's
    uniform time) or "cosine" (for ddpm).
    quality_loss_from: iteration from which the image quality loss replaces most of the score loss
    (0: never); quality_batch: examples sampled in an iteration of that stage. quality_cool: the
    temperature of their start noise is u ** quality_cool, u uniform in [0, 1]; 0: always 1.
    quality_gradient: "direct" through the last `quality_depth` of 1 to `quality_calls` calls, or
    "adjoint", through the whole probability flow solved to quality_tolerance, in constant memory.
    quality_score: weight of the score loss in that stage (the published code has 0 there).
    quality_adversarial: weight of what a discriminator says that learns beside (adversary.py).
    distill: weights (name or file) of a teacher, "" for none, see distill.py. distill_kind: "map",
    the whole way from noise to picture in few calls, or "progressive", rounds that halve its steps.
    distill_steps: the teacher's. distill_weight: against the score loss.
    crop: how a picture becomes an example, see crops.py. degradation: how the small picture is
    made, "bicubic" or "real" (degrade.py). second_order: share of the "real" ones that are degraded
    twice over. drawings: share of the examples that are lettering and line art, alone or on the
    picture's part (image/drawings.py). holdout: pictures, evenly spread, that are validated on and
    not trained on.
    loss: "l1" or "l2" between what the network predicts and what it should.
    antithetic: noise levels come in pairs u and 1 - u. accumulate: parts that a batch is computed
    in, one after the other; the result is the whole batch's. clip and clip_value: 0 is none.
    schedule: after the warm-up "cosine", "constant", or "steps": times `decay` at each of the
    `milestones`, shares of the run.
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
    target: str = "auto"
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
    quality_mesh: float = 0.0
    quality_adversarial: float = 0.0
    distill: str = ""
    distill_kind: str = "map"
    distill_steps: int = 8
    distill_weight: float = 1.0
    crop: str = "augmented"
    degradation: str = "bicubic"
    second_order: float = 1.0
    drawings: float = 0.0
    holdout: int = 0
    loss: str = "l1"
    antithetic: bool = False
    accumulate: int = 1
    optimiser: str = "adamw"
    beta2: float = 0.99
    clip_value: float = 0.0
    schedule: str = "cosine"
    milestones: str = "0.6,0.8"
    decay: float = 0.5

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
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                have = ", ".join(known)
                value = getattr(self, name)
                raise UsageError(f"{_flag(name)} {value!r}: there is none; choose from {have}")
        if self.whole and self.crop != "augmented":
            raise UsageError("--whole is an augmented crop: give it or --crop, not both")
        self._check_parts()
        self._check_distillation()
        self._check_unconditional()
        self.milestone_shares()

    def _check_parts(self) -> None:
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise UsageError(
                f"--accumulate {self.accumulate} does not divide --batch {self.batch} evenly"
            )
        if self.quality_loss_from and self.quality_batch % self.accumulate:
            raise UsageError(
                f"--accumulate {self.accumulate} does not divide --quality-batch "
                f"{self.quality_batch} evenly"
            )
        for name in ("second_order", "drawings"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{_flag(name)} is a share in 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.beta2 < 1:
            raise UsageError(f"--beta2 must be in 0 to 1, not {self.beta2}")

    def _check_distillation(self) -> None:
        if not self.distill:
            return
        if self.distill_steps < 2:
            raise UsageError("--distill-steps must be at least 2: nothing is saved otherwise")
        if self.progressive:
            if self.distill_steps & (self.distill_steps - 1):
                raise UsageError(
                    f"--distill-steps {self.distill_steps} cannot be halved down to 1: "
                    "progressive distillation takes 2, 4, 8, 16, ..."
                )
            if self.iterations < self.rounds:
                raise UsageError(f"{self.rounds} rounds need as many --iterations at least")
        elif self.quality_loss_from and self.quality_gradient == "adjoint":
            raise UsageError(
                "--distill-kind map trains few calls, --quality-gradient adjoint the whole flow: "
                "take --quality-gradient direct"
            )

    def _check_unconditional(self) -> None:
        """What needs an input, or its truth, is not for a network that has none."""
        if not methods.get(self.method).unconditional:
            return
        for name in ("quality_loss_from", "distill", "lr_side", "degradation"):
            if getattr(self, name) != getattr(TrainConfig, name):
                raise UsageError(
                    f"{_flag(name)} is for methods that enlarge a picture; --method "
                    f"{self.method} learns from noise alone: leave it out"
                )

    def milestone_shares(self) -> tuple[float, ...]:
        """`milestones` as numbers. UsageError."""
        try:
            return tuple(float(part) for part in self.milestones.split(",") if part.strip())
        except ValueError as error:
            raise UsageError(f"--milestones {self.milestones}: give shares as 0.6,0.8") from error

    @property
    def net_name(self) -> str:
        """`net`, or the method's own where it is the default."""
        return methods.get(self.method).net if self.net == TrainConfig.net else self.net

    @property
    def compact(self) -> bool:
        """Whether the network is ours, in any of its sizes, and not a paper's."""
        return self.net_name.startswith(TrainConfig.net)

    @property
    def progressive(self) -> bool:
        """Whether a teacher is distilled in rounds."""
        return bool(self.distill) and self.distill_kind == "progressive"

    @property
    def rounds(self) -> int:
        """Rounds of progressive distillation, down to one step."""
        return self.distill_steps.bit_length() - 1

    def round_of(self, iteration: int) -> int:
        """0 to rounds - 1; the rounds are equally long."""
        return min(iteration, self.iterations - 1) * self.rounds // self.iterations

    def round_bounds(self, iteration: int, end: int) -> tuple[int, int]:
        """First iteration of a round, and the one after its last, `end` at most."""
        first, after = (
            -(-k * self.iterations // self.rounds)
            for k in (self.round_of(iteration), self.round_of(iteration) + 1)
        )
        return first, min(after, end)

    def in_quality(self, iteration: int) -> bool:
        """Whether the iteration belongs to the stage of the image quality loss."""
        return bool(self.quality_loss_from) and iteration >= self.quality_loss_from

    def count(self, iteration: int) -> int:
        """Examples of an iteration, over all processes and parts."""
        return self.quality_batch if self.in_quality(iteration) else self.batch

    @property
    def images(self) -> int:
        """Examples of the whole run."""
        score = min(self.quality_loss_from or self.iterations, self.iterations)
        return score * self.batch + (self.iterations - score) * self.quality_batch

    def of_images(self, count: int) -> TrainConfig:
        """A copy with the fewest iterations that see `count` examples."""
        iterations = -(-count // self.batch)
        if self.quality_loss_from and iterations > self.quality_loss_from:
            left = count - self.quality_loss_from * self.batch
            iterations = self.quality_loss_from + -(-left // self.quality_batch)
        return replace(self, iterations=iterations)

    def to_dict(self) -> dict:
        return asdict(self)

    def differences(self, old: dict) -> list[str]:
        """Names of the fields that a stored record has otherwise; what it lacks is the default."""
        default = {f.name: f.default for f in fields(self)}
        return sorted(k for k, v in self.to_dict().items() if old.get(k, default[k]) != v)

    def with_(self, **changes: object) -> TrainConfig:
        """A copy with the given fields; names are checked."""
        known = {f.name for f in fields(self)}
        if extra := set(changes) - known:
            raise UsageError(f"unknown training setting: {', '.join(sorted(extra))}")
        return replace(self, **changes)
