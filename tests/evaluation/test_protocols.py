"""Protocols agree with the reference implementations' numbers and refuse what cannot be scored.

The library evaluate is imported where it is used: it imports much that other tests, in other processes, do without.
"""

import json
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_process import FORKED
from places import FIXTURES
from pycocotools import mask as coco_mask

import hf_refseg.evaluation
from hf_refseg.data.masks import draw_polygons, encode_mask, rasterize_polygons
from hf_refseg.evaluation import (
    bootstrap_intervals,
    count_answer,
    evaluate_masks,
    mask_counts,
    per_sample_iou,
    scores_from_counts,
)

METRICS = FIXTURES / "metrics"
METRIC_FOLDER = str(Path(hf_refseg.evaluation.__file__).parent / "refseg_iou")
PRECISIONS = ["Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9"]
KEYS = ["oIoU", "mIoU", *PRECISIONS]
RELA_KEYS = ["cIoU", "gIoU", "Pr@0.7", "Pr@0.8", "Pr@0.9", "N-acc", "T-acc"]


def decode(rle: dict) -> np.ndarray:
    return coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    return json.loads((METRICS / "ris_samples.json").read_text())


@pytest.fixture(scope="module")
def masks(samples) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [decode(sample["pred"]) for sample in samples], [decode(sample["gt"]) for sample in samples]


@pytest.fixture(scope="module")
def counts(masks) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([mask_counts(prediction, reference) for prediction, reference in zip(*masks, strict=True)])
    return pairs[:, 0], pairs[:, 1]


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((METRICS / "ris_expected.json").read_text())


def golden(value: float):
    return pytest.approx(value, rel=1e-9)


def test_lavt_matches_the_reference(masks, counts, expected):
    reference = expected["lavt_test"]
    scores = evaluate_masks(*masks, protocol="lavt")
    assert list(scores) == KEYS
    assert scores["oIoU"] == golden(100 * reference["oIoU"])
    assert scores["mIoU"] == golden(100 * reference["mIoU"])
    for key, correct in zip(PRECISIONS, reference["seg_correct"], strict=True):
        assert scores[key] == golden(100 * correct / reference["seg_total"])
    assert (counts[0].sum(), counts[1].sum()) == (reference["cum_I"], reference["cum_U"])
    np.testing.assert_allclose(per_sample_iou(*counts, "lavt"), reference["per_sample_iou"], rtol=1e-9)


def test_vlt_matches_the_reference(masks, counts, expected):
    reference = expected["vlt"]
    scores = evaluate_masks(*masks, protocol="vlt")
    assert scores["mIoU"] == golden(100 * reference["mean_iou"])
    for key in PRECISIONS:
        assert scores[key] == golden(100 * reference["prec"][f"{float(key[3:]):.2f}"])
    np.testing.assert_allclose(per_sample_iou(*counts, "vlt"), reference["per_sample"], rtol=1e-9)


def test_cris_matches_the_reference(masks, expected):
    """The reference prints the share of correct samples as float32; the meant value is that many samples of 60."""
    reference = expected["cris"]
    scores = evaluate_masks(*masks, protocol="cris")
    assert scores["mIoU"] == golden(100 * reference["mean_iou"])
    for key in PRECISIONS:
        printed = reference["prec"][f"Pr@{round(100 * float(key[3:]))}"]
        meant = Fraction(round(60 * printed), 60)
        assert np.float32(float(meant)) == np.float32(printed)
        assert scores[key] == golden(100 * float(meant))


def rela_inputs(samples: list[dict], sources: set[str]) -> tuple[list[np.ndarray], list[np.ndarray], list[bool]]:
    """Masks before the no-target head, true masks, and the head's answers; samples the reference scored, no other."""
    chosen = [sample for sample in samples if sample["source"] in sources and sample["id"] not in (6, 9, 39, 51)]
    sides = [[decode(sample[side]) for sample in chosen] for side in ("pred", "gt")]
    return *sides, [not sample["pred_nt"] for sample in chosen]


