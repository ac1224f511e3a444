"""How the network that sees what cleaning gains (upscale/image/gain.py) was taught, and is judged.

    python benchmarks/cleaning.py examples PHOTOS a.npz --number 15000 --seed 21
    python benchmarks/cleaning.py labels PHOTOS l.npz --number 400 --seed 11
    python benchmarks/cleaning.py labels PHOTOS m.npz --number 100 --seed 12 --kind fine
    python benchmarks/cleaning.py learn gain.npz --examples a.npz,b.npz
    python benchmarks/cleaning.py fit gain.npz --examples b.npz --labels l.npz,m.npz
    python benchmarks/cleaning.py judge j.npz

Parts of photographs, an eighth of them with drawings, are shrunk by four and degraded: a quarter
not at all, a quarter mildly and a seventh really as for `diffsr train --degradation mixed`, the
others by one thing each (WebP, JPEG, a fine JPEG, AVIF, noise, blur). An example costs nothing but
that: it tells, for bands of frequencies, how far the part is from the clean one. A label tells
LPIPS of the part enlarged, cleaned by all of STRENGTHS. The network learns the first from many;
then its last layer is fitted to what the ends of the second differ by, of which there are few.

Examples are also shrunk by less than four, as softer pictures are that nothing has happened to.
What cleaning gains there nobody can measure, for there is no larger truth. They are taken for
clean. `judge` prints what LPIPS loses by the choices of `estimate` among labels, against the best
strength of each.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from upscale import Upscaler, read
from upscale.image.estimate import estimate
from upscale.image.folders import pictures_of
from upscale.image.gain import SIDE, GainNet
from upscale.image.grid import FREQUENCY, blocks, coefficients
from upscale.image.picture import Picture
from upscale.image.resize import blurred, resize
from upscale.metrics.perceptual import Lpips
from upscale.train import degrade
from upscale.train.crops import random_part
from upscale.train.drawings import drawing

SCALE = 4
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWN, GREY = 0.12, 0.08  # shares
CLEAN, MILD, ONCE, TWICE = 0.25, 0.25, 0.08, 0.06  # shares; the others had one thing done
ONE = ("webp", "jpeg", "fine", "avif", "noise", "blur")
BANDS = [(a <= FREQUENCY) & (b >= FREQUENCY) for a, b in ((1, 2), (3, 5), (6, 8), (9, 14))]
SOFT, FACTORS = 0.4, (1.25, 3.0)  # share of the examples, and by how much they are shrunk
SOFT_GAIN, SOFT_PARTS = -0.03, 300  # of soft and clean ones, as labels
WITHIN = -0.1, 0.2  # labels are cut to this: a few hard pictures must not decide all


def small(hr: Tensor, rng: np.random.Generator) -> tuple[str, Tensor]:
    """(3,P,P) in [-1,1] -> what happened to it, and (3,P/4,P/4)."""
    x, chance = (hr[None] + 1) / 2, rng.random()
    if chance < CLEAN:
        return "clean", degrade.in_8_bits(degrade.shrunk(x, SIDE, rng))
    if chance < CLEAN + MILD:
        return "mild", degrade.mildly(hr, SIDE, rng)
    if chance < CLEAN + MILD + ONCE + TWICE:
        twice = float(chance >= CLEAN + MILD + ONCE)
        return "twice" if twice else "once", degrade.degraded(hr, SIDE, rng, twice)
    kind, lr = ONE[rng.integers(len(ONE))], degrade.shrunk(x, SIDE, rng)
    if kind == "webp":
        lr = degrade.through(lr, "WEBP", int(rng.integers(50, 98)))
    elif kind == "jpeg":
        lr = _jpeg(lr, (60, 99), rng)
    elif kind == "fine":
        lr = _jpeg(lr, (94, 101), rng)
    elif kind == "avif":
        file = io.BytesIO()
        Image.fromarray(_bytes(lr[0] * 2 - 1)).save(file, "AVIF", quality=int(rng.integers(30, 95)))
        rows = np.array(Image.open(file).convert("RGB"))
        lr = torch.from_numpy(rows).permute(2, 0, 1)[None] / 255
    elif kind == "noise":
        channels = 1 if rng.random() < degrade.GREY_SHARE else 3
        drawn = rng.standard_normal((1, channels, SIDE, SIDE), dtype=np.float32)
        lr = lr + torch.from_numpy(drawn) * float(rng.uniform(0.5, 6) / 255)
        lr = _jpeg(lr, (85, 100), rng) if rng.random() < 0.4 else lr
    else:
        rows = np.ascontiguousarray(lr[0].permute(1, 2, 0).numpy())
        lr = torch.from_numpy(blurred(rows, float(rng.uniform(0.2, 1.2)))).permute(2, 0, 1)[None]
    return kind, degrade.in_8_bits(lr)


def _jpeg(x: Tensor, quality: tuple[int, int], rng: np.random.Generator) -> Tensor:
    subsampling = degrade.SUBSAMPLINGS[rng.integers(len(degrade.SUBSAMPLINGS))]
    return degrade.through(x, "JPEG", int(rng.integers(*quality)), subsampling)


def _bytes(x: Tensor) -> np.ndarray:
    """(3,H,W) in [-1,1] -> (H,W,3) of 8 bits."""
    rounded = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(rounded.permute(1, 2, 0).numpy())


def drawn(
    photos: Path, number: int, seed: int, soft: float = 0
) -> Iterator[tuple[str, np.ndarray, Tensor]]:
    """What happened, the small part (64,64,3) of 8 bits, and the large one (3,P,P). soft: the share
    of those that are shrunk by less than four."""
    rng, side = np.random.default_rng(seed), SCALE * SIDE
    pictures = [read(path).rgb for path in pictures_of(photos)]
    kept = [np.rint(rgb * 255).astype(np.uint8) for rgb in pictures if min(rgb.shape[:2]) >= side]
    del pictures
    rng.shuffle(kept)
    for index in range(number):
        less = rng.random() < soft
        cut = round(SIDE * rng.uniform(*FACTORS)) if less else side
        part = random_part(kept[index % len(kept)].astype(np.float32) / 255, cut, rng)
        hr = torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1))) * 2 - 1
        line_art = rng.random() < DRAWN
        hr = drawing(hr, rng) if line_art else hr
        hr = hr.mean(0, keepdim=True).repeat(3, 1, 1) if rng.random() < GREY else hr
        kind, lr = small(hr, rng)
        yield f"{'drawing, ' * line_art}{'soft, ' * less}{kind}", _bytes(lr), hr


def distances(lr: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Of two small pictures (H,W,3) of 8 bits, by plane and by band of the DCT of 8x8 blocks, means
    of logarithms: the power of the difference, of the first by the second's, of the second."""
    found = []
    for one, other in zip(_planes(lr), _planes(clean), strict=True):
        power = [
            np.square(coefficients(blocks(each, (0, 0)))) for each in (one - other, one, other)
        ]
        for band in BANDS:
            apart, mine, theirs = (np.log(p[:, band].mean(1) + 0.1).mean() for p in power)
            found += [apart, mine - theirs, theirs]
    return np.array(found, np.float32)


