"""Inputs that another program made, and several datasets in one run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from upscale.convert.checkpoints import convert
from upscale.convert.table import Hints
from upscale.errors import InputError, UsageError
from upscale.nets.compact import CompactConfig
from upscale.train import checkpoint
from upscale.train.catalogue import usual_settings
from upscale.train.config import TrainConfig
from upscale.train.data import Batch, Pairs
from upscale.train.datasets import (
    data_difference,
    fingerprint,
    held_out,
    pictures_of,
    resolve,
    separate,
)
from upscale.train.feed import feed
from upscale.train.pictures import Pair, Streamed
from upscale.train.run import Options, not_in_memory, run_training
from upscale.train.sources import Mixed
from upscale.train.validate import examples
from upscale.weights import store

SCALE = 4
CONFIG = TrainConfig(patch=32, batch=8, scale_min=4.0, scale_max=4.0, warmup=1)
SMALL = CompactConfig(
    channels=(8, 8, 8), down=(1, 1, 1), up=(1, 1), encoder=1, head=(4, 4), embedding=8
)
NEVER = Options(validate_every=0)


def quiet(line: str) -> None:
    pass


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def pair(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(target, input): each pixel of the input is known to every pixel of the target above it.

    Red and green are the place in the input's pixels, blue the picture; of an input the blue is
    what no program would make of the target."""
    rows, columns = np.mgrid[0:height, 0:width]
    blue = np.full_like(rows, 10 * number)
    hr = np.stack([rows // SCALE, columns // SCALE, blue], 2).astype(np.uint8)
    rows, columns = np.mgrid[0 : height // SCALE, 0 : width // SCALE]
    lr = np.stack([rows, columns, np.full_like(rows, 200 + number)], 2).astype(np.uint8)
    return hr, lr


def pairs_in(folder: Path, numbers: Iterable[int] = range(3), low="LR/{}.png") -> Path:
    for number in numbers:
        hr, lr = pair(number, 50 + number, 70)  # with a remainder that is cut
        save(folder / f"HR/{number}.png", hr)
        save(folder / low.format(number), lr)
    return folder


def photos_in(folder: Path, count: int = 3) -> Path:
    rng = np.random.default_rng(1)
    for number in range(count):
        save(folder / f"{number}.png", rng.integers(0, 256, (40, 52, 3), dtype=np.uint8))
    return folder


def batches(spec: object, config: TrainConfig = CONFIG, cache: int = 1 << 30) -> Pairs:
    items = resolve(str(spec), Path("none"), config=config).train
    return Pairs(pictures_of(items, config, cache, quiet), config)


def given(batch: Batch) -> list[bool]:
    """Which examples are those of `pair`."""
    return [bool(((lr[2] + 1) * 127.5 >= 199.5).all()) for lr in batch.lr]


def same(a: Batch, b: Batch) -> bool:
    both = [(a.hr, b.hr), (a.lr_up, b.lr_up), *zip(a.lr, b.lr, strict=True)]
    return all(torch.equal(x, y) for x, y in both)


# --- pairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("degradation", ["bicubic", "real"])
@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_both_sides_of_a_pair_are_the_same_place_and_untouched(tmp_path, degradation, cache):
    config = replace(CONFIG, degradation=degradation, drawings=0.5)
    made = batches(pairs_in(tmp_path), config, cache)
    assert isinstance(made.pictures, Streamed) == (not cache) and made.paired == 3
    seen, ways = set(), set()
    for iteration in range(6):
        batch = made.batch(iteration)
        assert all(given(batch)) and batch.scale.tolist() == [SCALE] * 8
        for hr, lr in zip(batch.hr, batch.lr, strict=True):
            hr, lr = ((x + 1) * 127.5 for x in (hr, lr))
            torch.testing.assert_close(hr, hr.round(), atol=1e-4, rtol=0)  # a file's own pixels
            below = lr.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
            torch.testing.assert_close(hr[:2], below[:2], atol=1e-4, rtol=0)
            assert (lr[2, 0, 0] - 200) * 10 == pytest.approx(float(hr[2, 0, 0]), abs=1e-2)
            seen.add(tuple(lr[:2].amin((1, 2)).round().tolist()))
            across, down = lr[:2, 0, 1] - lr[:2, 0, 0], lr[:2, 1, 0] - lr[:2, 0, 0]
            ways.add((*across.round().tolist(), *down.round().tolist()))
    assert len(seen) > 10 and len(ways) == 4  # places; mirrored, transposed
    assert same(made.batch(3), batches(tmp_path, config, cache).batch(3))
    (again,) = next(feed(made, lambda i: [range(8)], 3, 4, 0, torch.device("cpu")))
    assert same(made.batch(3), again)


def test_inputs_of_one_side_are_parts_of_that_side(tmp_path) -> None:
    batch = batches(pairs_in(tmp_path), replace(CONFIG, lr_side=5)).batch(0)
    assert batch.hr.shape == (8, 3, 20, 20) and {lr.shape for lr in batch.lr} == {(3, 5, 5)}


def test_aligned_pictures_are_mirrored_alone(tmp_path) -> None:
    made = batches(pairs_in(tmp_path), replace(CONFIG, whole=True, crop="augmented"))
    steps = {float((lr[0, 0, 1] - lr[0, 0, 0]).round()) for lr in made.batch(0).lr}
    assert steps == {0.0}  # rows stay rows


def test_memory_and_files_give_the_same_pairs(tmp_path) -> None:
    pairs_in(tmp_path)
    inside, outside = (batches(tmp_path, cache=cache) for cache in (1 << 30, 0))
    assert all(same(inside.batch(i), outside.batch(i)) for i in range(3))


@pytest.mark.parametrize(
    "low, spec",
    [
        ("LR/{}.png", "{}"),
        ("LR/{}x4.png", "pairs:{}"),
        ("LRx4/{}.png", "pairs:{}"),
        ("LR_bicubic/X4/{}x4.png", "pairs:{}"),
        ("elsewhere, small/{}.png", "pairs:{0}/elsewhere, small={0}/HR"),
    ],
)
def test_layouts_of_pairs(tmp_path, low, spec) -> None:
    pairs_in(tmp_path / "mine", low=low)
    data = resolve(spec.format(tmp_path / "mine"), tmp_path, config=CONFIG)
    assert len(data.train) == 3 and data.label in ("mine (pairs)", "HR (pairs)")
    item = data.train[1]
    assert Path(item.name).name == "1.png" and item.small.stem in ("1", "1x4")
    few = resolve(spec.format(tmp_path / "mine"), tmp_path, ["2.png"], config=CONFIG).train
    assert [Path(few[0].name).name, few[0].small.stem[0], len(few)] == ["2.png", "2", 1]


def test_a_folder_with_both_is_pairs_whatever_else_is_in_it(tmp_path) -> None:
    photos_in(pairs_in(tmp_path) / "truth")
    for spec in (f"folder:{tmp_path}", str(tmp_path)):
        assert len(resolve(spec, tmp_path, config=CONFIG).train) == 3
    assert len(resolve(f"{tmp_path}/HR,{tmp_path}/LR", tmp_path).train) == 6


def test_small_pictures_beside_the_truths_are_no_truths(tmp_path) -> None:
    pairs_in(tmp_path, low="LRx4/{}.png")
    items = resolve(str(tmp_path), tmp_path, config=CONFIG).train
    assert {Path(items[i].name).parent.name for i in range(len(items))} == {"HR"}
    assert (len(items), items[0].small) == (3, None)


def test_what_is_wrong_with_pairs_is_named(tmp_path) -> None:
    pairs_in(tmp_path)
    save(tmp_path / "HR/lonely.png", pair(0, 40, 40)[0])
    with pytest.raises(InputError, match=r"LR: nothing named as lonely "):
        resolve(f"pairs:{tmp_path}", tmp_path, config=CONFIG)
    (tmp_path / "HR/lonely.png").rename(tmp_path / "LR/lonely.png")
    with pytest.raises(InputError, match="nothing named as lonely "):
        resolve(f"pairs:{tmp_path}", tmp_path, config=CONFIG)
    (tmp_path / "LR/lonely.png").unlink()
    with pytest.raises(UsageError, match=r"of one magnification.*--scale 4"):
        resolve(str(tmp_path), tmp_path, config=replace(CONFIG, scale_max=8.0))
    with pytest.raises(UsageError, match="--patch 32 is no multiple of 3"):
        three = replace(CONFIG, scale_min=3.0, scale_focus=3.0, scale_max=3.0)
        resolve(str(tmp_path), tmp_path, config=three)
    two = replace(CONFIG, scale_min=2.0, scale_focus=2.0, scale_max=2.0)
    with pytest.raises(InputError, match=r"0\.png: 17x12, which times 2 is not 0\.png's 70x50"):
        batches(tmp_path, two)
    with pytest.raises(InputError, match="no folder LR or LRx4 in it"):
        resolve(f"pairs:{photos_in(tmp_path / 'photos')}", tmp_path, config=CONFIG)
    with pytest.raises(InputError, match="none: No such file"):
        resolve(f"pairs:{tmp_path}/LR={tmp_path}/none", tmp_path, config=CONFIG)


def test_pairs_that_cannot_be_read_are_named_and_left_out(tmp_path) -> None:
    pairs_in(tmp_path)
    (tmp_path / "LR/1.png").write_bytes(b"no picture")
    save(tmp_path / "HR/2.png", pair(2, 24, 24)[0])
    save(tmp_path / "LR/2.png", pair(2, 24, 24)[1])
    told: list[str] = []
    items = resolve(str(tmp_path), tmp_path, config=CONFIG).train
    assert len(pictures_of(items, CONFIG, 1 << 30, told.append)) == 1
    assert any("LR/1.png" in line for line in told)
    assert any("HR/2.png: 24x24 is smaller than an example" in line for line in told)


def test_a_picture_that_lies_on_its_side_goes_with_one_that_does_not(tmp_path) -> None:
    hr, lr = pair(0, 48, 64)
    save(tmp_path / "LR/a.png", lr)
    (tmp_path / "HR").mkdir()
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(hr)))
    exif = turned.getexif()
    exif[274] = 6  # to be turned clockwise
    turned.save(tmp_path / "HR/a.png", exif=exif)
    made = batches(tmp_path)
    assert np.array_equal(made.pictures[0].hr, hr) and np.array_equal(made.pictures[0].lr, lr)


def test_held_out_pairs_are_validated_with_their_own_inputs(tmp_path) -> None:
    items, apart = held_out(resolve(str(pairs_in(tmp_path)), tmp_path, config=CONFIG).train, 1)
    assert len(items) == 2 and items[0].small and apart[0].small.name == "1.png"
    ((truth, small),) = examples(apart, CONFIG, quiet)
    assert truth.shape == (3, 32, 32) and small.shape == (3, 8, 8)
    assert float((small[2, 0, 0] + 1) * 127.5) == pytest.approx(201)
    assert torch.equal(truth[:2, ::SCALE, ::SCALE], small[:2])


def test_other_inputs_than_before_are_told(tmp_path) -> None:
    pairs_in(tmp_path)
    before = fingerprint(resolve(str(tmp_path), tmp_path, config=CONFIG).train)
    plain = fingerprint(resolve(f"{tmp_path}/HR", tmp_path).train)
    assert data_difference(plain, before) == "other sizes of files"
    Image.open(tmp_path / "LR/0.png").save(tmp_path / "LR/0.png", compress_level=0)
    now = fingerprint(resolve(str(tmp_path), tmp_path, config=CONFIG).train)
    assert data_difference(before, now) == "other sizes of files"


# --- several datasets ---------------------------------------------------------------------------


def test_a_comma_that_belongs_to_a_path_stays(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "a,b/LR", "a,b/HR", "b"):
        Path(name).mkdir()
    assert separate("a,b") == ["a,b"]
    assert separate("a,b,b") == ["a,b", "b"]
    assert separate("b,a,b") == ["b", "a,b"]
    assert separate("ffhq, cat") == ["ffhq", "cat"]
    assert separate("folder:a,b,hf:a/b@c") == ["folder:a,b", "hf:a/b@c"]
    assert separate("pairs:a,b/LR=a,b/HR,b") == ["pairs:a,b/LR=a,b/HR", "b"]
    with pytest.raises(UsageError, match="nothing stands before or after"):
        separate("b,")


@pytest.mark.parametrize("mix, share", [("", 0.5), ("0.9,0.1", 0.1), ("1,3", 0.75), ("1,0", 0)])
@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_each_dataset_gives_its_share(tmp_path, mix, share, cache) -> None:
    spec = f"{photos_in(tmp_path / 'photos', 9)},{pairs_in(tmp_path / 'scans')}"
    config = replace(CONFIG, mix=mix, batch=50)
    data = resolve(spec, tmp_path, config=config)
    assert data.label == f"{1 - share:.3g} photos, {share:.3g} scans (pairs)"
    made = batches(spec, config, cache)
    assert len(made.pictures) == 12 and made.paired == 3
    assert made.chance[9:].sum() == pytest.approx(share)
    drawn = np.mean([given(made.batch(i)) for i in range(4)])
    assert drawn == pytest.approx(share, abs=0.12)
    assert same(made.batch(2), batches(spec, config, 1 << 30).batch(2))


def test_a_mix_is_held_out_and_compared_by_source(tmp_path) -> None:
    spec = f"{photos_in(tmp_path / 'photos', 9)},{pairs_in(tmp_path / 'scans')}"
    items, apart = held_out(resolve(spec, tmp_path, config=CONFIG).train, 4)
    assert [len(part) for part in items.datasets] == [6, 2]
    assert [len(part) for part in apart.datasets] == [3, 1]
    assert [small.shape[-1] for _, small in examples(apart, CONFIG, quiet)] == [8] * 4
    counts, names, sizes = fingerprint(items).split(":")
    assert counts == "6+2" and names.count("+") == sizes.count("+") == 1


def test_packed_pictures_are_mixed_too(tmp_path) -> None:
    lmdb = pytest.importorskip("lmdb")
    database = lmdb.open(str(tmp_path / "cat"), map_size=1 << 22)
    photos = photos_in(tmp_path / "photos", 2)
    with database.begin(write=True) as writing:
        for number, path in enumerate(sorted(photos.iterdir())):
            writing.put(b"%d" % number, path.read_bytes())
        writing.put(b"broken", b"broken")
    database.close()
    made = batches(f"{tmp_path / 'cat'},{pairs_in(tmp_path / 'scans')}")
    assert made.chance[:3] == pytest.approx([1 / 6] * 3)
    found = [made.batch(i) for i in range(3)]
    assert any("broken" in line for batch in found for line in batch.skipped)
    assert 6 < sum(sum(given(batch)) for batch in found) < 18


@pytest.mark.parametrize(
    "mix, why",
    [
        ("1,2", "2 shares for 1 of"),
        ("a,1", "give shares as 0.7,0.3"),
        ("1,,2", "give shares as 0.7,0.3"),
        ("1,-1", "from 0 on"),
        ("1,nan", "from 0 on"),
        ("0,0", "not all 0"),
    ],
)
def test_shares_that_are_none_are_told(tmp_path, mix, why) -> None:
    with pytest.raises(UsageError, match=f"--mix {mix}: .*{why}"):
        resolve(str(photos_in(tmp_path)), tmp_path, config=replace(CONFIG, mix=mix))


def test_a_dataset_of_a_mix_that_has_no_pictures_is_named(tmp_path) -> None:
    one = photos_in(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no picture"):
        resolve(f"{one},{tmp_path / 'empty'}", tmp_path)
    (tmp_path / "empty/a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 files as .*empty/a\.png"):
        batches(f"{one},{tmp_path / 'empty'}")


def test_a_mix_has_the_settings_that_its_datasets_share() -> None:
    assert usual_settings("ffhq,celeba") == usual_settings("ffhq") != {}
    assert usual_settings("ffhq,imagenet") == {"crop": "square"}
    assert usual_settings("ffhq,photos") == usual_settings("photos") == {}


# --- a run --------------------------------------------------------------------------------------


def test_a_run_on_a_mix_tells_about_it_and_resumes(tmp_path) -> None:
    spec = f"{photos_in(tmp_path / 'photos')},{pairs_in(tmp_path / 'scans')}"
    config = replace(CONFIG, batch=2, iterations=2, mix="0.25,0.75", net="compact-tiny")

    def run(output: str, config: TrainConfig = config, **more) -> tuple[dict, dict]:
        data = resolve(spec, tmp_path, config=config)
        path = run_training(config, data, tmp_path / output, device="cpu", options=NEVER, **more)
        return store.read(path)

    left = iter([False])
    run("parts", should_stop=lambda: next(left, True))
    lines: list[str] = []
    (whole, told), (parts, _) = run("whole", say=lines.append), run("parts")
    assert lines[0] == "6 pictures from 0.25 photos, 0.75 scans (pairs)"
    data = resolve(spec, tmp_path, config=config)
    some = Mixed([pictures_of(part, config, cache, quiet) for cache, part in
                  zip((0, 1 << 30), data.train.datasets, strict=True)])  # fmt: skip
    assert not_in_memory(Pairs(some, config)) == ", 3 of them read from where they are at each use"
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert told["training"]["dataset"] == "0.25 photos, 0.75 scans (pairs)"
    assert (told["training"]["pictures"], told["training"]["pairs"]) == (6, 3)
    assert told["consistency"] == "off"  # the input need not be what the truth shrinks to
    card = (tmp_path / "whole/sr3.md").read_text()
    assert "| small pictures by | bicubic; of 3 pictures whoever made the pairs |" in card
    saved = tmp_path / "whole/checkpoint-00000002.safetensors"
    assert convert(saved, Hints())[1]["consistency"] == "off"
    with pytest.raises(UsageError, match=r"other settings \(mix\)"):
        run("parts", replace(config, mix=""))


def test_a_run_on_pairs_alone_is_validated_on_them(tmp_path) -> None:
    pairs_in(tmp_path / "scans")
    config = replace(CONFIG, batch=2, iterations=2, holdout=1, drawings=0.5)
    told: list[str] = []
    path = run_training(config, tmp_path / "scans", tmp_path / "run", device="cpu", net=SMALL,
                        options=Options(validate_every=2), say=told.append)  # fmt: skip
    assert "--drawings 0.5 changes no example: pairs are used as they are" in told
    assert "| small pictures by | whoever made the pairs |" in path.with_suffix(".md").read_text()
    assert list((tmp_path / "run/samples").iterdir())
    record = checkpoint.newest(tmp_path / "run", quiet)[2]
    assert record["paired"] == 2 and load_file(path)


def test_a_pair_is_as_large_as_its_parts() -> None:
    hr, lr = pair(0, 48, 64)
    assert Pair(hr, lr).shape == (48, 64, 3) and Pair(hr, lr).nbytes == hr.nbytes + lr.nbytes
