"""Ref-DAVIS17: DAVIS 2017 at 480p with the expressions of four annotators."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError, read_json
from hf_refseg.datasets_scripts.records import AGAIN, checked_field, warn_of_repeats
from hf_refseg.datasets_scripts.video import (
    VideoBuilder,
    checked_name,
    existing_frames,
    label_masks,
    make_referent,
    make_row,
    make_sentence,
    object_number,
    read_text,
    require_file,
)
from hf_refseg.messages import name_text

# The authors' files in the order of the annotators: each of two people saw the first frame, then the whole video.
TEXT_FILES = tuple(
    f"davis_text_annotations/Davis17_{name}.txt"
    for name in ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
)
META_FILES = tuple(f"meta_expressions/{split}/meta_expressions.json" for split in ("train", "valid"))
LIST_FILE = "ref_davis17_expressions.json"
ANNOTATORS = len(TEXT_FILES)


@dataclass
class DescribedVideo:
    """A video with its expressions by object, (id, text) in the order of the annotators; no names = all frames."""

    video_id: str
    file: Path
    frame_names: list[str] = field(default_factory=list)
    expressions: dict[int, list[tuple[str, Any]]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.file}: video {name_text(self.video_id)}"


class RefDavis17(VideoBuilder):
    """Ref-DAVIS17; `data_dir` is laid out as DAVIS 2017, with `JPEGImages/480p`, `Annotations/480p` (a label picture
    for every frame) and `ImageSets/2017/{train,val}.txt`, which make the splits, and one form of the expressions:

    - `davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt`: lines `video object "expression"`, a file for each
      of the four annotators;
    - `meta_expressions/{train,valid}/meta_expressions.json` in the form of Refer-YouTube-VOS;
    - `ref_davis17_expressions.json`: a list of `{"video", "frames", "rest": [{"exp", "obj_id", "exp_id"}]}`.

    The two JSON forms do not name the annotators: the four expressions of an object are taken to stand in the order of
    the four files, as they do where the one form was made from the other. `annotator` is "0" to "3".
    """

    @classmethod
    def annotation_files(cls, root: Path) -> list[Path]:
        lists = [path for split in ("train", "val") if (path := root / "ImageSets/2017" / f"{split}.txt").is_file()]
        if not lists:
            require_file(root / "ImageSets/2017/val.txt", root, "ImageSets/2017/{train,val}.txt")
        return [*lists, *_expression_files(root)]

    @classmethod
    def mask_files(cls, root: Path) -> Iterable[Path]:
        return (root / "Annotations" / "480p").glob("*/*.png")

    def read_videos(self, root: Path) -> dict[str, list[DescribedVideo]]:
        files = _expression_files(root)
        described = _read_texts(files) if files[0].suffix == ".txt" else _read_json_forms(files)
        splits = {}
        for path in (path for path in self.annotation_files(root) if path.parent.name == "2017"):
            listed = read_text(path).split()
            warn_of_repeats(str(path), "videos", listed, "each of them counts once")
            names = list(dict.fromkeys(listed))
            absent = [name for name in names if name not in described]
            if len(absent) == len(names):
                # Of a split that is not wanted the expressions need not be there.
                continue
            if absent:
                raise DataFormatError(
                    f"{path}: video {name_text(absent[0])} has no expressions in {files[0].parent}. {AGAIN}"
                )
            splits[path.stem] = [described[name] for name in names]
        if not splits:
            raise DataFormatError(
                f"{files[0].parent} has no expressions for any video of ImageSets/2017/{{train,val}}.txt. {AGAIN}"
            )
        return {split: videos for split, videos in splits.items() if videos}

    def row(self, video: DescribedVideo) -> dict[str, Any]:
        root = Path(self.config.data_dir)
        folder = root / "JPEGImages" / "480p" / video.video_id
        names = video.frame_names or sorted(checked_name(path.stem, video.where) for path in folder.glob("*.jpg"))
        frames = existing_frames((folder / f"{name}.jpg" for name in names), f"{video.where} ({folder})")
        labels = [root / "Annotations" / "480p" / video.video_id / f"{name}.png" for name in names]
        masks = label_masks(frames, labels, video.expressions, video.where)
        referents = []
        for number in masks:
            expressions = video.expressions[number]
            if len(expressions) != ANNOTATORS:
                raise DataFormatError(
                    f"{video.where}: object {number} has {len(expressions)} expressions, expected {ANNOTATORS}, one "
                    f"by each annotator. {AGAIN}"
                )
            sentences = [
                make_sentence(sent_id, text, video.where, str(annotator))
                for annotator, (sent_id, text) in enumerate(expressions)
            ]
            referents.append(make_referent(f"{video.video_id}_{number}", sentences, range(len(frames)), masks[number]))
        return make_row(video.video_id, names, frames, referents)


def _expression_files(root: Path) -> list[Path]:
    """The files of the first form that is there: the authors' own before those made from them."""
    texts, meta = ([root / name for name in names] for names in (TEXT_FILES, META_FILES))
    if texts[0].parent.is_dir():
        return [require_file(path, root, ", ".join(TEXT_FILES)) for path in texts]
    present = [path for path in meta if path.is_file()]
    expected = f"davis_text_annotations/Davis17_*.txt, {META_FILES[0]} or {LIST_FILE}"
    return present or [require_file(root / LIST_FILE, root, expected)]


