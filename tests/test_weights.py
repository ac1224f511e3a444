"""The list of weights and its files: schema, choosing, damage, the Hub's failures, saving."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_double import REPO

from upscale import methods
from upscale.errors import (
    DamagedWeights,
    DiskFull,
    GatedRepo,
    HubOffline,
    NoFile,
    OutputError,
    UntrustedWeights,
    UsageError,
    WeightsError,
)
from upscale.model import build
from upscale.pipeline.models import read_as
from upscale.weights import choice, golden, publish, registry, store

pytestmark = pytest.mark.packaged

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
    store.save(path, state, {"method": "sr3", "scales": [4], "domain": "face", "net": "tiny"})
    return path


def entry_of(path: Path, **changes: object) -> store.Entry:
    entry = store.Entry(
        name="sr3-photo", method="sr3", net="tiny", domain="photo", scales=(4.0,),
        any_scale=False, sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size, licence="x",
        hub=store.Hub("o/r", REVISION, "a.safetensors"),
    )  # fmt: skip
    return replace(entry, **changes)


# --- the list -----------------------------------------------------------------------------------


def test_every_listed_file_that_is_bundled_is_there_and_right() -> None:
    known = store.entries()
    assert known["lpips-alex"].domain == "metric"
    for entry in known.values():
        if entry.bundled:
            state, _ = store.load(entry)
            assert state and all(torch.isfinite(v).all() for v in state.values())
        if entry.card and (ROOT / "weights.toml").is_file():
            assert (ROOT / entry.card).is_file(), f"{entry.name}: no card {entry.card}"


def test_nothing_is_bundled_that_is_not_listed() -> None:
    there = {path.name for path in (registry.PACKAGE / "bundled").glob("*.safetensors")}
    assert there == {entry.bundled for entry in store.entries().values() if entry.bundled}


def test_an_entry_is_read(listed) -> None:
    listed(SR3)
    entry = store.find("sr3-photo")
    assert entry.scales == (4.0, 8.0) and not entry.any_scale and entry.bundled is None
    assert entry.hub == store.Hub("o/r", REVISION, "a.safetensors")
    assert entry.scales_text() == "x4, x8"
    listed(SR3.replace("[4, 8]", "{ min = 1, max = 8.5 }"))
    entry = store.find("sr3-photo")
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
        ("a.safetensors", "../a.safetensors", r"hub must be what the Hub has: .*no file name"),
        ("a.safetensors", "a.pth", r"hub.file must be a \.safetensors file"),
        ('repo = "o/r", ', "", r"hub must be"),
        ('"o/r"', "3", r"hub must be"),
        (
            "size = 10",
            "size = 10\npath = 'a.safetensors'",
            r"path must be left out: give bundled or",
        ),
        ("hub = ", "#", r"bundled or hub must be given"),
        ("hub = ", 'bundled = "../a.safetensors" #', r"bundled must be the name"),
    ],
)
def test_a_wrong_entry_is_refused_by_name_and_key(listed, old: str, new: str, told: str) -> None:
    assert old in SR3
    listed(SR3.replace(old, new))
    with pytest.raises(WeightsError, match=r"\[weights\.sr3-photo\]: .*" + told) as caught:
        store.entries()
    _, line, _ = str(caught.value).split(":", 2)
    shown = SR3.replace(old, new).splitlines()[int(line) - 1]
    assert shown == "[weights.sr3-photo]" or shown.split(" ")[0] in str(caught.value)


@pytest.mark.parametrize("text", ["[weights", "x = 1", "weights = 3", "[weights]\na = 3"])
def test_a_wrong_file_is_refused(listed, text: str) -> None:
    listed(text)
    with pytest.raises(WeightsError, match=r"weights\.toml"):
        store.entries()


def test_a_missing_list_says_so(listed) -> None:
    listed("").unlink()
    with pytest.raises(WeightsError, match="install diffsr again"):
        store.entries()


def test_errors_name_the_line(listed) -> None:
    text = SR3 + SR3.replace("sr3-photo", "other")
    for old, new, line in [
        ("size = 10", "size = 0", 19),
        ("hub = ", "hubs = ", 22),
        ('domain = "photo"', "", 13),
        ('"o/r"', '"../r"', 22),
    ]:
        at = text.rindex(old)
        listed(text[:at] + new + text[at + len(old) :])
        with pytest.raises(WeightsError, match=rf"weights\.toml:{line}: \[weights\.other\]: "):
            store.entries()
    listed("# mine\n\nx = 1\n" + SR3)
    with pytest.raises(WeightsError, match=r"weights\.toml:3: it may hold \[weights\.NAME\]"):
        store.entries()
    listed("[weights]\n\na = 3")
    with pytest.raises(WeightsError, match=r"weights\.toml:3: weights\.a must be a table"):
        store.entries()
    listed('[weights.a]\nmethod = "sr3\n')
    with pytest.raises(WeightsError, match=r"weights\.toml: not TOML: .*line 2"):
        store.entries()


@pytest.fixture
def heads(listed, two_headed_weights, tmp_path, monkeypatch):
    """Writes a list of the user's own, in which `two` has ECDP's two heads and `one` is of it."""
    file = Path(two_headed_weights)
    whole = f"""[weights.two]
