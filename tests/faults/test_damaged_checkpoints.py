"""No damaged checkpoint passes for a complete one: not one to go on from, nor weights to segment with."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from train_tiny import build_trainer

from hf_refseg.hub.saved_models import load_model, load_whole_model
from hf_refseg.training.checkpoints import CHECKSUMS, find_checkpoint_fault, last_complete_checkpoint

TRAINING = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4}
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    build_trainer(folder, cache, **TRAINING).train()
    return folder


@pytest.fixture
def newest(trained: Path, tmp_path: Path) -> Path:
    """The newer of two checkpoints, to damage."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run" / "checkpoint-2"


def assert_passed_over(checkpoint: Path, fault: str) -> None:
    assert find_checkpoint_fault(checkpoint) == fault
    assert last_complete_checkpoint(checkpoint.parent) == str(checkpoint.with_name("checkpoint-1"))


@pytest.mark.parametrize("how", ["missing", "cut off", "empty"])
@pytest.mark.parametrize("name", ["config.json", "trainer_state.json", "model.safetensors", *STATES])
def test_a_file_that_is_cut_off_or_missing_is_named(newest: Path, name: str, how: str) -> None:
    path = newest / name
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[: len(content) // 2] if how == "cut off" else b"")
    assert_passed_over(newest, f"{name} is {'missing' if how == 'missing' else 'cut off'}")


@pytest.mark.parametrize("name", ["model.safetensors", *STATES])
def test_one_other_byte_is_noticed_wherever_it_is(newest: Path, name: str) -> None:
    content = (newest / name).read_bytes()
    for place in random.Random(name).sample(range(len(content)), 20):
        other = bytearray(content)
        other[place] ^= 1
        (newest / name).write_bytes(other)
        assert find_checkpoint_fault(newest) in (f"{name} is damaged", f"{name} is cut off"), place
    (newest / name).write_bytes(content)
    assert find_checkpoint_fault(newest) is None


def zero(path: Path) -> None:
    """Overwrites a tenth of a file, in its middle."""
    content = path.read_bytes()
    tenth = len(content) // 10
    path.write_bytes(content[: 5 * tenth] + bytes(tenth) + content[6 * tenth :])


@pytest.mark.parametrize("name", STATES)
def test_states_of_earlier_checkpoints_are_held_to_the_checksums_of_their_archives(newest: Path, name: str) -> None:
    (newest / CHECKSUMS).unlink()
    assert find_checkpoint_fault(newest) is None
    zero(newest / name)
    assert_passed_over(newest, f"{name} is damaged")


def test_a_file_that_is_listed_and_not_there_is_missing(newest: Path) -> None:
    with (newest / CHECKSUMS).open("a") as file:
        file.write(f"{'0' * 64}  model-00002-of-00002.safetensors\n")
    assert_passed_over(newest, "model-00002-of-00002.safetensors is missing")


def test_a_state_is_a_whole_one(newest: Path) -> None:
    path = newest / "trainer_state.json"
    state = json.loads(path.read_text())
    for name in ("global_step", "max_steps", "epoch"):
        path.write_text(json.dumps({**state, name: None}))
        assert_passed_over(newest, f"trainer_state.json holds no {name}")
    path.write_text('{"global_step": 2}')
    assert_passed_over(newest, "trainer_state.json holds no max_steps")
    path.write_text("[2]")
    assert_passed_over(newest, "trainer_state.json is cut off")


def test_no_run_goes_on_from_a_damaged_checkpoint_that_is_named(cache: Path, newest: Path) -> None:
    (alone := newest.with_name("checkpoint-3")).mkdir()
    shutil.copy(newest / "trainer_state.json", alone)
    zero(newest / "optimizer.pt")
    trainer = build_trainer(newest.parent, cache, **{**TRAINING, "max_steps": 3})
    for checkpoint, fault in ((alone, "config.json is missing"), (newest, "optimizer.pt is damaged")):
        with pytest.raises(ValueError, match=f"{checkpoint} is no complete checkpoint: {fault}. Name another one"):
            trainer.train(resume_from_checkpoint=str(checkpoint))


def test_no_model_is_made_of_zeroed_weights(newest: Path) -> None:
    load_model(str(newest), "cpu", None)
    zero(newest / "model.safetensors")
    for load in (lambda: load_model(str(newest), "cpu", None), lambda: load_whole_model(str(newest), None)):
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged: its checksum is not the one in SHA256"):
            load()


def test_a_checkpoint_holds_nothing_of_an_earlier_one_in_its_place(cache: Path, newest: Path) -> None:
    (newest / "model-00002-of-00002.safetensors").write_bytes(b"of an earlier run")
    build_trainer(newest.parent, cache, **TRAINING).train()
    assert not (newest / "model-00002-of-00002.safetensors").exists() and find_checkpoint_fault(newest) is None
