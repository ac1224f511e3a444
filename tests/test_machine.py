"""Devices that are not here: which is taken, its number format and memory, and what goes wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from upscale import machine
from upscale.cli import doctor
from upscale.cli.main import explained
from upscale.cli.options import Device
from upscale.diffusion import denoiser
from upscale.errors import OutOfMemory, UsageError
from upscale.machine import (
    TRAINABLE,
    autocast,
    available_memory,
    dtype_name,
    is_out_of_memory,
    pick_bf16,
    pick_device,
    pick_dtype,
)

GIB = 2**30
MPS = torch.device("mps")


@pytest.fixture
def pretend(monkeypatch):
    """pretend(cuda=2, xpu=1, mps=1): so many of each, as torch tells of them."""

    def having(cuda: int = 0, xpu: int = 0, mps: int = 0) -> None:
        for module, count in ((torch.cuda, cuda), (torch.xpu, xpu)):
            monkeypatch.setattr(module, "is_available", lambda count=count: count > 0)
            monkeypatch.setattr(module, "device_count", lambda count=count: count)
            monkeypatch.setattr(
                module, "mem_get_info", lambda place: (3 * GIB, 8 * GIB), raising=False
            )
            monkeypatch.setattr(module, "get_device_name", lambda place: f"card {place}")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
        monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda: True, raising=False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps > 0)
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2 * GIB)
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GIB)

    return having


@pytest.mark.parametrize(
    ("there", "taken"),
    [({"cuda": 1, "xpu": 1, "mps": 1}, "cuda"), ({"xpu": 1, "mps": 1}, "xpu"), ({"mps": 1}, "mps"),
     ({}, "cpu")],
)  # fmt: skip
def test_auto_takes_the_first_that_is_there(pretend, there, taken) -> None:
    pretend(**there)
    assert pick_device("auto") == torch.device(taken)
    expected = "cuda" if "cuda" in there else "cpu"
    assert pick_device("auto", TRAINABLE).type == expected


def test_names_of_devices(pretend) -> None:
    pretend(cuda=2, xpu=1, mps=1)
    for name in ("cuda:1", "xpu:0", "mps", "cpu", "cuda"):
        assert str(pick_device(name)) == name
        assert Device(machine.DEVICES).convert(name, None, None) == name
    for place in ("cuda:1", "mps:0", "cpu"):  # as `tensor.device` is
        assert pick_device(torch.device(place)) == torch.device(place)
    for name, words in (("cuda:2", "cuda:1"), ("tpu", "xpu"), ("cuda:", "no device"),
                        ("mps:1", "no device")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            pick_device(name)
    with pytest.raises(UsageError, match="take cpu or cuda"):
        pick_device("mps", TRAINABLE)
    pretend()
    for name in ("cuda:0", "xpu", "mps"):
        with pytest.raises(UsageError, match="--device cpu works"):
            pick_device(name)


def test_number_formats(pretend, monkeypatch) -> None:
    pretend(cuda=1, xpu=1, mps=1)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    auto = {kind: pick_dtype("auto", torch.device(kind)) for kind in ("cuda", "xpu", "mps", "cpu")}
    assert {kind: dtype_name(dtype) for kind, dtype in auto.items()} == {
        "cuda": "fp16", "xpu": "bf16", "mps": "fp16", "cpu": "fp32"
    }  # fmt: skip
    assert not pick_bf16("auto", torch.device("cuda"))
    with pytest.raises(UsageError, match="bf16 or fp32"):
        pick_bf16("fp16", torch.device("cuda"))
    a = torch.ones(2, 2)
    for name in ("fp32", "bf16", "fp16"):
        dtype = pick_dtype(name, torch.device("cpu"))
        with autocast(a.device, dtype):
            assert (a @ a).dtype == dtype


def test_free_memory_of_each(pretend, monkeypatch) -> None:
    pretend(cuda=2, xpu=1, mps=1)
    assert (
        available_memory(torch.device("cuda:1"))
        == available_memory(torch.device("xpu"))
        == (3 * GIB)
    )
    monkeypatch.setattr(machine, "_proc", lambda path, key: 100 * GIB)
    assert 64 << 20 <= available_memory(MPS) <= GIB
    monkeypatch.setattr(machine, "_proc", lambda path, key: GIB // 2)
    assert available_memory(MPS) <= GIB // 2

    def silent(place: object) -> None:
        raise RuntimeError("The device does not support querying free memory")

    monkeypatch.setattr(torch.xpu, "mem_get_info", silent)
    properties = SimpleNamespace(total_memory=4 * GIB)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda place: properties)
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda place: GIB)
    assert available_memory(torch.device("xpu")) == 3 * GIB


@pytest.mark.parametrize(
    "words",
    ["MPS backend out of memory (MPS allocated: 9.0 GB)", "XPU out of memory. Tried to allocate",
     "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
     "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)"],
)  # fmt: skip
def test_memory_that_ran_out_is_recognised(words) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert isinstance(explained(RuntimeError(words)), OutOfMemory)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_an_operator_that_mps_lacks_comes_with_advice() -> None:
    words = "The operator 'aten::x' is not currently implemented for the MPS device."
    told = explained(NotImplementedError(words))
    assert isinstance(told, UsageError)
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in str(told) and "aten::x" in str(told)
    assert "MPS" not in str(explained(NotImplementedError("elsewhere")))


def test_doctor_names_what_is_there(pretend) -> None:
    pretend(cuda=2, xpu=1, mps=1)
    found = doctor._device()
    assert found["cuda:1"] == "card cuda:1, 3.0 GiB free, --dtype auto takes fp16"
    assert found["xpu:0"] == "card xpu:0, 3.0 GiB free, --dtype auto takes bf16"
    assert "MPS" in found["mps"] and "fp16" in found["mps"]
    pretend()
    assert not {"cuda:1", "xpu:0", "mps"} & doctor._device().keys()


def test_noise_levels_are_float64_where_the_device_has_none(monkeypatch) -> None:
    """The device gives its levels to the CPU before they are widened."""
    monkeypatch.setattr(denoiser, "WITHOUT_FLOAT64", ("cpu",))
    moved, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: moved.append(x.dtype) or cpu(x))
    seen = []

    def net(x: torch.Tensor, cond: object, c_noise: torch.Tensor) -> torch.Tensor:
        seen.append(c_noise.dtype)
        return x

    denoiser.bind(net, None, "eps")(torch.ones(1, 3, 2, 2), torch.ones(1))
    assert (moved, seen) == ([torch.float32], [torch.float64])
