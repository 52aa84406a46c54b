"""Refer-YouTube-VOS from its original files: train with masks, valid and test for the evaluation server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError, read_json
from hf_refseg.datasets_scripts.records import AGAIN, checked_field
from hf_refseg.datasets_scripts.video import (
    VideoBuilder,
    checked_name,
    existing_frames,
    label_masks,
    make_referent,
    make_row,
    make_sentence,
    object_number,
    require_file,
)
from hf_refseg.messages import name_text

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class ListedVideo:
    """A video of a file of expressions; `split_folders` are searched for its frames, in this order."""

    video_id: str
    record: dict[str, Any]
    file: Path
    split_folders: tuple[Path, ...]

    @property
    def where(self) -> str:
        return f"{self.file}: video {name_text(self.video_id)}"


class ReferYouTubeVos(VideoBuilder):
    """Refer-YouTube-VOS; `data_dir` holds

    - `meta_expressions/<split>/meta_expressions.json` for train, valid, test or some of them,
    - `<split>/JPEGImages/<video>/<frame>.jpg` (the frames of test may also lie under valid, whose videos they are),
    - `train/Annotations/<video>/<frame>.png`, whose palette indices are the `obj_id`s of the expressions.

    `sent_id` is the expression's id, which is unique inside its video alone. Valid is what the valid file lists and
    the test file does not; there and in test each expression is a referent of its own, without annotated frames.
    """

    @classmethod
    def annotation_files(cls, root: Path) -> list[Path]:
        files = [root / "meta_expressions" / split / "meta_expressions.json" for split in SPLITS]
        present = [path for path in files if path.is_file()]
        if not present or (files[1] in present and files[2] not in present):
            # Without the test file the validation videos cannot be told from the test videos.
            require_file(files[2] if present else files[0], root, "meta_expressions/{train,valid,test}/*.json")
        return present

    @classmethod
    def mask_files(cls, root: Path) -> Iterable[Path]:
        return (root / "train" / "Annotations").glob("*/*.png")

    def read_videos(self, root: Path) -> dict[str, list[ListedVideo]]:
        videos = {}
        for path in self.annotation_files(root):
            split = path.parent.name
            folders = (root / split, root / "valid") if split == "test" else (root / split,)
            videos[split] = [
                ListedVideo(checked_name(video_id, str(path)), record, path, folders)
                for video_id, record in checked_field(read_json(path), "videos", dict, str(path)).items()
            ]
        if "valid" in videos:
            of_test = {video.video_id for video in videos["test"]}
            videos["valid"] = [video for video in videos["valid"] if video.video_id not in of_test]
        # A split without rows would be a file that no reader opens.
        return {split: listed for split, listed in videos.items() if listed}

    def row(self, video: ListedVideo) -> dict[str, Any]:
        where = video.where
        names = [checked_name(name, where) for name in checked_field(video.record, "frames", list, where)]
        expressions = checked_field(video.record, "expressions", dict, where)
        if len(set(names)) < len(names) or not expressions:
            raise DataFormatError(f"{where} lists a frame twice, or no expression. {AGAIN}")
        folders = [folder / "JPEGImages" / video.video_id for folder in video.split_folders]
        folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        frames = existing_frames((folder / f"{name}.jpg" for name in names), where)
        make = _train_referents if video.file.parent.name == "train" else _unannotated_referents
        return make_row(video.video_id, names, frames, make(video, expressions, frames))


def _unannotated_referents(
    video: ListedVideo, expressions: dict[str, Any], frames: list[Path]
) -> list[dict[str, Any]]:
    return [
        make_referent(
            f"{video.video_id}_{sent_id}",
            [make_sentence(sent_id, checked_field(expression, "exp", str, video.where), video.where)],
        )
        # The id becomes a folder of the submission.
        for sent_id, expression in ((checked_name(key, video.where), value) for key, value in expressions.items())
    ]


def _train_referents(video: ListedVideo, expressions: dict[str, Any], frames: list[Path]) -> list[dict[str, Any]]:
    sentences: dict[int, list[dict[str, str]]] = {}
    for sent_id, expression in expressions.items():
        number = object_number(checked_field(expression, "obj_id", (str, int), video.where), video.where)
        sentence = make_sentence(sent_id, checked_field(expression, "exp", str, video.where), video.where)
        sentences.setdefault(number, []).append(sentence)
    folder = video.split_folders[0] / "Annotations" / video.video_id
    masks = label_masks(frames, [folder / f"{frame.stem}.png" for frame in frames], sentences, video.where)
    return [
        make_referent(f"{video.video_id}_{number}", sentences[number], range(len(frames)), masks[number])
        for number in masks
    ]
