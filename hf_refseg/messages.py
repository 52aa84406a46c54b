"""What errors and tables say: messages of one line, values from files as short printable text, columns in line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence

from huggingface_hub.errors import HfHubHTTPError, HTTPError, StrictDataclassError

from .modeling.messages_refseg import MAX_MESSAGE, one_line, reason_of

MAX_VALUE = 80
# What bad input, or a Hub out of reach, is expected to raise; anything else is a fault of the code.
EXPECTED_ERRORS = (ValueError, OSError, ImportError, StrictDataclassError, HTTPError)

# What the system says of a path: in its words the path comes last, behind a number.
WRONG_PATHS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class BadInputError(ValueError):
    """Bad input; the message is one printable line of at most 500 characters, whatever it was made of.

    Args:
        message: names the file, the record and the remedy.
        table: lines of our own below it.
    """

    def __init__(self, message: str, table: str = ""):
        # From a worker process a DataLoader hands an error on as a text, its traceback, which ends in the message.
        line = one_line(message.rpartition(f"\n{type(self).__module__}.{type(self).__qualname__}: ")[2].strip())
        super().__init__(f"{line}\n{table}" if table else line)


def message_of(error: Exception) -> str:
    """The message of an error in one line, as `reason_of` has it; an error that holds a table keeps its lines."""
    if isinstance(error, BadInputError):
        return str(error)
    if isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError):
        reason = reason_of(error)
        return f"The Hub cannot be reached ({reason}): look at the connection, and start the same command again."
    if isinstance(error, WRONG_PATHS) and error.filename is not None and error.strerror:
        # Where a file takes another's place, the second is the one that was asked for.
        path = error.filename if error.filename2 is None else error.filename2
        return one_line(f"{path}: {error.strerror.lower()}. Choose another path, or allow it.", MAX_MESSAGE)
    return reason_of(error, MAX_MESSAGE)


def short_text(value: object) -> str:
    """What to show of a value in an error; never builds the whole text of what may be a bomb of nested lists."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxdict, brief.maxstring, brief.maxother = 3, 12, 6, MAX_VALUE, MAX_VALUE
    try:
        text = brief.repr(value)
    except ValueError:
        text = "a number of too many digits"
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def name_text(value: object, longest: int = MAX_VALUE) -> str:
    """What to show of a name or an id in an error: itself where it is a short printable text, else `short_text`."""
    if isinstance(value, str) and 0 < len(value) <= longest and value.isprintable():
        return value
    return short_text(value)


def counted(number: int, noun: str) -> str:
    """So many of what a noun with a plural in "s" names, such as "1 picture" and "2 pictures"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def align(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines, their columns two spaces apart, whatever is in a cell."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
