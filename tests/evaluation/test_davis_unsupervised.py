"""Protocol davis_unsupervised: sentences that compete for pixels, answers that are matched to objects."""

import json
import math
from itertools import permutations
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from color_videos import ANNOTATED, COLORS, SIDE, ColorModel, as_dataset, color_processor, make_row, masks_of
from datasets import Dataset
from PIL import Image
from places import FIXTURES
from tiny_lavt import tiny_lavt, tiny_processor
from typer.testing import CliRunner

from hf_refseg import RefSegProcessor, VideoWindow
from hf_refseg.data.masks import decode_mask, encode_mask
from hf_refseg.data.rows import VOID, DataFormatError
from hf_refseg.evaluation import (
    ObjectMatcher,
    SequenceScores,
    contour_accuracy,
    evaluate_model,
    label_pixels,
    predict_cases,
    video_intervals,
    video_scores,
)
from hf_refseg.evaluation.saved_results import read_result
from hf_refseg.training.data_arguments import VideoDataArguments
from hf_refseg_cli import app

MEASURES = ["J&F", "J", "F", "J-recall", "J-decay", "F-recall", "F-decay"]
PROTOCOL = "davis_unsupervised"


@pytest.fixture(scope="module")
def processor() -> RefSegProcessor:
    return color_processor()


def evaluate(rows: Dataset, processor: RefSegProcessor, protocol: str = PROTOCOL, model=None, **options):
    return evaluate_model(
        model or ColorModel(), processor, rows, protocol, progress=False, bootstrap_samples=0, **options
    )


def noisy_row(video: int, order: dict[str, list[int]], frames: int = 4) -> dict:
    """Frames of colored noise and three objects, one of which is annotated on two frames alone.

    `order` says of each annotator by which color their sentence about each object asks; -1 = there is none.
    """
    generator = np.random.default_rng(video)
    # Eighths, so that no mean of frames has a probability of exactly a half.
    blocks = 8 * generator.integers(0, 32, (frames, 16, 16, 3), dtype=np.uint8)
    pictures = [Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.NEAREST) for each in blocks]
    referents = []
    for number in range(3):
        annotated = [1, 3] if number == 2 else list(range(frames))
        # What the noise shows in this object's color is part of the truth, so that scores differ.
        masks = [np.asarray(pictures[frame])[..., number] > 150 for frame in annotated]
        for mask in masks:
            mask[:, : 20 * number] = False
        sentences = [
            {"sent_id": f"{number}-{name}", "raw": COLORS[colors[number]], "sent": COLORS[colors[number]]}
            | {"annotator": name}
            for name, colors in order.items()
            if colors[number] >= 0
        ]
        referents.append(
            {"ref_id": f"{video}-{number}", "category": "", "annotated_frames": annotated}
            | {"masks": [encode_mask(mask) for mask in masks], "sentences": sentences}
        )
    names = [f"{number:05d}" for number in range(frames)]
    return {"video_id": f"video{video}", "frame_names": names, "frames": pictures, "referents": referents}


NOISE = [
    noisy_row(0, {"first": [0, 1, 2], "second": [1, 2, 0]}),
    noisy_row(1, {"first": [2, 1, 0], "second": [0, -1, 1]}),
]


def slow_labels(pixels: np.ndarray, colors: list[int]) -> np.ndarray:
    """One pixel after the other, from the protocol's description, of pixels (H, W, 3) in [0, 1]."""
    labels = np.zeros(pixels.shape[:2], dtype=int)
    for place in np.ndindex(labels.shape):
        highest = 0.1
        for number, color in enumerate(colors, start=1):
            probability = 1 / (1 + math.exp(-4 * (pixels[place][color] - 0.5)))
            if probability >= 0.5 and probability > highest:
                highest, labels[place] = probability, number
    return labels


