"""Predictions for the evaluation server of Refer-YouTube-VOS: folders of PNG files, video by video, then one zip."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..data.clips import VideoExamples
from ..files import begin_folder, in_place_of, is_plain_name, only_writer, write_whole
from ..messages import BadInputError, name_text, short_text

MANIFEST = "submission.json"
ROOT = "Annotations"
# Archives of the same masks are equal byte for byte.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)

# Goes through frames for texts and gives, for each frame in order, one answer with a boolean `mask` (H, W) per text.
Segment = Callable[[Sequence[Image.Image], Sequence[str]], Iterable[Sequence[Any]]]


class SubmissionWriter:
    """Writes masks as `<folder>/Annotations/<video>/<expression id>/<frame>.png`, gray pictures of 0 and 255.

    A video's folder appears when it is complete, so a killed run goes on with the videos that `is_written` denies.

    Args:
        folder: where; it is made, or goes on from an earlier run.
        inputs: what the masks depend on (model, data set, threshold, ...), kept in `submission.json`.

    Raises:
        ValueError: the folder was begun with other inputs, or holds other files, or its `submission.json` is damaged.
    """

    def __init__(self, folder: str | PathLike[str], inputs: Mapping[str, Any]):
        self.folder = Path(folder)
        before, now = begin_folder(self.folder / MANIFEST, inputs)
        if before or now:
            raise BadInputError(
                f"{folder} was begun with {short_text(before)}, not with {short_text(now)}. Choose another folder, or "
                "delete this one."
            )

    def is_written(self, video_id: str) -> bool:
        """Whether the masks of a video are complete."""
        return (self.folder / ROOT / checked_name(video_id)).is_dir()

    def write_video(
        self,
        video_id: str,
        sent_ids: Sequence[str],
        frame_names: Sequence[str],
        masks: Iterable[Sequence[np.ndarray]],
        size: tuple[int, int],
    ) -> None:
        """Write the masks of a video as they come, replacing those of an earlier writing.

        Args:
            video_id, frame_names: as the data set names them.
            sent_ids: ids of the expressions, different ones.
            masks: for each frame, in order, one boolean mask (H, W) per expression.
            size: height and width of the frames, in pixels.

        Raises:
            ValueError: a mask of another size or kind, other numbers of masks than frames and expressions, an
                expression that comes twice, or a name that is no single part of a path. The video then does not count
                as written.
            OutputError: the disk is full; the video does not count as written either.
        """
        if len(set(sent_ids)) < len(sent_ids) or len(set(frame_names)) < len(frame_names):
            raise ValueError(
                f"Video {name_text(video_id)} has an expression or a frame twice: {short_text(sent_ids)}, "
                f"{short_text(frame_names)}. Correct the video's row."
            )
        final = self.folder / ROOT / checked_name(video_id)
        final.parent.mkdir(exist_ok=True)
        with in_place_of(final) as partial:
            _write_masks(partial, video_id, sent_ids, frame_names, masks, size)
            if final.exists():
                shutil.rmtree(final)

    def write_zip(self, path: str | PathLike[str], video_ids: Iterable[str]) -> Path:
        """Pack the masks of these videos for the server; the file appears when it is complete.

        Raises:
            ValueError: a video is not written.
        """
        video_ids = list(video_ids)
        missing = [video_id for video_id in video_ids if not self.is_written(video_id)]
        if missing:
            raise ValueError(
                f"{len(missing)} videos are not written yet, first {name_text(missing[0])}. Write them, then zip."
            )
        folders = [self.folder / ROOT / video_id for video_id in sorted(video_ids)]

        def pack(partial: Path) -> None:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
                for folder in tqdm(folders, desc="zip", unit="video"):
                    for file in sorted(folder.rglob("*.png")):
                        name = file.relative_to(self.folder).as_posix()
                        archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), file.read_bytes())

        write_whole(path, pack)
        return Path(path)


def write_submission(
    examples: VideoExamples, segment: Segment, folder: str | PathLike[str], inputs: Mapping[str, Any]
) -> Path:
    """Segment all videos and pack the masks; videos that an earlier run has written are not segmented again.

    Of several processes with one folder, one writes, and the others wait for it.

    Args:
        examples: the videos, such as those of the split valid of Refer-YouTube-VOS.
        segment: goes through the frames of a video, for example
            `functools.partial(segment_video, model, processor, window=VideoWindow(frames=None))`.
        folder, inputs: as in `SubmissionWriter`.

    Returns `<folder>/submission.zip`, for the evaluation server. Errors as in `SubmissionWriter`.
    """
    writer = SubmissionWriter(folder, inputs)
    with only_writer(writer.folder):
        return _write_videos(writer, examples, segment)


def checked_name(name: str) -> str:
    """A name that is one plain part of a path; raises `ValueError` for another one, which could lead elsewhere."""
    if not is_plain_name(name):
        raise ValueError(
            f"{short_text(name)} cannot name a file or folder. Correct the video, frame or expression id."
        )
    return name


def _write_videos(writer: SubmissionWriter, examples: VideoExamples, segment: Segment) -> Path:
    video_ids = []
    for index in tqdm(range(len(examples)), desc="segment", unit="video"):
        video = examples[index]
        video_ids.append(video["video_id"])
        if writer.is_written(video["video_id"]):
            continue
        first = video["frames"][0]
        answers = segment(video["frames"], video["texts"])
        masks = _masks_of(answers)
        writer.write_video(
            video["video_id"], video["sent_ids"], video["frame_names"], masks, (first.height, first.width)
        )
    return writer.write_zip(writer.folder / "submission.zip", video_ids)


def _masks_of(answers: Iterable[Sequence[Any]]) -> Iterator[list[np.ndarray]]:
    for of_texts in answers:
        yield [np.asarray(answer.mask) for answer in of_texts]


def _write_masks(
    target: Path,
    video_id: str,
    sent_ids: Sequence[str],
    frame_names: Sequence[str],
    masks: Iterable[Sequence[np.ndarray]],
    size: tuple[int, int],
) -> None:
    """A folder of each expression with a mask of each frame; arguments and errors as of `SubmissionWriter`."""
    folders = [target / checked_name(sent_id) for sent_id in sent_ids]
    for folder in folders:
        folder.mkdir(parents=True)
    written = 0
    for written, of_texts in enumerate(masks, start=1):
        if written > len(frame_names) or len(of_texts) != len(sent_ids):
            raise ValueError(
                f"Video {name_text(video_id)} has {len(frame_names)} frames and {len(sent_ids)} expressions; frame "
                f"{written} came with {len(of_texts)} masks."
            )
        for folder, mask in zip(folders, of_texts, strict=True):
            _write_mask(mask, size, folder / f"{checked_name(frame_names[written - 1])}.png")
    if written < len(frame_names):
        raise ValueError(f"Video {name_text(video_id)} has {len(frame_names)} frames, but masks of {written} came.")


def _write_mask(mask: np.ndarray, size: tuple[int, int], path: Path) -> None:
    if mask.dtype != bool or mask.shape != tuple(size):
        raise ValueError(
            f"The mask for {name_text(path.parent.name)}/{name_text(path.name)} is {mask.dtype} {mask.shape}, "
            f"expected bool {tuple(size)}: masks are written at the size of their frames."
        )
    Image.fromarray(mask.astype(np.uint8) * 255).save(path, format="PNG")
