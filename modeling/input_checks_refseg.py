"""Checks of what a model is given: errors that name the input, what is wrong with it and what to do."""

from typing import Any

from torch import Tensor
from transformers.utils import is_tracing, logging

from .losses_refseg import NOT_ANNOTATED

logger = logging.get_logger(__name__)


def can_be_read(values: Tensor) -> bool:
    """Whether Python can look at values: not in a graph that is being made of tensors without any."""
    return not (values.is_meta or is_tracing(values))


def require_one(**inputs: Any) -> None:
    """Raises ValueError where not exactly one of the inputs, by name, is given."""
    if sum(value is not None for value in inputs.values()) != 1:
        names = [f"`{name}`" for name in inputs]
        raise ValueError(f"Pass exactly one of {', '.join(names[:-1])} and {names[-1]}.")


def require_pixels(pixel_values: Tensor, takes_clips: bool) -> None:
    """Raises ValueError where `pixel_values` are neither images nor, where a model takes them, clips; or no floats."""
    if pixel_values.ndim != 4 and not (pixel_values.ndim == 5 and takes_clips):
        clips = " or clips (batch, frames, 3, height, width)" if takes_clips else ""
        raise ValueError(
            f"`pixel_values` has shape {tuple(pixel_values.shape)}, but this model takes images "
            f"(batch, 3, height, width){clips}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"`pixel_values` are {pixel_values.dtype}: pass normalized images, as the image processor makes them."
        )


def require_tokens(input_ids: Tensor, attention_mask: Tensor | None, vocab_size: int, max_length: int) -> None:
    """Raises ValueError where `input_ids` are no token ids or too many of a text, or the mask is not theirs."""
    shape = tuple(input_ids.shape)
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"`input_ids` have shape {shape}: pass (batch, tokens), one token at least.")
    if attention_mask is not None and tuple(attention_mask.shape) != shape:
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}, but `input_ids` have {shape}: pass both as "
            "the tokenizer made them."
        )
    if can_be_read(input_ids) and ((input_ids < 0) | (input_ids >= vocab_size)).any():
        raise ValueError(
            f"`input_ids` go from {input_ids.min().item()} to {input_ids.max().item()}, but the text encoder knows "
            f"{vocab_size} tokens: take the tokenizer that was saved with the model."
        )
    if shape[1] > max_length:
        raise ValueError(
            f"The texts have {shape[1]} tokens, the text encoder takes at most {max_length}: lower the processor's "
            "`max_text_length`."
        )


def check_keywords(
    owner: str,
    token_type_ids: Tensor | None = None,
    output_hidden_states: bool | None = None,
    output_attentions: bool | None = None,
    **unknown: Any,
) -> None:
    """Checks what tokenizers and users of transformers pass to models, but no method reads.

    Args:
        owner: name of the class that is called.
        token_type_ids: (batch, tokens), all 0, as a tokenizer makes them of single sentences.
        output_hidden_states: a warning says that it has no effect, but as an argument of `forward`.
        output_attentions: the same.
        unknown: nothing but names without a value, which wrappers of other models pass on.

    Raises:
        TypeError: a keyword that has a value, but no effect.
        ValueError: the token types of sentences in pairs.
    """
    given = [name for name, value in unknown.items() if value is not None]
    if given:
        raise TypeError(f"{owner} got an unexpected keyword argument '{given[0]}'.")
    if token_type_ids is not None and can_be_read(token_type_ids) and token_type_ids.any():
        raise ValueError(
            "`token_type_ids` are not all 0: a text is a single sentence. Give the tokenizer a list of texts, no "
            "pairs."
        )
    if output_hidden_states or output_attentions:
        logger.warning_once(
            "Features of an image or a text alone come without hidden states and attention weights: "
            "`output_hidden_states` and `output_attentions` have no effect but in `forward`."
        )


def require_words(attention_mask: Tensor | None) -> None:
    """Raises ValueError where a text has no word: its features would be undefined."""
    if attention_mask is None or not can_be_read(attention_mask):
        return
    has_words = (attention_mask != 0).any(1)
    if not has_words.all():
        number = int((~has_words).nonzero()[0, 0])
        raise ValueError(f"`attention_mask` is 0 all over text {number}: each text needs one word at least.")


def require_labels(mask_labels: Tensor, takes_clips: bool) -> None:
    """Raises ValueError where labels hold another value than 0, 1 and, where a model takes clips, -100."""
    if not can_be_read(mask_labels):
        return
    is_known = (mask_labels == 0) | (mask_labels == 1)
    if takes_clips:
        is_known |= mask_labels == NOT_ANNOTATED
    if is_known.all():
        return
    strange = mask_labels[~is_known][0].item()
    if strange == NOT_ANNOTATED:
        raise ValueError(
            f"`mask_labels` hold {NOT_ANNOTATED}, which stands for frames of clips that are not annotated, but this "
            "model takes images: leave out those without a mask."
        )
    known = f"0, 1 and {NOT_ANNOTATED}" if takes_clips else "0 and 1"
    raise ValueError(
        f"`mask_labels` hold {strange}, but only {known} are legal: pass `mask != 0`, as the processor's "
        "`segmentation_maps` does."
    )


def require_annotated_frames(mask_labels: Tensor) -> None:
    """Raises ValueError where labels (frames, height, width) are -100 on a part of a frame, or on all frames."""
    if not can_be_read(mask_labels):
        return
    is_labeled = (mask_labels != NOT_ANNOTATED).flatten(1)
    is_annotated = is_labeled.all(1)
    if (is_labeled.any(1) & ~is_annotated).any():
        raise ValueError("`mask_labels` are -100 on a part of a frame: a frame is annotated wholly or not at all.")
    if not is_annotated.any():
        raise ValueError(
            "`mask_labels` are -100 everywhere: no frame of this batch is annotated. Pass clips with at least one "
            "annotated frame."
        )


def require_matching_labels(mask_labels: Tensor, logits: Tensor) -> None:
    """Raises ValueError where labels and logits differ in shape."""
    if mask_labels.shape != logits.shape:
        raise ValueError(
            f"`mask_labels` has shape {tuple(mask_labels.shape)}, but the logits have {tuple(logits.shape)}: pass one "
            "mask for each text, at the size of `pixel_values` (the processor's `segmentation_maps` does that)."
        )


def require_matching_images(images: int, texts: int) -> None:
    """Raises ValueError where there is neither an image for each text nor one for all of them."""
    if images not in (1, texts):
        raise ValueError(f"Pass one image for each text, or one image for all of them: got {images} and {texts}.")
