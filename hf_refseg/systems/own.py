"""Models and adapters of this library as systems."""

from __future__ import annotations

from ..evaluation.systems import ModelSystem
from ..hub.saved_models import load_model
from ..modeling.inference_refseg import as_probability


def load(
    name: str, *, device: str | None, dtype: str | None, threshold: float | None = None, **options
) -> ModelSystem:
    """The model with its processor, from a folder or the Hub; raises as `load_model`.

    `options` are those of `ModelSystem`.
    """
    model, processor = load_model(name, device, dtype)
    system = ModelSystem(model, processor, name=name, **options)
    if threshold is not None:
        system.threshold = as_probability(threshold)
    return system
