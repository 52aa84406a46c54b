"""RefCLEF, as the REFER collection holds it (http://tamaraberg.com/referitgame)."""

from __future__ import annotations

from typing import Any, ClassVar

from .records import checked_id
from .refer import Refer

# They are in the berkeley partition, but in no release of the images.
NEVER_RELEASED = ("17975", "19575", "19579")


class RefClef(Refer):
    """One row for each ref of `refs(<split_by>).p`, and one for each of its splits.

    A ref of testAB belongs to testA and to testB, one of testBC to testB and to testC.
    """

    COMBINED_SPLITS: ClassVar[dict[str, tuple[str, ...]]] = {
        "testAB": ("testA", "testB"),
        "testBC": ("testB", "testC"),
    }

    def left_out(self, ref: dict[str, Any], where: str) -> str | None:
        if checked_id(ref, "image_id", where) not in NEVER_RELEASED:
            return None
        return f"refs of the images {', '.join(NEVER_RELEASED)}, which were never released, left out"
