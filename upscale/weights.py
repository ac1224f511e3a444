"""From a name in weights.toml to a verified file and its tensors.

The only door to `huggingface_hub`, and to safetensors outside training. Pickles are never opened.
A listed file is used only after its sha256 was compared with the list; one saved by `save`
carries a digest of its own, compared by `read`.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale.errors import DiskFull, OutputError, WeightsError
from upscale.registry import PACKAGE, Entry, Hub, entries, scales_of

__all__ = [
    "Entry", "Hub", "choose", "entries", "find", "load", "locate", "read", "save", "sha256_of",
]  # fmt: skip

if TYPE_CHECKING:
    import torch

_PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}
_SILENCE = "10"  # seconds without an answer after which the Hub counts as absent

_verified: dict[tuple[str, int, int], str] = {}  # (path, mtime_ns, size) -> sha256


def find(name_or_path: str | Path) -> Entry:
    """The entry of that name, or one made from a local .safetensors file's own metadata."""
    text = str(name_or_path)
    known = entries()
    if text in known:
        return known[text]
    path = Path(text).expanduser()
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(f"{text}: pickled weights can run code when opened; "
                           "diffsr reads .safetensors only")  # fmt: skip
    if path.suffix == ".safetensors" or path.is_file() or len(Path(text).parts) > 1:
        return _local(path)
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    have = ", ".join(name for name, entry in known.items() if entry.domain != "metric") or "none"
    raise WeightsError(f"no weights named {text}; {hint}Have {have}, "
                       "or give the path of a .safetensors file")  # fmt: skip


def choose(method: str, scale: float, domain: str = "photo", *, nearest: bool = False) -> Entry:
    """The first listed entry of `method` and `domain` that covers `scale`; trained for just that
    scale goes before a range. With `nearest`, one that does not cover it is better than none."""
    same = [e for e in entries().values() if e.method == method and e.domain == domain]
    able = [e for e in same if nearest or e.covers(scale)]
    if able:
        return min(able, key=lambda e: (e.distance(scale), e.any_scale))
    have = ", ".join(dict.fromkeys(e.scales_text() for e in same))
    others = [e.name for e in entries().values() if e.method == method and e not in same]
    train = f"train some: diffsr train --method {method} --scale {scale:g}"
    if same:
        raise WeightsError(f"no weights for {method} at x{scale:g}; have {have} (--scale), "
                           f"or {train}")  # fmt: skip
    if others:
        raise WeightsError(f"no {domain} weights for {method}; have {', '.join(others)} "
                           f"(--weights), or {train}")  # fmt: skip
    raise WeightsError(f"no weights for {method}; give a file with --weights, or {train}")


def choose_first(names: tuple[str, ...], scale: float, domain: str = "photo") -> Entry:
    """Of the first method that has weights for the scale; else the nearest of the last method."""
    for name in names:
        same = [e for e in entries().values() if e.method == name and e.domain == domain]
        if any(e.covers(scale) for e in same):
            return choose(name, scale, domain)
    return choose(names[-1], scale, domain, nearest=True)


def _local(path: Path) -> Entry:
    """The entry of a file that is not in the list, from the metadata `save` put into it."""
    meta = _metadata(path)
    if not isinstance(meta.get("method"), str):
        raise WeightsError(f"{path}: its header does not say which method it is for; "
                           "was it saved by diffsr?")  # fmt: skip
    scales = scales_of(meta.get("scales", []))
    if scales is None:
        raise WeightsError(f"{path}: its header's scales make no sense: {meta['scales']}")
    texts = {key: str(meta.get(key, "")) for key in ("net", "licence", "card")}
    return Entry(
        name=path.stem, method=meta["method"], domain=str(meta.get("domain", "photo")),
        scales=scales, any_scale=isinstance(meta.get("scales"), dict), sha256=sha256_of(path),
        size=path.stat().st_size, path=path, **texts,
    )  # fmt: skip


# --- files --------------------------------------------------------------------------------------


