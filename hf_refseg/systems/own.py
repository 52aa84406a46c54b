"""Models and adapters of this library as systems."""

from __future__ import annotations

from typing import Any

from ..evaluation.systems import ModelSystem
from ..hub.saved_models import load_model


def load(name: str, *, device: str | None, dtype: str | None, **options: Any) -> ModelSystem:
    """The model with its processor, from a folder or the Hub; raises as `load_model`.

    `options` are those of `ModelSystem`.
    """
    model, processor = load_model(name, device, dtype)
    return ModelSystem(model, processor, name=name, **options)