def slow_scores(row: dict, annotator: str, clips: list[range]) -> dict[str, tuple[str, dict[str, float]]]:
    """By the object that an annotator describes: whose sentence's answer it is given, and its measures."""
    described = [
        (referent, COLORS.index(sentence["raw"]))
        for referent in row["referents"]
        for sentence in referent["sentences"]
        if sentence["annotator"] == annotator
    ]
    pixels = np.stack([np.asarray(frame) / 255 for frame in row["frames"]])
    labels = {
        number: slow_labels(pixels[clip.start : clip.stop].mean(axis=0), [color for _, color in described])
        for clip in clips
        for number in clip
    }
    table = {}
    for place, (referent, _) in enumerate(described):
        for answer in range(len(described)):
            scores = []
            for number, mask in zip(referent["annotated_frames"], map(decode_mask, referent["masks"]), strict=True):
                found = labels[number] == answer + 1
                scores.append(((found & mask).sum() / (found | mask).sum(), contour_accuracy(found, mask)))
            table[place, answer] = SequenceScores(*zip(*scores, strict=True)).measures()
    best = max(
        permutations(range(len(described))),
        key=lambda order: sum(table[place, answer]["J&F"] for place, answer in enumerate(order)),
    )
    return {
        described[place][0]["ref_id"]: (described[answer][0]["ref_id"], table[place, answer])
        for place, answer in enumerate(best)
    }


@pytest.mark.parametrize(
    ("takes_clips", "options", "clips"),
    [
        (False, {}, [range(number, number + 1) for number in range(4)]),
        (True, {}, [range(4)]),
        (True, {"window": VideoWindow(2, 0), "batch_size": 2}, [range(2), range(2, 4)]),
    ],
)
def test_scores_are_those_of_a_slow_loop(processor, takes_clips, options, clips):
    result = evaluate(as_dataset(*NOISE), processor, model=ColorModel(takes_clips), **options)
    assert (result.videos, result.sentences, result.protocol) == (2, 11, PROTOCOL)
    by_annotator: dict[str, list[float]] = {}
    swapped = 0
    for row in NOISE:
        for annotator in ("first", "second"):
            expected = slow_scores(row, annotator, clips)
            found = [
                record
                for record in result.records
                if (record["video_id"], record["annotator"]) == (row["video_id"], annotator)
            ]
            assert {record["ref_id"] for record in found} == set(expected)
            for record in found:
                matched, measures = expected[record["ref_id"]]
                assert record["matched_ref_id"] == matched
                assert {name: record[name] for name in MEASURES} == pytest.approx(measures, abs=1e-9)
                swapped += matched != record["ref_id"]
                by_annotator.setdefault(annotator, []).append(measures["J&F"])
    assert swapped > 0
    means = [np.mean(values) for values in by_annotator.values()]
    assert result.metrics["J&F"] == pytest.approx(100 * np.mean(means))
    assert list(result.metrics) == MEASURES


def test_batches_and_other_videos_change_nothing(processor):
    rows = as_dataset(*NOISE)
    models = {size: ColorModel(takes_clips=True) for size in (1, 2, 4, 6, 16)}
    results = [evaluate(rows, processor, model=model, batch_size=size) for size, model in models.items()]
    assert all(result.records == results[0].records for result in results)
    # Of all annotators together as many sentences as fit: 6 about one video, 5 about the other.
    passes = [6 + 5, 3 + 3, 2 + 2, 2, 2]
    assert [model.seen_frames for model in models.values()] == [4 * count for count in passes]
    alone = [record for number in range(2) for record in evaluate(rows.select([number]), processor).records]
    assert evaluate(rows, processor).records == alone


def test_no_more_frames_are_read_than_needed(processor):
    row = make_row(0, ["red"], frames=40, annotated=[3, 9])
    model = ColorModel()
    evaluate(as_dataset(row), processor, model=model)
    assert model.seen_frames == 2
    model = ColorModel(takes_clips=True)
    evaluate(as_dataset(row), processor, model=model, window=VideoWindow(4, 0))
    assert 10 <= model.seen_frames <= 16


def test_a_single_object_scores_as_under_davis(processor):
    """Whatever the threshold leaves: nothing competes with it."""
    rows = as_dataset(*({**row, "referents": [referent]} for row in NOISE[:1] for referent in row["referents"]))
    for takes_clips in (False, True):
        results = [
            evaluate(rows, processor, protocol, ColorModel(takes_clips), window=VideoWindow(3, 1))
            for protocol in ("davis", PROTOCOL)
        ]
        assert results[0].metrics == results[1].metrics
        assert 0 < results[0].metrics["J"] < 100


def without_second_sentences(row: dict) -> dict:
    for referent in row["referents"]:
        referent["sentences"] = referent["sentences"][:1]
    return row


