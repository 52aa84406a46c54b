"""Attention written out number by number, for tests against equations."""

import math

import torch
from torch import Tensor, nn


def slow_softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def slow_heads(attention: nn.Module, query: Tensor, memory: Tensor) -> Tensor:
    """Multi-head attention (tokens, channels), head by head and query by query."""
    width = query.shape[1] // attention.num_heads
    rows = []
    for token in attention.query(query):
        heads = []
        for head in range(attention.num_heads):
            part = slice(head * width, (head + 1) * width)
            keys, values = attention.key(memory)[:, part], attention.value(memory)[:, part]
            weights = slow_softmax([float(token[part] @ key) / math.sqrt(width) for key in keys])
            heads.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        rows.append(torch.cat(heads))
    return attention.output(torch.stack(rows))
