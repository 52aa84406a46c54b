"""Predictions as files: the same scores as of the answers themselves, and one clear error for what does not fit."""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from color_videos import ColorModel, as_dataset, color_processor, make_row
from datasets import Dataset, concatenate_datasets
from PIL import Image
from places import CHECKOUT, FIXTURES, REAL_DATA
from tiny_lavt import tiny_lavt, tiny_processor
from typer.testing import CliRunner, Result
from video_loading import load
from video_trees import DAVIS_NAMES, labels_of, make_davis, make_youtube_vos, write_labels

from hf_refseg import RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import InvalidMaskError, decode_mask, encode_mask
from hf_refseg.data.rows import InvalidRowError, row_features, video_features
from hf_refseg.evaluation import (
    Answer,
    ModelSystem,
    PredictionError,
    PredictionsHeader,
    PredictionSource,
    System,
    SystemSource,
    evaluate_predictions,
    evaluate_system,
    find_cases,
    header_for,
    open_predictions,
    writing_predictions,
)
from hf_refseg.evaluation.prediction_lines import parse_header, parse_line
from hf_refseg_cli import app

IMAGE_PROTOCOLS = ("original", "lavt", "vlt", "cris", "phrasecut", "rela", "rela_area50")
HEADER = {"format": "hf_refseg-predictions", "version": 1}
QUIET = {"progress": False, "bootstrap_samples": 20}


