"""Streaming evaluation of a model on a data set: every image is encoded once and only pixel counts are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from ..data.examples import ImageExamples
from ..files import write_json
from ..messages import short_text
from ..modeling.modeling_outputs_refseg import NotFiniteError, ReferringSegmentationOutput, require_finite
from ..visualization import ComparisonRow
from .protocols import (
    Protocol,
    bootstrap_intervals,
    count_answer,
    get_protocol,
    per_sample_iou,
    scores_from_counts,
)

Record = dict[str, Any]


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate_model` found.

    Attributes:
        metrics: scores in percent, see `scores_from_counts`.
        intervals: 95 % bootstrap interval `(low, high)` in percent for every score, see `bootstrap_intervals`; empty
            when none were asked for.
        protocol: the protocol's name.
        images: number of images.
        sentences: number of sentences.
        seconds: wall-clock time.
        records: one dict per sentence with `image_id`, `ref_id`, `sent_id`, `text`, `intersection` and `union` in
            pixels, `no_target` (whether the sentence means nothing in the image), `present` (whether the answer names
            a target), and `iou` in [0, 1].
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    protocol: str
    images: int
    sentences: int
    seconds: float
    records: list[Record]

    def to_json(self, path: str | os.PathLike) -> None:
        """Write everything to a JSON file; a file that is there stays whole until the new one is."""
        write_json(path, asdict(self))


def evaluate_model(
    model: nn.Module,
    processor: Any,
    dataset: Dataset,
    protocol: str | Protocol = "original",
    *,
    batch_size: int = 16,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device | None = None,
    max_images: int | None = None,
) -> EvaluationResult:
    """Score a model on every sentence of a data set.

    Args:
        model: follows the library's contract (`get_image_features`, `image_embeds=`); its training mode is restored.
        processor: the model's processor.
        dataset: rows of `load_refseg`, those of one image adjacent.
        protocol: a protocol or its name.
        batch_size: sentences per forward pass; it changes speed and memory, not the scores.
        bootstrap_samples: resamples (of images) for the 95 % intervals; 0 = no intervals.
        seed: of the resampling.
        progress: show a progress bar over the images.
        device: where to run, the model is moved there; None = where it is.
        max_images: stop after so many images; None = all.

    Raises:
        ValueError: unknown protocol, numbers out of range, no image, or a mask that does not have its image's size
            (the message names image and sentence).
        NotFiniteError: the model answers with NaN or infinity (the message names the image).
    """
    protocol = get_protocol(protocol)
    check_at_least_one(batch_size=batch_size, max_images=max_images)
    if bootstrap_samples < 0:
        raise ValueError(f"bootstrap_samples must not be negative, not {bootstrap_samples}; 0 = no intervals.")
    if len(dataset) == 0:
        raise ValueError("There is nothing to evaluate: the data set has no row.")
    if device is not None:
        model.to(device)
    start = time.perf_counter()
    examples = ImageExamples(dataset)
    images = len(examples) if max_images is None else min(max_images, len(examples))
    records: list[Record] = []
    with evaluation_mode(model):
        for index in tqdm(range(images), desc=f"evaluate ({protocol.name})", unit="image", disable=not progress):
            example = examples[index]
            try:
                records += _score_image(model, processor, example, protocol, batch_size)
            except NotFiniteError as error:
                raise NotFiniteError(f"Image {example['image_id']!r}: {error}") from error
    intersections, unions, no_target, present = (
        [record[name] for record in records] for name in ("intersection", "union", "no_target", "present")
    )
    counts, answers = (intersections, unions, protocol), {"no_target": no_target, "present": present}
    for record, iou in zip(records, per_sample_iou(*counts, **answers).tolist(), strict=True):
        record["iou"] = iou
    intervals = {}
    if bootstrap_samples:
        groups = [record["image_id"] for record in records]
        intervals = bootstrap_intervals(*counts, **answers, groups=groups, samples=bootstrap_samples, seed=seed)
    return EvaluationResult(
        metrics=scores_from_counts(*counts, **answers),
        intervals=intervals,
        protocol=protocol.name,
        images=images,
        sentences=len(records),
        seconds=time.perf_counter() - start,
        records=records,
    )


def with_shuffled_sentences(dataset: Dataset, seed: int = 0) -> Dataset:
    """The same images and masks, every row with the sentences of a row of another image.

    A model that reads must score far lower on it: what is left is what it can guess from the image alone.

    Args:
        dataset: rows of `load_refseg`; it is not changed.
        seed: of the permutation.

    Raises:
        ValueError: one image holds more than half of the rows, so that no such permutation exists.
    """
    source = shuffle_among_groups(dataset["image_id"], "image", seed)
    # Flattened alone, so that joining the columns does not copy the images.
    sentences = dataset.select_columns("sentences").select(source).flatten_indices()
    shuffled = concatenate_datasets([dataset.remove_columns("sentences"), sentences], axis=1)
    return shuffled.select_columns(dataset.column_names)


def shuffle_among_groups(groups: Sequence[Hashable], group_name: str, seed: int) -> NDArray[np.int64]:
    """For each row another one whose group is another: a permutation (N,).

    Args:
        groups: N names, the group of each row.
        group_name: what a group is, for the error.
        seed: of the permutation.

    Raises:
        ValueError: one group holds more than half of the rows, so that no such permutation exists.
    """
    rows_of_group: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of_group.setdefault(group, []).append(row)
    most_rows, count = max(map(len, rows_of_group.values()), default=0), len(groups)
    if 2 * most_rows > count:
        raise ValueError(
            f"One {group_name} holds {most_rows} of the {count} referents: its sentences cannot all go to other "
            f"{group_name}s. Use a data set with more {group_name}s."
        )
    generator = np.random.default_rng(seed)
    members = list(rows_of_group.values())
    order = [
        row for group in generator.permutation(len(members)) for row in generator.permutation(members[group]).tolist()
    ]
    # Rows of one group lie side by side in `order`: a step as long as the longest such run always leaves the group.
    source = np.empty(count, dtype=np.int64)
    source[order] = np.roll(order, -most_rows)
    return source


def select_worst_and_best(records: Sequence[Record], k: int, by: str = "iou") -> list[Record]:
    """The k records of lowest IoU, worst first, then the k of highest, best last; none twice.

    With fewer than 2k records all of them are returned. Equal IoUs keep their order. `by` names another number of the
    records to rank them by.
    """
    check_at_least_one(k=k)
    ranked = sorted(records, key=lambda record: record[by])
    return ranked[:k] + ranked[max(k, len(ranked) - k) :]


def predict_cases(
    model: nn.Module,
    processor: Any,
    dataset: Dataset,
    records: Sequence[Record],
    protocol: str | Protocol = "original",
) -> list[ComparisonRow]:
    """Predict single sentences again, at the image's own size, for `hf_refseg.visualization.draw_comparison`.

    Args:
        model: as in `evaluate_model`.
        processor: the model's processor.
        dataset: the data set the records come from.
        records: some of `EvaluationResult.records`; their `iou` is shown, as the evaluation measured it.
        protocol: whose mask threshold is used.

    Returns:
        One row per record, in the records' order.

    Raises:
        ValueError: a record's sentence is not in the data set.
    """
    protocol = get_protocol(protocol)
    wanted = {(record["ref_id"], record["sent_id"]): record for record in records}
    ref_ids = {record["ref_id"] for record in records}
    rows = [row for row, ref_id in enumerate(dataset["ref_id"]) if ref_id in ref_ids]
    drawn: dict[tuple[str, str], ComparisonRow] = {}
    with evaluation_mode(model):
        for example in _iterate(ImageExamples(dataset.select(rows))):
            keys = list(zip(example["ref_ids"], example["sent_ids"], strict=True))
            chosen = [index for index, key in enumerate(keys) if key in wanted]
            image, texts = example["image"], [example["texts"][index] for index in chosen]
            size = (image.height, image.width)
            predictions = _predict(model, processor, image, texts, size, protocol, batch_size=16)
            for index, (prediction, present) in zip(chosen, predictions, strict=True):
                drawn[keys[index]] = ComparisonRow(
                    image=image,
                    text=example["texts"][index],
                    truth=example["masks"][index],
                    prediction=prediction & (present is not False),
                    iou=wanted[keys[index]]["iou"],
                )
    missing = [key for key in wanted if key not in drawn]
    if missing:
        ref_id, sent_id = map(short_text, missing[0])
        raise ValueError(f"Reference {ref_id}, sentence {sent_id} is not in this data set.")
    return [drawn[record["ref_id"], record["sent_id"]] for record in records]


def _score_image(
    model: nn.Module, processor: Any, example: dict[str, Any], protocol: Protocol, batch_size: int
) -> list[Record]:
    image, texts, references = example["image"], example["texts"], example["masks"]
    size = (image.height, image.width)
    if protocol.resolution == "model":
        references = _resize_as_processor(processor, image, references)
        size = references[0].shape
    predictions = _predict(model, processor, image, texts, size, protocol, batch_size)
    records = []
    for index, ((prediction, present), reference) in enumerate(zip(predictions, references, strict=True)):
        record = {
            "image_id": example["image_id"],
            "ref_id": example["ref_ids"][index],
            "sent_id": example["sent_ids"][index],
            "text": texts[index],
            "no_target": example["no_targets"][index],
        }
        try:
            intersection, union, present = count_answer(prediction, reference, present, protocol)
        except ValueError as error:
            image_id, sent_id = short_text(record["image_id"]), short_text(record["sent_id"])
            raise ValueError(f"Image {image_id}, sentence {sent_id}: {error}") from error
        records.append({**record, "present": present, "intersection": intersection, "union": union})
    return records


def _predict(
    model: nn.Module,
    processor: Any,
    image: Image.Image,
    texts: Sequence[str],
    size: tuple[int, int],
    protocol: Protocol,
    batch_size: int,
) -> Iterator[tuple[NDArray[np.bool_], bool | None]]:
    """A mask of the given size (height, width) and the presence head's answer per text, made a batch at a time.

    The mask is boolean, and what it is without that answer, which is None where the model has no such head.
    """
    parameter = next(model.parameters())
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"]
    image_embeds = model.get_image_features(pixel_values.to(parameter.device, parameter.dtype))
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        text_inputs = processor(text=batch, return_tensors="pt").to(parameter.device)
        outputs = model(image_embeds=image_embeds, **text_inputs)
        require_finite(presence_logits=outputs.presence_logits)
        answers = [None] * len(batch) if outputs.presence_logits is None else (outputs.presence_logits > 0).tolist()
        results = processor.post_process_referring_segmentation(
            ReferringSegmentationOutput(logits=outputs.logits),
            target_sizes=[size] * len(batch),
            threshold=protocol.mask_threshold,
        )
        for result, answer in zip(results, answers, strict=True):
            yield result["mask"].cpu().numpy(), answer


def _resize_as_processor(
    processor: Any, image: Image.Image, masks: Sequence[NDArray[np.bool_]]
) -> list[NDArray[np.bool_]]:
    """The true masks as the model is trained on them, resized to its input by its processor, without its padding."""
    everything = np.ones((image.height, image.width), dtype=bool)
    inputs = processor(images=image, segmentation_maps=[everything, *masks], return_tensors="pt")
    inside, *resized = inputs["mask_labels"].numpy() != 0
    height, width = np.count_nonzero(inside[:, 0]), np.count_nonzero(inside[0])
    return [mask[:height, :width] for mask in resized]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; afterwards every module is back in its own mode (frozen parts as well)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _iterate(examples: ImageExamples) -> Iterator[dict[str, Any]]:
    return (examples[index] for index in range(len(examples)))


def check_at_least_one(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}.")
