"""gRefCOCO: REFER's format with several targets or none for an expression (https://huggingface.co/papers/2306.00968)."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_refseg.data.rows import DataFormatError

from .records import AGAIN, checked_id
from .refer import Instances, Refer

NO_TARGET = "-1"


class GRefCoco(Refer):
    """One row for each ref of `grefs(<split_by>).json`, or `.p`.

    Refs with an empty list of sentences, of which the authors say to skip them, are left out.
    """

    REFS_NAMES: ClassVar[tuple[str, ...]] = ("grefs({split_by}).json", "grefs({split_by}).p")

    def left_out(self, ref: dict[str, Any], where: str) -> str | None:
        return "refs without a sentence, left out" if ref.get("sentences") == [] else None

    def targets_of(self, ref: dict[str, Any], instances: Instances, where: str) -> list[dict[str, Any]]:
        return several_targets(ref, instances, where)


def several_targets(ref: dict[str, Any], instances: Instances, where: str) -> list[dict[str, Any]]:
    """The annotations that an expression means; its `ann_id` is one, or a list, and -1 where it means nothing.

    Crowd annotations beside others do not count, as in the authors' own tools.
    """
    ann_id = ref.get("ann_id")
    if ann_id == []:
        raise DataFormatError(f"{where}: 'ann_id' should be an id or a list of some, found []. {AGAIN}")
    listed = ann_id if isinstance(ann_id, list) else [ann_id]
    ann_ids = [checked_id({"ann_id": each}, "ann_id", where) for each in listed]
    if ann_ids == [NO_TARGET]:
        return []
    annotations = [instances.annotation(each, where) for each in ann_ids]
    return [annotation for annotation in annotations if not annotation.get("iscrowd")] or annotations