@pytest.mark.parametrize(
    ("name", "sources"), [("refcoco", {"refcoco"}), ("grefcoco", {"grefcoco"}), ("full", {"refcoco", "grefcoco"})]
)
def test_rela_matches_the_reference(samples, expected, name, sources):
    reference = expected["rela"]["results"][name]
    predictions, references, present = rela_inputs(samples, sources)
    scores = evaluate_masks(predictions, references, "rela", present=present)
    # Without a sentence about nothing there is neither N-acc nor T-acc; the reference prints 0.
    assert list(scores) == (RELA_KEYS[:5] if name == "refcoco" else RELA_KEYS)
    for key in RELA_KEYS[:5]:
        assert scores[key] == golden(reference[key])
    if name == "grefcoco":
        assert scores["N-acc"] == golden(100 * reference["N_acc"])
        assert scores["T-acc"] == golden(100 * reference["T_acc"])


def test_rela_without_a_head_counts_small_masks_as_no_target(samples, expected):
    reference = expected["rela_area50"]["results"]["grefcoco"]
    predictions, references, _ = rela_inputs(samples, {"grefcoco"})
    scores = evaluate_masks(predictions, references, "rela_area50")
    assert [scores[key] for key in RELA_KEYS[:5]] == [golden(reference[key]) for key in RELA_KEYS[:5]]
    assert scores["N-acc"] == golden(100 * reference["N_acc"])
    assert scores["T-acc"] == golden(100 * reference["T_acc"])
    assert evaluate_masks(predictions, references, "rela", minimum_area=50) == scores


@pytest.fixture(scope="module")
def phrasecut() -> tuple[dict, dict, dict[str, np.ndarray]]:
    """The samples, the reference's numbers, and the true mask of each task as this library draws it."""
    samples, expected = (
        json.loads((METRICS / f"phrasecut_{name}.json").read_text()) for name in ("samples", "expected")
    )
    sizes = {image["image_id"]: (image["height"], image["width"]) for image in samples["images"]}
    masks = {
        task["task_id"]: draw_polygons(list(chain.from_iterable(task["Polygons"])), *sizes[task["image_id"]])
        for task in samples["tasks"]
    }
    return samples, expected, masks


def test_the_masks_of_phrasecut_match_the_reference(phrasecut):
    samples, expected, masks = phrasecut
    assert {task_id: encode_mask(mask) for task_id, mask in masks.items()} == expected["gt_masks"]
    for task in samples["tasks"]:
        outlines = [list(chain.from_iterable(outline)) for outline in chain.from_iterable(task["Polygons"])]
        mask = masks[task["task_id"]]
        # By COCO's rule the numbers would be others.
        coco = rasterize_polygons([outline for outline in outlines if len(outline) >= 6], *mask.shape)
        intersection, union = mask_counts(coco, mask)
        assert coco.sum() < mask.sum() and intersection < 0.99 * union


def test_phrasecut_matches_the_reference(phrasecut):
    samples, expected, masks = phrasecut
    predictions = {task_id: decode(rle) for task_id, rle in samples["predictions"].items()}
    assert masks.keys() - predictions.keys() == {expected["missing_task"]}
    answered = [masks[task_id] for task_id in predictions]
    counts = np.array([mask_counts(predictions[task_id], masks[task_id]) for task_id in predictions])
    ious = per_sample_iou(counts[:, 0], counts[:, 1], "phrasecut")
    assert dict(zip(predictions, ious, strict=True)) == pytest.approx(expected["per_task_iou"], rel=1e-9)
    scores, reference = evaluate_masks(list(predictions.values()), answered, "phrasecut"), expected["results"]["all"]
    assert list(scores) == ["cum-IoU", "mean-IoU", *PRECISIONS]
    assert scores["cum-IoU"] == golden(100 * reference["cum_mask_iou"])
    assert scores["mean-IoU"] == golden(100 * reference["mean_mask_iou"])
    for key in PRECISIONS:
        assert scores[key] == golden(100 * reference["pred_mask_acc"][key[3:]])

    # Over all tasks, one that has no prediction is answered by an empty mask.
    missing = masks[expected["missing_task"]]
    scores = evaluate_masks([*predictions.values(), np.zeros_like(missing)], [*answered, missing], "phrasecut")
    assert scores["mean-IoU"] == golden(100 * reference["mean_mask_iou"] * expected["evaluated"] / expected["total"])
    assert scores["cum-IoU"] == golden(100 * counts[:, 0].sum() / (counts[:, 1].sum() + missing.sum()))


