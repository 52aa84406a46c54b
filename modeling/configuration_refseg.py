"""What the configurations of all methods share."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class RefSegConfig(PreTrainedConfig):
    """
    Base of the configurations of all methods for referring segmentation. Every method has these fields.

    Args:
        freeze_image_encoder (`bool`, *optional*, defaults to `False`):
            Whether a new model trains nothing of its image encoder. A frozen encoder runs without gradients and in
            evaluation mode.
        freeze_text_encoder (`bool`, *optional*, defaults to `False`):
            The same for the text encoder.
        presence_head (`bool`, *optional*, defaults to `False`):
            Whether the model also says if there is a target at all; an auxiliary task with the loss `presence`.
        presence_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of that loss.
    """

    # What the method's image processor does otherwise than `RefSegImageProcessor` by default.
    image_processor_defaults: ClassVar[dict[str, Any]] = {}

    freeze_image_encoder: bool = False
    freeze_text_encoder: bool = False
    presence_head: bool = False
    presence_loss_weight: float | int = 1.0


__all__ = ["RefSegConfig"]
