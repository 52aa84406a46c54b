"""Training tasks beside the masks that any method can carry."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEncoder, BertPreTrainedModel

from .configuration_refseg import MaskGroundingConfig
from .layers_refseg import masked_mean, pixel_centers
from .modeling_outputs_refseg import FusedFeatures
from .precision_refseg import at_least_float32

GOLDEN_RATIO = (1 + 5**0.5) / 2


class PresenceHead(nn.Module):
    """Whether there is a target at all, from the coarsest fused map and the words.

    Args:
        map_channels: channels of the last of the fused maps.
        word_channels: channels of the fused words.
    """

    def __init__(self, map_channels: int, word_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * map_channels + word_channels)
        self.classifier = nn.Sequential(
            nn.Linear(2 * map_channels + word_channels, map_channels), nn.GELU(), nn.Linear(map_channels, 1)
        )

    def forward(self, fused: FusedFeatures) -> Tensor:
        """Logits (batch,): above 0 there is a target."""
        # Those of all frames of a clip.
        pixels = fused.maps[-1].movedim(-3, 1).flatten(2)
        sentence = masked_mean(fused.text_features, fused.text_mask)
        return self.classifier(self.norm(torch.cat([pixels.mean(2), pixels.amax(2), sentence], 1))).squeeze(1)

    @staticmethod
    def loss(logits: Tensor, mask_labels: Tensor) -> Tensor:
        """Binary cross-entropy of `logits` (batch,); a target is present where its mask (batch, ...) is not empty.

        The mean over the texts whose masks have a value of at least 0: of others nobody knows.
        """
        labels, logits = mask_labels.flatten(1), at_least_float32(logits)
        present, is_known = (labels > 0).any(1).to(logits.dtype), (labels >= 0).any(1)
        losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
        return (losses * is_known).sum() / is_known.sum().clamp(min=1)


class MaskToken(nn.Module):
    """The learned token in the place of masked words (section 3.2): the vocabulary's own and a change that is learned.

    The change starts at 0. So the token is learned where the word embeddings are frozen as well. `embeddings` (batch,
    tokens, channels), `is_masked` bool (batch, tokens); keeps the shape of `embeddings`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(channels))

    def forward(self, embeddings: Tensor, is_masked: Tensor) -> Tensor:
        return embeddings + is_masked.unsqueeze(-1) * self.change


