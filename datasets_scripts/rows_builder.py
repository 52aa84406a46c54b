"""What all builders that read original files share: their options, and what they note of imperfect records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from hf_refseg.data.findings import FILE as FINDINGS
from hf_refseg.data.findings import SKIPPED, Findings
from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import short_text

SIZE_MISMATCH_WAYS = ("error", "resize_mask")


@dataclass
class RowsConfig(datasets.BuilderConfig):
    """What decides the rows: all of it is part of the cache's key, so that no stale rows are ever returned.

    `splits` are those that are made, none = all. `on_bad_record` is "error" or "skip", `on_size_mismatch` "error" or
    "resize_mask". `fingerprint` is a hash of the files, see `records.fingerprint_files`.
    """

    splits: tuple[str, ...] = ()
    on_bad_record: str = "error"
    on_size_mismatch: str = "error"
    fingerprint: str = ""


class RowsBuilder(datasets.GeneratorBasedBuilder):
    """Makes rows of original files; what it notes of them (`findings`) is kept beside the rows, in the cache.

    Raises:
        ValueError: `on_bad_record` or `on_size_mismatch` is none of its values.
    """

    BUILDER_CONFIG_CLASS = RowsConfig
    config: RowsConfig

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.findings = Findings(self.config.on_bad_record, tuple(filter(None, self.folders())))
        if self.config.on_size_mismatch not in SIZE_MISMATCH_WAYS:
            raise ValueError(
                f"Unknown on_size_mismatch {short_text(self.config.on_size_mismatch)}: choose one of "
                f"{', '.join(SIZE_MISMATCH_WAYS)}."
            )

    def folders(self) -> tuple[str | None, ...]:
        """The folders that the files lie in; a builder adds others that its options name."""
        return (self.config.data_dir,)

    def fit_mask(self, mask: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
        """A mask (bool or labels, H x W) of the size (H, W) of its picture.

        Raises:
            DataFormatError: it has another size, and `on_size_mismatch` is "error".
        """
        if mask.shape == tuple(size):
            return mask
        sizes = f"{mask.shape[0]} x {mask.shape[1]} (height x width), its picture {size[0]} x {size[1]}"
        found = f"{where}: the mask is {sizes}"
        if self.config.on_size_mismatch == "error":
            raise DataFormatError(
                f"{found}. Use the picture that was annotated, in its original size, or pass "
                'on_size_mismatch="resize_mask".'
            )
        self.findings.note("masks resized to their pictures", found)
        return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))

    def _prepare_split(self, split_generator: datasets.SplitGenerator, *arguments: Any, **options: Any) -> None:
        super()._prepare_split(split_generator, *arguments, **options)
        # Of a split without rows `datasets` says that there is no such split.
        if not split_generator.split_info.num_examples:
            skipped = self.findings.records.get(SKIPPED) or ["; ".join(self.findings.describe())]
            raise DataFormatError(
                f"{self.config.data_dir}: no record of the split '{split_generator.name}' can be read. The last one: "
                f"{skipped[-1]} Download the files again, or leave the split out of splits."
            )

    def _download_and_prepare(self, *arguments: Any, **options: Any) -> None:
        super()._download_and_prepare(*arguments, **options)
        # Into the folder that becomes the cache's: rows that come from there later bring them along.
        self.findings.save(Path(self._output_dir) / FINDINGS)