def test_a_mask_that_is_held_back_counts_in_the_union_of_rela_alone():
    prediction, reference = np.array([[True, True, False]]), np.array([[False, True, True]])
    assert count_answer(prediction, reference, False, "rela") == (1, 3, False)
    assert count_answer(prediction, reference, False, "original") == (0, 2, False)
    assert count_answer(prediction, reference, True, "original") == (1, 3, True)
    assert scores_from_counts([1], [3], "rela", no_target=[False], present=[False])["cIoU"] == 0
    nothing = np.zeros_like(prediction)
    assert count_answer(nothing, reference, True, "rela") == (0, 2, True)
    assert count_answer(nothing, reference, True, "original") == (0, 2, False)
    assert per_sample_iou([0, 0], [2, 2], "rela", no_target=[True, True], present=[False, True]).tolist() == [1, 0]


def test_original_tells_how_sentences_without_target_are_answered():
    target, nothing = np.ones((4, 5), dtype=bool), np.zeros((4, 5), dtype=bool)
    references = [nothing, nothing, nothing, nothing, target, target, target]
    predictions = [nothing, nothing, nothing, target, target, nothing, nothing]
    scores = evaluate_masks(predictions, references)
    assert list(scores) == [*KEYS, "N-acc", "T-acc"]
    assert (scores["N-acc"], scores["T-acc"]) == (golden(75), golden(100 / 3))
    held_back = evaluate_masks([target] * 7, references, present=[bool(mask.any()) for mask in predictions])
    for kind in (np.array, torch.tensor):
        present = kind([bool(mask.any()) for mask in predictions])
        assert evaluate_masks([target] * 7, references, present=present) == held_back
    assert held_back == scores
    assert list(evaluate_masks(predictions[4:], references[4:])) == KEYS
    assert list(evaluate_masks(predictions, references, "lavt")) == KEYS
    assert list(evaluate_masks(predictions[:4], references[:4])) == [*KEYS, "N-acc"]


def test_rela_wants_the_answers(counts):
    with pytest.raises(ValueError, match="Pass `no_target` and `present` to protocol 'rela'"):
        scores_from_counts(*counts, "rela")
    with pytest.raises(ValueError, match="a boolean for each of 60 samples"):
        scores_from_counts(*counts, no_target=[False] * 60, present=[True] * 59)
    with pytest.raises(ValueError, match="a boolean for each of 1 samples"):
        scores_from_counts([1], [2], no_target=[0], present=[1])
    with pytest.raises(ValueError, match="1 answers in `present` for 2 predictions"):
        evaluate_masks([np.ones((4, 5), dtype=bool)] * 2, [np.ones((4, 5), dtype=bool)] * 2, present=[True])


def test_original_matches_exact_arithmetic(masks, counts):
    """IoU 1 where both masks are empty, and an IoU equal to the threshold counts."""
    ious = [Fraction(int(i), int(u)) if u else Fraction(1) for i, u in zip(*counts, strict=True)]
    scores = evaluate_masks(*masks)
    assert scores["oIoU"] == golden(float(100 * Fraction(int(counts[0].sum()), int(counts[1].sum()))))
    assert scores["mIoU"] == golden(float(100 * sum(ious) / len(ious)))
    for key in PRECISIONS:
        reached = sum(iou >= Fraction(key[3:]) for iou in ious)
        assert scores[key] == golden(100 * reached / len(ious))