def test_answers_that_are_swapped_are_matched(processor):
    """That is what makes these numbers higher than those of `davis`."""
    rows = as_dataset(without_second_sentences(make_row(0, ["green", "red", "blue"])))
    records = evaluate(rows, processor).records
    assert [record["matched_ref_id"] for record in records] == ["0-green", "0-red", "0-blue"]
    # Dim blue is found nowhere.
    assert [record["J&F"] for record in records] == [1, 1, 0]
    assert [record["J&F"] for record in evaluate(rows, processor, "davis").records] == [0, 0, 0]


def test_objects_that_nobody_describes_are_missed_by_every_annotator(processor):
    row = noisy_row(0, {"first": [0, 1, 2], "second": [1, 2, 0]})
    described = evaluate(as_dataset(row), processor)
    row["referents"].append({**row["referents"][0], "ref_id": "0-more", "sentences": []})
    row["referents"][-1]["masks"] = [encode_mask(np.eye(SIDE, dtype=bool))] * 4
    result = evaluate(as_dataset(row), processor)
    assert result.records[:-2] == described.records
    assert result.sentences == described.sentences == 6
    missed = [
        {name: record[name] for name in ("ref_id", "annotator", "text", "J&F")} for record in result.records[-2:]
    ]
    expected = {"ref_id": "0-more", "text": "", "J&F": 0}
    assert missed == [{**expected, "annotator": name} for name in ("first", "second")]
    assert result.metrics["J&F"] == pytest.approx(described.metrics["J&F"] * 3 / 4)
    *_, strip = predict_cases(ColorModel(), processor, as_dataset(row), result.records, PROTOCOL)
    assert all(frame.truth.sum() == SIDE and not frame.prediction.any() for frame in strip.frames)


def test_pixels_that_were_left_open_do_not_count(processor):
    """What is found there is right and wrong nowhere."""
    row = without_second_sentences(make_row(0, ["red", "green"]))
    both = [masks_of(0, 1)[number] | masks_of(1, 1)[number] for number in ANNOTATED]
    halves = [mask & (np.arange(SIDE)[:, None] % 20 < 8) for mask in both]
    for referent in row["referents"]:
        masks = zip(map(decode_mask, referent["masks"]), halves, strict=True)
        referent["masks"] = [encode_mask(mask & half) for mask, half in masks]
    assert all(record["J"] < 1 for record in evaluate(as_dataset(row), processor).records)
    void = [encode_mask(mask & ~half) for mask, half in zip(both, halves, strict=True)]
    left_open = {"ref_id": "0-void", "category": VOID, "annotated_frames": ANNOTATED, "masks": void, "sentences": []}
    row["referents"].append(left_open)
    result = evaluate(as_dataset(row), processor)
    assert [(record["ref_id"], record["J&F"]) for record in result.records] == [("0-red", 1), ("0-green", 1)]
    assert all(record["J"] < 1 for record in evaluate(as_dataset(row), processor, "davis").records)
    left_open["masks"] = [encode_mask(np.ones((5, 5), dtype=bool))] * len(ANNOTATED)
    with pytest.raises(ValueError, match=r"Video 'video0', frame 0: what annotators left open has the size \(5, 5\)"):
        evaluate(as_dataset(row), processor)


def test_objects_on_other_frames_than_those_described_are_compared_there(processor):
    row = without_second_sentences(make_row(0, ["red"], annotated=[0]))
    other = make_row(0, ["red"], annotated=[4])["referents"][0]
    row["referents"].append({**other, "ref_id": "0-more", "sentences": []})
    model = ColorModel()
    records = evaluate(as_dataset(row), processor, model=model).records
    assert [(record["ref_id"], record["matched_ref_id"]) for record in records] == [("0-red", "0-red"), ("0-more", "")]
    assert model.seen_frames == 2


def test_a_sentence_about_an_object_that_is_nowhere_competes(processor):
    row = without_second_sentences(make_row(0, ["red", "red", "green"]))
    row["referents"][0]["masks"] = [encode_mask(np.zeros((SIDE, SIDE), dtype=bool))] * len(ANNOTATED)
    row["referents"][1]["masks"] = [encode_mask(masks_of(0, 1)[number]) for number in ANNOTATED]
    row["referents"][2]["masks"] = [encode_mask(masks_of(1, 1)[number]) for number in ANNOTATED]
    records = evaluate(as_dataset(row), processor).records
    # Of equals the first one keeps the pixels, and is the best answer for the object that is there.
    assert [(record["ref_id"], record["matched_ref_id"], record["J&F"]) for record in records] == [
        ("0-green", "0-red", 1),
        ("0-blue", "0-blue", 1),
    ]