def _read_texts(files: list[Path]) -> dict[str, DescribedVideo]:
    videos: dict[str, DescribedVideo] = {}
    for annotator, path in enumerate(files):
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            parts = re.fullmatch(r'\s*(\S+)\s+(\d+)\s+"?(.*?)"?\s*', line)
            if parts is None:
                raise DataFormatError(f'{where} should read: video object "expression". {AGAIN}')
            video_id, shown = checked_name(parts[1], where), object_number(parts[2], where)
            video = videos.setdefault(video_id, DescribedVideo(video_id, path))
            expressions = video.expressions.setdefault(shown, [])
            if len(expressions) != annotator:
                raise DataFormatError(
                    f"{where}: object {shown} of {name_text(video_id)} is described twice here, or lacks a line in an "
                    f"earlier file. {AGAIN}"
                )
            expressions.append((f"{shown}-{annotator}", parts[3]))
    return videos


def _read_json_forms(files: list[Path]) -> dict[str, DescribedVideo]:
    videos: dict[str, DescribedVideo] = {}
    for path in files:
        content = read_json(path)
        for video_id, frames, expressions in (
            _listed(content, path) if path.name == LIST_FILE else _meta(content, path)
        ):
            where = f"{path}: video {name_text(video_id)}"
            video = videos.setdefault(video_id, DescribedVideo(checked_name(video_id, where), path))
            names = [checked_name(name, where) for name in frames]
            if len(set(names)) < len(names) or video.frame_names not in ([], names):
                raise DataFormatError(f"{where} lists a frame twice, or other frames than before. {AGAIN}")
            video.frame_names = names
            for sent_id, expression in expressions:
                shown = object_number(checked_field(expression, "obj_id", (str, int), where), where)
                video.expressions.setdefault(shown, []).append((sent_id, checked_field(expression, "exp", str, where)))
    return videos


def _meta(content: Any, path: Path) -> Iterable[tuple[str, list[Any], list[tuple[str, Any]]]]:
    for video_id, record in checked_field(content, "videos", dict, str(path)).items():
        where = f"{path}: video {name_text(video_id)}"
        expressions = checked_field(record, "expressions", dict, where)
        yield video_id, checked_field(record, "frames", list, where), list(expressions.items())


def _listed(content: Any, path: Path) -> Iterable[tuple[str, list[Any], list[tuple[str, Any]]]]:
    if not isinstance(content, list):
        raise DataFormatError(f"{path} should hold a list of videos, found {type(content).__name__}. {AGAIN}")
    for index, record in enumerate(content):
        where = f"{path}: record at position {index}"
        expressions = checked_field(record, "rest", list, where)
        ids = [str(checked_field(expression, "exp_id", (str, int), where)) for expression in expressions]
        frames = checked_field(record, "frames", list, where)
        yield checked_field(record, "video", str, where), frames, list(zip(ids, expressions, strict=True))
