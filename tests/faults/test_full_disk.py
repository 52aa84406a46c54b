"""A full disk is one clear error, leaves nothing half written and loses nothing that was finished."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from golden_lavt import FOLDER as GOLDEN_LAVT
from golden_lavt import released_checkpoint
from PIL import Image
from places import FIXTURES
from small_disk import SmallDisk
from tiny_lavt import tiny_lavt, tiny_processor
from train_tiny import build_trainer
from transformers import TrainerCallback
from typer.testing import CliRunner, Result

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.evaluation import Answer, System, evaluate_system
from hf_refseg.evaluation.submission import SubmissionWriter
from hf_refseg.files import LOCK, OutputError, write_whole, writing_into
from hf_refseg.training.checkpoints import last_complete_checkpoint
from hf_refseg_cli import app

GOLDEN_WORDS = (GOLDEN_LAVT / "vocab.txt").read_text(encoding="utf-8").splitlines()
REFER_API = FIXTURES / "refer_api"
SCENES = {"train_size": 2, "val_size": 3, "test_size": 2, "image_size": 64}
FULL = r"cannot be written \((No space left on device|File too large|the disk is full, or takes no file as large)\)\. "


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_lavt().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    return prepare_dataset("refshapes", None, root / "shapes", cache_dir=str(root / "cache"), **SCENES)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(result: Result) -> str:
    """The one line with which a command failed."""
    assert result.exit_code == 1, result.output
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert "Traceback" not in result.stderr and len(line) <= 500
    return line.removeprefix("Error: ")


def files_in(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("filling", LOCK)
    }


def noise(path: Path, size: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_predict_keeps_what_is_finished_and_nothing_else(model_folder: Path, disk: SmallDisk) -> None:
    images = [noise(Path(name), size) for name, size in (("a.png", 40), ("b.png", 400), ("c.png", 40))]
    output = disk.folder / "out"
    arguments = ["predict", model_folder, *images, "-t", "the red dog", "-o", output, "--json", "all.json"]
    with disk.room(100_000):
        error = error_of(run(*arguments))
    assert error.startswith(f"{output} cannot be written")
    finished = {"out/a_1_the-red-dog.png", "out/a_overlay.png", "out/b_1_the-red-dog.png"}
    assert files_in(disk.folder) == finished
    assert '"image": "a.png"' in Path("all.json").read_text() and '"b.png"' not in Path("all.json").read_text()
    assert run(*arguments).exit_code == 0
    others = {"out/b_overlay.png", "out/c_1_the-red-dog.png", "out/c_overlay.png"}
    assert files_in(disk.folder) == finished | others


def test_predict_leaves_nothing_of_a_video_without_room(model_folder: Path, disk: SmallDisk) -> None:
    pytest.importorskip("av")
    for number in range(12):
        noise(Path("video", f"{number}.png"), 200)
    arguments = ["predict", model_folder, "video", "--video", "-t", "the red dog", "-o", disk.folder / "out"]
    with disk.room(10_000):
        assert error_of(run(*arguments)).startswith(f"{disk.folder / 'out'} cannot be written")
    assert not files_in(disk.folder) and not list((disk.folder / "out").iterdir())
    assert run(*arguments).exit_code == 0


def test_prepare_names_the_cache_that_is_full_and_keeps_finished_shards(disk: SmallDisk, monkeypatch) -> None:
    arguments = ["prepare", "refcoco", "--data-dir", REFER_API, "-o", "out", "--cache-dir", disk.folder / "cache"]
    with disk.room(2_000):
        error = error_of(run(*arguments))
    assert error.startswith(str(disk.folder / "cache")) and "name another cache_dir" in error
    assert not Path("out").exists()
    assert run(*arguments).exit_code == 0


@pytest.mark.parametrize("name", ["refshapes", "refshapes_video"])
def test_the_cache_of_generated_data_that_is_full_is_named(name: str, disk: SmallDisk) -> None:
    sizes = {"train_size": 1, "val_size": 1, "test_size": 1, "image_size": 64}
    with disk.room(2_000), pytest.raises(OutputError, match=f"^{disk.folder / 'cache'}.*name another cache_dir"):
        load_refseg(name, cache_dir=str(disk.folder / "cache"), **sizes)
    assert len(load_refseg(name, cache_dir=str(disk.folder / "cache"), **sizes)["train"]) > 0


def test_label_keeps_finished_files(model_folder: Path, disk: SmallDisk) -> None:
    for number, side in enumerate((40, 200)):
        noise(Path("photos", f"{number}.png"), side)
    arguments = ["label", model_folder, "photos", "-t", "the red dog", "--threshold", 0.4, "--workers", 0]
    arguments += ["--shard-images", 1, "--val-share", 0, "--output", disk.folder / "out"]
    with disk.room(60_000):
        assert error_of(run(*arguments)).startswith(f"{disk.folder / 'out' / 'data'} cannot be written")
    (finished,) = (disk.folder / "out" / "data").iterdir()
    written = finished.stat().st_mtime_ns
    assert run(*arguments).exit_code == 0
    assert finished.stat().st_mtime_ns == written and len(load_refseg(str(disk.folder / "out"))["train"]) == 2


def test_prepare_keeps_finished_shards(disk: SmallDisk, tmp_path: Path) -> None:
    def prepare() -> Path:
        return prepare_dataset("refcoco", REFER_API, disk.folder / "out", max_shard_rows=5, cache_dir=tmp_path)

    # There is room for the first shard alone.
    with disk.room(40_000 if disk.is_mounted else 24_000), pytest.raises(OutputError, match=FULL):
        prepare()
    shard = disk.folder / "out" / "data" / "train-00000-of-00004.parquet"
    assert list(shard.parent.iterdir()) == [shard]
    written = shard.stat().st_mtime_ns
    prepare()
    assert shard.stat().st_mtime_ns == written and len(list(shard.parent.iterdir())) == 10


def test_a_full_cache_does_not_make_sound_data_damaged(prepared: Path, disk: SmallDisk, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", disk.folder / "cache")
    with disk.room(100):
        error = error_of(run("info", prepared))
        with pytest.raises(OutputError, match=FULL):
            load_refseg(str(prepared))
    assert error.startswith(str(disk.folder / "cache")) and "damaged" not in error
    assert run("info", prepared).exit_code == 0


def test_evaluate_tells_scores_that_cannot_be_written(model_folder: Path, prepared: Path, disk: SmallDisk) -> None:
    load_refseg(str(prepared), splits=["val"])
    with disk.room(100):
        result = run("evaluate", model_folder, prepared, "-o", disk.folder / "out")
    assert error_of(result).startswith(f"{disk.folder / 'out'} cannot be written")
    assert "oIoU" in result.stdout
    assert not files_in(disk.folder)


class Everything(System):
    """Finds everything everywhere."""

    name, images_at_once = "everything", 1

    def segment(self, image: Image.Image, texts: Sequence[str]) -> list[Answer]:
        return [Answer(mask=np.ones((image.height, image.width), dtype=bool)) for _ in texts]


def test_a_disk_that_fills_up_stops_no_evaluation(prepared: Path, disk: SmallDisk, caplog) -> None:
    rows = datasets.concatenate_datasets(list(load_refseg(str(prepared)).values()))
    options, unfinished = {"progress": False, "bootstrap_samples": 0}, disk.folder / "unfinished"
    wanted = evaluate_system(Everything(), rows, **options)
    with disk.room(8192):
        found = evaluate_system(Everything(), rows, unfinished=unfinished, **options)
    assert found.records == wanted.records
    (warning,) = caplog.messages
    assert warning.startswith(f"{unfinished} cannot be written (") and "would go on from here" in warning
    # What was kept while there was room is not found anew.
    assert 0 < next(unfinished.glob("*.jsonl")).read_bytes().count(b"\n") < found.images
    assert evaluate_system(Everything(), rows, unfinished=unfinished, **options).records == wanted.records


def test_convert_leaves_no_half_of_a_model(disk: SmallDisk) -> None:
    torch.save(released_checkpoint(), "released.pth")
    Path("vocab.txt").write_text("\n".join(GOLDEN_WORDS[:97]), encoding="utf-8")
    arguments = ["convert", "lavt", "released.pth", disk.folder / "lavt", "--tokenizer", "vocab.txt"]
    with disk.room(100_000):
        assert error_of(run(*arguments)).startswith(f"{disk.folder / 'lavt'} cannot be written")
    assert not list(disk.folder.glob("lavt"))


def test_a_submission_is_without_the_video_that_had_no_room(disk: SmallDisk) -> None:
    masks = [[np.random.default_rng(frame).random((200, 200)) > 0.5] for frame in range(4)]
    writer = SubmissionWriter(disk.folder / "out", {"model": "tiny"})
    arguments = (["0"], ["a", "b", "c", "d"], masks, (200, 200))
    with disk.room(4_000), pytest.raises(OutputError, match=FULL):
        writer.write_video("video", *arguments)
    assert files_in(disk.folder) == {"out/submission.json"} and not writer.is_written("video")
    writer.write_video("video", *arguments)
    assert writer.is_written("video")


def test_a_file_stays_as_it_was_where_a_new_one_has_no_room(disk: SmallDisk) -> None:
    path = disk.folder / "scores.json"
    write_whole(path, lambda partial: partial.write_text("before"))
    with disk.room(10_000), pytest.raises(OutputError, match=FULL):
        write_whole(path, lambda partial: partial.write_bytes(bytes(100_000)))
    with pytest.raises(PermissionError, match="of another file"):
        write_whole(path, lambda partial: refuse())
    assert path.read_text() == "before" and files_in(disk.folder) == {"scores.json"}


def test_a_copied_folder_without_room_is_told(tmp_path: Path, disk: SmallDisk) -> None:
    noise(tmp_path / "pictures" / "a.png", 200)
    with disk.room(10_000), pytest.raises(OutputError, match=FULL), writing_into(disk.folder):
        shutil.copytree(tmp_path / "pictures", disk.folder / "pictures")


def refuse() -> None:
    raise PermissionError("of another file")


class Fill(TrainerCallback):
    """Leaves room on a disk for a part of the weights, or more than them, once a checkpoint is saved."""

    def __init__(self, disk: SmallDisk, share: float, stack: ExitStack) -> None:
        self.disk, self.share, self.stack = disk, share, stack

    def on_save(self, args, state, control, **kwargs) -> None:
        weights = Path(args.output_dir, f"checkpoint-{state.global_step}", "model.safetensors")
        self.stack.enter_context(self.disk.room(int(self.share * weights.stat().st_size)))


SAVES = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "dropout": 0.3, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a training that had room."""
    trainer = build_trainer(tmp_path_factory.mktemp("whole"), cache, **SAVES)
    trainer.train()
    return trainer.model.state_dict()


# The optimizer holds two numbers for each weight.
@pytest.mark.parametrize("share", [0.5, 1.5], ids=["weights", "optimizer"])
def test_training_goes_on_from_the_checkpoint_that_had_room(cache, trained, disk: SmallDisk, share: float) -> None:
    output = disk.folder / "run"
    with ExitStack() as stack, pytest.raises(OutputError, match=f"{output / 'checkpoint-2'} {FULL}"):
        build_trainer(output, cache, **SAVES, callbacks=(Fill(disk, share, stack),)).train()
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-1"]
    trainer = build_trainer(output, cache, **SAVES)
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(value, trained[name]) for name, value in trainer.model.state_dict().items())


def test_a_finished_checkpoint_stays_where_what_follows_has_no_room(cache, tmp_path: Path, monkeypatch) -> None:
    def rotate(**keywords) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("transformers.trainer.rotate_checkpoints", rotate)
    with pytest.raises(OutputError, match=FULL):
        build_trainer(tmp_path / "run", cache, **SAVES).train()
    assert last_complete_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-1")
