"""Golden vectors: what a network answered where it was published, to be computed again elsewhere.

A file of them, NAME.golden.safetensors, lies beside NAME.safetensors: a small input, noise, and
the estimates at a few noise levels. They tell a wrong answer (another torch, a miscompiled
kernel, a changed network) where a sha256 can tell only a wrong file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from upscale import __version__
from upscale.diffusion.denoiser import bind
from upscale.errors import DamagedWeights, WeightsError
from upscale.image.resize import resize
from upscale.model import Model, build
from upscale.weights import store as weights
from upscale.weights.file import read, save
from upscale.weights.hub import files
from upscale.weights.hub.names import Hub

SUFFIX = ".golden.safetensors"
SIGMAS = (0.05, 0.5, 5.0)  # hardly any noise, half of it, hardly anything else
SIZE = (6, 7)  # of the input; small enough for every network's CPU
# number of threads, memory layout and convolution library move the bundled networks' estimates by
# 1e-6 at most (measured); that of a network which tells the noise moves by sigma times its error
TOLERANCE = 2e-4


@dataclass(frozen=True)
class Vectors:
    """lr (1,3,h,w) in [-1,1], noise (1,3,H,W), output (S,3,H,W): the estimate at each sigma."""

    lr: Tensor
    noise: Tensor
    output: Tensor
    sigmas: tuple[float, ...]
    scale: float


def make(model: Model, scale: float) -> Vectors:
    """Vectors of a model at a magnification. Raises WeightsError if the answers are not finite."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, SIZE[0])[:, None]
    columns = torch.linspace(-1, 1, SIZE[1])
    shading = torch.stack([rows * columns, rows.expand(SIZE), -columns.expand(SIZE)])[None] * 0.7
    lr = shading + torch.randn(shading.shape, generator=generator) * 0.1
    size = tuple(max(1, math.floor(side * scale + 0.5)) for side in SIZE)
    noise = torch.randn((1, 3, *size), generator=generator)
    output = _answers(model, lr, noise, SIGMAS, scale)
    if not torch.isfinite(output).all():
        raise WeightsError("the output of this network is not finite: its weights are unusable")
    return Vectors(lr, noise, output, SIGMAS, scale)


@torch.inference_mode()
def _answers(
    model: Model, lr: Tensor, noise: Tensor, sigmas: tuple[float, ...], scale: float
) -> Tensor:
    lr_up = resize(lr, tuple(noise.shape[-2:]), model.kernel)
    cond = model.net.encode(lr_up, torch.tensor([float(scale)]), lr)
    denoise = bind(model.net, cond, model.law.parametrisation)
    start = model.encode(lr_up, lr_up)
    found = [denoise(start + sigma * noise, torch.tensor([sigma])) for sigma in sigmas]
    return torch.cat(found).float()


def store(vectors: Vectors, sha256: str, path: Path) -> None:
    """Write vectors of the weights that have this sha256."""
    made_from = {
        "weights_sha256": sha256, "sigmas": list(vectors.sigmas), "scale": vectors.scale,
        "diffsr": __version__, "torch": str(torch.__version__),
    }  # fmt: skip
    state = {"lr": vectors.lr, "noise": vectors.noise, "output": vectors.output}
    save(path, state, {"golden": made_from})


def check(
    entry: weights.Entry, offline: bool = False, on_bytes: weights.OnBytes | None = None
) -> float:
    """Compute the golden vectors of weights again, of a head of others those of the whole; returns
    the largest difference, in parts of what is allowed. Raises WeightsError if there are none, or
    if they come out otherwise."""
    entry = weights.find(entry.head_of) if entry.head_of else entry
    path = _beside(entry, offline, on_bytes)
    state, metadata = read(path)
    made_from = metadata.get("golden")
    if not isinstance(made_from, dict) or state.keys() != {"lr", "noise", "output"}:
        raise DamagedWeights(f"{path} holds no golden vectors")
    if made_from.get("weights_sha256") != entry.sha256:
        raise WeightsError(f"{path} holds the golden vectors of other weights than {entry.name}")
    model = build(*weights.load(entry, offline=offline, on_bytes=on_bytes))
    sigmas, scale = made_from.get("sigmas"), made_from.get("scale")
    if not (isinstance(sigmas, list) and 0 < len(sigmas) < 100 and _positive(scale, *sigmas)):
        raise DamagedWeights(f"{path} does not say at which noise it was made")
    size = tuple(max(1, math.floor(side * scale + 0.5)) for side in SIZE)
    shapes = {"lr": (1, 3, *SIZE), "noise": (1, 3, *size), "output": (len(sigmas), 3, *size)}
    if scale > 64 or any(tuple(state[key].shape) != shape for key, shape in shapes.items()):
        raise DamagedWeights(f"{path} holds golden vectors of another size")
    made = _answers(model, state["lr"].float(), state["noise"].float(), tuple(sigmas), scale)
    if made.shape != state["output"].shape:
        raise WeightsError(f"{entry.name}: its golden vectors have another size: {path}")
    allowed = TOLERANCE * (1 + torch.tensor(sigmas))[:, None, None, None]
    worst = float(((made - state["output"]).abs() / allowed).amax())
    if not worst <= 1:
        raise WeightsError(
            f"{entry.name}: its network answers otherwise here than where it was published, by "
            f"{worst:.3g} times what is allowed; report it with the output of `diffsr doctor`"
        )
    return worst


def has(entry: weights.Entry) -> bool:
    """Whether the golden vectors of these weights, or of those that they are a head of, are on this
    machine."""
    entry = weights.find(entry.head_of) if entry.head_of else entry
    if entry.domain == "metric":
        return False
    if entry.hub is not None:
        return files.cached(_of(entry.hub)) is not None
    path = weights.locate(entry, offline=True)
    return path.with_name(name_for(path.name)).is_file()


def _of(hub: Hub) -> Hub:
    return Hub(hub.repo, hub.revision, name_for(hub.file))


def _positive(*values: object) -> bool:
    return all(type(one) in (int, float) and 0 < one < math.inf for one in values)


def _beside(entry: weights.Entry, offline: bool, on_bytes: weights.OnBytes | None) -> Path:
    if entry.hub is not None:
        hub = _of(entry.hub)
        path = files.cached(hub) or files.fetch(hub, offline=offline, on_bytes=on_bytes)
        with files.removing_damaged(path):
            files.check_sent(path)
        return path
    weights_file = weights.locate(entry, offline=True)
    path = weights_file.with_name(name_for(weights_file.name))
    if not path.is_file():
        raise WeightsError(f"{entry.name} has no golden vectors: there is no {path}")
    return path


def name_for(file: str) -> str:
    """NAME.safetensors -> NAME.golden.safetensors."""
    return file.removesuffix(".safetensors") + SUFFIX
