"""What the models of all methods share: weights of losses, and the way from image and text to the mask."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .input_checks_refseg import (
    check_keywords,
    require_labels,
    require_matching_images,
    require_matching_labels,
    require_one,
    require_pixels,
    require_tokens,
    require_words,
)
from .modeling_outputs_refseg import (
    DecoderOutput,
    EncodedPass,
    ForwardPass,
    FusedAndDecoded,
    FusedFeatures,
    ImageFeatures,
    ReferringSegmentationOutput,
    warn_of_missing_attentions,
    what_to_record,
)
from .two_encoders_refseg import TwoEncoderModel, is_frozen

# What makes the output of a model of the fused and the decoded features.
Finish = Callable[[FusedAndDecoded], ReferringSegmentationOutput]


class RefSegPreTrainedModel(TwoEncoderModel):
    """Base of all methods: `forward` goes from image and text to logits and losses.

    A method names its encoders `backbone` and `text_encoder`, fills `loss_weights`, the weight of each loss by name,
    calls `add_tasks`, and defines, in the order of its paper, `encode_image`, `project_image` where something trained
    works on the image before it meets the text, `encode_text`, `fuse`, `decode` and `compute_losses`. An encoder
    without trained parameters runs without gradients.
    """

    # Without gradients no more texts than these are fused and decoded at once, each frame of a clip counting as one:
    # it bounds the memory.
    texts_per_pass = 8
    # What is recorded while `fuse` and `decode` run, for `output_hidden_states` and `output_attentions`.
    _can_record_outputs: dict[str, type[nn.Module] | OutputRecorder | list[OutputRecorder]] = {
        "multimodal_hidden_states": [],
        "multimodal_attentions": [],
    }
    # Whether the fused maps have met the sentence.
    maps_hold_language = True
    # Whether language enters between the stages of the image encoder, most of which then runs for each text anew.
    fuses_in_encoder = False

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """What the image encoder makes of images (images, 3, height, width), or of clips (clips, frames, 3, ...)."""
        raise NotImplementedError

    def project_image(self, image: ImageFeatures) -> ImageFeatures:
        """What is trained and works on the image alone; nothing unless a method says otherwise."""
        return image

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What the text encoder makes of token ids (texts, tokens) without the image: (texts, tokens, channels).

        `attention_mask` (texts, tokens) is 1 where there is a token, `None` where all are.
        """
        raise NotImplementedError

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """Brings image and text together.

        Args:
            image: what `project_image` returned, an image for each text.
            text: what `encode_text` returned, (texts, tokens, channels).
            text_mask: (texts, tokens), 1 = token, 0 = padding, in the type of `text`.
        """
        raise NotImplementedError

    def decode(self, fused: FusedFeatures, image_size: tuple[int, ...]) -> DecoderOutput:
        """Logits (texts, *image_size), those of clips with a frame axis; `image_size` is that of [`ImageFeatures`]."""
        raise NotImplementedError

    def compute_losses(self, output: DecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """The unweighted losses by name, means over the samples; `mask_labels` are of the shape of the logits."""
        raise NotImplementedError

    def get_encoder_features(self, pixel_values: Tensor) -> ImageFeatures:
        """What the image encoder alone makes of images (batch, 3, height, width), or of clips where it takes them.

        Pass the result as `encoder_features`, to train on images without encoding them again. Of a frozen encoder it
        is the same in training and in evaluation mode. Images of another floating-point type than the weights are cast
        to theirs.

        Raises:
            ValueError: neither images nor, where the configuration's `takes_clips` is True, clips; or whole numbers.
        """
        return self._run_image_encoder(self.encode_image, pixel_values)

    def _run_image_encoder(self, encode: Callable[[Tensor], ImageFeatures], pixel_values: Tensor) -> ImageFeatures:
        """What `encode`, which runs the image encoder, makes of `pixel_values`; args and errors as above."""
        require_pixels(pixel_values, self.config.takes_clips)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.backbone)):
            return encode(pixel_values.to(self.dtype))

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> ImageFeatures:
        """All that can be computed of images (batch, 3, height, width) without the text.

        Pass the result as `image_embeds`, to segment several expressions in one image without encoding it again.
        `kwargs` are as in `check_keywords`.
        """
        check_keywords(type(self).__name__, **kwargs)
        return self._embed_image(pixel_values)

    def _embed_image(self, pixel_values: Tensor) -> ImageFeatures:
        """What `get_image_features` returns, of `pixel_values` alone."""
        return self.project_image(self._run_image_encoder(self.encode_image, pixel_values))

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Word features, `last_hidden_state` (batch, tokens, channels).

        Pass the result, or that field, as `text_embeds` along with the `attention_mask`. `token_type_ids` and `kwargs`
        are as in `check_keywords`.

        Raises:
            ValueError: more tokens than the text encoder has positions for or others than it knows, a mask of another
                shape, or sentences in pairs.
        """
        check_keywords(type(self).__name__, token_type_ids, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=self._embed_text(input_ids, attention_mask))

    def _embed_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The word features of `get_text_features`; arguments and errors are the same."""
        require_tokens(input_ids, attention_mask, self.config.text_config.vocab_size, self.longest_text)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.text_encoder)):
            return self.encode_text(input_ids, attention_mask)

    def finish_text(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """What a text encoder makes of a sentence that never meets the image, (batch, tokens, channels).

        `text` is that of `encode_text`, as here where that is all; a method whose text encoder goes on in `fuse`
        runs the rest of it.
        """
        return text

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_labels: Tensor | None = None,
        image_embeds: ImageFeatures | None = None,
        text_embeds: BaseModelOutputWithPooling | Tensor | None = None,
        encoder_features: ImageFeatures | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> ReferringSegmentationOutput:
        """Segments what each text means.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, 3, height, width)`):
                Normalized images, one for each text or a single one for all texts (it is encoded once). Where the
                configuration's `takes_clips` is True, clips `(batch, frames, 3, height, width)` as well. They are cast
                to the type of the weights.
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): the tokenized texts.
            attention_mask (`torch.LongTensor` of shape `(batch, tokens)`):
                1 = word, 0 = padding; all words if absent. Each text has one word at least.
            mask_labels (`torch.LongTensor` of shape `(batch, height, width)`):
                0 = background, 1 = target; all 0 where there is no target. For clips `(batch, frames, height, width)`
                with -100 all over the frames that are not annotated.
            image_embeds ([`ImageFeatures`]): what `get_image_features` returned, instead of `pixel_values`.
            text_embeds ([`BaseModelOutputWithPooling`] or `torch.FloatTensor` of shape `(batch, tokens, channels)`):
                What `get_text_features` returned, or its `last_hidden_state`, instead of `input_ids`.
            encoder_features ([`ImageFeatures`]): what `get_encoder_features` returned, instead of `pixel_values`.
            token_type_ids (`torch.LongTensor` of shape `(batch, tokens)`): all 0, as those of single sentences are.
            output_hidden_states: whether to return `hidden_states`; as the configuration says, if absent.
            output_attentions: whether to return `attentions`; as the configuration says, if absent.
            kwargs: `return_dict`, and as in `check_keywords`.

        Raises:
            ValueError: where an input is missing, the numbers of images, texts and masks do not match, or values are
                none of those above.
            TypeError: an unknown keyword.
        """
        check_keywords(type(self).__name__, token_type_ids, **kwargs)
        recorded = what_to_record(self.config, output_hidden_states, output_attentions)
        image, text, text_mask = self.encode_inputs(
            pixel_values, input_ids, attention_mask, image_embeds, text_embeds, encoder_features
        )
        if mask_labels is None:
            return self.segment(image, text, text_mask, self.make_output, **recorded)
        given = EncodedPass(pixel_values, input_ids, attention_mask, image, text, text_mask, mask_labels)
        return self.forward_with_loss(given, self.make_output, {}, **recorded)

    def encode_inputs(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        image_embeds: ImageFeatures | None = None,
        text_embeds: BaseModelOutputWithPooling | Tensor | None = None,
        encoder_features: ImageFeatures | None = None,
    ) -> tuple[ImageFeatures, Tensor, Tensor]:
        """What `fuse` takes, from the inputs of `forward`: an image for each text, the words, and their mask."""
        require_one(pixel_values=pixel_values, image_embeds=image_embeds, encoder_features=encoder_features)
        require_one(input_ids=input_ids, text_embeds=text_embeds)
        require_words(attention_mask)
        if encoder_features is not None:
            image_embeds = self.project_image(encoder_features)
        elif image_embeds is None:
            image_embeds = self._embed_image(pixel_values)
        if text_embeds is None:
            text = self._embed_text(input_ids, attention_mask)
        else:
            text = text_embeds.last_hidden_state if isinstance(text_embeds, ModelOutput) else text_embeds
        require_matching_images(image_embeds.maps[0].shape[0], text.shape[0])
        image = image_embeds.apply_to_tensors(lambda tensor: tensor.expand(text.shape[0], *tensor.shape[1:]))
        text_mask = text.new_ones(text.shape[:2]) if attention_mask is None else attention_mask.to(text.dtype)
        return image, text, text_mask

    def forward_with_loss(
        self, given: EncodedPass, finish: Finish, further_losses: dict[str, Tensor], **recorded: bool
    ) -> ReferringSegmentationOutput:
        """What `finish` makes, and the losses, `further_losses` and those of all training tasks included.

        `given` is the pass as far as `encode_inputs` goes.
        """
        require_labels(given.mask_labels, self.config.takes_clips)
        made = self.fuse_and_decode(given.image, given.text, given.text_mask, **recorded)
        output = finish(made)
        require_matching_labels(given.mask_labels, output.logits)
        losses = further_losses | self.compute_losses(made.decoded, given.mask_labels)
        forward_pass = ForwardPass(**vars(given), fused=made.fused, decoded=made.decoded, output=output)
        losses |= {task.loss_name: task.loss(self, forward_pass) for task in self.tasks}
        return type(output)(
            loss=sum(self.loss_weights[name] * value for name, value in losses.items()),
            loss_components={name: value.detach() for name, value in losses.items()},
            **output,
        )

    def segment(
        self, image: ImageFeatures, text: Tensor, text_mask: Tensor, finish: Finish, **recorded: bool
    ) -> ReferringSegmentationOutput:
        """What `finish` makes of all texts, without gradients of `texts_per_pass` at a time; inputs as of `fuse`."""
        texts, at_once = text.shape[0], max(1, self.texts_per_pass // image.num_frames)
        # An exported graph is one pass, as it could not tell how many a batch of another size takes.
        if torch.is_grad_enabled() or torch.compiler.is_exporting() or torch.jit.is_tracing() or texts <= at_once:
            return finish(self.fuse_and_decode(image, text, text_mask, **recorded))
        passes = [slice(first, first + at_once) for first in range(0, texts, at_once)]
        parts = [
            self.segment(image.apply_to_tensors(itemgetter(part)), text[part], text_mask[part], finish, **recorded)
            for part in passes
        ]
        return tree_map(lambda *tensors: torch.cat(tensors), *parts)

    @capture_outputs
    def fuse_and_decode(
        self, image: ImageFeatures, text: Tensor, text_mask: Tensor, **recorded: bool
    ) -> FusedAndDecoded:
        """What `fuse` and `decode` make of texts; `recorded` is that of `what_to_record`."""
        fused = self.fuse(image, text, text_mask)
        return FusedAndDecoded(fused=fused, decoded=self.decode(fused, image.image_size))

    def make_output(self, made: FusedAndDecoded) -> ReferringSegmentationOutput:
        """What `forward` returns without labels."""
        predictions = {name: value for task in self.tasks for name, value in task.predict(made).items()}
        states, attentions = made.multimodal_hidden_states, made.multimodal_attentions
        warn_of_missing_attentions(made, self.config)
        return ReferringSegmentationOutput(
            logits=made.decoded.logits,
            hidden_states=None if states is None else (*made.fused.maps, *states),
            attentions=attentions,
            **predictions,
        )


# Saved folders of every method carry its code.
RefSegPreTrainedModel.register_for_auto_class("AutoModel")

__all__ = ["RefSegPreTrainedModel"]
