"""What can be evaluated: anything that answers what texts mean in an image, and the models of this library as such."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..modeling.inference_refseg import (
    WHOLE_VIDEO,
    PreparedImage,
    VideoWindow,
    as_probability,
    prepare_image,
    probabilities_of_images,
    video_probabilities,
)
from ..modeling.modeling_outputs_refseg import NotFiniteError
from .reading import read_ahead


@dataclass(frozen=True, eq=False)
class Answer:
    """What a system says that a text means in an image, or on a frame of a video: probabilities, or a mask.

    Attributes:
        probabilities: floating (height, width), 0 to 1, how probably each pixel belongs to it; None = `mask` says.
        mask: bool (height, width); a mask that `present` holds back stays as it is. None = `probabilities` say.
        score: 0 to 1, how sure the system is; None = the mean probability inside the mask, 1 where there is a mask
            alone, and 0 for an empty one.
        present: whether the system says that there is a target; None = the mask alone tells.

    Raises:
        ValueError: both or neither of `probabilities` and `mask`, another shape or type, or numbers out of range.
        NotFiniteError: a probability or the score is NaN or infinite.
    """

    probabilities: NDArray[np.floating] | None = None
    mask: NDArray[np.bool_] | None = None
    score: float | None = None
    present: bool | None = None

    def __post_init__(self) -> None:
        if (self.probabilities is None) == (self.mask is None):
            raise ValueError("An answer is either a mask or probabilities: give one of the two.")
        kind, values = ("probabilities", self.probabilities) if self.mask is None else ("mask", self.mask)
        wanted = np.floating if self.mask is None else np.bool_
        if not isinstance(values, np.ndarray) or values.ndim != 2 or not np.issubdtype(values.dtype, wanted):
            found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            raise ValueError(f"The {kind} of an answer are a {wanted.__name__} array (height, width), not {found}.")
        numbers = [] if self.score is None else [self.score]
        if self.mask is None and values.size:
            # NaN is the least and the largest one where there is any.
            numbers += [float(values.min()), float(values.max())]
        if not all(math.isfinite(number) for number in numbers):
            raise NotFiniteError("An answer holds NaN or infinity: the system that gave it is damaged.")
        if not all(0 <= number <= 1 for number in numbers):
            raise ValueError(f"Probabilities and the score of an answer lie between 0 and 1, not at {numbers}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._values.shape
        return height, width

    @property
    def _values(self) -> NDArray[Any]:
        """The mask or the probabilities, of which there is one."""
        return cast("NDArray[Any]", self.probabilities if self.mask is None else self.mask)

    def foreground(self, threshold: float) -> NDArray[np.bool_]:
        """The mask, also where `present` holds it back: pixels whose probability exceeds a threshold."""
        return self._values > threshold if self.mask is None else self.mask

    def shown_mask(self, threshold: float) -> NDArray[np.bool_]:
        """The mask, empty where `present` holds it back."""
        foreground = self.foreground(threshold)
        return np.zeros_like(foreground) if self.present is False else foreground

    def score_at(self, threshold: float) -> float:
        """The score, of answers without one that of the mask at this threshold."""
        if self.score is not None:
            return float(self.score)
        mask = self.shown_mask(threshold)
        if not mask.any():
            return 0.0
        return 1.0 if self.mask is not None else float(self._values[mask].mean())

    def competing_probabilities(self) -> NDArray[np.floating]:
        """Probabilities where texts compete for pixels: 0 all over where `present` holds the mask back.

        Inside of a mask they lie above a half, in the order of the scores.
        """
        if self.present is False:
            return np.zeros(self.size, dtype=np.float32)
        if self.mask is None:
            return self._values
        return np.where(self.mask, np.float32(0.5 + 0.5 * self.score_at(0.5)), np.float32(0))


class System(ABC):
    """Anything that answers what texts mean in an image. A subclass needs `name` and `segment`.

    Attributes:
        name: how results name it.
        threshold: foreground probability, 0 to 1, above which a pixel belongs to a mask where a protocol names none.
        gives_masks: whether all of its answers are masks, to which no threshold matters.
        sees_clips: whether what it says of a frame depends on the frames around it; one that sees single images is
            shown the annotated ones alone.
        images_at_once: how many consecutive images of a data set `segment_images` is handed together.
    """

    name: str
    threshold: float = 0.5
    gives_masks: bool = False
    sees_clips: bool = False
    images_at_once: int = 16

    @abstractmethod
    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterable[Answer]:
        """One answer for each text, in their order, as large as the image.

        Args:
            image: RGB, upright.
            texts: one or more.
        """

    def segment_at_model_size(self, image: Image.Image, texts: Sequence[str]) -> Iterable[Answer]:
        """As `segment`, at the size at which the system sees the image, for protocols that compare masks there.

        Raises:
            ValueError: the system has no such size.
        """
        raise ValueError(
            f"{self.name} answers at the size of the image alone, and the protocol compares masks at the size that a "
            "model sees: choose a protocol that compares them at the image's own, such as original."
        )

    def preparation(self) -> Callable[[Image.Image, Sequence[str]], Any]:
        """What can be done with an image and its texts in worker processes, which the system itself does not enter.

        Its results go to `segment_images`. By default it hands image and texts on.
        """
        return _hand_on

    def segment_images(self, prepared: Sequence[Any], resolution: str) -> Iterator[Answer]:
        """One answer for each text of the first image, then of the second, and so on; by default image by image.

        Args:
            prepared: what `preparation` made of the images.
            resolution: of a `Protocol`: `"original"`, as `segment`, or `"model"`, as `segment_at_model_size`.
        """
        segment = self.segment_at_model_size if resolution == "model" else self.segment
        for image, texts in prepared:
            yield from one_answer_each(self.name, segment(image, texts), len(texts)) if texts else ()

    def segment_video(self, frames: Iterable[Image.Image], texts: Sequence[str]) -> Iterator[Sequence[Answer]]:
        """For each frame, in order, one answer for each text; by default frame by frame."""
        return (list(self.segment(frame, texts)) for frame in frames)

    def describe(self) -> dict[str, Any]:
        """What the answers depend on, as JSON has types for; by default name and threshold.

        An unfinished evaluation goes on only where it is the same.
        """
        return {"system": self.name, "threshold": self.threshold}


class OneModelSystem(System):
    """A system that is one model with its processor.

    Args:
        model: on any device; it runs in evaluation mode.
        processor: its processor.
        name: how results name it.
        batch_size: texts per forward pass.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, batch_size: int) -> None:
        self.model, self.processor, self.name, self.batch_size = model, processor, name, batch_size

    def describe(self) -> dict[str, Any]:
        """As of any system, with all else that masks depend on."""
        return {
            **super().describe(),
            "weights": hash_tensors(self.model.state_dict()),
            "processor": self.processor.to_dict(),
            "batch_size": self.batch_size,
        }