method = "ecdp"
net = "tiny"
domain = "photo"
scales = [4]
shrinks_to = 2
sha256 = "{store.sha256_of(file)}"
size = {file.stat().st_size}
licence = "test"
path = "{file}"
"""

    def put(one: str) -> Path:
        path = tmp_path / "own.toml"
        path.write_text(f"{whole}\n[weights.one]\n{one}\n", encoding="utf-8")
        monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(path))
        registry._entries.cache_clear()
        return path

    listed(SR3)
    yield put
    registry._entries.cache_clear()


def test_a_head_of_other_weights_is_weights_of_its_method(heads) -> None:
    """SR3 gets what ECDP's head for the clean target says, and nothing else changes."""
    heads('head_of = "two"\nmethod = "sr3"\nshrinks_to = 3')
    one, two = store.find("one"), store.find("two")
    assert (one.method, one.shrinks_to, one.path) == ("sr3", 3, two.path)
    assert (one.scales, one.sha256, one.size) == (two.scales, two.sha256, two.size)
    mine, theirs = (build(*store.load(entry)) for entry in (one, two))
    assert (mine.method, mine.std, mine.law.sampler) == ("sr3", theirs.std, theirs.law.sampler)
    assert mine.law.noising == methods.get("sr3").noising != theirs.law.noising
    alike = golden.make(read_as(theirs, "hybrid-x0"), 4.0).output
    assert torch.allclose(golden.make(mine, 4.0).output, alike, atol=1e-5)
    assert not torch.allclose(golden.make(theirs, 4.0).output, alike, atol=1e-2)


@pytest.mark.parametrize(
    "one", ['head_of = "none"\nmethod = "sr3"', 'head_of = "one"\nmethod = "sr3"', "head_of = 3"]
)
def test_what_a_head_may_be_of(heads, one: str) -> None:
    heads(one)
    told = r"own\.toml:13: \[weights\.one\]: head_of must be the name of weights of this list"
    with pytest.raises(WeightsError, match=told):
        store.entries()


@pytest.mark.parametrize("method", ["regression", "liif", "ecdp", "none"])
def test_a_head_for_a_method_that_it_does_not_answer_is_told(heads, method: str) -> None:
    heads(f'head_of = "two"\nmethod = "{method}"')
    with pytest.raises(WeightsError, match=f"one: its file has no head for {method}"):
        store.load(store.find("one"))


def test_a_head_is_published_and_checked_with_the_whole(heads) -> None:
    heads('head_of = "two"\nmethod = "sr3"')
    with pytest.raises(WeightsError, match=r"two has no golden vectors: there is no .*two\.golden"):
        golden.check(store.find("one"))
    with pytest.raises(UsageError, match="one is a head of two: publish that"):
        publish.bundle(store.find("one"), "org/repo", "CC0-1.0")


