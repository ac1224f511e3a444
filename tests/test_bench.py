"""The benchmark's protocol, failures and tables, with an upscaler that is a fake."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from upscale import document
from upscale.bench import report, testsets
from upscale.bench.columns import COLUMNS, METRICS
from upscale.bench.protocol import make_lr
from upscale.bench.run import run
from upscale.bench.score import default_metrics
from upscale.bench.trials import BenchSettings, Trial
from upscale.cli.bench import command
from upscale.errors import InputError, NumericalError, UsageError, WeightsError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.folders import partners_of, pictures_of
from upscale.image.picture import Picture
from upscale.image.resize import resize_array
from upscale.metrics import pixel

CHEAP = ("psnr_y", "ssim_y", "psnr", "ssim", "consistency", "lr_psnr", "grid_ratio", "mesh")


class Fake:
    """Enlarges by bicubic; remembers what it was asked; refuses pictures 13 pixels wide."""

    def __init__(self, trial: Trial | None = None, settings: BenchSettings | None = None) -> None:
        self.asked, self.ways = [], []

    def plan(self, picture, request):
        return request

    def run(self, plan, picture, *, sample):
        scale, steps, sampler, seed = plan.scale, plan.steps, plan.sampler, plan.seed
        self.asked.append((scale, steps, sampler, plan.spacing, seed, plan.consistency))
        named = {"temperature": plan.temperature, "parametrisation": plan.parametrisation}
        ways = {name: value for name, value in named.items() if value is not None}
        self.ways.append(ways)
        if picture.size[1] == 13:
            raise NumericalError("the result is not finite")
        size = tuple(math.floor(side * scale + 0.5) for side in picture.size)
        told = {"weights": "w", "weights_sha256": "ab", "sampler": sampler or "ddim",
                "steps": steps or 3, "nfe": steps or 3, "seed": seed, "device": "cpu",
                **ways}  # fmt: skip
        return SimpleNamespace(picture=Picture(resize_array(picture.rgb, size)), report=told)


@pytest.fixture
def dataset(tmp_path: Path, scene: np.ndarray) -> Path:
    """Two pictures, none of whose sides 4 divides; and a file that is none."""
    folder = tmp_path / "set"
    for name, rgb in (("a", scene[:58, :43]), ("b", scene[3:, 1:])):
        write(Picture(rgb), folder / f"{name}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def bench(dataset: Path, metrics=CHEAP, **rest):
    options = {
        key: rest.pop(key) for key in list(rest) if key in BenchSettings.__dataclass_fields__
    }
    rest.setdefault("make_upscaler", Fake)
    if "outputs" in options:
        outputs = options["outputs"]
        options = {"methods": (), **options, "outputs": ((outputs.name, outputs),)}
    return run(dataset, BenchSettings(**{"metrics": metrics, **options}), **rest)


def test_the_protocol(dataset: Path) -> None:
    row = bench(dataset, limit=1)[0]
    hr = read(dataset / "a.png").rgb[:56, :40]
    lr = np.round(np.clip(resize_array(hr, (14, 10)), 0, 1) * 255).astype(np.float32) / 255
    sr = np.round(np.clip(resize_array(lr, (56, 40)), 0, 1) * 255) / 255
    assert (row["picture"], row["height"], row["width"], row["scale"]) == ("a.png", 56, 40, 4)
    assert row["psnr_y"] == pytest.approx(pixel.psnr_y(sr, hr, 4), abs=1e-4)
    assert row["ssim_y"] == pytest.approx(pixel.ssim_y(sr, hr, 4), abs=1e-5)
    assert row["psnr"] == pytest.approx(pixel.psnr(sr, hr), abs=1e-4)
    assert row["consistency"] == pytest.approx(pixel.consistency(lr, sr), rel=1e-3)
    assert row["lr_psnr"] == pytest.approx(pixel.lr_psnr(lr, sr), abs=1e-3)
    assert math.isnan(row["grid_ratio"])  # 40 pixels are too few
    assert row["weights_sha256"] == "ab" and row["nfe"] == 3 and row["seed"] == 0
    assert row["seconds"] > 0 and row["peak_memory"] > 1e6 and "a=-0.5" in row["kernel"]
    assert row["megapixels_per_s"] == pytest.approx(
        56 * 40 / 1e6 / row["seconds"], rel=0.02 + 1e-4 / row["seconds"]
    )  # seconds are rounded
    assert row["border"] == 4 and row["dataset"] == "set" and "torch " in row["versions"]
    assert len(row["picture_sha256"]) == 64 and "threads" in row["machine"]


@pytest.mark.parametrize("scale", [1, 2, 3.7, 4, 15.9])
@pytest.mark.parametrize("size", [(16, 33), (61, 50), (37, 37)])
def test_lr_enlarged_has_hrs_size(scale: float, size: tuple[int, int]) -> None:
    lr, hr = make_lr(np.random.default_rng(0).random((*size, 3), np.float32), scale)
    assert hr.shape[:2] == tuple(math.floor(side * scale + 0.5) for side in lr.shape[:2])
    assert all(0 <= a - b < scale for a, b in zip(size, hr.shape, strict=False))
    assert np.abs(lr * 255 - np.round(lr * 255)).max() < 1e-4


def test_every_combination_is_measured_once(dataset: Path) -> None:
    told, fakes = [], {}

    def make(trial: Trial, settings: BenchSettings) -> Fake:
        return fakes.setdefault(trial.method, Fake())

    rows = bench(
        dataset, methods=("bicubic", "sr3"), steps=(2, 4, 2), samplers=("ddim", "heun"), seed=5,
        spacing="phi", consistency="off", metrics=("psnr",), make_upscaler=make,
        on_row=lambda row, done, total: told.append((row["picture"], done, total)),
    )  # fmt: skip
    assert [name for name, _, _ in told] == ["a.png"] * 5 + ["b.png"] * 5
    assert [done for _, done, _ in told] == list(range(1, 11)) and {t for *_, t in told} == {10}
    of_a = [(r["method"], r["sampler"], r["steps"]) for r in rows[:5]]
    assert of_a == [("bicubic", "ddim", 3), ("sr3", "ddim", 2), ("sr3", "ddim", 4),
                    ("sr3", "heun", 2), ("sr3", "heun", 4)]  # fmt: skip
    assert fakes["sr3"].asked[0] == (4.0, 2, "ddim", "phi", 5, "off")
    assert fakes["bicubic"].asked[0][1:3] == (None, None)


def test_temperatures_and_parametrisations_are_measured_each(dataset: Path, tmp_path) -> None:
    fakes: dict[str, Fake] = {}
    rows = bench(
        dataset, methods=("bicubic", "ecdp"), temperatures=(0.4, 1.0), limit=1,
        parametrisations=("hybrid", "hybrid:2"), metrics=("psnr",), save=tmp_path / "out",
        make_upscaler=lambda trial, settings: fakes.setdefault(trial.method, Fake()),
    )  # fmt: skip
    ways = [(t, p) for t in (0.4, 1.0) for p in ("hybrid", "hybrid:2")]
    assert [(r["temperature"], r["parametrisation"]) for r in rows[1:]] == ways
    assert fakes["ecdp"].ways == [{"temperature": t, "parametrisation": p} for t, p in ways]
    assert fakes["bicubic"].ways == [{}]  # what is not asked for is left to the weights
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "bicubic", "ecdp_t0.4_hybrid", "ecdp_t0.4_hybrid2", "ecdp_t1_hybrid", "ecdp_t1_hybrid2",
    }  # fmt: skip
    assert len(report.means(rows)) == 5


def test_what_was_made_can_be_saved_and_scored_again(dataset: Path, tmp_path: Path) -> None:
    rows = bench(dataset, methods=("sr3",), steps=(2,), save=tmp_path / "out")
    made = tmp_path / "out" / "sr3_2"
    assert sorted(p.name for p in made.iterdir()) == ["a.png", "b.png"]
    again = bench(dataset, outputs=made)
    same = [name for name in CHEAP if name != "grid_ratio"]  # 40 pixels are too few for it
    for row, other in zip(rows, again, strict=True):
        assert other["method"] == "sr3_2" and "seconds" not in other
        assert {k: row[k] for k in same} == {k: other[k] for k in same}


def test_results_without_partner_are_named(dataset: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    write(Picture(np.zeros((56, 40, 3), np.float32)), results / "a.bmp")
    with pytest.raises(InputError, match=r"results: nothing named as b "):
        bench(dataset, outputs=results)
    assert "error" not in bench(dataset, outputs=results, limit=1)[0]  # b is not measured
    write(Picture(np.zeros((50, 40, 3), np.float32)), results / "b.png")
    rows = bench(dataset, outputs=results)
    assert "error" not in rows[0]
    assert "40x50 pixels, where 40x56 are compared" in rows[1]["error"]
    assert "error" not in bench(dataset, outputs=results, limit=1)[0]
    write(Picture(np.zeros((50, 40, 3), np.float32)), results / "c_x4.png")
    with pytest.raises(InputError, match="the dataset: nothing named as c_x4 "):
        bench(dataset, outputs=results)
    (results / "c_x4.png").rename(results / "b-SR.png")
    with pytest.raises(InputError, match=r"b-SR\.png and b\.png can both be meant for b;"):
        bench(dataset, outputs=results)


def test_results_may_be_called_after_what_made_them(tmp_path: Path) -> None:
    made = ["baby_x4.png", "bird_SR.jpg", "head-4x.webp", "0801x4.png", "im_1_out.png", "im_2.png"]
    for name in made:
        (tmp_path / name).touch()
    stems = ["baby", "bird", "head", "0801", "im_1", "im_2"]
    found = partners_of(stems, tmp_path)
    assert [found[stem].name for stem in stems] == made
    with pytest.raises(InputError, match=r"im_1_out\.png and im_2\.png can both be meant for im;"):
        partners_of([*stems[:4], "im"], tmp_path)
    with pytest.raises(InputError, match="nothing named as bab of the dataset"):
        partners_of(["bab", *stems], tmp_path)  # baby is no bab with something added


def test_pictures_of_a_dataset(dataset: Path, tmp_path: Path) -> None:
    assert [p.name for p in pictures_of(dataset)] == ["a.png", "b.png"]
    (tmp_path / "Set5").mkdir()
    dataset.rename(tmp_path / "Set5" / "HR")
    assert [p.parent.name for p in pictures_of(tmp_path / "Set5")] == ["HR", "HR"]
    (tmp_path / "Set5" / "HR" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.jpg and a\.png have one name"):
        pictures_of(tmp_path / "Set5")
    (tmp_path / "empty").mkdir()
    for folder, why in (("empty", "no pictures"), ("none", "No such file")):
        with pytest.raises(InputError, match=why):
            bench(tmp_path / folder)


def test_a_broken_picture_is_named_and_the_rest_goes_on(dataset: Path) -> None:
    (dataset / "aa.png").write_bytes((dataset / "a.png").read_bytes()[:300])
    write(Picture(np.zeros((3, 50, 3), np.float32)), dataset / "flat.png")
    write(Picture(np.zeros((60, 55, 3), np.float32)), dataset / "thirteen.png")
    notes = []
    rows = bench(dataset, say=notes.append)
    assert [r["picture"] for r in rows if "error" not in r] == ["a.png", "b.png"]
    failed = {r["picture"]: r["error"] for r in rows if "error" in r}
    assert failed.keys() == {"aa.png", "flat.png", "thirteen.png"}
    assert all(name in why for name, why in failed.items()) and len(notes) == 3
    assert "50x3 is too small for a scale of 4" in failed["flat.png"]
    assert "Failed:\n\n- bicubic: " in report.to_markdown(rows)
    assert report.means(rows)[0]["pictures"] == 2
    for name in ("a.png", "b.png"):
        (dataset / name).unlink()
    with pytest.raises(InputError, match="no picture could be measured"):
        bench(dataset)


def test_mistakes_that_every_picture_would_repeat_come_at_once(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIFFSR_LPIPS_VGG", raising=False)
    with pytest.raises(
        UsageError, match=r"no metric vmaf; choose from psnr_y, ssim_y, .*grid_ratio, .*fid"
    ):
        bench(dataset, metrics=("psnr", "vmaf"))
    with pytest.raises(WeightsError, match="LPIPS vgg"):
        bench(dataset, metrics=("lpips_vgg",))

    class Unarmed(Fake):
        def plan(self, picture, request):
            raise WeightsError("no weights for sr3 at x4")

    with pytest.raises(WeightsError, match="at x4"):
        bench(dataset, make_upscaler=Unarmed)


def test_the_real_upscaler_and_lpips(dataset: Path) -> None:
    rows = bench(
        dataset, metrics=("lpips", "psnr_y"), methods=("bicubic", "lanczos"), limit=1,
        scales=(2.0,), device="cpu", make_upscaler=None,
    )  # fmt: skip
    assert [r["method"] for r in rows] == ["bicubic", "lanczos"]
    assert all(0 < r["lpips"] < 1 and r["psnr_y"] > 15 and r["nfe"] == 0 for r in rows)


def test_fid_is_the_mean_over_the_samples(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = SimpleNamespace(features=lambda picture: np.array([picture.mean()]))
    monkeypatch.setattr("upscale.bench.score.Scorer._network", lambda self, name: network)
    monkeypatch.setattr("upscale.metrics.fid.fid", lambda made, real: np.mean(made) - np.mean(real))

    class Brighter(Fake):
        def run(self, plan, picture, *, sample):
            made = super().run(plan, picture, sample=sample)
            rgb = np.full_like(made.picture.rgb, sample / 5)
            return SimpleNamespace(picture=Picture(rgb), report=made.report)

    first, second = bench(dataset, metrics=("fid",), samples=3, make_upscaler=Brighter)
    real = [read(dataset / name).rgb for name in ("a.png", "b.png")]
    cut = [hr[: len(hr) // 4 * 4, : hr.shape[1] // 4 * 4].mean() for hr in real]
    assert first["fid"] == second["fid"] == pytest.approx(0.2 - np.mean(cut), abs=1e-5)


def test_the_command_line_knows_the_same_sets_and_every_metric_has_a_column() -> None:
    assert command.REGISTERED is testsets.REGISTERED and command.SHIPPED == testsets.SHIPPED
    assert set(METRICS) < set(COLUMNS)
    assert all(c.better in (-1, 0, 1) and c.title and c.text for c in COLUMNS.values())


def test_several_samples_have_their_diversity_measured() -> None:
    assert "diversity" not in default_metrics()
    assert default_metrics(2) == (*default_metrics(), "diversity")


# --- tables -------------------------------------------------------------------------------------


def rows_of(values: list[float], **rest: object) -> list[dict]:
    base = {"method": "sr3", "weights": "w", "sampler": "ddim", "steps": 4, "nfe": 4, "scale": 4.0,
            "kernel": "bicubic", **rest}  # fmt: skip
    return [{"picture": f"{i}.png", **base, "psnr_y": v} for i, v in enumerate(values)]


def test_means_and_their_intervals() -> None:
    values = np.random.default_rng(1).normal(28, 2, 50)
    (row,) = report.means(rows_of(list(values)))
    mean = row["psnr_y"]
    assert row["pictures"] == 50 and mean.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(50)
    assert mean.high - mean.value == pytest.approx(half, rel=0.15)
    assert mean.value - mean.low == pytest.approx(half, rel=0.15)
    assert report.means(rows_of(list(values))) == [row]  # the same every time


def test_groups_and_values_that_are_no_numbers() -> None:
    rows = rows_of([20.0, math.nan]) + rows_of([math.inf, 30.0], steps=8)
    rows += [{"picture": "x.png", "method": "sr3", "sampler": None, "steps": None, "error": "no"}]
    first, second = report.summary(rows)
    assert (first["method"], first["steps"]) == ("sr3, 4 steps", 4)
    assert (first["pictures"], first["psnr_y"]) == (2, "20.00")
    assert (second["steps"], second["psnr_y"]) == (8, "inf")
    assert report.summary(rows_of([math.nan]))[0]["psnr_y"] == "-"
    assert report.summary([]) == []
    bare = report.summary([{"picture": "a", "method": "other", "psnr_y": 20.0}])
    assert bare == [{"method": "other", "pictures": 1, "psnr_y": "20.00"}]


def test_network_calls_that_differ_are_averaged() -> None:
    rows = rows_of([20.0, 22.0], sampler="rk45", steps=None, parametrisation="hybrid")
    rows[0]["nfe"], rows[1]["nfe"] = 51, 58
    (row,) = report.summary(rows)
    assert (row["nfe"], row["pictures"], row["parametrisation"]) == (54.5, 2, "hybrid")
    rows[1]["nfe"] = 57
    assert repr(report.means(rows)[0]["nfe"]) == "54"
    ways = rows_of([20.0], temperature=0.4) + rows_of([21.0], temperature=1.0)
    assert [row["temperature"] for row in report.summary(ways)] == [0.4, 1.0]


def test_json_and_csv_hold_every_row() -> None:
    rows = [*rows_of([20.5, math.inf]), {"picture": "c,d.png", "method": "sr3", "error": 'a "b"'}]
    parsed = json.loads(document.to_json(rows), parse_constant=pytest.fail)
    assert [r.get("psnr_y") for r in parsed] == [20.5, None, None]
    assert parsed[0] == rows[0] and parsed[2] == rows[2]
    read_back = list(csv.DictReader(io.StringIO(document.to_csv(rows))))
    assert [r["psnr_y"] for r in read_back] == ["20.5", "inf", ""]
    assert read_back[2]["picture"] == "c,d.png" and read_back[2]["error"] == 'a "b"'


def test_markdown_is_one_table() -> None:
    text = report.to_markdown(rows_of([20.0, 22.0], method="a|b"), verbose=True)
    lines = text.splitlines()
    assert lines[0] == "| method | weights | sampler | steps | nfe | pictures | psnr_y |"
    assert lines[2] == "| a\\|b | w | ddim | 4 | 4 | 2 | 21.00 (11.83..30.17) |"
    assert "x4, input by bicubic" in text and "Failed" not in text


def test_tables_fit_eighty_columns_and_lose_no_number() -> None:
    rng, names = np.random.default_rng(0), [*METRICS, "seconds"]
    rows = [
        {**row, "treatment": [], **dict(zip(names, rng.random(len(names)), strict=True))}
        for name in ("bicubic", "a program with a name")
        for row in rows_of([0.0] * 5, method=name)
    ]
    for verbose in (False, True):
        text = report.to_markdown(rows, verbose, report.WIDTH)
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert max(map(len, tables)) <= report.WIDTH
        assert len(tables) > 8 and all(c.title in text for n, c in METRICS.items() if n != "fid")
    whole = report.to_markdown(rows).splitlines()
    assert whole[0].count("|") == len(METRICS) + 3  # a file has no width
