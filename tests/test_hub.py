"""Files of the Hub: fetched into its cache by the real client's ways, through every fault."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from hub_double import REPO, HubDouble, sha256
from huggingface_hub import constants

from upscale.errors import (
    DamagedWeights,
    DiskFull,
    GatedRepo,
    HubOffline,
    HubUnreachable,
    NoFile,
    NoRepo,
    NoRevision,
    UntrustedWeights,
    UsageError,
    WeightsError,
)
from upscale.weights.hub import failures, files
from upscale.weights.hub.names import Hub, parse

NAME = "w/a.safetensors"
CONTENT = bytes(range(256)) * 400  # 100 KiB: several blocks of a download
HERE = Hub(REPO, "c" * 40, NAME)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def cache(hub_cache) -> Path:
    return hub_cache


@pytest.fixture
def hub(hub_double) -> HubDouble:
    hub_double.files[NAME] = CONTENT
    return hub_double


def fetch(hub: Hub = HERE, **rest) -> Path:
    return files.fetch(hub, **{"sha256": sha256(CONTENT), "size": len(CONTENT), **rest})


def blobs(cache: Path) -> list[str]:
    return [path.name for path in cache.glob("models--*/blobs/*")]


# --- names --------------------------------------------------------------------------------------


def test_names() -> None:
    assert parse("hf:o/r/a.safetensors") == Hub("o/r", "main", "a.safetensors")
    assert parse("hf:o/r@v1.0/d/a.safetensors") == Hub("o/r", "v1.0", "d/a.safetensors")
    assert parse("hf:o/r@v1/a.safetensors", "refs/pr/1").revision == "refs/pr/1"
    assert str(parse("hf:o/r")) == "hf:o/r@main"
    assert Hub("o/r", "c" * 40).pinned and not Hub("o/r", "c" * 39).pinned


@pytest.mark.parametrize("text", ["o/r/a", "hf:", "hf:o", "hf:o/", "hf:/r/a", "hf:o/r/", "hf:o/r@"])
def test_what_is_no_place_on_the_hub_is_a_mistake_of_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"hf:ORG/REPO|no revision behind"):
        parse(text)


@pytest.mark.parametrize(
    "file",
    [
        "../a.safetensors", "a/../../b.safetensors", "/etc/a.safetensors", "a//b.safetensors",
        "..\\a.safetensors", "C:/a.safetensors", ".hidden.safetensors", "a/.git/b.safetensors",
        "a\n.safetensors", "a\0.safetensors", "~/a.safetensors", "./a.safetensors",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(file: str) -> None:
    with pytest.raises(UntrustedWeights, match="no file name of the Hub"):
        Hub(REPO, "main", file)


@pytest.mark.parametrize(
    "repo, revision", [("../r", "main"), ("o/..", "main"), ("o/r", ".."), ("o/r", "a/../../b")]
)
def test_repositories_and_revisions_that_lead_elsewhere_are_refused(repo, revision) -> None:
    with pytest.raises(UntrustedWeights, match="of the Hub: it is not used"):
        Hub(repo, revision, NAME)


def test_a_pickle_is_not_even_asked_for() -> None:
    with pytest.raises(UntrustedWeights, match=r"not a \.safetensors file .* weights import"):
        parse("hf:o/r/model.pth")


# --- fetching -----------------------------------------------------------------------------------


def test_what_is_fetched_lies_where_the_client_looks(hub, cache) -> None:
    seen = []
    path = fetch(on_bytes=lambda done, of: seen.append((done, of)))
    assert path.read_bytes() == CONTENT and path.resolve().name == sha256(CONTENT)
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    theirs = huggingface_hub.hf_hub_download(
        REPO, NAME, revision=HERE.revision, local_files_only=True
    )
    assert Path(theirs) == path == files.cached(HERE)
    scanned = huggingface_hub.scan_cache_dir(cache)
    assert not scanned.warnings and scanned.size_on_disk == len(CONTENT)
    assert files.pinned_by(path) == HERE.revision
    asked = len(hub.log)
    assert fetch() == path and hub.asked("GET") == [None]  # the content is known by its hash
    assert files.cached(HERE) == path and len(hub.log) == asked + 1


def test_a_branch_is_asked_for_anew_and_its_last_state_is_kept(hub) -> None:
    branch = Hub(REPO, "main", NAME)
    assert files.cached(branch) is None
    first = files.fetch(branch)
    assert files.cached(branch) == first
    hub.commit, hub.files[NAME] = "d" * 40, CONTENT[::-1]
    assert files.cached(branch) == first
    second = files.fetch(branch)
    assert second.read_bytes() == CONTENT[::-1] and files.cached(branch) == second
    assert first.read_bytes() == CONTENT and files.pinned_by(second) == "d" * 40


def test_the_token_goes_to_the_hub_and_to_no_other_host(hub) -> None:
    hub.cdn = True
    assert fetch().read_bytes() == CONTENT
    elsewhere = [path for path in hub.authorised if path.startswith("/cdn")]
    assert elsewhere and all(hub.authorised[path] is None for path in elsewhere)
    own = {value for path, value in hub.authorised.items() if not path.startswith("/cdn")}
    assert own == {"Bearer hf_secret"}


ABSENT = "f" * 40
ERRORS = [
    ({"repo": "org/other"}, {}, NoRepo, r"org/other does not exist on the Hub or is private"),
    ({"revision": ABSENT}, {}, NoRevision, rf"org/weights has no revision {ABSENT}"),
    ({"file": "b.safetensors"}, {}, NoFile, r"has no file b\.safetensors .*pull hf:org/weights"),
    ({}, {"HEAD": (403, {"X-Error-Code": "GatedRepo"})}, GatedRepo, "accept its terms.*hf auth"),
    ({}, {"HEAD": (500, {})}, HubUnreachable, r"HTTP 500\); check the network"),
    ({}, {"GET": (500, {})}, HubUnreachable, r"HTTP 500\)"),
    ({}, {"HEAD": (404, {})}, HubUnreachable, r"HTTP 404\).*HF_ENDPOINT"),
    ({}, {"GET": (403, {"X-Error-Code": "GatedRepo"})}, GatedRepo, "accept its terms"),
]


@pytest.mark.parametrize("change, errors, kind, told", ERRORS)
def test_every_error_of_the_hub_has_its_class_and_the_cache_stays_usable(
    hub, cache, change, errors, kind, told
) -> None:
    hub.errors = errors
    place = Hub(**{"repo": REPO, "revision": HERE.revision, "file": NAME, **change})
    with pytest.raises(kind, match=told) as caught:
        fetch(place)
    assert type(caught.value) is kind and caught.value.exit_code == 5
    assert "\n" not in str(caught.value) and blobs(cache) == []
    hub.errors = {}
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_what_may_pass_is_tried_three_times(hub, status: int, method: str) -> None:
    hub.errors, hub.failing = {method: (status, {})}, 2
    assert fetch().read_bytes() == CONTENT and len(hub.asked(method)) == 3


def test_what_does_not_pass_is_tried_once(hub) -> None:
    hub.errors = {"HEAD": (403, {})}
    with pytest.raises(HubUnreachable, match="HTTP 403"):
        fetch()
    assert len(hub.log) == 1


@pytest.mark.parametrize(
    "method, setting", [("HEAD", "HF_HUB_ETAG_TIMEOUT"), ("GET", "HF_HUB_DOWNLOAD_TIMEOUT")]
)
def test_a_server_that_hangs_is_left_after_one_wait(hub, monkeypatch, method, setting) -> None:
    hub.hang = method
    with monkeypatch.context() as patch:
        patch.setattr(constants, setting, 0.3)
        started = time.monotonic()
        with pytest.raises(HubUnreachable, match=r"could not be fetched from http.*Timeout"):
            fetch()
        assert time.monotonic() - started < 30 and len(hub.asked(method)) == 1
    hub.hang = None
    assert fetch().read_bytes() == CONTENT


def test_a_server_that_hangs_midway_is_asked_once_for_the_rest(hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    hub.hang, hub.hang_at = "GET", len(CONTENT) // 2
    with pytest.raises(HubUnreachable, match="Timeout"):
        fetch()
    assert hub.asked("GET") == [None, f"bytes={len(CONTENT) // 2}-"]


def test_the_waits_are_short_by_default() -> None:
    assert constants.DEFAULT_ETAG_TIMEOUT <= 10 and constants.DEFAULT_DOWNLOAD_TIMEOUT <= 10
    assert sum(failures.PAUSES) <= 3


def test_no_server(cache, monkeypatch) -> None:
    with HubDouble() as gone:
        pass
    gone.announce(monkeypatch)
    with pytest.raises(HubUnreachable, match=r"ConnectError.*check the network"):
        fetch()
    with pytest.raises(HubUnreachable, match=r"^nothing could be uploaded .*ConnectError.*write"):
        files.upload(REPO, {NAME: CONTENT}, "a message", private=False)


def test_offline(hub, monkeypatch) -> None:
    for place in (HERE, Hub(REPO)):
        ask = files.fetch if place.file else files.listing
        with pytest.raises(HubOffline, match=r"offline; run `diffsr weights pull` once online"):
            ask(place, offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubOffline):
        fetch()
    assert not hub.log


# --- wrong bytes --------------------------------------------------------------------------------


def flipped(content: bytes, at: int = 5000) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


WRONG = {
    "a flipped byte": (flipped(CONTENT), "its hash is not"),
    "truncated": (CONTENT[:-1000], f"{len(CONTENT) - 1000} bytes instead of {len(CONTENT)}"),
    "too long": (flipped(CONTENT) + b"x" * 9000, "(its hash is not|bytes instead of)"),
    "empty": (b"", "0 bytes instead of"),
    "another page": (b"<html>log in</html>", "19 bytes instead of"),
}


@pytest.mark.parametrize("known", [True, False], ids=["listed", "unlisted"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_bytes_never_come_into_the_cache(hub, cache, case: str, known: bool) -> None:
    hub.served[NAME], told = WRONG[case]
    expected = {} if known else {"sha256": None, "size": None}
    with pytest.raises(DamagedWeights, match=rf"{NAME}: what came is not .*{told}") as caught:
        fetch(**expected)
    assert caught.value.exit_code == 5 and "it is removed" in str(caught.value)
    assert blobs(cache) == [] and files.cached(HERE) is None
    hub.served.clear()
    assert fetch(**expected).read_bytes() == CONTENT


def test_another_file_than_the_listed_one_is_refused_before_it_is_fetched(hub) -> None:
    with pytest.raises(DamagedWeights, match=r"has 102400 bytes there, not 7: not fetched"):
        fetch(size=7)
    hub.sizes[NAME] = len(CONTENT) + 5
    with pytest.raises(DamagedWeights, match=r"102405 bytes there, not 102400"):
        fetch()
    assert not hub.asked("GET")


def test_bytes_that_came_packed_are_unpacked_in_bounds(hub, cache) -> None:
    hub.packing, hub.served[NAME] = "gzip", gzip.compress(CONTENT)
    assert fetch().read_bytes() == CONTENT
    files.discard(files.cached(HERE))
    hub.served[NAME] = gzip.compress(bytes(200 << 20))  # 200 kB that stand for 200 MB
    tracemalloc.start()
    with pytest.raises(DamagedWeights, match="what came is not the file"):
        fetch()
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    hub.packing = "br"
    with pytest.raises(HubUnreachable, match=r"came packed \(br\)"):
        fetch()
    assert files.cached(HERE) is None


def test_a_server_that_sends_next_to_nothing_is_left(hub, cache, monkeypatch) -> None:
    monkeypatch.setattr(files, "_WINDOW", 0.05)
    monkeypatch.setattr(files, "_LEAST", 10**9)
    hub.pace = 0.04
    with pytest.raises(HubUnreachable, match="bytes a second came"):
        fetch()
    monkeypatch.undo()


def test_more_bytes_than_any_weights_have_are_not_fetched(hub, cache, monkeypatch) -> None:
    monkeypatch.setattr(files, "_MOST", 1000)
    with pytest.raises(DamagedWeights, match="more than any weights"):
        fetch()
    assert not hub.asked("GET") and blobs(cache) == []


def test_gits_names_of_small_files_are_hashes_too(hub, cache) -> None:
    git = subprocess.run(
        ["git", "hash-object", "--stdin"], input=CONTENT, capture_output=True, check=True
    )
    hub.etags[NAME] = git.stdout.decode().strip()
    hub.served[NAME] = flipped(CONTENT)
    with pytest.raises(DamagedWeights, match="its hash is not"):
        fetch(sha256=None)
    hub.served.clear()
    path = fetch(sha256=None)
    files.check_sent(path)
    path.resolve().write_bytes(flipped(CONTENT))
    with pytest.raises(DamagedWeights, match="not what the Hub sent"):
        files.check_sent(path)
    files.discard(path)
    assert files.cached(HERE) is None and blobs(cache) == []
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ["../../../evil", "..", "", "a b"])
def test_an_etag_that_would_lead_out_of_the_cache_is_refused(hub, cache, etag: str) -> None:
    hub.etags[NAME] = etag
    with pytest.raises(HubUnreachable, match="does not answer as the Hub does"):
        fetch()
    assert not list(cache.parent.rglob("*evil*")) and not hub.asked("GET")


def test_a_listing_with_a_name_that_leads_elsewhere_is_refused(hub, cache) -> None:
    for name in ("../../evil.safetensors", "/etc/evil.safetensors", "a/..\\evil.safetensors"):
        hub.listed = ["README.md", name]
        with pytest.raises(UntrustedWeights, match=r"evil.*no file name of the Hub"):
            files.listing(Hub(REPO))
    hub.listed = ["README.md", "a.safetensors", "a.golden.safetensors", "model.pth"]
    assert files.listing(Hub(REPO)) == [Hub(REPO, "c" * 40, "a.safetensors")]


# --- broken off ---------------------------------------------------------------------------------


def test_a_connection_cut_at_every_tenth_is_taken_up_again(hub) -> None:
    tenth = len(CONTENT) // 10
    hub.cuts = [tenth * k for k in range(1, 10)]
    assert fetch().read_bytes() == CONTENT
    assert hub.asked("GET") == [None, *(f"bytes={tenth * k}-" for k in range(1, 10))]


@pytest.mark.parametrize("tenths", range(10))
def test_the_next_run_goes_on_where_one_was_cut(hub, cache, tenths: int) -> None:
    cut = len(CONTENT) * tenths // 10
    hub.cuts = [cut] * 4
    with pytest.raises(HubUnreachable, match=r"run again, which resumes the download"):
        fetch()
    assert files.cached(HERE) is None
    before = len(hub.asked("GET"))
    hub.cuts = []
    assert fetch().read_bytes() == CONTENT
    assert hub.asked("GET")[before:] == [f"bytes={cut}-" if cut else None]
    assert blobs(cache) == [sha256(CONTENT)]


def test_a_server_without_ranges_begins_again(hub) -> None:
    hub.ranges, hub.cuts = False, [60_000]
    assert fetch().read_bytes() == CONTENT
    assert hub.asked("GET") == [None, "bytes=60000-"]


def test_a_file_that_ends_where_the_part_does_is_looked_at(hub, cache) -> None:
    hub.served[NAME], hub.refusing = CONTENT[:50_000], True
    with pytest.raises(DamagedWeights, match="50000 bytes instead of 102400"):
        fetch()
    assert hub.asked("GET") == [None, "bytes=50000-"] and blobs(cache) == []


def test_what_the_client_links_to_elsewhere_is_known_by_its_own_name(hub, tmp_path) -> None:
    path = fetch()
    blob = path.resolve()
    elsewhere = tmp_path / ("e" * 64)  # a store that several caches share, by other hashes
    blob.rename(elsewhere)
    blob.symlink_to(elsewhere)
    files.check_sent(path)
    files.discard(path)
    assert elsewhere.is_file() and not blob.is_symlink() and not path.is_symlink()


def test_a_users_own_file_behind_a_link_is_never_removed(hub, tmp_path) -> None:
    path = fetch()
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"damaged, but the user's")
    path.unlink()
    path.symlink_to(own)
    with (
        pytest.raises(DamagedWeights, match="removed from the cache"),
        files.removing_damaged(path),
    ):
        files.check_sent(path)
        raise DamagedWeights("its content")
    assert own.is_file() and not path.is_symlink()
    assert fetch() == path and path.read_bytes() == CONTENT


def test_a_download_goes_through_no_link(hub, cache, tmp_path) -> None:
    path = fetch()
    own = tmp_path / "notes.txt"
    own.write_text("mine")
    blob = path.resolve()
    partial = blob.with_name(f"{blob.name}.diffsr.incomplete")
    blob.unlink()
    partial.symlink_to(own)
    assert fetch().read_bytes() == CONTENT and not partial.is_symlink()
    assert own.read_text() == "mine"


def test_a_part_of_another_file_is_found_out_and_dropped(hub, cache) -> None:
    hub.cuts = [50_000] * 4
    with pytest.raises(HubUnreachable):
        fetch()
    (partial,) = cache.glob("models--*/blobs/*.incomplete")
    partial.write_bytes(bytes(50_000))
    hub.cuts = []
    with pytest.raises(DamagedWeights, match="its hash is not"):
        fetch()
    assert fetch().read_bytes() == CONTENT


@pytest.fixture
def client(hub, cache) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process of its own with the real client, which waits 60 s for an answer."""
    started = []
    head = "from upscale.weights.hub import files\nfrom upscale.weights.hub.names import Hub\n"
    head += f"hub = Hub({REPO!r}, {HERE.revision!r}, {NAME!r})\n"
    waits = {"HF_HUB_DOWNLOAD_TIMEOUT": "60", "HF_HUB_ETAG_TIMEOUT": "60"}

    def start(code: str, place: Path = cache) -> subprocess.Popen:
        told = {**waits, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(place)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", head + code], env={**os.environ, **told},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_two_processes_fetch_one_file_once(hub, client) -> None:
    hub.pace = 0.1
    code = f"print(files.fetch(hub, sha256={sha256(CONTENT)!r}))"
    both = [client(code) for _ in range(2)]
    paths = {ended(process).strip() for process in both}
    assert paths == {str(files.cached(HERE))} and len(hub.asked("GET")) == 1
    assert files.cached(HERE).read_bytes() == CONTENT


def test_a_killed_download_goes_on_in_the_next_process(hub, cache, client) -> None:
    hub.hang, hub.hang_at = "GET", 70_000
    process = client("files.fetch(hub)")
    limit = time.monotonic() + 300
    while not [p for p in cache.rglob("*.incomplete") if p.stat().st_size == 70_000]:
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    hub.hang = None
    assert fetch().read_bytes() == CONTENT and hub.asked("GET")[-1] == "bytes=70000-"


# --- disks --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="has no such users")
def test_a_cache_that_cannot_be_written_can_be_read(hub, client, monkeypatch) -> None:
    base = Path(tempfile.mkdtemp(prefix="diffsr-test-"))  # tmp_path is closed to other users
    base.chmod(0o755)
    other = base.with_name(base.name + "-2")
    try:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(base / "hub"))
        path = fetch()
        for place in base.rglob("*"):
            place.chmod(0o555 if place.is_dir() else 0o444)
        # root may write anywhere: become nobody, once all is imported that a download needs
        code = (
            "import os\nfrom huggingface_hub import constants\n"
            f"constants.HF_HUB_CACHE = {str(other)!r}\n"
            f"files.fetch(hub)\nconstants.HF_HUB_CACHE = {str(base / 'hub')!r}\n"
            "if os.geteuid() == 0:\n    os.seteuid(65534)\n"
            "print(files.cached(hub))\nfiles.check_sent(files.cached(hub))\n"
            "try:\n    files.fetch(Hub(hub.repo, hub.revision, 'b.safetensors'))\n"
            "except Exception as error:\n    print(type(error).__name__, error)\n"
        )
        hub.files["b.safetensors"] = b"other"
        found, told = ended(client(code, base / "hub")).splitlines()
    finally:
        for place in (base, *base.rglob("*")):
            if place.is_dir():
                place.chmod(0o755)
        shutil.rmtree(base)
        shutil.rmtree(other, ignore_errors=True)
    assert found == str(path) and told.startswith("WeightsError hf:org/weights@")
    assert "cannot be written (Permission denied); set HF_HOME to a folder of yours" in told


def test_a_full_disk_is_said_before_the_download_and_during_it(hub, cache, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(DiskFull, match=r"no room for it in .*hub; set HF_HOME") as caught:
            fetch()
    assert caught.value.exit_code == 4 and not hub.asked("GET")

    def full(done: int, of: int | None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskFull):
        fetch(on_bytes=full)
    assert fetch().read_bytes() == CONTENT


def test_a_file_system_without_links(hub, monkeypatch) -> None:
    def refuse(self, target) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    path = fetch()
    assert path.read_bytes() == CONTENT and not path.is_symlink()
    assert files.cached(HERE) == path
    files.check_sent(path)  # its name is no hash: nothing is known
    files.discard(path)
    assert files.cached(HERE) is None


def test_what_cannot_be_removed_is_told(hub, monkeypatch) -> None:
    path = fetch()

    def refuse(self, missing_ok=False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WeightsError, match="cannot be removed: Read-only"):
        files.discard(path)
