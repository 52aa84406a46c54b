"""Loading the video data sets that are read from their original files."""

from __future__ import annotations

from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import build_rows
from .rows import DataFormatError

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hf_refseg.datasets_scripts.video import VideoBuilder

PACKAGES = {"a2d_sentences": "h5py", "jhmdb_sentences": "scipy"}


def load_video_dataset(
    name: str, data_dir: str | PathLike[str] | None, cache_dir: str | PathLike[str] | None = None, **options: Any
) -> DatasetDict:
    """Load one of `VIDEO_DATASETS` from the folder `data_dir`, whose layout the docstring of its builder describes.

    Args:
        name: the data set.
        data_dir: the data set's own folder.
        cache_dir: where rows are kept, by default the cache of `datasets`.
        options: for "a2d_sentences" `context_frames` (8): only frames at most so far from an annotated one are kept,
            None = all. The other data sets have none.

    Raises `ValueError` for a missing `data_dir`, `ImportError` for a missing package of the extra
    "video", and `DataFormatError`, which names file, record and remedy, for files that are absent, damaged or in
    another layout.
    """
    package = PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise ImportError(f"{name} needs {package}: pip install 'hf_refseg[video]'.")
    if data_dir is None:
        raise ValueError(f"{name} is read from its original files: pass data_dir, the folder that holds them.")
    root = Path(data_dir).resolve()
    if not root.is_dir():
        raise DataFormatError(f"The folder {root} does not exist. Point data_dir at the folder of {name}.")
    builder_class = _builder_class(name)
    builder = builder_class(
        config_name=name,
        data_dir=str(root),
        cache_dir=None if cache_dir is None else str(cache_dir),
        fingerprint=builder_class.fingerprint(root),
        **options,
    )
    return build_rows(builder)


def _builder_class(name: str) -> type[VideoBuilder]:
    from hf_refseg.datasets_scripts.a2d_sentences import A2dSentences
    from hf_refseg.datasets_scripts.jhmdb_sentences import JhmdbSentences
    from hf_refseg.datasets_scripts.ref_davis17 import RefDavis17
    from hf_refseg.datasets_scripts.ref_youtube_vos import ReferYouTubeVos

    return {
        "ref_youtube_vos": ReferYouTubeVos,
        "ref_davis17": RefDavis17,
        "a2d_sentences": A2dSentences,
        "jhmdb_sentences": JhmdbSentences,
    }[name]
