"""Everything that decides what a training run computes, in one frozen record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from upscale import methods
from upscale.errors import UsageError
from upscale.pipeline.request import asked, checked

SMALLEST = 48  # side that the feature networks of the quality loss need
# sections of the help page
_RUN, _PICTURES, _NETWORK, _LOSS = "Run", "Pictures", "Network", "Loss"
_OPTIMISER, _QUALITY, _DISTILLATION = "Optimiser", "Image quality loss", "Distillation"


def flag(name: str) -> str:
    """A setting's option."""
    return f"--{name.replace('_', '-')}"


def _numbers(option: str, text: str, example: str) -> tuple[float, ...]:
    """Numbers with commas between them; none of an empty text. UsageError."""
    try:
        return tuple(map(float, text.split(","))) if text.strip() else ()
    except ValueError as error:
        raise UsageError(f"{option} {text}: give shares as {example}") from error


def _set(group: str, default: Any, help: str, **known: Any) -> Any:
    """A field for which `diffsr train` has an option; known: other fields of `request.Asked`."""
    usual: dict[str, Any] = {"expert": True}
    if "choices" not in known:
        usual["metavar"] = {str: "NAME", int: "N", float: "FLOAT"}.get(type(default))
    if type(default) in (int, float):
        usual["least"] = 0
    return asked(default, help, group=group, **{**usual, **known})


