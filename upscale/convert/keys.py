"""A published state dict against the network that it should fill: the same checks for all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from upscale.nets.net import Config, Net

State = dict[str, Tensor]


class Published:
    """The state dict of a published network, called `name` in errors.

    recomputed: keys of what the published code stores besides its network, which nobody reads.
    """

    def __init__(self, name: str, state: State, recomputed: Iterable[str]) -> None:
        """ValueError names what is no tensor."""
        self.wrong = f"not a published {name} network:"
        self.state = {k: v for k, v in state.items() if k not in recomputed}
        if strange := sorted(str(k) for k, v in self.state.items() if not isinstance(v, Tensor)):
            raise ValueError(f"{self.wrong} no tensors in {strange}")

    def drop(self, unread: Callable[[str], bool]) -> None:
        """Forget the keys that `unread` says the published code reads nothing of."""
        self.state = {key: value for key, value in self.state.items() if not unread(key)}

    def size(self, places: Iterable[str], dimension: int = 0) -> int:
        """The size of the first of these tensors that is there and not empty; of a place that ends
        in ".", its weight or bias. ValueError names the first."""
        keys = [f"{p}{n}" for p in places for n in (("weight", "bias") if p[-1:] == "." else ("",))]
        for key in keys:
            value = self.state.get(key)
            if value is not None and value.ndim > dimension and value.shape[dimension]:
                return value.shape[dimension]
        raise ValueError(f"{self.wrong} missing {keys[0]}")

    def levels(
        self, prefix: str, end: str, layers: Sequence[str], first: int = 0
    ) -> list[list[tuple[int, set[str]]]]:
        """What the way down consists of, PREFIX.INDEX from `first` on, level by level: of each
        block its width, which one of `layers` tells (so that one missing key is still named as the
        missing one), and the names of its tensors. A module with names in `end` ends a level.
        """
        modules: dict[int, set[str]] = {}
        for key in self.state:
            if found := re.fullmatch(rf"{re.escape(prefix)}\.(\d{{1,4}})\.(.+)", key):
                modules.setdefault(int(found[1]), set()).add(found[2])
        levels: list[list[tuple[int, set[str]]]] = [[]]
        for index, names in sorted(modules.items()):
            if any(name.startswith(f"{end}.") for name in names):
                levels.append([])
            elif index >= first:
                width = self.size(f"{prefix}.{index}.{layer}." for layer in layers)
                levels[-1].append((width, names))
        return levels

    def named(self, network: type[Net], config: Config, theirs: Callable[[str], str]) -> State:
        """The tensors, not copied, under this project's keys; `theirs` gives the published ones.

        ValueError names, as the file does, every key that is missing, unknown or of another shape
        than the rest implies.
        """
        with torch.device("meta"):
            wanted = {theirs(k): (k, v.shape) for k, v in network(config).state_dict().items()}
        missing = sorted(wanted.keys() - self.state.keys())
        extra = sorted(self.state.keys() - wanted.keys())
        if missing or extra:
            raise ValueError(f"{self.wrong} missing {missing}, unexpected {extra}")
        if other := sorted(k for k, (_, shape) in wanted.items() if self.state[k].shape != shape):
            raise ValueError(f"{self.wrong} other shapes in {other}")
        return {ours: self.state[key] for key, (ours, _) in wanted.items()}
