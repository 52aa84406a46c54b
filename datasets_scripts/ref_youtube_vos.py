"""Refer-YouTube-VOS from its original files: train with masks, valid and test for the evaluation server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError, read_json
from hf_refseg.datasets_scripts.original_files import require_file
from hf_refseg.datasets_scripts.records import AGAIN, checked_field, list_folder
from hf_refseg.datasets_scripts.video import (
    VideoBuilder,
    checked_name,
    existing_frames,
    make_referent,
    make_row,
    make_sentence,
    object_number,
)
from hf_refseg.messages import name_text

SPLITS = ("train", "valid", "test")
META_FILE = "meta_expressions/{}/meta_expressions.json"
# The folders that are searched for the frames of a split, in this order: the videos of test are some of valid.
FRAME_FOLDERS = {"train": ("train",), "valid": ("valid",), "test": ("test", "valid")}


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

    @property
    def frame_folder(self) -> Path:
        """The first folder that is there, or would be."""
        folders = [folder / "JPEGImages" / self.video_id for folder in self.split_folders]
        return next((folder for folder in folders if folder.is_dir()), folders[0])


class ReferYouTubeVos(VideoBuilder):
    """Refer-YouTube-VOS; `data_dir` holds

    - `meta_expressions/<split>/meta_expressions.json` for train, valid, test or some of them,
    - `<split>/JPEGImages/<video>/<frame>.jpg` (the frames of test may also lie under valid, whose videos they are),
    - `train/Annotations/<video>/<frame>.png`, whose palette indices are the `obj_id`s of the expressions.

    `sent_id` is the expression's id, which is unique inside its video alone. Valid is what the valid file lists and
    the test file does not; there and in test each expression is a referent of its own, without annotated frames.
    Unless splits are asked for, those are made that have frames here: of test few people have more than the file of
    expressions, without which valid cannot be told. Frames that are missing from a split that is made are an error.
    """

    @classmethod
    def annotation_files(cls, root: Path, splits: tuple[str, ...]) -> list[Path]:
        files = {split: root / META_FILE.format(split) for split in SPLITS}
        wanted = [split for split in SPLITS if split in splits or (not splits and files[split].is_file())]
        if "valid" in wanted and "test" not in wanted:
            # Without the test file the validation videos cannot be told from the test videos.
            wanted.append("test")
        expected = META_FILE.format("{train,valid,test}")
        return [require_file(files[split], root, expected) for split in wanted or SPLITS[:1]]

    @classmethod
    def mask_files(cls, root: Path, splits: tuple[str, ...]) -> Iterable[Path]:
        if not splits or "train" in splits:
            yield from (root / "train" / "Annotations").glob("*/*.png")
        # Which videos have frames decides which splits are made.
        for split in SPLITS:
            yield from (root / split).glob("JPEGImages")

    def read_videos(self, root: Path) -> dict[str, list[ListedVideo]]:
        listed = {}
        for path in self.annotation_files(root, self.config.splits):
            split = path.parent.name
            folders = tuple(root / folder for folder in FRAME_FOLDERS[split])
            listed[split] = [
                ListedVideo(video_id, record, path, folders)
                for video_id, record in checked_field(read_json(path), "videos", dict, str(path)).items()
            ]
        if "valid" in listed:
            of_test = {video.video_id for video in listed["test"]}
            listed["valid"] = [video for video in listed["valid"] if video.video_id not in of_test]
        videos = {split: self._checked(listed[split]) for split in self.config.splits or listed}
        made = {split: found for split, found in videos.items() if self._has_frames(root, split, found)}
        if not made:
            raise DataFormatError(
                f"None of the videos in {root / 'meta_expressions'} has frames; {root} holds {list_folder(root)}. "
                "Download the frames of the splits that you want, into <split>/JPEGImages/<video>."
            )
        return made

    def _checked(self, videos: list[ListedVideo]) -> list[ListedVideo]:
        checked = []
        for video in videos:
            with self.findings.skipping():
                checked_name(video.video_id, str(video.file))
                checked.append(video)
        return checked

    def _has_frames(self, root: Path, split: str, videos: list[ListedVideo]) -> bool:
        """Whether a split has videos with frames; raises `DataFormatError` where it was asked for and has none."""
        if any(video.frame_folder.is_dir() for video in videos):
            return True
        places = " or ".join(f"{folder}/JPEGImages" for folder in FRAME_FOLDERS[split])
        found = f"{split}: none of its {len(videos)} videos has frames in {places}"
        if split in self.config.splits:
            raise DataFormatError(f"{root}: {found}. Download them, or leave {split} out of splits.")
        # A split without rows would be a file that no reader opens.
        if videos:
            self.findings.note("splits that are left out because their frames are not here", found)
        return False

    def row(self, video: ListedVideo) -> dict[str, Any]:
        where = video.where
        names = [checked_name(name, where) for name in checked_field(video.record, "frames", list, where)]
        expressions = checked_field(video.record, "expressions", dict, where)
        if len(set(names)) < len(names) or not expressions:
            raise DataFormatError(f"{where} lists a frame twice, or no expression. {AGAIN}")
        frames = existing_frames((video.frame_folder / f"{name}.jpg" for name in names), where)
        is_train = video.file.parent.name == "train"
        make = self._train_referents if is_train else _unannotated_referents
        return make_row(video.video_id, names, frames, make(video, expressions, frames))

    def _train_referents(
        self, video: ListedVideo, expressions: dict[str, Any], frames: list[Path]
    ) -> list[dict[str, Any]]:
        sentences: dict[int, list[dict[str, str]]] = {}
        for sent_id, expression in expressions.items():
            number = object_number(checked_field(expression, "obj_id", (str, int), video.where), video.where)
            sentence = make_sentence(sent_id, checked_field(expression, "exp", str, video.where), video.where)
            sentences.setdefault(number, []).append(sentence)
        folder = video.split_folders[0] / "Annotations" / video.video_id
        labels = [folder / f"{frame.stem}.png" for frame in frames]
        masks = self.label_masks(frames, labels, video.where, sentences)
        return self.label_referents(video.video_id, sentences, masks, video.where)


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