@pytest.mark.parametrize(
    ("protocol", "score"), [("original", 100.0), ("lavt", 0.0), ("vlt", 100.0), ("cris", 0.0), ("phrasecut", 0.0)]
)
def test_two_empty_masks(protocol, score):
    scores = evaluate_masks([np.zeros((4, 5), dtype=bool)], [np.zeros((4, 5), dtype=bool)], protocol)
    names = {"oIoU": "cum-IoU", "mIoU": "mean-IoU"} if protocol == "phrasecut" else {}
    keys = [names.get(key, key) for key in KEYS]
    assert {key: scores[key] for key in keys} == dict.fromkeys(keys, score)


def test_an_iou_equal_to_the_threshold():
    """Seven of ten pixels: `>=` counts it, VLT's epsilon lifts it above, CRIS's lowers it but float32 0.7 is lower."""
    reached = {name: scores_from_counts([700], [1000], name)["Pr@0.7"] for name in ("original", "lavt", "vlt", "cris")}
    assert reached == {"original": 100, "lavt": 100, "vlt": 100, "cris": 100}
    assert scores_from_counts([600], [1000], "cris")["Pr@0.6"] == 0
    assert scores_from_counts([600], [1000], "phrasecut")["Pr@0.6"] == 0
    assert scores_from_counts([600], [1000], "original")["Pr@0.6"] == 100


def test_torch_and_numpy_masks_score_the_same(masks):
    as_tensors = [[torch.from_numpy(mask) for mask in side] for side in masks]
    assert evaluate_masks(*as_tensors) == evaluate_masks(*masks)


def test_options_replace_scoring_fields(masks):
    scores = evaluate_masks(*masks, precision_thresholds=(0.95,))
    assert list(scores) == ["oIoU", "mIoU", "Pr@0.95", "N-acc", "T-acc"]
    half = np.array([[True, True]]), np.array([[True, False]])
    assert evaluate_masks([half[0]], [half[1]])["Pr@0.5"] == 100
    assert evaluate_masks([half[0]], [half[1]], strict_precision=True)["Pr@0.5"] == 0
    with pytest.raises(ValueError, match=r"Unknown option min_size.*precision_thresholds"):
        evaluate_masks(*masks, min_size=50)


def test_what_cannot_be_scored_is_refused():
    mask = np.ones((4, 5), dtype=bool)
    with pytest.raises(
        ValueError, match=r"Unknown protocol 'lvat'.*cris, lavt, original, phrasecut, rela, rela_area50, vlt"
    ):
        evaluate_masks([mask], [mask], protocol="lvat")
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        evaluate_masks([mask, mask], [mask])
    with pytest.raises(ValueError, match="no sample"):
        evaluate_masks([], [])
    with pytest.raises(ValueError, match=r"Sample 1: .*\(5, 4\).*\(4, 5\)"):
        evaluate_masks([mask, mask.T], [mask, mask])
    with pytest.raises(ValueError, match=r"Sample 0: The prediction must be a boolean mask.*float32"):
        evaluate_masks([mask.astype(np.float32)], [mask])
    with pytest.raises(ValueError, match=r"Sample 0: The reference must be a boolean mask.*\(1, 4, 5\)"):
        evaluate_masks([mask], [mask[None]])


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="Sample 1: an intersection of 5 in a union of 4"):
        scores_from_counts([1, 5], [2, 4])
    with pytest.raises(ValueError, match="must be integers"):
        scores_from_counts([0.5], [1.0])
    with pytest.raises(ValueError, match="equal length"):
        scores_from_counts([1], [1, 2])


def test_bootstrap_intervals_cover_the_scores(counts):
    scores = scores_from_counts(*counts)
    intervals = bootstrap_intervals(*counts, samples=500)
    assert list(intervals) == KEYS
    for key, (low, high) in intervals.items():
        assert low < scores[key] < high
    assert intervals == bootstrap_intervals(*counts, samples=500)
    assert intervals != bootstrap_intervals(*counts, samples=500, seed=1)