def test_lists_of_the_users_own(listed, saved, tmp_path, monkeypatch) -> None:
    listed(SR3)
    place = tmp_path / "settings" / "diffsr" / "weights.toml"
    place.parent.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.parents[1]))
    shown = SR3.replace('card = "docs/models/sr3-photo.md"\n', "")
    place.write_text(shown.replace("sr3-photo", "theirs"), encoding="utf-8")
    named = tmp_path / "named.toml"
    mine = shown.replace("sr3-photo", "mine").replace("a" * 64, store.sha256_of(saved))
    mine = mine[: mine.index("hub =")].replace("size = 10", f"size = {saved.stat().st_size}")
    named.write_text(mine + 'path = "mine.safetensors"\n', encoding="utf-8")
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(named))
    assert list(store.entries()) == ["sr3-photo", "mine", "theirs"]
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(place))
    assert list(store.entries()) == ["sr3-photo", "theirs"]
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(named))
    entry = store.find("mine")
    assert entry.source == named and store.state_of(entry) == "local"
    assert store.load(entry)[0]["n"].tolist() == [3, 4]
    saved.write_bytes(saved.read_bytes()[:-1] + b"x")
    os.utime(saved, ns=(1, 1))
    with pytest.raises(DamagedWeights, match=r"mine: .*mine\.safetensors is damaged"):
        store.load(entry)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("[weights.mine]", "[weights.sr3-photo]"), r"own\.toml:2: .* is already defined in .*"),
        (("hub =", "path = 'a.safetensors' #"), None),
        (("hub =", "path = 'a.zip' #"), r"own\.toml:11: .*path must be the path of a file of we"),
        (("hub =", "bundled = 'a.safetensors' #"), r"own\.toml:11: .*bundled must be left out"),
        (("hub =", "path = 'a.safetensors'\nhub ="), "only one of them: hub or path"),
    ],
)
def test_what_an_own_list_may_hold(listed, tmp_path, monkeypatch, change, told) -> None:
    listed(SR3)
    path = tmp_path / "own.toml"
    path.write_text(SR3.replace("sr3-photo]", "mine]").replace(*change), encoding="utf-8")
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(path))
    if told is None:
        assert store.entries()["mine"].path == tmp_path / "a.safetensors"
    else:
        with pytest.raises(WeightsError, match=told):
            store.entries()
    path.unlink()
    registry._entries.cache_clear()
    with pytest.raises(WeightsError, match=r"own\.toml: .*cannot be read.*DIFFSR_WEIGHTS_TOML"):
        store.entries()


def test_unknown_names_get_a_suggestion(listed) -> None:
    listed(SR3)
    with pytest.raises(WeightsError, match=r"named sr3-foto; did you mean sr3-photo\? Choose from"):
        store.find("sr3-foto")
    with pytest.raises(
        WeightsError, match=r"named zzz; choose from sr3-photo, or give a .safetensors file"
    ):
        store.find("zzz")
    with pytest.raises(WeightsError, match=r"no/such\.safetensors: there is no such file"):
        store.find("no/such.safetensors")
    with pytest.raises(WeightsError, match=r"model\.pth: there is no such file"):
        store.find("model.pth")


def test_no_name_is_no_folder(monkeypatch, saved) -> None:
    """As --weights "$UNSET" in a folder that happens to have weights."""
    monkeypatch.chdir(saved.parent)
    with pytest.raises(UsageError, match="no weights named: give a name"):
        store.find("")


