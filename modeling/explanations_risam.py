"""What the attention of RISAM's fusion modules tells about a mask (figure 7), also of those it is compared with."""

from collections.abc import Callable

from torch import Tensor

from .explanations_refseg import Explanation, PixelWords, pixels_of_words, strongest_places, words_of_pixels
from .layers_refseg import pixel_centers

# Of how many pixels an explanation shows the words.
SHOWN_PIXELS = 4


def explain_mutual_attention(
    attentions: tuple[Tensor, ...], maps: Tensor, text_mask: Tensor
) -> dict[str, Explanation]:
    """Block by block the attention of words to pixels, and that of the pixels that words look at most (figure 7)."""
    explanations: dict[str, Explanation] = {}
    for block, (to_words, to_pixels) in enumerate(zip(attentions[::2], attentions[1::2], strict=True), start=1):
        looks = pixels_of_words(to_pixels, maps, text_mask)
        places = strongest_places(looks.maps.amax(0), SHOWN_PIXELS).to(to_words.device)
        height, width = looks.maps.shape[-2:]
        centers = pixel_centers(height, width, to_words.device)
        explanations[f"words_to_pixels_{block}"] = looks
        explanations[f"pixels_to_words_{block}"] = PixelWords(centers[places], to_words[0, 0, places])
    return explanations


def explain_words_of_pixels(attentions: tuple[Tensor, ...], maps: Tensor, text_mask: Tensor) -> dict[str, Explanation]:
    """Block by block where each word matters: the attention of pixels to words is all that there is."""
    return {f"word_attention_{block}": words_of_pixels(each, maps) for block, each in enumerate(attentions, start=1)}


def explain_joint_attention(attentions: tuple[Tensor, ...], maps: Tensor, text_mask: Tensor) -> dict[str, Explanation]:
    """Layer by layer where each word looks among the pixels, which are in front of the words in one sequence."""
    tokens = text_mask.shape[1]
    return {
        f"words_to_pixels_{layer}": pixels_of_words(each[:, :, -tokens:, :-tokens], maps, text_mask)
        for layer, each in enumerate(attentions, start=1)
    }


# By `fusion_type`; the others have no attention.
EXPLAIN_FUSION: dict[str, Callable[[tuple[Tensor, ...], Tensor, Tensor], dict[str, Explanation]]] = {
    "mutual_attention": explain_mutual_attention,
    "transformer_encoder": explain_joint_attention,
    "spatial_dynamic": explain_words_of_pixels,
    "bidirectional": explain_words_of_pixels,
}


def explain_fusion(
    fusion_type: str, attentions: tuple[Tensor, ...], maps: Tensor, text_mask: Tensor
) -> dict[str, Explanation]:
    """What the attention of all fusion modules tells, by name; nothing where they have none.

    Args:
        fusion_type: as in the configuration.
        attentions: the recorded weights, in order.
        maps: F_lav as a map, (1, channels, height, width).
        text_mask: (1, tokens), 1 = token.
    """
    if fusion_type not in EXPLAIN_FUSION:
        return {}
    return EXPLAIN_FUSION[fusion_type](attentions, maps, text_mask)
