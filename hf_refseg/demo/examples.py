"""What the demo page offers to begin with: files of a folder, or generated scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..modeling.video_refseg import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_video_file

# Of the pixels of a generated scene's side.
SCENE_SIDE = 256
SCENES = 3


@dataclass(frozen=True)
class Example:
    """A picture or a video, and expressions about it, one on each line."""

    path: Path
    expressions: str

    @property
    def is_video(self) -> bool:
        """Whether the name is that of a video."""
        return is_video_file(self.path)


def examples_in(folder: Path) -> list[Example]:
    """The pictures and videos of a folder, each with the lines of the text file that has its name, if there is one.

    Raises:
        ValueError: there is no such folder, or nothing in it; or a text is not in UTF-8.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: pass one that holds pictures, each beside a .txt file of its name.")
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]
    if not paths:
        raise ValueError(f"{folder} holds no pictures or videos: files ({', '.join(suffixes)}) are expected there.")
    return [Example(path, _read_lines(path.with_suffix(".txt"))) for path in paths]


def _read_lines(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: save it as such, one expression on each line.") from error


def write_scenes(folder: Path) -> list[Example]:
    """Scenes of RefShapes, each with sentences about some of its shapes, written to a folder."""
    from ..datasets_scripts.refshapes import make_scene

    examples = []
    for index in range(SCENES):
        picture, sentences = make_scene("test", index, SCENE_SIDE)
        path = folder / f"scene-{index + 1}.png"
        path.write_bytes(picture)
        examples.append(Example(path, "\n".join(of_referent[0] for of_referent in sentences)))
    return examples
