"""The network of a run: which one, in which sizes, and from which weights it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upscale import methods
from upscale.errors import UsageError
from upscale.nets.compact import HEAD, CompactConfig, CompactNet, at_stem, placed, second_head
from upscale.nets.compact_idm import CompactIDM
from upscale.nets.net import Config, Net
from upscale.train.config import TrainConfig
from upscale.weights import store

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# how a value of a configuration is read, where its type does not do it
_READ = {
    bool: lambda text: _BOOLS[text.lower()],
    tuple: lambda text: tuple(map(int, text.split("+"))),
}
_WANTED = {
    bool: "true or false", int: "a whole number", float: "a number",
    tuple: "numbers with + between",
}  # fmt: skip
_BLOCKS = ("enc.", "down.", "up.")  # residual blocks
_MAY_GROW = (*_BLOCKS, "inject.")  # and what they receive


def make_net(config: TrainConfig, sizes: Config | None = None) -> Net:
    """The network of a run with fresh weights; `sizes` for our own instead of its usual ones.
    UsageError."""
    network = methods.network_named(config.net_name, config.method)
    if network.one_scale and config.scale_min < config.scale_max and not config.compact:
        raise UsageError(
            f"network {config.net} is for one magnification: "
            "give --scale-min and --scale-max one value"
        )
    if config.compact and isinstance(sizes, network.config_type):
        sizes = methods.adjusted(sizes, config.method)
    else:
        sizes = network.sizes(config.net_name, config.domain, config.scale_max)
        sizes = methods.adjusted(sizes, config.method, config.net_name)
    net = network(sizes)
    # each change draws the weights anew, so that a seed gives what it always gave
    try:
        fitted = net.config.fitted(config.scale_max)
    except ValueError as error:
        what = f"--scale-max {config.scale_max:g} does not go with --method {config.method}"
        raise UsageError(f"{what}: {error}") from error
    if fitted is not net.config:
        net = network(fitted)
    if config.net_options:
        net = network(altered(net.config, config.net_options))
    return net


def altered(sizes: Config, text: str) -> Config:
    """A network's configuration with the fields that "name=value,name=value" gives; a field of
    several whole numbers takes them with + between, as in "inject=1+3+5". UsageError."""
    plain = {
        k: v for k, v in vars(sizes).items() if isinstance(v, bool | int | float | str | tuple)
    }
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in plain:
            raise UsageError(f"--net-options: no {name!r}; choose from {', '.join(plain)}")
        kind = type(plain[name])
        try:
            changes[name] = _READ.get(kind, kind)(value)
        except (KeyError, ValueError) as error:
            raise UsageError(f"--net-options {part}: not {_WANTED[kind]}") from error
    if "encoder" in changes and hasattr(sizes, "inject"):  # the blocks that are left
        left = tuple(i for i in sizes.inject if i < changes["encoder"])
        changes = {"inject": left} | changes
    try:
        return replace(sizes, **changes)
    except ValueError as error:
        raise UsageError(f"--net-options: {error}") from error


def start(net: Net, init: str) -> dict[str, Tensor]:
    """Fill a network from other weights: the same layout, or a sibling's. Returns the state of the
    discriminator that is in their file, {} if there is none. UsageError.

    init: weights (name, file or hf:...), or several with commas between: what the first has not the
    next gives. A diffusion network's for its regression twin: the convolution from the noise
    and the noise embedding are left out; and back: they start as if they were not there. At the
    strongest noise a velocity is the target's negative, so between the two the head changes its
    sign. One head's for both heads, the second (clean target) for one; CompactNet's trunk for
    IDM's, and for one of a smaller stem, whose last layer starts afresh. What the sibling has not
    (later blocks, injections) starts as if it were not there, so that a network may grow; blocks
    that are too many are left out.
    """
    state: dict[str, Tensor] = {}
    discriminator: dict[str, Tensor] = {}
    for name in reversed([init] if Path(init).exists() else init.split(",")):
        entry = store.find(name.strip())
        if entry.method == methods.foreign():
            raise UsageError(f"--init {name.strip()} is another program's network")
        given, description = store.load(entry)
        given = {k: v.float() for k, v in given.items()}
        if isinstance(net, CompactNet):
            theirs = description.get("architecture", {})
            trunk = theirs.get("kind") == CompactNet.kind
            given = placed(given, theirs, net.architecture())
            stem = theirs.get("stem", CompactConfig.stem)  # older files do not name it
            if trunk and stem > net.config.stem:
                given = at_stem(given, stem, net.config.stem)
            given = _fitted(net, given, state, trunk)
        state |= given
        discriminator = store.discriminator(entry) or discriminator
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"--init {init} has another layout: {unlike(net, state)}") from error
    return discriminator


def unlike(net: torch.nn.Module, state: dict[str, Tensor]) -> str:
    """What of a state is not a network's, in words: the first tensor of each kind, and how many
    more there are."""
    own = net.state_dict()
    shapes = {k: (tuple(v.shape), tuple(own[k].shape)) for k, v in state.items() if k in own}
    kinds = (
        [f"{k} is missing" for k in own if k not in state],
        [f"{k} has no place" for k in state if k not in own],
        [f"{k} has the shape {old}, not {new}" for k, (old, new) in shapes.items() if old != new],
    )
    return "; ".join(
        kind[0] + (f", and {len(kind) - 1:,} more" if kind[1:] else "") for kind in kinds if kind
    )


def _fitted(
    net: CompactNet, state: dict[str, Tensor], base: dict[str, Tensor], trunk: bool
) -> dict[str, Tensor]:
    """A sibling's state for this network; `base`: what is there for what the sibling has not.
    trunk: the sibling is a CompactNet, of which IDM takes the trunk alone."""
    ours = net.state_dict()
    noisy, inputs = net.config.noisy_input, net.stem.in_channels
    theirs = 3 * net.config.stem**2  # channels for the noisy picture, before the input's
    stem = state.get("stem.weight")
    if noisy and stem is not None and stem.shape[1] == inputs - theirs:  # a regression's
        nothing = {k: torch.zeros_like(v) for k, v in ours.items() if k.startswith("noise_mlp.2.")}
        first = {k: v for k, v in ours.items() if k.startswith("noise_mlp.0.")}
        zeros = torch.zeros_like(ours["stem.weight"])
        columns = base.get("stem.weight", zeros)[:, :theirs]
        # what a base has counts for more than a start at nothing
        kept = {k: base.get(k, v) for k, v in (nothing | first).items()}
        state = _turned(state) | kept | {"stem.weight": torch.cat([columns, stem], 1)}
    elif not noisy and stem is not None and stem.shape[1] == inputs + theirs:
        state = {k: v for k, v in state.items() if not k.startswith("noise_mlp")}
        state = _turned(state) | {"stem.weight": stem[:, theirs:]}
    if all(key in state and len(state[key]) == 2 * len(ours[key]) for key in HEAD):
        state = second_head(state)
    for key in HEAD:
        if key in state and 2 * len(state[key]) == len(ours[key]):
            state[key] = torch.cat([state[key]] * 2)
    if isinstance(net, CompactIDM):
        if trunk:  # what IDM has of its own starts afresh, at nothing
            same = {k: v for k, v in state.items() if k in ours and v.shape == ours[k].shape}
            state = ours | base | same
        return state
    fresh = {k: v for k, v in ours.items() if k.startswith(_MAY_GROW)}
    fresh |= {k: v for k, v in ours.items() if k.startswith("head") and k not in state}
    surplus = {k for k in state if k.startswith(_BLOCKS) and k not in ours}
    return fresh | base | {k: v for k, v in state.items() if k not in surplus}


def _turned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state with the head's sign changed."""
    return state | {key: -state[key] for key in HEAD if key in state}
