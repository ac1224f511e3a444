"""Where training pictures come from, how examples are cut and degraded, how batches are made."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from upscale.errors import InputError, UsageError
from upscale.image.compress import compressed
from upscale.image.decode import size_of
from upscale.image.resize import resize
from upscale.train import crops, degrade, drawings, tables
from upscale.train.catalogue import DATASETS
from upscale.train.config import TrainConfig
from upscale.train.data import Batch, Pairs, quantised
from upscale.train.datasets import fingerprint, held_out, names_in, pictures_of, resolve
from upscale.train.dist import World, shares
from upscale.train.feed import feed
from upscale.train.pictures import Streamed, load
from upscale.train.sources import Files, find

CONFIG = TrainConfig(patch=32, batch=4, scale_min=2.0, scale_max=4.0)
CPU = torch.device("cpu")


def png(seed: int, size: tuple[int, int] = (62, 50)) -> bytes:
    """A picture of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for index in range(5):
        name = f"deep/{index}.png" if index % 2 else f"{index}.png"
        (folder / name).write_bytes(png(index, (62 + index, 50)))
    return folder


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.hr, b.hr), (a.lr_up, b.lr_up), (a.scale, b.scale), *zip(a.lr, b.lr, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


def quiet(line: str) -> None:
    pass


# --- sources ------------------------------------------------------------------------------------


def shard(path: Path, numbers: range) -> Path:
    """A tar file in webdataset's layout: pictures beside what belongs to them."""
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for name, content in ((f"{number:06d}.png", png(number)), (f"{number:06d}.cls", b"7")):
                entry = tarfile.TarInfo(f"train/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def test_tar_shards_hold_the_pictures_of_a_folder(tmp_path) -> None:
    (tmp_path / "plain").mkdir()
    for number in range(5):
        (tmp_path / "plain" / f"{number:06d}.png").write_bytes(png(number))
    (tmp_path / "packed").mkdir()
    shard(tmp_path / "packed/a.tar", range(3))
    shard(tmp_path / "packed/b.tar", range(3, 5))
    items = find(tmp_path / "packed")
    assert len(items) == 5 and items[4].name.endswith("b.tar:train/000004.png")
    streamed, plain = Streamed(items), load(find(tmp_path / "plain"), print)
    assert all(np.array_equal(streamed[i], plain[i]) for i in range(5))
    assert len(find(tmp_path / "packed", ["000002.png"])) == 1
    assert len(find(tmp_path / "packed/a.tar")) == 3
    assert len(find(tmp_path / "packed/a.tar", ["000002.png"])) == 1
    (tmp_path / "cat").mkdir()
    shard(tmp_path / "cat/a.tar", range(101))
    assert len(resolve("cat", tmp_path, ["000100.png"]).train) == 1
    (tmp_path / "packed/a.tar").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(InputError, match=r"a\.tar: no readable tar"):
        find(tmp_path / "packed")


def test_lmdb_holds_the_pictures_of_a_folder(tmp_path) -> None:
    lmdb = pytest.importorskip("lmdb")
    database = lmdb.open(str(tmp_path / "cat"), map_size=1 << 22)
    with database.begin(write=True) as writing:
        for number in range(4):
            writing.put(f"{number:040x}".encode(), png(number))
        writing.put(b"f" * 40, b"broken")
    database.close()
    items = find(tmp_path)
    assert len(find(tmp_path, [f"{2:040x}"])) == 1
    streamed = Streamed(items)
    decoded = np.asarray(Image.open(io.BytesIO(png(2))))
    assert len(items) == 5 and np.array_equal(streamed[2], decoded)
    assert np.array_equal(streamed[4], streamed[0])  # the next that can be read
    assert len(streamed.take_skipped()) == 1 and streamed.take_skipped() == ()
    pairs = Pairs(streamed, replace(CONFIG, crop="square", patch=32))
    whole = [pairs.batch(i) for i in range(3)]
    made = list(feed(pairs, lambda i: [range(4)], 0, 3, 1, CPU))  # read in another process
    assert all(same(a, b[0]) for a, b in zip(whole, made, strict=True))


def test_a_packed_folder_tells_what_to_do(tmp_path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="unpack it"):
        find(tmp_path)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "TGA", "GIF"])