class NoiseSystem(System):
    """Says of each text something else, in blocks of pixels; of some that there is no target, or how sure it is."""

    name = "noise"
    threshold = 0.4

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return (self.answer(image, text, (image.height, image.width)) for text in texts)

    def segment_at_model_size(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return (self.answer(image, text, (16, 24)) for text in texts)

    def answer(self, image: Image.Image, text: str, size: tuple[int, int]) -> Answer:
        generator = np.random.default_rng(zlib.crc32(image.tobytes() + text.encode()))
        blocks = generator.random((13, 8), dtype=np.float32).repeat(5, axis=0).repeat(5, axis=1)
        present = [None, True, False][generator.integers(3)]
        return Answer(blocks[: size[0], : size[1]], present=present, score=[None, 0.25][generator.integers(2)])


def make_rows(masks: Sequence[np.ndarray], texts: Sequence[Sequence[str]], no_target: Sequence[bool] = ()) -> Dataset:
    """A row for each mask, two rows of an image where they come one after the other in the size."""
    rows, image_id = [], -1
    for number, mask in enumerate(masks):
        image_id += not (number and masks[number - 1].shape == mask.shape)
        pixels = np.full((*mask.shape, 3), image_id, dtype=np.uint8)
        rows.append(
            {
                "image": Image.fromarray(pixels),
                "image_id": f"i{image_id}",
                "ref_id": f"r{number}",
                "ann_ids": [str(number)],
                "category": "thing",
                "mask": encode_mask(mask),
                "bbox": [0.0, 0.0, 1.0, 1.0],
                "no_target": bool(no_target[number]) if no_target else not mask.any(),
                "sentences": [
                    {"sent_id": f"{number}{place}", "raw": text, "sent": text.lower()}
                    for place, text in enumerate(texts[number])
                ],
            }
        )
    return Dataset.from_list(rows, features=row_features())


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Three images with two referents each, the last of which is not there."""
    generator = np.random.default_rng(0)
    masks = [generator.random((height, 40)) > 0.5 for height in (30, 30, 50, 50, 64, 64)]
    masks[-1] = np.zeros_like(masks[-1])
    return make_rows(masks, [[f"Thing {number}", f"it {number}"] for number in range(6)])


@pytest.fixture(scope="module")
def videos() -> Dataset:
    """Three videos; each of the sentences of one is by another annotator, save one pair."""
    rows = [make_row(number, ["red", "green", "blue"]) for number in range(3)]
    for row in rows:
        for referent in row["referents"]:
            for place, sentence in enumerate(referent["sentences"]):
                sentence["annotator"] = str(place)
    return as_dataset(*rows)


def save(system: System, rows: Dataset, protocol: str, path: Path) -> Any:
    """What a system scores, with its predictions in a file."""
    with writing_predictions(path, header_for(protocol, system.threshold, system=system.name)) as write_lines:
        return evaluate_system(system, rows, protocol, write_lines=write_lines, **QUIET)


def write(path: Path, lines: Sequence[Any], **header: Any) -> Path:
    """A file of predictions as anybody writes one."""
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [{**HEADER, **header}, *lines]))
    return path


def lines_of(rows: Dataset, mask: Callable[[np.ndarray], np.ndarray] = lambda mask: mask) -> list[dict[str, Any]]:
    """The least that a line has to say, for every sentence."""
    return [
        {"sent_id": sentence["sent_id"], "mask": encode_mask(mask(decode_mask(row["mask"])))}
        for row in rows
        for sentence in row["sentences"]
    ]


# --- The same scores -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", IMAGE_PROTOCOLS)
def test_a_file_scores_as_the_answers_themselves(dataset, tmp_path, protocol):
    direct = save(NoiseSystem(), dataset, protocol, tmp_path / "noise.jsonl")
    for rows in (dataset, dataset.to_iterable_dataset(num_shards=2)):
        read = evaluate_predictions(tmp_path / "noise.jsonl", rows, protocol, **QUIET)
        assert (read.metrics, read.intervals, read.records) == (direct.metrics, direct.intervals, direct.records)
    assert len({record["iou"] for record in direct.records}) > 6
    # A mask that is held back is in the file nevertheless: a protocol may count it.
    lines = [json.loads(line) for line in (tmp_path / "noise.jsonl").read_text().splitlines()]
    assert lines[0]["system"] == "noise" and len(lines) == 13
    scores = {line["text"]: line["score"] for line in lines[1:]}
    if protocol == "original":
        texts = [sentence["raw"] for sentence in dataset[0]["sentences"]]
        answers = NoiseSystem().segment(dataset[0]["image"], texts)
        assert [scores[text] for text in texts] == [answer.score_at(0.4) for answer in answers]
    held_back = [line for line in lines[1:] if line.get("present") is False]
    assert held_back and all(decode_mask(line["mask"]).any() for line in held_back)


class NoiseVideos(NoiseSystem):
    """Noise on every frame, where sentences overlap."""

    def answer(self, image: Image.Image, text: str, size: tuple[int, int]) -> Answer:
        generator = np.random.default_rng(zlib.crc32(image.tobytes() + text.encode()))
        probabilities = generator.random((8, 8), dtype=np.float32).repeat(8, axis=0).repeat(8, axis=1)
        return Answer(probabilities, present=[None, True, False][generator.integers(3)])


NOISE, CLIPS = NoiseVideos(), ModelSystem(ColorModel(takes_clips=True), color_processor())


@pytest.mark.parametrize(
    ("system", "protocol"),
    [(NOISE, "davis"), (NOISE, "davis_unsupervised"), (NOISE, "a2d"), (CLIPS, "davis_unsupervised")],
)
def test_a_file_scores_as_the_answers_on_videos(videos, tmp_path, system, protocol):
    direct = save(system, videos, protocol, tmp_path / "file.jsonl")
    for rows in (videos, videos.to_iterable_dataset()):
        read = evaluate_predictions(tmp_path / "file.jsonl", rows, protocol, **QUIET)
        assert (read.metrics, read.intervals, read.records) == (direct.metrics, direct.intervals, direct.records)
        assert read.frames == direct.frames
    line = json.loads((tmp_path / "file.jsonl").read_text().splitlines()[1])
    assert [frame["frame"] for frame in line["frames"]] == [
        videos[0]["frame_names"][number] for number in (0, 2, 3, 5)
    ]


@pytest.mark.parametrize("protocol", ["original", "rela"])
def test_cases_are_drawn_out_of_a_file(dataset, tmp_path, protocol):
    system = NoiseSystem()
    records = save(system, dataset, protocol, tmp_path / "file.jsonl").records[3:7]
    source = PredictionSource(open_predictions(tmp_path / "file.jsonl"), dataset, protocol)
    drawn = find_cases(source, dataset, records, protocol)
    for row, direct in zip(drawn, find_cases(SystemSource(system), dataset, records, protocol), strict=True):
        assert (row.text, row.iou, row.image) == (direct.text, direct.iou, direct.image)
        assert row.prediction.shape == row.truth.shape
        assert protocol == "rela" or (row.prediction == direct.prediction).all()


def test_cases_of_videos_are_drawn_out_of_a_file(videos, tmp_path):
    for protocol in ("davis", "davis_unsupervised"):
        records = save(NoiseVideos(), videos, protocol, tmp_path / "file.jsonl").records[:3]
        source = PredictionSource(open_predictions(tmp_path / "file.jsonl"), videos, protocol)
        strips = find_cases(source, videos, records, protocol)
        for strip, direct in zip(
            strips, find_cases(SystemSource(NoiseVideos()), videos, records, protocol), strict=True
        ):
            for frame, same in zip(strip.frames, direct.frames, strict=True):
                assert (frame.prediction == same.prediction).all() and (frame.truth == same.truth).all()


def golden(name: str) -> Any:
    return json.loads((FIXTURES / "metrics" / f"{name}.json").read_text())


def golden_lines(samples: Sequence[dict], with_head: bool = False) -> list[dict[str, Any]]:
    """Their predictions as lines of a file, with what a no-target head says or without."""
    return [
        {"sent_id": f"{sample['id']}0", "mask": sample["pred"]}
        | ({"present": not sample["pred_nt"]} if with_head else {})
        for sample in samples
    ]


def same(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


def test_the_golden_samples_agree_when_fed_through_a_file(tmp_path):
    samples, expected = golden("ris_samples"), golden("ris_expected")
    masks, no_target = zip(*((decode_mask(sample["gt"]), sample["gt_nt"]) for sample in samples), strict=True)
    rows = make_rows(masks, [["it"]] * len(samples), no_target)
    path = write(tmp_path / "golden.jsonl", golden_lines(samples), resolution="model", threshold=0.5)
    scores = evaluate_predictions(path, rows, "lavt", **QUIET).metrics
    reference = expected["lavt_test"]
    assert (scores["oIoU"], scores["mIoU"]) == (same(100 * reference["oIoU"]), same(100 * reference["mIoU"]))
    for threshold, correct in zip((0.5, 0.6, 0.7, 0.8, 0.9), reference["seg_correct"], strict=True):
        assert scores[f"Pr@{threshold}"] == same(100 * correct / reference["seg_total"])

    write(path, golden_lines(samples), threshold=0.35)
    for protocol, name_of in (("vlt", "{:.2f}"), ("cris", "Pr@{:.0%}")):
        scores, reference = evaluate_predictions(path, rows, protocol, **QUIET).metrics, expected[protocol]
        assert scores["mIoU"] == same(100 * reference["mean_iou"])
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
            share = reference["prec"][name_of.format(threshold).rstrip("%")]
            # The reference prints it in single precision.
            assert scores[f"Pr@{threshold}"] == pytest.approx(100 * share, rel=1e-6)
    ious = [record["iou"] for record in evaluate_predictions(path, rows, "vlt", **QUIET).records]
    assert ious == pytest.approx(expected["vlt"]["per_sample"], rel=1e-9)

    # The reference leaves these out.
    scored = [sample for sample in samples if sample["id"] not in (6, 9, 39, 51)]
    of_grefcoco = [sample for sample in scored if sample["source"] == "grefcoco"]
    for protocol, chosen, name in [
        ("rela", scored, "full"),
        ("rela", of_grefcoco, "grefcoco"),
        ("rela_area50", of_grefcoco, "grefcoco"),
    ]:
        write(path, golden_lines(chosen, with_head=protocol == "rela"), resolution="model")
        scores = score(path, rows.select([sample["id"] for sample in chosen]), protocol)
        reference = expected[protocol]["results"][name]
        for key in ("cIoU", "gIoU", "Pr@0.7", "Pr@0.8", "Pr@0.9"):
            assert scores[key] == same(reference[key])
        if name == "grefcoco":
            assert scores["N-acc"] == same(100 * reference["N_acc"])
            assert scores["T-acc"] == same(100 * reference["T_acc"])


def test_golden_phrasecut_agrees_when_fed_through_a_file(tmp_path):
    samples, expected = golden("phrasecut_samples"), golden("phrasecut_expected")
    tasks = expected["gt_masks"]
    rows = make_rows([decode_mask(mask) for mask in tasks.values()], [[task] for task in tasks])
    images = dict(zip(tasks, rows["image_id"], strict=True))
    lines = [
        {"image_id": images[task], "text": task.upper(), "mask": mask} for task, mask in samples["predictions"].items()
    ]
    path, reference = write(tmp_path / "golden.jsonl", lines), expected["results"]["all"]
    answered = rows.filter(
        lambda row: row["sentences"][0]["raw"] != expected["missing_task"], load_from_cache_file=False
    )
    scores = evaluate_predictions(path, answered, "phrasecut", **QUIET).metrics
    assert scores["cum-IoU"] == same(100 * reference["cum_mask_iou"])
    assert scores["mean-IoU"] == same(100 * reference["mean_mask_iou"])
    for threshold, share in reference["pred_mask_acc"].items():
        assert scores[f"Pr@{threshold}"] == same(100 * share)
    with pytest.raises(PredictionError, match=r"(?s)--missing empty.*1 of 16 sentences have no prediction"):
        evaluate_predictions(path, rows, "phrasecut", **QUIET)
    scores = evaluate_predictions(path, rows, "phrasecut", missing="empty", **QUIET).metrics
    assert scores["mean-IoU"] == same(100 * reference["mean_mask_iou"] * 15 / 16)


def make_videos(videos: Sequence[dict[str, Sequence[dict]]], void: Sequence[dict] = ()) -> Dataset:
    """A row for each video, a referent for each of its masks by the object's name, annotated on every frame."""
    rows = []
    for number, objects in enumerate(videos):
        masks = [*objects.values(), *([void] if void else [])]
        pictures = [Image.new("RGB", tuple(mask["size"][::-1])) for mask in masks[0]]
        referents = [
            {
                "ref_id": f"{number}-{place}",
                "category": "void" if place == len(objects) else "thing",
                "annotated_frames": list(range(len(of_object))),
                "masks": of_object,
                "sentences": []
                if place == len(objects)
                else [{"sent_id": str(place), "raw": "it", "sent": "it", "annotator": ""}],
            }
            for place, of_object in enumerate(masks)
        ]
        names = [f"{frame:05d}" for frame in range(len(pictures))]
        rows.append({"video_id": f"v{number}", "frame_names": names, "frames": pictures, "referents": referents})
    return Dataset.from_list(rows, features=video_features())


def video_line(video: int, sentence: int, masks: Sequence[dict], **more: Any) -> dict[str, Any]:
    """The answers on all frames of a video, named by their numbers."""
    frames = [{"frame": number, "mask": mask, **more} for number, mask in enumerate(masks)]
    return {"video_id": f"v{video}", "sent_id": sentence, "frames": frames}


def test_the_golden_sequences_agree_when_fed_through_a_file(tmp_path):
    samples, expected = golden("davis_samples"), golden("davis_expected")
    rows = make_videos([{"it": sequence["gt"]} for sequence in samples["sequences"]])
    lines = [video_line(number, 0, sequence["pred"]) for number, sequence in enumerate(samples["sequences"])]
    scores = evaluate_predictions(write(tmp_path / "d.jsonl", lines), rows, "davis", **QUIET).metrics
    assert {name: scores[name] for name in ("J", "F", "J&F")} == {
        name: pytest.approx(100 * expected["global_"][f"{name}-Mean"], abs=1e-9) for name in ("J", "F", "J&F")
    }

    # Three answers for two objects; the third sentence is about one that is nowhere.
    multi = samples["multi"]
    nothing = [encode_mask(np.zeros(mask["size"], dtype=bool)) for mask in multi["gt"][0]]
    objects = {"first": multi["gt"][0], "second": multi["gt"][1], "nowhere": nothing}
    rows = make_videos([objects], multi["void"])
    lines = [video_line(0, number, masks) for number, masks in enumerate(multi["pred"])]
    result = evaluate_predictions(write(tmp_path / "m.jsonl", lines), rows, "davis_unsupervised", **QUIET)
    found = sorted((record["J"], record["F"]) for record in result.records)
    reference = expected["multi_unsupervised"]
    wanted = sorted((np.mean(j), np.mean(f)) for j, f in zip(reference["J"], reference["F"], strict=True))
    assert found == [pytest.approx(pair, abs=1e-9) for pair in wanted]


def test_golden_a2d_agrees_when_fed_through_a_file(tmp_path):
    samples, expected = golden("a2d_samples"), golden("a2d_expected")
    truths = {each["image_id"]: each["segmentation"] for each in samples["annotations"]}
    numbers = {image["id"]: number for number, image in enumerate(samples["images"])}
    rows = make_videos([{"it": [truths[name]]} for name in numbers])
    # Of each frame the surest answer.
    best = {each["image_id"]: each for each in sorted(samples["predictions"], key=lambda each: each["score"])}
    lines = [video_line(numbers[name], 0, [each["segmentation"]], score=each["score"]) for name, each in best.items()]
    scores = evaluate_predictions(write(tmp_path / "a2d.jsonl", lines), rows, "a2d", **QUIET).metrics
    assert scores["oIoU"] == pytest.approx(100 * expected["overall_iou"], abs=1e-9)
    assert scores["mIoU"] == pytest.approx(100 * expected["mean_iou"], abs=1e-9)
    for threshold, share in expected["precision_at_k"].items():
        assert scores[f"Pr@{threshold}"] == pytest.approx(100 * share, abs=1e-9)


# --- What files may say --------------------------------------------------------------------------------------------


def score(path: Path, rows: Dataset, protocol: str | None = None, **options: Any) -> dict[str, float]:
    return evaluate_predictions(path, rows, protocol, **{**QUIET, **options}).metrics


def test_a_stranger_writes_ids_or_texts_and_nothing_else(dataset, tmp_path):
    by_id = lines_of(dataset)
    by_text = [
        {"image_id": row["image_id"], "text": f"  {sentence['raw'].upper()} ", "mask": line["mask"]}
        for row, line in zip(dataset, by_id[::2], strict=True)
        for sentence in row["sentences"]
    ]
    for lines in (by_id, by_text, by_id[::-1]):
        scores = score(write(tmp_path / "file.jsonl", lines), dataset)
        assert (scores["oIoU"], scores["N-acc"]) == (100, 100)
    # An id may be a number, and a mask null where it is empty; blank lines mean nothing.
    lines = [*by_id[:2], *({**line, "sent_id": int(line["sent_id"])} for line in by_id[2:])]
    lines[-1]["mask"] = lines[-2]["mask"] = None
    path = write(tmp_path / "file.jsonl", lines)
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert score(path, dataset)["oIoU"] == 100


def test_a_text_answers_all_sentences_of_its_image_that_read_so(tmp_path):
    mask = np.eye(8, dtype=bool)
    rows = make_rows([mask, ~mask], [["the dog", "The  dog"], ["the dog"]])
    line = {"image_id": "i0", "text": "the dog", "mask": encode_mask(mask)}
    assert score(write(tmp_path / "file.jsonl", [line]), rows)["mIoU"] == pytest.approx(200 / 3)
    lines = [{**line, "ref_id": "r0"}, {**line, "ref_id": "r1", "mask": encode_mask(~mask)}]
    assert score(write(tmp_path / "file.jsonl", lines), rows)["mIoU"] == 100


def test_an_id_of_several_sentences_needs_more_beside_it(tmp_path):
    rows = make_rows([np.eye(8, dtype=bool), np.eye(9, dtype=bool)], [["it"], ["it"]])
    rows = rows.map(lambda row: {"sentences": [{**row["sentences"][0], "sent_id": "0"}]}, load_from_cache_file=False)
    lines = lines_of(rows)
    with pytest.raises(PredictionError, match=r"(?s)2 predictions without telling.*line 2: Image 'i0'.* and Image"):
        score(write(tmp_path / "file.jsonl", lines), rows)
    for name, values in (("image_id", ["i0", "i1"]), ("ref_id", ["r0", "r1"])):
        named = [{**line, name: value} for line, value in zip(lines, values, strict=True)]
        assert score(write(tmp_path / "file.jsonl", named), rows)["oIoU"] == 100


def test_other_rows_than_those_of_the_file_are_told(dataset, tmp_path, caplog):
    path = write(tmp_path / "file.jsonl", lines_of(dataset))
    assert score(path, dataset.select([0, 1]), max_examples=1)["oIoU"] == 100
    assert not caplog.messages
    score(path, dataset.select(range(4)))
    assert "4 predictions of no sentence of the data set" in caplog.text and "line 10: 40" in caplog.text
    caplog.clear()
    path = write(tmp_path / "file.jsonl", lines_of(dataset)[:-3])
    with pytest.raises(PredictionError, match=r'(?s)missing="empty".*3 of 12 sentences .*\(Image .i2.*sentence .41.'):
        score(path, dataset)
    scores = score(path, dataset, missing="empty")
    assert "3 of 12 sentences have no prediction" in caplog.text and "empty masks are scored" in caplog.text
    # The last referent is not there, so two of the three empty masks are right.
    assert scores["Pr@0.5"] == pytest.approx(100 * 11 / 12)


MASK = encode_mask(np.ones((30, 40), dtype=bool))
# What is made of sound lines, and what the error says.
FAULTS: dict[str, tuple[Callable[[list[dict]], Any], str]] = {
    "double": (
        lambda lines: lines.append(lines[3]),
        r"1 prediction of .* already; give sent_id .*line 14: Image 'i0'",
    ),
    "text": (
        lambda lines: lines[2].update(text="a cat"),
        "1 prediction with another text .*line 4: a cat, not thing 1",
    ),
    "one pixel off": (
        lambda lines: [line.update(mask=encode_mask(decode_mask(line["mask"])[:, 1:])) for line in lines[:5]],
        r"5 masks of another size than the image .*line 2: 30 x 39, not 30 x 40.*line 3.*line 4.*[^5]\)$",
    ),
    "other split": (
        lambda lines: [line.update(sent_id=f"9{line['sent_id']}") for line in lines],
        "Choose the data set and split .*12 of 12 sentences have no prediction.*12 predictions of no sentence",
    ),
    "image": (lambda lines: lines[0].update(image_id="i7"), "1 of 12 sentences have no .*line 2: i7, 00"),
    "videos": (
        lambda lines: lines.insert(0, video_line(0, 0, [MASK])),
        "line 2 is about videos, the data set holds images",
    ),
    "unknown field": (
        lambda lines: lines[1].update(scroe=1.0),
        "line 3 has an unknown field scroe: did you mean score",
    ),
    "no mask": (lambda lines: lines[1].pop("mask"), "line 3 has no mask: give"),
    "no name": (lambda lines: lines[1].pop("sent_id"), "line 3 does not say which sentence it answers"),
    "no text": (lambda lines: lines[1].update(text=3), "line 3: text is 3, expected a text"),
    "list as id": (lambda lines: lines[1].update(ref_id=[1]), r"line 3: ref_id is \[1\]"),
    "boolean as id": (lambda lines: lines[1].update(image_id=True), "line 3: image_id is True"),
    "NaN": (lambda lines: lines[1].update(score=float("nan")), "line 3: score is nan, expected a number from 0 to 1"),
    "logit": (lambda lines: lines[1].update(score=7.5), "line 3: score is 7.5"),
    "text as score": (lambda lines: lines[1].update(score="high"), "line 3: score is 'high'"),
    "present": (lambda lines: lines[1].update(present=1), "line 3: present is 1, expected a boolean"),
    "rle": (lambda lines: lines[1].update(mask="abc"), "line 3: mask is 'abc', expected a mapping"),
    "no counts": (lambda lines: lines[1].update(mask={"size": [30, 40]}), "line 3: mask is .* expected a mapping"),
    "size": (lambda lines: lines[1]["mask"].update(size=[30, -1]), "line 3: Expected two positive integers"),
    "cut counts": (
        lambda lines: lines[1]["mask"].update(counts=lines[1]["mask"]["counts"][:-1]),
        "file.jsonl, Image 'i0', reference 'r0', sentence '01': .*cut off",
    ),
    "list": (lambda lines: lines.insert(1, [1, 2]), r"line 3 holds \[1, 2\], expected a mapping"),
    "nothing": (lambda lines: lines.clear(), "12 of 12 sentences have no prediction"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_one_clear_error(dataset, tmp_path, fault):
    edit, message = FAULTS[fault]
    lines = lines_of(dataset)
    edit(lines)
    with pytest.raises(PredictionError, match=f"(?s){message}") as caught:
        score(write(tmp_path / "file.jsonl", lines), dataset)
    assert str(tmp_path / "file.jsonl") in str(caught.value)


HEADERS = {
    "format": ({"format": "else"}, "line 1 is no header. Begin the file with"),
    "version": ({"version": 2}, "line 1: version 2 of the format is unknown, this library reads 1"),
    "field": ({"treshold": 0.5}, "line 1 has an unknown field treshold: did you mean threshold"),
    "threshold": ({"threshold": 50}, "line 1: threshold is 50"),
    "resolution": ({"resolution": "small"}, "line 1: resolution is 'small', expected original or model"),
    "name": ({"system": 5}, "line 1: system is 5, expected a text"),
    "competing": ({"competing": "no"}, "line 1: competing is 'no'"),
    "other threshold": ({"threshold": 0.35}, "at the threshold 0.35, protocol lavt takes 0.5. Make"),
    "other size": ({}, 'at the size of their images, protocol lavt .* resolution "model"'),
    "competed": (
        {"resolution": "model", "competing": True},
        "protocol lavt does not score: choose davis_unsupervised",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_does_not_fit_is_told(dataset, tmp_path, case):
    header, message = HEADERS[case]
    with pytest.raises(PredictionError, match=message):
        score(write(tmp_path / "file.jsonl", lines_of(dataset), **header), dataset, "lavt")


def test_masks_as_a_model_sees_them_are_no_masks_of_images(dataset, tmp_path):
    path = write(tmp_path / "file.jsonl", lines_of(dataset), resolution="model")
    with pytest.raises(PredictionError, match=r'at the size at which the model .* original compares .* "original"'):
        score(path, dataset)
    # Of several sizes none is that of a mask that is not there.
    lines = lines_of(dataset)
    with pytest.raises(PredictionError, match="whose size at the model is unknown: the others have 3 sizes"):
        score(write(path, lines[:-1], resolution="model"), dataset, "lavt", missing="empty")
    lines = [{**line, "mask": encode_mask(np.ones((7, 9), dtype=bool))} for line in lines]
    lines[0]["mask"] = None
    records = evaluate_predictions(write(path, lines, resolution="model"), dataset, "lavt", **QUIET).records
    assert 0 < records[0]["union"] < 7 * 9 and records[0]["intersection"] == 0


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-30], "line 13 is cut off: the file ends in the middle of it"),
        (lambda text: text[:20], "line 1 is cut off"),
        (lambda text: "", "is no file of predictions"),
        (lambda text: "PK\3\4" + text, "is no file of predictions. Write JSON Lines"),
        (lambda text: text.replace('{"sent_id": "10"', '{"sent_id": 1, "sent_id": "10"'), "line 4: .* twice in one"),
        (lambda text: text.replace('"sent_id": "10"', "sent_id: 10"), "line 4 is no JSON"),
        (lambda text: text.replace('"10"', "[" * 100_000), "line 4 is no JSON"),
        (lambda text: text.partition("\n")[2], "line 1 is no header"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(dataset, tmp_path, edit, message):
    path = write(tmp_path / "file.jsonl", lines_of(dataset))
    path.write_text(edit(path.read_text()))
    with pytest.raises(PredictionError, match=message):
        score(path, dataset)
    with pytest.raises(FileNotFoundError, match="There are no predictions at"):
        score(tmp_path / "nowhere.jsonl", dataset)


def test_a_file_has_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.jsonl"
    with pytest.raises(KeyboardInterrupt), writing_predictions(path, header_for("cris", 0.5, split="val")) as add:
        add(["{}"])
        (partial,) = path.parent.iterdir()
        assert partial.name != path.name and partial.read_text().endswith("}\n{}\n")
        raise KeyboardInterrupt
    assert not list(path.parent.iterdir())
    with writing_predictions(path, header_for("cris", 0.5, split="val")):
        pass
    assert json.loads(path.read_text()) == {
        **HEADER,
        **{"dataset": None, "split": "val", "system": None, "threshold": 0.35, "resolution": "original"},
        "competing": False,
    }


# --- Videos --------------------------------------------------------------------------------------------------------


def test_videos_are_answered_on_the_frames_that_are_compared(tmp_path, caplog):
    masks = [encode_mask(np.eye(8, dtype=bool)) for _ in range(3)]
    rows = make_videos([{"a": masks, "b": masks}])
    lines = [video_line(0, number, masks) for number in range(2)]
    path = write(tmp_path / "file.jsonl", lines)
    assert score(path, rows)["J&F"] == score(path, rows, "a2d")["oIoU"] == 100
    lines[1]["frames"][1]["frame"] = "00001"
    assert score(write(path, lines), rows)["J"] == 100
    del lines[1]["frames"][1]
    with pytest.raises(PredictionError, match=r"1 sentence without a mask on each .*Video 'v0', .*'0-1', .*: 00001"):
        score(write(path, lines), rows)
    assert score(path, rows, missing="empty")["J"] == pytest.approx(100 * 5 / 6)
    assert "1 sentence without a mask on each frame" in caplog.text
    lines[1]["frames"].append(lines[1]["frames"][0])
    with pytest.raises(PredictionError, match=r"line 3, frames\[2\] is frame 0 once more"):
        score(write(path, lines), rows)
    for frames, message in (
        ([], "frames is \\[\\]"),
        ([5], r"frames\[0\] holds 5"),
        ([{"mask": None}], "frame is None"),
    ):
        with pytest.raises(PredictionError, match=f"line 2.*{message}"):
            score(write(path, [{**lines[0], "frames": frames}]), rows)
    competed = write(path, lines[:1], competing=True)
    with pytest.raises(PredictionError, match="competed for pixels, which protocol davis does not score"):
        score(competed, rows)
    with pytest.raises(PredictionError, match="line 2 is about images, the data set holds videos"):
        score(write(path, [{"sent_id": "0", "mask": masks[0]}]), rows)
    # The id of a sentence alone is that of one in each video.
    both = make_videos([{"a": masks}, {"a": masks}])
    line = {key: value for key, value in video_line(0, 0, masks).items() if key != "video_id"}
    with pytest.raises(PredictionError, match="unknown field frames"):
        score(write(path, [line]), both)


def test_where_masks_overlap_the_surer_one_wins_under_davis_unsupervised(tmp_path):
    whole, left = np.ones((8, 8), dtype=bool), np.zeros((8, 8), dtype=bool)
    left[:, :4] = True
    rows = make_videos([{"left": [encode_mask(left)], "right": [encode_mask(~left)]}])
    lines = [
        video_line(0, 0, [encode_mask(left)], score=0.9),
        video_line(0, 1, [encode_mask(whole)], score=0.8),
    ]
    assert score(write(tmp_path / "file.jsonl", lines), rows, "davis_unsupervised")["J"] == 100
    lines[1]["frames"][0]["score"] = 0.95
    assert score(write(tmp_path / "file.jsonl", lines), rows, "davis_unsupervised")["J"] == 25


# --- COCO's results and folders of pictures ------------------------------------------------------------------------


def test_results_as_coco_writes_them_are_read(dataset, tmp_path):
    polygon = [[2.0, 3.0, 20.0, 3.0, 20.0, 25.0, 2.0, 25.0]]
    results = [
        {"sent_id": line["sent_id"], "segmentation": line["mask"], "category_id": 1, "score": 0.5}
        for line in lines_of(dataset)
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert score(path, dataset)["oIoU"] == 100
    results[-1]["segmentation"] = []
    path.write_text(json.dumps(results))
    assert score(path, dataset)["oIoU"] == 100
    results[0]["segmentation"] = polygon
    path.write_text(json.dumps(results))
    assert score(path, dataset)["oIoU"] < 100
    for edit, message in (
        ({"segmentation": [[1, 2]]}, "Image 'i0', reference 'r0', sentence '00': A polygon has 2 numbers"),
        ({"sentence": "dog"}, r"result 0 \(from 0\) has an unknown field sentence. Known are image_id, ref_id"),
        ({"score": -1}, r"result 0 \(from 0\): score is -1"),
    ):
        path.write_text(json.dumps([{**results[0], **edit}, *results[1:]]))
        with pytest.raises(PredictionError, match=message):
            score(path, dataset)
    path.write_text(json.dumps(results)[:-100])
    with pytest.raises(ValueError, match="is not valid JSON"):
        score(path, dataset)


def test_results_about_videos_have_a_segmentation_for_each_frame(tmp_path):
    masks = [encode_mask(np.eye(8, dtype=bool)), encode_mask(np.zeros((8, 8), dtype=bool))]
    rows = make_videos([{"a": masks}])
    result = {"video_id": "v0", "sent_id": 0, "segmentations": [masks[0], None], "score": 0.5, "category_id": 1}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([result]))
    assert score(path, rows)["J"] == 100
    path.write_text(json.dumps([{**result, "segmentations": "abc"}]))
    with pytest.raises(PredictionError, match="segmentations is 'abc', expected one for each frame"):
        score(path, rows)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("name", ["{sent_id}.png", "{image_id}/{sent_id}.png", "Annotations/{image_id}/{sent_id}.png"])
def test_a_folder_of_pictures_is_read(dataset, tmp_path, mode, name):
    for row in dataset.select([0, 1]):
        for sentence in row["sentences"]:
            path = tmp_path / name.format(image_id=row["image_id"], **sentence)
            path.parent.mkdir(parents=True, exist_ok=True)
            values = decode_mask(row["mask"]).astype(np.uint8) * (1 if mode == "P" else 255)
            kind = np.uint16 if mode == "I;16" else np.uint8
            picture = Image.fromarray(values.astype(kind))
            (picture if mode == "I;16" else picture.convert(mode)).save(path)
    (tmp_path / "notes.txt").write_text("not a mask")
    assert score(tmp_path, dataset.select([0, 1]))["oIoU"] == 100


def test_what_is_wrong_with_the_rows_names_them(dataset, tmp_path):
    path = write(tmp_path / "file.jsonl", lines_of(dataset))
    rows = dataset.to_list()
    rows[1]["mask"] = {"size": [0, 5], "counts": ""}
    with pytest.raises(InvalidMaskError, match="The mask of row r1 cannot be decoded"):
        score(path, Dataset.from_list(rows, features=dataset.features))
    rows[1] = {**dataset.to_list()[1], "sentences": None}
    with pytest.raises(InvalidRowError, match="Row r1 has no sentences"):
        score(path, Dataset.from_list(rows, features=dataset.features).to_iterable_dataset())


def test_what_is_wrong_with_a_folder_is_told(dataset, tmp_path):
    with pytest.raises(PredictionError, match="holds no PNG file"):
        score(tmp_path, dataset)
    (path := tmp_path / "00.png").write_bytes(b"nothing")
    with pytest.raises(PredictionError, match=r"00.png cannot be read: it is damaged or no image"):
        score(tmp_path, dataset)
    Image.new("L", (40, 30), 3).save(path)
    one = dataset.select([0]).map(lambda row: {"sentences": row["sentences"][:1]}, load_from_cache_file=False)
    assert score(tmp_path, one)["oIoU"] < 100
    gray = np.arange(1200, dtype=np.uint8).reshape(30, 40)
    Image.fromarray(gray).save(path)
    with pytest.raises(PredictionError, match=r"00.png holds the values .*, a mask 0 and one other. Threshold it"):
        score(tmp_path, one)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PredictionError, match=r"00.png is no file: write the mask as a PNG file, or remove it"):
        score(tmp_path, one)
    path.unlink()
    for mode in ("LA", "RGBA"):
        white = Image.new(mode, (40, 30), "white")
        white.putalpha(Image.fromarray(np.where(gray < 9, gray, 255).astype(np.uint8)))
        white.save(path)
        with pytest.raises(PredictionError, match=r"00.png differs in its opacity alone: save the mask as 0 and one"):
            score(tmp_path, one)
    (tmp_path / "a/b/c").mkdir(parents=True)
    path.rename(tmp_path / "a/b/c/00.png")
    with pytest.raises(PredictionError, match=r"c/00.png is not where masks are looked for: name them <image_id>"):
        score(tmp_path, dataset)


def test_the_folders_that_video_repositories_write_are_read(tmp_path):
    """A folder of each expression, and label pictures of each annotator, about trees of the two data sets."""
    rows = load("ref_youtube_vos", make_youtube_vos(tmp_path / "vos"), splits=["train"])["train"]
    for row in rows:
        for number, name in enumerate(row["frame_names"]):
            for expression, label in (("0", 1), ("1", 1), ("2", 2)):
                path = tmp_path / "sent" / "Annotations" / row["video_id"] / expression / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((labels_of(number, (1, 2)) == label).astype(np.uint8) * 255).save(path)
    # Object 2 comes with the second frame of four, the answers have it from the first one on.
    records = evaluate_predictions(tmp_path / "sent", rows, "davis", **QUIET).records
    assert [record["J"] for record in records] == [1, 1, 0.75] * 2
    (tmp_path / "sent" / "Annotations" / "t1" / "2" / "00010.png").unlink()
    with pytest.raises(PredictionError, match=r"1 sentence without a mask on each frame .*Video 't1', .*: 00010\)"):
        score(tmp_path / "sent", rows)

    rows = load("ref_davis17", make_davis(tmp_path / "davis", "texts"), splits=["val"])["val"]
    for number, name in enumerate(DAVIS_NAMES):
        for annotator in range(4):
            labels = labels_of(number, (1, 2))
            # One of the four mixes the objects up, which costs nothing where they are matched.
            labels = np.array([0, 2, 1], dtype=np.uint8)[labels] if annotator == 3 else labels
            write_labels(tmp_path / "written" / f"anno_{annotator}" / "two" / f"{name}.png", labels)
    assert score(tmp_path / "written", rows, "davis_unsupervised")["J&F"] == 100
    records = evaluate_predictions(tmp_path / "written", rows, "davis", **QUIET).records
    assert {(each["annotator"], each["J"]) for each in records} == {("0", 1), ("1", 1), ("2", 1), ("3", 0)}
    Image.new("RGB", (20, 12)).save(tmp_path / "written/anno_2/two/00001.png")
    with pytest.raises(PredictionError, match=r"00001.png holds no numbers of objects: save it as a palette picture"):
        score(tmp_path / "written", rows)


@pytest.mark.parametrize("protocol", ["davis", "davis_unsupervised"])
def test_a_file_scores_as_a_tiny_model_on_a_tree_of_ref_davis(tmp_path, protocol):
    rows = load("ref_davis17", make_davis(tmp_path / "davis", "texts"), splits=["val"])["val"]
    system = ModelSystem(tiny_lavt(), tiny_processor())
    direct = save(system, rows, protocol, tmp_path / "file.jsonl")
    read = evaluate_predictions(tmp_path / "file.jsonl", rows, protocol, **QUIET)
    assert (read.metrics, read.intervals, read.records) == (direct.metrics, direct.intervals, direct.records)


PHOTOGRAPHS = REAL_DATA / "refcoco_mini"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Dataset:
    """All sentences about all of them."""
    cache = tmp_path_factory.mktemp("cache")
    both = (("refcoco", "unc"), ("refcocog", "google"))
    splits = [load_refseg(name, PHOTOGRAPHS, split_by, cache_dir=cache) for name, split_by in both]
    return concatenate_datasets([rows for each in splits for rows in each.values()])


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs in {PHOTOGRAPHS}; set HF_REFSEG_REAL_DATA")
@pytest.mark.parametrize(
    ("protocol", "size"),
    [("lavt", {"longest_edge": 64}), ("cris", {"height": 64, "width": 64})],
)
def test_a_file_scores_as_a_tiny_model_on_photographs(photographs, tmp_path, protocol, size):
    processor = RefSegProcessor(RefSegImageProcessor(size=size), tiny_processor().tokenizer)
    model, first = tiny_lavt(), photographs[0]
    with torch.no_grad():
        # Random weights call everything foreground, or nothing: with the median as threshold it is half of a picture.
        logits = model(**processor(images=first["image"], text="the left dog", return_tensors="pt")).logits
        model.decoder.classifier.bias[1] -= logits.median()
    direct = save(ModelSystem(model, processor), photographs, protocol, tmp_path / "file.jsonl")
    assert direct.images == 17 and 1 < direct.metrics["oIoU"] < 99
    read = evaluate_predictions(tmp_path / "file.jsonl", photographs, protocol, **QUIET)
    assert (read.metrics, read.intervals, read.records) == (direct.metrics, direct.intervals, direct.records)


PAGE = CHECKOUT / "docs" / "predictions.md"


def test_the_loop_of_the_page_writes_what_can_be_scored(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truths = {
        (row["image_id"], sentence["raw"]): decode_mask(row["mask"])
        for row in dataset
        for sentence in row["sentences"]
    }
    samples = [
        {"image": row["image_id"], "image_id": row["image_id"], "text": sentence["raw"], **sentence}
        for row in dataset
        for sentence in row["sentences"]
    ]
    (loop,) = re.findall(r"```python\n(import json\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(loop.splitlines()) <= 15
    exec(loop, {"samples": samples, "segment": lambda image, text: truths[image, text]})
    assert score(tmp_path / "predictions.jsonl", dataset)["oIoU"] == 100


def test_the_page_names_every_field_and_shows_sound_lines():
    page = PAGE.read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    headers = [json.loads(line) for block in blocks for line in block[:1]]
    lines = [parse_line(json.loads(line), "the page") for block in blocks for line in block[1:]]
    assert {line.kind for line in lines} == {"image", "video"}
    masks = [answer.mask.decode((4, 5)) for line in lines for answer in line.answers]
    assert [mask.sum() for mask in masks] == [4, 4, 0]
    assert [parse_header(header, "the page").competing for header in headers] == [False] * len(headers)
    named = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert named >= {field.name for field in fields(PredictionsHeader)}
    assert named >= {
        "image_id",
        "video_id",
        "ref_id",
        "sent_id",
        "text",
        "mask",
        "score",
        "present",
        "frames",
        "frame",
    }


# --- The command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch, dataset, videos) -> None:
    """In a folder of its own: the model `tiny`, and as `images` and `videos` data sets as `prepare` writes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tiny_lavt().save_pretrained("tiny")
    tiny_processor().save_pretrained("tiny")
    for name, rows in (("images", dataset), ("videos", videos)):
        Path(name, "data").mkdir(parents=True)
        Path(name, "README.md").write_text("# Rows")
        rows.to_parquet(f"{name}/data/val-00000-of-00001.parquet")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_the_command_writes_a_file_and_scores_it(folders):
    options = ["images", "--protocol", "rela", "--breakdown"]
    result = run("tiny", *options, "--save-predictions", "new/file.jsonl", "-o", "direct")
    assert result.exit_code == 0, result.output
    assert "new/file.jsonl" in result.stdout
    header = json.loads(Path("new/file.jsonl").read_text().splitlines()[0])
    assert (header["dataset"], header["split"], header["system"]) == ("images", "val", "tiny")
    result = run("--predictions", "new/file.jsonl", *options, "-o", "read")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("tiny on images val, protocol rela: 12 sentences")
    files = [Path(folder, "images_val_rela") for folder in ("direct", "read")]
    direct, read = (json.loads(file.with_suffix(".json").read_text()) for file in files)
    assert read.pop("predictions") == "new/file.jsonl" and read.pop("missing") == 0
    assert direct.pop("dtype") == "float32" and direct.pop("training_regime") == read.pop("training_regime")
    assert direct == read and direct["metrics"] and direct["records"]
    assert len({Image.open(file.with_suffix(".png")).size for file in files}) == 1


def test_the_command_scores_a_part_and_says_what_is_missing(folders, dataset, caplog):
    write(Path("file.jsonl"), lines_of(dataset)[:-2])
    result = run("--predictions", "file.jsonl", "images")
    assert result.exit_code == 1
    assert "2 of 12 sentences have no prediction (Image 'i2', reference 'r5', sentence '50'" in result.stderr
    result = run("--predictions", "file.jsonl", "images", "--missing", "empty")
    assert result.exit_code == 0, result.output
    written = json.loads(Path("runs/evaluate/file/images_val_original.json").read_text())
    assert (written["model"], written["missing"], written["metrics"]["N-acc"]) == ("file.jsonl", 2, 100)
    assert "2 of 12 sentences have no prediction" in caplog.text
    header, *lines = Path("file.jsonl").read_text().splitlines()
    named = json.dumps({**json.loads(header), "system": "\x1b[2Jtheirs"})
    Path("named.jsonl").write_text("\n".join([named, *lines]))
    result = run("--predictions", "named.jsonl", "images", "--missing", "empty")
    assert result.stdout.startswith("\\x1b[2Jtheirs on images val, protocol original: ")


# A command line, and what the error says.
REFUSED = [
    (["--predictions", "file.jsonl", "tiny", "images"], "with --predictions a data set alone, not tiny, images"),
    (["tiny"], "name a system and a data set, not tiny"),
    (["--predictions", "file.jsonl", "images", "--device", "cpu"], "asks no system: leave --device out"),
    (["--predictions", "file.jsonl", "images", "--dtype", "bfloat16"], "asks no system: leave --dtype out"),
    (["--predictions", "file.jsonl", "images", "--shuffle-sentences"], "leave --shuffle-sentences out"),
    (["--predictions", "file.jsonl", "images", "--probes"], "leave --probes out"),
    (["--predictions", "file.jsonl", "images", "--per-frame"], "leave --per-frame out"),
    (["--predictions", "file.jsonl", "images", "--save-predictions", "b"], "leave --save-predictions out"),
    (["tiny", "images", "--save-predictions", "."], ". is a folder: pass the name of a file to --save-predictions"),
    (["tiny", "images", "--missing", "empty"], "--missing is about --predictions: leave it out"),
    (["tiny", "images", "--shuffle-sentences", "--save-predictions", "b"], "leave --save-predictions out"),
    (["--predictions", "file.jsonl", "videos"], "is about the data set images, not about videos. Choose that"),
    (["--predictions", "file.jsonl", "images", "--split", "test"], "is about the split val, not about test"),
    (["--predictions", "nothing", "images"], "There are no predictions at nothing"),
]


def test_the_command_names_what_has_no_effect_or_does_not_fit(folders):
    write(Path("file.jsonl"), [], dataset="images", split="val")
    for arguments, message in REFUSED:
        result = run(*arguments)
        assert result.exit_code and message in " ".join(result.stderr.split()), arguments
    assert not Path("runs").exists()
