"""The pipeline "referring-video-segmentation": a video and one or more sentences in, a mask for every frame out."""

from collections.abc import Iterator
from typing import Any

from .pipeline_refseg import ReferringSegmentationPipeline, as_picture
from .video_refseg import FrameMask, VideoFrames, is_one_clip, segment_video

OPTIONS = ("threshold", "window", "overlap", "per_frame")


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
            options: `threshold`, `window` (`None` = the whole video at once), `overlap` and `per_frame`, as those of
                [`segment_video`]; `batch_size`, after how many videos answers are given, although the model sees one
                video after the other, in windows; and `num_workers`, as in transformers.

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
        unknown = sorted(options.keys() - set(OPTIONS))
        if unknown:
            raise TypeError(f"Unknown options {unknown}; this pipeline takes `text`, {', '.join(OPTIONS)}.")
        return {}, options, {}

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"frames": VideoFrames(inputs["video"]), "texts": inputs["texts"]}

    def _forward(self, inputs: dict[str, Any], **options) -> dict[str, Any]:
        frames, texts = inputs["frames"], inputs["texts"]
        if isinstance(frames, list):
            # A batch. Videos differ in length and size: one after the other goes through the model.
            answers = [self._segment(*video, **options) for video in zip(frames, texts, strict=True)]
        else:
            answers = self._segment(frames, texts, **options)
        return {"answers": answers, "texts": texts}

    def _segment(self, frames: VideoFrames, texts: list[str], **options) -> list[list[FrameMask]]:
        return list(segment_video(self.model, self.processor, frames, texts, **options))

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


__all__ = ["ReferringVideoSegmentationPipeline"]