def test_a_header_tells_the_size(tmp_path, format) -> None:
    Image.open(io.BytesIO(png(0, (37, 23)))).save(tmp_path / "x", format)
    assert size_of(tmp_path / "x") == (23, 37)
    (tmp_path / "x").write_bytes(b"no picture")
    with pytest.raises(InputError, match="not a picture"):
        size_of(tmp_path / "x")


def test_reading_at_each_use_gives_the_batches_of_memory(photos) -> None:
    items = find(photos)
    inside = pictures_of(items, CONFIG, 1 << 30, quiet)
    outside = pictures_of(items, CONFIG, 0, quiet)
    assert isinstance(inside, list) and isinstance(outside, Streamed)
    for iteration in range(4):
        a, b = (Pairs(p, CONFIG).batch(iteration) for p in (inside, outside))
        assert same(a, b)


def test_broken_and_small_pictures_are_named_counted_and_replaced(photos, tmp_path) -> None:
    (photos / "bad.png").write_bytes(b"not a picture")
    (photos / "cut.png").write_bytes(png(9)[:-2000])
    (photos / "small.png").write_bytes(png(9, (20, 90)))
    config = replace(CONFIG, crop="patch")
    lines: list[str] = []
    assert len(pictures_of(find(photos), config, 1 << 30, lines.append)) == 5
    assert sorted(line.split("/")[-1].split(":")[0] for line in lines) == [
        "bad.png", "cut.png", "small.png",
    ]  # fmt: skip
    told: list[str] = []
    streamed = pictures_of(find(photos), config, 0, told.append)
    assert len(streamed) == 6 and len(told) == 2  # only decoding shows what is cut short
    pairs = Pairs(streamed, config)
    batches = [pairs.batch(i) for i in range(8)]
    skipped = {line for batch in batches for line in batch.skipped}
    assert len(skipped) == 1 and "cut.png" in skipped.pop()
    assert all(same(a, Pairs(streamed, config).batch(i)) for i, a in enumerate(batches))


@pytest.mark.parametrize("crop", ["augmented", "patch", "square", "stretch", "whole"])
@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_no_picture_is_blown_up_to_be_an_example(tmp_path, crop, cache) -> None:
    sizes = {"a": (31, 90), "b": (90, 31), "c": (8, 8), "d": (32, 32), "e": (33, 60)}
    for name, size in sizes.items():
        (tmp_path / f"{name}.png").write_bytes(png(9, size))
    law = {"whole": True} if crop == "whole" else {"crop": crop}
    config, told = replace(CONFIG, degradation="real", **law), []
    found = pictures_of(find(tmp_path), config, cache, told.append)
    assert len(found) == 2
    for name in "abc":
        assert any(f"{name}.png: " in line and "smaller than an example (32)" in line
                   for line in told)  # fmt: skip
    assert sorted(re.findall(r"skipped \((\d)\)", " ".join(told))) == ["1", "2", "3"]
    (tmp_path / "d.png").unlink()
    (tmp_path / "e.png").unlink()
    with pytest.raises(InputError, match="no readable picture of at least 32x32"):
        pictures_of(find(tmp_path), config, cache, told.append)


def test_of_mixed_examples_each_kind_has_its_share() -> None:
    """Clean ones are bicubic's, mild ones nearer to them than real ones are, on the whole."""
    y, x = np.mgrid[:96, :96] / 96
    picture = np.stack([np.sin(9 * x), np.cos(7 * y), np.sin(40 * x * y)]).astype(np.float32)
    hr, config = torch.from_numpy(picture), TrainConfig(degradation="mixed", second_order=0.5)
    clean = quantised(resize(hr[None], (24, 24)))[0]

    def errors(**shares: float) -> list[float]:
        law, rng = config.with_(**shares), np.random.default_rng(0)
        made = [degrade.small_version(hr, 24, rng, law) for _ in range(30)]
        assert all(small.shape == (3, 24, 24) and small.abs().max() <= 1 for small in made)
        assert torch.equal(made[0], quantised(made[0][None])[0])
        return [float((small - clean).abs().mean()) for small in made]

    assert max(errors(clean_share=1.0, mild_share=0.0)) < 1e-6
    mild, real = errors(clean_share=0.0, mild_share=1.0), errors(clean_share=0.0, mild_share=0.0)
    assert min(mild) > 0.001 and np.median(mild) < 0.7 * np.median(real)
    with pytest.raises(UsageError, match="more than 1 together"):
        config.with_(clean_share=0.6, mild_share=0.6)


