"""The list of weights and its files: schema, choosing, damage, the Hub's failures, saving."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors

from upscale import registry, weights
from upscale.errors import DiskFull, OutputError, WeightsError

REVISION = "0123456789abcdef0123456789abcdef01234567"
SR3 = f"""
[weights.sr3-photo]
method = "sr3"
net = "compact, 7M"
domain = "photo"
scales = [4, 8]
sha256 = "{"a" * 64}"
size = 10
licence = "CC-BY-SA-4.0"
card = "docs/models/sr3-photo.md"
hub = {{ repo = "o/r", revision = "{REVISION}", file = "a.safetensors" }}
"""
ROOT = Path(__file__).parents[1]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts another text in weights.toml's place."""

    def put(text: str) -> Path:
        path = tmp_path / "weights.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setattr(registry, "_list_path", lambda: path)
        registry._entries.cache_clear()
        return path

    yield put
    registry._entries.cache_clear()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file as the trainer writes it."""
    path = tmp_path / "mine.safetensors"
    state = {"b": torch.arange(6.0).reshape(2, 3) / 7, "n": torch.tensor([3, 4])}
    weights.save(path, state, {"method": "sr3", "scales": [4], "domain": "face", "net": "tiny"})
    return path


def entry_of(path: Path, **changes: object) -> weights.Entry:
    entry = weights.Entry(
        name="sr3-photo", method="sr3", net="tiny", domain="photo", scales=(4.0,),
        any_scale=False, sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size, licence="x",
        hub=weights.Hub("o/r", REVISION, "a.safetensors"),
    )  # fmt: skip
    return replace(entry, **changes)


# --- the list -----------------------------------------------------------------------------------


def test_every_listed_file_that_is_bundled_is_there_and_right() -> None:
    known = weights.entries()
    assert known["lpips-alex"].domain == "metric"
    for entry in known.values():
        if entry.bundled:
            state, _ = weights.load(entry)
            assert state and all(torch.isfinite(v).all() for v in state.values())
        if entry.card and (ROOT / "weights.toml").is_file():
            assert (ROOT / entry.card).is_file(), f"{entry.name}: no card {entry.card}"


def test_nothing_is_bundled_that_is_not_listed() -> None:
    there = {path.name for path in (registry.PACKAGE / "bundled").glob("*.safetensors")}
    assert there == {entry.bundled for entry in weights.entries().values() if entry.bundled}


def test_an_entry_is_read(listed) -> None:
    listed(SR3)
    entry = weights.find("sr3-photo")
    assert entry.scales == (4.0, 8.0) and not entry.any_scale and entry.bundled is None
    assert entry.hub == weights.Hub("o/r", REVISION, "a.safetensors")
    assert entry.scales_text() == "x4, x8"
    listed(SR3.replace("[4, 8]", "{ min = 1, max = 8.5 }"))
    entry = weights.find("sr3-photo")
    assert entry.any_scale and entry.scales_text() == "x1 to x8.5"
    assert [entry.covers(s) for s in (0.9, 1.0, 3.7, 8.5, 9)] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('method = "sr3"', "", r"method must be given"),
        ('method = "sr3"', "method = 3", r"method must be a text"),
        ('licence = "CC-BY-SA-4.0"', 'licence = ""', r"licence must be a text"),
        ('card = "docs/models/sr3-photo.md"', "", r"card must be given"),
        ("size = 10", "size = -1", r"size must be"),
        ("size = 10", "size = true", r"size must be"),
        ("size = 10", "size = 10\nsise = 10", r"sise must be left out"),
        ("[4, 8]", "[]", r"scales must be not empty"),
        ("[4, 8]", "[4, 0]", r"scales must be a list"),
        ("[4, 8]", '["4"]', r"scales must be a list"),
        ("[4, 8]", "{ min = 4 }", r"scales must be a list"),
        ("[4, 8]", "{ min = 4, max = 2 }", r"scales must be a list"),
        ("a" * 64, "A" * 64, r"sha256 must be 64 hex digits"),
        ('"photo"', '"foto"', r"domain must be one of photo, face, metric"),
        (REVISION, "main", r"hub.revision must be a commit"),
        ("a.safetensors", "a.pth", r"hub.file must be a \.safetensors file"),
        ('repo = "o/r", ', "", r"hub must be"),
        ('"o/r"', "3", r"hub must be"),
        ("size = 10", 'size = 10\nbundled = "a.safetensors"', r"only one of them"),
        ("hub = ", "#", r"bundled or hub must be given"),
        ("hub = ", 'bundled = "../a.safetensors" #', r"bundled must be the name"),
    ],
)
def test_a_wrong_entry_is_refused_by_name_and_key(listed, old: str, new: str, told: str) -> None:
    assert old in SR3
    listed(SR3.replace(old, new))
    with pytest.raises(WeightsError, match=r"\[weights\.sr3-photo\]: .*" + told):
        weights.entries()


@pytest.mark.parametrize("text", ["[weights", "x = 1", "weights = 3", "[weights]\na = 3"])
def test_a_wrong_file_is_refused(listed, text: str) -> None:
    listed(text)
    with pytest.raises(WeightsError, match=r"weights\.toml"):
        weights.entries()


def test_a_missing_list_says_so(listed) -> None:
    listed("").unlink()
    with pytest.raises(WeightsError, match="install diffsr again"):
        weights.entries()


def test_unknown_names_get_a_suggestion(listed) -> None:
    listed(SR3)
    with pytest.raises(WeightsError, match=r"named sr3-foto; did you mean sr3-photo\? Have"):
        weights.find("sr3-foto")
    with pytest.raises(WeightsError, match=r"named zzz; Have sr3-photo, or give the path"):
        weights.find("zzz")
    with pytest.raises(WeightsError, match=r"no/such\.safetensors: there is no such file"):
        weights.find("no/such.safetensors")
    with pytest.raises(WeightsError, match=r"pickled"):
        weights.find("model.pth")


def test_choosing(listed) -> None:
    face = SR3.replace("sr3-photo", "sr3-face").replace('"photo"', '"face"').replace("4, 8", "8")
    any_scale = SR3.replace("sr3-photo", "sr3-any").replace("[4, 8]", "{ min = 1, max = 5 }")
    listed(any_scale + SR3 + face)
    assert weights.choose("sr3", 4).name == "sr3-photo"  # made for it: before the range
    assert weights.choose("sr3", 3.3).name == "sr3-any"
    assert weights.choose("sr3", 8, "face").name == "sr3-face"
    assert weights.choose("sr3", 7, nearest=True).name == "sr3-photo"
    assert weights.choose("sr3", 5.1, nearest=True).name == "sr3-any"


def test_choosing_in_vain_says_what_there_is(listed) -> None:
    listed(SR3)
    told = (
        "no weights for sr3 at x6; have x4, x8 (--scale), "
        "or train some: diffsr train --method sr3 --scale 6"
    )
    with pytest.raises(WeightsError) as caught:
        weights.choose("sr3", 6)
    assert str(caught.value) == told and caught.value.exit_code == 5
    with pytest.raises(WeightsError, match=r"no face weights for sr3; have sr3-photo \(--weights"):
        weights.choose("sr3", 4, "face", nearest=True)
    with pytest.raises(WeightsError, match=r"no weights for ecdp; .*--method ecdp --scale 2\.5"):
        weights.choose("ecdp", 2.5)


# --- saving and reading -------------------------------------------------------------------------


def test_a_round_trip_keeps_everything(tmp_path: Path) -> None:
    shared = torch.randn(3, 5)
    state = {
        "a": shared, "tied": shared, "view": torch.randn(4, 6).T, "n": torch.tensor(7),
        "empty": torch.zeros(0, 2), "half": torch.randn(3).bfloat16(),
    }  # fmt: skip
    meta = {"method": "sr3", "scales": {"min": 1, "max": 8}, "net": "groß", "config": {"w": [1]}}
    path = tmp_path / "w.safetensors"
    weights.save(path, state, meta)
    found, found_meta = weights.read(path)
    assert found_meta == meta and found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_half_halves_floats_only_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, {"a": torch.ones(3) / 3, "n": torch.tensor([70000])}, {}, half=True)
    found, _ = weights.read(path)
    assert found["a"].dtype == torch.float16 and found["n"].tolist() == [70000]
    before = path.read_bytes()
    with pytest.raises(WeightsError, match=r"big is not finite as fp16; not saved"):
        weights.save(path, {"big": torch.tensor([7e4])}, {}, half=True)
    with pytest.raises(WeightsError, match=r"bad is not finite; not saved"):
        weights.save(path, {"bad": torch.tensor([float("nan")])}, {})
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"mine\.safetensors"):
        weights.save(saved, {"a": torch.ones(2)}, {})
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1
    with pytest.raises(OutputError, match="cannot be written"):
        weights.save(saved.parent / "none" / "w.safetensors", {"a": torch.ones(2)}, {})


def test_a_local_file_is_an_entry(saved: Path) -> None:
    entry = weights.find(saved)
    assert (entry.name, entry.method, entry.domain, entry.net) == ("mine", "sr3", "face", "tiny")
    assert entry.scales == (4.0,) and entry.size == saved.stat().st_size
    assert entry.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    state, meta = weights.load(entry)
    assert state["n"].tolist() == [3, 4] and meta["scales"] == [4]


def test_a_file_without_our_header_has_tensors_but_is_no_entry(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, path)
    assert weights.read(path)[1] == {}
    with pytest.raises(WeightsError, match="which method"):
        weights.find(path)
    weights.save(path, {"a": torch.ones(2)}, {"method": "sr3", "scales": [0]})
    with pytest.raises(WeightsError, match="scales make no sense"):
        weights.find(path)


def test_every_flipped_bit_and_every_cut_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for at in range(0, len(content), 7):
        saved.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        # (JSON allows some other spellings of one header; then nothing that counts has changed.)
        try:
            state, meta = weights.read(saved)
        except WeightsError as error:
            assert "mine.safetensors" in str(error) and "make it again" in str(error)
        else:
            saved.write_bytes(content)
            right, right_meta = weights.read(saved)
            assert meta == right_meta and all(torch.equal(state[k], right[k]) for k in right)
    for length in (0, 5, 8, 50, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"mine\.safetensors: damaged"):
            weights.read(saved)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match="pickled"):
        weights.read(path)
    path.rename(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights.read(tmp_path / "w.safetensors")


# --- locating -----------------------------------------------------------------------------------


def from_hub(monkeypatch: pytest.MonkeyPatch, result: Path | Exception, cached: bool = False):
    """The Hub's client answers `result`, from the cache or over a network that is counted."""
    asked = []

    def download(repo, file, *, revision, local_files_only=False, tqdm_class=None):
        assert (repo, file, revision) == ("o/r", "a.safetensors", REVISION)
        if local_files_only and not cached:
            raise hub_errors.LocalEntryNotFoundError("not cached")
        if isinstance(result, Exception):
            raise result
        return str(result)

    def head(url, *, timeout):
        assert REVISION in url and timeout <= 10
        asked.append(url)
        if isinstance(result, Exception):
            raise result

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", head)
    return asked


