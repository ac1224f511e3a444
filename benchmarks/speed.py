"""How fast diffsr is on this machine, and how near to what its convolutions allow.

    python benchmarks/speed.py                      everything, minutes to an hour
    python benchmarks/speed.py calls --net compact-ecdp --json calls.json

Public tools only: torch.utils.benchmark times, torch.utils.flop_counter counts, `resource` tells
the peak memory (each measurement that asks for it runs in a process of its own). "floor" is the
operations counted over the rate measured at the network's own convolutions, so a ratio of 1.0 is a
network that spends nothing on anything else. On a busy machine compare the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from baseline import PUBLISHED, as_published
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from upscale.machine import fast_bf16
from upscale.methods import METHODS, named
from upscale.nets import winograd
from upscale.pipeline.models import Models
from upscale.pipeline.request import Setup

Row = dict[str, Any]
# name: weights or paper network, output side, magnification
NETS = {
    "compact-sr3": ("sr3-photo", 512, 4),
    "compact-ecdp": ("ecdp-photo", 512, 4),
    "compact-idm": ("idm-photo", 512, 4),
    "sr3-16-128": ("sr3-16-128-published", 128, 8),
    "ecdp-df2k": ("ecdp-df2k", 160, 4),
    "idm-16-128": ("idm-16-128-published", 128, 8),
}


class Call:
    """One network with an input: `()` is one denoiser call, `encode()` what is done once."""

    def __init__(self, net: nn.Module, side: int, scale: int, batch: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = net

        def made(size: int) -> Tensor:
            x = torch.randn((batch, 3, size, size), generator=generator).clamp(-1, 1)
            return x.to(device).contiguous(memory_format=torch.channels_last)

        self.lr, self.lr_up, self.x = made(side // scale), made(side), made(side)
        self.scale = torch.full((batch,), float(scale), device=device)
        self.level = torch.full((batch,), 0.6, dtype=torch.float64, device=device)
        self.cond = self.encode()

    def encode(self) -> Any:
        return self.net.encode(self.lr_up, self.scale, self.lr)

    def __call__(self) -> Tensor:
        return self.net(self.x, self.cond, self.level)


_PAPERS = {name: net for method in METHODS for name, net in named(method)}
_CALLS = 5  # of which the least CPU seconds count


def load(name: str, device: str) -> nn.Module:
    """The bundled network, or a paper's with random weights, as `Upscaler` runs it."""
    torch.manual_seed(0)
    models = Models(Setup(offline=True), torch.device(device))
    if name in _PAPERS:
        net = _PAPERS[name](_PAPERS[name].named[name]).eval().requires_grad_(False)
        return models.ready(net)
    models = Models(Setup(weights=name, offline=True), torch.device(device))
    return models.model(models.entry(4.0)).net


def timed(call: Callable[[], Any], seconds: float, device: str) -> Row:
    """Median wall seconds by torch's Timer; least CPU seconds of its calls, `_CALLS` at least."""
    call()
    cpu: list[float] = []

    def once() -> None:
        started = time.process_time()
        call()
        cpu.append(time.process_time() - started)

    # as many threads as now: Timer's own default is one
    timer = Timer("once()", globals={"once": once}, num_threads=torch.get_num_threads())
    wall = timer.blocked_autorange(min_run_time=seconds).median
    # beside other work one call may take many times as long
    while device == "cpu" and len(cpu) < _CALLS:
        once()
    return {"wall_s": wall, "cpu_s": min(cpu)} if device == "cpu" else {"wall_s": wall}


def shapes_of(call: Call) -> Counter:
    """How often each shape of convolution is computed in one denoiser call."""
    found: Counter = Counter()

    def hook(conv: nn.Conv2d, args: tuple[Tensor], output: Tensor) -> None:
        found[(conv, tuple(args[0].shape))] += 1

    handles = [m.register_forward_hook(hook) for m in call.net.modules() if type(m) in _CONVS]
    call()
    for handle in handles:
        handle.remove()
    grouped: Counter = Counter()
    for (conv, size), count in found.items():
        grouped[(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, size)] += count
    return grouped


