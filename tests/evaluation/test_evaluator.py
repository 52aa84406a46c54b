"""Evaluation of a model: right numbers, one encoding per image, counts and no masks, a model left as it was."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny_lavt import WORDS, tiny_lavt, tiny_processor
from torch import Tensor, nn
from transformers import BertTokenizer

from hf_refseg import RefSegImageProcessor, RefSegProcessor, VideoWindow
from hf_refseg.data.masks import decode_mask, encode_mask
from hf_refseg.data.rows import row_features
from hf_refseg.evaluation import (
    evaluate_masks,
    evaluate_model,
    predict_cases,
    select_worst_and_best,
    with_shuffled_sentences,
)
from hf_refseg.visualization import draw_comparison

COLORS = ["red", "green", "blue"]
COLOR_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLORS, "the", "no"]
SIZES = [(40, 30), (30, 50), (64, 64)]
INPUT_SIZE = 32
# The level of dim blue: its probability lies above the lower thresholds alone.
DIM = 115


class ColorModel(nn.Module):
    """Finds the named color: the last word's channel of the image, as a logit that is 0 at half brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.frozen = nn.BatchNorm2d(3).eval()
        self.encoded_images = 0
        self.text_batches: list[int] = []

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.encoded_images += len(pixel_values)
        return pixel_values

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        self.text_batches.append(len(input_ids))
        # The end token follows the last word.
        last_words = input_ids.gather(1, attention_mask.sum(dim=1, keepdim=True) - 2)[:, 0]
        of_texts = image_embeds.expand(len(last_words), -1, -1, -1)
        channels = of_texts[torch.arange(len(last_words)), last_words - COLOR_WORDS.index(COLORS[0])]
        return SimpleNamespace(logits=self.scale * (channels - 0.5), presence_logits=None)


class DoubtingModel(ColorModel):
    """Says that there is no target where the sentence has several words."""

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        outputs = super().forward(image_embeds, input_ids, attention_mask)
        outputs.presence_logits = 3.5 - attention_mask.sum(dim=1)
        return outputs


def color_processor(size: dict[str, int] | None = None) -> RefSegProcessor:
    """Images and masks become 32 x 32 pixels, the nearest ones, with levels from 0 to 1."""
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(COLOR_WORDS)})
    size = size or {"height": INPUT_SIZE, "width": INPUT_SIZE}
    return RefSegProcessor(RefSegImageProcessor(size=size, image_mean=0.0, image_std=1.0, resample=0), tokenizer)