class WordTokens(nn.Module):
    """Words in the width of the image; the masked ones are marked by a learned embedding.

    `words` (batch, tokens, word_channels), `is_masked` (batch, tokens) bool; returns (batch, tokens, channels).
    """

    def __init__(self, word_channels: int, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(word_channels, channels)
        self.kind = nn.Embedding(2, channels)

    def forward(self, words: Tensor, is_masked: Tensor) -> Tensor:
        return self.projection(words) + self.kind(is_masked.long())


class ImageTokens(nn.Module):
    """The pixels of a map (batch, channels, h, w), averaged to at most `max_size` x `max_size`, with their places.

    Returns (batch, pixels, channels).
    """

    def __init__(self, channels: int, max_size: int) -> None:
        super().__init__()
        self.max_size = max_size
        self.position = coordinate_mlp(channels)

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        size = [min(length, self.max_size) for length in maps.shape[-2:]]
        pixels = F.adaptive_avg_pool2d(maps, size).flatten(2).transpose(1, 2)
        return pixels + self.position(pixel_centers(*size, maps.device, maps.dtype).to(maps.dtype))


class CenterToken(nn.Module):
    """The center of the target's mask (section 3.2); returns (batch, 1, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = coordinate_mlp(channels)

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        return self.encoder(mask_centers(mask_labels, maps.dtype).to(maps.dtype)).unsqueeze(1)


class AverageToken(nn.Module):
    """The mean of a map (batch, channels, h, w) inside the target's mask (table 3 b); returns (batch, 1, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, maps: Tensor, mask_labels: Tensor) -> Tensor:
        is_target = (mask_labels != 0).to(torch.promote_types(maps.dtype, torch.float32))
        weights = F.adaptive_avg_pool2d(is_target, maps.shape[-2:])
        weights = weights / weights.sum((1, 2), keepdim=True).clamp(min=1e-6)
        return self.encoder(torch.einsum("bchw,bhw->bc", maps, weights.to(maps.dtype))).unsqueeze(1)


MASK_TOKENS = {"center": [CenterToken], "average": [AverageToken], "none": []}


class MaskedTokenPredictor(BertPreTrainedModel):
    """A BERT-like encoder over tokens of any origin, and a classifier over the vocabulary (section 3.2, equation 4).

    `tokens` (batch, tokens, channels), `token_mask` (batch, tokens) 1 = token, `is_masked` (batch, tokens) bool;
    returns the logits (masked tokens, vocabulary) in the order of `is_masked.nonzero()`.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = BertEncoder(config)
        self.classifier = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, tokens: Tensor, token_mask: Tensor, is_masked: Tensor) -> Tensor:
        tokens = self.dropout(self.norm(tokens))
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=tokens, attention_mask=token_mask.bool())
        return self.classifier(self.encoder(tokens, mask).last_hidden_state[is_masked])


class MaskGrounding(nn.Module):
    """Names masked words from the rest of the sentence, the image and the target's mask (MagNet, section 3.2).

    Args:
        config: the task's configuration.
        text_config: that of the text encoder, which gives the vocabulary and the channels of the words.
        embedding_size: channels of the text encoder's word embeddings.
        channels: channels of the map of image features.
        attention: implementation of the predictor's attention.

    Raises:
        ValueError: a token id that the vocabulary does not have.
    """

    def __init__(
        self,
        config: MaskGroundingConfig,
        text_config: PreTrainedConfig,
        embedding_size: int,
        channels: int,
        attention: str,
    ) -> None:
        super().__init__()
        if not 0 <= config.mask_token_id < text_config.vocab_size:
            raise ValueError(
                f"mask_grounding: mask_token_id is {config.mask_token_id}, but the vocabulary has "
                f"{text_config.vocab_size} tokens."
            )
        self.mask_token = MaskToken(embedding_size)
        self.words = WordTokens(text_config.hidden_size, channels)
        image = [ImageTokens(channels, config.max_map_size)] if config.image_tokens else []
        self.context = nn.ModuleList([*image, *(token(channels) for token in MASK_TOKENS[config.mask_encoder])])
        self.predictor = MaskedTokenPredictor(
            BertConfig(
                vocab_size=text_config.vocab_size,
                hidden_size=channels,
                num_hidden_layers=config.predictor_layers,
                # 64 channels each, as in BERT.
                num_attention_heads=max(1, channels // 64) if channels % 64 == 0 else 1,
                intermediate_size=4 * channels,
                attn_implementation=attention,
            )
        )

    def forward(
        self, words: Tensor, word_mask: Tensor, is_masked: Tensor, maps: Tensor, mask_labels: Tensor
    ) -> Tensor:
        """Logits (masked words, vocabulary) of the masked words, in the order of `is_masked.nonzero()`.

        Args:
            words: the word features of the masked sentences, (batch, tokens, text channels).
            word_mask: (batch, tokens), 1 = word.
            is_masked: (batch, tokens) bool, the words to name.
            maps: image features (batch, channels, h, w).
            mask_labels: (batch, height, width), not 0 = target; all 0 is legal and says nothing.
        """
        tokens = [self.words(words, is_masked), *(part(maps, mask_labels) for part in self.context)]
        others = sum(part.shape[1] for part in tokens[1:])
        return self.predictor(
            torch.cat(tokens, 1), F.pad(word_mask, (0, others), value=1), F.pad(is_masked, (0, others), value=False)
        )

    @staticmethod
    def loss(logits: Tensor, input_ids: Tensor, is_masked: Tensor, mask_labels: Tensor) -> Tensor:
        """Cross-entropy of the masked words: a mean over those of each sentence, then over the sentences.

        A sentence without a target or without a masked word is left out; 0 where none is left.

        Args:
            logits: (masked words, vocabulary), what `forward` returned.
            input_ids: the words as they were before they were masked, (batch, tokens).
            is_masked: (batch, tokens) bool.
            mask_labels: (batch, height, width), not 0 = target.
        """
        has_target = (mask_labels != 0).flatten(1).any(1)
        losses = F.cross_entropy(at_least_float32(logits), input_ids[is_masked], reduction="none")
        is_counted = (is_masked & has_target[:, None]).to(losses.dtype)
        weights = is_counted / is_masked.sum(1, keepdim=True).clamp(min=1)
        sentences = (has_target & is_masked.any(1)).sum().clamp(min=1)
        return (losses * weights[is_masked]).sum() / sentences


@contextmanager
def changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What the module gives goes through `change`."""
    hook = module.register_forward_hook(lambda module, arguments, output: change(output))
    try:
        yield
    finally:
        hook.remove()


def draw_masked_words(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    special_token_ids: Sequence[int],
    probability: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Random words to mask, bool (batch, tokens): each ordinary one with `probability`, one of a sentence at least.

    Special tokens and padding are no words; a sentence of nothing else has none masked. `generator` as in
    `independent_draws`.
    """
    special = torch.tensor(special_token_ids, dtype=input_ids.dtype, device=input_ids.device)
    is_word = ~torch.isin(input_ids, special)
    if attention_mask is not None:
        is_word &= attention_mask != 0
    draws = independent_draws(is_word, generator).masked_fill(~is_word, 2)
    return is_word & (draws <= draws.amin(1, keepdim=True).clamp(min=probability))


def independent_draws(places: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random numbers in [0, 1), one for each of `places`, of any shape and type, on its device.

    `generator`, one on the CPU, gives the same numbers each time. Without one they are torch's own, which a run that
    resumes brings back, moved on by the rank of the process: processes of one training start from the same seed, and
    would mask the same places.
    """
    if generator is not None:
        return torch.rand(places.shape, generator=generator).to(places.device)
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    # Multiples of the golden ratio lie far apart on the circle, however many they are.
    return (torch.rand(places.shape, device=places.device) + rank * GOLDEN_RATIO % 1) % 1


def mask_centers(mask_labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The mean place (x, y), in [0, 1], of the pixels of masks (batch, height, width): (batch, 2); 0 if empty.

    It is computed in `dtype`, in float32 where that is a shorter format.
    """
    targets = (mask_labels != 0).flatten(1).unsqueeze(2)
    centers = pixel_centers(*mask_labels.shape[-2:], mask_labels.device, dtype)
    # No matrix product, which autocast would compute in half precision.
    return (targets * centers).sum(1) / targets.sum(1).clamp(min=1)


def coordinate_mlp(channels: int) -> nn.Sequential:
    """Two layers from coordinates (..., 2) to (..., channels)."""
    return nn.Sequential(nn.Linear(2, channels), nn.GELU(), nn.Linear(channels, channels))


__all__ = ["MaskGrounding", "MaskToken", "PresenceHead"]