def test_a_degraded_example_is_a_part_of_the_picture_as_it_is() -> None:
    # 40 pixels: room for an example of 32, but not for a block of 8 small pixels around it
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    config = replace(CONFIG, degradation="real", scale_min=4.0, scale_focus=4.0)
    pairs, seen = Pairs([picture], config), 0
    values = set(map(tuple, crops.tensor(picture).permute(1, 2, 0).reshape(-1, 3).numpy()))
    for iteration in range(8):
        for hr in pairs.batch(iteration).hr:
            pixels = map(tuple, hr.permute(1, 2, 0).reshape(-1, 3).numpy())
            seen += all(pixel in values for pixel in pixels)  # but for those whose light is changed
    assert seen > 16


def test_data_of_which_nothing_can_be_read_are_no_data(tmp_path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png(0)[:200])
    with pytest.raises(InputError, match=r"cannot be used; the last: .*\.png"):
        Streamed(find(tmp_path))[1]
    with pytest.raises(InputError, match="no readable picture"):
        pictures_of(find(tmp_path), CONFIG, 1 << 30, quiet)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_is_not_there_tells_how_to_get_it(name, tmp_path) -> None:
    with pytest.raises(InputError) as error:
        resolve(name, tmp_path / "sets")
    known = DATASETS[name]
    for text in (known.where, known.licence, known.layout, str(tmp_path / "sets"), "DIFFSR_DATA"):
        assert text in str(error.value)


@pytest.mark.parametrize("name", ["ffhq", "celeba", "df2k", "imagenet", "cat"])
def test_a_dataset_that_is_there_is_found_and_split(name, tmp_path) -> None:
    known = DATASETS[name]
    for part in (*known.train, *known.validation):
        (tmp_path / part.path).mkdir(parents=True, exist_ok=True)
        for index in range(3):
            (tmp_path / part.path / f"{index:03d}.png").write_bytes(png(index))
    if name == "cat":
        for index in range(3, 103):
            (tmp_path / "cat" / f"{index:03d}.png").write_bytes(png(index, (8, 8)))
    lines: list[str] = []
    data = resolve(name, tmp_path, say=lines.append)
    trained = {data.train[i].name for i in range(len(data.train))}
    assert len(trained) == 3 * len(known.train)
    assert (data.label, data.licence) == (name, known.licence)
    assert f"{len(trained)} of {known.pictures:,} pictures are there" in lines[0]
    if data.validation is None:
        assert name == "celeba"  # its validation pictures come after the first 162,770
    else:
        held = {data.validation[i].name for i in range(len(data.validation))}
        assert held and not held & trained
    assert len(resolve(name, tmp_path, [Path(sorted(trained)[0]).name]).train) >= 1


def test_other_ways_to_say_where_pictures_are(photos) -> None:
    for spec in (str(photos), f"folder:{photos}"):
        assert len(resolve(spec, photos).train) == 5
        assert resolve(spec, photos).label == "photos"
    with pytest.raises(UsageError, match="no kind zip"):
        resolve("zip:x", photos)
    with pytest.raises(InputError, match="did you mean ffhq"):
        resolve("fhq", photos)
    with pytest.raises(UsageError, match="want hf:ORG/NAME"):
        resolve("hf:nonsense", photos)