@dataclass(frozen=True)
class TrainConfig:
    """A run is a function of this record and the pictures; resuming compares it field by field.

    What the texts for users leave to say: magnifications by the law "uniform" are s ~ U(scale_min,
    scale_max] (IDM eq. 10). whole: each picture is resized to patch * U(1, 1.15), then cropped.
    lr_side is IDM's protocol (16x16 faces). net: `Net.named` has the papers'; net_options are of
    the configurations in `nets/`. parametrisation, target: `run.spec_of` says what "" and "auto"
    are; the residual is (hr - lr_up) / std. noise_law: "logsnr" is ours, "process" the paper's
    (SR3's piecewise-uniform one, ECDP's uniform time), "cosine" for ddpm. In the published code of
    the quality loss, quality_score is 0; the adjoint solves the flow in constant memory.
    quality_adversarial: see adversary.py; distill: distill.py; crop: crops.py; degradation:
    degrade.py; drawings: drawings.py. holdout: pictures evenly spread over the list. mix: see
    `shares`.
    """

    # fmt: off
    method: str = _set(_RUN, "sr3", "What to train.", expert=False, metavar=None)
    domain: str = _set(_RUN, "photo", "What the pictures show.", expert=False, metavar=None)
    iterations: int = _set(_RUN, 10_000, "Length of the run.", least=1, expert=False)
    batch: int = _set(_RUN, 16, "Examples per iteration.", least=1, expert=False)
    accumulate: int = _set(_RUN, 1, "Compute each batch in this many parts, which takes less "
        "memory. The result is that of the whole batch.", least=1)
    seed: int = _set(_RUN, 0, "Seed of all random numbers in the run.")

    patch: int = _set(_PICTURES, 96, "Side of the training examples in pixels, a multiple of 16.")
    crop: str = _set(_PICTURES, "augmented", "How an example is cut from a picture: our way "
        "(augmented) or a paper's (docs/training.md).",
        choices=("augmented", "patch", "square", "stretch"))
    whole: bool = _set(_PICTURES, False, "Shrink whole pictures (aligned faces) to examples "
        "instead of cutting parts.")
    turn: float = _set(_PICTURES, 0.0, "With --crop augmented: turn examples by up to this many "
        "degrees either way. Past the edge they are mirrored.", most=180)
    zoom: float = _set(_PICTURES, 0.0, "With --crop augmented: make what examples show larger or "
        "smaller by up to this share.", most=1)
    colour: float = _set(_PICTURES, 0.0, "With --crop augmented: strength of random changes of "
        "colour, contrast and light.", most=1)
    scale_min: float = _set(_PICTURES, 1.0, "Smallest magnification that is learnt.")
    scale_max: float = _set(_PICTURES, 8.0, "Largest magnification that is learnt.")
    scale_focus: float = _set(_PICTURES, 4.0, "The magnification of half of the "
                              "examples, or the nearest to it that is learnt.")
    scale_law: str = _set(_PICTURES, "focus", "How magnifications are drawn: half of them at the "
        "focus and the rest log-uniformly (focus), all log-uniformly (log), or all uniformly as in "
        "IDM (uniform).", choices=("focus", "log", "uniform"))
    lr_side: int = _set(_PICTURES, 0, "Give all inputs this side, so that targets are as large as "
        "the magnification makes them; each batch has one magnification. 0: targets of --patch.")
    lr_side_share: float = _set(_PICTURES, 1.0, "Share of the batches that use --lr-side.", most=1)
    degradation: str = _set(_PICTURES, "bicubic", "How the low-resolution picture is made: bicubic "
        "as in the papers, with blur, noise and JPEG (real), or some of them bicubic, some as "
        "good cameras and web sites make them, and the rest real (mixed).",
        choices=("bicubic", "real", "mixed"))
    clean_share: float = _set(_PICTURES, 0.2, "With --degradation mixed: share of the examples "
        "that are bicubic.", most=1)
    mild_share: float = _set(_PICTURES, 0.5, "With --degradation mixed: share of the examples "
        "that look as good cameras and web sites make them.", most=1)
    second_order: float = _set(_PICTURES, 1.0, "With --degradation real or mixed: share of the "
        "real examples that are degraded twice. The others are degraded once, and less.", most=1)
    mix: str = _set(_PICTURES, "", "Shares of the examples that come from each of several "
        "datasets, as in 0.7,0.3. Default: equal shares.", metavar="SHARES")
    drawings: float = _set(_PICTURES, 0.0, "Share of the examples that show drawn lettering and "
        "line art.", most=1)
    holdout: int = _set(_PICTURES, 0, "Number of pictures that are kept for validation and not "
        "trained on.")

    net: str = _set(_NETWORK, "compact", "Network: compact, compact-tiny, or a paper's such as "
        "ecdp-df2k or sr3-16-128. The error for an unknown name lists them all.")
    net_options: str = _set(_NETWORK, "", "Other values for the network's configuration: "
        "NAME=VALUE,... with + between several numbers, as in encoder=6,inject=1+3+5. IDM's "
        "ablations are conditioning=encoder or input, upsampler=nearest or bilinear, and "
        "fixed_scale=8.")
    parametrisation: str = _set(_NETWORK, "", "What the network predicts: eps, x0 or v; for ecdp "
        "hybrid, hybrid:POWER, hybrid-eps or hybrid-x0. Default: the method's own.")
    target: str = _set(_NETWORK, "auto", "What is diffused: the picture, or its residual to the "
        "enlarged input. auto: the picture for SR3's and IDM's own networks, otherwise the "
        "residual.", choices=("auto", "residual", "picture"))
    std: float = _set(_NETWORK, 0.24, "Standard deviation by which the residual is divided. 0: "
        "measured at the start.")

    loss: str = _set(_LOSS, "l1", "Distance between the network's prediction and its target.",
        choices=("l1", "l2"))
    noise_law: str = _set(_LOSS, "logsnr", "How noise levels are drawn.",
        choices=("logsnr", "process", "cosine"))
    antithetic: bool = _set(_LOSS, False, "Draw noise levels in pairs, u and 1 - u.")

    learning_rate: float = _set(_OPTIMISER, 4e-4, "Highest step size of the optimiser.")
    warmup: int = _set(_OPTIMISER, 200, "Iterations over which the step size rises; a "
        "tenth of the run at most.")
    final_learning_rate: float = _set(_OPTIMISER, 2e-5, "Step size at the end of the run.")
    schedule: str = _set(_OPTIMISER, "cosine", "Course of the step size after the warm-up.",
        choices=("cosine", "constant", "steps"))
    milestones: str = _set(_OPTIMISER, "0.6,0.8", "Shares of the run at which --schedule steps "
        "lowers the step size.")
    decay: float = _set(_OPTIMISER, 0.5, "Factor by which it is then multiplied.")
    optimiser: str = _set(_OPTIMISER, "adamw", "Optimisation method.", choices=("adamw", "adam"))
    beta2: float = _set(_OPTIMISER, 0.99, "Decay rate of the optimiser's second moment.")
    weight_decay: float = _set(_OPTIMISER, 0.0, "Weight decay of AdamW.")
    clip: float = _set(_OPTIMISER, 1.0, "Largest norm of the gradient. 0: no limit.")
    clip_value: float = _set(_OPTIMISER, 0.0, "Largest absolute value in the gradient. 0: no "
        "limit.")
    ema: float = _set(_OPTIMISER, 0.999, "Decay of the moving average of the weights. The average "
        "is what is exported.")

    quality_loss_from: int = _set(_QUALITY, 0, "Iteration from which a loss on finished pictures "
        "is added. 0: never.")
    quality_batch: int = _set(_QUALITY, 8, "Examples per iteration in that stage.")
    quality_learning_rate: float = _set(_QUALITY, 2e-4, "Step size in that stage.")
    quality_calls: int = _set(_QUALITY, 4, "Largest number of network calls for a finished "
        "picture.", least=1)
    quality_cool: float = _set(_QUALITY, 2.0, "Start noise has temperature u^FLOAT, with u uniform "
        "in [0, 1]. 0: temperature 1 always.")
    quality_gradient: str = _set(_QUALITY, "direct", "How the gradient reaches the network: "
        "through the last calls (direct), or by the adjoint of the whole flow.",
        choices=("direct", "adjoint"))
    quality_depth: int = _set(_QUALITY, 2, "Number of calls that the direct gradient goes "
        "through.", least=1)
    quality_tolerance: float = _set(_QUALITY, 1e-2, "Tolerance of the flow that the adjoint "
        "solves.", above=0)
    quality_score: float = _set(_QUALITY, 1.0, "Weight of the score loss in that stage.")
    quality_l1: float = _set(_QUALITY, 10.0, "Weight of the L1 distance between pixels.")
    quality_vgg: float = _set(_QUALITY, 1.0, "Weight of LPIPS (vgg).")
    quality_alex: float = _set(_QUALITY, 0.5, "Weight of LPIPS (alex).")
    quality_features: float = _set(_QUALITY, 0.0, "Weight of the paper's own distance, L1 between "
        "the last features of VGG.")
    quality_phase: float = _set(_QUALITY, 1.0, "Weight of the penalty on a grid that is the same "
        "all over a picture.")
    quality_grid: float = _set(_QUALITY, 0.0, "Weight of the penalty on lines that ring at the "
        "grid's period.")
    quality_mesh: float = _set(_QUALITY, 0.0, "Weight of the penalty on single waves that stand "
        "out, such as fine hatching.")
    quality_adversarial: float = _set(_QUALITY, 0.0, "Weight of a discriminator that learns to "
        "distinguish the pictures from true ones by LPIPS features (of vgg where it is there, "
        "otherwise of alex).")

    distill: str = _set(_DISTILLATION, "", "Weights (a name, a file or hf:...) of the teacher of a "
        "few-step student. The student also starts from them, unless --init is given.",
        metavar="WEIGHTS")
    distill_kind: str = _set(_DISTILLATION, "map", "Learn the teacher's pictures in 1, 2 and 4 "
        "calls (map), or halve its steps in rounds (progressive).", choices=("map", "progressive"))
    distill_steps: int = _set(_DISTILLATION, 8, "Steps of the teacher; a power of two for "
        "--distill-kind progressive.")
    distill_weight: float = _set(_DISTILLATION, 1.0, "Weight of the distance to the teacher.")
    # fmt: on

    def __post_init__(self) -> None:
        checked(self)
        if wrong := next(self._wrong(), None):
            raise UsageError(wrong)
        self.milestone_shares()
        self.shares(self.mix.count(",") + 1)

    def _wrong(self) -> Iterator[str]:
        """What does not go together, and what to do about it."""
        if self.patch % 16:
            yield f"--patch must be a multiple of 16, not {self.patch}"
        if self.quality_loss_from and self.patch < SMALLEST:
            yield f"the quality loss's feature networks need a --patch of at least {SMALLEST}"
        if not 1 <= self.scale_min <= self.scale_max <= self.patch:
            scales = f"scales {self.scale_min} to {self.scale_max}"
            yield f"{scales} do not fit a patch of {self.patch}"
        if self.lr_side * self.scale_max > self.patch:
            targets = f"--lr-side {self.lr_side} at x{self.scale_max:g}"
            yield f"{targets} must not be larger than --patch {self.patch}"
        if self.whole and self.crop != "augmented":
            yield "--whole is an augmented crop: give it or --crop, not both"
        for name in ("turn", "zoom", "colour"):
            if getattr(self, name) and self.crop != "augmented":
                yield f"{flag(name)} is for --crop augmented: a paper's crop is left as it is"
        for name in ("batch", "quality_batch") if self.quality_loss_from else ("batch",):
            if (count := getattr(self, name)) % self.accumulate:
                yield f"--accumulate {self.accumulate} does not divide {flag(name)} {count} evenly"
        if self.clean_share + self.mild_share > 1:
            yield "--clean-share and --mild-share are more than 1 together"
        if self.beta2 >= 1:
            yield f"--beta2 must be in 0 to 1, not {self.beta2}"
        if self.distill:
            yield from self._wrong_distillation()
        if methods.get(self.method).unconditional:
            # what needs an input, or its truth, is not for a network that has none
            for name in ("quality_loss_from", "distill", "lr_side", "degradation"):
                if getattr(self, name) != getattr(TrainConfig, name):
                    yield (
                        f"{flag(name)} is for methods that enlarge a picture; --method "
                        f"{self.method} learns from noise alone: leave it out"
                    )

    def _wrong_distillation(self) -> Iterator[str]:
        if self.distill_steps < 2:
            yield "--distill-steps must be at least 2: nothing is saved otherwise"
        if self.progressive and self.distill_steps & (self.distill_steps - 1):
            yield (
                f"--distill-steps {self.distill_steps} cannot be halved down to 1: "
                "progressive distillation takes 2, 4, 8, 16, ..."
            )
        if self.progressive and self.iterations < self.rounds:
            yield f"{self.rounds} rounds need as many --iterations at least"
        through_flow = self.quality_loss_from and self.quality_gradient == "adjoint"
        if through_flow and not self.progressive:
            yield (
                "--distill-kind map trains few calls, --quality-gradient adjoint the whole flow: "
                "take --quality-gradient direct"
            )

    def milestone_shares(self) -> tuple[float, ...]:
        """`milestones` as numbers. UsageError."""
        return _numbers("--milestones", self.milestones, "0.6,0.8")

    def shares(self, count: int) -> tuple[float, ...]:
        """Of the examples, for each of `count` datasets; their sum is 1. UsageError."""
        shares = _numbers("--mix", self.mix, "0.7,0.3") or (1.0,) * count
        if len(shares) != count:
            raise UsageError(f"--mix {self.mix}: {len(shares)} shares for {count} of --dataset")
        if not (all(0 <= share < math.inf for share in shares) and sum(shares) > 0):
            raise UsageError(f"--mix {self.mix}: shares are numbers from 0 on, and not all 0")
        return tuple(share / sum(shares) for share in shares)

    @property
    def net_name(self) -> str:
        """`net`, or the method's own where it is the default."""
        return methods.get(self.method).net if self.net == TrainConfig.net else self.net

    @property
    def compact(self) -> bool:
        """Whether the network is ours, in any of its sizes, and not a paper's."""
        return self.net_name.startswith(TrainConfig.net)

    @property
    def focus(self) -> float:
        """`scale_focus` within the magnifications that are learnt."""
        return min(max(self.scale_focus, self.scale_min), self.scale_max)

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