def _planes(rgb: np.ndarray) -> list[np.ndarray]:
    rgb = rgb.astype(np.float32)
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    return [luma, (rgb[..., 0] - luma) / 2, (rgb[..., 2] - luma) / 2]


def examples(photos: Path, file: Path, number: int, seed: int) -> None:
    kinds, parts, told = [], [], []
    for kind, lr, hr in drawn(photos, number, seed, SOFT):
        clean = _bytes(degrade.in_8_bits(resize((hr[None] + 1) / 2, (SIDE, SIDE))))
        kinds.append(kind)
        parts.append(lr)
        told.append(distances(lr, clean))
    np.savez(file, kind=np.array(kinds), lr=np.stack(parts), told=np.stack(told))


def labels(photos: Path, file: Path, number: int, seed: int, kind: str) -> None:
    """kind: keep those alone that this happened to; all if it is empty."""
    upscaler, nets = Upscaler("ecdp", dtype="fp32"), (Lpips("alex"), Lpips("vgg"))
    kinds, parts, found = [], [], []
    for name, lr, hr in drawn(photos, number if not kind else 10**9, seed):
        if kind and name != kind:
            continue
        truth = np.ascontiguousarray(((hr + 1) / 2).permute(1, 2, 0).numpy())
        picture, scores = Picture(lr.astype(np.float32) / 255), []
        for strength in STRENGTHS:
            sr = upscaler(picture, scale=SCALE, denoise=strength).picture.rgb.clip(0, 1)
            scores.append([net.distance(sr, truth) for net in nets])
        kinds.append(name)
        parts.append(lr)
        found.append(scores)
        if len(parts) % 25 == 0 or len(parts) == number:
            told = np.array(found, np.float32)
            np.savez(file, kind=np.array(kinds), lr=np.stack(parts), lpips=told)
        if len(parts) == number:
            return


def gained(lpips: np.ndarray) -> np.ndarray:
    """(N,5,2) LPIPS by strength and network -> (N,): how much less there is after all cleaning."""
    return (lpips[:, 0] - lpips[:, -1]).mean(1)


