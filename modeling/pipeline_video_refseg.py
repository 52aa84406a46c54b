"""The pipeline "referring-video-segmentation": a video and one or more sentences in, a mask for every frame out."""

from typing import Any

from .pipeline_refseg import ReferringSegmentationPipeline, as_picture
from .video_refseg import VideoFrames, is_one_clip, segment_video

OPTIONS = ("threshold", "window", "overlap", "per_frame")


class ReferringVideoSegmentationPipeline(ReferringSegmentationPipeline):
    """Segments in a video what sentences mean.

    Example:

    ```python
    >>> segment = pipeline("referring-video-segmentation", model=path)
    >>> segment("race.mp4", text=["the red car", "the car that overtakes it"], window=16, overlap=4)
    [{"label": "the red car", "masks": [<PIL.Image.Image>, ...], "scores": [0.93, ...], "present": True}, ...]
    ```"""

    def __call__(self, videos: Any, text: str | list[str], **options: Any) -> list[dict] | list[list[dict]]:
        """Segments each text in the video, or, for a list of videos, each text in each video.

        Args:
            videos: a video, as [`VideoFrames`] takes it (a video file, a folder of frames, a list of frames), or a
                list of videos.
            text: a sentence or a list of sentences, all for each video; frames are encoded once for all of them.
            options: `threshold`, `window` (`None` = the whole video at once), `overlap` and `per_frame`, as those of
                [`segment_video`].

        Returns:
            For one video a list, for several a list of lists, of a dictionary per sentence: `label` (the sentence),
            `masks` (for each frame a PIL image of mode "L", 0 or 255, as large as the upright frame), `scores` (for
            each frame a float, 0 to 1) and `present` (whether the target is there in any frame).

        Raises:
            ValueError, FileNotFoundError, ImportError: as [`VideoFrames`] and [`segment_video`].
        """
        texts = [text] if isinstance(text, str) else list(text)
        if is_one_clip(videos):
            return super().__call__({"video": videos, "texts": texts}, **options)
        return super().__call__([{"video": video, "texts": texts} for video in videos], **options)

    def _sanitize_parameters(self, **options) -> tuple[dict, dict, dict]:
        unknown = sorted(options.keys() - set(OPTIONS))
        if unknown:
            raise TypeError(f"Unknown options {unknown}; this pipeline takes `text`, {', '.join(OPTIONS)}.")
        return {}, options, {}

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"frames": VideoFrames(inputs["video"]), "texts": inputs["texts"]}

    def _forward(self, inputs: dict[str, Any], **options) -> dict[str, Any]:
        answers = segment_video(self.model, self.processor, inputs["frames"], inputs["texts"], **options)
        return {"answers": list(answers), "texts": inputs["texts"]}

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
