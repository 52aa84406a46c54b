"""Sentences on their way into a model: one or several as a list, and the words that a tokenizer does not know."""

import reprlib
import string
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase


def as_sentences(text: Any) -> list[str]:
    """A sentence, or several, as a list.

    Raises:
        ValueError: there is no sentence, or one is empty, no string or no Unicode.
    """
    several = isinstance(text, Iterable) and not isinstance(text, str | bytes | Mapping)
    texts = list(text) if several else [text]
    if not texts:
        raise ValueError("There is no text: pass one text at least.")
    for index, each in enumerate(texts):
        if not isinstance(each, str) or not each.strip():
            # Of nested lists this is not the end: what is in a list counts for each list that holds it.
            found = reprlib.repr(each)[:80]
            raise ValueError(f"Text {index} of {len(texts)} is empty or no string ({found}): pass a sentence.")
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"Text {index} of {len(texts)} holds half a character: {reprlib.repr(each)}.") from error
    return texts


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The words of a text that become, as a whole or in part, the tokenizer's unknown token; each once."""
    words = dict.fromkeys(word.strip(string.punctuation) or word for word in text.split())
    known = tokenizer(list(words), add_special_tokens=False)["input_ids"]
    return [word for word, ids in zip(words, known, strict=True) if tokenizer.unk_token_id in ids]


__all__ = ["as_sentences", "unknown_words"]
