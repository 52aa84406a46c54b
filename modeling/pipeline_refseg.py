"""The pipeline "referring-image-segmentation": an image and one or more sentences in, masks as pictures out."""

from typing import Any

import numpy as np
from PIL import Image
from transformers import Pipeline

from .image_processing_refseg import read_image
from .modeling_outputs_refseg import ReferringSegmentationOutput


class ReferringSegmentationPipeline(Pipeline):
    """What the pipelines share: they load the processor as a whole, and save it."""

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_tokenizer = False
    _load_feature_extractor = False
    _pipeline_calls_generate = False

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """Saves model, processor and this pipeline's code, all that `pipeline(model=save_directory)` needs."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


class ReferringImageSegmentationPipeline(ReferringSegmentationPipeline):
    """Segments in an image what sentences mean.

    Example:

    ```python
    >>> segment = pipeline("referring-image-segmentation", model=path)
    >>> segment("dog.jpg", text=["the left dog", "the ball"])
    [{"label": "the left dog", "score": 0.93, "mask": <PIL.Image.Image>, "present": True}, ...]
    ```"""

    def __call__(
        self, images: Any, text: str | list[str], threshold: float | None = None, **kwargs
    ) -> list[dict] | list[list[dict]]:
        """Segments each text in the image, or, for a list of images, each text in each image.

        Args:
            images: an image (PIL image, path or URL) or a list of images.
            text: a sentence or a list of sentences, all for each image; an image is encoded once for all of them.
            threshold: foreground probability above which a pixel belongs to a mask; the processor's if absent.

        Returns:
            For one image a list, for several a list of lists, of a dictionary per sentence: `label` (the sentence),
            `score` (float, 0 to 1), `mask` (PIL image of mode "L", 0 or 255, as large as the upright image) and
            `present` (whether the target is there; where it is not, the mask is empty and the score 0).
        """
        texts = [text] if isinstance(text, str) else list(text)
        if threshold is not None:
            kwargs["threshold"] = threshold
        if isinstance(images, list | tuple):
            return super().__call__([{"image": image, "texts": texts} for image in images], **kwargs)
        return super().__call__({"image": images, "texts": texts}, **kwargs)

    def _sanitize_parameters(self, threshold: float | None = None, **kwargs) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(f"Unknown options {sorted(kwargs)}; this pipeline takes `text` and `threshold`.")
        return {}, {}, {} if threshold is None else {"threshold": threshold}

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        image = read_image(inputs["image"])
        features = self.processor(images=image, text=inputs["texts"], return_tensors="pt")
        return {**features.to(self.dtype), "texts": inputs["texts"], "size": (image.height, image.width)}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        texts, size = inputs.pop("texts"), inputs.pop("size")
        return {"outputs": self.model(**inputs), "texts": texts, "size": size}

    def postprocess(self, outputs: dict[str, Any], threshold: float | None = None) -> list[dict]:
        # Moving it to the CPU made it a plain ModelOutput, which has no attribute for what is None.
        output = ReferringSegmentationOutput(**outputs["outputs"])
        results = self.processor.post_process_referring_segmentation(
            output, target_sizes=[outputs["size"]] * len(outputs["texts"]), threshold=threshold
        )
        return [
            {
                "label": text,
                "score": result["score"],
                "mask": as_picture(result["mask"].numpy()),
                "present": result["present"],
            }
            for text, result in zip(outputs["texts"], results, strict=True)
        ]


def as_picture(mask: np.ndarray) -> Image.Image:
    """A boolean mask (height, width) as a picture of mode "L", 0 or 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


__all__ = ["ReferringImageSegmentationPipeline", "ReferringSegmentationPipeline", "as_picture"]
