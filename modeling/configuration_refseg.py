"""What the configurations of all methods share."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class RefSegConfig(PreTrainedConfig):
    """Base of the configurations of all methods for referring segmentation."""


__all__ = ["RefSegConfig"]
