"""Weights as an ONNX file, for programs that have neither diffsr nor torch.

One graph holds a call of the sampler: the small picture, the noisy target and its noise level go
in; the estimate of the clean target comes out, held to the small picture as the weights ask for it,
and what it is as a picture. All resizing is in the graph, so that what is left outside is the loop
over the noise levels (examples/run_onnx.py). The features of the small picture are made again at
each call, which spares those who use it a second file and half a dozen tensors between the two.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from upscale import __version__, methods
from upscale.atomic import placed
from upscale.diffusion.denoiser import bind
from upscale.diffusion.process import sigmas
from upscale.diffusion.table import SAMPLERS
from upscale.errors import UsageError, WeightsError
from upscale.image.resize import resize
from upscale.model import Model, build
from upscale.pipeline.consistency import finished
from upscale.pipeline.plan import Plan
from upscale.pipeline.request import SCALE
from upscale.pipeline.sampling import held
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store
from upscale.weights.registry import Entry

TOLERANCE = 1e-4  # of a picture's samples in [0,1], between torch and onnxruntime
_INPUTS = {
    "lr": "the small picture (batch,3,h,w), RGB in [0,1]",
    "x": "the noisy target (batch,3,height,width), of the size wanted: target + sigma * noise",
    "sigma": "its noise level (1)",
}
_OUTPUTS = {
    "denoised": "the estimate of the clean target (batch,3,height,width)",
    "picture": "the picture that this estimate stands for (batch,3,height,width), RGB in [0,1]",
}
# sizes that the graph is traced with, and those that it is compared at: h, w, height, width
_TRACED = (24, 40, 96, 160)
_COMPARED = (_TRACED, (19, 14, 75, 57), (13, 18, 13, 18))


def export(
    name: str,
    target: Path,
    *,
    overwrite: bool = False,
    offline: bool = False,
    on_bytes: store.OnBytes | None = None,
) -> dict[str, Any]:
    """Write the weights of a name, as `store.find` takes it, as an ONNX file, once onnxruntime has
    given what torch gives. Returns what the file says of itself, and `difference`, the largest
    between their pictures. It takes a minute.

    Raises UsageError for weights that cannot be exported and where packages are missing,
    WeightsError, OutputError.
    """
    entry = store.find(name, offline, on_bytes)
    _exportable(entry)
    _needed()
    model = build(*store.load(entry, offline=offline, on_bytes=on_bytes))
    upscaler = Upscaler(weights=name, device="cpu", offline=offline)
    plan = upscaler.plan(_TRACED[:2], scale=max(entry.scales, default=SCALE))
    call = Call(model, plan.projection, plan.consistency)
    facts = described(entry, model, plan)
    content = _graph(call, facts)
    difference = _difference(content, call)
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"{entry.name}: by its ONNX graph onnxruntime gives another picture than torch "
            f"({difference:.2g} apart at most), so nothing is written; export other weights"
        )
    with placed(target, overwrite=overwrite) as file:
        file.write(content)
    return {**facts, "difference": difference}


class Call(nn.Module):
    """What the graph computes: (lr, x, sigma) -> (denoised, picture), as `_INPUTS` and `_OUTPUTS`
    say."""

    def __init__(self, model: Model, projection: float, consistency: str) -> None:
        super().__init__()
        self.net, self.model = model.net, model
        self.projection, self.consistency = projection, consistency

    def forward(self, lr: Tensor, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        model, lr = self.model, lr * 2 - 1
        lr_up = resize(lr, tuple(x.shape[-2:]), model.kernel)
        area = (x.shape[2] * x.shape[3]) / (lr.shape[2] * lr.shape[3])
        cond = self.net.encode(lr_up, torch.full((1,), area).sqrt(), lr)
        denoised = bind(self.net, cond, model.law.parametrisation)(x, sigma)
        if model.std is None and model.law.clamped:
            denoised = denoised.clamp(-1, 1)
        if self.projection:
            denoised = held(model, denoised, lr, lr_up, self.projection)
        sr = finished(model.decode(denoised, lr_up), lr, self.consistency)
        return denoised, sr.clamp(-1, 1).add(1).div(2)


def described(entry: Entry, model: Model, plan: Plan) -> dict[str, str]:
    """What the file says of itself, as texts; numbers and lists as JSON."""
    stage, sampler = plan.stages[0], SAMPLERS[plan.sampler]
    levels = stage.levels
    if not levels and not sampler.adaptive:
        levels = sigmas(model.law.process, stage.steps, plan.spacing)[:-1].tolist()
    return {
        "made_by": f"diffsr {__version__}",
        "weights": entry.name,
        "weights_sha256": entry.sha256,
        "licence": entry.licence,
        "method": entry.method,
        "network": model.net.kind,
        "domain": entry.domain,
        "input": entry.input,
        "scales": entry.scales_text(),
        "sampler": plan.sampler,
        "sigmas": json.dumps(list(levels)),
        "temperature": json.dumps(stage.temperature),
        "consistency": plan.consistency,
        "target": "picture in [-1,1]" if model.std is None
        else f"(picture - enlarged lr) / {model.std:g}, both in [-1,1]",
        "halo": json.dumps(model.net.halo),
        "inputs": json.dumps(_INPUTS),
        "outputs": json.dumps(_OUTPUTS),
    }  # fmt: skip


def _needed() -> None:
    """Raises UsageError where a package is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UsageError(
                f'the export needs an extra (there is no {package}): pip install "diffsr[onnx]"'
            )


