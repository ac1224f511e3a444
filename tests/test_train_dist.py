"""Two processes compute what one does: DDP and FSDP2 over gloo, on the CPU."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import FORKS, Forked
from picture_files import random_photos

from upscale.cli.main import main
from upscale.train import checkpoint
from upscale.train.dist import World, full, like, local
from upscale.train.grid import phase_loss
from upscale.weights import store

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)
needs_fork = pytest.mark.skipif(not FORKS, reason="this system does not fork")

SETTINGS = [
    "--net", "compact-tiny", "--patch", "48", "--batch", "4", "--iterations", "4", "--warmup", "2",
    "--holdout", "1", "--validate-every", "2", "--device", "cpu", "--dtype", "fp32", "-q",
    "--quality-loss-from", "2", "--quality-batch", "4", "--quality-vgg", "0",
    "--quality-adversarial", "0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_photos(tmp_path_factory.mktemp("photos"), 5, (60, 72))


def port() -> str:
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def trained(photos: Path, output: Path, processes: int, *extra: str) -> list[dict]:
    """metrics.jsonl of `diffsr train` in so many processes."""
    args = ["train", "--dataset", str(photos), "--output", str(output), *SETTINGS, *extra]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "WORLD_SIZE": str(processes)}
    running = [
        Forked(lambda: main(args), output / f"said-{rank}", {**common, "RANK": str(rank)})
        for rank in range(processes)
    ]
    said = [process.finished()[0] for process in running]
    assert said == [f"{output / 'my-sr3-photo.safetensors'}\n"] + [""] * (processes - 1)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory) -> tuple[Path, list[dict]]:
    output = tmp_path_factory.mktemp("alone")
    return output, trained(photos, output, 1)


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_are_one(photos, tmp_path, alone, strategy) -> None:
    output, one = alone
    two = trained(photos, tmp_path, 2, "--strategy", strategy)
    assert [line["iteration"] for line in two] == [line["iteration"] for line in one]
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "score", "l1", "phase", "alex", "adversarial", "gradient_norm"):
            if key in a:
                assert b[key] == pytest.approx(a[key], rel=1e-4), key
        if "by_noise" in a:
            assert b["by_noise"] == pytest.approx(a["by_noise"], rel=1e-4)
        if "validation" in a:
            assert b["validation"] == pytest.approx(a["validation"], rel=1e-2)
    assert sum("validation" in line for line in two) == 2
    x, y = (store.read(o / "my-sr3-photo.safetensors")[0] for o in (output, tmp_path))
    assert {k: v.shape for k, v in x.items()} == {k: v.shape for k, v in y.items()}
    for key in x:
        torch.testing.assert_close(x[key].float(), y[key].float(), atol=1e-3, rtol=0.01)
    # a checkpoint does not know how many processes wrote it
    a, b = (checkpoint.newest(o, print)[1] for o in (output, tmp_path))
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    longer = trained(photos, tmp_path, 1, "--iterations", "5")
    assert [line["iteration"] for line in longer[len(two) :]] == [5, 5]
    whole = trained(photos, output, 2, "--strategy", strategy, "--iterations", "5")
    assert whole[len(one)]["loss"] == pytest.approx(longer[len(two)]["loss"], rel=1e-3)


@pytest.mark.slow
def test_torchrun_is_all_it_takes_and_its_errors_are_ours(photos, tmp_path) -> None:
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr",
               "127.0.0.1", "--master-port", port(), "-m", "upscale", "train",
               "--dataset", photos, "--output", tmp_path, *SETTINGS, "--batch", "3"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode != 0
    assert "a batch of 3 cannot be shared evenly by 2 processes" in done.stderr


def test_the_root_is_of_the_whole_batch() -> None:
    """The gradient of two halves with the mean over both is that of the whole."""
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 4, 3, 16, 24, dtype=torch.float64)
    whole = sr.clone().requires_grad_()
    phase_loss(whole, hr).backward()
    means = [phase_loss(sr[i : i + 2], hr[i : i + 2]).square() / 100 for i in (0, 2)]
    other = torch.stack(means).mean()

    found = []
    for i in (0, 2):
        half = sr[i : i + 2].clone().requires_grad_()
        loss = phase_loss(half, hr[i : i + 2], lambda v: v + (other - v.detach()))
        torch.testing.assert_close(loss, phase_loss(sr, hr))
        loss.backward()
        found.append(half.grad / 2)  # DDP takes the mean over the processes
    torch.testing.assert_close(torch.cat(found), whole.grad)


def test_alone_everything_is_whole() -> None:
    world, value = World(), torch.ones(3)
    assert world.first and world.agreed("x") == "x"
    assert torch.equal(world.mean(value), value) and torch.equal(world.joint_mean(value), value)
    assert full(value) is local(value) is like(value, value) is value
    world.wait()
