"""Exported models as systems; `hf_refseg.onnx` runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..evaluation.systems import Answer, System
from ..files import hash_file
from ..modeling.inference_refseg import as_probability
from ..onnx import SETTINGS_FILE, OnnxSegmenter


class ExportedSystem(System):
    """An exported model as a system, of images or clips.

    Args:
        segmenter: the export.
        name: how results name it.
        threshold: as of `System`; None = the export's.
    """

    def __init__(self, segmenter: OnnxSegmenter, *, name: str = "", threshold: float | None = None) -> None:
        self.segmenter, self.name = segmenter, name or str(segmenter.folder)
        self.threshold = segmenter.settings.mask_threshold if threshold is None else as_probability(threshold)
        self.sees_clips = segmenter.settings.num_frames is not None

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return self._segment(image, texts, (image.height, image.width))

    def segment_at_model_size(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return self._segment(image, texts, self.segmenter.inner_size(image))

    def _segment(self, image: Image.Image, texts: Sequence[str], size: tuple[int, int]) -> Iterator[Answer]:
        for probabilities, is_found in self.segmenter.probabilities(image, texts, size):
            yield Answer(probabilities, present=is_found)

    def segment_video(self, frames: Iterable[Image.Image], texts: Sequence[str]) -> Iterator[list[Answer]]:
        found = self.segmenter.segment_video(frames, texts)
        return ([Answer(each.probabilities, present=each.is_found) for each in of_frame] for of_frame in found)

    def describe(self) -> dict[str, Any]:
        folder = self.segmenter.folder
        files = [SETTINGS_FILE, *self.segmenter.settings.graphs.values()]
        digest = hashlib.sha256("".join(hash_file(folder / file) for file in files).encode())
        return {**super().describe(), "weights": digest.hexdigest(), "batch_size": self.segmenter.batch_size}


def is_exported(name: str) -> bool:
    """Whether a name is that of a folder that `hf-refseg export` wrote."""
    return (Path(name) / SETTINGS_FILE).is_file()


def load(name: str, *, device: str | None, dtype: str | None, **options: Any) -> ExportedSystem:
    """The export in a folder.

    Args:
        name: the folder.
        device: "cpu", which is None as well.
        dtype: "float32", which is None as well; integers are chosen when a model is exported.
        options: `threshold` of `ExportedSystem`, `batch_size` of `OnnxSegmenter`.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `OnnxSegmenter`, or another device or type.
    """
    if device not in (None, "cpu"):
        raise ValueError(f"{name} is exported and runs on the CPU, not on {device}: leave out --device.")
    if dtype not in (None, "float32"):
        raise ValueError(f"{name} is exported in its own number format, not in {dtype}: leave out --dtype.")
    batch_size = options.pop("batch_size", 8)
    return ExportedSystem(OnnxSegmenter(name, batch_size=batch_size), name=name, **options)
