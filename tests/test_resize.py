"""resize against Pillow's float mode, which is its own implementation of the same kernels, and
against a kernel's definition where Pillow has not got it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from upscale.image.resize import KERNELS, resize, resize_array

SIZES = [
    ((7, 3), (28, 12)),
    ((40, 27), (10, 9)),
    ((13, 22), (29, 5)),
    ((600, 2), (75, 16)),
    ((1, 1), (3, 5)),
    ((9, 4), (1, 1)),
    ((5, 8), (5, 17)),
]
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def by_pillow(plane: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), RESAMPLING[kernel]))


def plain_matrix(old: int, new: int) -> np.ndarray:
    """(new, old): Keys' cubic with a = -0.75 at pixel centres; edge pixels stand for what is
    outside, and nothing is averaged when shrinking."""
    a, made = -0.75, np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            d = abs(at - j)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            made[i, min(max(j, 0), old - 1)] += near if d <= 1 else far if d < 2 else 0
    return made


def expected(plane: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    if kernel != "bicubic-plain":
        return by_pillow(plane, size, kernel)
    rows, columns = (plain_matrix(a, b) for a, b in zip(plane.shape, size, strict=True))
    return rows @ plane @ columns.T


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_equals_pillow_float_or_the_definition(old, new, kernel):
    a = noise(*old)
    got = resize(torch.from_numpy(a)[None, None], new, kernel)
    assert got.shape == (1, 1, *new)
    rounding = 3e-6 if kernel == "bicubic-plain" else 1e-6  # torch places its samples in float32
    np.testing.assert_allclose(got[0, 0].numpy(), expected(a, new, kernel), atol=rounding)


THIN = [((160, 4), (40, 1)), ((40, 1), (160, 1)), ((4, 160), (1, 40)), ((7, 9), (3, 1))]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
@pytest.mark.parametrize(("old", "new"), THIN)
def test_thin_results_are_right_in_whatever_order_memory_is(old, new, kernel, channels):
    # F.interpolate mixes up the rows of a single column (torch 2.13)
    a = noise(*old, channels)
    want = np.stack([expected(np.array(a[..., c]), new, kernel) for c in range(channels)])
    x = torch.from_numpy(a).permute(2, 0, 1)[None]
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for each in (x, x.contiguous(), x.contiguous(memory_format=torch.channels_last), turned):
        np.testing.assert_allclose(resize(each, new, kernel)[0].numpy(), want, atol=2e-6)
    np.testing.assert_allclose(resize_array(a, new, kernel).transpose(2, 0, 1), want, atol=2e-6)
    deep = resize(x.double(), new, kernel)[0].numpy()
    np.testing.assert_allclose(deep, want, atol=2e-6)


def test_a_thin_result_passes_a_gradient():
    x = torch.from_numpy(noise(1, 3, 8, 4)).requires_grad_()
    (resize(x, (4, 1)) * torch.arange(1.0, 5)[:, None]).sum().backward()
    # the upper half weighs less than the lower one
    assert x.grad[..., :4, :].sum() < x.grad[..., 4:, :].sum() / 2


def test_the_plain_kernel_differs_from_the_antialiased_one():
    x = torch.from_numpy(noise(1, 1, 40, 27))
    for size, least in (((10, 9), 0.2), ((80, 54), 0.03)):  # no average; another a
        apart = resize(x, size, "bicubic-plain") - resize(x, size)
        assert apart.abs().max() > least


@pytest.mark.parametrize("kernel", KERNELS)
def test_batch_and_channels_stay_apart(kernel):
    x = torch.from_numpy(noise(2, 3, 11, 6))
    got = resize(x, (5, 13), kernel)
    for b in range(2):
        for c in range(3):
            alone = resize(x[b : b + 1, c : c + 1], (5, 13), kernel)
            torch.testing.assert_close(got[b, c], alone[0, 0], atol=1e-6, rtol=0)


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(sorted(KERNELS)),
    st.floats(0, 1, width=32),
)
def test_constants_are_kept(old, new, kernel, value):
    got = resize(torch.full((1, 2, *old), value), new, kernel)
    torch.testing.assert_close(got, torch.full((1, 2, *new), value), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype, kernel):
    x = torch.from_numpy(noise(1, 3, 9, 14))
    got = resize(x.to(dtype), (18, 7), kernel)
    assert got.dtype == dtype
    coarse = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-6)
    torch.testing.assert_close(got.float(), resize(x, (18, 7), kernel), atol=coarse, rtol=0)


def test_float64_bicubic_is_computed_in_float64():
    x = torch.from_numpy(noise(1, 1, 12, 7)).double()
    ramp = torch.arange(24.0, dtype=torch.float64) / 2 - 0.25
    line = torch.arange(12.0, dtype=torch.float64)[None, None, :, None].expand(1, 1, 12, 7)
    # a cubic with a = -0.5 reproduces straight lines (away from the ends), to the last bits
    inner = resize(line, (24, 7))[0, 0, 6:-6, 3]
    torch.testing.assert_close(inner, ramp[6:-6], atol=1e-13, rtol=0)
    assert (resize(x, (6, 5)) - resize(x.float(), (6, 5)).double()).abs().max() > 0


def test_same_size_is_a_copy():
    x = torch.from_numpy(noise(1, 3, 5, 8))
    got = resize(x, (5, 8))
    assert torch.equal(got, x)
    assert got.data_ptr() != x.data_ptr()


def test_bicubic_passes_a_gradient():
    x = torch.from_numpy(noise(1, 3, 8, 12)).requires_grad_()
    resize(x, (4, 3)).sum().backward()
    torch.testing.assert_close(x.grad.sum(), torch.tensor(3.0 * 4 * 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(6, 11), (6, 11, 1), (6, 11, 3)])
def test_array_equals_tensor(shape, kernel):
    a = noise(*shape)
    a.flags.writeable = False
    got = resize_array(a, (9, 4), kernel)
    assert got.shape == (9, 4, *shape[2:])
    assert got.dtype == np.float32
    planes = a.reshape(6, 11, -1)
    for c in range(planes.shape[2]):
        want = expected(np.array(planes[..., c]), (9, 4), kernel)
        np.testing.assert_allclose(got.reshape(9, 4, -1)[..., c], want, atol=1e-6)


def test_mistakes_are_named():
    x = torch.zeros(1, 3, 4, 6)
    with pytest.raises(ValueError, match="choose from bicubic, lanczos"):
        resize(x, (2, 3), "nearest")
    with pytest.raises(ValueError, match=r"\(B,C,H,W\)"):
        resize(x[0], (2, 3))
    with pytest.raises(ValueError, match="cannot resize"):
        resize(x, (0, 3))
