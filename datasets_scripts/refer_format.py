"""Data sets of other people in the format of the REFER collection, which much code reads: any name, any splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hf_refseg.data.masks import mask_to_bbox
from hf_refseg.data.rows import DataFormatError
from hf_refseg.files import is_plain_name
from hf_refseg.messages import short_text

from .grefcoco import several_targets
from .refer import Instances, Refer

EMPTY_BOX = [0.0, 0.0, 0.0, 0.0]


class ReferFormat(Refer):
    """One row for each ref of `<dataset>/refs(<split_by>).p` or `.json`, in the splits that the refs name.

    A ref has one target, several or none, as gRefCOCO's. Boxes are those of the masks, whatever form those in the
    file have. A ref with a target whose mask is empty is a bad record.

    Args:
        dataset: the folder of the annotation files.
        split_by: what their name says.
        options: as in `Refer`.

    Raises ValueError where the data set has no name, or a name of no folder or file.
    """

    REFS_NAMES: ClassVar[tuple[str, ...]] = ("refs({split_by}).p", "refs({split_by}).json")

    def __init__(self, split_by: str, dataset: str | None = None, **options: Any):
        if dataset is None:
            raise ValueError(
                "Data in REFER's format has any name: pass dataset, the name of the folder under data_dir that holds "
                "refs(<split_by>).p and instances.json."
            )
        for option, name in {"dataset": dataset, "split_by": split_by}.items():
            if not is_plain_name(name):
                raise ValueError(f"{option} is {short_text(name)}: pass the name of a folder, or of a part of a file.")
        super().__init__(dataset=dataset, split_by=split_by, **options)

    def targets_of(self, ref: dict[str, Any], instances: Instances, where: str) -> list[dict[str, Any]]:
        return several_targets(ref, instances, where)

    def box_of(self, targets: list[dict[str, Any]], instances: Instances, mask: np.ndarray) -> list[float]:
        return mask_to_bbox(mask)

    def _row(
        self, ref: dict[str, Any], instances: Instances, sizes: dict[Path, tuple[int, int]], where: str
    ) -> dict[str, Any]:
        row = super()._row(ref, instances, sizes, where)
        if not row["no_target"] and row["bbox"] == EMPTY_BOX:
            raise DataFormatError(
                f"{where}: its mask, of annotation {', '.join(row['ann_ids'])} in {instances.file.name}, is empty. "
                'Draw it, or leave the ref out with on_bad_record="skip".'
            )
        return row
