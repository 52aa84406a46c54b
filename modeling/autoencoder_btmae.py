"""The autoencoders of BTMAE, which mask the tokens of one modality and read the other (section 3.2 of its paper)."""

import math

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_tracing

from .configuration_btmae import BtmaeConfig
from .layers_refseg import MultiHeadAttention, PixelWordAttention, independent_draws


def draw_masked_tokens(can_be_masked: Tensor, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Random tokens to mask, bool (batch, tokens).

    Of n tokens that can be masked, (1 - ratio) n stay, rounded down (section 3.2); of two or more, one at least stays
    and one at least is masked. `generator` as in `independent_draws`.
    """
    available = can_be_masked.sum(1)
    numbers = (available.double() * ratio - 1e-6).ceil().minimum(available - 1)
    ranks = independent_draws(can_be_masked, generator).masked_fill(~can_be_masked, 2).argsort(1).argsort(1)
    return ranks < numbers[:, None]


def count_kept(tokens: int, ratio: float) -> int:
    """How many of so many tokens `draw_masked_tokens` leaves where all of them can be masked."""
    return tokens - min(math.ceil(tokens * ratio - 1e-6), tokens - 1)


class FeedForward(nn.Sequential):
    def __init__(self, channels: int, hidden_size: int) -> None:
        super().__init__(nn.Linear(channels, hidden_size), nn.GELU(), nn.Linear(hidden_size, channels))


class BtmaeBlock(GradientCheckpointingLayer):
    """A block of encoder or decoder: attention within the modality, then to the other one (section 3.2, figure 3).

    `tokens` (batch, tokens, channels), `token_mask` (batch, tokens) with 1 = token, None = all; `other` and
    `other_mask` the same of the other modality. Returns the shape of `tokens`.
    """

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.self_attention = MultiHeadAttention(config)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = MultiHeadAttention(config)
        self.cross_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, config.intermediate_size)

    def forward(self, tokens: Tensor, token_mask: Tensor | None, other: Tensor, other_mask: Tensor | None) -> Tensor:
        tokens = self.self_norm(tokens + self.self_attention(tokens, tokens, token_mask))
        tokens = self.cross_norm(tokens + self.cross_attention(tokens, other, other_mask))
        return tokens + self.feed_forward(tokens)


class SingleModalBlock(GradientCheckpointingLayer):
    """A block of a traditional masked autoencoder, which never meets the other modality (table 3, "Patch").

    Inputs and result as in `BtmaeBlock`.
    """

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.self_attention = MultiHeadAttention(config)
        self.self_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, config.intermediate_size)

    def forward(self, tokens: Tensor, token_mask: Tensor | None, other: Tensor, other_mask: Tensor | None) -> Tensor:
        tokens = self.self_norm(tokens + self.self_attention(tokens, tokens, token_mask))
        return tokens + self.feed_forward(tokens)


BLOCKS = {"cross_modal": BtmaeBlock, "single_modal": SingleModalBlock}


class BTMAE(nn.Module):
    """The masked autoencoder of one modality's tokens, which reads the whole of the other one (section 3.2).

    `forward` is step 2: the encoder alone, nothing masked; with `is_masked` it is step 1, `reconstruct`. Shapes:
    `tokens` (batch, tokens, channels), `positions` (tokens, channels), masks (batch, tokens) with 1 = token, None =
    all.

    Args:
        config: the model's configuration.
        projection: what step 1 predicts of each token, from (batch, tokens, hidden_size).
    """

    def __init__(self, config: BtmaeConfig, projection: nn.Module) -> None:
        super().__init__()
        block = BLOCKS[config.autoencoder_blocks]
        self.encoder = nn.ModuleList(block(config) for _ in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(block(config) for _ in range(config.num_decoder_layers))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.projection = projection

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        token_mask: Tensor | None,
        other: Tensor,
        other_mask: Tensor | None,
        is_masked: Tensor | None = None,
        most_kept: int | None = None,
    ) -> Tensor:
        """The refined tokens, of the shape of `tokens`."""
        if is_masked is not None:
            return self.reconstruct(tokens, positions, token_mask, is_masked, other, other_mask, most_kept)
        return self.encode(tokens + positions, token_mask, other, other_mask)

    def encode(self, tokens: Tensor, token_mask: Tensor | None, other: Tensor, other_mask: Tensor | None) -> Tensor:
        for block in self.encoder:
            tokens = block(tokens, token_mask, other, other_mask)
        return tokens

    def reconstruct(
        self,
        tokens: Tensor,
        positions: Tensor,
        token_mask: Tensor | None,
        is_masked: Tensor,
        other: Tensor,
        other_mask: Tensor | None,
        most_kept: int | None = None,
    ) -> Tensor:
        """What the tokens are taken for, what `projection` gives, without those that `is_masked` marks.

        `is_masked` (batch, tokens) is bool; without a `token_mask` it marks equally many in each sample. `most_kept`
        as in `find_kept`.
        """
        is_kept = ~is_masked if token_mask is None else ~is_masked & (token_mask != 0)
        places, kept_mask = find_kept(is_kept, most_kept)
        kept = (tokens + positions).gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
        encoded = self.encode(kept, None if token_mask is None else kept_mask, other, other_mask)
        tokens = put_back(encoded, places, kept_mask, self.mask_token, is_masked.shape[1]) + positions
        for block in self.decoder:
            tokens = block(tokens, token_mask, other, other_mask)
        return self.projection(tokens)


def find_kept(is_kept: Tensor, most_kept: int | None) -> tuple[Tensor, Tensor]:
    """The places of kept tokens in their order, (batch, most kept), and which of them are no filling, the same shape.

    `is_kept` (batch, tokens) bool; `most_kept` says how many of a sample these are at most. None: they are counted, or
    taken for all where a graph is made, whose shapes cannot hang on values.
    """
    if most_kept is None:
        most_kept = is_kept.shape[1] if is_tracing(is_kept) else int(is_kept.sum(1).max())
    places = (~is_kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :most_kept]
    return places, is_kept.gather(1, places)


def put_back(encoded: Tensor, places: Tensor, kept_mask: Tensor, mask_token: Tensor, total: int) -> Tensor:
    """The encoded tokens at their places among `total`, mask tokens at all others, (batch, total, channels).

    `encoded` (batch, most kept, channels); `places` and `kept_mask` are those of `find_kept`.
    """
    mask_token = mask_token.to(encoded.dtype)
    tokens = mask_token.expand(encoded.shape[0], total, -1)
    values = torch.where(kept_mask[..., None], encoded, mask_token)
    return tokens.scatter(1, places[..., None].expand_as(values), values)


class AttentionRefinement(nn.Module):
    """A pixel-word attention as in LAVT in the place of BTMAE(l->v) (table 2); shapes as in `BTMAE.forward`."""

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()
        self.attention = PixelWordAttention(config, config.hidden_size, config.hidden_size, num_heads=1, norm="layer")

    def forward(
        self, tokens: Tensor, positions: Tensor, token_mask: Tensor | None, other: Tensor, other_mask: Tensor
    ) -> Tensor:
        tokens = tokens + positions
        return tokens + self.attention(tokens, other, other_mask)


class NoRefinement(nn.Module):
    """The tokens as they are, in the place of an autoencoder (table 2); shapes as in `BTMAE.forward`."""

    def __init__(self, config: BtmaeConfig) -> None:
        super().__init__()

    def forward(
        self, tokens: Tensor, positions: Tensor, token_mask: Tensor | None, other: Tensor, other_mask: Tensor | None
    ) -> Tensor:
        return tokens


# What stands in the place of BTMAE(l->v); where language enters between the stages of the image encoder, nothing more.
ATTENTION_REFINEMENTS: dict[str, type[nn.Module]] = {"tokens": AttentionRefinement, "stages": NoRefinement}
