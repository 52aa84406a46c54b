"""What a run leaves about itself besides its scores, for the model card: curve, hardware, duration and emissions."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..files import write_picture
from ..messages import counted
from ..visualization.curves import draw_panels

TRAINING_CURVE = "training_curve.png"
# What codecarbon, which Trainer starts where it is installed, leaves in the output folder.
EMISSIONS = "emissions.csv"
DRAWN_SCORES = ("oIoU", "mIoU", "J&F")
# The titles of the panels.
LOSS, SCORES = "loss", "scores in percent"

Logs = Sequence[Mapping[str, Any]]


def write_training_curve(logs: Logs, folder: Path) -> Path | None:
    """Draws losses and scores over the steps into `folder`; None where nothing was logged.

    Args:
        logs: the `log_history` of a trainer.
        folder: where `training_curve.png` is written.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {LOSS: {}, SCORES: {}}
    for entry in logs:
        for name, value in entry.items():
            title = panel_of(name)
            if title is not None and math.isfinite(value):
                label = name.removeprefix("eval_").replace("_", " ")
                panels[title].setdefault(label, []).append((entry["step"], value))
    drawn = {title: curves for title, curves in panels.items() if curves}
    if not drawn:
        return None
    path = folder / TRAINING_CURVE
    write_picture(path, draw_panels(drawn))
    return path


def panel_of(name: str) -> str | None:
    """Where a logged value is drawn; None = nowhere."""
    if name.startswith("loss"):
        return LOSS
    return SCORES if name.startswith("eval_") and name.endswith(DRAWN_SCORES) else None


def describe_hardware(args: TrainingArguments) -> str:
    """Such as "2 x NVIDIA H100" or "1 x CPU with 8 threads"; of other accelerators their kind."""
    if args.device.type == "cuda":
        name = torch.cuda.get_device_name(args.device)
    elif args.device.type == "cpu":
        name = f"CPU with {counted(torch.get_num_threads(), 'thread')}"
    else:
        name = args.device.type
    return f"{max(1, args.n_gpu) * args.world_size} x {name}"


def describe_duration(logs: Logs) -> dict[str, str]:
    """The row on how long the training took in its last start; none before its end."""
    seconds = next((entry["train_runtime"] for entry in reversed(logs) if "train_runtime" in entry), None)
    return {} if seconds is None else {"duration": f"{seconds:.0f} s"}


def read_emissions(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What codecarbon measured, as the Hub's metadata have it; None where it did not run.

    Raises:
        ValueError: the file is not as codecarbon writes it.
    """
    path = Path(folder) / EMISSIONS
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return sum_emissions(list(csv.DictReader(file)), path)


def sum_emissions(rows: Iterable[Mapping[str, str]], path: Path) -> dict[str, Any] | None:
    """Each start of a run adds a row; codecarbon counts kilograms, the Hub grams."""
    rows = list(rows)
    try:
        kilograms = sum(float(row["emissions"]) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: each row has to have a number under 'emissions', as codecarbon writes it. Move the file away to "
            "write a card without it."
        ) from error
    if not rows:
        return None
    known = {"geographical_location": rows[-1].get("country_name"), "hardware_used": rows[-1].get("gpu_model")}
    return {
        "emissions": 1000 * kilograms,
        "source": "codecarbon",
        **{name: value for name, value in known.items() if value},
    }
