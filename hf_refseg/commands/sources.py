"""The images and videos that `hf-refseg predict` is given: files, folders and patterns, looked at one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from ..files import slug, unique_names
from ..modeling.picture_files_refseg import open_image
from ..modeling.video_refseg import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoFrames, is_video_file

# What reading a file that is absent, damaged or something else raises.
SOURCE_ERRORS = (OSError, ValueError)
Report = Callable[[Exception], None]


@dataclass(frozen=True)
class Source:
    """One image or video.

    Attributes:
        path: the image, the video file, or the folder of frames.
        name: what the files of its masks are called after, like no other one's.
        is_video: whether it is a video.
    """

    path: Path
    name: str
    is_video: bool

    def check(self) -> None:
        """Reads the whole image, or the first frame of the video.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: a video file needs PyAV, which is not installed.
            ValueError: it is damaged, too large, or something else.
        """
        if self.is_video:
            VideoFrames(self.path)
        else:
            open_image(self.path)


def name_of_pictures(path: Path, is_video: bool) -> str:
    """What the pictures made of an image or a video are called, by the name of its file."""
    return slug(path.stem) or ("video" if is_video else "image")


def find_sources(arguments: Iterable[Path], all_videos: bool, report: Report) -> list[Source]:
    """What arguments of the command line mean, each file once, in the order given.

    An argument is a file; a folder, which means the image and video files in it, or with `all_videos` the video whose
    frames lie in it; or a pattern, where nothing has that very name (`*`, `?`, `[...]`, and `**` for folders in
    folders).

    Args:
        arguments: the arguments; whether a file that they name can be read is not looked at.
        all_videos: whether each file and folder is a video; else those are whose names end like a video file's.
        report: is given what is wrong with an argument that means nothing.
    """
    paths: dict[Path, None] = {}
    for path in (path for argument in arguments for path in _matching(argument)):
        try:
            paths |= dict.fromkeys([path] if all_videos or not path.is_dir() else _files_in(path))
        except SOURCE_ERRORS as error:
            report(error)
    videos = [all_videos or is_video_file(path) for path in paths]
    names = unique_names(name_of_pictures(*source) for source in zip(paths, videos, strict=True))
    return [Source(*source) for source in zip(paths, names, videos, strict=True)]


def keep_readable(sources: Iterable[Source], report: Report) -> list[Source]:
    """The sources that can be read; what is wrong with the others goes to `report`."""
    readable = []
    for source in sources:
        try:
            source.check()
        except SOURCE_ERRORS as error:
            report(error)
        else:
            readable.append(source)
    return readable


def _matching(argument: Path) -> list[Path]:
    """The files and folders that a pattern means; the argument itself where it is none, or means nothing.

    Folders in front of it that exist mean themselves.
    """
    if argument.exists():
        return [argument]
    folder = next(parent for parent in argument.parents if parent.exists())
    found = glob(str(argument.relative_to(folder)), root_dir=folder, recursive=True)
    return sorted(folder / name for name in found) or [argument]


def _files_in(folder: Path) -> list[Path]:
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    files = (path for path in sorted(folder.iterdir()) if not path.is_dir() and not path.name.startswith("."))
    found = [path for path in files if path.suffix.lower() in suffixes]
    if not found:
        raise ValueError(f"{folder} holds no images or videos: files ({', '.join(suffixes)}) are expected there.")
    return found
