"""What passes between the parts of a model, and what comes out of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput, is_tracing, logging

from .layers_refseg import to_tokens

logger = logging.get_logger(__name__)

# The default of fields that are given always: transformers wants None of all fields of an output but the first.
ALWAYS_GIVEN: Any = None


class NotFiniteError(ValueError):
    """A model answers with NaN or infinity, of which no mask can be made."""


@dataclass
class ImageFeatures(ModelOutput):
    """What a model knows of images before it reads the text.

    Args:
        maps (`tuple[torch.FloatTensor]`):
            Maps `(images, channels, height, width)`, finest first; those of clips `(clips, frames, channels, height,
            width)`.
        image_size (`tuple[int, ...]`):
            Height and width of the `pixel_values` they were computed from; of clips frames, height and width.
        pixel_values (`torch.FloatTensor` of shape `(images, 3, height, width)`):
            The normalized images themselves, where a method reads them as well.
    """

    maps: tuple[Tensor, ...] = ALWAYS_GIVEN
    image_size: tuple[int, ...] = ALWAYS_GIVEN
    pixel_values: Tensor | None = None

    @property
    def last_hidden_state(self) -> Tensor:
        """The coarsest map as tokens (images, positions, channels), as outputs of transformers' encoders have it."""
        return to_tokens(self.maps[-1])

    @property
    def pooler_output(self) -> None:
        """`None`, where transformers' encoders return one vector for each image: no method makes any."""

    @property
    def num_frames(self) -> int:
        """Frames of each clip; an image counts as one."""
        *frames, _, _ = self.image_size
        return frames[0] if frames else 1

    def apply_to_tensors(self, change: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        """The same features, each of the tensors changed alike."""
        # In a graph that is traced sizes are tensors as well.
        tensors = {name: value for name, value in self.items() if name != "image_size"}
        return type(self)(**tree_map(change, tensors), image_size=self.image_size)


def join_features(images: Sequence[ImageFeatures]) -> ImageFeatures:
    """The features of several images, or clips, of one size as those of a batch."""
    # Sizes, which are leaves as well, are those of all.
    return tree_map(lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0], *images)


@dataclass
class FusedFeatures(ModelOutput):
    """What a model knows once language and vision have met; methods add to it what their decoders need.

    Args:
        maps (`tuple[torch.FloatTensor]`):
            Maps `(texts, channels, height, width)`, finest first; those of clips `(texts, frames, channels, height,
            width)`.
        text_features (`torch.FloatTensor` of shape `(texts, tokens, channels)`): the features of the texts' tokens.
        text_mask (`torch.FloatTensor` of shape `(texts, tokens)`): 1 = token, 0 = padding.
    """

    maps: tuple[Tensor, ...] = ALWAYS_GIVEN
    text_features: Tensor = ALWAYS_GIVEN
    text_mask: Tensor = ALWAYS_GIVEN


@dataclass
class DecoderOutput(ModelOutput):
    """What a decoder makes of the fused features; methods add to it what else their losses or explanations read.

    Args:
        logits (`torch.FloatTensor` of shape `(texts, height, width)`, for clips `(texts, frames, height, width)`):
            Foreground logits at the size of the image.
    """

    logits: Tensor = ALWAYS_GIVEN


@dataclass
class FusedAndDecoded(ModelOutput):
    """What `fuse` and `decode` make of some texts, and what of their insides is recorded meanwhile.

    The recorded outputs do not go by the names that transformers' models give theirs: the layers of an encoder that
    runs inside `fuse` would join them.

    Args:
        fused ([`FusedFeatures`]): what `fuse` returned.
        decoded ([`DecoderOutput`]): what `decode` returned.
        multimodal_hidden_states (`tuple[torch.FloatTensor]`): what the model records for `output_hidden_states`.
        multimodal_attentions (`tuple[torch.FloatTensor]`): what it records for `output_attentions`.
    """

    fused: FusedFeatures = ALWAYS_GIVEN
    decoded: DecoderOutput = ALWAYS_GIVEN
    multimodal_hidden_states: tuple[Tensor, ...] | None = None
    multimodal_attentions: tuple[Tensor, ...] | None = None


