"""What goes wrong with the Hub: tried again where it may pass, and explained in one error each."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

from upscale.atomic import full
from upscale.errors import (
    DiskFull,
    GatedRepo,
    HubOffline,
    HubUnreachable,
    NoFile,
    NoRepo,
    NoRevision,
    WeightsError,
)
from upscale.weights.hub.names import Hub

T = TypeVar("T")

PAUSES = (0.5, 1.5)  # seconds before the second and the third attempt
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP codes that may be gone at once


def hub_client() -> ModuleType:
    """`huggingface_hub`, imported when it is first needed: that takes half a second."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def patiently(attempt: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """Try again what may pass: broken connections, a server too busy. Silence is not tried twice.

    progress: a number that grows with what has come; where it does, attempts count anew.
    """
    errors, best, failed = hub_client().errors, progress(), 0
    while True:
        try:
            return attempt()
        except errors.HTTPError as error:
            came, best = progress() > best, max(progress(), best)
            failed = 1 if came else failed + 1
            if failed > len(PAUSES) or not _may_pass(error, came):
                raise
        time.sleep(PAUSES[failed - 1])


def _may_pass(error: Exception, came: bool) -> bool:
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in _PASSING
    return came or "Timeout" not in type(error).__name__


@contextlib.contextmanager
def explained(hub: Hub, upload: bool = False) -> Iterator[None]:
    """Every failure of the client, the network and the disk as the one error that explains it."""
    errors = hub_client().errors
    known = {  # in this order: gated is a kind of no repository
        errors.GatedRepoError: GatedRepo(
            f"{hub.repo} asks you to accept its terms: do so on its page, then `hf auth login`"
        ),
        errors.RepositoryNotFoundError: NoRepo(
            f"{hub.repo} does not exist on the Hub or is private (then `hf auth login`)"
        ),
        errors.RevisionNotFoundError: NoRevision(
            f"{hub.repo} has no revision {hub.revision}: name a branch, a tag or a commit of it"
        ),
        errors.EntryNotFoundError: NoFile(
            f"{hub.repo} has no file {hub.file} at {hub.revision}; "
            f"`diffsr weights pull hf:{hub.repo}` says what it has"
        ),
        errors.OfflineModeIsEnabled: HubOffline(
            f"{hub} is not on this machine and HF_HUB_OFFLINE is set"
        ),
    }
    try:
        yield
    except (WeightsError, DiskFull):
        raise
    except Exception as error:  # its HTTP library's errors belong to no family of its own
        found = (ours for theirs, ours in known.items() if isinstance(error, theirs))
        raise next(found, None) or _otherwise(hub, error, upload) from error


def _otherwise(hub: Hub, error: Exception, upload: bool) -> Exception:
    client = hub_client()
    place = client.constants.HF_HUB_CACHE
    http = isinstance(error, client.errors.HTTPError)
    if isinstance(error, OSError) and not http:
        if full(error):
            return DiskFull(f"{hub}: no room for it in {place}; set HF_HOME to a larger disk")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return WeightsError(
                f"{hub}: the cache {place} cannot be written ({error.strerror}); "
                "set HF_HOME to a folder of yours"
            )
    response: Any = getattr(error, "response", None)
    reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    if response is not None:
        reason = f"HTTP {response.status_code}"
    if upload:
        return HubUnreachable(
            f"nothing could be uploaded to {hub.repo} at {client.constants.ENDPOINT} ({reason}); "
            "check the network and whether your token may write there (`hf auth login`), and run "
            "again"
        )
    return HubUnreachable(
        f"{hub} could not be fetched from {client.constants.ENDPOINT} ({reason}); check the "
        "network and run again, which resumes the download; or set HF_ENDPOINT to a mirror"
    )