_CONVS = (nn.Conv2d, winograd.WinogradConv2d)


def floor_of(call: Call, seconds: float, dtype: torch.dtype, device: str) -> Row:
    """Operations of a call, the rate of its own convolutions by the library (each shape timed
    alone, weighted by its share), and the seconds that all operations take at that rate."""
    with FlopCounterMode(display=False) as counter:
        call()
    operations = counter.get_total_flops()
    spent = done = 0.0
    for (inputs, outputs, kernel, stride, size), count in shapes_of(call).items():
        padding = kernel[0] // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding).to(device, dtype)
        conv = conv.to(memory_format=torch.channels_last)
        x = torch.randn(size, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        took = timed(lambda conv=conv, x=x: conv(x), seconds, device)
        area = (size[2] // stride[0]) * (size[3] // stride[1]) * size[0]
        done += count * 2 * inputs * outputs * kernel[0] * kernel[1] * area
        spent += count * took.get("cpu_s", took["wall_s"])
    return {"gflop": operations / 1e9, "gflop_per_s": done / spent / 1e9,
            "floor_s": operations / (done / spent)}  # fmt: skip


def calls(options: argparse.Namespace) -> list[Row]:
    """A denoiser call of each network against its floor, and against the published graph."""
    rows = []
    for name in options.net:
        weights, side, scale = NETS[name]
        side = options.side or side
        for batch in options.batch:
            net = load(weights, options.device)
            plain = _plain(weights, options.device)
            call = Call(net, side, scale, batch, options.device)
            # the counter and the shapes are the network's own, whatever computes it
            base = Call(plain, side, scale, batch, options.device)
            row = {"net": name, "side": side, "batch": batch, "threads": torch.get_num_threads()}
            row |= floor_of(base, options.seconds, torch.float32, options.device)
            row |= timed(call, options.seconds, options.device)
            row["ratio"] = row.get("cpu_s", row["wall_s"]) / row["floor_s"]
            row["encode_s"] = timed(call.encode, 0, options.device)["wall_s"]
            if fast_bf16(torch.device(options.device)):
                row |= _in_bf16(call, base, options)
            if weights in PUBLISHED:
                row |= _against_published(call, base, weights, options)
            rows.append(row)
            print(_told(row), file=sys.stderr, flush=True)
    return rows


def _plain(weights: str, device: str) -> nn.Module:
    """The same network with the library's convolutions, contiguous."""
    if weights not in _PAPERS:
        return load(weights, device)
    torch.manual_seed(0)
    return _PAPERS[weights](_PAPERS[weights].named[weights]).eval().requires_grad_(False).to(device)


def _in_bf16(call: Call, base: Call, options: argparse.Namespace) -> Row:
    floor = floor_of(base, options.seconds, torch.bfloat16, options.device)

    def run() -> None:
        with torch.autocast(options.device, torch.bfloat16):
            call()

    took = timed(run, options.seconds, options.device)
    seconds = took.get("cpu_s", took["wall_s"])
    return {"bf16_s": seconds, "bf16_gflop_per_s": floor["gflop_per_s"],
            "bf16_ratio": seconds / floor["floor_s"]}  # fmt: skip


def _against_published(call: Call, base: Call, weights: str, options: argparse.Namespace) -> Row:
    """In turns, so that what else the machine does meets both."""
    published = as_published(base, weights)
    difference = (published() - call()).abs().max() / published().std()
    ours, theirs = [], []
    for _ in range(options.turns):
        ours.append(timed(call, options.seconds, options.device))
        theirs.append(timed(published, options.seconds, options.device))
    key = "cpu_s" if options.device == "cpu" else "wall_s"
    mine, other = min(r[key] for r in ours), min(r[key] for r in theirs)
    return {"published_s": other, "ours_s": mine, "speedup": other / mine,
            "difference": float(difference)}  # fmt: skip


def pictures(options: argparse.Namespace) -> list[Row]:
    """Whole runs of the command: start-up, default picture, presets, tiles, threads, memory."""
    import os
    import tempfile

    import numpy as np
    from PIL import Image

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for width, height in options.size:
            path = Path(folder) / f"{width}x{height}.png"
            rng = np.random.default_rng(0)
            small = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
            Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
            for extra in options.run:
                for threads in options.threads:
                    words = extra.split()
                    command = [sys.executable, "-m", "upscale", "upscale", str(path), "-o",
                               str(Path(folder) / f"out.{options.format}"), "--overwrite", "-q",
                               *words]  # fmt: skip
                    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                    for turn in range(options.turns):
                        row = {"size": f"{width}x{height}", "options": extra, "threads": threads,
                               "turn": turn, **_process(command, environment)}  # fmt: skip
                        rows.append(row)
                        print(_told(row), file=sys.stderr, flush=True)
    return rows


def _process(command: list[str], environment: dict[str, str]) -> Row:
    """Wall and CPU seconds and peak memory of a child and what it started."""
    script = (
        "import json,resource,subprocess,sys,time\n"
        "t=time.perf_counter(); subprocess.run(sys.argv[1:],check=True,stdout=2)\n"
        "w=time.perf_counter()-t; r=resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps({'wall_s':w,'cpu_s':r.ru_utime+r.ru_stime,"
        "'peak_mib':r.ru_maxrss/1024}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], check=True, capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    return json.loads(done.stdout)


def start(options: argparse.Namespace) -> list[Row]:
    """Start-up: the help, torch alone, all that a picture needs."""
    code = {
        "diffsr --help": ["-m", "upscale", "--help"],
        "import torch": ["-c", "import torch"],
        "import upscale.pipeline.upscaler": ["-c", "import upscale.pipeline.upscaler"],
        "weights loaded": [
            "-c",
            "from upscale import Upscaler; Upscaler('ecdp').law_at(4.0)",
        ],
    }
    rows = []
    for what, words in code.items():
        for _ in range(options.turns):
            rows.append({"what": what, **_process([sys.executable, *words], None)})
            print(_told(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _told(row: Row) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
    )


def table(rows: list[Row]) -> str:
    """Markdown."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    for row in rows:
        cells = (row.get(key, "") for key in keys)
        texts = (f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells)
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--json", type=Path, help="write the rows there as well")
    both.add_argument("--turns", type=int, default=3)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("calls", parents=[both], help=calls.__doc__)
    one.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    one.add_argument("--batch", nargs="+", type=int, default=[1])
    one.add_argument("--side", type=int, default=0, help="of the output; 0: the network's own")
    one.add_argument("--seconds", type=float, default=0.5, help="each thing is timed so long")
    one.add_argument("--threads", type=int, default=0)
    one.add_argument("--device", default=default)
    two = parts.add_parser("pictures", parents=[both], help=pictures.__doc__)
    two.add_argument("--size", nargs="+", type=_size, default=[(128, 128), (960, 540)],
                     metavar="WxH", help="of the inputs")  # fmt: skip
    two.add_argument("--run", nargs="+", default=[""], help="options of diffsr, each run")
    two.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    two.add_argument("--format", default="png")
    parts.add_parser("start", parents=[both], help=start.__doc__)
    return parser


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def main(words: list[str] | None = None) -> None:
    options = _parser().parse_args(words)
    if options.part == "calls" and options.threads:
        torch.set_num_threads(options.threads)
    with torch.inference_mode():
        rows = {"calls": calls, "pictures": pictures, "start": start}[options.part](options)
    print(table(rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{torch.backends.cpu.get_cpu_capability()}, peak {peak:.0f} MiB")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
