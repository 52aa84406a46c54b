"""The pipelines: an image or a video and one or more sentences in, masks as pictures out."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sized
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, Pipeline
from transformers.utils import PROCESSOR_NAME

from .inference_refseg import (
    SOME_FRAMES,
    FrameMask,
    VideoWindow,
    as_probability,
    evaluation_mode,
    find_masks,
    segment_video,
)
from .modeling_outputs_refseg import ReferringSegmentationOutput
from .pictures_refseg import read_image
from .processing_refseg import RefSegProcessor, as_sentences
from .saved_files_refseg import load_saved_tokenizer
from .video_refseg import VideoFrames, is_one_clip

VIDEO_OPTIONS = ("threshold", "window", "overlap", "per_frame")


class ReferringSegmentationPipeline(Pipeline):
    """What the pipelines share: the processor as a whole, and the forms in which inputs may come.

    A `tokenizer` and an `image_processor` replace those of the `processor`, and where both are given they make one.
    """

    _load_processor = None
    _load_image_processor = False
    _load_video_processor = False
    _load_tokenizer = False
    _load_feature_extractor = False
    _pipeline_calls_generate = False
    # What an item of the inputs is, and the key of a dictionary that holds it beside its "text".
    modality: str

    def __init__(self, model, *, processor=None, tokenizer=None, image_processor=None, **kwargs) -> None:
        super().__init__(model, tokenizer=tokenizer, image_processor=image_processor, **kwargs)
        if isinstance(tokenizer, str):
            tokenizer = load_saved_tokenizer(tokenizer)
        if isinstance(image_processor, str):
            image_processor = AutoImageProcessor.from_pretrained(image_processor)
        self.processor = self._assemble(processor, tokenizer, image_processor)
        self.model.config.check_vocabulary(len(self.processor.tokenizer))
        self.model.config.check_text_length(self.processor.max_text_length)
        self.tokenizer, self.image_processor = self.processor.tokenizer, self.processor.image_processor

    def _assemble(self, processor: Any, tokenizer: Any, image_processor: Any) -> RefSegProcessor:
        if processor is not None:
            processor = copy.copy(processor)
            processor.tokenizer = processor.tokenizer if tokenizer is None else tokenizer
            processor.image_processor = processor.image_processor if image_processor is None else image_processor
            return processor
        if tokenizer is None or image_processor is None:
            name = self.model.name_or_path
            if name and Path(name, PROCESSOR_NAME).is_file():
                # transformers keeps to itself what was wrong with it.
                load_saved_tokenizer(name, trust_remote_code=False)
            raise ValueError(
                "There is no processor that can be loaded (`AutoProcessor.from_pretrained` tells why): pass a "
                "`processor`, or a `tokenizer` and an `image_processor`."
            )
        config = self.model.config
        max_text_length = min(config.max_text_length, config.longest_text)
        return RefSegProcessor(image_processor, tokenizer, max_text_length=max_text_length)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs) -> None:
        """Saves model, processor and this pipeline's code, all that `pipeline(model=save_directory)` needs."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def is_single(self, inputs: Any) -> bool:
        """Whether this is one image or video, rather than several."""
        raise NotImplementedError

    def run_requests(self, inputs: Any, text: Any, **options) -> Any:
        """Runs the pipeline on one or several inputs in any form, as `__call__` of the pipelines says."""
        texts = None if text is None else as_sentences(text)
        several = isinstance(inputs, Iterable | Sized) and not isinstance(inputs, Mapping | bytes)
        if not several or self.is_single(inputs):
            return super().__call__(self.as_request(inputs, texts), **options)
        if isinstance(inputs, list | tuple | np.ndarray | Tensor):
            if not len(inputs):
                raise ValueError(f"There is no {self.modality}: pass one at least.")
            return super().__call__([self.as_request(each, texts) for each in inputs], **options)
        if isinstance(inputs, Sized):
            return super().__call__(_Requests(self, inputs, texts), **options)
        return super().__call__((self.as_request(each, texts) for each in inputs), **options)

    def as_request(self, item: Any, texts: list[str] | None) -> dict[str, Any]:
        """What `preprocess` takes: an image or video by the name of its modality, and its "texts"."""
        if not isinstance(item, Mapping):
            if texts is None:
                raise ValueError(f"There is no text for the {self.modality}: pass `text`, a sentence or several.")
            return {self.modality: item, "texts": texts}
        if self.modality not in item or ("text" in item) == (texts is not None):
            raise ValueError(
                f'A dictionary needs "{self.modality}" and its own "text", or `text` for all of them, not both: got '
                f"{sorted(map(str, item))}" + (" along with `text`." if texts is not None else ".")
            )
        return {self.modality: item[self.modality], "texts": texts or as_sentences(item["text"])}


