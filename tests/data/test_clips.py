"""Clips, frames and videos of rows: what is drawn, what is opened when, and what reaches the evaluation server."""

import io
import itertools
import json
import pickle
import random
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_lavt import tiny_processor
from torch.utils.data import DataLoader
from video_trees import HEIGHT, WIDTH, labels_of, make_youtube_vos

from hf_refseg.data.clips import (
    ClipCollator,
    ClipExamples,
    FrameExamples,
    VideoExamples,
    VideoRows,
    choose_clip,
)
from hf_refseg.data.examples import ReferentExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import InvalidMaskError, decode_mask, encode_mask
from hf_refseg.data.rows import DataFormatError, InvalidRowError, video_features
from hf_refseg.evaluation.submission import SubmissionWriter, write_submission


def frame_bytes(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number,) * 3).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def make_video(video_id: str, length: int, annotated: list[list[int]], raws: tuple[str, ...] = ("one", "two")) -> dict:
    """A video whose frames' gray values are their numbers, with a referent per list of annotated frames."""
    return {
        "video_id": video_id,
        "frame_names": [f"{number:05d}" for number in range(length)],
        "frames": [frame_bytes(number) for number in range(length)],
        "referents": [
            {
                "ref_id": f"{video_id}_{place}",
                "category": "",
                "annotated_frames": numbers,
                "masks": [encode_mask(labels_of(number % 15, (1,)) == 1) for number in numbers],
                "sentences": [
                    {"sent_id": f"{video_id}_{place}_{raw}", "raw": raw, "sent": raw, "annotator": ""} for raw in raws
                ],
            }
            for place, numbers in enumerate(annotated)
        ],
    }


