"""gRefCOCO: REFER's format with several targets or none for an expression, in JSON (https://huggingface.co/papers/2306.00968)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError, read_json
from hf_refseg.messages import short_text

from .records import AGAIN, is_int64
from .refer import Instances, Refer

NO_TARGET = -1


class GRefCoco(Refer):
    """One row for each ref of `grefs(<split_by>).json`; `ann_ids` is `[-1]` where the expression means nothing.

    Crowd annotations beside others do not count, as in the authors' own tools.
    """

    @staticmethod
    def refs_name(split_by: str) -> str:
        return f"grefs({split_by}).json"

    @staticmethod
    def read_refs(path: Path) -> Any:
        return read_json(path)

    @staticmethod
    def targets_of(ref: dict[str, Any], instances: Instances, where: str) -> list[dict[str, Any]]:
        ann_ids = ref.get("ann_id")
        if not isinstance(ann_ids, list) or not ann_ids or not all(map(is_int64, ann_ids)):
            raise DataFormatError(
                f"{where}: 'ann_id' should be a list of integers, found {short_text(ann_ids)}. {AGAIN}"
            )
        if ann_ids == [NO_TARGET]:
            return []
        annotations = [instances.annotation(ann_id, where) for ann_id in ann_ids]
        return [annotation for annotation in annotations if not annotation.get("iscrowd")] or annotations