def test_a_list_of_names_has_one_a_line_and_those_of_no_picture_are_told(photos, tmp_path) -> None:
    (photos / "0.png").rename(photos / "my first.png")
    listed = tmp_path / "names.txt"
    listed.write_text("\ufeffmy first.png\n\n3.png\nnot there.png\n", "utf-8")
    lines: list[str] = []
    data = resolve(str(photos), tmp_path, names_in(listed), lines.append)
    assert [data.train[i].file for i in range(len(data.train))] == ["3.png", "my first.png"]
    told = "1 of the 3 names in --names-from are of no picture there, as not there.png"
    assert lines == [told]
    with pytest.raises(InputError, match="no picture of a name in --names-from"):
        resolve(str(photos), tmp_path, ["not there.png"])
    with pytest.raises(InputError, match=r"nowhere\.txt: No such file"):
        names_in(tmp_path / "nowhere.txt")
    listed.write_bytes("3.png".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-8"):
        names_in(listed)


def test_where_an_example_is_cut_has_nothing_to_do_with_which_picture_it_is() -> None:
    columns = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    pictures = [columns.copy() for _ in range(4)]
    for number, picture in enumerate(pictures):
        picture[..., 1] = number
    config = replace(CONFIG, batch=2, crop="patch")
    found: dict[tuple[int, int], list[float]] = {}
    pairs = Pairs(pictures, config)
    for iteration in range(150):
        for place, hr in enumerate(pairs.batch(iteration).hr):
            pixels = torch.round((hr + 1) * 127.5)
            found.setdefault((place, int(pixels[1].max())), []).append(float(pixels[0].min()))
    assert len(found) == 8
    assert all(max(lefts) - min(lefts) > 24 for lefts in found.values())  # of 32


@pytest.mark.parametrize(("ends", "focus"), [((8.0, 8.0), 8), ((1.0, 2.0), 2), ((1.0, 8.0), 4)])
def test_half_of_the_examples_are_at_a_magnification_that_is_learnt(ends, focus) -> None:
    config = TrainConfig(patch=32, batch=40, scale_min=ends[0], scale_max=ends[1])
    scales = Pairs([np.zeros((64, 64, 3), np.uint8)], config).batch(0).scale
    assert ends[0] <= scales.min() and scales.max() <= ends[1]
    assert (scales == focus).float().mean() > 0.3


def test_held_out_pictures_are_spread_and_apart(photos) -> None:
    items = Files([Path(f"{i:03d}.png") for i in range(100)])
    train, validation = held_out(items, 10)
    names = {validation[i].name for i in range(10)}
    assert len(train) == 90 and names == {f"{10 * i + 5:03d}.png" for i in range(10)}
    assert not names & {train[i].name for i in range(90)}
    assert held_out(items, 0) == (items, None)
    with pytest.raises(UsageError, match="leaves nothing of 5"):
        held_out(find(photos), 5)
    assert fingerprint(items) != fingerprint(train) == fingerprint(held_out(items, 10)[0])


def test_the_hubs_tables_are_repacked_as_shards(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = [{"bytes": png(i), "path": None if i else "a.JPEG"} for i in range(3)]
    table = pyarrow.table({"label": [1, 2, 3], "image": [*values[:2], {"bytes": None, "path": ""}]})
    parquet.write_table(table, tmp_path / "train.parquet")
    tables.repacked(tmp_path / "train.parquet", quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["train.tar"]
    streamed = Streamed(find(tmp_path))
    assert len(streamed) == 2
    assert np.array_equal(streamed[1], np.asarray(Image.open(io.BytesIO(png(1)))))
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(InputError, match="no column of pictures"):
        tables.repacked(tmp_path / "text.parquet", quiet)


HUB = """
import http.server, json, sys, threading
from pathlib import Path

FILES, COMMIT = json.loads(sys.argv[1]), "c" * 40

class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self, body, **headers):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if "/none/" in path:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
        elif "/resolve/" in path:
            body = Path(FILES[path.rsplit("/", 1)[1]]).read_bytes()
            self.answer(body, X_Repo_Commit=COMMIT, ETag='"e%d"' % len(body))
        elif "/tree/" in path:
            tree = [{"type": "file", "path": n, "oid": "0" * 40,
                     "size": Path(p).stat().st_size} for n, p in FILES.items()]
            self.answer(json.dumps(tree).encode(), Content_Type="application/json")
        else:
            told = {"id": "o/n", "sha": COMMIT, "cardData": {"license": "cc0-1.0"},
                    "siblings": [{"rfilename": n} for n in FILES]}
            self.answer(json.dumps(told).encode(), Content_Type="application/json")

    do_HEAD = do_GET

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
import os
import re
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_HUB_DISABLE_XET"] = "1"
from upscale.errors import InputError
from upscale.train.tables import fetched

root = Path(sys.argv[2])
try:
    fetched("o/n", root, print, alone=False)
except InputError as error:
    print(error)
folder, label, licence = fetched("o/n", root, print)
print(sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")), label, licence)
server.shutdown()
print(fetched("o/n", root, print)[1])
"""


def test_a_dataset_of_the_hub_is_fetched_once(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    files = json.dumps({"a.png": str(tmp_path / "a.png"), "README.md": str(tmp_path / "a.png")})
    done = subprocess.run(
        [sys.executable, "-c", HUB, files, str(tmp_path / "root")],
        capture_output=True, text=True, timeout=120, env={**_clean(), "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "fetch it in one process first" in lines[0]
    assert lines[-2] == "['a.png'] hf:o/n@cccccccccccc cc0-1.0"
    assert lines[-1] == "hf:o/n@cccccccccccc"  # with no server any more


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "DIFFSR_"))}


# --- examples -----------------------------------------------------------------------------------


def test_crops_of_the_papers() -> None:
    y, x = np.mgrid[0:80, 0:128]
    picture = np.stack([y, x, y * 0], 2).astype(np.uint8)
    rng = np.random.default_rng(0)

    square = crops.plain(picture, replace(CONFIG, crop="square", patch=16), 16)
    rows = (square[0] + 1) * 127.5
    assert float(rows[0, 0]) == pytest.approx(2.0, abs=1e-3)  # the mean of rows 0 to 4
    assert float((square[1, 0, 0] + 1) * 127.5) == pytest.approx(24 + 2.0, abs=1e-3)  # the middle

    patch = replace(CONFIG, crop="patch")
    for _ in range(20):
        hr = (crops.example(picture, patch, 32, rng) + 1) * 127.5
        down, across = (np.sort(hr[c].unique().numpy().round()) for c in (0, 1))
        assert len(down) == len(across) == 32  # at its own size, whichever way it is turned
        assert down[-1] - down[0] == across[-1] - across[0] == 31

    stretched = crops.plain(picture, replace(CONFIG, crop="stretch"), 32)
    assert float((stretched[1, 0, -1] + 1) * 127.5) > 120  # the whole width
    mirrored = {crops.example(picture, replace(CONFIG, crop="stretch"), 32, rng)[1, 0, 0].item()
                for _ in range(20)}  # fmt: skip
    assert len(mirrored) == 2


def test_kernels_are_kernels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        kernel = degrade.gaussian_kernel((0.2, 3.0), rng)
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-5) and bool((kernel >= 0).all())
        assert len(kernel) % 2 == 1 and kernel.isfinite().all()
        torch.testing.assert_close(kernel, kernel.flip(0, 1), atol=1e-5, rtol=1e-4)
        sinc = degrade.sinc_kernel(rng)
        assert float(sinc.sum()) == pytest.approx(1, abs=1e-5) and sinc.isfinite().all()
        torch.testing.assert_close(sinc, sinc.T)
    values = {degrade.sinc_kernel(np.random.default_rng(i)).min().item() < 0 for i in range(20)}
    assert True in values  # it rings


def test_blur_is_the_kernels_correlation_with_its_border_repeated() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((1, 3, 23, 38), dtype=np.float32))
    for kernel in (degrade.sinc_kernel(rng), degrade.gaussian_kernel((0.2, 3.0), rng)):
        lopsided = kernel * torch.rand(kernel.shape, generator=torch.Generator().manual_seed(0))
        pad = len(kernel) // 2
        wide = torch.nn.functional.pad(x, (pad,) * 4, mode="replicate").transpose(0, 1)
        wanted = torch.nn.functional.conv2d(wide, lopsided[None, None]).transpose(0, 1)
        torch.testing.assert_close(degrade._filtered(x, lopsided), wanted, rtol=0, atol=3e-6)


def test_a_codec_loses_what_quality_says() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for codec in ("JPEG", "WEBP"):
        errors = [
            np.abs(compressed(pixels, codec, q).astype(int) - pixels).mean() for q in (95, 30)
        ]
        assert 0 < errors[0] < errors[1] < 80
    with pytest.raises(ValueError, match="no codec"):
        compressed(pixels, "PNG", 50)


def test_real_degradation_is_seeded_and_worse_than_bicubic(scene) -> None:
    big = np.tile(np.round(scene * 255).astype(np.uint8), (3, 4, 1))
    real = replace(CONFIG, degradation="real", patch=64, scale_min=4.0, batch=8)
    clean = replace(real, degradation="bicubic")
    a, b = (Pairs([big], c).batch(3) for c in (real, clean))
    assert same(a, Pairs([big], real).batch(3))
    assert torch.equal(a.scale, b.scale)
    error = [float((p.hr - p.lr_up).abs().mean()) for p in (a, b)]
    assert error[0] > 1.5 * error[1]
    for lr in a.lr:
        assert lr.shape == (3, 16, 16) and float(lr.abs().max()) <= 1
        steps = (lr + 1) * 127.5
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert len({lr.sum().item() for lr in a.lr}) == 8


def test_once_degraded_pictures_lie_where_the_truth_does(scene) -> None:
    """Blocks begin anywhere, and that leaves the pair aligned; one pass does less than two."""
    big = np.tile(np.round(scene * 255).astype(np.uint8), (3, 4, 1))
    config = replace(CONFIG, degradation="real", patch=64, scale_min=4.0, batch=24)
    error = {}
    for share in (0.0, 1.0):
        batch = Pairs([big], replace(config, second_order=share)).batch(5)
        error[share] = float((batch.hr - batch.lr_up).abs().mean())
        if share == 0:
            found = {}
            for shift in range(-8, 9):
                moved = batch.lr_up.roll(shift, 3)[..., 8:-8]
                found[shift] = float((batch.hr[..., 8:-8] - moved).square().mean())
            assert abs(min(found, key=found.get)) <= 1
    assert error[0.0] < 0.95 * error[1.0]
    with pytest.raises(UsageError, match="--second-order"):
        replace(config, second_order=1.5)


# --- drawings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", drawings.KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_drawing_leaves_ink_and_paper(kind) -> None:
    inked = []
    for seed in range(30):
        mask = Image.new("L", (256, 256))
        kind(ImageDraw.Draw(mask), 256, np.random.default_rng(seed))
        inked.append(np.asarray(mask).mean() / 255)
    assert 0.005 < np.median(inked) < 0.75 and np.mean(np.array(inked) > 0) > 0.85


def test_a_drawing_is_on_the_photo_or_on_paper_and_its_edges_are_smooth() -> None:
    photo = torch.linspace(-0.9, 0.9, 48).expand(3, 48, 48)
    made = [drawings.drawing(photo, np.random.default_rng(seed)) for seed in range(60)]
    again = [drawings.drawing(photo, np.random.default_rng(seed)) for seed in range(60)]
    assert all(map(torch.equal, made, again))
    stack = torch.stack(made)
    assert stack.shape == (60, 3, 48, 48) and stack.dtype == torch.float32
    assert float(stack.min()) >= -1 and float(stack.max()) <= 1
    kept = (stack == photo).all(1).flatten(1).float().mean(1)  # how much of it is the photograph
    assert 0.15 < float((kept > 0.2).float().mean()) < 0.6
    changed = (stack - photo).abs().amax((1, 2, 3))
    assert float((changed > 0.3).float().mean()) > 0.8
    # half-covered pixels: more than two values where there is one colour on one paper
    values = [len(picture[0].mul(40).round().unique()) for picture in made]
    assert np.median(values) > 4


def test_a_share_of_the_examples_is_drawn(photos) -> None:
    pictures = load(find(photos), print)
    config = replace(CONFIG, batch=40, scale_min=4.0)
    plain, some = (Pairs(pictures, replace(config, drawings=s)).batch(3) for s in (0.0, 0.4))
    assert same(some, Pairs(pictures, replace(config, drawings=0.4)).batch(3))
    equal = [torch.equal(a, b) for a, b in zip(plain.hr, some.hr, strict=True)]
    assert 0.4 < np.mean(equal) < 0.8  # what is not drawn is the same photograph as ever
    real = Pairs(pictures, replace(config, drawings=1.0, degradation="real")).batch(3)
    assert real.hr.shape == plain.hr.shape and real.hr.isfinite().all()
    with pytest.raises(UsageError, match="--drawings must be from 0 to 1"):
        replace(config, drawings=1.5)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, accumulate", [(1, 2), (2, 1), (2, 4), (4, 2)])
@pytest.mark.parametrize("degradation", ["bicubic", "real"])
def test_shares_of_a_batch_are_the_batch(photos, size, accumulate, degradation) -> None:
    config = replace(CONFIG, batch=8, degradation=degradation)
    pairs = Pairs(load(find(photos), print), config)
    whole, found = pairs.batch(5), {}
    for rank in range(size):
        for share in shares(World(rank, size), 8, accumulate):
            part = pairs.batch(5, 8, share)
            for index, place in enumerate(part.places):
                assert place not in found
                found[place] = (part.hr[index], part.lr_up[index], part.lr[index])
    assert sorted(found) == list(range(8))
    for place, (hr, lr_up, lr) in found.items():
        assert torch.equal(hr, whole.hr[place]) and torch.equal(lr_up, whole.lr_up[place])
        assert torch.equal(lr, whole.lr[place])


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UsageError, match="make --batch a multiple of 6"):
        shares(World(0, 3), 8, 2)
    with pytest.raises(UsageError, match="--accumulate 3 does not divide --batch 8"):
        TrainConfig(batch=8, accumulate=3)


