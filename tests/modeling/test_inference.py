"""One way from a model to masks: whoever asks gets the same ones, and the model is left as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny_lavt import tiny_lavt, tiny_processor
from torch import nn
from transformers import pipeline
from typer.testing import CliRunner

from hf_refseg import LavtForReferringSegmentation, RefSegProcessor, VideoWindow, segment_video
from hf_refseg.data.examples import ImageExamples, SentenceExamples
from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import row_features
from hf_refseg.evaluation import evaluate_model, mask_counts, predict_cases, scores_from_counts
from hf_refseg.modeling.inference_refseg import evaluation_mode, find_foreground, segment_image
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.callbacks import predict_item
from hf_refseg.training.trainer import RefSegTrainer
from hf_refseg_cli import app

TEXTS = ["the left dog", "red circle"]
# As large as the model's input, so that scores at either size are the same.
SIDE = 64


class Case(NamedTuple):
    model: LavtForReferringSegmentation
    processor: RefSegProcessor
    image: Image.Image
    masks: list[np.ndarray]


def masks_by_hand(model: nn.Module, processor: RefSegProcessor, image: Image.Image) -> list[np.ndarray]:
    """What threshold and presence head mean, written out."""
    with torch.no_grad():
        outputs = model(**processor(image, TEXTS, return_tensors="pt"))
    presence = [0.0, 1.0] if outputs.presence_logits is None else outputs.presence_logits.sigmoid().tolist()
    found = [True, True] if outputs.presence_logits is None else [probability > 0.5 for probability in presence]
    threshold = processor.image_processor.mask_threshold
    return [(logits.sigmoid() > threshold).numpy() & each for logits, each in zip(outputs.logits, found, strict=True)]


@pytest.fixture(scope="module", params=["threshold 0.5", "threshold 0.7", "threshold 0.7 and a presence head"])
def any_case(request: pytest.FixtureRequest) -> Case:
    """A model, and an image with a mask of either text."""
    config = tiny_lavt().config
    config.presence_head = "presence" in request.param
    torch.manual_seed(0)
    model, processor = LavtForReferringSegmentation(config).eval(), tiny_processor()
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    inputs = processor(image, TEXTS, return_tensors="pt")
    with torch.no_grad():
        # Probabilities on both sides of each threshold.
        model.decoder.classifier.weight.mul_(100)
        model.decoder.classifier.bias[1] -= model(**inputs).logits.median()
        if config.presence_head:
            # Of the two texts one is found.
            model.presence_head.classifier[-1].bias -= model(**inputs).presence_logits.mean()
    processor.image_processor.mask_threshold = 0.5 if "0.5" in request.param else 0.7
    masks = masks_by_hand(model, processor, image)
    assert [0.05 < mask.mean() < 0.95 for mask in masks].count(True) == 2 - config.presence_head
    return Case(model, processor, image, masks)


@pytest.fixture
def case(any_case: Case) -> Case:
    """With the model in training mode, which has dropout."""
    any_case.model.train()
    return any_case


def rows_of(case: Case) -> Dataset:
    """The image with two referents: its left and its upper half."""
    left = np.arange(SIDE)[None] < SIDE // 2
    truths = [np.broadcast_to(half, (SIDE, SIDE)) for half in (left, left.T)]
    rows = [
        {
            "image": case.image,
            "image_id": "0",
            "ref_id": str(number),
            "ann_ids": [str(number)],
            "category": "half",
            "mask": encode_mask(np.ascontiguousarray(truth)),
            "bbox": [0.0, 0.0, 1.0, 1.0],
            "no_target": False,
            "sentences": [{"sent_id": str(number), "raw": text, "sent": text}],
        }
        for number, (truth, text) in enumerate(zip(truths, TEXTS, strict=True))
    ]
    return Dataset.from_list(rows, features=row_features())


def as_arrays(pictures: list[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(picture) == 255 for picture in pictures]


def by_pipeline(case: Case) -> list[np.ndarray]:
    segment = pipeline("referring-image-segmentation", model=case.model, processor=case.processor)
    return as_arrays([each["mask"] for each in segment(case.image, text=TEXTS)])


def by_batched_pipeline(case: Case) -> list[np.ndarray]:
    segment = pipeline("referring-image-segmentation", model=case.model, processor=case.processor)
    first, second = segment([case.image, case.image], text=TEXTS, batch_size=2)
    assert as_arrays([each["mask"] for each in first])[0].tolist() == as_arrays([second[0]["mask"]])[0].tolist()
    return as_arrays([each["mask"] for each in second])


def by_video_pipeline(case: Case) -> list[np.ndarray]:
    segment = pipeline("referring-video-segmentation", model=case.model, processor=case.processor)
    return as_arrays([each["masks"][1] for each in segment([case.image] * 2, text=TEXTS)])


def by_segment_image(case: Case) -> list[np.ndarray]:
    answers = segment_image(case.model, case.processor, case.image, TEXTS, batch_size=1)
    (alone,) = segment_image(case.model, case.processor, case.image, TEXTS[0])
    masks = [each.mask.numpy() for each in answers]
    assert (masks[0] != alone.mask.numpy()).mean() < 0.002
    return masks


def by_segment_video(case: Case) -> list[np.ndarray]:
    (answers,) = segment_video(case.model, case.processor, [case.image], TEXTS, window=VideoWindow(4, 2))
    return [each.mask.numpy() for each in answers]


def by_predicted_cases(case: Case) -> list[np.ndarray]:
    rows = rows_of(case)
    records = evaluate_model(case.model, case.processor, rows, bootstrap_samples=0, progress=False).records
    return [row.prediction for row in predict_cases(case.model, case.processor, rows, records)]


def by_pictures_in_training(case: Case) -> list[np.ndarray]:
    items = SentenceExamples(rows_of(case))
    return [predict_item(case.model, case.processor, items[index]).prediction for index in range(len(items))]


def by_the_trainers_rule(case: Case) -> list[np.ndarray]:
    inputs = case.processor(case.image, TEXTS, return_tensors="pt")
    with evaluation_mode(case.model):
        outputs = case.model(**inputs)
    return list(find_foreground(outputs, case.processor.image_processor.mask_threshold).numpy())


def by_post_processing(case: Case) -> list[np.ndarray]:
    with evaluation_mode(case.model):
        outputs = case.model(**case.processor(case.image, TEXTS, return_tensors="pt"))
    results = case.processor.post_process_referring_segmentation(outputs, [(SIDE, SIDE)] * 2)
    return [each["mask"].numpy() for each in results]


@pytest.mark.parametrize(
    "ask",
    [
        by_pipeline,
        by_batched_pipeline,
        by_video_pipeline,
        by_segment_image,
        by_segment_video,
        by_predicted_cases,
        by_pictures_in_training,
        by_the_trainers_rule,
        by_post_processing,
    ],
)
def test_one_rule_of_threshold_and_presence_holds_for_all(case: Case, ask: Callable[[Case], list]) -> None:
    """Masks differ in single pixels at most, whose probabilities rounding moves over the threshold."""
    for found, wanted in zip(ask(case), case.masks, strict=True):
        assert found.shape == wanted.shape and (found != wanted).mean() < 0.002
        assert found.any() == wanted.any()
    assert all(module.training for module in case.model.modules())


def test_scores_follow_the_same_rule(case: Case, tmp_path: Path) -> None:
    rows = rows_of(case)
    (example,) = ImageExamples(rows)
    counts = [mask_counts(*pair) for pair in zip(case.masks, example["masks"], strict=True)]
    result = evaluate_model(case.model, case.processor, rows, bootstrap_samples=0, progress=False)
    for record, (intersection, union), mask in zip(result.records, counts, case.masks, strict=True):
        assert (record["intersection"], record["union"]) == pytest.approx((intersection, union), abs=8)
        assert record["present"] == mask.any()
    arguments = RefSegTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", pictures=0)
    trainer = RefSegTrainer(case.model, arguments, case.processor, eval_dataset=SentenceExamples(rows))
    expected = scores_from_counts(*zip(*counts, strict=True), "lavt")
    assert trainer.evaluate()["eval_oIoU"] == pytest.approx(expected["oIoU"], abs=0.3)


def test_the_command_follows_the_same_rule(case: Case, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    case.model.save_pretrained("model")
    case.processor.save_pretrained("model")
    case.image.save("image.png")
    texts = [option for text in TEXTS for option in ("--text", text)]
    result = CliRunner().invoke(app, ["predict", "model", "image.png", *texts, "--output", "masks"])
    assert result.exit_code == 0, result.output
    paths = [next(Path("masks").glob(f"image_{number}_*.png")) for number in (1, 2)]
    for found, wanted in zip(as_arrays([Image.open(path) for path in paths]), case.masks, strict=True):
        assert (found != wanted).mean() < 0.002 and found.any() == wanted.any()


def test_the_mode_of_each_part_is_put_back_whatever_happens() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval())

    def modes() -> list[Any]:
        return [module.training for module in model.modules()]

    with evaluation_mode(model):
        assert modes() == [False] * 3 and not torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        raise RuntimeError("inside")
    assert modes() == [True, True, False] and torch.is_grad_enabled()
