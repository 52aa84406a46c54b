"""What cards are made of: text, tables and metadata in which no name of a file or data set becomes markup."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import yaml

# Marks, the brackets of links and tags, the bars of tables; underscores and ampersands only where they have an effect.
MARKUP = re.compile(r"[\\`*~|\[\]]|(?<![^\W_])_|_(?![^\W_])")
HTML = {"<": "&lt;", ">": "&gt;"}
UNSAFE_IN_LINKS = re.compile(r"[^ -~]|[<>&%\\]")


def one_line(text: str) -> str:
    """A text without line breaks, control characters and all else that cannot be seen."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def escape(text: str) -> str:
    """Markdown in one line that shows the text as it is."""
    plain = MARKUP.sub(r"\\\g<0>", one_line(text))
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", plain)
    return re.sub("[<>]", lambda match: HTML[match[0]], plain)


def link_target(path: str) -> str:
    """A relative path as the target of a link or picture, in angle brackets."""
    return f"<{re.sub(UNSAFE_IN_LINKS, lambda match: quote(os.fsencode(match[0])), path)}>"


def quoted(text: str) -> str:
    """A text as a literal of Python in double quotes."""
    return json.dumps(text).replace("<", r"\x3c")


def fenced(language: str, text: str) -> str:
    """A block of code, whose fence is longer than any row of backticks in it."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def to_table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table whose cells are escaped."""
    names = [escape(str(cell)) for cell in header]
    lines = [names, ["---"] * len(names), *([escape(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class _MetadataDumper(yaml.SafeDumper):
    """Quotes texts that hold a `<`, so that it can be escaped."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "<" in text else None)


_MetadataDumper.add_representer(str, _represent)


def front_matter(metadata: Mapping[str, Any]) -> str:
    """The YAML block at the start of a card, which reads back as given and holds no tag where it is shown as text."""
    dumped = yaml.dump(dict(metadata), Dumper=_MetadataDumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return f"---\n{dumped.replace('<', chr(92) + 'x3C')}---\n"
