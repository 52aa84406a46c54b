"""What a reader repaired in a data set's files or left out of them: said when they load, and kept with the rows."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..messages import BadInputError, one_line, short_text
from ..modeling.json_files_refseg import SavedFileError, read_mapping

FILE = "findings.json"
SHOWN_RECORDS = 5
LONGEST_RECORD = 200
SKIPPED = "bad records, which are left out"
BAD_RECORD_WAYS = ("error", "skip")

logger = logging.getLogger(__name__)


@dataclass
class Findings:
    """What a reader noted, by kind.

    Attributes:
        on_bad_record: "error": a bad record is an error; "skip": it is left out and noted.
        folders: those of the files, which names of files in records are made relative to: records are published.
        records: of each kind, such as "masks resized to their pictures", the records, by texts that find them.

    Raises:
        ValueError: `on_bad_record` is neither.
    """

    on_bad_record: str = "error"
    folders: tuple[str, ...] = ()
    records: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_bad_record not in BAD_RECORD_WAYS:
            raise ValueError(
                f"Unknown on_bad_record {short_text(self.on_bad_record)}: choose one of {', '.join(BAD_RECORD_WAYS)}."
            )

    def note(self, kind: str, record: str) -> None:
        """Notes a record of which a known defect was repaired, or which was left out for one; `kind` says which."""
        for folder in self.folders:
            # The folder itself goes by its last name: where it lies is nobody's business.
            inside = record.replace(f"{folder}/", "")
            record = Path(folder).name.join(re.split(rf"{re.escape(folder)}(?![\w-])", inside))
        self.records.setdefault(kind, []).append(one_line(record))

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """A context that makes one row, and leaves it with a note where a bad record is to be skipped.

        What is bad raises a `BadInputError`, which names the record. Nothing else is caught.
        """
        try:
            yield
        except BadInputError as error:
            if self.on_bad_record == "error":
                raise
            self.note(SKIPPED, str(error))

    def describe(self) -> list[str]:
        """A line for each kind: how many records, and the first five."""
        return [_describe(kind, records) for kind, records in self.records.items()]

    def warn(self, name: str) -> None:
        """Says all kinds, in one warning each."""
        for line in self.describe():
            logger.warning("%s: %s", name, line)

    def save(self, file: Path) -> None:
        """Writes the records of each kind to a JSON file."""
        file.write_text(json.dumps(self.records, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Findings:
        """Those of such a file; none where there is no file. Raises ValueError where it is damaged."""
        if not file.is_file():
            return cls()
        remedy = f"It lies in a cache: delete the folder {file.parent}, and start again."
        records = read_mapping(file, remedy)
        if not all(
            isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in records.values()
        ):
            raise SavedFileError(f"{file} is damaged: it should hold lists of texts. {remedy}")
        return cls(records=records)


def _describe(kind: str, records: Sequence[str]) -> str:
    shown = "; ".join(one_line(record, LONGEST_RECORD).rstrip(".") for record in records[:SHOWN_RECORDS])
    more = len(records) - SHOWN_RECORDS
    return f"{kind} ({len(records)}): {shown}{f'; and {more} more' if more > 0 else ''}."
