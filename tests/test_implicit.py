"""The implicit upsampler against LIIF's definition, query by query, and torch's grid_sample."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from upscale.nets.implicit import ImplicitUpsampler, centres, nearest, surrounding

sides = st.integers(1, 70)
OPTIONS = ("linear", "ensemble", "unfold", "cell")


@given(sides)
def test_centres_are_of_equal_cells_from_end_to_end(length) -> None:
    made = centres(length)
    assert made.shape == (length,)
    edges = torch.linspace(-1, 1, length + 1, dtype=torch.float64)
    torch.testing.assert_close(made, ((edges[1:] + edges[:-1]) / 2).float(), atol=1e-6, rtol=0)


@given(sides, sides)
def test_nearest_cell_and_the_way_to_it(source, target) -> None:
    (cells,) = nearest(source, target)
    gaps = (centres(target).double()[:, None] - centres(source).double()).abs()
    chosen = gaps.gather(1, cells.index[:, None])[:, 0]
    torch.testing.assert_close(chosen, gaps.min(1).values, atol=1e-6, rtol=0)
    from_centre = (centres(target) - centres(source)[cells.index]) * source
    torch.testing.assert_close(cells.offset, from_centre, atol=2e-5, rtol=0)
    assert cells.offset.abs().max() <= 1 + 1e-5
    assert torch.equal(cells.share, torch.ones(target))


@pytest.mark.parametrize("odd", [0, 1])
def test_nearest_is_what_grid_sample_picks_even_at_ties(odd) -> None:
    for source in range(1 + odd, 130):
        target = 2 * source - odd
        grid = torch.zeros(1, 1, target, 2)
        grid[0, 0, :, 0] = centres(target)
        ramp = torch.arange(source).float()[None, None, None]
        wanted = F.grid_sample(ramp, grid, mode="nearest", align_corners=False)[0, 0, 0].long()
        assert torch.equal(nearest(source, target)[0].index, wanted)


@given(sides, sides)
def test_the_two_cells_around_and_their_shares(source, target) -> None:
    low, high = surrounding(source, target)
    torch.testing.assert_close(low.share + high.share, torch.ones(target))
    assert min(low.share.min(), high.share.min()) >= 0
    assert ((high.index - low.index) <= 1).all() and (low.index <= high.index).all()
    # linear interpolation of the centres is the position itself, away from the ends
    inside = low.index < high.index
    between = low.share * centres(source)[low.index] + high.share * centres(source)[high.index]
    torch.testing.assert_close(between[inside], centres(target)[inside], atol=2e-6, rtol=0)
    past = centres(target).abs() > 1 - 1 / source + 1e-6
    assert torch.equal(low.index[past], high.index[past])


def mlp(net: ImplicitUpsampler, feature, offset, cell):
    told = torch.cat([feature, *([offset, cell] if net.cell else [offset])])
    h = net.first.weight @ told + net.first.bias
    return net.second.weight @ (h if net.linear else h.clamp(min=0)) + net.second.bias


def queried(net: ImplicitUpsampler, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """LIIF, eqs. 1 to 5, one query at a time; x (C,h,w), float64."""
    source = x.shape[1:]
    if net.unfold:
        x = F.unfold(x[None], 3, padding=1)[0].reshape(-1, *source)
    scale = torch.tensor(source).double()
    cell = 2 / torch.tensor(size).double() * scale
    coordinates = [((2 * torch.arange(n).double() + 1) / n - 1) for n in (*source, *size)]
    made = x.new_empty(net.second.out_features, *size)
    for at in itertools.product(*map(range, size)):
        query = torch.stack([coordinates[2][at[0]], coordinates[3][at[1]]])
        answers, areas = [], []
        for way in itertools.product((-1, 1), repeat=2) if net.ensemble else [(0, 0)]:
            moved = query + torch.tensor(way) / scale + (1e-6 if net.ensemble else -1e-9)
            index = [(coordinates[i] - moved[i]).abs().argmin() for i in (0, 1)]
            centre = torch.stack([coordinates[i][index[i]] for i in (0, 1)])
            offset = (query - centre) * scale
            answers.append(mlp(net, x[:, index[0], index[1]], offset, cell))
            areas.append(offset.prod().abs() + 1e-9)
        shares = torch.stack(areas[::-1]) / sum(areas)  # each by the area opposite
        made[:, at[0], at[1]] = (torch.stack(answers) * shares[:, None]).sum(0)
    return made


@pytest.mark.parametrize("size", [(6, 10), (5, 7), (2, 3)])
@pytest.mark.parametrize("options", list(itertools.product([False, True], repeat=4)))
def test_upsampler_equals_liif_query_by_query(options, size) -> None:
    torch.manual_seed(0)
    net = ImplicitUpsampler(3, 4, hidden=8, **dict(zip(OPTIONS, options, strict=True)))
    net.requires_grad_(False)
    x = torch.randn(2, 3, 3, 5)  # odd sides: no query lies between two cells
    made = net(x, size)
    assert made.shape == (2, 4, *size) and made.dtype == torch.float32
    wanted = torch.stack([queried(net.double(), one.double(), size) for one in x])
    torch.testing.assert_close(made.double(), wanted, atol=1e-5, rtol=0)


def test_the_nonlinearity_is_real_unless_asked_otherwise() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 5)
    for linear in (True, False):
        net = ImplicitUpsampler(3, 4, linear=linear).requires_grad_(False)
        assert net.first.out_features == 256
        zero = net(0 * x, (8, 9))
        doubled, twice = net(2 * x, (8, 9)) - zero, 2 * (net(x, (8, 9)) - zero)
        assert torch.allclose(doubled, twice, atol=1e-5) == linear


def test_local_ensemble_leaves_no_edges_between_cells() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 5)

    def largest_step(ensemble: bool) -> float:
        net = ImplicitUpsampler(3, 4, ensemble=ensemble).requires_grad_(False)
        made = net(x, (64, 80))
        return max(made.diff(dim=2).abs().max().item(), made.diff(dim=3).abs().max().item())

    assert largest_step(True) < 0.5 * largest_step(False)


class Addends(TorchDispatchMode):
    """The numbers that are added to tensors within it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket is torch.ops.aten.add:
            self.found += [abs(one) for one in args if isinstance(one, float)]
        return function(*args, **(kwargs or {}))


def test_nothing_is_added_that_an_onnx_graph_leaves_out() -> None:
    """Its optimiser takes 1e-8 and less for nothing: at the last centre it divided 0 by 0."""
    with Addends() as addends:
        shares = torch.stack([cells.share for cells in surrounding(5, 5)])
    assert min(addends.found) > 1e-8
    assert shares[:, -1].tolist() == [0.5, 0.5] and shares.sum(0).allclose(torch.ones(5))


@pytest.mark.parametrize("ensemble", [True, False])
def test_memory_layout_and_gradients(ensemble) -> None:
    torch.manual_seed(0)
    net = ImplicitUpsampler(8, 8, hidden=16, ensemble=ensemble, unfold=True, cell=True)
    x = torch.randn(2, 8, 5, 3, requires_grad=True)
    made = net(x, (9, 6))
    last = net(x.contiguous(memory_format=torch.channels_last), (9, 6))
    torch.testing.assert_close(made, last, atol=1e-6, rtol=0)
    made.square().sum().backward()
    assert all(v.grad is not None and v.grad.abs().sum() > 0 for v in (x, *net.parameters()))
    small = ImplicitUpsampler(1, 1, hidden=2, ensemble=ensemble).double()
    y = torch.randn(1, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: small(y, (3, 5)), y, atol=1e-6)