def _exportable(entry: Entry) -> None:
    """Raises UsageError for weights that enlarge nothing, and for those of other programs."""
    if entry.domain == "metric":
        raise UsageError(f"{entry.name} is read by metrics and enlarges nothing: export others")
    if methods.enlarging(entry.method).foreign:
        raise UsageError(f"{entry.name} is a network of another program: export it with that "
                         "program, or with torch.onnx.export and spandrel")  # fmt: skip


def _graph(call: Call, facts: dict[str, str]) -> bytes:
    """The ONNX file."""
    side = torch.export.Dim.AUTO
    sizes = {0: side, 2: side, 3: side}
    with warnings.catch_warnings(), _any_size(call.net):
        warnings.simplefilter("ignore")  # torch's of its own inside
        try:
            with _Plainly():
                program = torch.export.export(
                    call, _example(2, *_TRACED), strict=False, dynamic_shapes=(sizes, sizes, None)
                )
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, optimize=True,
                input_names=list(_INPUTS), output_names=list(_OUTPUTS),
            )  # fmt: skip
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            first = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"torch cannot export the network {call.net.kind} ({first}): weights of our "
                "compact networks can be exported"
            ) from error
    return _documented(made.model_proto, facts).SerializeToString()


def _documented(proto: Any, facts: dict[str, str]) -> Any:
    """The graph with its facts and named sizes, and without torch's notes about the code it came
    from, which name files of this machine."""
    import onnx

    onnx.helper.set_model_props(proto, facts)
    proto.producer_name, proto.producer_version = "diffsr", __version__
    proto.doc_string = "One call of a sampler of diffsr. The metadata say how it is used."
    graph = proto.graph
    del graph.value_info[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*graph.input, *graph.output):
        value.doc_string = {**_INPUTS, **_OUTPUTS}[value.name]
        small = value.name == "lr"
        names = ("batch", "", "h", "w") if small else ("batch", "", "height", "width")
        for size, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if size.dim_param:
                size.dim_param = name
    return proto


def _difference(content: bytes, call: Call) -> float:
    """The largest between torch's pictures and onnxruntime's, over three sizes. Raises UsageError
    where onnxruntime cannot run the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, sizes in enumerate(_COMPARED, 1):
        example = _example(batch, *sizes)
        feeds = {name: x.numpy() for name, x in zip(_INPUTS, example, strict=True)}
        try:
            (theirs,) = session.run(["picture"], feeds)
        except Exception as error:  # onnxruntime's have no common base
            raise UsageError(
                f"the network {call.net.kind} decides by the size of the picture what it computes, "
                "and an ONNX graph cannot: weights of our compact networks can be exported"
            ) from error
        with torch.inference_mode():
            own = call(*example)[1]
        apart = float((own - torch.from_numpy(theirs)).abs().max())
        worst = max(worst, apart) if math.isfinite(apart) else math.inf
    return worst


def _example(batch: int, h: int, w: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of these sizes."""
    random = torch.Generator().manual_seed(0)
    lr = torch.rand((batch, 3, h, w), generator=random)
    return lr, torch.randn((batch, 3, height, width), generator=random), torch.ones(1)


# --- what torch's exporter cannot translate, in operators that it can -----------------------------


class _Plainly(TorchFunctionMode):
    """Within it the antialiased bicubic resize is two products with matrices: ONNX's own operator
    for it is missing or different in most programs that run such files."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: dict[tuple[str, str], Tensor] = {}  # by lengths, which are symbols in a trace

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.interpolate and kwargs.get("antialias"):
            x, size = args[0], kwargs["size"]
            rows, columns = (self.share(x.shape[2 + i], size[i]).to(x) for i in range(2))
            return rows @ (x @ columns.T)
        return function(*args, **kwargs)

    def share(self, source: int, target: int) -> Tensor:
        key = str(source), str(target)
        if key not in self.shares:
            self.shares[key] = _weights(source, target)
        return self.shares[key]


def _weights(source: int, target: int) -> Tensor:
    """(target,source): the share of each pixel, by Keys' cubic with a = -0.5, which widens when
    shrinking."""
    factor = source / target
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * factor - 0.5
    wide = torch.full((), factor, dtype=torch.float64).clamp(min=1)
    d = (centres[:, None] - torch.arange(source, dtype=torch.float64)).abs() / wide
    inner = (1.5 * d - 2.5) * d * d + 1
    outer = ((-0.5 * d + 2.5) * d - 4) * d + 2
    share = torch.where(d < 1, inner, torch.where(d < 2, outer, 0.0))
    return share / share.sum(1, keepdim=True)


@contextmanager
def _any_size(net: nn.Module) -> Iterator[None]:
    """Within it a network repeats its last row and column whatever the size: its own way decides
    by the size, and a graph would keep the decision."""

    def padded(x: Tensor) -> Tensor:
        for dim in (2, 3):
            side = x.shape[dim]
            places = torch.arange((side + net.align - 1) // net.align * net.align)
            x = x.index_select(dim, places.clamp(max=side - 1))
        return x

    net.padded = padded
    try:
        yield
    finally:
        del net.padded
