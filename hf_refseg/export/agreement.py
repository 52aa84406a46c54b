"""How far what was exported lies from the model: logits of the graphs, and masks of graphs of whole numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..datasets_scripts.refshapes import make_scene
from ..modeling.inference_refseg import evaluation_mode
from ..modeling.modeling_refseg import RefSegPreTrainedModel
from ..onnx import ONE_GRAPH, OnnxSegmenter, open_graph
from .graphs import ANSWERS, draw_tokens

# How far logits may lie apart, as a share of the largest of them, or of 1. Of a probability that is a quarter of it
# at most, as the sigmoid is nowhere steeper.
TOLERANCE = 1e-4
# Scenes on which masks are compared where no picture is named.
SCENES = 16
SCENE_SIDE = 128


class DisagreementError(ValueError):
    """A graph says something else than the model that it was made of."""


def measure_agreement(
    model: RefSegPreTrainedModel, paths: dict[str, Path], pixel_values: Tensor, longest_text: int
) -> dict[str, Any]:
    """How far the answers of graphs lie from the model's, for other numbers of texts and tokens than were traced.

    Args:
        model: what they were made of.
        paths: the files of its graphs, by their names.
        pixel_values: an image, or a clip, that was not traced.
        longest_text: tokens of the longest text.

    Raises:
        DisagreementError: further than `TOLERANCE`, or an answer is NaN or infinite.
    """
    numbers = [(1, min(4, longest_text)), (2, longest_text), (5, min(6, longest_text))]
    load = _load_onnx if next(iter(paths.values())).suffix == ".onnx" else _load_programs
    answer = load(paths)
    largest, differences = 1.0, dict.fromkeys(ANSWERS if model.config.presence_head else ANSWERS[:1], 0.0)
    for texts, tokens in numbers:
        inputs = draw_tokens(model, texts, tokens)
        with evaluation_mode(model):
            expected = model(pixel_values=pixel_values, **inputs)
        for name, actual in zip(differences, answer(pixel_values, inputs), strict=True):
            difference = (actual - expected[name]).abs().max().item()
            largest = max(largest, expected[name].abs().max().item())
            differences[name] = max(differences[name], difference)
            if actual.shape != expected[name].shape or not difference <= TOLERANCE * largest:
                raise DisagreementError(
                    f"The exported graph disagrees with the model: {name} of {texts} texts of {tokens} tokens lie up "
                    f"to {difference:.3g} apart, where {TOLERANCE * largest:.3g} is allowed. Nothing was written; try "
                    "other versions of torch, onnxscript and onnxruntime."
                )
    return {"differences": differences, "tolerance": TOLERANCE * largest, "texts_and_tokens": numbers}


def _load_onnx(paths: dict[str, Path]) -> Any:
    sessions = [open_graph(path) for path in paths.values()]

    def answer(pixel_values: Tensor, tokens: dict[str, Tensor]) -> list[Tensor]:
        known = {"pixel_values": pixel_values.numpy()} | {name: value.numpy() for name, value in tokens.items()}
        for session in sessions:
            names = [output.name for output in session.get_outputs()]
            inputs = {each.name: known[each.name] for each in session.get_inputs()}
            results = session.run(names, inputs)
            known |= dict(zip(names, results, strict=True))
        return [torch.from_numpy(result) for result in results]

    return answer


def _load_programs(paths: dict[str, Path]) -> Any:
    programs = [torch.export.load(path).module() for path in paths.values()]

    def answer(pixel_values: Tensor, tokens: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            if tuple(paths) == ONE_GRAPH:
                return list(programs[0](pixel_values=pixel_values, **tokens))
            return list(programs[1](maps=list(programs[0](pixel_values=pixel_values)), **tokens))

    return answer


def compare_masks(
    reference: OnnxSegmenter, other: OnnxSegmenter, pictures: Sequence[tuple[Image.Image, Sequence[str]]]
) -> dict[str, Any]:
    """The intersection over union of the masks of two exports of one model, over all texts of all pictures.

    Of two empty masks it is 1.
    """
    found = [iou for picture in pictures for iou in _ious(reference, other, *picture)]
    return {
        "pictures": len(pictures),
        "masks": len(found),
        "mean_iou": float(np.mean(found)),
        "lowest_iou": float(np.min(found)),
    }


def _ious(
    reference: OnnxSegmenter, other: OnnxSegmenter, picture: Image.Image, texts: Sequence[str]
) -> Iterator[float]:
    # A picture is a video of a single frame, also to an export that takes images.
    found = (next(segmenter.segment_video([picture], texts)) for segmenter in (reference, other))
    for first, second in zip(*found, strict=True):
        union = np.logical_or(first.mask, second.mask).sum()
        yield float(np.logical_and(first.mask, second.mask).sum() / union) if union else 1.0


def generated_scenes(number: int = SCENES) -> list[tuple[Image.Image, list[str]]]:
    """Generated scenes, each with what may be said of it; the same ones each time."""
    scenes = (make_scene("val", index, SCENE_SIDE) for index in range(number))
    return [(Image.open(BytesIO(picture)), list(chain(*sentences))) for picture, sentences in scenes]