def http(kind: type[Exception]) -> Exception:
    """One of the client's HTTP errors, made without a response."""
    error = kind.__new__(kind)
    error.args = ("the server's words\nand more",)
    return error


def test_a_cached_file_needs_no_network_and_a_fresh_one_is_fetched(saved, monkeypatch) -> None:
    entry = entry_of(saved)
    asked = from_hub(monkeypatch, saved, cached=True)
    assert weights.locate(entry, offline=True) == weights.locate(entry) == saved and not asked
    asked = from_hub(monkeypatch, saved)
    assert weights.locate(entry) == saved and len(asked) == 1


def test_offline_without_the_file(saved, monkeypatch) -> None:
    asked = from_hub(monkeypatch, saved)
    with pytest.raises(WeightsError, match="sr3-photo is not on this machine and diffsr is off"):
        weights.locate(entry_of(saved), offline=True)
    assert not asked


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (http(hub_errors.GatedRepoError), "o/r .* accept its terms"),
        (http(hub_errors.RepositoryNotFoundError), "o/r .* does not exist or is private"),
        (http(hub_errors.RevisionNotFoundError), f"no commit {REVISION}"),
        (http(hub_errors.RemoteEntryNotFoundError), r"no file a\.safetensors; update"),
        (hub_errors.OfflineModeIsEnabled("HF_HUB_OFFLINE=1"), "diffsr is offline"),
        (http(hub_errors.HfHubHTTPError), r"\(HfHubHTTPError: the server's words\); check"),
        (TimeoutError("timed out"), "TimeoutError: timed out"),
        (RuntimeError(), r"\(RuntimeError\); check the network, or set HF_ENDPOINT"),
    ],
)
def test_every_failure_of_the_hub_has_its_message(saved, monkeypatch, error, told: str) -> None:
    from_hub(monkeypatch, error)
    with pytest.raises(WeightsError, match=f"sr3-photo.*{told}") as caught:
        weights.locate(entry_of(saved))
    assert "\n" not in str(caught.value)


