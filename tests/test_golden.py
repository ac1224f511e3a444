"""Golden vectors, what is published with them, and both again from the Hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_double import REPO, HubDouble

from upscale.errors import DamagedWeights, InputError, NoFile, NoRepo, UsageError, WeightsError
from upscale.model import build
from upscale.weights import file, golden, publish, store
from upscale.weights.hub import files
from upscale.weights.hub.names import Hub

pytestmark = pytest.mark.packaged

FILE = "tiny.safetensors"


@pytest.fixture
def entry(tiny_weights, tmp_path) -> store.Entry:
    """The tiny network's weights in a folder of their own."""
    path = tmp_path / FILE
    path.write_bytes(Path(tiny_weights).read_bytes())
    return store.find(path)


def stored(entry: store.Entry) -> Path:
    """Its golden vectors, beside it."""
    path = entry.path.with_name("tiny.golden.safetensors")
    golden.store(golden.make(build(*store.load(entry)), 4.0), entry.sha256, path)
    return path


def test_vectors_come_out_the_same_again(entry) -> None:
    path = stored(entry)
    state, told = file.read(path)
    assert state["lr"].shape == (1, 3, 6, 7) and state["noise"].shape == (1, 3, 24, 28)
    assert state["output"].shape == (3, 3, 24, 28) and told["golden"]["sigmas"] == [0.05, 0.5, 5]
    # the estimates are those of a denoiser: they depend on the noise level and on the input
    assert (state["output"][0] - state["output"][2]).abs().max() > 0.01
    assert golden.check(entry) < 0.5


@pytest.mark.parametrize("threads", [1, 2])
def test_they_do_not_depend_on_the_number_of_threads(entry, threads: int) -> None:
    before = torch.get_num_threads()
    stored(entry)
    torch.set_num_threads(threads)
    try:
        assert golden.check(entry) < 0.5
    finally:
        torch.set_num_threads(before)


def test_two_heads_and_their_mean_have_vectors_too(two_headed_weights) -> None:
    model = build(*store.load(store.find(two_headed_weights)))
    assert golden.make(model, 3.0).output.shape == (3, 3, 18, 21)


def test_another_answer_is_told(entry) -> None:
    path = stored(entry)
    state, told = file.read(path)
    state["output"][1, 0, 3, 4] += 2e-3
    file.save(path, state, told)
    with pytest.raises(WeightsError, match=r"its network answers otherwise .* by 6\.\d+ times"):
        golden.check(entry)


def test_vectors_of_other_weights_and_none_are_told(entry) -> None:
    with pytest.raises(WeightsError, match=r"has no golden vectors: there is no .*tiny\.golden"):
        golden.check(entry)
    path = stored(entry)
    state, told = file.read(path)
    told["golden"]["weights_sha256"] = "0" * 64
    file.save(path, state, told)
    with pytest.raises(WeightsError, match="golden vectors of other weights than tiny"):
        golden.check(entry)
    file.save(path, {"lr": state["lr"]}, told)
    with pytest.raises(DamagedWeights, match="holds no golden vectors"):
        golden.check(entry)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedWeights, match=r"tiny\.golden\.safetensors: damaged"):
        golden.check(entry)


def test_a_network_without_finite_answers_has_none(entry) -> None:
    state, metadata = store.load(entry)
    model = build({k: v * torch.inf for k, v in state.items()}, metadata)
    with pytest.raises(WeightsError, match="not finite"):
        golden.make(model, 2.0)


# --- publishing ---------------------------------------------------------------------------------


def published(entry: store.Entry, licence: str = "CC-BY-SA-4.0") -> str:
    """Uploaded; the entry for a list."""
    made = publish.bundle(entry, REPO, licence)
    commit = files.upload(REPO, made, "weights", private=False)
    return publish.listed(entry, Hub(REPO, commit, publish.file_of(entry)), licence)


def test_what_is_published_is_pulled_and_verified_by_its_entry(
    entry, hub_double: HubDouble, tmp_path, monkeypatch
) -> None:
    content = entry.path.read_bytes()
    text = published(entry)
    assert set(hub_double.files) == {FILE, "tiny.golden.safetensors", "README.md"}
    assert hub_double.files[FILE] == content
    card = hub_double.files["README.md"].decode()
    assert card.startswith("---\nlicense: cc-by-sa-4.0\nlibrary_name: diffsr\n")
    assert f"diffsr in.png --weights hf:{REPO}/{FILE}" in card and entry.sha256 in card
    own = tmp_path / "own.toml"
    own.write_text(text, encoding="utf-8")
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(own))
    found = store.find("tiny")
    assert (found.sha256, found.size, found.licence) == (entry.sha256, len(content), "CC-BY-SA-4.0")
    assert found.scales == entry.scales and found.any_scale and found.hub.pinned
    assert store.locate(found).read_bytes() == content
    assert golden.check(found) < 0.5
    hub_double.log.clear()
    assert golden.check(found, offline=True) < 0.5 and not hub_double.log
    assert golden.check(store.find(f"hf:{REPO}/{FILE}")) < 0.5


def test_damaged_vectors_in_the_cache_are_removed(entry, hub_double, tmp_path) -> None:
    published(entry)
    found = store.find(f"hf:{REPO}/{FILE}")
    golden.check(found)
    path = files.cached(replace(found.hub, file="tiny.golden.safetensors"))
    path.resolve().write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DamagedWeights, match=r"not what the Hub sent; it is removed .*: run again"):
        golden.check(found)
    assert golden.check(found) < 0.5
    del hub_double.files["tiny.golden.safetensors"]
    files.discard(files.cached(replace(found.hub, file="tiny.golden.safetensors")))
    with pytest.raises(NoFile, match=r"no file tiny\.golden\.safetensors"):
        golden.check(found)


def test_entries_are_toml_whatever_the_words(entry, monkeypatch, tmp_path) -> None:
    strange = replace(entry, net='a "net"\\ of ∞', scales=(2.0, 4.5), any_scale=False)
    own = tmp_path / "own.toml"
    own.write_text(
        publish.listed(strange, Hub(REPO, "c" * 40, "a.safetensors"), "MIT, or so"), "utf-8"
    )
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(own))
    found = store.find("a")
    assert (found.net, found.scales, found.licence) == (strange.net, (2.0, 4.5), "MIT, or so")


def test_licence_and_card(entry, tmp_path) -> None:
    with pytest.raises(UsageError, match="names no licence: under which one is it given"):
        publish.bundle(entry, REPO, "")
    card = tmp_path / "card.md"
    card.write_text("# Mine\n", encoding="utf-8")
    text = publish.bundle(entry, REPO, "My own: free", card)["README.md"].decode()
    head = '---\nlicense: other\nlicense_name: "My own: free"\nlibrary_name: diffsr\n'
    assert text.startswith(head) and text.endswith("---\n\n# Mine\n")
    with pytest.raises(InputError, match="the card cannot be read"):
        publish.bundle(entry, REPO, "MIT", tmp_path / "none.md")


def test_who_may_not_write_is_told(entry, hub_double) -> None:
    hub_double.errors["POST"] = (401, {"X-Error-Code": "RepoNotFound"})
    with pytest.raises(NoRepo, match="org/weights does not exist on the Hub or is private"):
        files.upload(REPO, {"a.txt": b"a"}, "a", private=True)


def test_a_card_tells_what_the_file_does(entry) -> None:
    card = publish.bundle(entry, REPO, "MIT")["README.md"].decode()
    _, metadata = store.load(entry)
    assert json.dumps(metadata.get("process", {})) in card
    assert "sampler ddim, spacing phi, steps 2" in card and "x1 to x8" in card