def test_workers_change_nothing(photos) -> None:
    config = replace(CONFIG, quality_loss_from=3, quality_batch=2, patch=48)
    pairs = Pairs(load(find(photos), print), config)

    def places(iteration: int) -> list[range]:
        return shares(World(), config.count(iteration), 2)

    alone, helped = (list(feed(pairs, places, 1, 6, n, CPU)) for n in (0, 2))
    assert [len(parts[0].hr) for parts in alone] == [2, 2, 1, 1, 1]
    for a, b in zip(alone, helped, strict=True):
        assert all(same(x, y) and x.places == y.places for x, y in zip(a, b, strict=True))


def test_an_error_in_a_worker_is_told_as_it_is(tmp_path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(0)[:200])
    pairs = Pairs(Streamed(find(tmp_path)), replace(CONFIG, crop="square"))
    with pytest.raises(InputError, match=r"^2 pictures one after the other cannot be used"):
        list(feed(pairs, lambda i: [range(2)], 0, 2, 1, CPU))


@pytest.mark.slow
def test_python_ends_though_an_iteration_is_not_finished(tmp_path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(0))
    code = (
        "import sys, pathlib, torch\n"
        "from upscale.train.config import TrainConfig\n"
        "from upscale.train.data import Pairs\n"
        "from upscale.train.feed import feed\n"
        "from upscale.train.pictures import load\n"
        "from upscale.train.sources import find\n"
        "pictures = load(find(pathlib.Path(sys.argv[1])), print)\n"
        "pairs = Pairs(pictures, TrainConfig(patch=32, batch=2))\n"
        "batches = feed(pairs, lambda i: [range(2)], 0, 50, 1, torch.device('cpu'))\n"
        "next(batches)\n"
        "sys.kept = batches\n"  # a module's attribute: there until the last
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert done.returncode == 0
