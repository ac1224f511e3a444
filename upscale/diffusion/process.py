"""Noising laws and the noise levels at which a sampler calls the network.

Levels are given as sigma = sqrt((1 - alpha_bar) / alpha_bar), the noise-to-signal ratio: SR3 and
IDM noise in 2000 discrete steps, ECDP in continuous time, and a sampler needs to know neither.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from upscale.diffusion.table import SPACINGS, loaded

_MOST_STEPS = 100_000


def sigma_of(alpha_bar: Tensor) -> Tensor:
    """Noise-to-signal ratio of a cumulative signal power in (0, 1]."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


@dataclass(frozen=True)
class VPDiscrete:
    """SR3's and IDM's process: `steps` linear betas (published training table by default)."""

    steps: int = 2000
    beta_start: float = 1e-6
    beta_end: float = 1e-2

    def __post_init__(self) -> None:
        if not (type(self.steps) is int and 1 <= self.steps <= _MOST_STEPS):
            raise ValueError(f"no noising process has {self.steps} steps")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"no noising process: beta {self.beta_start} to {self.beta_end}")

    @cached_property
    def alpha_bar(self) -> Tensor:
        """Float64 (steps + 1,), from 1 (clean) down; entry t belongs to step t."""
        betas = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])

    @property
    def sigma_min(self) -> float:
        return float(sigma_of(self.alpha_bar[1]))

    @property
    def sigma_max(self) -> float:
        return float(sigma_of(self.alpha_bar[-1]))

    def rate(self, t: float) -> float:
        """Noising rate beta(t), -d log(alpha_bar) / dt, at process time t in [0, 1]."""
        low = min(int(t * self.steps), self.steps - 1)
        log_abar = self.alpha_bar.log()
        return float(log_abar[low] - log_abar[low + 1]) * self.steps

    def sigma_of_t(self, t: Tensor) -> Tensor:
        """Sigma at process time t in [0, 1], log alpha_bar interpolated between the steps."""
        position = t.double() * self.steps
        low = position.floor().clamp(0, self.steps - 1).long()
        log_abar = self.alpha_bar.log()
        value = log_abar[low] + (position - low) * (log_abar[low + 1] - log_abar[low])
        return torch.expm1(-value).sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """Inverse of `sigma_of_t`, clamped to [0, 1]."""
        value = -torch.log1p(sigma.double().square())
        log_abar = self.alpha_bar.log()
        high = torch.searchsorted(-log_abar, -value).clamp(1, self.steps)
        low = high - 1
        part = (value - log_abar[low]) / (log_abar[high] - log_abar[low])
        return ((low + part) / self.steps).clamp(0, 1)

    def sample_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Training law of SR3 section 2.5, per example, float64 (count,).

        t ~ U{1..T}, then alpha_bar ~ U(alpha_bar_t, alpha_bar_{t-1}).
        """
        t = torch.randint(1, self.steps + 1, (count,), generator=generator)
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return sigma_of(torch.lerp(self.alpha_bar[t], self.alpha_bar[t - 1], u))

    def sigma_at(self, u: Tensor) -> Tensor:
        """The training law's quantile at u in [0, 1], float64, rising with u."""
        position = u.double() * self.steps
        t = position.ceil().clamp(1, self.steps).long()
        part = t - position  # 1 at the step's clean end
        return sigma_of(torch.lerp(self.alpha_bar[t], self.alpha_bar[t - 1], part))


@dataclass(frozen=True)
class VPLinear:
    """ECDP's process in continuous time: the VP-SDE with beta(t) linear (Song et al. 2021).

    On the residual r = (hr - lr_up) / std it is ECDP's mean-reverting SDE (eq. 5, 9-11): mean and
    variance of the picture stay what they are while its detail turns to noise. Sampling ends at
    `t_end` (the published 0.1 of 300), where what is left of the noise is below an 8-bit step.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_end: float = 1 / 3000

    def __post_init__(self) -> None:
        if not (0 < self.beta_min < self.beta_max < math.inf and 0 < self.t_end < 1):
            raise ValueError(
                f"no noising process: beta {self.beta_min} to {self.beta_max}, end {self.t_end}"
            )

    def rate(self, t: float) -> float:
        """Noising rate beta(t) at process time t in [0, 1]."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    @property
    def sigma_min(self) -> float:
        return float(self.sigma_of_t(torch.tensor(self.t_end)))

    @property
    def sigma_max(self) -> float:
        return float(self.sigma_of_t(torch.tensor(1.0)))

    def sigma_of_t(self, t: Tensor) -> Tensor:
        """Sigma at process time t in [0, 1], float64; 0 at 0."""
        t = t.double()
        exponent = self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t.square()
        return torch.expm1(exponent).sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """Inverse of `sigma_of_t`: the positive root, in the form that keeps small ones exact."""
        exponent = torch.log1p(sigma.double().square())
        slope = self.beta_max - self.beta_min
        return 2 * exponent / (self.beta_min + (self.beta_min**2 + 2 * slope * exponent).sqrt())

    def sample_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Training law of ECDP: t ~ U(0, 1), float64 (count,)."""
        return self.sigma_of_t(torch.rand(count, generator=generator, dtype=torch.float64))

    def sigma_at(self, u: Tensor) -> Tensor:
        """The training law's quantile at u in [0, 1], float64, rising with u."""
        return self.sigma_of_t(u)


