"""What can be asked of an enlargement stands once, and a plan is made once."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, fields, replace

import click
import numpy as np
import pytest

from upscale.batch.engine import Pace
from upscale.batch.files import Files
from upscale.batch.ledger import settings_of
from upscale.cli.upscale.command import command
from upscale.diffusion.noise import mix
from upscale.errors import UsageError
from upscale.image.picture import Picture
from upscale.pipeline import upscaler as module
from upscale.pipeline.request import Request, Setup
from upscale.pipeline.upscaler import Upscaler

PICTURE = Picture(np.random.default_rng(0).random((9, 7, 3), dtype=np.float32))


def test_an_old_ledger_is_honoured() -> None:
    """The key that `diffsr in.png --method bicubic` wrote before these records were."""
    assert settings_of(Setup("bicubic"), Request(), Files()) == "bc4bd6e40ee06519"
    assert settings_of(Setup("bicubic", device="cpu"), Request(), Files(overwrite=True)) == (
        "bc4bd6e40ee06519"
    )
    for later in (Request(faces=True), Request(scale=4.0, seed=1)):
        assert settings_of(Setup("bicubic"), later, Files()) != "bc4bd6e40ee06519"
    others = [Request(scale=2.0), Request(seed=1), Request(size=(3, 4)), Request(tile=256)]
    assert len({settings_of(Setup("bicubic"), other, Files()) for other in others}) == 4


def test_the_command_line_has_an_option_for_every_field() -> None:
    options = {p.name: p for p in command.params if isinstance(p, click.Option)}
    for record in (Setup, Request, Files, Pace):
        for one in fields(record):
            default = getattr(record(), one.name)
            option = options[one.name]
            if not option.is_flag:  # click has a default of its own for flags
                assert option.default == default, one.name
            assert option.help and option.group


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"scale": 17}, "--scale must be from 1 to 16"),
        ({"scale": float("nan")}, "--scale"),
        ({"max_side": 0}, "--max-side must be at least 1"),
        ({"sampler": "eulr"}, "no sampler 'eulr'; choose from ddpm"),
        ({"tile": 100}, "--tile must be auto, 0, or at least 128"),
        ({"tile": "large"}, "--tile"),
        ({"atol": float("inf")}, "above 0"),
        ({"scale": "2"}, "--scale must be from 1 to 16, not '2'"),
        ({"steps": 2.5}, "--steps must be a whole number"),
        ({"size": "32x24"}, "--size must be .height, width. in pixels, not '32x24'"),
        ({"size": 20}, "--size"),
        ({"size": (20.5, 30)}, "--size"),
        ({"seed": "7"}, "--seed must be a whole number, not '7'"),
        ({"seed": 1.5}, "--seed must be a whole number"),
        ({"seed": None}, "--seed must be a whole number"),
    ],
)
def test_values_out_of_bounds_are_named(wrong, message) -> None:
    with pytest.raises(UsageError, match=message):
        Request(**wrong)


def test_numbers_of_numpy_are_numbers() -> None:
    fields = {"seed": 7, "steps": 3, "overlap": 8, "temperature": 0.5, "size": (20, 30)}
    theirs = {key: np.array(value)[()] for key, value in fields.items() if key != "size"}
    request = Request(**theirs, size=tuple(np.array(fields["size"])))
    assert json.dumps(asdict(request)) == json.dumps(asdict(Request(**fields)))
    assert mix(7, np.int64(1)) == mix(7, 1)  # the number of a sample


@pytest.mark.parametrize(
    "wrong",
    [{"jobs": -1}, {"jobs": 1.5}, {"batch": 0}, {"batch": 257}, {"timeout": 0}, {"timeout": "9"}],
)
def test_a_pace_has_bounds(wrong) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(wrong))} must be"):
        Pace(**wrong)


def test_a_field_that_is_none_is_a_type_error() -> None:
    upscaler = Upscaler("bicubic")
    for wrong in (upscaler, upscaler.plan, Upscaler):
        with pytest.raises(TypeError, match="sacle"):
            wrong(PICTURE, sacle=2)


def test_a_record_goes_to_another_process_and_back() -> None:
    asked = Request(size=(30, 20), steps=3)
    assert pickle.loads(pickle.dumps(asked)) == asked and asked.scale is None
    assert Request().scale == 4.0 and replace(asked, steps=4) != asked


def test_a_call_is_a_plan_and_its_run_and_looks_at_the_picture_once(
    tiny_weights, monkeypatch
) -> None:
    upscaler = Upscaler(weights=tiny_weights)
    request = Request(scale=2, steps=2, temperature=0.5, tile=128)
    plan = upscaler.plan(PICTURE, request)
    assert plan == upscaler.plan(PICTURE, **asdict(request))
    assert plan.stages[0].temperature == 0.5 and plan.request == request
    with monkeypatch.context() as patch:
        patch.setattr(module, "stages", None)  # no second plan
        made = [upscaler.run(plan, PICTURE, sample=n) for n in (0, 1)]
    called = upscaler(PICTURE, scale=2, steps=2, temperature=0.5, tile=128, sample=1)
    np.testing.assert_array_equal(made[1].picture.rgb, called.picture.rgb)
    assert np.abs(made[0].picture.rgb - called.picture.rgb).max() > 0
    assert called.report | {"seconds": 0} == made[1].report | {"seconds": 0}
