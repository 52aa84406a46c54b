"""Sentences by the word lists of `wording.yaml`: their groups, head nouns and mirror images; and typos."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ..yaml_texts import read_yaml

LISTS = Path(__file__).with_name("wording.yaml")
# "w/" and "w/o" are words; apostrophes are no part of one, so that "isn't" and "isnt" are the same.
WORD = re.compile(r"(?<![^\W_])[wW]/(?:[oO](?![^\W_]))?|[^\W_]+(?:['\u2019][^\W_]+)*")
ORDINAL_IN_DIGITS = re.compile(r"\d+(?:st|nd|rd|th)")
BEGINNING, END, ANY_WORD, ANY_DIGITS = "^", "$", "*", "#"
ARTICLES = frozenset({"the", "a", "an", "that", "this"})
PLURAL = "plural"
# Shorter words are not recognizable with a letter changed, and of longer ones, which are none, there are many typos.
SHORTEST_MISSPELLED, LONGEST_MISSPELLED = 4, 30

Phrase = tuple[str, ...]


class Word(NamedTuple):
    """A word in lower case without apostrophes, and where in the text it begins and ends."""

    token: str
    start: int
    end: int


class _Phrases:
    """Phrases as a tree of their words, each with a value."""

    def __init__(self) -> None:
        self._branches: dict[str, _Phrases] = {}
        self._value: Any = None

    def add(self, phrase: Phrase, value: Any) -> None:
        node = self
        for token in phrase:
            node = node._branches.setdefault(token, _Phrases())
        node._value = value

    def find(self, tokens: Sequence[str]) -> Iterator[tuple[int, int, Any]]:
        """Start, end and value of the longest phrase at each place; they do not overlap."""
        place = 0
        while place < len(tokens):
            length, value = self._longest(tokens, place)
            if length:
                yield place, place + length, value
            place += max(length, 1)

    def has_true(self, tokens: Sequence[str]) -> bool:
        """Whether the value of any phrase that `find` gives is true."""
        return any(value for _, _, value in self.find(tokens))

    def _longest(self, tokens: Sequence[str], place: int) -> tuple[int, Any]:
        found = (0, self._value)
        names = _names_of(tokens[place]) if place < len(tokens) else ()
        for branch in (self._branches[name] for name in names if name in self._branches):
            length, value = branch._longest(tokens, place + 1)
            if value is not None and length + 1 > found[0]:
                found = (length + 1, value)
        return found


def _names_of(token: str) -> Sequence[str]:
    """What may stand for a word in a phrase; of two phrases with as many words the first one goes before."""
    if token in (BEGINNING, END):
        return (token,)
    return (token, ANY_DIGITS, ANY_WORD) if token.isdecimal() else (token, ANY_WORD)


def split_words(text: str) -> list[Word]:
    """The words of a text, punctuation and apostrophes left out."""
    return [
        Word(re.sub("['\u2019]", "", match[0]).lower(), match.start(), match.end()) for match in WORD.finditer(text)
    ]


def wording_groups() -> tuple[str, ...]:
    """The names of the groups of `groups_of_text`."""
    return tuple(_lists()["groups"])


def groups_of_text(text: str) -> tuple[str, ...]:
    """The groups that a sentence belongs to by its words: none, one or several of `wording_groups`."""
    tokens = [word.token for word in split_words(text)]
    subject = _subject(tokens)
    looked_at = {name: [BEGINNING, *(subject if name == PLURAL else tokens), END] for name in wording_groups()}
    found = {name for name, phrases in _groups().items() if phrases.has_true(looked_at[name])}
    if _begins_with_plural(subject):
        found.add(PLURAL)
    return tuple(name for name in wording_groups() if name in found)


def _subject(tokens: Sequence[str]) -> Sequence[str]:
    """The words that name the target, before anything is said of it."""
    for place, token in enumerate(tokens):
        is_doing = token.endswith("ing") and set(tokens[:place]) - ARTICLES
        if is_doing or token in _subject_ends():
            return tokens[:place]
    return tokens


def _begins_with_plural(subject: Sequence[str]) -> bool:
    """Whether the first noun is in the plural, and not the owner of another ("girls hand")."""
    nouns = list(_plural_nouns().find(subject))
    is_owner = len(nouns) > 1 and nouns[0][1] == nouns[1][0]
    return bool(nouns) and nouns[0][2] and not is_owner


def find_head_noun(text: str, category: str) -> list[Word]:
    """The words that say what kind of thing the target is: the first that name its category; none where none do.

    Args:
        text: a sentence.
        category: as in the rows, such as `"person"`; several are joined by commas.
    """
    words = split_words(text)
    found = _nouns(category).find([word.token for word in words])
    return next((words[start:end] for start, end, _ in found), [])


def without_head_noun(text: str, category: str) -> str | None:
    """A sentence without its head noun; None where it has none, or where nothing but articles is left."""
    noun = find_head_noun(text, category)
    rest = _replace(text, dict.fromkeys(noun, ""))
    return rest if noun and {word.token for word in split_words(rest)} - ARTICLES else None


def mirror_text(text: str) -> str | None:
    """A sentence about the mirrored image, left and right exchanged; None where it names no side, or it is not known.

    It is not known what becomes of words that may mean another thing than a side ("right behind"), and of digits,
    letters and clocks: they are not mirrored in a sentence as they are in an image.
    """
    words, sides = split_words(text), _opposite_sides()
    swapped = {
        word: _in_case_of(text[word.start : word.end], sides[word.token]) for word in words if word.token in sides
    }
    has_digit = any(
        any(character.isdigit() for character in word.token) and not ORDINAL_IN_DIGITS.fullmatch(word.token)
        for word in words
    )
    unclear = has_digit or _without_mirror_image().has_true([word.token for word in words])
    return _replace(text, swapped) if swapped and not unclear else None


def misspell(text: str, generator: random.Random, known: Collection[str]) -> str | None:
    """A sentence with a typo: in one word of 4 to 30 letters one is left out or doubled, or two change places.

    Args:
        text: a sentence.
        generator: chooses the word and the typo.
        known: words in lower case that no typo may become.

    Returns:
        The sentence; None where no word is long enough.
    """
    lengths = range(SHORTEST_MISSPELLED, LONGEST_MISSPELLED + 1)
    words = [word for word in split_words(text) if len(word.token) in lengths and word.token.isalpha()]
    for word in generator.sample(words, len(words)):
        written = text[word.start : word.end]
        typos = [typo for typo in _typos(written) if typo.lower() not in known]
        if typos:
            return _replace(text, {word: generator.choice(typos)})
    return None


def _typos(word: str) -> list[str]:
    """The word with one of its inner letters left out or doubled, or with two neighbors exchanged."""
    inner = range(1, len(word) - 1)
    without = [word[:place] + word[place + 1 :] for place in inner]
    doubled = [word[: place + 1] + word[place:] for place in inner]
    exchanged = [word[:place] + word[place + 1] + word[place] + word[place + 2 :] for place in inner]
    return [typo for typo in dict.fromkeys([*without, *doubled, *exchanged]) if typo != word]


def _replace(text: str, replacements: dict[Word, str]) -> str:
    """The text with some of its words replaced, one space where there were several."""
    for word in sorted(replacements, key=lambda word: word.start, reverse=True):
        text = text[: word.start] + replacements[word] + text[word.end :]
    return " ".join(text.split())


def _in_case_of(written: str, word: str) -> str:
    if written.isupper():
        return word.upper()
    return word.capitalize() if written[0].isupper() else word


@cache
def _lists() -> dict[str, Any]:
    return read_yaml(LISTS.read_text(encoding="utf-8"))


@cache
def _groups() -> dict[str, _Phrases]:
    """For each group its phrases: True for those that put a sentence into it, False for those that do not."""
    groups = {}
    for name, entries in _lists()["groups"].items():
        groups[name] = _Phrases()
        # In this order, as what is an entry of both is an exception.
        for kind, counts in (("words", True), ("except", False)):
            for phrase in _expand_all(entries[kind]):
                groups[name].add(phrase, counts)
    return groups


@cache
def _plural_nouns() -> _Phrases:
    """All nouns: True for those in the plural."""
    phrases = _Phrases()
    for word in _expand_all(["{clothing}", "{body}"]):
        phrases.add(word, False)
    nouns = [noun for of_category in _lists()["nouns"].values() for noun in of_category]
    for noun in nouns:
        phrases.add(tuple(_plural_of(noun).split()), True)
    for noun in nouns:
        phrases.add(tuple(noun.split()), noun in _lists()["always_plural"])
    return phrases


@cache
def _subject_ends() -> frozenset[str]:
    return frozenset(_lists()["subject_ends"])


@cache
def _nouns(category: str) -> _Phrases:
    """What things of a category are called, in the singular and in the plural."""
    phrases = _Phrases()
    for name in category.split(","):
        name = " ".join(word.token for word in split_words(name.replace("_", " ")))
        for noun in _lists()["nouns"].get(name, [name] if name else []):
            for each in (noun, _plural_of(noun)):
                phrases.add(tuple(each.split()), True)
    return phrases


def _plural_of(noun: str) -> str:
    """The plural of a noun; itself where it has none."""
    *before, last = noun.split()
    if noun in _lists()["no_plural"]:
        return noun
    if last in _lists()["plurals"]:
        plural = _lists()["plurals"][last]
    elif last.endswith(("s", "x", "ch", "sh")):
        plural = f"{last}es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        plural = f"{last[:-1]}ies"
    else:
        plural = f"{last}s"
    return " ".join([*before, plural])


@cache
def _without_mirror_image() -> _Phrases:
    phrases = _Phrases()
    for phrase in _expand_all(_lists()["without_mirror_image"]):
        phrases.add(phrase, True)
    return phrases


@cache
def _opposite_sides() -> dict[str, str]:
    pairs = _lists()["opposite_sides"]
    # Reversed: of two words for one side the first one is what the other side becomes.
    return {other: side for side, other in reversed(pairs.items())} | pairs


def _expand_all(entries: Iterable[str]) -> Iterator[Phrase]:
    """All phrases that entries stand for, with the entries of a list in the place of its name."""
    for entry in entries:
        parts = [
            list(_expand_all(_lists()["lists"][part[1:-1]])) if part.startswith("{") else [(part,)]
            for part in entry.split()
        ]
        for phrases in product(*parts):
            yield tuple(token for phrase in phrases for token in phrase)