def test_each_pixel_goes_to_one_sentence(processor):
    """Two sentences that mean the same pixels: the surer one keeps them all, of equals the first."""
    row = without_second_sentences(make_row(0, ["red", "red", "blue"]))
    records = evaluate(as_dataset(row), processor).records
    assert [record["J&F"] for record in records] == [1, 0, 0]
    probabilities = np.array([[[0.9, 0.6, 0.3]], [[0.8, 0.7, 0.3]], [[0.9, 0.1, 0.3]]])
    assert label_pixels(probabilities).tolist() == [[1, 2, 0]]
    assert label_pixels(torch.from_numpy(probabilities)).tolist() == [[1, 2, 0]]


def test_the_background_has_a_probability():
    """0.1; it competes with what counts at all, a half and more."""
    probabilities = np.array([[[0.0, 0.1, 0.11, 0.49, 0.5, 1.0]]])
    assert label_pixels(probabilities).tolist() == [[0, 0, 0, 0, 1, 1]]
    assert label_pixels(probabilities, least=0).tolist() == [[0, 0, 1, 1, 1, 1]]
    assert label_pixels(probabilities, background=0.5).tolist() == [[0, 0, 0, 0, 0, 1]]


def test_several_objects_match_the_reference():
    """Pixels that the annotators left open belong to no mask; of three answers for two objects one is left over."""
    multi = json.loads((FIXTURES / "metrics/davis_samples.json").read_text())["multi"]
    expected = json.loads((FIXTURES / "metrics/davis_expected.json").read_text())["multi_unsupervised"]
    matcher = ObjectMatcher(answers=3, objects=2)
    for frame, void in enumerate(map(decode_mask, multi["void"])):
        assert frame or void.any()
        answers = np.stack([decode_mask(masks[frame]) for masks in multi["pred"]])
        assert answers.sum(axis=0).max() == 1
        labels = (answers * np.arange(1, 4)[:, None, None]).sum(axis=0)
        matcher.add(labels, {number: decode_mask(masks[frame]) for number, masks in enumerate(multi["gt"])}, void)
    matched = matcher.match()
    # The reference lists them in the order of the predictions.
    for place, (_, scores) in enumerate(sorted(matched, key=lambda pair: pair[0])):
        assert scores.region_similarities == pytest.approx(expected["J"][place], abs=1e-9)
        assert scores.contour_accuracies == pytest.approx(expected["F"][place], abs=1e-9)


def test_objects_without_an_answer_are_given_an_empty_one():
    labels = np.zeros((20, 20), dtype=np.uint8)
    labels[5:10, 5:10] = 1
    matcher = ObjectMatcher(answers=1, objects=2)
    matcher.add(labels, {0: np.roll(labels == 1, 9, axis=1), 1: labels == 1})
    matcher.add(np.zeros_like(labels), {0: labels == 1, 1: labels == 2})
    (none, missed), (answer, found) = matcher.match()
    assert answer == 0 and none >= 1
    assert (missed.region_similarities, found.region_similarities) == ([0, 0], [1, 1])
    with pytest.raises(ValueError, match="Labels go up to 2 and objects are"):
        matcher.add(2 * labels, {0: labels == 1})
    with pytest.raises(ValueError, match=r"objects are \[2\]"):
        matcher.add(labels, {2: labels == 1})
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        matcher.add(labels, {0: np.ones((3, 3), dtype=bool)})
    with pytest.raises(ValueError, match="0 answers for 1 objects"):
        ObjectMatcher(0, 1)
    with pytest.raises(ValueError, match="an object has no frame"):
        ObjectMatcher(1, 1).match()


def test_a_presence_head_that_denies_an_object_leaves_its_pixels_to_others(processor):
    class Denying(ColorModel):
        """Says that there is nothing red; as red is surer than green here, it would win everywhere else."""

        def forward(self, **inputs):
            outputs = super().forward(**inputs)
            outputs.presence_logits = torch.where(inputs["text_embeds"] == 0, -1.0, 1.0)
            return outputs

    row = make_row(0, ["red", "green"])
    for number, frame in enumerate(row["frames"]):
        pixels = np.asarray(frame).copy()
        pixels[masks_of(1, 1)[number]] = (255, 200, 0)
        row["frames"][number] = Image.fromarray(pixels)
    rows = as_dataset(without_second_sentences(row))
    assert [record["J&F"] for record in evaluate(rows, processor, model=Denying()).records] == [0, 1]
    assert evaluate(rows, processor).records[1]["J"] == 0


