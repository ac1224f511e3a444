"""Files in the Hub's cache: looked up, fetched into it, uploaded.

`huggingface_hub` checks no file, begins a broken download anew and waits minutes for a server that
hangs. So the bytes are fetched here, with its session, token and settings, into the places where it
(and every program that uses it) looks: blobs/ETAG, snapshots/COMMIT/FILE, refs/REVISION.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from upscale.errors import DamagedWeights, HubOffline, HubUnreachable, InputError, WeightsError
from upscale.weights.hub.failures import explained, hub_client, patiently
from upscale.weights.hub.names import COMMIT, ETAG, Hub

_SILENCE = 10.0  # seconds without an answer after which the Hub counts as absent
_MOST = 64 << 30  # bytes of a file
_LEAST, _WINDOW = 1024, 30.0  # bytes a second, on the mean of so many seconds
_PIECE = 1 << 20  # bytes that are unpacked at a time
OnBytes = Callable[[int, int | None], None]  # (bytes so far, of all or None if nobody knows)


def cached(hub: Hub) -> Path | None:
    """The file in the Hub's cache, a link into blobs/ as a rule; asks and writes nothing."""
    found = hub_client().try_to_load_from_cache(hub.repo, hub.file, revision=hub.revision)
    return Path(found) if isinstance(found, str) else None


def pinned_by(path: Path) -> str:
    """The commit of a path that `cached` or `fetch` gave."""
    return path.parts[_snapshots(path) + 1]


def _snapshots(path: Path) -> int:
    """Where in a path of the cache the folder of commits stands."""
    return len(path.parts) - 1 - path.parts[::-1].index("snapshots")


def check_sent(path: Path) -> None:
    """Compare a cached file with the hash that the Hub names it by; DamagedWeights if it differs.

    Large files are named by their sha256, small ones as git does; of other servers' names nothing
    is known, and nothing checked.
    """
    blob = _blob(path)
    if not _matches(blob, blob.name):
        raise DamagedWeights(f"{path}: its content is not what the Hub sent")


@contextmanager
def removing_damaged(path: Path | None) -> Iterator[None]:
    """Within it, a DamagedWeights removes the cached file, so that the next run fetches it anew."""
    try:
        yield
    except DamagedWeights as error:
        if path is None:
            raise
        discard(path)
        raise DamagedWeights(f"{error}; it is removed from the cache: run again") from error


def discard(path: Path) -> None:
    """Remove a cached file, so that it is fetched anew. What a link in the cache leads to outside
    of it is somebody's own: only the link is removed."""
    store = Path(*path.parts[: _snapshots(path)]).absolute()
    try:
        for place in (_blob(path), path):
            if Path(os.path.abspath(place)).is_relative_to(store):
                place.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path} cannot be removed: {error.strerror}") from error


