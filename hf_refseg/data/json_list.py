"""A list in a large JSON file, decoded one element at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .rows import DataFormatError, reading_json, unique_keys

NO_SPACE = re.compile(r"[^ \t\n\r]")


class JsonList:
    """The list in a JSON file. Its text is held in memory, which all elements at once would take several times of.

    Raises `DataFormatError`, which names the file, where it is damaged, holds something else or the same key twice in
    one mapping.
    """

    def __init__(self, path: Path):
        self.path = path
        content = path.read_bytes()
        with reading_json(path):
            self._text = content.decode(json.detect_encoding(content), "surrogatepass")
        self._decoder = json.JSONDecoder(object_pairs_hook=unique_keys(path))

    def decode(self, place: int) -> Any:
        """The element that begins at this place of the text."""
        return self._decoder.raw_decode(self._text, place)[0]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """The place and the value of each element."""
        place = self._after_space(0)
        if not self._text.startswith("[", place):
            raise DataFormatError(f"{self.path} should hold a list. Download the file again.")
        with reading_json(self.path):
            place = self._after_space(place + 1)
            at_end = self._text.startswith("]", place)
            while not at_end:
                element, end = self._decoder.raw_decode(self._text, place)
                yield place, element
                end = self._after_space(end)
                at_end = self._text.startswith("]", end)
                if not at_end and not self._text.startswith(",", end):
                    raise json.JSONDecodeError("Expecting ',' delimiter", self._text, end)
                place = end if at_end else self._after_space(end + 1)
            if self._after_space(place + 1) != len(self._text):
                raise json.JSONDecodeError("Extra data", self._text, place + 1)

    def _after_space(self, place: int) -> int:
        found = NO_SPACE.search(self._text, place)
        return found.start() if found else len(self._text)
