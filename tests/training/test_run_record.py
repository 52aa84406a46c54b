"""What a run tells about itself: the curve of its losses and scores, and what it emitted."""

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from hf_refseg.training.run_record import TRAINING_CURVE, read_emissions, write_training_curve
from hf_refseg.visualization.curves import BAND_OPACITY, draw_curves, draw_panels, ticks
from hf_refseg.visualization.layout import distinct_color

LOGS = [
    {"step": 10, "loss": 0.9, "loss_dice": 0.7, "learning_rate": 1e-3},
    {"step": 20, "eval_loss": 0.8, "eval_oIoU": 12.0, "eval_runtime": 3.0},
    {"step": 20, "loss": float("nan"), "loss_dice": 0.6},
    {"step": 20, "train_runtime": 9.0},
]


def test_losses_and_scores_are_drawn_side_by_side(tmp_path: Path) -> None:
    path = write_training_curve(LOGS, tmp_path)
    assert path == tmp_path / TRAINING_CURVE
    both, losses = Image.open(path), Image.open(write_training_curve(LOGS[:1], tmp_path))
    assert both.width > 2 * losses.width - 20 and both.height == losses.height
    assert (
        write_training_curve([{"step": 1, "loss": float("inf")}, {"step": 2, "train_runtime": 1.0}], tmp_path) is None
    )


def test_a_curve_goes_up_where_its_values_do() -> None:
    picture = draw_curves({"a": [(0, 1.0), (100, 3.0)]}, "t")
    drawn = [
        (right, down)
        for right in range(picture.width)
        for down in range(30, picture.height)
        if picture.getpixel((right, down)) == distinct_color(0)
    ]
    (first, start), (last, end) = min(drawn), max(drawn)
    assert last - first > 300 and start - end > 100
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_curves({"a": []}, "t")


def test_a_band_lies_around_its_curve_and_within_the_axis() -> None:
    curves = {"a": [(0, 1.0), (100, 1.0)], "b": [(0, 3.0), (100, 3.0)]}
    plain = draw_curves(curves, "t")
    banded = draw_curves(curves, "t", {"b": [(0, 2.5, 3.5), (100, 2.5, 9.0)]})
    between = [banded.getpixel((banded.width - 40, down)) for down in range(40, banded.height - 40)]
    pale = tuple(round(255 + (part - 255) * BAND_OPACITY / 255) for part in distinct_color(1))
    near = [max(abs(one - other) for one, other in zip(pixel, pale, strict=True)) <= 2 for pixel in between]
    # From 2.5 to nearly 9 of an axis from 0 to 10.
    assert 0.5 < sum(near) / len(between) < 1 and not near[-1]
    assert plain.size == banded.size and distinct_color(0) in between and distinct_color(1) in between
    with pytest.raises(ValueError, match="a band of the curve c, which is not drawn: a, b are"):
        draw_curves(curves, "t", {"c": [(0, 1.0, 2.0)]})
    with pytest.raises(ValueError, match="a band of the panel u, which is not drawn: t are"):
        draw_panels({"t": curves}, {"u": {"a": [(0, 1.0, 2.0)]}})


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 3600), (0.31, 0.33), (-2.5, 7), (5, 5), (0, 0), (12, 61.3)])
def test_ticks_are_few_round_and_hold_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 7
    distances = {round(after - before, 9) for before, after in itertools.pairwise(found)}
    assert len(distances) == 1


def test_what_codecarbon_measured_is_summed_over_the_starts_of_a_run(tmp_path: Path) -> None:
    assert read_emissions(tmp_path) is None
    file = tmp_path / "emissions.csv"
    file.write_text("run_id,duration,emissions,country_name,gpu_model\na,1,0.002,Peru,\nb,2,0.0005,Peru,1 x H200\n")
    assert read_emissions(tmp_path) == {
        "emissions": pytest.approx(2.5),
        "source": "codecarbon",
        "geographical_location": "Peru",
        "hardware_used": "1 x H200",
    }
    json.dumps(read_emissions(tmp_path))
    file.write_text("run_id,emissions\na,much\n")
    with pytest.raises(ValueError, match=r"emissions\.csv.*number under 'emissions'"):
        read_emissions(tmp_path)