def test_a_disk_full_of_downloads(saved, monkeypatch) -> None:
    from_hub(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DiskFull, match="HF_HOME"):
        weights.locate(entry_of(saved))


def test_damaged_downloads_are_refused_with_a_cure(saved, monkeypatch) -> None:
    from_hub(monkeypatch, saved)
    entry = entry_of(saved)
    content = saved.read_bytes()
    assert weights.locate(entry) == saved
    saved.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(saved, ns=(1, 1))  # as another moment, however coarse the clock
    with pytest.raises(WeightsError, match=r"sr3-photo: .*mine.* its sha256 is .*; delete .* run"):
        weights.locate(entry)
    saved.write_bytes(content[:-9])
    with pytest.raises(WeightsError, match=rf"{len(content) - 9} bytes, not {len(content)}"):
        weights.locate(entry)
    saved.write_bytes(content)
    os.utime(saved, ns=(2, 2))
    with pytest.raises(WeightsError, match="its sha256 is"):
        weights.locate(replace(entry, sha256="f" * 64))
    assert weights.locate(entry) == saved


def test_a_missing_or_damaged_bundled_file_asks_for_a_new_installation() -> None:
    alex = weights.find("lpips-alex")
    for broken in (replace(alex, bundled="none.safetensors"), replace(alex, sha256="0" * 64)):
        with pytest.raises(WeightsError, match=r"lpips-alex: .*; install diffsr again"):
            weights.locate(broken)


def test_a_file_is_hashed_once(saved, monkeypatch) -> None:
    first = weights.sha256_of(saved)
    monkeypatch.setattr(hashlib, "sha256", None)
    assert weights.sha256_of(saved) == first
