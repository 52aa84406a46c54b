"""Texts as models of transformers read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def encode_texts(model: Any, tokenizer: Any, texts: Sequence[str], length: int, **options: Any) -> dict[str, Tensor]:
    """Tokens of texts, at most `length` of each, on the model's device, by the names that the tokenizer gives them.

    `options` are those of the tokenizer, such as `padding`.
    """
    tokens = tokenizer(list(texts), truncation=True, max_length=length, return_tensors="pt", **options)
    return {name: values.to(model.device) for name, values in tokens.items()}
