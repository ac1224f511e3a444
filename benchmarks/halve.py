"""What `ecdp-photo-x2` began as: `ecdp-photo` for 2x, in fewer layers, without training.

    python benchmarks/halve.py PHOTOS start.safetensors
    python benchmarks/halve.py PHOTOS

Drawn at 4x and shrunk, `ecdp-photo` gives a result at 2x. Its trunk works at the resolution of the
input, which is half of a 2x result's: there a stem of 2 and the first of the head's two steps do.
The first layer is fitted by least squares to what the one at 4x makes of parts of photographs, the
last to the shrunk result in one step, both over 60 parts of 192x192. The blocks that matter least
are left out before. Without a file to write it prints by how many grey levels (root mean square)
the result at 2x changes without each block, and without those that are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale import read
from upscale.bench.protocol import make_lr
from upscale.diffusion.process import sigmas
from upscale.image.resize import resize
from upscale.model import build
from upscale.nets.compact import CompactNet, at_stem, blocks
from upscale.weights import store

NAME = "ecdp-photo"
STD = 0.084  # of the residual at 2x, measured by `diffsr train` on the photographs
PARTS, SIDE, SEED = 60, 192, 0
GONE = (("enc", 4), ("down", 0, 0), ("up", 1, 0))
EDGE = 6  # pixels, where layers see what is beyond the part
POSITIONS = 400_000  # of the last layer's fit


def parts(folder: Path) -> Tensor:
    """(N,3,h,w) in [-1,1]: parts of photographs, shrunk by two."""
    rng, found = np.random.default_rng(SEED), []
    paths = sorted(folder.iterdir())
    rng.shuffle(paths)
    for path in paths[:PARTS]:
        rgb = read(path).rgb
        if min(rgb.shape[:2]) > SIDE:
            top, left = (int(rng.integers(0, length - SIDE + 1)) for length in rgb.shape[:2])
            lr, _ = make_lr(rgb[top : top + SIDE, left : left + SIDE], 2)
            found.append(torch.from_numpy(np.ascontiguousarray(lr)).permute(2, 0, 1) * 2 - 1)
    return torch.stack(found).float()


def without(net: CompactNet) -> dict[str, Tensor]:
    """The state without the blocks in `GONE`, and those after them moved up."""
    places = list(blocks(net.architecture()))
    left, found = [place for place in places if place not in GONE], {}
    for key, value in net.state_dict().items():
        way, *rest = key.split(".")
        if way == "inject":
            place = places[int(rest[0])]
            if place in GONE:
                continue
            rest[0] = str(left.index(place))
        elif way in ("enc", "down", "up"):
            depth = 1 if way == "enc" else 2
            place = (way, *map(int, rest[:depth]))
            if place in GONE:
                continue
            before = sum(one[:-1] == place[:-1] and one[-1] < place[-1] for one in GONE)
            rest[depth - 1] = str(place[-1] - before)
        found[".".join([way, *rest])] = value.clone()
    return found


def answers(
    net: CompactNet, enlarged: Tensor, scale: float, noise: Tensor, layer: nn.Module
) -> tuple[Tensor, Tensor]:
    """(N,6,H,W) at the strongest noise, which is left out, and what `layer` was given."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    made = []
    for one in enlarged[:, None]:
        cond = net.encode(one, torch.full((1,), scale))
        made.append(net(torch.zeros_like(one), cond, noise))
    hook.remove()
    return torch.cat(made), torch.cat(seen)


@contextmanager
def silenced(net: CompactNet, names: list[str]) -> Iterator[None]:
    """The network without what these blocks add."""
    last = [p for name in names for p in net.get_submodule(name).conv2.parameters()]
    kept = [p.clone() for p in last]
    for p in last:
        p.zero_()
    yield
    for p, old in zip(last, kept, strict=True):
        p.copy_(old)


def fitted(conv: nn.Conv2d, given: Tensor, wanted: Tensor, edge: int) -> float:
    """Fill a 3x3 convolution by least squares; returns the relative error."""
    count, channels, height, width = given.shape
    columns = F.unfold(given, 3, padding=1).reshape(count, -1, height, width)

    def rows(x: Tensor) -> Tensor:
        return x[..., edge:-edge, edge:-edge].permute(0, 2, 3, 1).reshape(-1, x.shape[1])

    left, right = rows(columns), rows(wanted)
    some = torch.randperm(len(left), generator=torch.Generator().manual_seed(SEED))[:POSITIONS]
    left, right = left[some].double(), right[some].double()
    left = torch.cat([left, torch.ones_like(left[:, :1])], 1)
    square = left.T @ left
    square += 1e-7 * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    found = torch.linalg.solve(square, left.T @ right)
    conv.weight.copy_(found[:-1].T.reshape(-1, channels, 3, 3))
    conv.bias.copy_(found[-1])
    return float((left @ found - right).std() / right.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("to", type=Path, nargs="?")
    options = parser.parse_args()
    state, metadata = store.load(store.find(NAME))
    model = build(state, metadata)
    large, lr = model.net.eval().float(), parts(options.photos)
    height, width = lr.shape[2:]
    at_4, at_2 = (resize(lr, (n * height, n * width)) for n in (4, 2))
    level = float(sigmas(model.law.process, 1, "phi")[0])
    noise = torch.full((1,), (1 + level**2) ** -0.5, dtype=torch.float64)

    def shrunk(raw: Tensor) -> Tensor:
        return resize(at_4 + model.std * raw[:, 3:], tuple(at_2.shape[2:]))

    raw, _ = answers(large, at_4, 4.0, noise, large.head1)
    wanted = shrunk(raw)
    if options.to is None:
        found = [name for name, block in large.named_modules() if hasattr(block, "conv2")]
        for names in (*([name] for name in found), [".".join(map(str, one)) for one in GONE]):
            with silenced(large, names):
                made, _ = answers(large, at_4, 4.0, noise, large.head1)
            change = (shrunk(made) - wanted).square().mean().sqrt()
            print(f"{', '.join(names)}: {float(change) * 127.5:.2f}")
        return
    config = replace(
        large.config, stem=2, encoder=5, inject=(1, 3, 4), down=(2, 1, 1), up=(3, 1), head=(32, 32)
    )
    net = CompactNet(config).eval()
    start = net.state_dict() | at_stem(without(large), large.config.stem, config.stem)
    start["scale_mlp.0.bias"] += start["scale_mlp.0.weight"][:, 0]  # 2x is to it what 4x was
    net.load_state_dict(start)
    first = large.enc_in(F.pixel_unshuffle(at_4, 4))
    error = fitted(net.enc_in, F.pixel_unshuffle(at_2, 2), first, EDGE // 2)
    print(f"first layer: relative error {error:.4f}")
    _, given = answers(net, at_2, 2.0, noise, net.head3)
    noise_head = resize(raw[:, :3], tuple(at_2.shape[2:])) / float(noise)
    clean_head = (at_2 - wanted) / STD  # a velocity: the target's negative
    error = fitted(net.head3, given, torch.cat([noise_head, clean_head], 1), EDGE)
    print(f"last layer: relative error {error:.3f}")
    metadata = metadata | {
        "name": "ecdp-photo-x2", "architecture": net.architecture(), "std": STD, "scales": [2.0],
        "defaults": metadata["defaults"] | {"steps": 1},
    }  # fmt: skip
    store.save(options.to, net.state_dict(), metadata)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
