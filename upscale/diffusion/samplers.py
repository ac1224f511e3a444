"""Samplers: functions from (denoise, start state, noise levels) to a clean target.

All work on x = target + sigma * noise, so one code serves every process. `x` is the start state,
sigmas[0] times unit noise, (B,3,H,W); `sigmas` is float64, descending, ending in 0;
`on_step(i, n)` is called after each step. The step algebra is float64 scalars on float32 states.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from upscale.diffusion import denoiser
from upscale.diffusion.denoiser import Denoiser
from upscale.diffusion.process import Process

MOST_CALLS = 2000  # network calls of an adaptive sampler in one run
Noise = Callable[[int], Tensor]
OnStep = Callable[[int, int], None]


def _quiet(step: int, steps: int) -> None:
    """A progress callback that does nothing."""


def _call(denoise: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    return denoise(x, sigma.to(x).expand(len(x)))


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise,
    on_step: OnStep = _quiet,
    variance: str = "beta",
) -> Tensor:
    """Ancestral sampling, SR3 Alg. 2 and Ho et al. 2020 Alg. 2, in sigma coordinates.

    `noise(i)` gives unit noise shaped like x for step i; the last step adds none. `variance` is
    "beta" (1 - alpha_t, SR3's paper) or "posterior" (beta-tilde, the community's code).
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        now, after = sigmas[i], sigmas[i + 1]
        keep = (after / now) ** 2
        x = torch.lerp(_call(denoise, x, now), x, float(keep))
        if after > 0:
            added = after * (1 - keep).sqrt()  # posterior: standard deviation in sigma coordinates
            if variance == "beta":  # beta_t / alpha_bar_{t-1} instead of beta-tilde / the same
                added = (now**2 - after**2).sqrt() / (1 + now**2).sqrt() * (1 + after**2).sqrt()
            x = x + float(added) * noise(i)
        on_step(i + 1, steps)
    return x