def dataset_of(*videos: dict) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(videos), features=video_features())


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Of four videos one has no annotated frame, and one a referent without any."""
    return dataset_of(
        make_video("long", 30, [list(range(30)), [4, 20]]),
        make_video("none", 5, [[]]),
        make_video("short", 3, [[1]]),
        make_video("some", 12, [[], [2, 11]]),
    )


def numbers_of(item: dict) -> list[int]:
    return [np.asarray(frame)[0, 0, 0].item() for frame in item["frames"]]


# --- ClipExamples --------------------------------------------------------------------------------------------------


def test_one_item_per_annotated_referent(rows):
    examples = ClipExamples(rows, 8)
    assert [item["ref_id"] for item in examples] == ["long_0", "long_1", "short_0", "some_1"]
    assert [examples[index]["video_id"] for index in (-1, 2)] == ["some", "short"]
    with pytest.raises(IndexError):
        examples[4]


def test_an_item_is_its_frames_and_masks(rows):
    for item in ClipExamples(rows, 8):
        assert set(item) == {"frames", "text", "masks", "annotated", "video_id", "ref_id", "sent_id"}
        assert item["sent_id"] == f"{item['ref_id']}_{item['text']}" and item["text"] in ("one", "two")
        numbers = numbers_of(item)
        row = next(row for row in rows if row["video_id"] == item["video_id"])
        referent = next(referent for referent in row["referents"] if referent["ref_id"] == item["ref_id"])
        assert item["annotated"].tolist() == [number in referent["annotated_frames"] for number in numbers]
        assert item["annotated"].any() and item["masks"].shape == (8, HEIGHT, WIDTH) and item["masks"].dtype == bool
        for number, mask, annotated in zip(numbers, item["masks"], item["annotated"], strict=True):
            expected = labels_of(number % 15, (1,)) == 1 if annotated else np.zeros((HEIGHT, WIDTH), bool)
            assert np.array_equal(mask, expected)


def test_a_video_shorter_than_a_clip_repeats_its_last_frame(rows):
    item = ClipExamples(rows, 6)[2]
    assert numbers_of(item) == [0, 1, 2, 2, 2, 2]
    assert item["annotated"].tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize("target", [0, 2, 15, 28, 29])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 29, 30])
def test_a_clip_has_target_neighbors_and_others(target, num_frames):
    drawn = random.Random(0)
    clips = [choose_clip(30, target, num_frames, drawn) for _ in range(400)]
    for clip in clips:
        assert clip == sorted(set(clip)) and len(clip) == num_frames and target in clip
        assert clip[0] >= 0 and clip[-1] < 30
        near = [clip_frame - target for clip_frame in clip if 0 < abs(clip_frame - target) <= 3]
        if num_frames >= 3:
            assert target == 0 or min(near) < 0
            assert target == 29 or max(near) > 0
    if num_frames == 3 and target == 15:
        assert {clip[0] for clip in clips} == {12, 13, 14} and {clip[2] for clip in clips} == {16, 17, 18}
    if num_frames == 8:
        assert set(itertools.chain(*clips)) == set(range(30))


def test_targets_are_annotated_frames_drawn_evenly(rows):
    examples = ClipExamples(rows, 1)
    seen = []
    for epoch in range(200):
        examples.set_epoch(epoch)
        item = examples[1]
        assert item["annotated"].all()
        seen += numbers_of(item)
    assert set(seen) == {4, 20} and 70 < seen.count(4) < 130


def short_lived(shown: set[int], length: int = 30) -> datasets.Dataset:
    """A video whose target is in sight in these frames alone; every frame is annotated."""
    video = make_video("v", length, [list(range(length))])
    masks = video["referents"][0]["masks"]
    empty = encode_mask(np.zeros((HEIGHT, WIDTH), bool))
    video["referents"][0]["masks"] = [mask if number in shown else empty for number, mask in enumerate(masks)]
    return dataset_of(video)


def items_of_epochs(examples: ClipExamples, epochs: int = 60) -> list[dict]:
    items = []
    for epoch in range(epochs):
        examples.set_epoch(epoch)
        items.append(examples[0])
    return items


def test_clips_that_do_not_show_the_target_are_drawn_again_once(monkeypatch):
    """Of the first draws about half show nothing: three of thirty frames have the target, and a clip has four."""
    clips, first_draws, calls = sys.modules[ClipExamples.__module__], [], []

    def recording(*args) -> list[int]:
        calls.append(choose_clip(*args))
        return calls[-1]

    monkeypatch.setattr(clips, "choose_clip", recording)
    examples = ClipExamples(short_lived({10, 11, 12}), 4)
    for epoch in range(60):
        examples.set_epoch(epoch)
        calls.clear()
        item = examples[0]
        first_draws.append(not {10, 11, 12}.isdisjoint(calls[0]))
        assert len(calls) == (1 if first_draws[-1] else 2) and numbers_of(item) == calls[-1]
        assert item["masks"].any() and item["annotated"].all() and len(set(calls[-1])) == 4
    assert 0.2 < np.mean(first_draws) < 0.8


def test_clips_drawn_again_depend_on_seed_and_epoch_and_reach_every_frame():
    rows = short_lived({3, 20})
    drawn = [numbers_of(item) for item in items_of_epochs(ClipExamples(rows, 3, seed=5))]
    assert drawn == [numbers_of(item) for item in items_of_epochs(ClipExamples(rows, 3, seed=5))]
    assert drawn != [numbers_of(item) for item in items_of_epochs(ClipExamples(rows, 3, seed=6))]
    # Both frames with the target are drawn around, and single clips of a frame show it as well.
    assert 10 < sum(3 in numbers for numbers in drawn) < 50
    assert {numbers_of(item)[0] for item in items_of_epochs(ClipExamples(rows, 1))} == {3, 20}


def test_what_has_no_target_in_the_whole_video_stays():
    rows = short_lived(set())
    items = items_of_epochs(ClipExamples(rows, 4), epochs=5)
    assert all(item["annotated"].all() and not item["masks"].any() for item in items)
    # As before: the first draw, of the frames of a video that shows its target all the time.
    everywhere = ClipExamples(short_lived(set(range(30))), 4)
    assert [numbers_of(item) for item in items] == [numbers_of(item) for item in items_of_epochs(everywhere, epochs=5)]


def test_draws_depend_on_seed_epoch_and_index_alone(rows):
    def drawn(seed, epoch, order):
        examples = ClipExamples(rows, 4, seed=seed)
        examples.set_epoch(epoch)
        return {index: (numbers_of(examples[index]), examples[index]["text"]) for index in order}

    first = drawn(1, 2, range(4))
    assert drawn(1, 2, [3, 0, 2]) == {index: first[index] for index in (3, 0, 2)}
    assert first not in (drawn(1, 3, range(4)), drawn(2, 2, range(4)))


def test_the_epoch_reaches_living_workers(rows):
    examples = ClipExamples(rows, 4)
    loader = DataLoader(examples, batch_size=None, num_workers=1, persistent_workers=True, collate_fn=numbers_of)
    first = list(loader)
    examples.set_epoch(1)
    second = list(loader)
    assert second == [numbers_of(item) for item in examples] and second != first


def test_only_the_frames_of_the_clip_are_opened(rows, monkeypatch):
    examples, opened = ClipExamples(rows, 4), []
    monkeypatch.setattr(Image, "open", lambda *args, _open=Image.open, **options: opened.append(1) or _open(*args))
    assert len(examples[0]["frames"]) == len(opened) == 4


# --- FrameExamples -------------------------------------------------------------------------------------------------


def test_frame_examples_have_the_form_of_referent_examples(rows, tmp_path):
    images = load_refseg("refshapes", train_size=2, val_size=1, test_size=1, image_size=64, cache_dir=str(tmp_path))[
        "train"
    ]
    examples = FrameExamples(rows)
    assert len(examples) == 4 and set(examples[0]) == set(ReferentExamples(images)[0])
    seen = set()
    for epoch in range(30):
        examples.set_epoch(epoch)
        item = examples[3]
        number = np.asarray(item["image"])[0, 0, 0].item()
        assert item["image_id"] == f"some/{number:05d}" and item["ref_id"] == "some_1"
        assert np.array_equal(item["mask"], labels_of(number % 15, (1,)) == 1) and not item["no_target"]
        seen.add((number, item["text"]))
    assert seen == set(itertools.product((2, 11), ("one", "two")))


def test_a_frame_out_of_sight_has_no_target():
    video = make_video("v", 3, [[1]])
    video["referents"][0]["masks"] = [encode_mask(np.zeros((HEIGHT, WIDTH), bool))]
    assert FrameExamples(dataset_of(video))[0]["no_target"] is True


# --- ClipCollator --------------------------------------------------------------------------------------------------


def record_call(**inputs) -> dict:
    """Stands for a processor: hands back what it got, with labels as a processor makes them."""
    return {**inputs, "mask_labels": torch.from_numpy(np.stack(inputs["segmentation_maps"])).long()}


def test_frames_without_annotation_become_minus_100(rows):
    items = [ClipExamples(rows, 4)[index] for index in (0, 1, 3)]
    batch = ClipCollator(record_call)(items)
    assert batch["return_tensors"] == "pt" and batch["text"] == [item["text"] for item in items]
    assert batch["videos"] == [item["frames"] for item in items]
    for labels, item in zip(batch["mask_labels"], items, strict=True):
        for frame, mask, annotated in zip(labels, item["masks"], item["annotated"], strict=True):
            assert torch.equal(frame, torch.from_numpy(mask).long() if annotated else torch.full_like(frame, -100))


def test_a_real_processor_makes_a_batch(rows):
    processor = tiny_processor()
    items = [ClipExamples(rows, 4)[index] for index in (1, 3, 2)]
    batch = ClipCollator(processor)(items)
    size = processor.image_processor.size
    assert batch["pixel_values"].shape == (3, 4, 3, size.height, size.width)
    assert batch["mask_labels"].shape == (3, 4, size.height, size.width) and len(batch["input_ids"]) == 3
    for labels, item in zip(batch["mask_labels"], items, strict=True):
        unknown = torch.tensor([(frame == -100).all().item() for frame in labels])
        assert torch.equal(unknown, ~torch.from_numpy(item["annotated"]))
        assert labels[~unknown].unique().tolist() == [0, 1]


def test_clips_of_a_batch_have_one_length(rows):
    items = [ClipExamples(rows, 4)[0], ClipExamples(rows, 5)[0]]
    with pytest.raises(ValueError, match=r"The clips of a batch have \[4, 5\] frames"):
        ClipCollator(record_call)(items)


# --- VideoExamples -------------------------------------------------------------------------------------------------


def test_frames_and_rows_take_slices(rows):
    frames = VideoExamples(rows)[0]["frames"]
    assert [np.asarray(frame)[0, 0, 0].item() for frame in frames[27:]] == [27, 28, 29]
    assert [row["video_id"] for row in VideoRows(rows)[1:3]] == ["none", "short"]


def test_a_video_has_all_sentences_and_opens_nothing(rows, monkeypatch):
    opened = []
    monkeypatch.setattr(Image, "open", lambda *args, _open=Image.open, **options: opened.append(1) or _open(*args))
    examples = VideoExamples(rows)
    assert len(examples) == 4 and [item["video_id"] for item in examples] == ["long", "none", "short", "some"]
    item = examples[3]
    assert item["texts"] == ["one", "two"] * 2 and item["ref_ids"] == ["some_0"] * 2 + ["some_1"] * 2
    assert item["sent_ids"] == ["some_0_one", "some_0_two", "some_1_one", "some_1_two"]
    assert item["annotators"] == [""] * 4 and item["annotated_frames"] == [[], [], [2, 11], [2, 11]]
    assert np.array_equal(decode_mask(item["masks"][3][1]), labels_of(11, (1,)) == 1)
    assert len(item["frames"]) == len(item["frame_names"]) == 12 and not opened
    assert numbers_of({"frames": item["frames"]}) == list(range(12)) and len(opened) == 12
    assert np.asarray(item["frames"][-1])[0, 0, 0] == 11
    assert numbers_of({"frames": pickle.loads(pickle.dumps(item["frames"]))}) == list(range(12))
    with pytest.raises(IndexError):
        item["frames"][12]


# --- bad rows ------------------------------------------------------------------------------------------------------


def damaged(**changes) -> datasets.Dataset:
    video = make_video("v", 6, [[1, 3]])
    for key, value in changes.items():
        (video if key in video else video["referents"][0])[key] = value
    return dataset_of(video)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"annotated_frames": [1, 6]},
            InvalidRowError,
            "Referent v_0 of video v has 2 masks for the frames .1, 6. of 6",
        ),
        ({"annotated_frames": [3, 1]}, InvalidRowError, "ascending numbers"),
        ({"annotated_frames": [1]}, InvalidRowError, "2 masks for the frames .1."),
        ({"sentences": []}, DataFormatError, "no annotated frame to train on"),
        (
            {"frames": [frame_bytes(0)] * 5 + [{"bytes": b"GIF", "path": None}]},
            InvalidRowError,
            r"image of row v \(frame 00005\).* cannot be read",
        ),
        (
            {"frames": [frame_bytes(0)] * 5 + [frame_bytes(0, (9, 9))]},
            InvalidRowError,
            "Frame 00005 of video v has ano",
        ),
        (
            {"frames": [frame_bytes(0, (9, 9))] * 6},
            InvalidRowError,
            r"mask of row v_0 of v \(frame 0000.\) is 12 x 20",
        ),
        ({"masks": [{"size": [HEIGHT, WIDTH], "counts": "0"}] * 2}, InvalidMaskError, r"mask of row v_0 of v \(frame"),
    ],
)
def test_bad_rows_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        ClipExamples(damaged(**changes), 6)[0]


def test_unusable_data_sets_and_options(rows, tmp_path):
    images = load_refseg("refshapes", train_size=2, val_size=1, test_size=1, image_size=64, cache_dir=str(tmp_path))[
        "train"
    ]
    with pytest.raises(DataFormatError, match="no column video_id, frame_names, frames, referents"):
        ClipExamples(images, 4)
    with pytest.raises(DataFormatError, match="no annotated frame to train on"):
        FrameExamples(rows.select([1]))
    for num_frames in (0, 10**9):
        with pytest.raises(ValueError, match=f"num_frames is {num_frames}; a clip has 1 to 10000 frames"):
            ClipExamples(rows, num_frames)


def test_selected_rows_keep_their_referents(rows):
    examples = ClipExamples(rows.select([3, 1, 0]), 2)
    assert [item["ref_id"] for item in examples] == ["some_1", "long_0", "long_1"]


# --- submission ----------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path) -> VideoExamples:
    root = make_youtube_vos(tmp_path / "data")
    dataset = load_refseg("ref_youtube_vos", root, cache_dir=tmp_path / "cache")
    return VideoExamples(datasets.concatenate_datasets([dataset["valid"], dataset["test"]]))


def segment(frames, texts):
    """Text k means row k + frame number."""
    for number, frame in enumerate(frames):
        masks = torch.zeros(len(texts), frame.height, frame.width, dtype=torch.bool)
        for place in range(len(texts)):
            masks[place, place + number] = True
        yield [SimpleNamespace(mask=mask) for mask in masks]


def test_the_zip_has_the_layout_of_the_server(videos, tmp_path):
    path = write_submission(videos, segment, tmp_path / "submission", {"model": "rows"})
    names = ["00000", "00005", "00010", "00015"]
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == [
            f"Annotations/{video}/{text}/{name}.png" for video in ("v1", "v2") for text in "01" for name in names
        ]
        picture = Image.open(archive.open("Annotations/v2/1/00010.png"))
        assert picture.mode == "L" and picture.size == (WIDTH, HEIGHT)
        assert np.unique(np.asarray(picture)).tolist() == [0, 255]
        assert np.flatnonzero(np.asarray(picture).any(axis=1)).tolist() == [3]
    content = path.read_bytes()
    path.unlink()
    write_submission(videos, None, tmp_path / "submission", {"model": "rows"})
    assert path.read_bytes() == content


def test_an_interrupted_writing_goes_on_with_the_next_video(videos, tmp_path):
    asked = []

    def until_interrupted(frames, texts):
        asked.append(texts[0])
        for number, answers in enumerate(segment(frames, texts)):
            if texts[0] == "first of v2" and number == 2 and asked.count("first of v2") == 1:
                raise KeyboardInterrupt
            yield answers

    folder = tmp_path / "submission"
    with pytest.raises(KeyboardInterrupt):
        write_submission(videos, until_interrupted, folder, {"model": "rows"})
    writer = SubmissionWriter(folder, {"model": "rows"})
    assert writer.is_written("v1") and not writer.is_written("v2")
    assert not list(folder.glob("*.zip"))
    with pytest.raises(ValueError, match="1 videos are not written yet, first v2"):
        writer.write_zip(folder / "submission.zip", ["v1", "v2"])

    path = write_submission(videos, until_interrupted, folder, {"model": "rows"})
    assert asked == ["first of v1", "first of v2", "first of v2"]
    whole = write_submission(videos, segment, tmp_path / "whole", {"model": "rows"})
    assert path.read_bytes() == whole.read_bytes()
    assert not list(folder.glob("*.partial"))


def test_an_interrupted_zip_leaves_the_old_one(videos, tmp_path, monkeypatch):
    path = write_submission(videos, segment, tmp_path / "submission", {})
    content = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="disk full"):
        write_submission(videos, segment, tmp_path / "submission", {})
    assert path.read_bytes() == content


def test_masks_of_another_model_are_never_mixed_in(videos, tmp_path):
    write_submission(videos, segment, tmp_path / "submission", {"model": "rows"})
    with pytest.raises(ValueError, match=r"was begun with \{'model': 'rows'\}, not with \{'model': 'other'\}"):
        SubmissionWriter(tmp_path / "submission", {"model": "other"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds other files"):
        SubmissionWriter(tmp_path / "mine", {})


@pytest.mark.parametrize("content", [b"", b'{"model": ', b"\xff\xfe", b"[" * 10**5, b'["rows"]', b'"rows"'])
def test_a_damaged_manifest_is_named(content, tmp_path):
    SubmissionWriter(tmp_path, {"model": "rows"})
    (tmp_path / "submission.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"submission\.json is damaged.*Delete .*, and start again") as caught:
        SubmissionWriter(tmp_path, {"model": "rows"})
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize("begun", [{"model": "x" * 10**5}, {"model": "rows", "window": 3}])
def test_other_inputs_are_shown_in_short(begun, tmp_path):
    SubmissionWriter(tmp_path, {"model": "rows"})
    (tmp_path / "submission.json").write_text(json.dumps(begun))
    with pytest.raises(ValueError, match="was begun with") as caught:
        SubmissionWriter(tmp_path, {"model": "rows"})
    assert len(str(caught.value)) <= 500
    assert "'rows'}, not" not in str(caught.value)


MASK = np.ones((HEIGHT, WIDTH), dtype=bool)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([[MASK, MASK]], "Video v has 2 frames, but masks of 1 came"),
        ([[MASK, MASK]] * 3, "frame 3 came with 2 masks"),
        ([[MASK]] * 2, "frame 1 came with 1 masks"),
        ([[MASK, MASK[:, :5]]] * 2, r"The mask for b/0.png is bool \(12, 5\), expected bool \(12, 20\)"),
        ([[MASK, MASK.astype(float)]] * 2, "is float64"),
    ],
)
def test_masks_that_do_not_fit_their_video(masks, message, tmp_path):
    writer = SubmissionWriter(tmp_path / "submission", {})
    with pytest.raises(ValueError, match=message):
        writer.write_video("v", ["a", "b"], ["0", "1"], masks, (HEIGHT, WIDTH))
    assert not writer.is_written("v")


@pytest.mark.parametrize("names", [("../v", "a", "0"), ("v", "/a", "0"), ("v", "a", "../0"), ("v", "", "0")])
def test_names_never_lead_out_of_the_folder(names, tmp_path):
    writer = SubmissionWriter(tmp_path / "submission", {})
    video, text, frame = names
    with pytest.raises(ValueError, match="cannot name a file or folder"):
        writer.write_video(video, [text], [frame], [[MASK]], (HEIGHT, WIDTH))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["submission"]
