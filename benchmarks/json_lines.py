"""Lines of JSON, one for each measurement, that benchmarks print and append to a file."""

import json
from pathlib import Path


def write_line(row: dict, path: str | Path | None) -> None:
    """Prints a row, and appends it to the file, if any is named."""
    line = json.dumps(row)
    print(line, flush=True)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_lines(path: Path) -> list[dict]:
    """The rows of a file, none where it does not exist."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
