"""A training that is killed, again and again and at any moment, comes to the same bits as one that is not."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from fresh_process import run_program
from places import SUPPORT

from hf_refseg.training.checkpoints import CHECKSUMS

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


def train(cache: Path, pairs: list[tuple[str, str | None]]) -> list[list]:
    """What `train_killed.py` prints."""
    (done,) = run_program(SUPPORT / "train_killed.py", str(cache), json.dumps(pairs), cwd=cache.parent)
    assert done.exit_status == 0, done.errors
    return json.loads(done.output.splitlines()[-1])


def losses(checkpoint: Path) -> list[float]:
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.slow_process
def test_a_training_that_is_killed_at_every_turn_ends_in_the_same_bits(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    moments = [(str(killed), moment) for moment, _ in KILLS]
    results = train(tmp_path / "cache", [*moments, (str(killed), None), (str(whole), None)])
    expected = [[-signal.SIGKILL, str(killed / newest)] for _, newest in KILLS]
    ends = [[0, str(folder / "checkpoint-4")] for folder in (killed, whole)]
    assert results == [*expected, *ends]
    # Of weights, optimizer, schedule and random states.
    checksums = (whole / "checkpoint-4" / CHECKSUMS).read_text()
    assert len(checksums.splitlines()) == 4
    assert (killed / "checkpoint-4" / CHECKSUMS).read_text() == checksums
    assert losses(killed / "checkpoint-4") == losses(whole / "checkpoint-4")