class BatchedSystem(OneModelSystem):
    """One whose processor prepares images in worker processes, and whose model answers several of them together.

    A subclass needs `segment_images`, of what `prepare_image` makes. Arguments are those of `OneModelSystem`.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, batch_size: int) -> None:
        super().__init__(model, processor, name=name, batch_size=batch_size)
        # So many images fill a pass, even with a single text each.
        self.images_at_once = batch_size

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return self.segment_images([self.preparation()(image, texts)], "original")

    def segment_at_model_size(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return self.segment_images([self.preparation()(image, texts)], "model")

    def preparation(self) -> Callable[[Image.Image, Sequence[str]], PreparedImage]:
        return partial(prepare_image, self.processor)

    @abstractmethod
    def segment_images(self, prepared: Sequence[PreparedImage], resolution: str) -> Iterator[Answer]:
        """As of `System`."""


class ModelSystem(BatchedSystem):
    """A model of this library as a system.

    Args:
        model: follows the library's contract, for images or clips; its training mode is restored.
        processor: the model's processor.
        name: how results name it.
        threshold: as of `System`; None = the processor's.
        window: how the model goes through a video.
        batch_size: texts per forward pass.

    Raises:
        ValueError: the threshold is no probability.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        name: str = "",
        threshold: float | None = None,
        window: VideoWindow = WHOLE_VIDEO,
        batch_size: int = 16,
    ) -> None:
        super().__init__(model, processor, name=name or type(model).__name__, batch_size=batch_size)
        self.window = window
        self.threshold = processor.image_processor.mask_threshold if threshold is None else as_probability(threshold)

    @property  # Of a system as such a plain attribute, which a subclass may set.
    def sees_clips(self) -> bool:  # type: ignore[override]
        """Whether the model sees clips, rather than one frame at a time."""
        return self.window.shows_clips(self.model)

    def segment_images(self, prepared: Sequence[PreparedImage], resolution: str) -> Iterator[Answer]:
        sizes = [image.size for image in prepared]
        if resolution == "model":
            sizes = [self.processor.image_processor.input_size(*size) for size in sizes]
        maps = probabilities_of_images(self.model, self.processor, prepared, sizes=sizes, batch_size=self.batch_size)
        return (Answer(each.probabilities.cpu().numpy(), present=each.is_found) for each in maps)

    def segment_video(self, frames: Iterable[Image.Image], texts: Sequence[str]) -> Iterator[list[Answer]]:
        maps = video_probabilities(
            self.model, self.processor, frames, texts, window=self.window, batch_size=self.batch_size
        )
        return ([Answer(each.probabilities.numpy(), present=each.is_found) for each in of_frame] for of_frame in maps)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "window": asdict(self.window)}


