"""A dataset repository of the Hub, fetched as a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from upscale.errors import InputError, WeightsError
from upscale.weights.hub.failures import explained, hub_client, patiently
from upscale.weights.hub.names import Hub

_SILENCE = 10.0  # seconds without an answer after which the Hub counts as absent


def fetch(
    repo: str, revision: str, folder: Path, patterns: Sequence[str], say: Callable[[str], None]
) -> dict[str, str]:
    """All files of these patterns into `folder`; what is there is kept. {commit, licence}.

    Raises InputError: missing pictures are no matter of weights.
    """
    client = hub_client()
    try:
        hub = Hub(repo, revision)
        with explained(hub):
            info = patiently(
                lambda: client.HfApi().dataset_info(repo, revision=revision, timeout=_SILENCE)
            )
            say(f"fetching {hub} into {folder}")
            what = {"repo_type": "dataset", "revision": info.sha, "allow_patterns": list(patterns)}
            patiently(lambda: client.snapshot_download(repo, local_dir=folder, **what))
    except WeightsError as error:
        raise InputError(str(error)) from error
    card = info.card_data or {}
    return {"commit": str(info.sha), "licence": str(card.get("license") or "not stated")}
