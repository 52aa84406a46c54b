"""MagNet's cross-modal alignment loss (section 3.4), also as a training task of methods with features of pixels."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from .configuration_alignment_refseg import AlignmentLossConfig
from .layers_refseg import generator_of_draws, masked_mean
from .losses_refseg import pixel_to_pixel_loss, pixel_to_text_loss
from .modeling_outputs_refseg import ForwardPass
from .training_task_refseg import TrainingTask


class PixelToPixelAlignment(nn.Module):
    """L_P2P of the cross-modal alignment loss (equation 13).

    Args:
        temperature: tau_1.
        max_pixels: so many pixels of the target and of the background enter it at most.
    """

    def __init__(self, temperature: float, max_pixels: int) -> None:
        super().__init__()
        self.temperature, self.max_pixels = temperature, max_pixels

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, mask_labels: Tensor) -> Tensor:
        generator = generator_of_draws(self.training, pixels.device)
        return pixel_to_pixel_loss(pixels, mask_labels, self.temperature, self.max_pixels, generator)


class PixelToTextAlignment(nn.Module):
    """L_P2T of the cross-modal alignment loss (equation 14), with proj, the projection of the mean word.

    Args:
        temperature: tau_2.
        max_pixels: as in `PixelToPixelAlignment`.
        text_channels: D, channels of the words.
        pixel_channels: C_L, channels of the features of pixels.
    """

    def __init__(self, temperature: float, max_pixels: int, text_channels: int, pixel_channels: int) -> None:
        super().__init__()
        self.temperature, self.max_pixels = temperature, max_pixels
        self.projection = nn.Linear(text_channels, pixel_channels)  # proj

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, mask_labels: Tensor) -> Tensor:
        sentences = self.projection(masked_mean(text_features, text_mask))  # T_avg
        generator = generator_of_draws(self.training, pixels.device)
        return pixel_to_text_loss(pixels, sentences, mask_labels, self.temperature, self.max_pixels, generator)


class CrossModalAlignmentLoss(nn.ModuleDict):
    """L_CAL, the sum of its halves (equation 12).

    Args:
        halves: "pixel_to_pixel", "pixel_to_text" or both.
        pixel_temperature: tau_1.
        text_temperature: tau_2.
        max_pixels: as in `PixelToPixelAlignment`.
        text_channels: of the words.
        pixel_channels: of the features of pixels.
    """

    def __init__(
        self,
        halves: Sequence[str],
        pixel_temperature: float,
        text_temperature: float,
        max_pixels: int,
        text_channels: int,
        pixel_channels: int,
    ) -> None:
        kinds = {
            "pixel_to_pixel": lambda: PixelToPixelAlignment(pixel_temperature, max_pixels),
            "pixel_to_text": lambda: PixelToTextAlignment(text_temperature, max_pixels, text_channels, pixel_channels),
        }
        super().__init__({half: kinds[half]() for half in halves})

    def forward(self, pixels: Tensor, text_features: Tensor, text_mask: Tensor, mask_labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            pixels: I, features of pixels (batch, channels, h, w).
            text_features: T, the words (batch, tokens, text channels).
            text_mask: (batch, tokens), 1 = word.
            mask_labels: (batch, height, width), of any size.
        """
        return sum(half(pixels, text_features, text_mask, mask_labels) for half in self.values())


class AlignmentLoss(TrainingTask):
    """The cross-modal alignment loss of a method whose decoder hands on `pixel_features` (table 3 f).

    Args:
        config: the task's configuration.
        text_channels: channels of the fused text features.
        pixel_channels: channels of the features of pixels.
    """

    name = "alignment_loss"
    loss_name = "alignment"

    def __init__(self, config: AlignmentLossConfig, text_channels: int, pixel_channels: int) -> None:
        super().__init__()
        temperatures = (config.pixel_temperature, config.text_temperature)
        self.halves = CrossModalAlignmentLoss(
            config.halves, *temperatures, config.max_pixels, text_channels, pixel_channels
        )

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "AlignmentLoss":
        return cls(model.config.alignment_loss, text_channels, model.config.decoder_hidden_size)

    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        fused = forward_pass.fused
        pixels = forward_pass.decoded.pixel_features
        return self.halves(pixels, fused.text_features, fused.text_mask, forward_pass.mask_labels)


__all__ = ["AlignmentLoss", "CrossModalAlignmentLoss"]
