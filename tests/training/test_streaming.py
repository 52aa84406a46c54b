"""A training on rows that are streamed: it goes on where it was, and what it cannot do is said before it begins."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from tiny_recipes import TINY, UNSCORED, write_recipe, write_video_recipe
from train_tiny import build_model, build_processor

from hf_refseg.data.byte_batches import FittedStream
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.streams import StreamedReferents
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.recipes import run_recipe
from hf_refseg.training.trainer import RefSegTrainer

SIZES = {"train_size": 4, "val_size": 2, "test_size": 2, "image_size": 64}
STREAMED = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2, **UNSCORED}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    cache = str(folder / "cache")
    return prepare_dataset("refshapes", None, folder / "shapes", max_shard_rows=5, cache_dir=cache, **SIZES)


def write_streamed(folder: Path, shapes: Path, **options: Any) -> list[str]:
    """The arguments of a run on streamed rows."""
    folder.mkdir(exist_ok=True)
    streamed = {"streaming": True, "cache_dir": str(shapes.parent / "cache")}
    data = {"dataset_name": str(shapes), "dataset_options": streamed}
    return [str(write_recipe(folder, folder, **{**data, **STREAMED, **options}))]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_training_on_a_stream_goes_on_exactly_where_it_was(shapes, tmp_path):
    whole = write_streamed(tmp_path, shapes, eval_strategy="steps", eval_steps=3, test_splits=["val"])
    report = run_recipe(whole)
    assert (report["training"]["steps"], report["splits"]["val"]["images"]) == (3, 2)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "3 of 3" in card and "epochs" not in card
    checkpoint = tmp_path / "run" / "checkpoint-2"

    resumed = write_streamed(tmp_path / "resumed", shapes, resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match=r"stream\.workers 0, now 1"):
        run_recipe([*resumed, "--dataloader_num_workers", "1"])
    run_recipe(resumed)
    first, second = (weights(tmp_path / place) for place in ("run", "resumed/run"))
    before = weights(checkpoint)
    assert first.keys() == second.keys()
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "how many rows there are is not known.*give max_steps"),
        ({"save_strategy": "epoch"}, "save_strategy is epoch.*say steps, with save_steps, or no"),
        ({"learning_rate_drops": [1.0]}, "learning_rate_drops are epochs.*leave it out"),
        ({"leakage_list": "list.json"}, "streaming does not go with leakage_list.*leave one of them out"),
        ({"cache_image_features": "cache"}, "streaming does not go with cache_image_features"),
        ({"max_train_sentences": 4}, "streaming does not go with max_train_sentences"),
        ({"dataset_name": ["refcoco", "refcoco+"]}, "streaming does not go with several data sets"),
        ({"test_splits": ["train"]}, "train is streamed to train on it, but also scored"),
        ({"dataset_name": "refshapes"}, "refshapes cannot be streamed.*hf-refseg prepare refshapes"),
    ],
)
def test_what_a_stream_cannot_do_is_said_before_anything_is_written(shapes, tmp_path, options, message):
    arguments = write_streamed(tmp_path, shapes, **options)
    with pytest.raises(ValueError, match=message):
        run_recipe(arguments)
    assert not list(tmp_path.glob("run/*"))


def test_processes_do_not_divide_their_parts_of_the_stream_once_more(shapes, tmp_path, monkeypatch):
    rows = load_refseg(str(shapes), streaming=True)["train"]
    items = list(StreamedReferents(rows, rank=1, nodes=2).items_of_epoch(0))[:4]
    model, processor = build_model(), build_processor()
    arguments = RefSegTrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=2, max_steps=2)
    stream = FittedStream(StreamedReferents(rows, rank=1, nodes=2), processor.image_processor)
    trainer = RefSegTrainer(model, arguments, processor, stream)
    for name, value in {"num_processes": 2, "process_index": 1}.items():
        monkeypatch.setitem(PartialState._shared_state, name, value)
    batches = list(islice(trainer.get_train_dataloader(), 2))
    expected = [trainer.data_collator(items[:2]), trainer.data_collator(items[2:])]
    assert all(
        torch.equal(batch["input_ids"], wanted["input_ids"]) for batch, wanted in zip(batches, expected, strict=True)
    )
    assert all(
        torch.equal(batch["mask_labels"], wanted["mask_labels"])
        for batch, wanted in zip(batches, expected, strict=True)
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    sizes = {**SIZES, "num_frames": 4}
    return prepare_dataset("refshapes_video", None, folder / "videos", cache_dir=str(folder / "cache"), **sizes)


def write_streamed_videos(folder: Path, videos: Path, **options: Any) -> list[str]:
    folder.mkdir(exist_ok=True)
    streamed = {"streaming": True, "cache_dir": str(videos.parent / "cache")}
    data = {"dataset_name": str(videos), "dataset_options": streamed, "test_splits": []}
    return [str(write_video_recipe(folder, folder, **{**data, **STREAMED, **options}))]


def test_a_training_on_streamed_videos_goes_on_exactly_where_it_was(videos, tmp_path):
    report = run_recipe(write_streamed_videos(tmp_path, videos, test_splits=["val"]))
    assert (report["training"]["steps"], report["splits"]["val"]["videos"]) == (3, 2)
    assert "videos, as clips of 3 frames" in (tmp_path / "run" / "README.md").read_text()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    run_recipe(write_streamed_videos(tmp_path / "resumed", videos, resume_from_checkpoint=str(checkpoint)))
    first, second, before = (weights(folder) for folder in (tmp_path / "run", tmp_path / "resumed/run", checkpoint))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in first.items())


def test_an_image_method_is_trained_on_single_frames_of_a_stream(videos, tmp_path):
    of_images = {"model_type": "lavt", "config": TINY["config"], "max_steps": 1, "save_strategy": "no"}
    assert run_recipe(write_streamed_videos(tmp_path, videos, **of_images))["training"]["steps"] == 1
    assert "videos, as single frames" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "how many rows there are is not known.*give max_steps"),
        ({"test_splits": ["train"]}, "train is streamed to train on it, but also scored"),
        ({"eval_split": "train"}, "train is streamed to train on it, but also scored"),
        ({"dataset_name": "refshapes_video"}, "refshapes_video cannot be streamed.*hf-refseg prepare refshapes_video"),
        ({"image_data": {"dataset_name": "refshapes"}}, "streaming does not go with image_data.*leave one of them"),
        (
            {
                "image_data": {"dataset_name": "refshapes", "dataset_options": '{"streaming": true}'},
                "dataset_options": {},
            },
            "streaming does not go with image_data",
        ),
    ],
)
def test_what_a_stream_of_videos_cannot_do_is_said(videos, tmp_path, options, message):
    arguments = write_streamed_videos(tmp_path, videos, **options)
    with pytest.raises(ValueError, match=message):
        run_recipe(arguments)
    assert not list(tmp_path.glob("run/*"))


def test_a_tokenizer_of_words_reads_the_stream_once(shapes, tmp_path):
    run_recipe([*write_streamed(tmp_path, shapes), "--tokenizer_name_or_path", "words", "--max_steps", "1"])
    assert "left" in (tmp_path / "run" / "tokenizer.json").read_text()
