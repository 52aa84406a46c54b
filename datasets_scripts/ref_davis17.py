"""Ref-DAVIS17: DAVIS 2017 at 480p with the expressions of four annotators."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import VOID, DataFormatError, read_json
from hf_refseg.datasets_scripts.original_files import picture_size, read_lines, read_text, require_file
from hf_refseg.datasets_scripts.records import AGAIN, checked_field, list_folder, warn_of_repeats
from hf_refseg.datasets_scripts.rows_builder import RowsConfig
from hf_refseg.datasets_scripts.video import (
    VOID_LABEL,
    VideoBuilder,
    checked_name,
    existing_frames,
    make_referent,
    make_row,
    make_sentence,
    object_number,
)
from hf_refseg.messages import name_text, short_text

# The authors' files in the order of the annotators: each of two people saw the first frame, then the whole video.
TEXT_FILES = tuple(
    f"davis_text_annotations/Davis17_{name}.txt"
    for name in ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
)
META_FILES = tuple(f"meta_expressions/{split}/meta_expressions.json" for split in ("train", "valid"))
LIST_FILE = "ref_davis17_expressions.json"
ANNOTATORS = len(TEXT_FILES)
FRAMES = "JPEGImages/480p"
# Names of videos as the authors' files have them, and as DAVIS has them.
MISSPELLED = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
MISSPELLED_NOTE = "misspelled names of videos that are repaired"
# The folders of the label pictures of both releases of DAVIS 2017.
ANNOTATIONS = {"semi_supervised": "Annotations/480p", "unsupervised": "Annotations_unsupervised/480p"}


@dataclass
class DavisConfig(RowsConfig):
    """`annotations`: one of `ANNOTATIONS`, whose masks are taken; "" = the first of them that is there."""

    annotations: str = ""


@dataclass
class DescribedVideo:
    """A video with its expressions by object, (id, text) in the order of the annotators; no names = all frames.

    `misspelled` are the places where its name was repaired.
    """

    video_id: str
    file: Path
    frame_names: list[str] = field(default_factory=list)
    expressions: dict[int, list[tuple[str, Any]]] = field(default_factory=dict)
    misspelled: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.file}: video {name_text(self.video_id)}"


class RefDavis17(VideoBuilder):
    """Ref-DAVIS17; `data_dir` is DAVIS 2017 or the folder that holds it as `DAVIS/`, with `JPEGImages/480p`,
    `Annotations_unsupervised/480p` or `Annotations/480p` (a label picture for every frame) and
    `ImageSets/2017/{train,val}.txt`, which make the splits; and there or beside `DAVIS/` one form of the expressions:

    - `davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt`: lines `video object "expression"`, a file for each
      of the four annotators;
    - `meta_expressions/{train,valid}/meta_expressions.json` in the form of Refer-YouTube-VOS;
    - `ref_davis17_expressions.json`: a list of `{"video", "frames", "rest": [{"exp", "obj_id", "exp_id"}]}`.

    The two JSON forms do not name the annotators: the four expressions of an object are taken to stand in the order of
    the four files, as they do where the one form was made from the other. `annotator` is "0" to "3".

    The unsupervised label pictures were drawn anew, without regard to the expressions. Every object that they show is
    a referent, without sentences where nobody describes it, and every object that is described is one, without masks
    where they do not show it: a protocol that compares all objects of a video needs both.
    """

    BUILDER_CONFIG_CLASS = DavisConfig
    config: DavisConfig

    def __init__(self, data_dir: str, annotations: str = "", **options: Any):
        if annotations not in ("", *ANNOTATIONS):
            raise ValueError(f"Unknown annotations {short_text(annotations)}: choose one of {', '.join(ANNOTATIONS)}.")
        folder = Path(data_dir)
        # The expressions may lie beside it.
        is_davis = folder.name == "DAVIS" and not (folder / "DAVIS").is_dir()
        root = folder.parent if is_davis else folder
        super().__init__(data_dir=str(root), annotations=annotations, **options)

    @classmethod
    def annotation_files(cls, root: Path, splits: tuple[str, ...]) -> list[Path]:
        return [*_list_files(_davis_folder(root), splits), *_expression_files(root)]

    @classmethod
    def mask_files(cls, root: Path, splits: tuple[str, ...]) -> Iterable[Path]:
        for folder in ANNOTATIONS.values():
            yield from (_davis_folder(root) / folder).glob("*/*.png")

    def read_videos(self, root: Path) -> dict[str, list[DescribedVideo]]:
        davis, chosen = _davis_folder(root), self.config.annotations
        annotations = _find_annotations(davis, chosen)
        if annotations == "unsupervised" and not chosen:
            self.findings.note(
                "masks that are read because those of protocol davis are not here",
                f"{davis / ANNOTATIONS[annotations]}: annotations='unsupervised', for protocol davis_unsupervised",
            )
        files = _expression_files(root)
        described = self._read_texts(files) if files[0].suffix == ".txt" else self._read_json_forms(files)
        splits = {}
        for path in _list_files(davis, self.config.splits):
            listed = read_text(path).split()
            warn_of_repeats(str(path), "videos", listed, "each of them counts once")
            names = list(dict.fromkeys(listed))
            # Of a split that is not wanted the expressions need not be there.
            if described.keys() & names:
                splits[path.stem] = [described[name] for name in names if self._is_described(name, described, path)]
        if not splits:
            raise DataFormatError(
                f"{files[0].parent} has no expressions for any video of ImageSets/2017/{{train,val}}.txt. {AGAIN}"
            )
        for video in (video for videos in splits.values() for video in videos):
            for place in video.misspelled:
                self.findings.note(MISSPELLED_NOTE, place)
        return splits

    def _is_described(self, name: str, described: Mapping[str, DescribedVideo], path: Path) -> bool:
        with self.findings.skipping():
            if name not in described:
                raise DataFormatError(f"{path}: video {name_text(name)} has no expressions. {AGAIN}")
        return name in described

    def row(self, video: DescribedVideo) -> dict[str, Any]:
        davis = _davis_folder(Path(self.config.data_dir))
        annotations, folder = _find_annotations(davis, self.config.annotations), davis / FRAMES / video.video_id
        names = video.frame_names or sorted(checked_name(path.stem, video.where) for path in folder.glob("*.jpg"))
        frames = existing_frames((folder / f"{name}.jpg" for name in names), f"{video.where} ({folder})")
        labels = [davis / ANNOTATIONS[annotations] / video.video_id / f"{name}.png" for name in names]
        sentences: dict[int, list[dict[str, str]]] = {}
        for number, expressions in video.expressions.items():
            with self.findings.skipping():
                sentences[number] = _sentences(video, number, expressions)
        if annotations == "unsupervised":
            referents = self._all_referents(video, frames, labels, sentences)
        else:
            masks = self.label_masks(frames, labels, video.where, sentences)
            referents = self.label_referents(video.video_id, sentences, masks, video.where)
        return make_row(video.video_id, names, frames, referents)

    def _all_referents(
        self, video: DescribedVideo, frames: list[Path], labels: list[Path], sentences: dict[int, list]
    ) -> list[dict[str, Any]]:
        """A referent for each object that is shown or described, and one for the pixels that were left open."""
        masks = self.label_masks(frames, labels, video.where)
        void = masks.pop(VOID_LABEL, None)
        empty = [encode_mask(np.zeros(picture_size(frame, video.where), dtype=bool)) for frame in frames]
        for number in sorted(sentences.keys() - masks.keys()):
            self.findings.note(
                "described objects that no label picture shows: their masks are empty",
                f"{video.where}: object {number}",
            )
        referents = [
            make_referent(
                f"{video.video_id}_{number}", sentences.get(number, []), range(len(frames)), masks.get(number, empty)
            )
            for number in sorted(masks.keys() | sentences.keys())
        ]
        if void is not None:
            referents.append(make_referent(f"{video.video_id}_{VOID}", [], range(len(frames)), void, category=VOID))
        return referents

    def _read_texts(self, files: list[Path]) -> dict[str, DescribedVideo]:
        videos: dict[str, DescribedVideo] = {}
        for annotator, path in enumerate(files):
            for number, line in read_lines(path):
                with self.findings.skipping():
                    _add_line(videos, line, annotator, path, f"{path}: line {number}")
        return videos

    def _read_json_forms(self, files: list[Path]) -> dict[str, DescribedVideo]:
        videos: dict[str, DescribedVideo] = {}
        for path in files:
            records, parse = (_listed, _parse_listed) if path.name == LIST_FILE else (_meta, _parse_meta)
            for where, record in records(read_json(path), path):
                with self.findings.skipping():
                    _add_expressions(videos, *parse(record, where), path, where)
        return videos


def _davis_folder(root: Path) -> Path:
    return root / "DAVIS" if (root / "DAVIS").is_dir() else root


def _find_annotations(davis: Path, chosen: str) -> str:
    """Which of `ANNOTATIONS` are read; raises `DataFormatError` unless they are there."""
    wanted = [chosen] if chosen else list(ANNOTATIONS)
    present = [name for name in wanted if (davis / ANNOTATIONS[name]).is_dir()]
    if not present:
        raise DataFormatError(
            f"{davis} has no {' or '.join(ANNOTATIONS[name] for name in wanted)}, found {list_folder(davis)}. "
            f"Download DAVIS 2017 at 480p, or choose other annotations ({', '.join(ANNOTATIONS)})."
        )
    return present[0]


def _list_files(davis: Path, splits: tuple[str, ...]) -> list[Path]:
    """The lists of the videos of the splits, none = of all that are there."""
    folder = davis / "ImageSets/2017"
    if splits:
        return [require_file(folder / f"{split}.txt", davis, "ImageSets/2017/{train,val}.txt") for split in splits]
    present = [path for split in ("train", "val") if (path := folder / f"{split}.txt").is_file()]
    return present or [require_file(folder / "val.txt", davis, "ImageSets/2017/{train,val}.txt")]


def _expression_files(root: Path) -> list[Path]:
    """The files of the first form that is there: the authors' own before those made from them."""
    folders = [root / "DAVIS", root]
    for folder in folders:
        texts = [folder / name for name in TEXT_FILES]
        if texts[0].parent.is_dir():
            return [require_file(path, folder, ", ".join(TEXT_FILES)) for path in texts]
    for folder in folders:
        for names in (META_FILES, (LIST_FILE,)):
            if present := [path for name in names if (path := folder / name).is_file()]:
                return present
    expected = f"davis_text_annotations/Davis17_*.txt, {META_FILES[0]} or {LIST_FILE}"
    return [require_file(root / LIST_FILE, root, expected)]