def locate(entry: Entry, offline: bool = False, tqdm_class: type | None = None) -> Path:
    """The entry's file on this machine, its sha256 checked: bundled, cached, or downloaded.

    offline: never ask the network. tqdm_class: a tqdm look-alike that shows the download.
    Raises WeightsError (missing, damaged, unreachable) and DiskFull.
    """
    if entry.path is not None:
        path, cure = entry.path, "it changed while diffsr was running: run again"
    elif entry.bundled is not None:
        path, cure = PACKAGE / "bundled" / entry.bundled, "install diffsr again"
    else:
        path = _download(entry, offline, tqdm_class).resolve()  # the cache's file, not its link
        cure = f"delete {path} and run again"
    try:
        size, found = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{entry.name}: {path}: {error.strerror}; {cure}") from error
    if size != entry.size:
        raise WeightsError(f"{entry.name}: {path} is damaged: {size} bytes, not {entry.size}; "
                           f"{cure}")  # fmt: skip
    if found != entry.sha256:
        raise WeightsError(f"{entry.name}: {path} is damaged: its sha256 is {found}, "
                           f"not {entry.sha256}; {cure}")  # fmt: skip
    return path


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex; read again only if its time or size changed."""
    status = path.stat()
    key = (str(path.resolve()), status.st_mtime_ns, status.st_size)
    if key not in _verified:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        _verified[key] = digest.hexdigest()
    return _verified[key]


def _download(entry: Entry, offline: bool, tqdm_class: type | None) -> Path:
    """From the Hub's cache, or from the Hub. A pinned commit in the cache needs no request."""
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", _SILENCE)  # read when it is imported
    import huggingface_hub as client
    from huggingface_hub import errors

    assert entry.hub is not None
    repo, revision, file = entry.hub.repo, entry.hub.revision, entry.hub.file
    where = f"{entry.name}: {repo} on the Hugging Face Hub"
    try:
        try:
            return Path(
                client.hf_hub_download(repo, file, revision=revision, local_files_only=True)
            )
        except errors.LocalEntryNotFoundError:
            if offline:
                raise
        # Ask once first: alone, the client would wait six minutes for a server that hangs.
        url = client.hf_hub_url(repo, file, revision=revision)
        client.get_hf_file_metadata(url, timeout=float(_SILENCE))
        return Path(client.hf_hub_download(repo, file, revision=revision, tqdm_class=tqdm_class))
    # Order matters: gated is a kind of no repository, and absent here a kind of no file.
    except errors.GatedRepoError as error:
        why = "asks you to accept its terms: do so on its page, then `hf auth login`"
        raise WeightsError(f"{where} {why}") from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(f"{where} does not exist or is private (`hf auth login`)") from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{where} has no commit {revision}; update diffsr") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "is not on this machine and diffsr is offline; run once online"
        raise WeightsError(f"{entry.name} {why}") from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"{where} has no file {file}; update diffsr") from error
    except Exception as error:  # its HTTP library's errors belong to no family of its own
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            room = f"no room for {entry.size:,} bytes; set HF_HOME to a larger disk"
            raise DiskFull(f"{entry.name}: {room}") from error
        told = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        why = f"could not be fetched ({told}); check the network, or set HF_ENDPOINT to a mirror"
        raise WeightsError(f"{where} {why}") from error


# --- tensors ------------------------------------------------------------------------------------


def load(
    entry: Entry, device: str | torch.device = "cpu", offline: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict with the stored dtypes, metadata) of a verified file. Raises as `locate`."""
    return read(locate(entry, offline), device)


def read(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict, metadata) of any .safetensors file; metadata is {} if diffsr did not save it."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    meta = _metadata(path)
    try:
        state = load_file(path, device=str(device))
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(_broken(path, error)) from error
    if "digest" in header and header["digest"] != _digest(state, header.get("diffsr", "")):
        raise WeightsError(_broken(path, "its content is not what was saved"))
    return state, meta


def save(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    half: bool = False,
) -> None:
    """Write a .safetensors file at once or not at all. half: floats as fp16.

    `metadata` (JSON-able) needs "method"; "scales", "domain", "net", "licence" are read by `find`.
    Raises WeightsError for values that fp16 (or anything) cannot hold, OutputError, DiskFull.
    """
    import torch
    from safetensors.torch import save as to_bytes

    path = Path(path)
    out = {}
    for key, value in state.items():
        stored = value.detach().cpu()
        stored = stored.to(torch.float16) if half and stored.is_floating_point() else stored
        if not torch.isfinite(stored).all():
            what = "as fp16" if torch.isfinite(value).all() else ""
            raise WeightsError(f"{path}: {key} is not finite {what}".rstrip() + "; not saved")
        out[key] = stored.contiguous().clone()  # tied tensors are stored twice
    text = json.dumps(dict(metadata), sort_keys=True)
    header = {"format": "pt", "diffsr": text, "digest": _digest(out, text)}
    _write(path, to_bytes(out, metadata=header))


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kind = DiskFull if error.errno == errno.ENOSPC else OutputError
        raise kind(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _metadata(path: str | Path) -> dict[str, Any]:
    """What `save` was given, read from the header alone; {} for other programs' files."""
    from safetensors import SafetensorError, safe_open

    if Path(path).suffix.lower() in _PICKLES:
        raise WeightsError(f"{path}: pickled weights are never opened; diffsr reads .safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {}).get("diffsr", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(_broken(path, error)) from error
    if not isinstance(meta, dict):
        raise WeightsError(_broken(path, "its header is not a table"))
    return meta


def _broken(path: str | Path, why: object) -> str:
    if not Path(path).is_file():
        return f"{path}: there is no such file"
    return f"{path}: damaged, or not a safetensors file ({why}); fetch or make it again"


def _digest(state: Mapping[str, torch.Tensor], text: str) -> str:
    """sha256 over metadata, names, dtypes, shapes and bytes."""
    import torch

    digest = hashlib.sha256(text.encode())
    for key in sorted(state):
        value = state[key].cpu().contiguous()
        digest.update(f"\n{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
