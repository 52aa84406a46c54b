"""What systems that are one model of transformers have in common."""

from __future__ import annotations

from typing import Any

from ..evaluation.systems import System, hash_tensors


class OneModelSystem(System):
    """A system that is one model with its processor.

    Args:
        model: on any device; it runs in evaluation mode.
        processor: its processor.
        name: how results name it.
        batch_size: texts per forward pass.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, batch_size: int) -> None:
        self.model, self.processor, self.name, self.batch_size = model, processor, name, batch_size

    def describe(self) -> dict[str, Any]:
        """As of any system, with all else that masks depend on."""
        return {
            **super().describe(),
            "weights": hash_tensors(self.model.state_dict()),
            "processor": self.processor.to_dict(),
            "batch_size": self.batch_size,
        }
