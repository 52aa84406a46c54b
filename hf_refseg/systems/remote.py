"""Models whose class lies beside their weights, as systems; only for callers who trust that code."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from transformers import AutoModel, AutoProcessor

from ..evaluation.systems import ModelSystem
from ..hub.saved_models import check_processor, load_any_config, load_with_processor
from .kinds import known_kinds


@runtime_checkable
class ReferringModel(Protocol):
    """What this library asks of a model; `docs/add_a_method.md` shows one."""

    def get_image_features(self, pixel_values: Tensor) -> Any: ...

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor: ...


@runtime_checkable
class ReferringConfig(Protocol):
    """What it asks of the configuration of one."""

    takes_clips: bool

    def check_text_length(self, length: int) -> None: ...

    def check_vocabulary(self, tokens: int) -> None: ...


@runtime_checkable
class ReferringImageProcessor(Protocol):
    """What it asks of the part of a processor for images."""

    mask_threshold: float

    def cut_padding(self, values: Tensor, size: tuple[int, int]) -> Tensor: ...


def load(name: str, *, device: str | None, dtype: str | None, **options: Any) -> ModelSystem:
    """The model and processor of a folder or the Hub, by the code that lies beside them, which is run.

    Args:
        name: folder or Hub id.
        device: such as "cpu"; None = the accelerator, if there is one.
        dtype: such as "float32"; None = as the weights were saved.
        options: those of `ModelSystem`.

    Raises:
        ValueError: the classes do not follow this library's contract, or files are missing or damaged.
        OSError: the Hub has no such model, or cannot be reached.
    """
    config = load_any_config(name, trust_remote_code=True)
    model, processor = load_with_processor(
        AutoModel, AutoProcessor, name, config, device=device, dtype=dtype, trust_remote_code=True
    )
    parts = (
        (model, ReferringModel),
        (model.config, ReferringConfig),
        (processor.image_processor, ReferringImageProcessor),
    )
    for part, contract in parts:
        if not isinstance(part, contract):
            raise ValueError(
                f"{name}: its {type(part).__name__} does not follow the contract of this library, which "
                f"docs/add_a_method.md shows; {known_kinds()}."
            )
    check_processor(processor, model.config)
    return ModelSystem(model, processor, name=name, **options)
