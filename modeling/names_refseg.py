"""What to say of a name that does not exist: the names that are nearest to it."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest_names(unknown: Iterable[str], known: Iterable[str]) -> str:
    """'; did you mean a or b?', with the known names that are like the unknown ones; empty where none is."""
    known = list(known)
    close = dict.fromkeys(match for name in unknown for match in get_close_matches(name, known))
    return f"; did you mean {' or '.join(close)}?" if close else ""
