"""What the models of all methods share: weights of losses, and the way from image and text to the mask."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .auxiliary_refseg import PresenceHead
from .configuration_refseg import RefSegConfig
from .modeling_outputs_refseg import FusedFeatures, ImageFeatures, ReferringSegmentationOutput


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing in it is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


class RefSegPreTrainedModel(PreTrainedModel):
    """Base of all methods: `forward` goes from image and text to logits and losses.

    A method names its encoders `backbone` and `text_encoder`, calls `add_auxiliary_tasks`, and defines
    `run_image_encoder`, `encode_text`, `fuse`, `decode` and `compute_losses`; `enhance_image` where something trained
    works on the image before it meets the text. It fills `loss_weights`: the weight of each loss by name, which may
    change during training.

    An encoder without trained parameters runs without gradients and stays in evaluation mode, so that neither batch
    statistics nor dropout disturb it.
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
    # Without gradients no more texts than these are fused and decoded at once: it bounds the memory.
    texts_per_pass = 8

    def add_auxiliary_tasks(self, map_channels: int, word_channels: int) -> None:
        """Adds the tasks that the configuration names; called in `__init__` once `loss_weights` are there.

        Args:
            map_channels: channels of the last of the fused maps.
            word_channels: channels of the fused words.
        """
        if self.config.presence_head:
            self.presence_head = PresenceHead(map_channels, word_channels)
            self.loss_weights["presence"] = self.config.presence_loss_weight

    def post_init(self) -> None:
        super().post_init()
        self.freeze_encoders()

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> Any:
        """As in transformers; what the configuration freezes is frozen (loading makes every parameter trainable)."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_encoders()
        return loaded

    def freeze_encoders(self) -> None:
        """Freezes the encoders that the configuration says are frozen."""
        for encoder, frozen in (
            (self.backbone, self.config.freeze_image_encoder),
            (self.text_encoder, self.config.freeze_text_encoder),
        ):
            if frozen:
                encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "RefSegPreTrainedModel":
        super().train(mode)
        for encoder in (self.backbone, self.text_encoder):
            encoder.train(mode and not is_frozen(encoder))
        return self

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

    def get_encoder_features(self, pixel_values: Tensor) -> ImageFeatures:
        """What the image encoder alone makes of images (batch, 3, height, width).

        Pass the result as `encoder_features`, to train on images without encoding them again.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.backbone)):
            return self.run_image_encoder(pixel_values)

    def get_image_features(self, pixel_values: Tensor) -> ImageFeatures:
        """All that can be computed of images (batch, 3, height, width) without the text.

        Pass the result as `image_embeds`, to segment several expressions in one image without encoding it again.
        """
        return self.enhance_image(self.get_encoder_features(pixel_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Word features (batch, tokens, channels); pass them as `text_embeds` along with the `attention_mask`.

        Raises:
            ValueError: more tokens than the text encoder has positions for.
        """
        limit = self.config.text_config.max_position_embeddings
        if input_ids.shape[1] > limit:
            raise ValueError(
                f"The texts have {input_ids.shape[1]} tokens, the text encoder takes at most {limit}: lower the "
                "processor's `max_text_length`."
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.text_encoder)):
            return self.encode_text(input_ids, attention_mask)

    def enhance_image(self, image: ImageFeatures) -> ImageFeatures:
        """What is trained and works on the image alone; nothing unless a method says otherwise."""
        return image

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_labels: Tensor | None = None,
        image_embeds: ImageFeatures | None = None,
        text_embeds: Tensor | None = None,
        encoder_features: ImageFeatures | None = None,
    ) -> ReferringSegmentationOutput:
        """Segments what each text means.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, 3, height, width)`):
                Normalized images, one for each text or a single one for all texts (it is encoded once).
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): the tokenized texts.
            attention_mask (`torch.LongTensor` of shape `(batch, tokens)`): 1 = word, 0 = padding; all words if absent.
            mask_labels (`torch.LongTensor` of shape `(batch, height, width)`):
                0 = background, 1 = target; all 0 where there is no target.
            image_embeds ([`ImageFeatures`]): what `get_image_features` returned, instead of `pixel_values`.
            text_embeds (`torch.FloatTensor` of shape `(batch, tokens, channels)`):
                What `get_text_features` returned, instead of `input_ids`.
            encoder_features ([`ImageFeatures`]): what `get_encoder_features` returned, instead of `pixel_values`.

        Raises:
            ValueError: where an input is missing or the numbers of images, texts and masks do not match.
        """
        _require_one(pixel_values=pixel_values, image_embeds=image_embeds, encoder_features=encoder_features)
        _require_one(input_ids=input_ids, text_embeds=text_embeds)
        if pixel_values is not None:
            encoder_features = self.get_encoder_features(pixel_values)
        image = self.enhance_image(encoder_features) if image_embeds is None else image_embeds
        words = self.get_text_features(input_ids, attention_mask) if text_embeds is None else text_embeds
        word_mask = words.new_ones(words.shape[:2]) if attention_mask is None else attention_mask.to(words.dtype)
        image = _match_images_to_texts(image, words.shape[0])
        if mask_labels is None:
            return self.segment(image, words, word_mask)
        fused = self.fuse(image, words, word_mask)
        logits = self.decode(fused, image.image_size)
        components = self.compute_losses(logits, _matching_labels(mask_labels, logits), fused)
        presence_logits = self.predict_presence(fused)
        if presence_logits is not None:
            components["presence"] = PresenceHead.loss(presence_logits, mask_labels)
        loss = sum(self.loss_weights[name] * value for name, value in components.items())
        components = {name: value.detach() for name, value in components.items()}
        return ReferringSegmentationOutput(
            loss=loss, loss_components=components, logits=logits, presence_logits=presence_logits
        )

    def segment(self, image: ImageFeatures, words: Tensor, word_mask: Tensor) -> ReferringSegmentationOutput:
        """Logits alone, without gradients for `texts_per_pass` texts at a time; inputs as those of `fuse`."""
        at_once = len(words) if torch.is_grad_enabled() else self.texts_per_pass
        logits, presence_logits = [], []
        parts = (features.split(at_once) for features in (image.features, words, word_mask))
        for pixels, *text in zip(*parts, strict=True):
            fused = self.fuse(image.with_features(pixels), *text)
            logits.append(self.decode(fused, image.image_size))
            presence_logits.append(self.predict_presence(fused))
        return ReferringSegmentationOutput(
            logits=_join(logits), presence_logits=_join(presence_logits) if self.config.presence_head else None
        )

    def predict_presence(self, fused: FusedFeatures) -> Tensor | None:
        """Logits (batch,) of the presence head, None in a model without one."""
        return self.presence_head(fused) if self.config.presence_head else None


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _require_one(**inputs: Tensor | None) -> None:
    if sum(value is not None for value in inputs.values()) != 1:
        names = [f"`{name}`" for name in inputs]
        raise ValueError(f"Pass exactly one of {', '.join(names[:-1])} and {names[-1]}.")


def _match_images_to_texts(image: ImageFeatures, texts: int) -> ImageFeatures:
    images = image.features.shape[0]
    if images not in (1, texts):
        raise ValueError(f"Pass one image for each text, or one image for all of them: got {images} and {texts}.")
    return image.with_features(image.features.expand(texts, *image.features.shape[1:]))


def _matching_labels(mask_labels: Tensor, logits: Tensor) -> Tensor:
    if mask_labels.shape != logits.shape:
        raise ValueError(
            f"`mask_labels` has shape {tuple(mask_labels.shape)}, but the logits have {tuple(logits.shape)}: pass one "
            "mask for each text, at the size of `pixel_values` (the processor's `segmentation_maps` does that)."
        )
    return mask_labels


__all__ = ["FusedFeatures", "ImageFeatures", "RefSegPreTrainedModel", "ReferringSegmentationOutput", "is_frozen"]
