"""Loads small trees of video data sets, and looks at what comes of them."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask


def load(name: str, root: Path, **options: Any) -> datasets.DatasetDict:
    """The splits of the data set, with a cache beside the tree."""
    return load_refseg(name, root, cache_dir=root.parent / "cache", **options)


def masks_of(referent: dict[str, Any]) -> list[np.ndarray]:
    """The masks (bool, H x W) of a referent of a row."""
    return [decode_mask(mask) for mask in referent["masks"]]


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What loading said of the files since this was asked last."""
    messages = [record.getMessage() for record in caplog.records if record.name == "hf_refseg.data.findings"]
    caplog.clear()
    return messages
