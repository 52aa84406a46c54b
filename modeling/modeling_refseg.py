"""What the models of all methods share: outputs, weights of losses, and the way from image and text to the mask."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_refseg import RefSegConfig


@dataclass
class ImageFeatures(ModelOutput):
    """What a model knows of images before it reads the text; `get_image_features` returns it, `image_embeds` takes it.

    Args:
        features (`torch.FloatTensor`): the encoder's features, the images along the first axis.
        map_size (`tuple[int, int]`): height and width of the feature map.
        image_size (`tuple[int, int]`): height and width of the `pixel_values` it was computed from.
    """

    features: Tensor | None = None
    map_size: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None


@dataclass
class ReferringSegmentationOutput(ModelOutput):
    """What every model for referring segmentation returns.

    Args:
        loss (`torch.FloatTensor` of shape `()`, returned when `mask_labels` is given):
            Sum of `loss_components`, each times the model's `loss_weights` of that name.
        loss_components (`dict[str, torch.FloatTensor]`, returned when `mask_labels` is given):
            The unweighted losses by name, scalars, detached.
        logits (`torch.FloatTensor` of shape `(batch, height, width)`):
            Foreground logits. A pixel belongs to the mask where their sigmoid exceeds the image processor's
            `mask_threshold`: with 0.5, its default, where they exceed 0.
    """

    loss: Tensor | None = None
    loss_components: dict[str, Tensor] | None = None
    logits: Tensor | None = None


class RefSegPreTrainedModel(PreTrainedModel):
    """Base of all methods: `forward` goes from image and text to logits and losses.

    A method defines `encode_image`, `encode_text`, `fuse`, `decode` and `compute_losses`, and fills `loss_weights`:
    the weight of each loss by name, which may change during training.
    """

    config: RefSegConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # Losses are means over a batch, so Trainer has to average them over accumulation steps itself.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialization for what is new; the encoders inside are initialized by their own rules."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)

    def get_image_features(self, pixel_values: Tensor) -> ImageFeatures:
        """All that can be computed of images (batch, 3, height, width) without the text.

        Pass the result as `image_embeds`, to segment several expressions in one image without encoding it again.
        """
        return self.encode_image(pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Word features (batch, tokens, channels); pass them as `text_embeds` along with the `attention_mask`."""
        return self.encode_text(input_ids, attention_mask)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_labels: Tensor | None = None,
        image_embeds: ImageFeatures | None = None,
        text_embeds: Tensor | None = None,
    ) -> ReferringSegmentationOutput:
        """Segments what each text means.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, 3, height, width)`):
                Normalized images, one for each text or a single one for all texts (it is encoded once).
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): the tokenized texts.
            attention_mask (`torch.LongTensor` of shape `(batch, tokens)`): 1 = word, 0 = padding; all words if absent.
            mask_labels (`torch.LongTensor` of shape `(batch, height, width)`): 0 = background, 1 = target.
            image_embeds ([`ImageFeatures`]): what `get_image_features` returned, instead of `pixel_values`.
            text_embeds (`torch.FloatTensor` of shape `(batch, tokens, channels)`):
                What `get_text_features` returned, instead of `input_ids`.

        Raises:
            ValueError: where an input is missing or the numbers of images, texts and masks do not match.
        """
        _require_one(pixel_values=pixel_values, image_embeds=image_embeds)
        _require_one(input_ids=input_ids, text_embeds=text_embeds)
        image = self.get_image_features(pixel_values) if image_embeds is None else image_embeds
        words = self.get_text_features(input_ids, attention_mask) if text_embeds is None else text_embeds
        word_mask = words.new_ones(words.shape[:2]) if attention_mask is None else attention_mask.to(words.dtype)
        image = _match_images_to_texts(image, words.shape[0])
        logits = self.decode(self.fuse(image, words, word_mask), image.image_size)
        if mask_labels is None:
            return ReferringSegmentationOutput(logits=logits)
        components = self.compute_losses(logits, _matching_labels(mask_labels, logits))
        loss = sum(self.loss_weights[name] * value for name, value in components.items())
        components = {name: value.detach() for name, value in components.items()}
        return ReferringSegmentationOutput(loss=loss, loss_components=components, logits=logits)


def _require_one(**inputs: Tensor | None) -> None:
    if sum(value is not None for value in inputs.values()) != 1:
        raise ValueError(f"Pass exactly one of {' and '.join(f'`{name}`' for name in inputs)}.")


def _match_images_to_texts(image: ImageFeatures, texts: int) -> ImageFeatures:
    images = image.features.shape[0]
    if images not in (1, texts):
        raise ValueError(f"Pass one image for each text, or one image for all of them: got {images} and {texts}.")
    return ImageFeatures(
        features=image.features.expand(texts, *image.features.shape[1:]),
        map_size=image.map_size,
        image_size=image.image_size,
    )


def _matching_labels(mask_labels: Tensor, logits: Tensor) -> Tensor:
    if mask_labels.shape != logits.shape:
        raise ValueError(
            f"`mask_labels` has shape {tuple(mask_labels.shape)}, but the logits have {tuple(logits.shape)}: pass one "
            "mask for each text, at the size of `pixel_values` (the processor's `segmentation_maps` does that)."
        )
    return mask_labels


__all__ = ["ImageFeatures", "RefSegPreTrainedModel", "ReferringSegmentationOutput"]