def test_bootstrap_interval_of_a_mean_has_the_width_of_theory():
    """400 samples, half of them right: the standard error of Pr@0.5 is sqrt(0.25 / 400) = 2.5 percent."""
    intersections, unions = [0, 10] * 200, [10] * 400
    low, high = bootstrap_intervals(intersections, unions, samples=4000)["Pr@0.5"]
    assert high - low == pytest.approx(2 * 1.96 * 2.5, rel=0.1)
    # Ten equal sentences per image carry the information of one: 40 images, an error of sqrt(0.25 / 40).
    intersections = [0] * 10 + [10] * 10
    groups = [f"image {index // 10}" for index in range(400)]
    low, high = bootstrap_intervals(intersections * 20, unions, samples=4000, groups=groups)["Pr@0.5"]
    assert high - low == pytest.approx(2 * 1.96 * 7.9, rel=0.1)


def test_bootstrap_intervals_cover_answers_without_target():
    """Half of 400 sentences mean nothing, half of these are answered so: an error of sqrt(0.25 / 200)."""
    no_target = np.arange(400) % 2 == 0
    present = np.arange(400) % 4 != 0
    answers = {"no_target": no_target, "present": present}
    intervals = bootstrap_intervals([0] * 400, [10] * 400, samples=4000, **answers)
    assert list(intervals) == [*KEYS, "N-acc", "T-acc"]
    low, high = intervals["N-acc"]
    assert high - low == pytest.approx(2 * 1.96 * 3.54, rel=0.1)
    assert intervals["T-acc"] == (100, 100)


def test_a_resample_without_such_a_sentence_says_nothing_of_it():
    """One image of two holds the only sentence without target: a quarter of the resamples misses it."""
    answers = {"no_target": [True, False], "present": [False, True]}
    intervals = bootstrap_intervals([0, 5], [0, 10], "rela", samples=100, **answers)
    assert list(intervals) == RELA_KEYS
    assert intervals["N-acc"] == intervals["T-acc"] == (100, 100)
    single = [bootstrap_intervals([0, 5], [0, 10], "rela", samples=1, seed=seed, **answers) for seed in range(20)]
    assert {"N-acc" in each for each in single} == {True, False}


def test_bootstrap_options_are_checked(counts):
    with pytest.raises(ValueError, match="1 group ids for 60 samples"):
        bootstrap_intervals(*counts, groups=["a"])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_intervals(*counts, confidence=95)


@pytest.mark.parametrize("protocol", ["original", "cris"])
def test_evaluate_module_agrees(masks, counts, protocol, tmp_path):
    import evaluate

    metric = evaluate.load(METRIC_FOLDER, cache_dir=str(tmp_path))
    for start in range(0, 60, 7):
        stop = start + 7
        metric.add_batch(intersections=counts[0][start:stop], unions=counts[1][start:stop])
    scores = evaluate_masks(*masks, protocol)
    # Pixel counts do not tell which sentences mean nothing.
    assert metric.compute(protocol=protocol) == {key: scores[key] for key in KEYS}


def score_half(process: int, counts: tuple[np.ndarray, np.ndarray], cache_dir: str, results) -> None:
    import evaluate

    options = {"num_process": 2, "process_id": process, "experiment_id": "halves", "cache_dir": cache_dir}
    metric = evaluate.load(METRIC_FOLDER, **options)
    metric.add_batch(intersections=counts[0][process::2], unions=counts[1][process::2])
    results.put((process, metric.compute(protocol="lavt")))


@pytest.mark.slow_process
def test_evaluate_module_gathers_two_processes(masks, counts, tmp_path):
    results = FORKED.Queue()
    workers = [
        FORKED.Process(target=score_half, args=(process, counts, str(tmp_path), results)) for process in range(2)
    ]
    for worker in workers:
        worker.start()
    scores = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert scores[1] is None
    assert scores[0] == pytest.approx(evaluate_masks(*masks, protocol="lavt"), rel=1e-12)


def test_a_folder_of_predictions_is_no_predictions(tmp_path):
    for predictions in (tmp_path, str(tmp_path)):
        with pytest.raises(TypeError, match="Predictions and references are masks, not the path"):
            evaluate_masks(predictions, [np.ones((2, 2), dtype=bool)])
