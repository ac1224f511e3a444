"""Which weights a picture gets; each file is loaded once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch

from upscale import methods
from upscale.diffusion.denoiser import parametrisation as check
from upscale.errors import UsageError, WeightsError
from upscale.image.estimate import Degradation, estimate
from upscale.image.picture import Picture
from upscale.machine import available_memory
from upscale.model import Model, build, mean
from upscale.nets import winograd
from upscale.nets.net import Net
from upscale.pipeline.request import CONSISTENCY, Setup
from upscale.weights import choice, store

LEVELS = 4  # parts of 1 that the estimate's strength is rounded to: an album is treated alike


class Models:
    """The networks of one method, or of named weights, on a device; for several threads."""

    def __init__(
        self, setup: Setup, device: torch.device, on_bytes: store.OnBytes | None = None
    ) -> None:
        self.name, self.domain, self.device = setup.weights, setup.domain, device
        self.compile, self.input = setup.compile, setup.input
        self.fetching = {"offline": setup.offline, "on_bytes": on_bytes}
        name, method = self.name, setup.method
        self.method = method
        if name is not None:
            entry = store.find(name, **self.fetching)
            if entry.domain == "metric":
                raise UsageError(f"weights {name} are a metric's network: they enlarge no picture")
            if method is not None and method != entry.method:
                raise UsageError(f"weights {name} are for --method {entry.method}, not {method}")
            self.method = entry.method
        self.law = methods.enlarging(self.method or methods.preferred(self.domain)[0])
        self._loaded: dict[str, Model] = {}
        self._lock = threading.Lock()

    def taken_for(self, picture: Picture | None) -> tuple[str | None, Degradation | None]:
        """(clean or real, the estimate that says so): each picture by its file and its pixels,
        unless the user says which, or names a method or weights and so leaves nothing to choose."""
        if self.name is not None or self.law.kernel is not None:
            return None, None
        if self.input != "auto":
            return self.input, None
        if self.method is not None or picture is None:
            return None, None
        found = estimate(picture)
        return ("real" if found.real else "clean"), found

    def entry(
        self, scale: float, input: str | None = None, denoise: float | None = None
    ) -> store.Entry | None:
        """The weights for this scale, and for real input if there are any where it is wanted; None
        for methods without a network. denoise: the share of those for real input in a mix with
        those for clean. Raises UsageError where there are no such two."""
        if denoise is not None:
            return self._mixed(scale, denoise)
        if self.law.kernel is not None:
            return None
        if self.name is not None:
            return store.find(self.name, **self.fetching)
        return choice.choose(self._names, scale, self.domain, input or "clean")

    def share(self, scale: float, found: Degradation) -> float | None:
        """What `denoise` is by this estimate; None where there are no two weights to be mixed."""
        real = choice.choose(self._names, scale, self.domain, "real")
        return round(found.strength * LEVELS) / LEVELS if choice.pair_of(real) else None

    @property
    def _names(self) -> tuple[str, ...]:
        return methods.preferred(self.domain) if self.method is None else (self.method,)

    def _mixed(self, scale: float, denoise: float) -> store.Entry:
        pair, what = None, f"--method {self.method}"
        if self.law.kernel is None:
            if self.name is not None:
                known, what = store.find(self.name, **self.fetching), f"weights {self.name}"
            else:
                known = choice.choose(self._names, scale, self.domain, "real")
                what = what if self.method else f"--domain {self.domain}"
            pair = choice.pair_of(known)
        if pair is None:
            raise UsageError(
                f"--denoise needs weights for clean and for real input that can be mixed; {what} "
                "has none (`diffsr weights list` shows what there is)"
            )
        if denoise == 0 and self.name is None:
            return choice.choose(self._names, scale, self.domain)
        return choice.mixed(*pair, denoise)

    def model(self, entry: store.Entry) -> Model:
        """Raises WeightsError."""
        if entry.mix:
            clean, real = self.model(entry.mix.clean), self.model(entry.mix.real)
            return mean(clean, real, entry.mix.share)
        with self._lock:
            if entry.name not in self._loaded:
                model = build(*store.load(entry, **self.fetching))
                if (mode := model.consistency) not in CONSISTENCY:
                    raise WeightsError(
                        f"{entry.name}: these weights name no consistency: {mode!r:.80}"
                    )
                self.ready(model.net)
                self._loaded[entry.name] = model
            return self._loaded[entry.name]

    def ready(self, net: Net) -> Net:
        """On the device, laid out as it likes best, with what only inference allows where
        memory is plenty; the same network."""
        net.to(self.device).to(memory_format=net.layout)
        if self.compile:
            net.forward = compiled(net.forward)
            return net
        wide = net.wide and self.device.type == "cpu"
        if wide and winograd.extra_bytes(net) < available_memory(self.device) // 4:
            winograd.quicken(net)
        return net

    def law_at(self, scale: float) -> methods.Method:
        """How the weights for this scale sample unless asked for otherwise."""
        entry = self.entry(scale)
        return self.law if entry is None else self.model(entry).law

    def use_schedule(self, schedule: methods.Schedule, scale: float) -> None:
        """Sample so from now on at this scale, whatever the weights say."""
        entry = self.entry(scale)
        model = self.model(entry)
        self._loaded[entry.name] = replace(model, law=model.law.with_schedule(schedule))


def compiled(function: Callable) -> Callable:
    """`torch.compile` of it, at its first call. The code is kept on the disk by torch, so that the
    next process is quicker. Raises UsageError where it cannot be compiled."""
    fast = torch.compile(function)

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # after torch.compile it costs nothing

        try:
            return fast(*args, **named)
        except TorchDynamoException as error:
            first = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"the network cannot be compiled here ({first}): leave --compile out"
            ) from error

    return call


def read_as(model: Model, name: str | None) -> Model:
    """The model with its answers read in another way: the hybrid's heads one by one.

    Raises UsageError for a name that is none, or not for these weights.
    """
    if name is None or name == model.law.parametrisation:
        return model
    own = model.law.parametrisation
    if not (name.startswith("hybrid") and own.startswith("hybrid")):
        raise UsageError(
            f"--parametrisation {name}: these weights' network was trained for {own}"
            + (", and has one head" if not own.startswith("hybrid") else "; use hybrid...")
        )
    try:
        check(name)
    except ValueError as error:
        raise UsageError(f"--parametrisation: {error}") from error
    parts = tuple((read_as(part, name), share) for part, share in model.parts)
    return replace(model, law=replace(model.law, parametrisation=name), parts=parts)
