"""Windows: they cover, they blend, and they leave nothing to see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from upscale.diffusion.tiling import tiled, windows
from upscale.nets.compact import CompactConfig, CompactNet


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 300),
    window=st.integers(4, 12).map(lambda n: n * 16),
    overlap=st.integers(0, 40),
)
def test_windows_cover_every_pixel_and_stay_aligned(height, width, window, overlap) -> None:
    boxes = windows((height, width), window, overlap, 16)
    seen = torch.zeros(height, width, dtype=torch.bool)
    for top, left, h, w in boxes:
        assert top % 16 == left % 16 == 0 and 0 < h <= window and 0 < w <= window
        assert top + h <= height and left + w <= width
        seen[top : top + h, left : left + w] = True
    assert seen.all()
    assert (len(boxes) == 1) == (height <= window and width <= window)
    tops = sorted({box.top for box in boxes})
    assert all(a + window - b >= overlap for a, b in zip(tops, tops[1:], strict=False))


@given(
    height=st.integers(1, 120),
    width=st.integers(1, 150),
    overlap=st.integers(0, 40),
)
def test_an_identity_stays_an_identity(height, width, overlap) -> None:
    boxes = windows((height, width), 64, overlap, 16)
    x = torch.rand(1, 3, height, width)
    denoise = tiled(lambda part, sigma, box: part, (height, width), boxes, overlap)
    torch.testing.assert_close(denoise(x, torch.ones(1)), x, atol=1e-6, rtol=0)


def test_a_window_without_room_for_its_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        windows((200, 100), 64, 60, 16)


def test_convolutions_in_tiles_equal_convolutions_on_the_whole() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))).requires_grad_(False)
    x, size = torch.randn(1, 3, 100, 140), (100, 140)
    boxes = windows(size, 64, 16, 4)  # a quarter of 16 is dropped: 4 > the 3 that padding reaches
    made = tiled(lambda part, sigma, box: net(part), size, boxes, 16)(x, torch.ones(1))
    assert len(boxes) > 4
    torch.testing.assert_close(made, net(x), atol=1e-5, rtol=0)


def test_compact_network_in_tiles_equals_itself_on_the_whole() -> None:
    torch.manual_seed(0)
    net = CompactNet(CompactConfig(channels=(8, 8, 8), encoder=1, head=(4, 4), embedding=8)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False).add_(torch.randn_like(parameter) * 0.05)
    size = (300, 400)
    x, lr_up, one = torch.randn(1, 3, *size), torch.rand(1, 3, *size), torch.ones(1)
    level = torch.full((1,), 0.7)
    whole = net(x, net.encode(lr_up, one), level)

    def part(window, sigma, box):
        top, left, height, width = box
        cut = lr_up[..., top : top + height, left : left + width]
        return net(window, net.encode(cut, one), level)

    errors = []
    for overlap in (16, 96):
        boxes = windows(size, 240, overlap, net.align)
        made = tiled(part, size, boxes, overlap)(x, one)
        errors.append(float((made - whole).square().mean().sqrt() / whole.std()))
    # the receptive field is wider than any overlap, but its rim weighs little
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 4


def test_an_error_in_a_window_is_not_swallowed() -> None:
    boxes = windows((100, 140), 64, 16, 16)

    def fail_once(part, sigma, box):
        if box == boxes[2]:
            raise torch.OutOfMemoryError("window 2")
        return part

    with pytest.raises(torch.OutOfMemoryError, match="window 2"):
        tiled(fail_once, (100, 140), boxes, 16)(torch.zeros(1, 3, 100, 140), torch.ones(1))
