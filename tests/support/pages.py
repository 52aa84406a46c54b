"""The blocks of code in README and the pages, where they stand, and what a comment above them says."""

import re
from pathlib import Path
from typing import NamedTuple

from places import CHECKOUT

PAGES = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((CHECKOUT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"(?:<!-- (?P<marker>.*?) -->\n\n)?^(?P<indent> *)```(?P<kind>\w*)\n(?P<code>.*?)^ *```$", re.M | re.S
)
NETWORK, RUN_BY = "needs the network", "run by "


class Block(NamedTuple):
    """A block of code, where it begins, and what the comment above it says."""

    page: Path
    line: int
    kind: str
    code: str
    marker: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"

    @property
    def lines(self) -> list[str]:
        """Those that end in a backslash go on in the next one."""
        return self.code.replace("\\\n", " ").splitlines()

    @property
    def is_run(self) -> bool:
        return self.marker != NETWORK and not self.marker.startswith(RUN_BY)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, each.start("kind")) + 1, each["kind"], each["code"], each["marker"] or "")
        for each in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
