"""What errors and tables say: messages of one line, values from files as short printable text, columns in line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence

from huggingface_hub.errors import HfHubHTTPError, HTTPError, StrictDataclassError

MAX_MESSAGE = 500
MAX_VALUE = 80
# What bad input, or a Hub out of reach, is expected to raise; anything else is a fault of the code.
EXPECTED_ERRORS = (ValueError, OSError, ImportError, StrictDataclassError, HTTPError)


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


def one_line(text: str) -> str:
    """The text with all that is not printable escaped, at most 500 characters; of a longer one the middle is left out.

    So the beginning still names the file, and the end the remedy.
    """
    # Escaping only makes a text longer.
    ends = text if len(text) <= 2 * MAX_MESSAGE else text[:MAX_MESSAGE] + text[-MAX_MESSAGE:]
    line = "".join(character if character.isprintable() else repr(character)[1:-1] for character in ends)
    if len(line) <= MAX_MESSAGE:
        return line
    half = MAX_MESSAGE // 2 - 3
    return f"{line[:half]} ... {line[-half:]}"


def message_of(error: Exception) -> str:
    """The message of an error in one line, as `one_line` has it; an error that holds a table keeps its lines."""
    if isinstance(error, BadInputError):
        return str(error)
    line = " ".join(str(error).split())
    if isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError):
        line = f"The Hub cannot be reached ({line}): look at the connection, and start the same command again."
    return one_line(line)


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


def align(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines, their columns two spaces apart."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
