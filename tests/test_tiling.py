"""Windows: they cover, they blend, and they leave nothing to see."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from upscale.diffusion.process import VPDiscrete, sigmas
from upscale.diffusion.samplers import ddpm
from upscale.diffusion.tiling import MARGIN, cores, joined, tiled, windows
from upscale.nets.compact import CompactConfig, CompactNet

pytestmark = pytest.mark.usefixtures("one_thread")


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
    tops, lefts = (sorted({box[side] for box in boxes}) for side in (0, 1))
    assert len(boxes) == len(tops) * len(lefts)  # a full grid
    for at, length in ((tops, height), (lefts, width)):
        assert all(a + window - b >= overlap for a, b in itertools.pairwise(at))
        # none is smaller but for the last, and that by less than the alignment
        assert length - at[-1] > min(window, length) - 16


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 300),
    side=st.integers(1, 12).map(lambda n: n * 16),
    halo=st.integers(0, 4).map(lambda n: n * 16),
)
def test_cores_are_all_of_a_picture_once_with_a_halo_around_each(height, width, side, halo):
    seen = torch.zeros(height, width, dtype=torch.int)
    for core, window in cores((height, width), side, halo, 16):
        seen[core.at] += 1
        assert core.height <= side and core.width <= side
        assert window.top % 16 == window.left % 16 == 0
        assert (window.top, window.left) == (max(0, core.top - halo), max(0, core.left - halo))
        bottom, right = window.top + window.height, window.left + window.width
        assert bottom == min(height, core.top + core.height + halo)
        assert right == min(width, core.left + core.width + halo)
    assert (seen == 1).all()


def test_a_core_that_is_not_aligned_is_refused() -> None:
    for side, halo in ((0, 16), (8, 16), (40, 16), (48, 8)):
        with pytest.raises(ValueError, match="not aligned"):
            cores((100, 100), side, halo, 16)


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
    exact = denoise(x.double(), torch.ones(1))
    torch.testing.assert_close(exact, x.double(), atol=1e-14, rtol=0)


@given(height=st.integers(65, 150), width=st.integers(65, 150), overlap=st.integers(4, 40))
def test_the_rim_of_a_window_never_reaches_the_picture(height, width, overlap) -> None:
    boxes = windows((height, width), 64, overlap, 16)

    def spoil_inner_rims(part, sigma, box):
        part, margin = part.clone(), overlap // MARGIN
        if box.top > 0:
            part[..., :margin, :] = 1e6
        if box.left > 0:
            part[..., :margin] = 1e6
        if box.top + box.height < height:
            part[..., box.height - margin :, :] = 1e6
        if box.left + box.width < width:
            part[..., box.width - margin :] = 1e6
        return part

    x = torch.rand(1, 3, height, width)
    made = tiled(spoil_inner_rims, (height, width), boxes, overlap)(x, torch.ones(1))
    torch.testing.assert_close(made, x, atol=1e-6, rtol=0)


def test_windows_get_their_part_of_the_state_and_the_noise_level() -> None:
    x, sigma, seen = torch.rand(2, 3, 70, 100), torch.tensor([3.0, 5.0]), []
    boxes = windows((70, 100), 64, 8, 16)

    def denoise_window(part, level, box):
        assert torch.equal(part, x[..., box.top :, box.left :][..., : box.height, : box.width])
        assert torch.equal(level, sigma)
        seen.append(box)
        return part

    tiled(denoise_window, (70, 100), boxes, 8)(x, sigma)
    assert seen == boxes


def test_only_the_estimate_is_as_large_as_the_picture() -> None:
    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.large: set[int] = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if made.untyped_storage().nbytes() > 4 * 3 * 64 * 64:
                self.large.add(made.untyped_storage().data_ptr())
            return made

    size = (200, 300)
    x, boxes = torch.rand(1, 3, *size), windows((200, 300), 64, 16, 16)
    with Watch() as watch:
        made = tiled(lambda part, sigma, box: part * 1, size, boxes, 16)(x, torch.ones(1))
    assert watch.large == {x.untyped_storage().data_ptr(), made.untyped_storage().data_ptr()}


def test_a_window_without_room_for_its_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        windows((200, 100), 64, 60, 16)
    with pytest.raises(ValueError, match="cannot overlap"):
        windows((200, 100), 64, -16, 16)


def test_convolutions_in_tiles_equal_convolutions_on_the_whole() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))).requires_grad_(False)
    x, size = torch.randn(1, 3, 100, 140), (100, 140)
    boxes = windows(size, 64, 16, 4)  # a quarter of 16 is dropped: 4 > the 3 that padding reaches
    made = tiled(lambda part, sigma, box: net(part), size, boxes, 16)(x, torch.ones(1))
    assert len(boxes) > 4
    torch.testing.assert_close(made, net(x), atol=1e-5, rtol=0)


def test_convolutions_with_a_halo_equal_convolutions_on_the_whole() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))).requires_grad_(False)
    x, size = torch.randn(1, 3, 100, 140).double(), (100, 140)
    net.double()
    made = joined(lambda part, sigma, box: net(part), cores(size, 32, 4, 4))(x, torch.ones(1))
    torch.testing.assert_close(made, net(x), atol=1e-14, rtol=0)
    less = joined(lambda part, sigma, box: net(part), cores(size, 32, 0, 4))(x, torch.ones(1))
    assert (less - net(x)).abs().max() > 1e-3


def test_a_picture_in_tiles_has_one_trajectory() -> None:
    torch.manual_seed(0)
    net, size = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False).double(), (70, 100)

    def whole(x, sigma):
        return net(x / (1 + sigma[:, None, None, None] ** 2).sqrt())

    draws = torch.randn(5, 1, 3, *size, dtype=torch.float64)
    grid = sigmas(VPDiscrete(), 4)
    parts = tiled(lambda part, sigma, box: whole(part, sigma), size, windows(size, 64, 16, 16), 16)
    made, wanted = (
        ddpm(denoise, draws[4] * grid[0], grid, noise=draws.__getitem__)
        for denoise in (parts, whole)
    )
    torch.testing.assert_close(made, wanted, atol=1e-12, rtol=0)


def compact_in_tiles(size, window, overlap) -> tuple[float, float]:
    """Largest and RMS difference that tiling makes to a network whose every parameter matters,
    in standard deviations of its output; the smallest depth that has every kind of layer."""
    torch.manual_seed(0)
    config = CompactConfig((8, 8, 8), (1, 1, 1), (1, 1), encoder=1, head=(4, 4), embedding=8)
    net = CompactNet(config).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False).add_(torch.randn_like(parameter) * 0.05)
    x, lr_up, one = torch.randn(1, 3, *size), torch.rand(1, 3, *size), torch.ones(1)
    level = torch.full((1,), 0.7)

    def part(window, sigma, box):
        top, left, height, width = box
        cut = lr_up[..., top : top + height, left : left + width]
        return net(window, net.encode(cut, one), level)

    boxes = windows(size, window, overlap, net.align)
    assert len(boxes) > 1
    whole = net(x, net.encode(lr_up, one), level)
    error = (tiled(part, size, boxes, overlap)(x, one) - whole) / whole.std()
    return float(error.abs().max()), float(error.square().mean().sqrt())


def test_compact_network_in_tiles_equals_itself_on_the_whole() -> None:
    # the margin, 480 / 4, is wider than its receptive field: about 116 pixels to each side
    assert compact_in_tiles((531, 550), 512, 480)[0] < 1e-5


def test_compact_network_shows_little_of_tiles_with_the_usual_overlap() -> None:
    largest, rms = compact_in_tiles((208, 290), 160, 64)
    # the receptive field is wider than the overlap, but its rim weighs little
    assert largest < 0.05 and rms < 3e-3
    assert rms < compact_in_tiles((208, 290), 160, 16)[1] / 4
    print(
        largest, rms, compact_in_tiles((208, 290), 160, 16), compact_in_tiles((531, 550), 512, 480)
    )


@pytest.mark.parametrize("failing", [0, 2, 5])
def test_an_error_in_a_window_is_not_swallowed_and_leaves_nothing(failing) -> None:
    boxes, calls = windows((100, 140), 64, 16, 16), []

    def fail_once(part, sigma, box):
        calls.append(box)
        if len(calls) == failing + 1:
            raise torch.OutOfMemoryError(f"window {failing}")
        return part * 2

    x = torch.rand(1, 3, 100, 140)
    before = x.clone()
    denoise = tiled(fail_once, (100, 140), boxes, 16)
    with pytest.raises(torch.OutOfMemoryError, match=f"window {failing}"):
        denoise(x, torch.ones(1))
    assert len(calls) == failing + 1  # no window after it was begun
    assert torch.equal(x, before)
    torch.testing.assert_close(denoise(x, torch.ones(1)), x * 2, atol=1e-6, rtol=0)
    assert calls[failing + 1 :] == boxes  # all of them again: none is kept from before