def _blob(path: Path) -> Path:
    """What a path of `cached` links to: one step, for the client may link that to elsewhere."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


def _matches(path: Path, etag: str) -> bool:
    if re.fullmatch("[0-9a-f]{64}", etag):
        digest = hashlib.sha256()
    elif COMMIT.fullmatch(etag):  # git's name of a blob
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return True
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == etag


# --- fetching -----------------------------------------------------------------------------------


def fetch(
    hub: Hub,
    *,
    sha256: str | None = None,
    size: int | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> Path:
    """The file, asked for at the Hub and fetched unless the cache has that very content.

    What is fetched comes into the cache only if its size and hash are right: `sha256` and `size`
    if given, and always what the Hub itself says. A download that breaks off is continued, by this
    call and by later ones. Raises DamagedWeights, DiskFull and the HubErrors.
    """
    client = _online(hub, offline)
    with explained(hub):
        url = client.hf_hub_url(hub.repo, hub.file, revision=hub.revision)
        wait = client.constants.HF_HUB_ETAG_TIMEOUT
        head = patiently(lambda: client.get_hf_file_metadata(url, timeout=wait))
        etag, commit = head.etag or "", head.commit_hash or ""
        if not (ETAG.fullmatch(etag) and COMMIT.fullmatch(commit)):
            raise HubUnreachable(
                f"{hub}: the server does not answer as the Hub does (ETag {etag!r}, commit "
                f"{commit!r}); check HF_ENDPOINT"
            )
        if size is not None and head.size is not None and head.size != size:
            raise DamagedWeights(f"{hub} has {head.size} bytes there, not {size}: not fetched")
        if (size or head.size or 0) > _MOST:
            raise DamagedWeights(
                f"{hub} has {size or head.size} bytes there: more than any weights"
            )
        exact = replace(hub, revision=commit)
        store = Path(client.constants.HF_HUB_CACHE) / f"models--{hub.repo.replace('/', '--')}"
        blob = store / "blobs" / etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock = store.parent / ".locks" / store.name / f"{etag}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with client.utils.WeakFileLock(lock):
            if not blob.is_file():
                partial = blob.with_name(f"{etag}.diffsr.incomplete")
                _unlink_link(partial)
                _download(exact, partial, size or head.size, on_bytes)
                _accept(hub, partial, size or head.size, sha256 or etag)
                os.replace(partial, blob)
            pointer = store / "snapshots" / commit / hub.file
            _link(blob, pointer)
        if not hub.pinned:
            reference = store / "refs" / hub.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            _unlink_link(reference)
            reference.write_text(commit)
        return pointer


def _online(hub: Hub, offline: bool) -> ModuleType:
    """The client, if it may be used. Raises HubOffline."""
    client = hub_client()
    if offline or client.constants.HF_HUB_OFFLINE:
        why = "is not on this machine and diffsr is offline; run `diffsr weights pull` once online"
        raise HubOffline(f"{hub} {why}")
    return client


def _download(hub: Hub, partial: Path, size: int | None, on_bytes: OnBytes | None) -> None:
    """Bring `partial` to its full size, from wherever an earlier attempt left it."""
    url = hub_client().hf_hub_url(hub.repo, hub.file, revision=hub.revision)

    def have() -> int:
        return partial.stat().st_size if partial.is_file() else 0

    if size is not None:
        if have() > size:
            partial.unlink()
        if shutil.disk_usage(partial.parent).free < size - have():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    while size is None or have() < size:
        before = have()
        patiently(lambda: _stream(url, partial, size, on_bytes), have)
        if size is None or have() == before:  # the server says that this is all
            return


def _stream(url: str, partial: Path, size: int | None, on_bytes: OnBytes | None) -> None:
    """One request for what is missing. A server without ranges sends everything again."""
    client = hub_client()
    done = partial.stat().st_size if partial.is_file() else 0
    headers = {**client.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    wait = client.constants.HF_HUB_DOWNLOAD_TIMEOUT
    session = client.utils.get_session()
    with session.stream("GET", url, headers=headers, timeout=wait) as response:
        if done and response.status_code == 416:  # nothing lies behind what is there
            return
        client.utils.hf_raise_for_status(response)
        if response.status_code != 206:
            done = 0
        most, since, before = _MOST if size is None else size, time.monotonic(), done
        with open(partial, "ab" if done else "wb") as file:
            for block in _sent(response, url):
                done += len(block)
                if done > most:
                    break  # more than was announced: it is refused
                file.write(block)
                file.flush()  # what has come stays, however this ends
                if on_bytes:
                    on_bytes(done, size)
                if (passed := time.monotonic() - since) > _WINDOW:
                    if done - before < _LEAST * passed:
                        raise HubUnreachable(
                            f"{url}: fewer than {_LEAST} bytes a second came; run again, which "
                            "resumes the download, or set HF_ENDPOINT to a mirror"
                        )
                    since, before = time.monotonic(), done
        if size is None and done > most:
            partial.unlink()
            raise DamagedWeights(f"{url}: more than {most} bytes came: more than any weights have")


def _sent(response: Any, url: str) -> Iterator[bytes]:
    """The bytes of a file, unpacked in small pieces where the server packed them unasked: a few of
    them may stand for gigabytes."""
    packing = response.headers.get("Content-Encoding", "identity").lower()
    if packing in ("", "identity"):
        yield from response.iter_raw()
        return
    if packing not in ("gzip", "x-gzip") or response.status_code == 206:
        raise HubUnreachable(f"{url}: came packed ({packing}); set HF_ENDPOINT to another mirror")
    unpacker = zlib.decompressobj(31)  # with gzip's header
    for block in response.iter_raw():
        while block:
            yield unpacker.decompress(block, _PIECE)
            block = unpacker.unconsumed_tail


def _accept(hub: Hub, partial: Path, size: int | None, digest: str) -> None:
    """Compare a finished download with what it should be; a wrong one is removed."""
    found = partial.stat().st_size
    if size not in (None, found):
        why = f"{found} bytes instead of {size}"
    elif not _matches(partial, digest):
        why = f"its hash is not {digest}"
    else:
        return
    partial.unlink()
    raise DamagedWeights(
        f"{hub}: what came is not the file that was asked for ({why}); it is removed. "
        "Run again, or set HF_ENDPOINT to another mirror"
    )


def _unlink_link(path: Path) -> None:
    """Nothing is written through a link that stands where the cache has files of its own."""
    if path.is_symlink():
        path.unlink()


def _link(blob: Path, pointer: Path) -> None:
    pointer.parent.mkdir(parents=True, exist_ok=True)
    if pointer.exists() and pointer.samefile(blob):
        return
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # a file system without links: as the client does it there
        os.replace(blob, pointer)


def fetch_dataset(
    repo: str, revision: str, folder: Path, patterns: Sequence[str], say: Callable[[str], None]
) -> dict[str, str]:
    """A dataset's files of these patterns into `folder`; what is there is kept. {commit, licence}.

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


def listing(hub: Hub, offline: bool = False) -> list[Hub]:
    """The weights in a repository, each at its exact commit, without golden vectors.

    Raises UntrustedWeights where the list holds a name that would lead out of the cache.
    """
    client = _online(hub, offline)
    with explained(hub):
        wait = client.constants.HF_HUB_ETAG_TIMEOUT
        ask = client.HfApi().model_info
        info = patiently(lambda: ask(hub.repo, revision=hub.revision, timeout=wait))
        names = [str(file.rfilename) for file in info.siblings or ()]
    exact = replace(hub, revision=str(info.sha), file="")
    files = [replace(exact, file=name) for name in names if name.endswith(".safetensors")]
    return [file for file in files if not file.file.endswith(".golden.safetensors")]


def upload(repo: str, files: dict[str, bytes], message: str, private: bool) -> str:
    """Commit files to a repository, made if there is none; returns the commit's 40 hex digits."""
    client = hub_client()
    hub = Hub(repo)
    with explained(hub, upload=True):
        api = client.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [client.CommitOperationAdd(name, data) for name, data in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message).oid
    if not COMMIT.fullmatch(str(commit)):
        raise HubUnreachable(f"{hub}: uploaded, but the server named no commit for it")
    return commit
