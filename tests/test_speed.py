"""What is done for speed and memory changes nothing that can be seen."""

from __future__ import annotations

import io
import json
import platform
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

from upscale import machine, methods
from upscale.cli.main import cli
from upscale.diffusion.noise import BLOCK, noise_at
from upscale.errors import NumericalError, UsageError
from upscale.image.decode import read
from upscale.image.encode import STREAMED, rows_to, write
from upscale.image.picture import Picture
from upscale.nets import winograd
from upscale.nets.sr3 import SR3Net
from upscale.pipeline import blocks
from upscale.pipeline import plan as sizing
from upscale.pipeline.blocks import blocks_of
from upscale.pipeline.models import Models
from upscale.pipeline.request import Setup
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store

pytestmark = pytest.mark.usefixtures("one_thread")


# --- noise ----------------------------------------------------------------------------------------


def test_noise_belongs_to_places():
    whole = noise_at((3, 4), (0, 0), (BLOCK + 70, 2 * BLOCK + 9))
    part = noise_at((3, 4), (100, 200), (190, 120))
    torch.testing.assert_close(part, whole[..., 100:290, 200:320], rtol=0, atol=0)
    assert not torch.equal(noise_at((3, 5), (100, 200), (190, 120)), part)
    assert abs(float(whole.mean())) < 0.01
    assert abs(float(whole.std()) - 1) < 0.01
    # blocks differ from each other, and channels too
    assert (
        abs(float((whole[..., :100, :100] * whole[..., :100, BLOCK : BLOCK + 100]).mean())) < 0.03
    )
    assert abs(float((whole[:, 0] * whole[:, 1]).mean())) < 0.01


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_in", "size_out", "own"),
    [((300, 517), (1200, 2068), 4), ((400, 300), (1000, 750), 2.5), ((301, 90), (903, 270), 3),
     ((400, 517), (800, 1034), 4), ((400, 300), (1000, 750), 4)],
)  # fmt: skip
def test_blocks_are_all_of_the_picture_once(size_in, size_out, own):
    stage = tuple(int(side * own) for side in size_in)
    rows = blocks_of(size_in, size_out, 16, 600, stage)
    assert sum(map(len, rows)) > 1
    if stage == size_out:
        assert rows == blocks_of(size_in, size_out, 16, 600)
    seen = np.zeros(size_out, int)
    factor = size_out[0] / size_in[0]
    halo = blocks.HALO * factor / own  # of what the network draws
    for block in (block for row in rows for block in row):
        core, made, source = block.core, block.made, block.source
        seen[core.top : core.top + core.height, core.left : core.left + core.width] += 1
        assert (source.top * own % 16, source.left * own % 16) == (0, 0)
        assert (made.top, made.left) == (source.top * factor, source.left * factor)
        assert (made.height, made.width) == (source.height * factor, source.width * factor)
        # the halo, unless the picture ends
        assert made.top == 0 or core.top - made.top >= halo
        end = made.left + made.width
        assert end == size_out[1] or end - core.left - core.width >= halo
    assert (seen == 1).all()


def test_sizes_on_whose_grids_no_blocks_begin_together():
    assert blocks_of((1009, 1013), (2003, 2011), 16, 600) == ()


@pytest.fixture
def small_blocks(monkeypatch):
    """Pictures from 0.2 megapixels on are done in blocks of about 480 pixels."""
    monkeypatch.setattr(sizing, "FROM_PIXELS", 200_000)
    monkeypatch.setattr(sizing, "PART_BYTES", 480**2 * (sizing.STATE_BYTES + 320))


