"""What errors say: messages in one line, and the names that are nearest to one that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches

MAX_MESSAGE = 500
MAX_REASON = 200


def one_line(text: str, longest: int = MAX_MESSAGE) -> str:
    """The text with all that is not printable escaped, at most so long; of a longer one the middle is left out.

    So the beginning still names the file, and the end the remedy.
    """
    # Escaping only makes a text longer.
    ends = text if len(text) <= 2 * longest else text[:longest] + text[-longest:]
    line = "".join(character if character.isprintable() else repr(character)[1:-1] for character in ends)
    if len(line) <= longest:
        return line
    half = longest // 2 - 3
    return f"{line[:half]} ... {line[-half:]}"


def reason_of(value: object, longest: int = MAX_REASON) -> str:
    """The message of an error, or another value of a file, in one line; an error without a message is its class."""
    return one_line(" ".join(str(value).split()) or type(value).__name__, longest)


def nearest_names(unknown: Iterable[str], known: Iterable[str]) -> str:
    """'; did you mean a or b?', with the known names that are like the unknown ones; empty where none is."""
    known = list(known)
    close = dict.fromkeys(match for name in unknown for match in get_close_matches(name, known))
    return f"; did you mean {' or '.join(close)}?" if close else ""
