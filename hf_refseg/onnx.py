"""Exported models run with onnxruntime, NumPy, Pillow and tokenizers alone: without torch, without transformers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .modeling.json_files_refseg import SavedFileError, read_mapping
from .modeling.messages_refseg import reason_of
from .modeling.picture_files_refseg import fit_longest_edge, open_image, upright_rgb
from .modeling.windows_refseg import slide, usual_overlap

SETTINGS_FILE, TOKENIZER_FILE = "export.json", "tokenizer.json"
SCHEMA_VERSION = 1
# In pixels; far more than any model takes, and so few that a damaged file asks for no more memory than there is.
MAX_SIDE = 2**14
AGAIN = "Export the model again."
# The graphs of a model by their names: language enters inside the image encoder, or meets what that makes of an image.
ONE_GRAPH, TWO_GRAPHS = ("model",), ("image_encoder", "expression_decoder")


@dataclass(frozen=True)
class ExportSettings:
    """What `export.json` says: all that is to be known of an exported model beside its graphs and its tokenizer.

    Attributes:
        method: the `model_type` of its configuration.
        format: "onnx" or "torch".
        graphs: the files of the graphs by their names: `ONE_GRAPH`, or `TWO_GRAPHS`.
        opset: version of ONNX's operators; None in another format.
        image_size: height and width in pixels that the graph takes.
        keeps_aspect_ratio: whether the longer side of an image becomes the longer one of that size, and zeros fill the
            normalized rest at the right and the bottom; otherwise the image is stretched.
        resample: the number of Pillow's filter.
        rescale_factor, mean, std: a level v of 0 to 255 goes in as (v * rescale_factor - mean) / std, color by color.
        num_frames: frames of a clip; None where images go in.
        max_text_length: tokens of a text, special ones included.
        text_truncation: as of `RefSegProcessor`.
        mask_threshold: foreground probability above which a pixel belongs to a mask.
        has_presence: whether the graph says as well, in `presence_logits`, whether there is a target.
        vocab_size: tokens of the tokenizer.
        agreement: how far the graphs' logits lay from the model's when they were compared.
        quantization: what was quantized and what that changed; None = nothing.
        hf_refseg_version: the version that wrote it.
        schema_version: of this file.
    """

    method: str
    format: str
    graphs: dict[str, str]
    opset: int | None
    image_size: tuple[int, int]
    keeps_aspect_ratio: bool
    resample: int
    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_frames: int | None
    max_text_length: int
    text_truncation: str
    mask_threshold: float
    has_presence: bool
    vocab_size: int
    agreement: dict[str, Any]
    quantization: dict[str, Any] | None
    hf_refseg_version: str
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """As JSON has types for."""
        return asdict(self)

    @classmethod
    def read(cls, folder: Path) -> ExportSettings:
        """What the file in a folder says.

        Raises:
            FileNotFoundError: there is no such file.
            SavedFileError: it is damaged, or that of a newer version.
        """
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {SETTINGS_FILE}: pass a folder that `hf-refseg export` wrote.")
        content = read_mapping(path, AGAIN)
        if content.get("schema_version") != SCHEMA_VERSION:
            raise SavedFileError(
                f"{path} has schema_version {reason_of(content.get('schema_version'))}, this version reads "
                f"{SCHEMA_VERSION}: install the version of hf_refseg that wrote it, or export the model again."
            )
        names = {field.name for field in fields(cls)}
        if content.keys() != names:
            odd = ", ".join(sorted(content.keys() ^ names))
            raise SavedFileError(f"{path} lacks, or should not hold: {reason_of(odd)}. {AGAIN}")
        settings = cls(**content)
        settings._check(path)
        return settings

    def _check(self, path: Path) -> None:
        """Raises SavedFileError for a value that no segmentation can be made with."""
        sides, colors = self.image_size, {"mean": self.mean, "std": self.std}
        usable = {
            "image_size": _are_numbers(sides, int, 2)
            and all(1 <= side <= MAX_SIDE for side in sides)
            and not (self.keeps_aspect_ratio and sides[0] != sides[1]),
            **{name: _are_numbers(values, int | float, 3) for name, values in colors.items()},
            "rescale_factor": _are_numbers([self.rescale_factor], int | float, 1),
            "resample": self.resample in set(Image.Resampling),
            "mask_threshold": _are_numbers([self.mask_threshold], int | float, 1) and 0 <= self.mask_threshold <= 1,
            "graphs": isinstance(self.graphs, dict)
            and tuple(self.graphs) in (ONE_GRAPH, TWO_GRAPHS)
            # Another name could lead out of the folder.
            and all(isinstance(file, str) and Path(file).name == file for file in self.graphs.values()),
            **{name: isinstance(getattr(self, name), bool) for name in ("keeps_aspect_ratio", "has_presence")},
            **{name: _is_count(getattr(self, name)) for name in ("max_text_length", "vocab_size")},
            "num_frames": self.num_frames is None or _is_count(self.num_frames),
        }
        usable["std"] = usable["std"] and all(self.std)
        wrong = [name for name, is_usable in usable.items() if not is_usable]
        if wrong:
            raise SavedFileError(f"{path} is damaged: it says nothing usable of {', '.join(wrong)}. {AGAIN}")


def _are_numbers(values: Any, kind: Any, count: int) -> bool:
    """Whether these are so many finite numbers of a kind; True and False are none."""
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) for value in values)
    )


def _is_count(value: Any) -> bool:
    return _are_numbers([value], int, 1) and value >= 1


@dataclass(frozen=True)
class TextMask:
    """What a text means in an image.

    Attributes:
        mask: bool (height, width), as large as the image.
        score: the mean foreground probability inside the mask, 0 for an empty one.
        present: whether the mask holds any pixel.
        probabilities: float32 (height, width), 0 to 1, how probably each pixel belongs to what the text means.
        is_found: whether the model says that there is a target at all; None in a model that does not.
    """

    mask: NDArray[np.bool_]
    score: float
    present: bool
    probabilities: NDArray[np.float32]
    is_found: bool | None


class OnnxSegmenter:
    """Segments what texts mean in images by an exported model, on the CPU.

    Needs onnxruntime, NumPy, Pillow and tokenizers. Masks are those of the model itself but for pixels whose
    probability lies within rounding (1e-4) of the threshold.

    Args:
        folder: what `hf-refseg export --format onnx` wrote.
        batch_size: texts per run; an image is encoded once for all of them where the export has two graphs.
        threads: of onnxruntime; None = one for each core.

    Example:

    ```python
    >>> from hf_refseg.onnx import OnnxSegmenter

    >>> segmenter = OnnxSegmenter("exported")
    >>> found = segmenter("photo.jpg", ["the red circle", "star on the left"])
    >>> found[0].mask, found[0].score
    ```

    Raises:
        FileNotFoundError: the folder holds no export, or not all of its files.
        ValueError: a file is damaged, or the graphs are no ONNX.
        ImportError: onnxruntime or tokenizers is not installed.
    """

    def __init__(self, folder: str | PathLike[str], *, batch_size: int = 8, threads: int | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.folder, self.batch_size = Path(folder), batch_size
        self.settings = ExportSettings.read(self.folder)
        if self.settings.format != "onnx":
            raise ValueError(
                f"{folder} holds programs of {self.settings.format}, which torch.export.load reads: export the model "
                "with --format onnx."
            )
        self._tokenizer = _load_tokenizer(self.folder)
        self._sessions = {name: open_graph(self.folder / file, threads) for name, file in self.settings.graphs.items()}

    def __call__(
        self, image: Image.Image | str | PathLike[str], texts: str | Sequence[str], threshold: float | None = None
    ) -> list[TextMask]:
        """What each text means in an image.

        Args:
            image: a PIL image of any mode, or the path of one; its EXIF orientation is applied.
            texts: a sentence or several.
            threshold: foreground probability, 0 to 1, above which a pixel belongs to a mask; the export's by default.

        Raises:
            FileNotFoundError: there is no such image.
            ValueError: it is damaged, a text is empty, the threshold is no probability, the export takes clips, or the
                model answers with NaN or infinity.
        """
        threshold = self._threshold(threshold)
        picture = upright_rgb(image) if isinstance(image, Image.Image) else open_image(Path(image))
        size = (picture.height, picture.width)
        return [_mask_of(*each, threshold) for each in self.probabilities(picture, texts, size)]

    def probabilities(
        self, image: Image.Image, texts: str | Sequence[str], size: tuple[int, int]
    ) -> Iterator[tuple[NDArray[np.float32], bool | None]]:
        """For each text `probabilities` and `is_found` of a `TextMask`, at a height and width of one's own choice.

        `image` is RGB and upright; errors are those of a call.
        """
        if self.settings.num_frames is not None:
            raise ValueError(
                f"{self.folder} takes clips of {self.settings.num_frames} frames: call segment_video, or export the "
                "model with --per-frame."
            )
        for logits, presence in self.run(self.prepare(image)[None], as_texts(texts)):
            yield self.finish(logits, self.inner_size(image), size), None if presence is None else presence > 0

    def segment_video(
        self, frames: Iterable[Image.Image], texts: str | Sequence[str], threshold: float | None = None
    ) -> Iterator[list[TextMask]]:
        """What each text means on each frame, in order, as soon as no later clip touches it.

        An export of images sees one frame at a time. One of clips sees as many as it was exported with; neighboring
        clips share half of them, at most 8, where logits are averaged, as in `segment_video` of the library. A video
        that is shorter than a clip is continued with its last frame.

        Args:
            frames: PIL images of any mode, each read once.
            texts, threshold: as of a call; errors are the same.
        """
        threshold, texts = self._threshold(threshold), as_texts(texts)
        if self.settings.num_frames is None:
            return (self(frame, texts, threshold) for frame in frames)
        reader = _ClipReader(self, texts, self.settings.num_frames)
        return ([_mask_of(*each, threshold) for each in reader.answers(frame)] for frame in slide(reader, frames))

    def _threshold(self, given: float | None) -> float:
        threshold = self.settings.mask_threshold if given is None else given
        if not 0 <= threshold <= 1:
            raise ValueError(f"A threshold is a probability, from 0 to 1, not {threshold}.")
        return threshold

    def run(
        self, pixel_values: NDArray[np.float32], texts: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.float32], float | None]]:
        """The logits of each text, padding included, and its presence logit; of an image or a clip in a batch of one.

        Raises:
            ValueError: the model answers with NaN or infinity, or its files do not belong together.
        """
        encoded = self._encode_image(pixel_values)
        session = self._sessions[tuple(self.settings.graphs)[-1]]
        for start in range(0, len(texts), self.batch_size):
            tokens = self.tokenize(texts[start : start + self.batch_size])
            logits, *presence = self._answers_of(session, {**encoded, **tokens})
            if not all(np.isfinite(each).all() for each in (logits, *presence)):
                raise ValueError(f"{self.folder} answers with NaN or infinity: its weights are damaged. {AGAIN}")
            yield from zip(logits, presence[0].tolist() if presence else [None] * len(logits), strict=True)

    def _encode_image(self, pixel_values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """What the graph that reads the texts takes of an image."""
        if tuple(self.settings.graphs) == ONE_GRAPH:
            return {"pixel_values": pixel_values}
        session = self._sessions[TWO_GRAPHS[0]]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, self._answers_of(session, {"pixel_values": pixel_values}), strict=True))

    def _answers_of(self, session: Any, inputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """What a graph makes of its inputs; raises SavedFileError where it takes others."""
        try:
            return session.run(None, inputs)
        except Exception as error:  # As in `open_graph`.
            raise SavedFileError(
                f"{self.folder} holds files that do not belong together ({reason_of(error)}). {AGAIN}"
            ) from error

    @staticmethod
    def finish(logits: NDArray[np.float32], inside: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
        """Probabilities at height and width `size` of logits, of which those `inside` are no padding."""
        return sigmoid(resize_bilinear(logits[: inside[0], : inside[1]], size))

    def inner_size(self, image: Image.Image) -> tuple[int, int]:
        """Height and width at which the model sees an image, padding left out."""
        if not self.settings.keeps_aspect_ratio:
            height, width = self.settings.image_size
            return height, width
        return fit_longest_edge(image.height, image.width, max(self.settings.image_size))

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image as the graph takes it, normalized (3, height, width)."""
        settings = self.settings
        height, width = self.inner_size(image)
        if image.size != (width, height):
            image = image.resize((width, height), settings.resample)
        scale = np.float32(settings.rescale_factor)
        mean, std = (np.asarray(values, dtype=np.float32) for values in (settings.mean, settings.std))
        colors = ((np.asarray(image, dtype=np.float32) * scale - mean) / std).transpose(2, 0, 1)
        pixels = np.zeros((3, *settings.image_size), dtype=np.float32)
        pixels[:, :height, :width] = colors
        return pixels

    def tokenize(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """`input_ids` and `attention_mask` (texts, tokens), the longest of the texts or the limit wide."""
        limit = self.settings.max_text_length
        encoded = self._tokenizer.encode_batch(list(texts))
        names = {"input_ids": "ids", "attention_mask": "attention_mask"}
        # The tokenizer cuts by itself where the end token stays.
        return {
            name: np.asarray([getattr(each, part)[:limit] for each in encoded], dtype=np.int64)
            for name, part in names.items()
        }


@dataclass
class _Frame:
    """A frame that waits for further clips; logits are sums over `num_clips` of them, one for each text."""

    pixels: NDArray[np.float32]
    inside: tuple[int, int]
    size: tuple[int, int]
    logits: NDArray[np.float32] = field(default_factory=lambda: np.zeros((), dtype=np.float32))
    presence: NDArray[np.float64] | None = None
    num_clips: int = 0


class _ClipReader:
    """Runs an export of clips along a video."""

    def __init__(self, segmenter: OnnxSegmenter, texts: Sequence[str], num_frames: int) -> None:
        self.segmenter, self.texts = segmenter, texts
        self.length, self.overlap = num_frames, usual_overlap(num_frames)

    def prepare(self, frame: Image.Image) -> _Frame:
        image = upright_rgb(frame)
        return _Frame(self.segmenter.prepare(image), self.segmenter.inner_size(image), (image.height, image.width))

    def add_clip(self, frames: Sequence[_Frame]) -> None:
        pixels = [frame.pixels for frame in frames]
        pixels += pixels[-1:] * (self.length - len(pixels))
        logits, presence = zip(*self.segmenter.run(np.stack(pixels)[None], self.texts), strict=True)
        for index, frame in enumerate(frames):
            frame.logits = frame.logits + np.stack([of_text[index] for of_text in logits])
            frame.num_clips += 1
            if presence[0] is not None:
                of_clip = np.asarray(presence, dtype=np.float64)
                frame.presence = of_clip if frame.presence is None else frame.presence + of_clip

    def answers(self, frame: _Frame) -> Iterator[tuple[NDArray[np.float32], bool | None]]:
        """`probabilities` and `is_found` of each text."""
        # Of the presence head the sign alone matters, and that of a sum is that of the mean.
        found = [None] * len(self.texts) if frame.presence is None else (frame.presence > 0).tolist()
        for logits, is_found in zip(frame.logits / frame.num_clips, found, strict=True):
            yield self.segmenter.finish(logits, frame.inside, frame.size), is_found


def open_graph(path: Path, threads: int | None = None) -> Any:
    """A graph, ready to run on the CPU by so many threads; None = one for each core. Raises as `OnnxSegmenter`."""
    onnxruntime = _require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there. {AGAIN}")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each of its states, which share no other base.
        raise SavedFileError(f"{path} is damaged ({reason_of(error)}). {AGAIN}") from error


def _load_tokenizer(folder: Path) -> Any:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there. {AGAIN}")
    tokenizers = _require("tokenizers")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # Its library raises this class, and no other.
        raise SavedFileError(f"{path} is damaged ({reason_of(error)}). {AGAIN}") from error


def _require(package: str) -> Any:
    """A package that running exports needs; raises ImportError, with what to do, where it is missing."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ImportError(f"Exported models run with {package}: pip install {package}.") from error


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """A sentence, or several, as a list; raises ValueError where one is empty or no string."""
    several = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(several):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"Text {index} of {len(several)} is empty or no string: pass a sentence.")
    return several


def _mask_of(probabilities: NDArray[np.float32], is_found: bool | None, threshold: float) -> TextMask:
    mask = np.zeros(probabilities.shape, dtype=bool) if is_found is False else probabilities > threshold
    present = bool(mask.any())
    return TextMask(mask, float(probabilities[mask].mean()) if present else 0.0, present, probabilities, is_found)


def resize_bilinear(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (rows, columns) at another size, as PyTorch's bilinear interpolation without aligned corners has it."""
    for axis, wanted in enumerate(size):
        given = values.shape[axis]
        if given != wanted:
            places = np.maximum((np.arange(wanted, dtype=np.float32) + 0.5) * np.float32(given / wanted) - 0.5, 0)
            first = np.minimum(places.astype(np.int64), given - 1)
            weight = (places - first).astype(np.float32)
            weight = weight[:, None] if axis == 0 else weight
            second = np.minimum(first + 1, given - 1)
            values = values.take(first, axis) * (1 - weight) + values.take(second, axis) * weight
    return values


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


__all__ = ["ExportSettings", "OnnxSegmenter", "TextMask"]
