"""Every error that a user may see, with its exit code.

DiffsrError                1  some pictures of a batch failed, or anything not named below
├── UsageError             2  a wrong option, or options that exclude each other
├── InputError             3  a picture (or folder, or list) that cannot be read
├── OutputError            1  a picture that cannot be written to this place or in this format
├── ResourceError          4  memory or disk space ran out after every retry
│   ├── OutOfMemory
│   └── DiskFull
├── NumericalError         1  the output of a sampler or network is not finite
├── TimedOut               1  a picture that took longer than --timeout
└── WeightsError           5  weights are missing, damaged, or not for this task
    ├── DamagedWeights        the bytes differ from those listed, saved or sent
    ├── UntrustedWeights      a file that would run code, or a name that leads out of its folder
    └── HubError              the Hugging Face Hub did not provide them:
        ├── GatedRepo           terms to accept first
        ├── NoRepo              no such repository, or a private one
        ├── NoRevision          no such branch, tag or commit in it
        ├── NoFile              no such file in that revision
        ├── HubOffline          not on this machine, and the network must not be used
        └── HubUnreachable      no answer, a wrong one, or an incomplete one
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Messages are written with the options of the command line, which sets this. Elsewhere they name
# the arguments of Python instead, except within a command that is to be typed.
options = False
_OPTION = re.compile(
    r"(?P<kept>diffsr \w[^;`)\n]*)|--(?P<name>[a-z][a-z-]*[a-z])"
    r"(?P<value> (?:(?=\d)|(?P<word>all|first)\b))?|(?<!\S)-o\b"
)


def _argument(found: re.Match[str]) -> str:
    """--max-side 2000 -> max_side=2000, --frames all -> frames="all"."""
    if found["kept"] or not found["name"]:
        return found["kept"] or "output"
    value = f'="{found["word"]}"' if found["word"] else "=" if found["value"] else ""
    return found["name"].replace("-", "_") + value


# the words for it of torch, its devices and their drivers, in lower case
OUT_OF_MEMORY = (
    "can't allocate memory", "not enough memory", "out of memory", "bad_alloc",
    "error_out_of_device_memory", "error_out_of_host_memory", "error_out_of_resources",
)  # fmt: skip


class DiffsrError(Exception):
    """The message says what failed, where, and what to try."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(message if options else _OPTION.sub(_argument, message))


class UsageError(DiffsrError):
    exit_code = 2


class InputError(DiffsrError):
    exit_code = 3


class OutputError(DiffsrError):
    exit_code = 1


class ResourceError(DiffsrError):
    exit_code = 4


class OutOfMemory(ResourceError):
    """Memory ran out, even with the smallest tile."""


class DiskFull(ResourceError):
    """The disk ran out while a file was written; nothing half-written is left."""


class NumericalError(DiffsrError):
    """A NaN or an infinity appeared; no picture is made from it."""


class TimedOut(DiffsrError):
    """A picture took longer than --timeout; nothing of it is written."""


class WeightsError(DiffsrError):
    exit_code = 5


class DamagedWeights(WeightsError):
    pass


class UntrustedWeights(WeightsError):
    pass


class HubError(WeightsError):
    pass


class GatedRepo(HubError):
    pass


class NoRepo(HubError):
    pass


class NoRevision(HubError):
    pass


class NoFile(HubError):
    pass


class HubOffline(HubError):
    pass


class HubUnreachable(HubError):
    pass


def check_known(name: str, table: Iterable[str], what: str) -> None:
    """Raises UsageError with the names of the table where `name` is none of them."""
    if name not in table:
        raise UsageError(f"no {what} {name!r}; choose from {', '.join(table)}")