def rectangles(width: int, height: int) -> list[np.ndarray]:
    masks = []
    for index in range(3):
        mask = np.zeros((height, width), dtype=bool)
        mask[height // 4 : height // 2, index * width // 3 : (index + 1) * width // 3 - 1] = True
        masks.append(mask)
    return masks


@pytest.fixture
def dataset() -> Dataset:
    """Three images with a red, a green and a blue (dim) rectangle; the third image's sentences are partly wrong."""
    rows = []
    for number, (width, height) in enumerate(SIZES):
        masks = rectangles(width, height)
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        for channel, mask in enumerate(masks):
            pixels[mask, channel] = 255 if channel < 2 else DIM
        for channel, color in enumerate(COLORS):
            named = COLORS[(channel + 1) % 2] if number == 2 and channel < 2 else color
            texts = [named, f"the {COLORS[0]} no the {named}"][: 1 + channel % 2]
            ref_id = f"{number}{channel}"
            rows.append(
                {
                    "image": Image.fromarray(pixels),
                    "image_id": str(number),
                    "ref_id": ref_id,
                    "ann_ids": [str(channel)],
                    "category": "rectangle",
                    "mask": encode_mask(masks[channel]),
                    "bbox": [0.0, 0.0, 1.0, 1.0],
                    "no_target": False,
                    "sentences": [
                        {"sent_id": f"{ref_id}{index}", "raw": text, "sent": text} for index, text in enumerate(texts)
                    ],
                }
            )
    return Dataset.from_list(rows, features=row_features())


def evaluate(dataset: Dataset, model: ColorModel | None = None, **options):
    options = {"progress": False, "bootstrap_samples": 50, **options}
    return evaluate_model(model or ColorModel(), color_processor(), dataset, **options)


def expected_masks(size: tuple[int, int] | None, threshold: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Predictions and references of every sentence, worked out from the rectangles alone."""
    predictions, references = [], []
    for number, (width, height) in enumerate(SIZES):
        rows, columns = (((np.arange(INPUT_SIZE) + 0.5) * side / INPUT_SIZE).astype(int) for side in (height, width))
        small = [mask[np.ix_(rows, columns)] for mask in rectangles(width, height)]
        levels = torch.tensor(np.stack(small), dtype=torch.float32) * torch.tensor([1, 1, DIM / 255])[:, None, None]
        logits = nn.functional.interpolate(4 * (levels - 0.5)[None], size or (height, width), mode="bilinear")[0]
        seen = (logits.sigmoid() > threshold).numpy()
        truths = small if size else rectangles(width, height)
        for channel in range(3):
            named = (channel + 1) % 2 if number == 2 and channel < 2 else channel
            for _ in range(1 + channel % 2):
                predictions.append(seen[named])
                references.append(truths[channel])
    return predictions, references


@pytest.mark.parametrize(
    ("protocol", "size", "threshold"),
    [
        ("original", None, 0.5),
        ("lavt", (INPUT_SIZE, INPUT_SIZE), 0.5),
        ("rela", (INPUT_SIZE, INPUT_SIZE), 0.5),
        ("vlt", None, 0.35),
        ("cris", None, 0.35),
        ("phrasecut", None, 0.5),
    ],
)
def test_scores_follow_the_protocol(dataset, protocol, size, threshold):
    result = evaluate(dataset, protocol=protocol)
    expected = evaluate_masks(*expected_masks(size, threshold), protocol)
    assert 10 < next(iter(expected.values())) < 90
    assert result.metrics == pytest.approx(expected, rel=1e-9)
    assert (result.protocol, result.images, result.sentences) == (protocol, 3, 12)


def test_every_image_is_encoded_once_whatever_the_batch_size(dataset):
    model = ColorModel()
    small = evaluate(dataset, model, batch_size=3)
    assert model.encoded_images == 3
    # Sentences of neighboring images share a pass.
    assert model.text_batches == [3, 3, 3, 3]
    large = evaluate(dataset, batch_size=100)
    assert small.records == large.records
    assert small.metrics == large.metrics
    assert small.intervals == large.intervals


def test_a_stream_has_the_scores_of_the_same_rows_when_loaded(dataset):
    stream = dataset.to_iterable_dataset(num_shards=2)
    for options in ({}, {"protocol": "lavt"}, {"max_examples": 2}):
        streamed, loaded = evaluate(stream, **options), evaluate(dataset, **options)
        assert (streamed.metrics, streamed.intervals) == (loaded.metrics, loaded.intervals)
        assert (streamed.images, streamed.records) == (loaded.images, loaded.records)
    model = ColorModel()
    evaluate(stream, model)
    assert model.encoded_images == 3


def test_cases_of_a_stream_are_those_of_the_same_rows_when_loaded(dataset):
    cases = select_worst_and_best(evaluate(dataset).records, 2)
    drawn = [
        predict_cases(ColorModel(), color_processor(), rows, cases)
        for rows in (dataset, dataset.to_iterable_dataset())
    ]
    for loaded, streamed in zip(*drawn, strict=True):
        assert (loaded.text, loaded.iou, loaded.image) == (streamed.text, streamed.iou, streamed.image)
        assert (loaded.truth == streamed.truth).all()
        assert (loaded.prediction == streamed.prediction).all()
    elsewhere = dataset.select(range(3)).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"reference '\d+', sentence '\d+' is not in this data set"):
        predict_cases(ColorModel(), color_processor(), elsewhere, cases)


def test_what_a_stream_is_not_scored_for_is_said(dataset):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(dataset.to_iterable_dataset().filter(lambda row: False))
    with pytest.raises(ValueError, match="among all rows at once: load the data set without streaming"):
        with_shuffled_sentences(dataset.to_iterable_dataset())


def test_records_hold_counts_and_no_mask(dataset):
    result = evaluate(dataset)
    assert [record["sent_id"] for record in result.records[:4]] == ["000", "010", "011", "020"]
    for record in result.records:
        assert {key: type(value) for key, value in record.items()} == {
            "image_id": str,
            "ref_id": str,
            "sent_id": str,
            "text": str,
            "no_target": bool,
            "present": bool,
            "intersection": int,
            "union": int,
            "iou": float,
        }
        assert record["iou"] == record["intersection"] / record["union"]


def test_intervals_resample_images(dataset):
    """Of 27 resamples of three images one holds the failing image alone: at 3.7 % it is the interval's lower end."""
    result = evaluate(dataset, bootstrap_samples=4000)
    failing = [record for record in result.records if record["image_id"] == "2"]
    alone = sum(record["intersection"] for record in failing) / sum(record["union"] for record in failing)
    low, high = result.intervals["oIoU"]
    assert low == pytest.approx(100 * alone)
    assert low < result.metrics["oIoU"] < high
    assert evaluate(dataset, bootstrap_samples=0).intervals == {}


def without_targets(dataset: Dataset) -> Dataset:
    """The blue rectangles do not count: their sentences, and those of the green one in image 0, mean nothing."""

    def clear(row: dict) -> dict:
        if row["ann_ids"] != ["2"] and row["ref_id"] != "01":
            return {}
        return {"no_target": True, "mask": encode_mask(np.zeros(row["mask"]["size"], dtype=bool))}

    return dataset.map(clear, features=dataset.features, load_from_cache_file=False)


@pytest.mark.parametrize("protocol", ["original", "rela"])
def test_answers_without_target_are_scored(dataset, protocol):
    """Blue is too dim to be seen and rightly answered with nothing; the two sentences about green are answered."""
    result = evaluate(without_targets(dataset), protocol=protocol)
    assert result.metrics["N-acc"] == pytest.approx(100 * 3 / 5)
    assert result.metrics["T-acc"] == 100
    assert set(result.intervals) == set(result.metrics)
    assert not {"N-acc", "T-acc"} & set(evaluate(dataset, protocol=protocol).metrics)
    size, all_references = (INPUT_SIZE, INPUT_SIZE) if protocol == "rela" else None, []
    predictions, references = expected_masks(size, 0.5)
    for record, reference in zip(result.records, references, strict=True):
        all_references.append(reference & (not record["no_target"]))
    assert [record["no_target"] for record in result.records].count(True) == 5
    assert result.metrics == pytest.approx(evaluate_masks(predictions, all_references, protocol), rel=1e-9)


@pytest.mark.parametrize("protocol", ["original", "lavt", "rela"])
def test_the_presence_head_is_heard(dataset, protocol):
    dataset = without_targets(dataset)
    result = evaluate(dataset, DoubtingModel(), protocol=protocol)
    doubted = [len(record["text"].split()) > 1 for record in result.records]
    predictions, references = expected_masks(None if protocol == "original" else (INPUT_SIZE, INPUT_SIZE), 0.5)
    references = [
        reference & (not record["no_target"]) for record, reference in zip(result.records, references, strict=True)
    ]
    present = [not doubt for doubt in doubted]
    assert result.metrics == pytest.approx(evaluate_masks(predictions, references, protocol, present=present))
    assert result.metrics != evaluate(dataset, protocol=protocol).metrics
    # Of three sentences with several words, one means nothing: rightly answered with that. Blue alone is answered so
    # by an empty mask, which the head calls present.
    if protocol == "rela":
        assert (result.metrics["N-acc"], result.metrics["T-acc"]) == pytest.approx((100 / 5, 100 * 5 / 7))
    if protocol == "original":
        assert (result.metrics["N-acc"], result.metrics["T-acc"]) == pytest.approx((100 * 4 / 5, 100 * 5 / 7))
    for row in predict_cases(DoubtingModel(), color_processor(), dataset, result.records[1:3]):
        assert row.prediction.any() == (len(row.text.split()) == 1)


class EagerModel(ColorModel):
    """Calls the padding, and whatever else is black, the target as well."""

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        outputs = super().forward(image_embeds, input_ids, attention_mask)
        outputs.logits = outputs.logits.masked_fill(image_embeds.sum(1) == 0, 1.0)
        return outputs


def test_padding_is_not_scored(dataset):
    result = evaluate(dataset, EagerModel(), protocol="lavt")
    processor = color_processor({"longest_edge": INPUT_SIZE})
    padded = evaluate_model(EagerModel(), processor, dataset, "lavt", bootstrap_samples=0, progress=False)
    for plain, record, size in zip(result.records, padded.records, [SIZES[0]] * 4 + [SIZES[1]] * 4, strict=False):
        area = INPUT_SIZE * round(INPUT_SIZE * min(size) / max(size))
        assert record["union"] <= area < INPUT_SIZE**2
        assert record["union"] / area == pytest.approx(plain["union"] / INPUT_SIZE**2, abs=0.06)


def test_the_model_is_left_as_it_was(dataset):
    model = ColorModel().train()
    model.frozen.eval()
    evaluate(dataset, model)
    assert model.training
    assert not model.frozen.training
    # Also when the evaluation breaks off.
    broken = dataset.map(lambda row: {"mask": encode_mask(np.ones((5, 6), dtype=bool))})
    with pytest.raises(ValueError, match="5"):
        evaluate(broken, model)
    assert model.training
    assert not model.frozen.training


def test_a_presence_head_that_answers_with_nan_is_not_scored(dataset):
    class Undecided(ColorModel):
        def forward(self, **inputs: Tensor) -> SimpleNamespace:
            outputs = super().forward(**inputs)
            outputs.presence_logits = torch.full_like(outputs.logits[:, 0, 0], torch.nan)
            return outputs

    with pytest.raises(ValueError, match=r"^Image '.*': 100 % of the model's presence_logits are NaN or infinite"):
        evaluate(dataset, Undecided())


def test_max_examples_and_bad_options(dataset):
    assert evaluate(dataset, max_examples=2).sentences == 8
    assert evaluate(dataset, max_examples=50).images == 3
    with pytest.raises(ValueError, match="Unknown protocol 'iou'"):
        evaluate(dataset, protocol="iou")
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        evaluate(dataset, batch_size=0)
    with pytest.raises(ValueError, match="bootstrap_samples"):
        evaluate(dataset, bootstrap_samples=-1)
    with pytest.raises(ValueError, match="max_examples must be at least 1, not 0"):
        evaluate(dataset, max_examples=0)
    with pytest.raises(ValueError, match="holds images, which take no window"):
        evaluate(dataset, window=VideoWindow())
    with pytest.raises(ValueError, match="no row"):
        evaluate(dataset.select([]))


def test_result_is_written_whole(dataset, tmp_path):
    result = evaluate(dataset)
    path = tmp_path / "metrics.json"
    result.to_json(path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["metrics"] == result.metrics
    assert written["intervals"]["mIoU"] == list(result.intervals["mIoU"])
    assert written["records"] == result.records
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_shuffled_sentences_come_from_other_images(dataset):
    shuffled = with_shuffled_sentences(dataset, seed=3)
    assert shuffled.features == dataset.features
    assert shuffled.remove_columns("sentences")["mask"][:] == dataset["mask"][:]
    images = [row["image_id"] for row in shuffled]
    sources = [row["sentences"][0]["sent_id"][0] for row in shuffled]
    assert all(image != source for image, source in zip(images, sources, strict=True))
    sent_ids = sorted(sentence["sent_id"] for row in shuffled for sentence in row["sentences"])
    assert sent_ids == sorted(sentence["sent_id"] for row in dataset for sentence in row["sentences"])
    again = with_shuffled_sentences(dataset, seed=3)
    assert again["sentences"][:] == shuffled["sentences"][:]
    assert any(with_shuffled_sentences(dataset, seed)["sentences"][:] != again["sentences"][:] for seed in range(3))


def test_a_model_that_reads_falls_on_shuffled_sentences(dataset):
    """Colors follow from the ref id, so a model that reads must lose; one image cannot be shuffled at all."""
    assert evaluate(with_shuffled_sentences(dataset)).metrics["oIoU"] < evaluate(dataset).metrics["oIoU"]
    with pytest.raises(ValueError, match="3 of the 4 referents"):
        with_shuffled_sentences(dataset.select(range(4)))


def test_uneven_images_still_shuffle(dataset):
    uneven = dataset.select([0, 1, 2, 3, 6, 7])
    for seed in range(20):
        shuffled = with_shuffled_sentences(uneven, seed)
        columns = zip(shuffled["sentences"], shuffled["image_id"], strict=True)
        assert all(sentences[0]["sent_id"][0] != image_id for sentences, image_id in columns)


def test_worst_and_best_are_drawn(dataset):
    result = evaluate(dataset)
    cases = select_worst_and_best(result.records, 2)
    ious = [record["iou"] for record in result.records]
    assert [case["iou"] for case in cases] == sorted(ious)[:2] + sorted(ious)[-2:]
    assert len(select_worst_and_best(result.records[:3], 2)) == 3
    rows = predict_cases(ColorModel(), color_processor(), dataset, cases)
    for row, case in zip(rows, cases, strict=True):
        assert (row.text, row.iou) == (case["text"], case["iou"])
        assert row.truth.shape == row.prediction.shape == (row.image.height, row.image.width)
        union = (row.truth | row.prediction).sum()
        assert (row.truth & row.prediction).sum() / union == pytest.approx(case["iou"])
    assert draw_comparison(rows).height > 4 * 100


def test_cases_of_another_data_set_are_refused(dataset):
    case = {"image_id": "2", "ref_id": "99", "sent_id": "990", "iou": 0.0}
    with pytest.raises(ValueError, match="Image '2', reference '99', sentence '990' is not in this data set"):
        predict_cases(ColorModel(), color_processor(), dataset, [case])


@pytest.mark.parametrize("protocol", ["original", "lavt", "vlt"])
def test_lavt_scores_as_in_one_plain_call_per_sentence(dataset, protocol):
    model, processor = tiny_lavt(), tiny_processor()
    with torch.no_grad():
        # Random weights call everything foreground: with the median as threshold, half of a picture is.
        logits = model(**processor(images=dataset[0]["image"], text="the red", return_tensors="pt")).logits
        model.decoder.classifier.bias[1] -= logits.median()
        model.decoder.classifier.weight *= 10
        model.decoder.classifier.bias *= 10
    sentences = iter(WORDS[5:] * 3)

    def use_known_words(row: dict) -> dict:
        texts = [f"{next(sentences)} {row['category']}" for _ in row["sentences"]]
        return {"sentences": [{**old, "raw": new} for old, new in zip(row["sentences"], texts, strict=True)]}

    dataset = dataset.map(use_known_words, load_from_cache_file=False)
    predictions, references = [], []
    for row in dataset:
        mask = decode_mask(row["mask"])
        for sentence in row["sentences"]:
            inputs = processor(
                images=row["image"], text=sentence["raw"], segmentation_maps=[mask], return_tensors="pt"
            )
            labels = inputs.pop("mask_labels")
            with torch.no_grad():
                outputs = model(**inputs)
            reference = labels[0].bool().numpy() if protocol == "lavt" else mask
            (result,) = processor.post_process_referring_segmentation(
                outputs, target_sizes=[reference.shape], threshold=0.35 if protocol == "vlt" else None
            )
            predictions.append(result["mask"])
            references.append(reference)
    expected = evaluate_masks(predictions, references, protocol)
    result = evaluate_model(model, processor, dataset, protocol, batch_size=3, bootstrap_samples=0, progress=False)
    assert 0 < expected["oIoU"] < 90
    assert len({int(prediction.sum()) for prediction in predictions}) > 3
    assert result.metrics == pytest.approx(expected, abs=0.5)