def photo(height: int, width: int, **carried) -> Picture:
    """Shading, edges and texture; another everywhere."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shades = [np.sin(x / 9 + y / 31), np.cos(y / 7 - x / 50), np.sin(x * y / 900)]
    rgb = 0.5 + 0.3 * np.stack(shades, 2) * (1 + (x // 20 + y // 15) % 2)[..., None] / 2
    rgb = np.clip(rgb + rng.normal(0, 0.02, rgb.shape), 0, 1).astype(np.float32)
    return Picture(rgb, **carried)


def test_blocks_change_nothing_that_can_be_seen(tiny_weights, small_blocks):
    upscaler = Upscaler(weights=tiny_weights)
    picture = photo(130, 170, alpha=photo(130, 170).rgb[..., 0])
    plan = upscaler.plan(picture.size)
    assert sum(map(len, plan.blocks)) > 3
    steps = []
    made = upscaler(picture, seed=2, on_step=lambda i, n: steps.append(i / n))
    whole = upscaler(picture, seed=2, tile=0)
    assert upscaler.plan(picture.size, tile=0).blocks == ()
    difference = np.abs(made.picture.rgb - whole.picture.rgb)
    assert difference.max() < 2e-3  # half of what 8 bits can tell; without noise by place: 0.2
    np.testing.assert_allclose(made.picture.alpha, whole.picture.alpha, atol=1e-6)
    assert made.report["nfe"] == whole.report["nfe"] == plan.nfe
    assert made.report["consistency"] == pytest.approx(whole.report["consistency"], abs=0.01)
    assert steps == sorted(steps)
    assert steps[-1] == 1


@pytest.mark.parametrize("scale", [2, 2.5, 1.5])
def test_a_result_that_is_shrunk_is_made_in_blocks(tiny_weights, small_blocks, tmp_path, scale):
    """The network draws at 4x, whatever is asked for, and only blocks of that are ever there."""
    state, told = store.read(tiny_weights)
    store.save(tmp_path / "own4.safetensors", state, told | {"scales": [4.0]})
    upscaler, picture = Upscaler(weights=tmp_path / "own4.safetensors"), photo(136, 172)
    plan = upscaler.plan(picture.size, scale=scale)
    assert plan.stages[0].size_out == (544, 688) and sum(map(len, plan.blocks)) > 3
    made = upscaler(picture, scale=scale, seed=2)
    whole = upscaler(picture, scale=scale, seed=2, tile=0)
    assert made.picture.size == plan.size_out
    assert np.abs(made.picture.rgb - whole.picture.rgb).max() < 2e-3
    assert made.report["consistency"] == pytest.approx(whole.report["consistency"], abs=0.01)
    large = upscaler.plan((3000, 4000), scale=2)
    assert large.blocks and large.memory < 3.2e9


def test_resizes_are_done_in_blocks_too(monkeypatch):
    monkeypatch.setattr(sizing, "FROM_PIXELS", 200_000)
    monkeypatch.setattr(sizing, "RESIZED_BYTES", 480**2 * sizing.RESIZE_BYTES)
    picture = photo(130, 170)
    for name in ("bicubic", "lanczos"):
        upscaler = Upscaler(name)
        assert upscaler.plan(picture.size).blocks
        made, whole = upscaler(picture), upscaler(picture, tile=0)
        np.testing.assert_allclose(made.picture.rgb, whole.picture.rgb, atol=2e-5)


def test_small_pictures_are_one_block(tiny_weights, small_blocks):
    assert Upscaler(weights=tiny_weights).plan((50, 60)).blocks == ()


def test_a_plan_in_blocks_needs_less_memory(tiny_weights):
    upscaler = Upscaler(weights=tiny_weights)
    plan = upscaler.plan((3000, 4000))
    assert plan.blocks
    assert plan.memory < 3.2e9
    assert upscaler.plan((6000, 4000)).memory < plan.memory * 1.2


# --- two stages -----------------------------------------------------------------------------------


@pytest.fixture
def cascade(tiny_weights, tmp_path, monkeypatch):
    """For 4x alone; from 60,000 pixels on its stages are made in blocks of about 320 pixels."""
    state, told = store.read(tiny_weights)
    store.save(tmp_path / "own4.safetensors", state, told | {"scales": [4.0]})
    monkeypatch.setattr(sizing, "FROM_PIXELS", 50_000)
    monkeypatch.setattr(sizing, "PART_BYTES", 320**2 * (sizing.STATE_BYTES + 320))
    return Upscaler(weights=tmp_path / "own4.safetensors", dtype="fp32")


@pytest.mark.parametrize("scale", [8, 5])
def test_cascades_in_blocks_are_what_they_are_as_one(cascade, scale):
    alpha = photo(84, 43).rgb[..., 0]
    picture, steps = photo(84, 43, alpha=alpha), []
    plan = cascade.plan(picture.size, scale=scale)
    first, last = plan.stages
    assert len(first.parts) > 1
    assert len(last.blocks) > 1
    made = cascade(picture, scale=scale, steps=1, on_step=lambda i, n: steps.append(i / n))
    whole = cascade(picture, scale=scale, steps=1, tile=0)
    assert made.picture.size == whole.picture.size == plan.size_out
    np.testing.assert_allclose(made.picture.rgb, whole.picture.rgb, rtol=0, atol=1e-5)
    np.testing.assert_allclose(made.picture.alpha, whole.picture.alpha, rtol=0, atol=1e-5)
    assert made.report["nfe"] == whole.report["nfe"] == 2
    assert made.report["consistency"] == pytest.approx(whole.report["consistency"], abs=0.001)
    assert steps == sorted(steps)
    assert steps[-1] == 1


def test_without_a_halo_blocks_of_a_cascade_show(cascade, monkeypatch):
    picture = photo(84, 20)
    whole = cascade(picture, scale=8, steps=1, tile=0)
    cascade.models.model(cascade.plan(picture.size).entry).net.halo = 0
    for module, name in ((sizing, "HALO"), (blocks, "HALO_IN"), (blocks, "SETTLED")):
        monkeypatch.setattr(module, name, 0)
    made = cascade(picture, scale=8, steps=1)
    assert np.abs(made.picture.rgb - whole.picture.rgb).max() > 1e-2


def test_a_cascades_memory_does_not_grow_with_its_height(tmp_path, tiny_weights):
    state, told = store.read(tiny_weights)
    store.save(tmp_path / "own4.safetensors", state, told | {"scales": [4.0]})
    upscaler = Upscaler(weights=tmp_path / "own4.safetensors")
    plan = upscaler.plan((3000, 4000), scale=8)
    assert all(stage.blocks for stage in plan.stages)
    assert plan.memory < 3.5e9
    taller = upscaler.plan((6000, 4000), scale=8).memory
    assert taller < 1.05 * (plan.memory + 3000 * 4000 * 24)  # the input


# --- row by row -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("carried", ["", "alpha", "grey"])
def test_rows_make_the_file_that_all_at_once_makes(name, bits, carried, tmp_path):
    picture = photo(611, 90, bits=bits, dpi=(300.0, 300.0))
    if carried == "alpha":
        picture = replace(picture, alpha=picture.rgb[..., 0].copy())
    if carried == "grey":
        grey = picture.rgb.mean(2, keepdims=True).repeat(3, 2)
        picture = replace(picture, rgb=grey, grey=True)
    path = tmp_path / f"out.{name.lower()}"
    with rows_to(path, picture.size, format=name) as add:
        for rows in (slice(0, 7), slice(7, 300), slice(300, 611)):
            alpha = None if picture.alpha is None else picture.alpha[rows]
            add(replace(picture, rgb=picture.rgb[rows], alpha=alpha), "diffsr test")
    once = io.BytesIO()
    write(picture, once, format=name, comment="diffsr test")
    told, expected = read(io.BytesIO(path.read_bytes())), read(io.BytesIO(once.getvalue()))
    np.testing.assert_array_equal(told.rgb, expected.rgb)
    assert (told.alpha is None) == (expected.alpha is None)
    assert (told.alpha is None) == (carried != "alpha" or name == "PPM")
    if told.alpha is not None:
        np.testing.assert_array_equal(told.alpha, expected.alpha)
    assert (told.bits, told.grey) == (bits, carried == "grey")
    assert told.dpi == pytest.approx(expected.dpi, abs=0.1)
    assert b"diffsr test" in path.read_bytes()


@pytest.mark.parametrize("name", STREAMED)
def test_rows_that_end_early_leave_nothing(name, tmp_path):
    path = tmp_path / f"out.{name.lower()}"
    picture = photo(40, 30)
    with pytest.raises(NumericalError), rows_to(path, (80, 30), format=name) as add:
        add(picture, None)
        raise NumericalError("no number")
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"theirs")
    with pytest.raises(Exception, match="exists"), rows_to(path, (80, 30), format=name):
        pass
    assert path.read_bytes() == b"theirs"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_command_writes_large_pictures_while_it_makes_them(
    suffix, tiny_weights, small_blocks, tmp_path, monkeypatch
):
    from upscale.image import encode

    picture = photo(130, 170)
    write(picture, tmp_path / "in.png")
    written = []
    samples = encode.samples_of
    monkeypatch.setattr(
        encode, "samples_of", lambda p, n: [written.append(p.size[0]), samples(p, n)][1]
    )
    out = tmp_path / f"out.{suffix}"
    words = ["upscale", str(tmp_path / "in.png"), "--weights", tiny_weights, "-o", str(out)]
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["size_out"] == [520, 680]
    assert record["lr_psnr"] > 40
    assert len(written) > 1
    assert sum(written) == 520
    whole = CliRunner().invoke(cli, [*words, "--tile", "0", "--overwrite"])
    assert whole.exit_code == 0
    assert len(written) == record_of_bands(written) + 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", out.name}


def record_of_bands(written: list[int]) -> int:
    """How many bands there were before the whole picture was written at once."""
    return next(index for index, height in enumerate(written) if height == 520)


# --- wide convolutions ----------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 22), (4, 61)])
def test_winograd_is_a_convolution(height, width):
    torch.manual_seed(1)
    conv = nn.Conv2d(7, 5, 3, padding=1)
    x = torch.randn(2, 7, height, width)
    with torch.inference_mode():
        made = winograd.convolved(x, winograd.transformed(conv.weight), conv.bias)
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    torch.testing.assert_close(made.double(), exact, rtol=0, atol=2e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [7, 64])  # in bands, picture by picture; at once
def test_winograd_of_frozen_weights_has_a_gradient(channels):
    torch.manual_seed(1)
    conv = nn.Conv2d(channels, 5, 3, padding=1).requires_grad_(False)
    quick = winograd.WinogradConv2d.of(conv)
    x = torch.randn(2, channels, 13, 22, requires_grad=True)
    wanted = torch.randn(2, 5, 13, 22)
    made, exact = quick(x), conv(x)
    assert type(made.grad_fn).__name__ == "_FrozenBackward"
    torch.testing.assert_close(made, exact, rtol=0, atol=5e-5)
    slopes = [torch.autograd.grad((one * wanted).sum(), x)[0] for one in (made, exact)]
    torch.testing.assert_close(*slopes, rtol=0, atol=5e-5)


def test_only_wide_frozen_convolutions_are_replaced():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 3, stride=2, padding=1),
        nn.Conv2d(128, 64, 3, padding=1), nn.Conv2d(64, 128, 1),
    )  # fmt: skip
    state, extra = net.state_dict(), winograd.extra_bytes(net)
    x = torch.randn(1, 128, 18, 17)
    before = net(x)
    winograd.quicken(net)
    kinds = [type(module) is winograd.WinogradConv2d for module in net]
    assert kinds == [True, False, False, False]
    assert net.state_dict().keys() == state.keys()
    with torch.inference_mode():
        torch.testing.assert_close(net(x), before, rtol=0, atol=1e-4)
    assert net[0]._wide.numel() * 4 == extra
    net(x).sum().backward()  # weights that learn take the ordinary way
    assert net[0].weight.grad is not None


def test_papers_networks_are_made_ready_and_say_the_same():
    torch.manual_seed(0)
    config = replace(SR3Net.named["sr3-tiny"], inner=64, mults=(1, 2))
    net = SR3Net.from_dict(config.to_dict()).eval().requires_grad_(False)
    nn.init.normal_(net.unet.out[2].weight, std=0.05)
    x, lr_up = torch.randn(2, 1, 3, 48, 40)
    level = torch.full((1,), 0.5, dtype=torch.float64)
    with torch.inference_mode():
        before = net(x, lr_up, level)
        ready = Models(Setup(offline=True), torch.device("cpu")).ready(net)
        assert any(isinstance(m, winograd.WinogradConv2d) for m in ready.modules())
        after = ready(x, lr_up, level)
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3 * float(before.std()))


# --- pages of memory ------------------------------------------------------------------------------

_KEPT = """
import resource, sys
import numpy as np
from upscale.machine import keep_pages
kept = keep_pages() if sys.argv[1] == "keep" else None
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(16 << 20, np.float32)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_what_is_freed_is_kept_for_what_is_taken_next():
    def faults(mode: str) -> tuple[str, int]:
        command = [sys.executable, "-c", _KEPT, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        return kept, int(count)

    kept, few = faults("keep")
    assert kept == "True"
    assert few * 5 < faults("as it is")[1]  # 64 MiB are 16,000 pages


def test_another_malloc_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert machine.keep_pages() is False


# --- presets --------------------------------------------------------------------------------------


def test_presets_of_weights_for_few_calls(tiny_weights):
    upscaler = Upscaler(weights=tiny_weights)
    plans = {name: upscaler.plan((30, 40), preset=name) for name in methods.PRESETS}
    assert plans["fast"].nfe < plans["balanced"].nfe < plans["best"].nfe
    plain = upscaler.plan((30, 40))
    assert replace(plans["balanced"], request=plain.request) == plain
    assert upscaler.plan((30, 40), preset="fast", steps=7).nfe == 7
    assert upscaler.plan((30, 40), preset="best", sampler="heun").sampler == "heun"
    with pytest.raises(UsageError, match="fast, balanced, best"):
        upscaler.plan((30, 40), preset="slow")


@pytest.mark.parametrize("name", ["sr3", "idm", "ecdp"])
def test_presets_of_weights_for_many_calls(name):
    from upscale.diffusion.table import SAMPLERS

    law = replace(methods.METHODS[name], steps=40)
    ways = [law.preset(preset) for preset in methods.PRESETS]
    calls = [SAMPLERS[sampler].calls(steps) for sampler, steps in ways]
    assert calls[:2] == [4, 8]
    assert calls[2] >= 25


def test_presets_that_a_weights_file_names():
    law = replace(methods.METHODS["sr3"], presets={"best": ["ddim", 3]})
    assert law.preset("best") == ("ddim", 3)
    assert methods.METHODS["regression"].preset("best") == ("once", 1)


# --- the measuring itself -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    script = Path(__file__).parent.parent / "benchmarks" / "speed.py"
    if not script.exists():
        pytest.skip("no benchmarks beside an installed package")
    out = tmp_path / "rows.json"
    words = ["calls", "--net", "compact-sr3", "--side", "64", "--seconds", "0", "--turns", "1"]
    words += ["--threads", "1"]  # two that wait for each other beside other tests count as busy
    subprocess.run([sys.executable, str(script), *words, "--json", str(out)], check=True,
                   capture_output=True)  # fmt: skip
    (row,) = json.loads(out.read_text())
    assert row["gflop"] > 0.1
    assert row["ratio"] > 0.3
    assert row["cpu_s"] > 0
    assert row["ratio"] == pytest.approx(row["cpu_s"] / row["floor_s"], rel=1e-3)


# --- compiled -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_network_says_the_same(tiny_weights, monkeypatch):
    real, made = torch.compile, []

    def traced(function):  # all of torch.compile but the making of machine code, which takes long
        made.append(function)
        return real(function, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    picture = photo(20, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it deprecates in itself
        fast = Upscaler(weights=tiny_weights, compile=True)(picture).picture.rgb
    assert len(made) == 1
    np.testing.assert_allclose(fast, Upscaler(weights=tiny_weights)(picture).picture.rgb, atol=1e-5)


def test_a_network_that_cannot_be_compiled_is_told(tiny_weights, monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no compiler")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: real(function, backend=fail))
    with warnings.catch_warnings(), pytest.raises(UsageError, match="leave --compile out"):
        warnings.simplefilter("ignore")
        Upscaler(weights=tiny_weights, compile=True)(photo(20, 24))