def test_scores_of_records_and_intervals_are_as_under_davis(processor):
    rows = as_dataset(*NOISE)
    result = evaluate_model(ColorModel(), processor, rows, PROTOCOL, bootstrap_samples=50, seed=1, progress=False)
    assert video_scores(result.records, PROTOCOL) == video_scores(result.records, "davis") == result.metrics
    assert video_intervals(result.records, PROTOCOL, samples=50, seed=1) == result.intervals
    assert result.intervals["J"][0] < result.metrics["J"] < result.intervals["J"][1]
    assert result.frames == sum(record["frames"] for record in result.records)


def test_cases_are_drawn_with_the_answers_that_were_taken(processor):
    rows = as_dataset(without_second_sentences(make_row(0, ["green", "red", "blue"])))
    records = evaluate(rows, processor).records
    strips = predict_cases(ColorModel(), processor, rows, records, PROTOCOL)
    assert [strip.text for strip in strips] == ["green", "red", "blue"]
    assert [strip.note for strip in strips] == ["J&F 100.0 %"] * 2 + ["J&F 0.0 %"]
    for color, strip in enumerate(strips):
        for frame, number in zip(strip.frames, ANNOTATED, strict=True):
            assert np.array_equal(frame.truth, masks_of(color, 1)[number])
            assert np.array_equal(frame.prediction, frame.truth if color < 2 else np.zeros_like(frame.truth))
    with pytest.raises(ValueError, match="sentence 'nope' is not in"):
        predict_cases(ColorModel(), processor, rows, [{**records[0], "sent_id": "nope"}], PROTOCOL)


def test_what_cannot_be_scored_is_named(processor, monkeypatch):
    with pytest.raises(
        DataFormatError,
        match="'video0', reference '0-green', sentence '011' is the second one by no named annotator about its object",
    ):
        evaluate(as_dataset(make_row(0, COLORS)), processor)
    row = noisy_row(0, {"first": [0, 1, 2]})
    row["referents"][1]["sentences"] *= 2
    with pytest.raises(DataFormatError, match=r"is the second one by annotator first .* Choose davis\."):
        evaluate(as_dataset(row), processor)
    row = without_second_sentences(make_row(0, ["red", "green"]))
    row["referents"][1]["masks"][1] = encode_mask(np.ones((5, 5), dtype=bool))
    with pytest.raises(ValueError, match=r"'video0', reference '0-green', sentence '010', frame 2: .*\(5, 5\)"):
        evaluate(as_dataset(row), processor)
    with pytest.raises(DataFormatError, match="no frame is annotated"):
        evaluate(as_dataset(make_row(0, ["red"], annotated=[])), processor)
    model = ColorModel()
    model.scale.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"^Video 'video0': 100 % of the model's logits are NaN or infinite"):
        evaluate(as_dataset(make_row(0, ["red"])), processor, model=model)
    monkeypatch.setattr("hf_refseg.evaluation.video.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"davis_unsupervised needs scipy: pip install 'hf_refseg\[video\]'"):
        evaluate(as_dataset(make_row(0, ["red"])), processor)
    # A run would find it out after its training.
    with pytest.raises(ImportError, match="needs scipy"):
        VideoDataArguments(protocol=PROTOCOL)


def test_the_command_scores_by_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tiny_lavt().save_pretrained("tiny")
    tiny_processor().save_pretrained("tiny")
    Path("videos/data").mkdir(parents=True)
    Path("videos/README.md").write_text("# Videos")
    rows = as_dataset(NOISE[0])
    rows.to_parquet("videos/data/val-00000-of-00001.parquet")
    arguments = ["evaluate", "tiny", "videos", "--protocol", PROTOCOL, "--output", "results"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(Path(f"results/videos_val_{PROTOCOL}.json").read_text())
    expected = evaluate(rows, tiny_processor(), model=tiny_lavt())
    assert written["metrics"] == pytest.approx(expected.metrics, abs=1e-6)
    assert (written["protocol"], written["sentences"]) == (PROTOCOL, 6)
    assert read_result(Path(f"results/videos_val_{PROTOCOL}.json")).records == written["records"]
    assert Image.open(f"results/videos_val_{PROTOCOL}.png").height > 6 * 2 * 200
