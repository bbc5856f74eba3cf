import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.report.curves import Panel, log_scaled, panels, save_curves, series, smoothed


def test_the_same_quantity_shares_a_panel_and_the_rest_has_its_place():
    grouped = panels(
        [
            "train/images_per_second",
            "train/learning_rate",
            "train/loss_box",
            "train/gradient_norm",
            "eval/fid",
            "eval/accuracy",
            "eval/loss",
            "train/loss",
            "train/accuracy",
            "train/loss",
            "ema/loss",
        ]
    )
    assert grouped == [
        Panel(title="loss", names=("train/loss", "eval/loss")),
        Panel(title="fid", names=("eval/fid",)),
        Panel(title="accuracy", names=("train/accuracy", "eval/accuracy")),
        Panel(title="loss box", names=("train/loss_box",)),
        Panel(title="ema/loss", names=("ema/loss",)),
        Panel(title="learning rate", names=("train/learning_rate",)),
        Panel(title="gradient norm", names=("train/gradient_norm",)),
        Panel(title="images per second", names=("train/images_per_second",)),
    ]


@given(st.lists(st.from_regex(r"(train/|eval/|)[a-z_]{1,6}", fullmatch=True)))
def test_every_scalar_is_in_exactly_one_panel(names):
    placed = [name for panel in panels(names) for name in panel.names]
    assert sorted(placed) == sorted(set(names))


@pytest.mark.parametrize(
    ("quantity", "values", "expected"),
    [
        ("loss", [1.0, 0.02], True),
        ("loss", [1.0, 0.04], False),
        ("loss", [1.0, math.nan, math.inf, 0.5], False),
        ("loss", [1.0, 0.0], False),
        ("loss", [1.0, -0.001], False),
        ("accuracy", [1.0, 0.0001], False),
        ("learning_rate", [0.0, 1e-4, 1e-6], True),
        ("lr", [0.0, 1e-4, 9e-5], False),
        ("gradient_norm", [20.0, 1.0], True),
        ("gradient_norm", [0.0, 1.0], False),
        ("loss", [], False),
        ("loss", [math.nan], False),
    ],
)
def test_log_axes_are_for_what_spans_decades(quantity, values, expected):
    assert log_scaled(quantity, np.array(values, np.float64)) is expected


def test_a_resumed_run_reads_as_an_uninterrupted_one():
    killed = [{"images": x, "loss": -1.0} for x in (10, 20, 30, 40)]
    resumed = [{"images": x, "loss": 1.0} for x in (30, 40, 50)]
    images, values = series([*killed, {"images": 40, "other": 0.0}, *resumed], "loss")
    np.testing.assert_array_equal(images, [10, 20, 30, 40, 50])
    np.testing.assert_array_equal(values, [-1, -1, 1, 1, 1])
    assert series(killed, "missing")[0].shape == (0,)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.one_of(st.floats(-5, 5), st.just(math.nan))), max_size=12),
    st.floats(0.5, 100),
)
def test_smoothing_is_the_weighted_mean_of_its_formula(points, scale):
    x = np.cumsum([gap for gap, _ in points])
    y = np.array([value for _, value in points], np.float64)
    result = smoothed(x, y, scale)
    finite = np.isfinite(y)
    assert result.shape == y.shape
    np.testing.assert_array_equal(np.isfinite(result), finite)
    for i in np.flatnonzero(finite):
        weights = np.exp(-np.abs(x[i] - x[finite]) / scale)
        assert result[i] == pytest.approx((weights * y[finite]).sum() / weights.sum(), abs=1e-9)


def _metrics(n):
    rng = np.random.default_rng(0)
    metrics = []
    for i in range(1, n + 1):
        record = {"step": i, "images": 128 * i, "time": 1.0 * i}
        for name in ("loss", "accuracy", "gradient_norm", "learning_rate", "images_per_second", "loss_kl"):
            record[f"train/{name}"] = float(np.exp(-5 * i / n) + 0.1 * rng.random())
        metrics.append(record)
        if i % (n // 10) == 0:
            metrics.append({"step": i, "images": 128 * i, "time": 1.0, "eval/loss": 0.5, "eval/fid": 5.0})
    metrics[n // 2]["train/gradient_norm"] = math.nan
    metrics[n // 3]["train/loss"] = math.inf
    return metrics


def test_the_image_is_a_png_of_sane_size(tmp_path):
    save_curves(tmp_path / "curves.png", _metrics(3000))
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
    assert 10_000 < (tmp_path / "curves.png").stat().st_size < 150_000
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert 1200 < picture.width < 1600
        colours = np.array(picture.convert("RGB")).reshape(-1, 3).astype(int)

    def seen(red, green, blue):
        return (np.abs(colours - (red, green, blue)).max(1) < 24).sum()

    assert seen(255, 255, 255) > 0.7 * len(colours)
    assert seen(0x00, 0x72, 0xB2) > 500  # training
    assert seen(0xD5, 0x5E, 0x00) > 100  # evaluation
    assert seen(0xB0, 0x00, 0x20) > 5  # values that are not finite


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [{"step": 0, "images": 0, "time": 0.0, "eval/loss": 1.0}],
        [{"step": 1, "images": 4, "time": 0.0, "train/loss": math.nan}],
        [{"step": i, "images": 4 * i, "time": 0.0, "train/lr": 0.0} for i in range(1, 40)],
    ],
)
def test_runs_that_have_little_to_show_are_plotted(tmp_path, metrics):
    save_curves(tmp_path / "curves.png", metrics, smooth=0.0)
    with Image.open(tmp_path / "curves.png") as picture:
        assert len(picture.convert("L").getcolors()) > 5


def test_negative_smoothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="negative"):
        save_curves(tmp_path / "curves.png", [], smooth=-0.1)


def test_groups_share_a_panel_and_intervals_and_activities_have_none():
    names = ["train/loss[lr=1]", "train/loss_ci95[lr=1]", "eval/loss[lr=1]", "train/loss[lr=2]", "time/input_seconds"]
    assert panels(names) == [Panel(title="loss", names=("train/loss[lr=1]", "train/loss[lr=2]", "eval/loss[lr=1]"))]


def test_an_interval_is_plotted_as_a_band(tmp_path):
    metrics = [{"step": i, "images": i, "eval/x": 0.0, "eval/x_ci95": 1.0} for i in range(1, 9)]
    save_curves(tmp_path / "band.png", metrics)
    save_curves(tmp_path / "line.png", [{k: v for k, v in line.items() if k != "eval/x_ci95"} for line in metrics])
    drawn = {}
    for name in ("band", "line"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        drawn[name] = np.mean((pixels[..., 2] - pixels[..., 0] > 20) & (pixels[..., 0] > 120))  # pale blue
    assert drawn["band"] > 0.3 > 0.02 > drawn["line"]


def test_parts_of_a_measurement_have_no_panel():
    found = panels(
        ["eval/top1_accuracy", "eval/class_accuracy/cat", "eval/class_accuracy/dog", "time/images_per_second"]
    )
    assert [panel.title for panel in found] == ["top1 accuracy", "time/images per second"]