def _add_line(videos: dict[str, DescribedVideo], line: str, annotator: int, path: Path, where: str) -> None:
    parts = re.fullmatch(r'\s*(\S+)\s+(\d+)\s+"?(.*?)"?\s*', line)
    if parts is None:
        raise DataFormatError(f'{where} should read: video object "expression". {AGAIN}')
    video_id, shown = MISSPELLED.get(parts[1], checked_name(parts[1], where)), object_number(parts[2], where)
    video = videos.setdefault(video_id, DescribedVideo(video_id, path))
    if parts[1] != video_id:
        video.misspelled.append(f"{where}: {parts[1]} is {video_id}")
    expressions = video.expressions.setdefault(shown, [])
    if len(expressions) != annotator:
        raise DataFormatError(
            f"{where}: object {shown} of {name_text(video_id)} is described twice here, or lacks a line in an "
            f"earlier file. {AGAIN}"
        )
    expressions.append((f"{shown}-{annotator}", parts[3]))


def _meta(content: Any, path: Path) -> Iterable[tuple[str, tuple[str, Any]]]:
    """Each video of the form of Refer-YouTube-VOS with its record, after the words that name it."""
    for video_id, record in checked_field(content, "videos", dict, str(path)).items():
        yield f"{path}: video {name_text(video_id)}", (video_id, record)