def learn(file: Path, examples: list[Path], steps: int, seed: int) -> None:
    """All but the last layer, which is 0."""
    parts, told = (_joined(examples, key) for key in ("lr", "told"))
    lr = torch.from_numpy(parts)
    wanted = torch.from_numpy((told - told.mean(0)) / (told.std(0) + 1e-6))
    torch.manual_seed(seed)
    net = GainNet(wanted.shape[1])
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    for step in range(steps):
        at = torch.randint(0, len(lr), (64,))
        x = lr[at]
        for axis in (1, 2):
            x = x.flip(axis) if torch.rand(()) < 0.5 else x
        x = x.transpose(1, 2) if torch.rand(()) < 0.5 else x
        loss = (net(x.float()) - wanted[at]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        if step % 250 == 249:
            print(f"step {step + 1}: {loss:.3f}", flush=True)
    _save(file, net.state_dict(), torch.zeros(48), torch.zeros(()))


def _save(file: Path, state: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> None:
    kept = {key: value for key, value in state.items() if not key.startswith("last.")}
    kept |= {"last.weight": weight[None], "last.bias": bias[None]}
    np.savez(file, **{key: value.half().numpy() for key, value in kept.items()})


def fit(file: Path, examples: list[Path], labels: list[Path], ridge: float) -> None:
    """The last layer: ridge regression of the gain on what the network sees, each part of which
    counts alike."""
    with np.load(file) as stored:
        state = {key: torch.from_numpy(stored[key]).float() for key in stored.files}
    net = GainNet()
    net.load_state_dict(state)
    soft = np.flatnonzero(_joined(examples, "kind") == "soft, clean")[:SOFT_PARTS]
    shown = np.concatenate([_joined(labels, "lr"), _joined(examples, "lr")[soft]])
    gain = gained(_joined(labels, "lpips")).clip(*WITHIN)
    gain = torch.from_numpy(np.append(gain, np.full(len(soft), SOFT_GAIN))).double()
    with torch.no_grad():
        parts = torch.from_numpy(shown).split(256)
        seen = torch.cat([net.embedded(part.float()) for part in parts]).double()
    mean, deviation = seen.mean(0), seen.std(0) + 1e-6
    x = (seen - mean) / deviation
    square = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(square, x.T @ (gain - gain.mean())) / deviation
    _save(file, state, weight, gain.mean() - mean @ weight)


def _joined(files: list[Path], key: str) -> np.ndarray:
    return np.concatenate([np.load(file)[key] for file in files])


def judge(files: list[Path]) -> None:
    kinds, parts, lpips = (_joined(files, key) for key in ("kind", "lr", "lpips"))
    found = [estimate(Picture(lr.astype(np.float32) / 255)) for lr in parts]
    scores, last = lpips.mean(2), len(STRENGTHS) - 1

    def rounded(strengths: list[float]) -> np.ndarray:
        return np.array([round(strength * last) for strength in strengths])

    ways = {
        "as estimated": rounded([one.strength for one in found]),
        "clean or real": rounded([float(one.real) for one in found]),
        "without the gain": rounded([replace(one, gain=None).strength for one in found]),
        **{f"always {strength:g}": np.full(len(found), round(strength * last))
           for strength in STRENGTHS},
    }  # fmt: skip
    lost = {way: np.take_along_axis(scores, which[:, None], 1)[:, 0] - scores.min(1)
            for way, which in ways.items()}  # fmt: skip
    print("| | parts | better cleaned | " + " | ".join(ways) + " |")
    print("|---" * (3 + len(ways)) + "|")
    for kind in ("all", *sorted(set(kinds))):
        own = (kinds == kind) | (kind == "all")
        cells = [f"{own.sum()}", f"{(gained(lpips)[own] > 0).mean():.0%}"]
        cells += [f"{loss[own].mean():.4f}" for loss in lost.values()]
        print(f"| {kind} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="command", required=True)
    for name in ("examples", "labels"):
        made = kinds.add_parser(name)
        made.add_argument("photos", type=Path)
        made.add_argument("file", type=Path)
        made.add_argument("--number", type=int, required=True)
        made.add_argument("--seed", type=int, default=0)
        if name == "labels":
            made.add_argument("--kind", default="")
    files = {"type": lambda text: [Path(name) for name in text.split(",")]}
    for name in ("learn", "fit"):
        learnt = kinds.add_parser(name)
        learnt.add_argument("file", type=Path)
        learnt.add_argument("--examples", required=True, **files)
        if name == "fit":
            learnt.add_argument("--labels", required=True, **files)
            learnt.add_argument("--ridge", type=float, default=100)
        else:
            learnt.add_argument("--steps", type=int, default=3600)
            learnt.add_argument("--seed", type=int, default=0)
    kinds.add_parser("judge").add_argument("files", **files)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    made = {"examples": examples, "labels": labels, "learn": learn, "fit": fit, "judge": judge}
    made[given.pop("command")](**given)


if __name__ == "__main__":
    main()