Process: TypeAlias = VPDiscrete | VPLinear
PROCESSES: dict[str, type[VPDiscrete] | type[VPLinear]] = {
    "vp-discrete": VPDiscrete,
    "vp-linear": VPLinear,
}


def describe(process: Process) -> dict[str, float | str]:
    """The values from which `process_from` makes the process again."""
    kind = next(name for name, law in PROCESSES.items() if type(process) is law)
    return {"kind": kind, **asdict(process)}


def process_from(values: dict) -> Process:
    """Inverse of `describe`; SR3's where no kind is given. KeyError, TypeError, ValueError."""
    values = dict(values)
    return PROCESSES[values.pop("kind", "vp-discrete")](**values)


@dataclass(frozen=True)
class LogSNRLaw:
    """A training law for compact networks: log-SNR = high - (high - low) * u ** power.

    It spends its examples evenly over the decades of noise that matter for few-step sampling, where
    SR3's law spends most of them on nearly pure noise. Only training uses it.
    """

    low: float = -6.0
    high: float = 10.0
    power: float = 0.7

    def sample_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Float64 (count,), stratified over the batch (antithetic in the limit)."""
        return self.sigma_at(_stratified(count, generator))

    def sigma_at(self, u: Tensor) -> Tensor:
        """The law's quantile at u in [0, 1], float64, rising with u."""
        return torch.exp(-0.5 * (self.high - (self.high - self.low) * u.double() ** self.power))


@dataclass(frozen=True)
class CosineLaw:
    """A training law uniform in the angle phi = atan(sigma), from clean to `sigma_max`: the cosine
    schedule (Nichol & Dhariwal 2021, eq. 17) in continuous time.

    It reaches the noise that sampling starts from, where a network without a condition settles what
    the whole picture has in common: its brightness and colour.
    """

    sigma_max: float

    def sample_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """Float64 (count,), stratified over the batch."""
        return self.sigma_at(_stratified(count, generator))

    def sigma_at(self, u: Tensor) -> Tensor:
        """The law's quantile at u in [0, 1], float64, rising with u."""
        return torch.tan(math.atan(self.sigma_max) * u.double())


def _stratified(count: int, generator: torch.Generator) -> Tensor:
    """Float64 (count,) in [0, 1): one in each of `count` equal intervals, in random order."""
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    return (torch.randperm(count, generator=generator) + offset) / count


def log_snr_grid(process: Process, steps: int) -> Tensor:
    """Levels uniform in log-SNR between the process's largest and smallest sigma."""
    return torch.exp(
        torch.linspace(
            math.log(process.sigma_max), math.log(process.sigma_min), steps, dtype=torch.float64
        )
    )


def phi_grid(process: Process, steps: int) -> Tensor:
    """Levels uniform in the angle phi = atan(sigma), in which DDIM rotates at constant speed."""
    top = math.atan(process.sigma_max)
    return torch.tan(top * torch.arange(steps, 0, -1, dtype=torch.float64) / steps)


def t_grid(process: Process, steps: int) -> Tensor:
    """Levels uniform in process time (a strided table)."""
    return process.sigma_of_t(torch.arange(steps, 0, -1, dtype=torch.float64) / steps)


def beta_grid(process: Process, steps: int) -> Tensor:
    """SR3's inference tables: `steps` linear betas, other than those of training.

    The paper searches the end points for each budget; here the first beta is the training table's,
    scaled to the step count, and the last one is solved so that the table starts from the same
    noise as training (a table that only has fewer entries starts with the picture still visible).
    """
    target = -math.log1p(process.sigma_max**2)
    first = min(process.rate(0.0) / steps, 0.01)

    def log_alpha_bar(last: float) -> Tensor:
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
        if steps == 1:
            betas = torch.tensor([last], dtype=torch.float64)
        return torch.cumsum(torch.log1p(-betas), 0)

    low, high = 0.0, 1.0 - 1e-12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float(log_alpha_bar(middle)[-1]) > target else (low, middle)
    return torch.expm1(-log_alpha_bar((low + high) / 2)).sqrt().flip(0)


def sigmas(process: Process, steps: int, spacing: str = "logsnr") -> Tensor:
    """Noise levels for `steps` sampler steps: float64 (steps + 1,), descending, the last is 0."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    grid = loaded(SPACINGS[spacing])(process, steps)
    return torch.cat([grid, torch.zeros(1, dtype=torch.float64)])
