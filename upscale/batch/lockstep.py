"""Several pictures through one network at the same time.

Each picture runs in a thread of its own, as if it were alone. At every network call it waits for
the others; the calls that have the same shapes are then made as one. So pictures of one size are
batched, windows of large pictures share a batch whatever the pictures' sizes, and a picture that
fails or takes other steps than the rest disturbs nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from upscale.machine import is_out_of_memory


class _Asked:
    """A call that waits to be made."""

    def __init__(
        self, member: int, function: Callable[..., Any], args: tuple[Any, ...], named: dict
    ) -> None:
        self.member, self.function, self.args, self.named = member, function, args, named
        self.answer: Any = None
        self.error: BaseException | None = None
        self.made = False

    def like(self, other: _Asked) -> bool:
        """Whether the two can be made as one: all but the numbers in the tensors is equal."""
        return self._shape() == other._shape()

    def _shape(self) -> tuple:
        # a bound method is a new object each time it is looked up; equality looks at what it binds
        return self.function, _shape((self.args, sorted(self.named.items())))

    def make(self) -> None:
        try:
            self.answer = self.function(*self.args, **self.named)
        except BaseException as error:  # raised in the thread whose call it is
            self.error = error


class Lockstep:
    """The calls of `members` pictures; each member's thread uses its own `caller` and must `leave`.

    Which calls are made together depends on the pictures alone, never on which thread was quicker.
    """

    def __init__(self, members: int) -> None:
        self._running = members
        self._asked: list[_Asked] = []
        self._turn = threading.Condition()

    def caller(self, member: int) -> Callable[..., Any]:
        """A `stage.Call` for the member of that number."""

        def call(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
            asked = _Asked(member, function, args, named)
            with self._turn:
                self._asked.append(asked)
                self._serve_if_all_wait()
                self._turn.wait_for(lambda: asked.made)
            if asked.error is not None:
                raise asked.error
            return asked.answer

        return call

    def leave(self) -> None:
        """A member is done, well or not: nobody waits for it any more."""
        with self._turn:
            self._running -= 1
            self._serve_if_all_wait()

    def _serve_if_all_wait(self) -> None:
        if not self._asked or len(self._asked) < self._running:
            return
        waiting = sorted(self._asked, key=lambda asked: asked.member)
        self._asked = []
        while waiting:
            same = [asked for asked in waiting if asked.like(waiting[0])]
            waiting = [asked for asked in waiting if not any(asked is one for one in same)]
            _make(same)
            for asked in same:
                asked.made = True
        self._turn.notify_all()


def _make(same: list[_Asked]) -> None:
    """All in one call; one by one where memory does not suffice for that."""
    if len(same) > 1:
        try:
            args, named = _joined([(one.args, one.named) for one in same])
            answers = _parted(same[0].function(*args, **named), len(same))
            for one, answer in zip(same, answers, strict=True):
                one.answer = answer
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                for one in same:
                    one.error = error
                return
    for one in same:
        one.make()


def _shape(value: Any) -> Any:
    """A tree of tuples, lists and dicts with the shapes of its tensors, and all else as it is."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_shape(part) for part in value)
    if isinstance(value, dict):
        return tuple((key, _shape(part)) for key, part in sorted(value.items()))
    return value


def _joined(values: list[Any]) -> Any:
    """Trees of one shape -> one tree, tensors (1,...) put together as (B,...)."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, dict):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, (tuple, list)):
        return _rebuilt(first, [_joined(list(part)) for part in zip(*values, strict=True)])
    return first


def _parted(value: Any, count: int) -> list[Any]:
    """The inverse of `_joined`."""
    if isinstance(value, Tensor):
        return list(value.split(value.shape[0] // count))
    if isinstance(value, (tuple, list)) and value:
        parts = zip(*(_parted(part, count) for part in value), strict=True)
        return [_rebuilt(value, part) for part in parts]
    return [value] * count


def _rebuilt(like: tuple | list, parts: Iterable[Any]) -> Any:
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