class AnswerSource(ABC):
    """Where the answers about the items of `ImageExamples` and `VideoExamples` come from: a system, or a file.

    Attributes:
        threshold: as of `System`.
        gives_masks: as of `System`.
        sees_clips: as of `System`.
        images_at_once: how many consecutive items of images `answer_images` is handed together.
        num_workers: processes that read ahead; 0 = this one reads what it needs.
    """

    threshold: float
    gives_masks: bool
    sees_clips: bool
    images_at_once: int = 16
    num_workers: int = 0

    def preparation(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """What becomes of an image's item in worker processes; by default it loses the image."""
        return _without_image

    def answer_images(self, examples: Sequence[dict[str, Any]], resolution: str) -> Iterator[Answer]:
        """An answer for each sentence of the first item that `preparation` made, then of the second, and so on."""
        for example in examples:
            yield from self.answer_image(example, range(len(example["texts"])), resolution)

    def describe(self) -> dict[str, Any]:
        """As of `System`."""
        return {}

    @abstractmethod
    def answer_image(self, example: dict[str, Any], places: Sequence[int], resolution: str) -> Iterable[Answer]:
        """An answer for each of the image's sentences at these places, at the `resolution` of a `Protocol`."""

    @abstractmethod
    def answer_video(
        self, example: dict[str, Any], places: Sequence[int], numbers: Sequence[int]
    ) -> Iterable[Sequence[Answer]]:
        """For each frame of these numbers, in order, an answer for each of the video's sentences at these places."""


class SystemSource(AnswerSource):
    """The answers of a system, which is asked for them."""

    def __init__(self, system: System, num_workers: int = 0) -> None:
        self.system, self.num_workers = system, num_workers
        self.threshold, self.images_at_once = system.threshold, system.images_at_once
        self.gives_masks = system.gives_masks

    @property  # Of a system as such a plain attribute, which a subclass may set.
    def sees_clips(self) -> bool:  # type: ignore[override]
        """As of the system."""
        return self.system.sees_clips

    def preparation(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return partial(_prepare, self.system.preparation())

    def answer_images(self, examples: Sequence[dict[str, Any]], resolution: str) -> Iterator[Answer]:
        texts = sum(len(example["texts"]) for example in examples)
        prepared = [example["prepared"] for example in examples if example["texts"]]
        answers = self.system.segment_images(prepared, resolution) if prepared else ()
        return one_answer_each(self.system.name, answers, texts)

    def describe(self) -> dict[str, Any]:
        return self.system.describe()

    def answer_image(self, example: dict[str, Any], places: Sequence[int], resolution: str) -> Iterable[Answer]:
        segment = self.system.segment_at_model_size if resolution == "model" else self.system.segment
        texts = [example["texts"][place] for place in places]
        return one_answer_each(self.system.name, segment(example["image"], texts), len(texts))

    def answer_video(
        self, example: dict[str, Any], places: Sequence[int], numbers: Sequence[int]
    ) -> Iterable[Sequence[Answer]]:
        frames = read_ahead(example["frames"].__getitem__, numbers, self.num_workers)
        answers = self.system.segment_video(frames, [example["texts"][place] for place in places])
        return (list(one_answer_each(self.system.name, of_frame, len(places))) for of_frame in answers)


def one_answer_each(name: str, answers: Iterable[Answer], texts: int) -> Iterator[Answer]:
    """The answers of the system of this name; raises ValueError where there are more or fewer of them than texts."""
    given = 0
    for given, answer in enumerate(answers, start=1):
        if given <= texts:
            yield answer
    if given != texts:
        raise ValueError(f"{name} gave {given} answers to {texts} texts: each needs one.")


def _hand_on(image: Image.Image, texts: Sequence[str]) -> tuple[Image.Image, Sequence[str]]:
    return image, texts


def _prepare(prepare: Callable[[Image.Image, Sequence[str]], Any], example: dict[str, Any]) -> dict[str, Any]:
    """An item with what a system makes of its image, in the place of that; without a text there is nothing to make."""
    prepared = prepare(example["image"], example["texts"]) if example["texts"] else None
    return {**_without_image(example), "prepared": prepared}


def _without_image(example: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name != "image"}


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """A hash of names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
