"""J, F, their statistics and the protocols davis and a2d agree with the reference implementations' numbers."""

import json
import tracemalloc
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest
import torch
from places import FIXTURES

from hf_refseg.data.masks import InvalidMaskError, decode_mask, encode_mask
from hf_refseg.evaluation import (
    ScoredMask,
    coco_statistics,
    contour_accuracy,
    davis_intervals,
    davis_scores,
    mask_counts,
    per_sample_iou,
    region_similarity,
    score_frames_a2d,
    score_frames_davis,
    scores_from_counts,
    sequence_statistics,
    video_intervals,
    video_scores,
)
from hf_refseg.evaluation.video import A2D

METRICS = FIXTURES / "metrics"
MEASURES = ["J&F", "J", "F", "J-recall", "J-decay", "F-recall", "F-decay"]


def read(name: str) -> dict:
    return json.loads((METRICS / name).read_text())


def square(size: int = 100, top: int = 20, left: int = 20, side: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


NOTHING = np.zeros((100, 100), dtype=bool)


@pytest.mark.parametrize("number", range(5))
def test_a_sequence_matches_the_reference(number):
    sequence, expected = (
        read("davis_samples.json")["sequences"][number],
        read("davis_expected.json")["sequences"][number],
    )
    scores = score_frames_davis(map(decode_mask, sequence["pred"]), map(decode_mask, sequence["gt"]))

    assert scores.region_similarities == pytest.approx(expected["J"], abs=1e-9)
    assert scores.contour_accuracies == pytest.approx(expected["F"], abs=1e-9)
    for name, values in (("J", scores.region_similarities), ("F", scores.contour_accuracies)):
        assert sequence_statistics(values)._asdict() == pytest.approx(expected[f"{name}_stats"], abs=1e-9)


def test_the_average_over_sequences_matches_the_reference():
    measures = [
        score_frames_davis(map(decode_mask, each["pred"]), map(decode_mask, each["gt"])).measures()
        for each in read("davis_samples.json")["sequences"]
    ]
    scores, expected = davis_scores(measures), read("davis_expected.json")["global_"]
    assert list(scores) == MEASURES
    for name in ("J", "F", "J&F"):
        assert scores[name] == pytest.approx(100 * expected[f"{name}-Mean"], abs=1e-9)


def test_several_objects_match_the_reference():
    """Pixels that the annotators left open belong to no mask; unlabeled predictions take the objects they fit best."""
    multi, expected = read("davis_samples.json")["multi"], read("davis_expected.json")["multi_unsupervised"]
    void = [decode_mask(each) for each in multi["void"]]

    def scores_of(prediction: int, reference: int):
        kept = [
            [decode_mask(mask) & ~open_pixels for mask, open_pixels in zip(masks, void, strict=True)]
            for masks in (multi["pred"][prediction], multi["gt"][reference])
        ]
        return score_frames_davis(*kept)

    table = {(p, r): scores_of(p, r) for p in range(3) for r in range(2)}
    best = max(
        permutations(range(3), 2),
        key=lambda chosen: sum(table[p, r].measures()["J&F"] for r, p in enumerate(chosen)),
    )
    # The reference lists them in the order of the predictions.
    for place, (prediction, reference) in enumerate(sorted((p, r) for r, p in enumerate(best))):
        scores = table[prediction, reference]
        assert scores.region_similarities == pytest.approx(expected["J"][place], abs=1e-9)
        assert scores.contour_accuracies == pytest.approx(expected["F"][place], abs=1e-9)


@pytest.mark.parametrize("tolerance", ["0.002", "0.008", "0.02"])
def test_the_tolerance_is_a_share_of_the_diagonal(tolerance):
    sequence = read("davis_samples.json")["sequences"][1]
    found = contour_accuracy(decode_mask(sequence["pred"][0]), decode_mask(sequence["gt"][0]), float(tolerance))
    assert found == pytest.approx(read("davis_expected.json")["bound_th_variants_seq1_frame0"][tolerance], abs=1e-9)


def test_identical_masks_disjoint_masks_and_empty_masks():
    assert score_frames_davis([square()] * 3, [square()] * 3).measures() == {
        **dict.fromkeys(["J&F", "J", "F", "J-recall", "F-recall"], 1.0),
        "J-decay": 0.0,
        "F-decay": 0.0,
    }
    assert region_similarity(NOTHING, NOTHING) == contour_accuracy(NOTHING, NOTHING) == 1
    far = square(top=80, left=80, side=10)
    for prediction, reference in ((square(), far), (square(), NOTHING), (NOTHING, square())):
        assert region_similarity(prediction, reference) == contour_accuracy(prediction, reference) == 0
    # No pixel of it borders on another kind of pixel.
    assert region_similarity(~NOTHING, NOTHING) == 0
    assert contour_accuracy(~NOTHING, NOTHING) == 1


def test_a_contour_within_the_tolerance_is_right():
    """The diagonal of 100 x 100 pixels is 141.4: 0.8 % of it are two pixels, rounded up."""
    for shift in (1, 2):
        assert contour_accuracy(square(left=20 + shift), square()) == 1
        assert region_similarity(square(left=20 + shift), square()) < 1
    assert contour_accuracy(square(left=23), square()) < 1
    # Two pixels to the right and two down are 2.8 pixels: out of reach of a corner that stands alone.
    dot, shifted = square(side=1), square(top=22, left=22, side=1)
    assert contour_accuracy(shifted, dot) < 1
    assert contour_accuracy(square(top=22, left=20, side=1), dot) == 1


def test_f_is_symmetric_and_agrees_with_distances_between_all_pixels():
    generator = np.random.default_rng(0)
    for height, width in ((30, 41), (64, 20), (150, 90)):
        prediction, reference = generator.random((2, height, width)) > 0.98
        found = contour_accuracy(prediction, reference)
        assert 0 < found < 1
        assert contour_accuracy(reference, prediction) == pytest.approx(found)

        def pixels(mask: np.ndarray) -> np.ndarray:
            height, width = mask.shape
            inside = [
                (y, x)
                for y in range(height)
                for x in range(width)
                for dy, dx in ((0, 1), (1, 0), (1, 1))
                if mask[y, x] != mask[min(y + dy, height - 1), min(x + dx, width - 1)]
            ]
            return np.array(sorted(set(inside)))

        first, second = pixels(prediction), pixels(reference)
        distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
        near = distances <= np.ceil(0.008 * np.hypot(height, width))
        precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
        assert found == pytest.approx(2 * precision * recall / (precision + recall))


def test_recall_and_decay_of_short_and_long_sequences():
    assert sequence_statistics([0.7]) == (pytest.approx(0.7), 1, 0)
    assert sequence_statistics([0.5, 0.51]) == (pytest.approx(0.505), 0.5, pytest.approx(-0.01))
    assert sequence_statistics(np.linspace(1, 0, 101)).decay == pytest.approx(0.75)
    with pytest.raises(ValueError, match="no frame"):
        sequence_statistics([])


def test_annotators_are_scored_on_their_own_and_then_averaged():
    def sequence(value: float) -> dict[str, float]:
        return dict.fromkeys(MEASURES, value)

    measures = [sequence(1.0), sequence(0.5), sequence(0.0)]
    assert davis_scores(measures)["J&F"] == pytest.approx(50)
    assert davis_scores(measures, ["a", "a", "b"])["J&F"] == pytest.approx((75 + 0) / 2)
    with pytest.raises(ValueError, match="3 sequences and 2 annotators"):
        davis_scores(measures, ["a", "b"])
    with pytest.raises(ValueError, match="0 sequences"):
        davis_scores([])


def test_intervals_draw_whole_videos():
    measures = [dict.fromkeys(MEASURES, value) for value in (1.0, 0.0, 1.0, 0.0)]
    within = davis_intervals(measures, ["a", "a", "b", "b"], samples=50)
    assert within == dict.fromkeys(MEASURES, (pytest.approx(50), pytest.approx(50)))
    low, high = davis_intervals(measures, ["a", "b", "a", "b"], samples=200)["J"]
    assert (low, high) == (pytest.approx(0), pytest.approx(100))
    # A resample without one of the annotators is scored by the others.
    by_annotator = davis_intervals(measures, ["a", "b", "c", "d"], ["x", "x", "x", "y"], samples=50)
    assert all(np.isfinite(by_annotator[name]).all() for name in MEASURES)
    assert davis_intervals(measures, list("abcd"), seed=3) == davis_intervals(measures, list("abcd"), seed=3)
    with pytest.raises(ValueError, match="2 group ids for 4"):
        davis_intervals(measures, ["a", "b"])


@pytest.fixture(scope="module")
def a2d() -> tuple[dict, dict]:
    return read("a2d_samples.json"), read("a2d_expected.json")


def a2d_counts(samples: dict) -> list[tuple[int, int]]:
    """Of the best prediction for each image, in the order of the images."""
    best: dict[str, dict] = {}
    for prediction in samples["predictions"]:
        name = prediction["image_id"]
        if name not in best or prediction["score"] > best[name]["score"]:
            best[name] = prediction
    references = {annotation["image_id"]: annotation for annotation in samples["annotations"]}
    names = [image["id"] for image in samples["images"]]
    return score_frames_a2d(
        (decode_mask(best[name]["segmentation"]) for name in names),
        (decode_mask(references[name]["segmentation"]) for name in names),
    )


def test_a2d_matches_the_reference(a2d):
    samples, expected = a2d
    counts = a2d_counts(samples)
    assert len(counts) == expected["n"]
    scores = scores_from_counts(*zip(*counts, strict=True), A2D)
    assert scores == pytest.approx(
        {
            "oIoU": 100 * expected["overall_iou"],
            "mIoU": 100 * expected["mean_iou"],
            **{f"Pr@{threshold}": 100 * share for threshold, share in expected["precision_at_k"].items()},
        },
        abs=1e-9,
    )


def test_a2d_compares_in_single_precision():
    """6/10 and 8/10 lie a little above the thresholds in float32, the others do not; both empty is an IoU of 1."""
    scores = scores_from_counts([500, 600, 700, 800, 900], [1000] * 5, A2D)
    passed = {"Pr@0.5": 4, "Pr@0.6": 4, "Pr@0.7": 2, "Pr@0.8": 2, "Pr@0.9": 0}
    assert {name: scores[name] / 20 for name in passed} == passed
    assert per_sample_iou([0], [0], A2D).tolist() == [1]


def test_average_precision_matches_the_reference(a2d):
    samples, expected = a2d
    references = {annotation["image_id"]: annotation["segmentation"] for annotation in samples["annotations"]}
    predictions = [
        ScoredMask(prediction["image_id"], prediction["segmentation"], prediction["score"])
        for prediction in samples["predictions"]
    ]
    assert coco_statistics(references, predictions) == pytest.approx(expected["coco_stats"], abs=1e-9)


def test_average_precision_prefers_surer_right_answers(capsys):
    references = {name: encode_mask(square()) for name in ("a", "b")}
    right, wrong = encode_mask(square()), encode_mask(square(top=60, left=60, side=30))

    def mean_average_precision(score_of_right: float) -> float:
        predictions = [ScoredMask("a", right, score_of_right), ScoredMask("b", wrong, 0.5)]
        return coco_statistics(references, predictions)[0]

    # Recall reaches a half, with precision 1 or 1/2: 51 of 101 points of the curve.
    assert mean_average_precision(0.9) == pytest.approx(51 / 101)
    assert mean_average_precision(0.1) == pytest.approx(51 / 101 / 2)
    assert coco_statistics(references, [])[0] == 0
    with pytest.raises(ValueError, match="'c', which has no reference"):
        coco_statistics(references, [ScoredMask("c", right, 1.0)])
    assert capsys.readouterr().out == ""


def test_average_precision_takes_no_unchecked_mask():
    """C code takes the last run of a text that was cut for one of billions of pixels."""
    sound = encode_mask(square())
    cut = {**sound, "counts": sound["counts"][:-1]}
    with pytest.raises(InvalidMaskError, match=r"The reference 'a': .*cut off"):
        coco_statistics({"a": cut}, [ScoredMask("a", sound, 1.0)])
    for mask, score, message in (
        (cut, 1.0, "A prediction for 'a': .*cut off"),
        ({"size": [100, 100], "counts": "0"}, 1.0, "A prediction for 'a': .*cover 0 pixels"),
        (encode_mask(square(size=101)), 1.0, r"size \[101, 101\], its reference \[100, 100\]"),
        (sound, float("nan"), "score nan"),
        (sound, None, "score None: give a finite number"),
        (sound, "0.5", "score '0.5'"),
        (sound, True, "score True"),
    ):
        with pytest.raises(ValueError, match=message):
            coco_statistics({"a": sound}, [ScoredMask("a", mask, score)])
    runs = {"size": [100, 100], "counts": [2020, *[40, 60] * 39, 40, 4040]}
    assert coco_statistics({"a": runs}, [ScoredMask("a", sound, 1.0)])[0] == pytest.approx(1)


def test_records_can_be_scored_in_part():
    counts = [[(5, 10)], [(10, 10), (0, 10)]]
    a2d_records = [
        {"video_id": str(number), "intersections": [i for i, _ in frames], "unions": [u for _, u in frames]}
        for number, frames in enumerate(counts)
    ]
    assert video_scores(a2d_records, "a2d")["oIoU"] == pytest.approx(50)
    assert video_scores(a2d_records[1:], "a2d")["mIoU"] == pytest.approx(50, abs=1e-4)
    assert video_intervals(a2d_records, "a2d", samples=10)["Pr@0.9"][0] == 0
    davis_records = [
        {"video_id": "v", "annotator": annotator, **dict.fromkeys(MEASURES, value)}
        for annotator, value in (("", 0.5), ("", 1.0))
    ]
    assert video_scores(davis_records, "davis")["F"] == pytest.approx(75)
    assert video_scores(davis_records[:1], "davis")["F"] == pytest.approx(50)
    assert video_intervals(davis_records, "davis", samples=10)["J"] == pytest.approx((75, 75))
    for wrong in (video_scores, video_intervals):
        with pytest.raises(
            ValueError, match="Unknown protocol 'lavt' for videos: choose one of davis, davis_unsupervised, a2d"
        ):
            wrong(davis_records, "lavt")


@pytest.mark.parametrize("score", [score_frames_davis, score_frames_a2d])
def test_frames_are_read_one_by_one(score):
    """Of masks of 25 MB never more than a few are in memory."""

    def masks() -> Iterator[np.ndarray]:
        for number in range(25):
            yield square(size=1000, left=number)

    tracemalloc.start()
    scores = score(masks(), masks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(scores.region_similarities if score is score_frames_davis else scores) == 25
    assert peak < 20e6


@pytest.mark.parametrize("score", [score_frames_davis, score_frames_a2d])
def test_what_cannot_be_scored_is_named(score):
    with pytest.raises(ValueError, match=r"Frame 1: The prediction is \(50, 50\) and the reference \(100, 100\)"):
        score([NOTHING, square(size=50)], [NOTHING, NOTHING])
    with pytest.raises(ValueError, match="Frame 0: The prediction must be a boolean mask"):
        score([NOTHING.astype(float)], [NOTHING])
    with pytest.raises(ValueError, match="Frame 1 has no reference"):
        score([NOTHING, NOTHING], [NOTHING])
    with pytest.raises(ValueError, match="Frame 1 has no prediction"):
        score([NOTHING], [NOTHING, NOTHING])
    with pytest.raises(ValueError, match="no frame"):
        score(iter([]), iter([]))


def test_masks_may_be_tensors():
    prediction, reference = torch.from_numpy(square(left=25)), torch.from_numpy(square())
    assert mask_counts(prediction, reference) == (40 * 35, 40 * 45)
    assert region_similarity(prediction, reference) == pytest.approx(35 / 45)
    assert contour_accuracy(prediction, reference) == contour_accuracy(square(left=25), square())