def ddim(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """DDIM with eta 0 (Song et al. 2021, eq. 12) = Euler's method in sigma; first order."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x = torch.lerp(_call(denoise, x, sigmas[i]), x, float(sigmas[i + 1] / sigmas[i]))
        on_step(i + 1, steps)
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """Heun's method on the probability flow (Karras et al. 2022, Alg. 1 without churn).

    Second order; two network calls a step, one in the last.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        now, after = sigmas[i], sigmas[i + 1]
        slope = (x - _call(denoise, x, now)) / float(now)
        guess = x + float(after - now) * slope
        if after > 0:
            slope = (slope + (guess - _call(denoise, guess, after)) / float(after)) / 2
            guess = x + float(after - now) * slope
        x = guess
        on_step(i + 1, steps)
    return x


def dpmpp2m(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, Alg. 2; second order, one call a step."""
    steps = len(sigmas) - 1
    before: Tensor | None = None
    for i in range(steps):
        now, after = sigmas[i], sigmas[i + 1]
        denoised = _call(denoise, x, now)
        ahead = denoised
        if before is not None and after > 0:
            ratio = (sigmas[i - 1] / now).log() / (now / after).log()
            ahead = torch.lerp(before, denoised, float(1 + 0.5 / ratio))
        x = torch.lerp(ahead, x, float(after / now))
        before = denoised
        on_step(i + 1, steps)
    return x


def once(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """One call at the highest noise level: the regression baselines."""
    x = _call(denoise, x, sigmas[0])
    on_step(1, 1)
    return x


def _velocity(denoise: Denoiser, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The variance-preserved state r and v = dr/dphi = cos(phi) eps - sin(phi) r0, where
    sigma = tan(phi). x is in sigma coordinates; sigma > 0."""
    cos = float(torch.rsqrt(1 + sigma**2))
    denoised = _call(denoise, x, sigma)
    return x * cos, torch.add(x, denoised, alpha=-float(1 + sigma**2)) * (cos / float(sigma))


def _angle(sigma: Tensor) -> float:
    return math.atan(float(sigma))


def midpoint(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """The midpoint method on ECDP's probability flow as a rotation, dr/dphi = v.

    Second order; two calls a step. The chord 2 sin(h/2) in the place of the arc h makes the step
    exact where the network's two outputs do not change, whatever the number of steps.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        start, end = _angle(sigmas[i]), _angle(sigmas[i + 1])
        half = (start - end) / 2
        r, v = _velocity(denoise, x, sigmas[i])
        middle = r * math.cos(half) - v * math.sin(half)
        between = sigmas.new_tensor(math.tan(start - half))
        v = _velocity(denoise, middle / math.cos(start - half), between)[1]
        x = (r - v * (2 * math.sin(half))) / math.cos(end)
        on_step(i + 1, steps)
    return x


def heun_phi(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """Heun's method on the rotation dr/dphi = v; the last step is a plain rotation.

    Second order; two calls a step, one in the last. tan(h/2) in the place of h/2, as in `midpoint`.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        start, end = _angle(sigmas[i]), _angle(sigmas[i + 1])
        width = start - end
        r, v = _velocity(denoise, x, sigmas[i])
        rotated = r * math.cos(width) - v * math.sin(width)
        if sigmas[i + 1] > 0:
            v = v + _velocity(denoise, rotated / math.cos(end), sigmas[i + 1])[1]
            rotated = r - v * math.tan(width / 2)
        x = rotated / math.cos(end)
        on_step(i + 1, steps)
    return x


def rk45(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    process: Process,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    learnt: tuple[Tensor, ...] = (),
    on_step: OnStep = _quiet,
) -> Tensor:
    """ECDP's probability flow (eq. 12-13) by torchdiffeq's dopri5, in process time.

    It chooses its own steps. Only the first of `sigmas` is used, and their number, in which
    `on_step` reports the elapsed time. The tolerances apply to the unit-variance state r. It stops
    at the process's smallest noise, as published.

    learnt: tensors that get a gradient by the adjoint method, in memory that does not grow with the
    number of calls; without any, no gradient is computed. Raises FloatingPointError where the state
    is not finite or the tolerances cannot be met, ValueError for tolerances that are not positive.
    """
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"tolerances must be above 0, not rtol {rtol:g}, atol {atol:g}")
    from torchdiffeq import odeint, odeint_adjoint  # takes 0.2 s, and only this needs it

    steps = len(sigmas) - 1
    unmet = f"rtol {rtol:g}, atol {atol:g} cannot be met in {str(x.dtype)[6:]}"
    end = process.t_of_sigma(sigmas.new_tensor(process.sigma_min))
    # torchdiffeq wants the times where the state is, and they need float64
    home = torch.device("cpu") if x.device.type in denoiser.WITHOUT_FLOAT64 else x.device
    times = torch.stack([process.t_of_sigma(sigmas[0]), end]).to(home)
    calls = 0

    def slope(t: Tensor, r: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > MOST_CALLS:  # torchdiffeq's own limit, a vanishing step, takes hours
            raise FloatingPointError(
                f"rtol {rtol:g}, atol {atol:g} are not met within {MOST_CALLS} network calls"
            )
        # torchdiffeq's search for a first step may leave the interval
        t = t.detach().clamp(times[1], times[0])
        if t.isnan():  # the same search, with extreme tolerances
            raise FloatingPointError(unmet)
        sigma = process.sigma_of_t(t)
        here = r.to(x.device)
        v = _velocity(denoise, here * float((1 + sigma**2).sqrt()), sigma)[1].to(home)
        if not torch.isfinite(v).all():
            raise FloatingPointError(f"the flow is not finite at time {float(t):.4f}")
        # dr/dt = dphi/dt v, and dphi/dt = d log(1 + sigma^2)/dt / (2 sigma)
        return v * (process.rate(float(t)) / (2 * float(sigma)))

    def accepted(t: Tensor, r: Tensor, step: Tensor) -> None:
        on_step(int(steps * (1 - float(t - step))), steps)

    slope.callback_accept_step = accepted  # for torchdiffeq; `slope`'s own times go both ways
    r = (x / float((1 + sigmas[0] ** 2).sqrt())).to(home)
    # no step goes past the end: sigma would be the root of a negative number there
    settings = {"rtol": rtol, "atol": atol, "method": "dopri5", "options": {"jump_t": times[1:]}}
    try:
        if learnt:
            r = odeint_adjoint(slope, r, times, adjoint_params=learnt, **settings)[1]
        else:
            with torch.no_grad():
                r = odeint(slope, r, times, **settings)[1]
    except AssertionError as error:  # what torchdiffeq raises where its step became too small
        raise FloatingPointError(f"{unmet} ({error})") from error
    on_step(steps, steps)
    return r.to(x.device) * math.sqrt(1 + process.sigma_min**2)
