"""What a run tells about itself: the curve of its losses and scores, and what it emitted."""

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from hf_refseg.training.run_record import TRAINING_CURVE, read_emissions, write_training_curve
from hf_refseg.visualization.curves import draw_curves, ticks
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