def test_where_no_home_is_known(monkeypatch) -> None:
    """As for a user of a container who has no name; and ~NAME of nobody."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert "sr3-photo" in store.entries()
    with pytest.raises(WeightsError, match=r"~/mine\.safetensors: there is no such file"):
        store.find("~/mine.safetensors")


def test_choosing(listed) -> None:
    face = SR3.replace("sr3-photo", "sr3-face").replace('"photo"', '"face"').replace("4, 8", "8")
    any_scale = SR3.replace("sr3-photo", "sr3-any").replace("[4, 8]", "{ min = 1, max = 5 }")
    listed(any_scale + SR3 + face)
    assert choice.choose(("sr3",), 4).name == "sr3-photo"  # made for it: before the range
    assert choice.choose(("sr3",), 3.3).name == "sr3-any"
    assert choice.choose(("sr3",), 8, "face").name == "sr3-face"
    assert choice.choose(("sr3",), 7).name == "sr3-photo"
    assert choice.choose(("sr3",), 5.1).name == "sr3-any"


def test_choosing_in_vain_says_what_there_is(listed) -> None:
    listed(SR3)
    with pytest.raises(WeightsError, match=r"weights for sr3; choose from sr3-photo \(--weights"):
        choice.choose(("sr3",), 4, "face")
    with pytest.raises(
        WeightsError, match=r"no weights for ecdp; .*--method ecdp --scale 2\.5"
    ) as e:
        choice.choose(("ecdp",), 2.5)
    assert e.value.exit_code == 5


# --- saving and reading -------------------------------------------------------------------------


def test_a_round_trip_keeps_everything(tmp_path: Path) -> None:
    shared = torch.randn(3, 5)
    state = {
        "a": shared, "tied": shared, "view": torch.randn(4, 6).T, "n": torch.tensor(7),
        "empty": torch.zeros(0, 2), "half": torch.randn(3).bfloat16(),
    }  # fmt: skip
    meta = {"method": "sr3", "scales": {"min": 1, "max": 8}, "net": "groß", "config": {"w": [1]}}
    path = tmp_path / "w.safetensors"
    store.save(path, state, meta)
    found, found_meta = store.read(path)
    assert found_meta == meta and found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_half_halves_floats_only_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    store.save(path, {"a": torch.ones(3) / 3, "n": torch.tensor([70000])}, {}, half=True)
    found, _ = store.read(path)
    assert found["a"].dtype == torch.float16 and found["n"].tolist() == [70000]
    before = path.read_bytes()
    with pytest.raises(WeightsError, match=r"big is not finite as fp16; not saved"):
        store.save(path, {"big": torch.tensor([7e4])}, {}, half=True)
    with pytest.raises(WeightsError, match=r"bad is not finite; not saved"):
        store.save(path, {"bad": torch.tensor([float("nan")])}, {})
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"mine\.safetensors"):
        store.save(saved, {"a": torch.ones(2)}, {})
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1
    with pytest.raises(OutputError, match="cannot be written"):
        store.save(saved.parent / "none" / "w.safetensors", {"a": torch.ones(2)}, {})


def test_a_local_file_is_an_entry(saved: Path) -> None:
    entry = store.find(saved)
    assert (entry.name, entry.method, entry.domain, entry.net) == ("mine", "sr3", "face", "tiny")
    assert entry.scales == (4.0,) and entry.size == saved.stat().st_size
    assert entry.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    state, meta = store.load(entry)
    assert state["n"].tolist() == [3, 4] and meta["scales"] == [4]


def test_a_file_without_our_header_has_tensors_but_is_no_entry(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, path)
    assert store.read(path)[1] == {}
    with pytest.raises(WeightsError, match=r"foreign\.safetensors"):
        store.find(path)
    store.save(path, {"a": torch.ones(2)}, {"scales": [2]})
    with pytest.raises(WeightsError, match="which method"):
        store.find(path)
    store.save(path, {"a": torch.ones(2)}, {"method": "sr3", "scales": [0]})
    with pytest.raises(WeightsError, match="scales are invalid"):
        store.find(path)


def test_every_flipped_bit_and_every_cut_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for at in range(0, len(content), 7):
        saved.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        # (JSON allows some other spellings of one header; then nothing that counts has changed.)
        try:
            state, meta = store.read(saved)
        except WeightsError as error:
            assert "mine.safetensors" in str(error) and "make it again" in str(error)
        else:
            saved.write_bytes(content)
            right, right_meta = store.read(saved)
            assert meta == right_meta and all(torch.equal(state[k], right[k]) for k in right)
    for length in (0, 5, 8, 50, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"mine\.safetensors: damaged"):
            store.read(saved)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(UntrustedWeights, match="pickled"):
        store.read(path)
    path.rename(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        store.read(tmp_path / "w.safetensors")


# --- locating -----------------------------------------------------------------------------------


@pytest.fixture
def entry(saved, hub_double) -> store.Entry:
    """One that is on the Hub, as `saved`."""
    hub_double.commit = REVISION
    hub_double.files["a.safetensors"] = saved.read_bytes()
    return entry_of(saved, hub=store.Hub(REPO, REVISION, "a.safetensors"))


def test_a_fresh_file_is_fetched_and_a_cached_one_needs_no_network(entry, hub_double) -> None:
    assert store.state_of(entry) == "remote"
    path = store.locate(entry)
    assert store.sha256_of(path) == entry.sha256 and store.state_of(entry) == "cached"
    hub_double.log.clear()
    assert store.locate(entry, offline=True) == store.locate(entry) == path
    assert not hub_double.log


def test_failures_of_the_hub_name_the_weights_and_keep_their_class(entry, hub_double) -> None:
    with pytest.raises(HubOffline, match=r"^sr3-photo: hf:org/weights.* diffsr is offline"):
        store.locate(entry, offline=True)
    hub_double.errors["HEAD"] = (403, {"X-Error-Code": "GatedRepo"})
    with pytest.raises(GatedRepo, match=r"^sr3-photo: org/weights asks you to accept"):
        store.locate(entry)
    hub_double.errors.clear()
    with pytest.raises(NoFile, match=r"^sr3-photo: org/weights has no file b\.safetensors"):
        store.locate(replace(entry, hub=replace(entry.hub, file="b.safetensors")))


@pytest.mark.parametrize("kind", ["flipped", "cut"])
def test_a_damaged_cache_is_never_used_and_the_next_run_recovers(entry, kind: str) -> None:
    path = store.locate(entry)
    content = path.read_bytes()
    wrong = {"flipped": content[:-1] + bytes([content[-1] ^ 1]), "cut": content[:-9]}[kind]
    path.write_bytes(wrong)
    os.utime(path, ns=(1, 1))  # as another moment, however coarse the clock
    told = rf"sr3-photo: .*{path.name} is damaged: .*removed from the cache: run again"
    with pytest.raises(DamagedWeights, match=told):
        store.load(entry)
    assert store.state_of(entry) == "remote"
    assert store.locate(entry).read_bytes() == content


def test_other_content_than_the_listed_one_is_no_weights(entry, hub_double) -> None:
    with pytest.raises(DamagedWeights, match=f"its hash is not {'f' * 64}"):
        store.locate(replace(entry, sha256="f" * 64))
    assert store.state_of(entry) == "remote"


def test_local_files_are_hashed_too(saved) -> None:
    entry = store.find(saved)
    content = saved.read_bytes()
    saved.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(saved, ns=(1, 1))
    with pytest.raises(DamagedWeights, match=r"its sha256 is .*it changed while diffsr was"):
        store.locate(entry)


def test_a_place_on_the_hub_is_an_entry(entry, hub_double) -> None:
    name = f"hf:{REPO}/a.safetensors"
    found = store.find(name)
    assert found.name == f"hf:{REPO}@{REVISION}/a.safetensors"
    assert (found.method, found.domain, found.scales) == ("sr3", "face", (4.0,))
    state, meta = store.load(found, offline=True)
    assert state["n"].tolist() == [3, 4] and meta["net"] == "tiny"
    hub_double.log.clear()
    assert store.find(name, offline=True) == found and not hub_double.log
    with pytest.raises(HubOffline):
        store.find(f"hf:{REPO}@v2/a.safetensors", offline=True)
    with pytest.raises(UsageError, match="names no file"):
        store.find(f"hf:{REPO}")


def test_only_files_that_nobody_knows_by_their_hash_may_be_changed(entry, saved) -> None:
    assert store.find(saved).loose
    assert not store.find(f"hf:{REPO}/a.safetensors").loose  # its path is the cache's
    assert not entry.loose and not store.find("lpips-alex").loose
    assert not replace(store.find(saved), source=Path("own.toml")).loose


def test_an_unlisted_damaged_file_is_noticed_named_and_removed(entry) -> None:
    name = f"hf:{REPO}/a.safetensors"
    path = store.locate(store.find(name))
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedWeights, match=r"a\.safetensors: .* not what the Hub sent; it is r"):
        store.find(name)
    assert store.locate(store.find(name)).read_bytes() == content


def test_a_file_that_the_hub_names_by_no_hash_is_checked_by_its_own(entry, hub_double) -> None:
    hub_double.etags["a.safetensors"] = "version-7"
    content = hub_double.files["a.safetensors"]
    hub_double.files["a.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    found = store.find(f"hf:{REPO}/a.safetensors")
    with pytest.raises(DamagedWeights, match=r"not what was saved.*removed from the cache"):
        store.load(found)
    hub_double.files["a.safetensors"] = content
    assert store.load(store.find(f"hf:{REPO}/a.safetensors"))[0]["n"].tolist() == [3, 4]


def test_pulling(entry, hub_double, listed) -> None:
    found, path = store.pull(f"hf:{REPO}")  # the only weights there
    assert found.sha256 == store.sha256_of(path) == entry.sha256
    hub_double.files["b.safetensors"] = hub_double.files["a.safetensors"]
    with pytest.raises(WeightsError, match=r"several weights; name one: .*/a\.s.*, hf.*/b\.s"):
        store.pull(f"hf:{REPO}")
    hub_double.files = {"README.md": b""}
    with pytest.raises(WeightsError, match=r"has no weights \(\.safetensors\)"):
        store.pull(f"hf:{REPO}")
    assert store.pull(f"hf:{REPO}/a.safetensors", offline=True)[1] == path
    assert store.pull(f"hf:{REPO}/a.safetensors", REVISION)[1] == path  # pinned: not asked for
    with pytest.raises(NoFile):
        store.pull(f"hf:{REPO}/a.safetensors")  # of the branch: asked for
    listed(SR3.replace("o/r", REPO).replace("a" * 64, entry.sha256)
           .replace("size = 10", f"size = {entry.size}"))  # fmt: skip
    assert store.pull("sr3-photo")[1] == path.resolve()
    with pytest.raises(UsageError, match="--revision is for hf:"):
        store.pull("sr3-photo", "main")


def test_removing(entry, hub_double, saved, listed) -> None:
    listed(SR3)
    store.pull(f"hf:{REPO}/a.safetensors")
    path = store.remove(f"hf:{REPO}/a.safetensors")
    assert not path.exists() and not path.is_symlink()
    for name, told in [
        (f"hf:{REPO}/a.safetensors", "is not in the Hub's cache"),
        ("sr3-photo", "is not in the Hub's cache"),
        (str(saved), "remove it as any other file"),
    ]:
        with pytest.raises(WeightsError, match=told):
            store.remove(name)
    assert saved.is_file()


def test_a_missing_or_damaged_bundled_file_asks_for_a_new_installation() -> None:
    alex = store.find("lpips-alex")
    for broken in (replace(alex, bundled="none.safetensors"), replace(alex, sha256="0" * 64)):
        with pytest.raises(WeightsError, match=r"lpips-alex: .*; install diffsr again"):
            store.locate(broken)


def test_a_file_is_hashed_once(saved, monkeypatch) -> None:
    first = store.sha256_of(saved)
    monkeypatch.setattr(hashlib, "sha256", None)
    assert store.sha256_of(saved) == first