def _listed(content: Any, path: Path) -> Iterable[tuple[str, Any]]:
    """Each record of a list, after the words that name it."""
    if not isinstance(content, list):
        raise DataFormatError(f"{path} should hold a list of videos, found {type(content).__name__}. {AGAIN}")
    for index, record in enumerate(content):
        yield f"{path}: record at position {index}", record


def _parse_meta(video: tuple[str, Any], where: str) -> tuple[str, list[Any], list[tuple[str, Any]]]:
    """Name, frames, and expressions with their ids."""
    video_id, record = video
    expressions = checked_field(record, "expressions", dict, where)
    return video_id, checked_field(record, "frames", list, where), list(expressions.items())


def _parse_listed(record: Any, where: str) -> tuple[str, list[Any], list[tuple[str, Any]]]:
    expressions = checked_field(record, "rest", list, where)
    ids = [str(checked_field(expression, "exp_id", (str, int), where)) for expression in expressions]
    frames = checked_field(record, "frames", list, where)
    return checked_field(record, "video", str, where), frames, list(zip(ids, expressions, strict=True))


def _add_expressions(
    videos: dict[str, DescribedVideo],
    video_id: str,
    frames: list[Any],
    expressions: list[tuple[str, Any]],
    path: Path,
    where: str,
) -> None:
    names = [checked_name(name, where) for name in frames]
    texts = [
        (
            object_number(checked_field(expression, "obj_id", (str, int), where), where),
            (sent_id, checked_field(expression, "exp", str, where)),
        )
        for sent_id, expression in expressions
    ]
    video = videos.setdefault(video_id, DescribedVideo(checked_name(video_id, where), path))
    if len(set(names)) < len(names) or video.frame_names not in ([], names):
        raise DataFormatError(f"{where} lists a frame twice, or other frames than before. {AGAIN}")
    video.frame_names = names
    for shown, text in texts:
        video.expressions.setdefault(shown, []).append(text)


def _sentences(video: DescribedVideo, number: int, expressions: list[tuple[str, Any]]) -> list[dict[str, str]]:
    """The sentences about an object, one by each annotator."""
    if len(expressions) != ANNOTATORS:
        raise DataFormatError(
            f"{video.where}: object {number} has {len(expressions)} expressions, expected {ANNOTATORS}, one by each "
            f"annotator. {AGAIN}"
        )
    return [
        make_sentence(sent_id, text, video.where, str(annotator))
        for annotator, (sent_id, text) in enumerate(expressions)
    ]