@dataclass
class ReferringSegmentationOutput(ModelOutput):
    """What every model for referring segmentation returns.

    Args:
        loss (`torch.FloatTensor` of shape `()`, returned when `mask_labels` is given):
            Sum of `loss_components`, each times the model's `loss_weights` of that name.
        loss_components (`dict[str, torch.FloatTensor]`, returned when `mask_labels` is given):
            The unweighted losses by name, scalars, detached.
        logits (`torch.FloatTensor` of shape `(batch, height, width)`, for clips `(batch, frames, height, width)`):
            Foreground logits. A pixel belongs to the mask where their sigmoid exceeds the image processor's
            `mask_threshold`: with 0.5, its default, where they exceed 0.
        presence_logits (`torch.FloatTensor` of shape `(batch,)`, returned where the model has a presence head):
            There is a target at all where they exceed 0.
        hidden_states (`tuple[torch.FloatTensor]`, returned with `output_hidden_states=True`):
            The fused maps, finest first, `(batch, channels, height, width)`, for clips `(batch, frames, channels,
            height, width)`; then what the model's class says, in the order in which it is computed.
        attentions (`tuple[torch.FloatTensor]`, returned with `output_attentions=True`):
            The weights with which language and vision attend to each other, `(batch, heads, queries, keys)`, each row
            sums to 1; the model's class says which, in the order in which they are computed. The pixels of a map are
            in rows, those of a clip frame by frame. What transformers' attention interface computes is there with
            `attn_implementation="eager"` alone.
    """

    loss: Tensor | None = None
    loss_components: dict[str, Tensor] | None = None
    logits: Tensor = ALWAYS_GIVEN
    presence_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class RecordedOutput(ReferringSegmentationOutput):
    """What a model returns where hidden states and attention weights are asked for.

    A type alone: no object is made of it.
    """

    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]


@dataclass(frozen=True)
class EncodedPass:
    """A forward pass with labels as far as both encoders go.

    Args:
        pixel_values: images or clips, as `forward` got them; None where it got features of them.
        input_ids: the texts, (batch, tokens); None where `forward` got their features.
        attention_mask: (batch, tokens), 1 = token, as `forward` got it; None if it got none.
        image: the features that `fuse` read, an image for each text.
        text: those of the texts that `fuse` read, (batch, tokens, channels).
        text_mask: (batch, tokens), 1 = token.
        mask_labels: (batch, height, width), or (batch, frames, height, width); 1 = target, -100 = not annotated.
    """

    pixel_values: Tensor | None
    input_ids: Tensor | None
    attention_mask: Tensor | None
    image: ImageFeatures
    text: Tensor
    text_mask: Tensor
    mask_labels: Tensor


@dataclass(frozen=True)
class FusedPass(EncodedPass):
    """The same once language and vision have met.

    Args:
        fused: what `fuse` returned.
    """

    fused: FusedFeatures


@dataclass(frozen=True)
class ForwardPass(FusedPass):
    """What a task may read of a forward pass with labels: all of it.

    Args:
        decoded: what `decode` returned.
        output: what the model answers, the predictions of tasks included.
    """

    decoded: DecoderOutput
    output: ReferringSegmentationOutput


def what_to_record(
    config: PreTrainedConfig, output_hidden_states: bool | None, output_attentions: bool | None
) -> dict[str, bool]:
    """What the arguments of `forward` ask for, or the configuration where they are absent.

    Raises:
        ValueError: hidden states by their indices, of which some models of transformers return those alone.
    """
    if not isinstance(output_hidden_states, bool | None):
        raise ValueError(
            f"`output_hidden_states` is True or False, not {output_hidden_states!r}: choose from the output's "
            "`hidden_states`."
        )
    return {
        "return_dict": True,
        "output_multimodal_hidden_states": (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        ),
        "output_multimodal_attentions": config.output_attentions if output_attentions is None else output_attentions,
    }


def warn_of_missing_attentions(made: FusedAndDecoded, config: PreTrainedConfig) -> None:
    """Says, where attention weights were asked for and none recorded, that the kernel tells none."""
    kernel = config._attn_implementation
    if made.multimodal_attentions == () and kernel != "eager" and not is_tracing(made.decoded.logits):
        logger.warning_once(
            f"`{kernel}` attention does not support `output_attentions=True`. Please set your attention to `eager`, "
            'with `model.set_attn_implementation("eager")`.'
        )


def require_finite(**answers: Tensor | None) -> None:
    """Raises NotFiniteError where one of a model's answers, given by name, holds NaN or infinity.

    It would pass for an answer like any other: that there is no target.
    """
    for name, values in answers.items():
        if values is not None and not values.isfinite().all():
            share = 1 - values.isfinite().float().mean().item()
            raise NotFiniteError(
                f"{100 * share:.3g} % of the model's {name} are NaN or infinite. Either its weights are damaged: "
                "load, convert or train it again; or its number format is too narrow, as float16 may be: take float32."
            )


__all__ = [
    "ALWAYS_GIVEN",
    "DecoderOutput",
    "EncodedPass",
    "ForwardPass",
    "FusedAndDecoded",
    "FusedFeatures",
    "FusedPass",
    "ImageFeatures",
    "NotFiniteError",
    "RecordedOutput",
    "ReferringSegmentationOutput",
    "join_features",
    "require_finite",
    "warn_of_missing_attentions",
    "what_to_record",
]
