"""Video data sets in the very form in which people download them: they load, are prepared, verified and trained on."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_recipes import write_video_recipe
from video_loading import load, masks_of, notes
from video_trees import (
    DAVIS_NAMES,
    DAVIS_TEXTS,
    HEIGHT,
    JHMDB_LENGTH,
    WIDTH,
    YOUTUBE_NAMES,
    a2d_mask,
    labels_of,
    make_a2d,
    make_davis,
    make_jhmdb,
    make_youtube_vos,
    release_a2d,
    release_davis,
    release_jhmdb,
    release_youtube_vos,
    write_frame,
    write_labels,
)

from hf_refseg.data.catalog import DATASETS, Partition
from hf_refseg.data.clips import ClipExamples, VideoExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import VOID, DataFormatError
from hf_refseg.datasets_scripts.jhmdb_sentences import draw_frames
from hf_refseg.evaluation.shuffling import with_shuffled_sentences
from hf_refseg.training.recipes import run_recipe

RELEASES = {
    "ref_youtube_vos": (release_youtube_vos, {}, {"train": (4, 6, 2), "valid": (2, 2, 1)}),
    "ref_davis17": (release_davis, {}, {"train": (4, 16, 3), "val": (3, 12, 2)}),
    "a2d_sentences": (release_a2d, {"on_size_mismatch": "resize_mask"}, {"train": (2, 3, 1), "test": (3, 3, 2)}),
    "jhmdb_sentences": (release_jhmdb, {}, {"test": (2, 2, 2)}),
}
PUBLISHED = {
    "ref_youtube_vos": (
        "| train | referents | 6388 | 4 |",
        "| train | sentences | 12913 |",
        "| valid | videos | 202 |",
    ),
    "ref_davis17": ("| val | sentences | 244 | 12 |", "| val | videos | 30 | 2 |"),
    "a2d_sentences": ("| train | videos | 3017 | 1 |", "| test | videos | 737 |", "| all splits | sentences | 6654 |"),
    "jhmdb_sentences": ("| test | referents | 928 | 2 |", "| test | sentences | 928 |", "| test | videos | 928 |"),
}


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_verified_prepared_and_trained_on(name, tmp_path, monkeypatch):
    release, options, counts = RELEASES[name]
    root, output, cache = release(tmp_path / "data"), tmp_path / "out", tmp_path / "cache"
    with pytest.raises(DataFormatError) as error:
        prepare_dataset(name, root, output, verify=True, cache_dir=cache, **options)
    for row in PUBLISHED[name]:
        assert row in str(error.value)
    partition = Partition(tuple(counts), published=counts)
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], partitions=(partition,)))
    prepare_dataset(name, root, output, verify=True, cache_dir=cache, **options)
    shutil.rmtree(root)
    recipe = write_video_recipe(
        tmp_path,
        cache,
        dataset_name=str(output),
        dataset_options={"cache_dir": str(cache)},
        train_split=next(iter(counts)),
        test_splits=[],
        max_steps=1,
    )
    assert run_recipe([str(recipe)])["training"]["steps"] == 1


def test_refer_youtube_vos_needs_no_frames_of_test(tmp_path, caplog):
    root = release_youtube_vos(tmp_path / "data")
    assert {split: rows["video_id"][:] for split, rows in load("ref_youtube_vos", root).items()} == {
        "train": ["t1", "t2"],
        "valid": ["v1"],
    }
    assert notes(caplog) == [
        "ref_youtube_vos: splits that are left out because their frames are not here (1): test: none of its 1 videos "
        "has frames in test/JPEGImages or valid/JPEGImages."
    ]
    assert list(load("ref_youtube_vos", root, splits=["valid"])) == ["valid"] and not notes(caplog)
    with pytest.raises(DataFormatError, match=r"test: none of its 1 videos has frames in .*leave test out of splits"):
        load("ref_youtube_vos", root, splits=["valid", "test"])


def test_the_files_of_other_splits_are_not_even_read(tmp_path):
    root = release_youtube_vos(tmp_path / "data")
    train = root / "meta_expressions/train/meta_expressions.json"
    train.write_text("{")
    assert list(load("ref_youtube_vos", root, splits=["valid"])) == ["valid"]
    train.unlink()
    with pytest.raises(DataFormatError, match=r"meta_expressions/train/meta_expressions.json does not exist"):
        load("ref_youtube_vos", root, splits=["train"])


def test_frames_that_come_later_are_noticed(tmp_path):
    root = release_youtube_vos(tmp_path / "data")
    load("ref_youtube_vos", root)
    for number, name in enumerate(YOUTUBE_NAMES):
        write_frame(root / "test/JPEGImages/v2" / f"{name}.jpg", number)
    assert list(load("ref_youtube_vos", root)) == ["train", "valid", "test"]


def test_no_frames_at_all_are_an_error(tmp_path):
    root = release_youtube_vos(tmp_path / "data")
    for split in ("train", "valid"):
        shutil.rmtree(root / split / "JPEGImages")
    with pytest.raises(DataFormatError, match=r"None of the videos in .*meta_expressions has frames"):
        load("ref_youtube_vos", root)


@pytest.mark.parametrize(
    ("name", "split", "videos", "others"),
    [
        ("ref_youtube_vos", "train", ["t1", "t2"], ["valid", "meta_expressions/valid", "meta_expressions/test"]),
        ("ref_youtube_vos", "valid", ["v1"], ["train", "meta_expressions/train", "valid/JPEGImages/v2"]),
        ("ref_youtube_vos", "test", ["v2"], ["train", "meta_expressions/train", "meta_expressions/valid"]),
        ("ref_davis17", "train", ["bear"], ["ImageSets/2017/val.txt", "JPEGImages/480p/two"]),
        (
            "ref_davis17",
            "val",
            ["two"],
            ["ImageSets/2017/train.txt", "meta_expressions/train", "JPEGImages/480p/bear"],
        ),
        ("a2d_sentences", "train", ["a"], ["Release/frames/b", "a2d_annotation_with_instances/b"]),
        ("a2d_sentences", "test", ["b"], ["Release/frames/a", "a2d_annotation_with_instances/a"]),
        ("jhmdb_sentences", "test", ["j1", "j2"], []),
    ],
)
def test_a_split_loads_without_the_files_of_the_others(name, split, videos, others, tmp_path, caplog):
    make = {"ref_youtube_vos": make_youtube_vos, "a2d_sentences": make_a2d, "jhmdb_sentences": make_jhmdb}
    root = make[name](tmp_path / "data") if name in make else make_davis(tmp_path / "data", "meta")
    for other in others:
        path = root / other
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dataset = load(name, root, splits=[split])
    assert {each: rows["video_id"][:] for each, rows in dataset.items()} == {split: videos}
    assert not notes(caplog)
    with pytest.raises(ValueError, match="no split 'validation'"):
        load(name, root, splits=["validation"])


@pytest.mark.parametrize("inside", [False, True])
def test_ref_davis17_as_it_is_released(inside, tmp_path, caplog):
    root = release_davis(tmp_path / "data", inside)
    dataset = load("ref_davis17", root)
    for folder in (root / "DAVIS", root):
        again = load_refseg("ref_davis17", folder, cache_dir=tmp_path / "again")
        assert {split: rows.to_dict() for split, rows in again.items()} == {
            split: rows.to_dict() for split, rows in dataset.items()
        }
    assert {split: rows["video_id"][:] for split, rows in dataset.items()} == {
        "train": ["classic-car", "dogs-scale", "motorbike"],
        "val": ["gold-fish", "india"],
    }
    (car,) = dataset["train"][0]["referents"]
    assert [each["raw"] for each in car["sentences"]] == [f"1 of classic-car by {name}" for name in DAVIS_TEXTS]
    fish, unseen = dataset["val"][0]["referents"]
    assert [mask.any() for mask in masks_of(fish)] == [True] * 3 and fish["ref_id"] == "gold-fish_1"
    assert [mask.any() for mask in masks_of(unseen)] == [False] * 3 and len(unseen["sentences"]) == 4
    first, unnamed = dataset["val"][1]["referents"]
    assert first["sentences"][2]["raw"] == "one\u2019s \x81\u2026 caf\u00e9 of india by annot2"
    assert unnamed["sentences"] == [] and unnamed["ref_id"] == "india_2"
    assert np.array_equal(masks_of(unnamed)[1], labels_of(1) == 2)
    folder = "DAVIS/davis_text_annotations" if inside else "davis_text_annotations"
    assert notes(caplog)[:3] == [
        "ref_davis17: masks that are read because those of protocol davis are not here (1): "
        "DAVIS/Annotations_unsupervised/480p: annotations='unsupervised', for protocol davis_unsupervised.",
        "ref_davis17: misspelled names of videos that are repaired (16): "
        + "; ".join(f"{folder}/Davis17_{name}.txt: line 1: clasic-car is classic-car" for name in DAVIS_TEXTS)
        + f"; {folder}/Davis17_annot1.txt: line 2: dog-scale is dogs-scale; and 11 more.",
        "ref_davis17: described objects that no label picture shows: their masks are empty (1): "
        f"{folder}/Davis17_annot1.txt: video gold-fish: object 2.",
    ]


def test_names_of_videos_that_are_not_made_are_not_spoken_of(tmp_path, caplog):
    root = release_davis(tmp_path / "data")
    load("ref_davis17", root, splits=["val"], annotations="unsupervised")
    assert len(notes(caplog)) == 1


def test_pixels_that_were_left_open_are_kept_apart_from_objects(tmp_path):
    root = release_davis(tmp_path / "data")
    labels = labels_of(1)
    labels[-2:] = 255
    write_labels(root / "DAVIS/Annotations_unsupervised/480p/india/00001.png", labels)
    rows = load("ref_davis17", root)["val"]
    *_, void = rows[1]["referents"]
    assert (void["ref_id"], void["category"], void["sentences"]) == ("india_void", VOID, [])
    assert [mask.sum() for mask in masks_of(void)] == [0, 2 * labels.shape[1], 0]
    example = VideoExamples(rows)[1]
    assert [each["ref_id"] for each in example["undescribed"]] == ["india_2"]
    assert np.array_equal(decode_mask(example["void"][1]), labels == 255)
    assert VideoExamples(rows)[0]["void"] == {}


def test_objects_that_nobody_describes_are_neither_trained_on_nor_asked_for(tmp_path):
    rows = load("ref_davis17", release_davis(tmp_path / "data"))["val"]
    assert [clip["ref_id"] for clip in ClipExamples(rows, 2)] == ["gold-fish_1", "gold-fish_2", "india_1"]
    assert set(VideoExamples(rows)[1]["ref_ids"]) == {"india_1"}
    for row, other in zip(with_shuffled_sentences(rows.select([1, 1, 0])), ["gold-fish"] * 2 + ["india"], strict=True):
        for referent in row["referents"]:
            sentences = [] if referent["ref_id"] == "india_2" else referent["sentences"]
            assert referent["sentences"] == sentences and all(other in each["raw"] for each in sentences)


def test_which_masks_of_davis_are_taken_is_chosen_by_name(tmp_path, caplog):
    root = make_davis(tmp_path / "data", "list")
    for number, name in enumerate(DAVIS_NAMES):
        for video in ("bear", "two"):
            write_labels(root / "Annotations_unsupervised/480p" / video / f"{name}.png", labels_of(number + 9, (1,)))
    for options, start in (({}, 0), ({"annotations": "semi_supervised"}, 0), ({"annotations": "unsupervised"}, 9)):
        (bear,) = load("ref_davis17", root, **options)["train"][0]["referents"]
        assert np.array_equal(masks_of(bear)[0], labels_of(start) == 1)
    assert len(notes(caplog)) == 1  # of an object that is described, but not shown
    shutil.rmtree(root / "Annotations_unsupervised")
    with pytest.raises(DataFormatError, match="has no Annotations_unsupervised/480p, found Annotations, ImageSets"):
        load("ref_davis17", root, annotations="unsupervised")
    shutil.rmtree(root / "Annotations")
    with pytest.raises(DataFormatError, match="no Annotations/480p or Annotations_unsupervised/480p, found ImageSets"):
        load("ref_davis17", root)
    with pytest.raises(ValueError, match="Unknown annotations 'all': choose one of semi_supervised, unsupervised"):
        load("ref_davis17", root, annotations="all")


def test_a2d_as_it_is_released(tmp_path, caplog):
    root = release_a2d(tmp_path / "data")
    with pytest.raises(DataFormatError, match=r"00005.h5 .*mask is 13 x 20 .* or pass on_size_mismatch=.resize_mask."):
        load("a2d_sentences", root)
    caplog.clear()
    test = load("a2d_sentences", root, on_size_mismatch="resize_mask")["test"]
    assert test["video_id"][:] == ["b", "T6bNPuKV-wY"]
    (man,) = test[1]["referents"]
    assert [each["raw"] for each in man["sentences"]] == ["a man in black suit"]
    ball = masks_of(test[0]["referents"][0])[0]
    truth = a2d_mask(5, 1)
    assert ball.shape == (HEIGHT, WIDTH) and (ball & truth).sum() / (ball | truth).sum() > 0.5
    kinds = [message.split(": ")[1] for message in notes(caplog)]
    assert kinds == [
        "instances '1 (copy)', left out",
        "videos that videoset.csv does not list, left out (1)",
        "masks of instances that a frame lists twice, of which the first counts (1)",
        "masks resized to their pictures (2)",
    ]


def test_jhmdb_draws_the_frames_that_are_not_listed(tmp_path, caplog):
    root = release_jhmdb(tmp_path / "data")
    rows = load("jhmdb_sentences", root)["test"]
    assert rows["video_id"][:] == ["j1", "j2"]
    for row, drawn in zip(rows, draw_frames([JHMDB_LENGTH] * 2), strict=True):
        (referent,) = row["referents"]
        assert referent["sentences"][0]["raw"] == f"{row['video_id']} runs" and referent["category"] == "run"
        assert [number + 1 for number in referent["annotated_frames"]] == drawn
        for number, mask in zip(drawn, masks_of(referent), strict=True):
            assert np.array_equal(mask, labels_of(number, (1,)) == 1)
    (message,) = notes(caplog)
    assert "frames to score that are drawn, as samples_metadata.json is not here (1): " in message
    assert "3 of each of 2 videos of 12 frames; they are others than those of the list" in message


def test_the_frames_that_are_drawn_are_those_of_the_list():
    """Of the first eight videos of the published list."""
    drawn = draw_frames([40, 40, 40, 40, 40, 40, 40, 40])
    assert drawn[:4] == [[2, 8, 18], [9, 15, 16], [6, 7, 35], [3, 28, 38]]
    assert drawn[4:] == [[2, 6, 14], [15, 33, 39], [2, 13, 36], [15, 27, 35]]
