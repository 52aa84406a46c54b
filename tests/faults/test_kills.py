"""A training that is killed, again and again and at any moment, comes to the same bits as one that is not."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from fresh_process import run_program
from places import SUPPORT

from hf_refseg.training.checkpoints import CHECKSUMS, last_complete_checkpoint

# Each run goes on from the newest complete checkpoint, and is killed in turn: in the middle of a step, or when half of
# a file is written, or removed. After it, this checkpoint is the newest complete one.
KILLS = (
    ("step 2", "checkpoint-1"),
    ("checkpoint-2/model.safetensors", "checkpoint-1"),
    ("checkpoint-2/optimizer.pt", "checkpoint-1"),
    ("checkpoint-3/rng_state.pth", "checkpoint-2"),
    ("checkpoint-3/trainer_state.json", "checkpoint-2"),
    ("checkpoint-1", "checkpoint-3"),
)


def train(folder: Path, moment: str | None = None) -> tuple[int, str]:
    """Trains until that moment; the exit status, negative after a kill, and the newest complete checkpoint."""
    program = SUPPORT / "train_killed.py"
    (process,) = run_program(program, str(folder), *filter(None, [moment]), cwd=folder.parent)
    return process.exit_status, last_complete_checkpoint(folder)


def losses(checkpoint: Path) -> list[float]:
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.slow_process
def test_a_training_that_is_killed_at_every_turn_ends_in_the_same_bits(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for moment, newest in KILLS:
        assert train(killed, moment) == (-signal.SIGKILL, str(killed / newest)), moment
    for folder in (killed, whole):
        assert train(folder) == (0, str(folder / "checkpoint-4"))
    # Of weights, optimizer, schedule and random states.
    checksums = (whole / "checkpoint-4" / CHECKSUMS).read_text()
    assert len(checksums.splitlines()) == 4
    assert (killed / "checkpoint-4" / CHECKSUMS).read_text() == checksums
    assert losses(killed / "checkpoint-4") == losses(whole / "checkpoint-4")
