"""What configurations say of MagNet's cross-modal alignment, its module and its loss (sections 3.3 and 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .checks_refseg import Conditions, require_at_least_one, require_ranges, values_of
from .configuration_refseg import TaskConfig

AlignmentHalf = Literal["pixel_to_pixel", "pixel_to_text"]


@strict
@dataclass(kw_only=True)
class AlignmentLossConfig(TaskConfig):
    """
    Configuration of the cross-modal alignment loss, a training task: pixels of the target are drawn together and to
    their sentence, and away from the background (https://huggingface.co/papers/2312.12198, section 3.4).

    Args:
        halves (`list[str]`, *optional*, defaults to `("pixel_to_pixel", "pixel_to_text")`):
            The halves of the loss (table 3 f): one or both.
        pixel_temperature (`float`, *optional*, defaults to 0.1):
            tau_1, of the pixel-to-pixel half.
        text_temperature (`float`, *optional*, defaults to 0.1):
            tau_2, of the pixel-to-text half.
        max_pixels (`int`, *optional*, defaults to 1024):
            How many pixels of the target and of the background enter the loss at most, for each image.
        loss_weight (`float`, *optional*, defaults to 0.5):
            Weight of the loss `alignment`.
    """

    task = "alignment_loss"
    effective_with: ClassVar[Conditions] = {
        "pixel_temperature": ('with "pixel_to_pixel" among the halves', lambda each: "pixel_to_pixel" in each.halves),
        "text_temperature": ('with "pixel_to_text" among the halves', lambda each: "pixel_to_text" in each.halves),
    }

    halves: list[AlignmentHalf] | tuple[AlignmentHalf, ...] = ("pixel_to_pixel", "pixel_to_text")
    pixel_temperature: float | int = 0.1
    text_temperature: float | int = 0.1
    max_pixels: int = 1024
    loss_weight: float | int = 0.5

    def validate_fields(self):
        """Checks the ranges; called on construction."""
        if not self.halves:
            raise ValueError("alignment_loss: halves: one of them at least; leave alignment_loss out for none.")
        require_each_once("alignment_loss: halves", self.halves)
        require_at_least_one(self, "max_pixels")
        require_ranges(values_of(self))


def require_each_once(what: str, halves: Sequence[str]) -> None:
    """Raises ValueError where a half of the alignment loss is named twice."""
    if len(set(halves)) != len(halves):
        raise ValueError(f"{what}: name each half once, got {list(halves)}.")


def require_alignment_numbers(config: Any) -> None:
    """Raises ValueError where a field of the alignment module is no number of its range.

    `config` has the fields `text_stage_layers`, `pyramid_scales` and `cam_num_heads`.
    """
    stages, scales = list(config.text_stage_layers), list(config.pyramid_scales)
    if len(stages) != 4 or stages != sorted(set(stages)) or stages[0] < 1:
        raise ValueError(f"text_stage_layers: four rising numbers are needed, got {stages}.")
    if len(set(scales)) != len(scales) or min(scales, default=1) < 1:
        raise ValueError(f"pyramid_scales: different positive numbers, got {scales}.")
    require_at_least_one(config, "cam_num_heads")


def require_alignment_module(config: Any) -> None:
    """Raises ValueError where the alignment module does not fit to the encoders; `config` as above."""
    stages, layers = list(config.text_stage_layers), config.text_config.num_hidden_layers
    widths, text_width, heads = config.stage_widths, config.text_config.hidden_size, config.cam_num_heads
    if len(widths) != 4:
        raise ValueError(f"backbone_config: four stages are needed, got {len(widths)}.")
    if widths[0] % 4:
        raise ValueError(f"backbone_config: the first stage's channels must be a multiple of 4, got {widths[0]}.")
    if text_width % 4:
        raise ValueError(f"text_config: hidden_size must be a multiple of 4, got {text_width}.")
    if stages[-1] != layers:
        raise ValueError(
            f"text_stage_layers: four rising numbers are needed, the last of them {layers} (all layers of "
            f"text_config), got {stages}."
        )
    of_heads = {
        "stages of the image encoder": widths,
        "pyramids": [width // 4 for width in widths if config.pyramid_scales],
        "words": [text_width if config.cam_language == "paper" else 0],
    }
    for what, sizes in of_heads.items():
        if any(size % heads for size in sizes):
            raise ValueError(f"cam_num_heads: {heads} heads do not divide {what} of {sizes} channels.")


__all__ = ["AlignmentLossConfig", "require_alignment_module", "require_alignment_numbers", "require_each_once"]
