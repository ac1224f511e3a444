"""The tables of samplers and spacings.

Functions are loaded at their first call, so that reading names and facts needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from upscale.diffusion.denoiser import Denoiser


@cache
def loaded(place: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Sampler:
    """A sampler and what its callers must know about it.

    function: the function, or its "module:name"; its arguments are in `diffusion.samplers`.
    calls: network calls for a number of steps; 0 where they are only known afterwards.
    stochastic: adds noise, so it takes `noise`. adaptive: chooses its own steps, so it takes
    `process`, `rtol` and `atol`. single: makes one call, whatever the steps.
    settings: arguments that the function always gets.
    """

    function: Callable[..., Tensor] | str
    calls: Callable[[int], int] = lambda steps: steps
    stochastic: bool = False
    adaptive: bool = False
    single: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stepped(self) -> bool:
        """Whether a number of steps can be asked for."""
        return not self.adaptive and not self.single

    def __call__(self, denoise: Denoiser, x: Tensor, sigmas: Tensor, **given: Any) -> Tensor:
        """Call the function with those of `noise`, `process`, `rtol` and `atol` that it takes, and
        with all other arguments that are given."""
        strange = set() if self.stochastic else {"noise"}
        strange |= set() if self.adaptive else {"process", "rtol", "atol"}
        own = {name: value for name, value in given.items() if name not in strange}
        function = loaded(self.function) if isinstance(self.function, str) else self.function
        return function(denoise, x, sigmas, **self.settings, **own)


_HOME = "upscale.diffusion.samplers"
SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(f"{_HOME}:ddpm", stochastic=True),
    "ddpm-posterior": Sampler(f"{_HOME}:ddpm", stochastic=True, settings={"variance": "posterior"}),
    "ddim": Sampler(f"{_HOME}:ddim"),
    "heun": Sampler(f"{_HOME}:heun", calls=lambda steps: 2 * steps - 1),
    "dpmpp2m": Sampler(f"{_HOME}:dpmpp2m"),
    "midpoint": Sampler(f"{_HOME}:midpoint", calls=lambda steps: 2 * steps),
    "heun-phi": Sampler(f"{_HOME}:heun_phi", calls=lambda steps: 2 * steps - 1),
    "rk45": Sampler(f"{_HOME}:rk45", calls=lambda steps: 0, adaptive=True),
    "once": Sampler(f"{_HOME}:once", calls=lambda steps: 1, single=True),
}

# how noise levels are spaced: functions (process, steps) -> sigmas without the final 0
SPACINGS: dict[str, str] = {
    "logsnr": "upscale.diffusion.process:log_snr_grid",
    "phi": "upscale.diffusion.process:phi_grid",
    "t": "upscale.diffusion.process:t_grid",
    "beta": "upscale.diffusion.process:beta_grid",
}