class _Requests(Dataset):
    """The items of a data set as requests, each read when it is asked for."""

    def __init__(self, segment: ReferringSegmentationPipeline, items: Any, texts: list[str] | None) -> None:
        self.segment, self.items, self.texts = segment, items, texts

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.segment.as_request(self.items[index], self.texts)


class ReferringImageSegmentationPipeline(ReferringSegmentationPipeline):
    """Segments in an image what sentences mean.

    Example:

    ```python
    >>> segment = pipeline("referring-image-segmentation", model=path)
    >>> segment("dog.jpg", text=["the left dog", "the ball"])
    [{"label": "the left dog", "score": 0.93, "mask": <PIL.Image.Image>, "present": True}, ...]
    ```"""

    modality = "image"

    def __call__(
        self, images: Any, text: str | list[str] | None = None, threshold: float | None = None, **kwargs
    ) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """Segments each text in the image, or in each of several images.

        Args:
            images: an image, as `read_image` takes it (a path, a URL, a PIL image, an array or a tensor), or a
                dictionary {"image", "text"}, whose other entries do not matter; or several of these: a list, or, to be
                read one by one, a data set, a generator or any other iterable.
            text: a sentence or a list of sentences, all for each image; an image is encoded once for all of them.
                Dictionaries with a text of their own take none.
            threshold: foreground probability above which a pixel belongs to a mask; the processor's if absent.
            kwargs: `batch_size`, how many images the model sees at once, and `num_workers`, how many processes read
                them.

        Returns:
            For one image a list, for a list of images a list of lists, for anything else an iterator of lists, of a
            dictionary per sentence: `label` (the sentence), `score` (float, 0 to 1), `mask` (PIL image of mode "L", 0
            or 255, as large as the upright image) and `present` (whether the target is there; where it is not, the
            mask is empty and the score 0).

        Raises:
            ValueError: no image, no text or an empty one, a dictionary without these, or a threshold that is no
                probability; and as `read_image`, whose other errors are raised as well.
            NotFiniteError: the model answers with NaN or infinity.
        """
        if threshold is not None:
            kwargs["threshold"] = threshold
        return self.run_requests(images, text, **kwargs)

    def is_single(self, inputs: Any) -> bool:
        if isinstance(inputs, np.ndarray | Tensor):
            return inputs.ndim < 4
        return isinstance(inputs, str | PathLike | Image.Image)

    def _sanitize_parameters(self, threshold: float | None = None, **kwargs) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(f"Unknown options {sorted(kwargs)}; this pipeline takes `text` and `threshold`.")
        return {}, {}, {} if threshold is None else {"threshold": as_probability(threshold)}

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        image, texts = read_image(inputs["image"]), inputs["texts"]
        # One length for all, so that the texts of several images can be joined.
        features = self.processor(images=image, text=texts, padding="max_length", return_tensors="pt")
        size, num_texts = torch.tensor([[image.height, image.width]]), torch.tensor([len(texts)])
        return {**features.to(self.dtype), "texts": texts, "size": size, "num_texts": num_texts}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One image with all its texts, or a batch of images and the texts of all of them, one after the other."""
        texts, size, num_texts = (inputs.pop(name) for name in ("texts", "size", "num_texts"))
        is_used = inputs["attention_mask"].any(dim=0)
        words = {name: values[:, is_used] for name, values in inputs.items() if name != "pixel_values"}
        with evaluation_mode(self.model):
            if len(num_texts) == 1:
                outputs = self.model(pixel_values=inputs["pixel_values"], **words)
            else:
                images = self.model.get_image_features(inputs["pixel_values"])
                images = images.apply_to_tensors(lambda tensor: tensor.repeat_interleave(num_texts, dim=0))
                outputs = self.model(image_embeds=images, **words)
        counts, presence = num_texts.tolist(), outputs.presence_logits
        return {
            "logits": list(outputs.logits.split(counts)),
            "presence_logits": None if presence is None else list(presence.split(counts)),
            "texts": texts,
            "size": size,
        }

    def postprocess(self, outputs: dict[str, Any], threshold: float | None = None) -> list[dict]:
        # Batched or not, what comes here is a batch of one image.
        presence, texts = outputs["presence_logits"], outputs["texts"]
        output = ReferringSegmentationOutput(
            logits=outputs["logits"][0], presence_logits=None if presence is None else presence[0]
        )
        sizes = outputs["size"].tolist() * len(texts)
        found = find_masks(output, self.image_processor, sizes, threshold)
        return [
            {"label": text, "score": each.score, "mask": as_picture(each.mask.numpy()), "present": each.present}
            for text, each in zip(texts, found, strict=True)
        ]


class ReferringVideoSegmentationPipeline(ReferringSegmentationPipeline):
    """Segments in a video what sentences mean.

    Example:

    ```python
    >>> segment = pipeline("referring-video-segmentation", model=path)
    >>> segment("race.mp4", text=["the red car", "the car that overtakes it"], window=16, overlap=4)
    [{"label": "the red car", "masks": [<PIL.Image.Image>, ...], "scores": [0.93, ...], "present": True}, ...]
    ```"""

    modality = "video"

    def __call__(
        self, videos: Any, text: str | list[str] | None = None, **options: Any
    ) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """Segments each text in the video, or in each of several videos.

        Args:
            videos: a video, as [`VideoFrames`] takes it (a video file, a folder of frames, a list of frames), or a
                dictionary {"video", "text"}, whose other entries do not matter; or several of these: a list, or, to be
                read one by one, a data set, a generator or any other iterable.
            text: a sentence or a list of sentences, all for each video; frames are encoded once for all of them.
                Dictionaries with a text of their own take none.
            options: `threshold`, as that of [`segment_video`]; `window` (by default 32, `None` = the whole video at
                once), `overlap` and `per_frame`, as [`VideoWindow`] takes them; `batch_size`, after how many videos
                answers are given, although the model sees one video after the other, in windows; and `num_workers`,
                as in transformers.

        Returns:
            For one video a list, for a list of videos a list of lists, for anything else an iterator of lists, of a
            dictionary per sentence: `label` (the sentence), `masks` (for each frame a PIL image of mode "L", 0 or 255,
            as large as the upright frame), `scores` (for each frame a float, 0 to 1) and `present` (whether the target
            is there in any frame).

        Raises:
            ValueError: no video, no text or an empty one, or a dictionary without these.
            ValueError, FileNotFoundError, ImportError, TypeError: as [`VideoFrames`] and [`segment_video`].
            NotFiniteError: the model answers with NaN or infinity.
        """
        return self.run_requests(videos, text, **options)

    def is_single(self, inputs: Any) -> bool:
        return not isinstance(inputs, Iterator) and is_one_clip(inputs)

    def _sanitize_parameters(self, **options) -> tuple[dict, dict, dict]:
        unknown = sorted(options.keys() - set(VIDEO_OPTIONS))
        if unknown:
            raise TypeError(f"Unknown options {unknown}; this pipeline takes `text`, {', '.join(VIDEO_OPTIONS)}.")
        return {}, options, {}

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"frames": VideoFrames(inputs["video"]), "texts": inputs["texts"]}

    def _forward(
        self,
        inputs: dict[str, Any],
        threshold: float | None = None,
        window: int | None = SOME_FRAMES.frames,
        overlap: int | None = None,
        per_frame: bool = False,
    ) -> dict[str, Any]:
        frames, texts = inputs["frames"], inputs["texts"]
        clips = VideoWindow(window, overlap, per_frame)
        if isinstance(frames, list):
            # A batch. Videos differ in length and size: one after the other goes through the model.
            videos = zip(frames, texts, strict=True)
            return {"answers": [self._segment(*video, clips, threshold) for video in videos], "texts": texts}
        return {"answers": self._segment(frames, texts, clips, threshold), "texts": texts}

    def _segment(
        self, frames: VideoFrames, texts: list[str], window: VideoWindow, threshold: float | None
    ) -> list[list[FrameMask]]:
        return list(segment_video(self.model, self.processor, frames, texts, window=window, threshold=threshold))

    def postprocess(self, outputs: dict[str, Any]) -> list[dict]:
        return [
            {
                "label": text,
                "masks": [as_picture(answer.mask.numpy()) for answer in answers],
                "scores": [answer.score for answer in answers],
                "present": any(answer.present for answer in answers),
            }
            for text, *answers in zip(outputs["texts"], *outputs["answers"], strict=True)
        ]


def as_picture(mask: np.ndarray) -> Image.Image:
    """A boolean mask (height, width) as a picture of mode "L", 0 or 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


# The pipelines of every model, whose code travels with each of them.
PIPELINES = {
    "referring-image-segmentation": ReferringImageSegmentationPipeline,
    "referring-video-segmentation": ReferringVideoSegmentationPipeline,
}

__all__ = ["ReferringImageSegmentationPipeline", "ReferringVideoSegmentationPipeline"]
