"""A recurrent text encoder over word vectors (M3Att, section III)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_recurrent_text_refseg import RecurrentTextConfig


class DirectionSum(nn.Module):
    """The sum of the two directions' states, (..., 2 * channels) to (..., channels)."""

    def forward(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (2, -1)).sum(-2)


class RecurrentTextEncoder(PreTrainedModel):
    """Word vectors, and a bidirectional recurrent network over them."""

    config: RecurrentTextConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _input_embed_layer = "embeddings"
    # It has no attention, so that of the model around it may be any.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}

    def __init__(self, config: RecurrentTextConfig) -> None:
        super().__init__(config)
        is_sum = config.directions == "sum"
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.recurrent = self.CELLS[config.cell](
            config.embedding_size,
            config.hidden_size if is_sum else config.hidden_size // 2,
            num_layers=config.num_hidden_layers,
            batch_first=True,
            bidirectional=True,
        )
        self.join = DirectionSum() if is_sum else nn.Identity()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.RNNBase):
            for parameter in module.parameters():
                init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)

    @torch.no_grad()
    def load_word_vectors(self, vectors: Tensor) -> None:
        """Takes over the vectors (vocab_size, embedding_size) of all words.

        Raises:
            ValueError: vectors of another shape.
        """
        if vectors.shape != self.embeddings.weight.shape:
            raise ValueError(
                f"The word vectors have shape {tuple(vectors.shape)}, but the text encoder has "
                f"{self.config.vocab_size} words with {self.config.embedding_size} values each: set its "
                "embedding_size to that of the vectors."
            )
        self.embeddings.weight.copy_(vectors)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Word features F_t, `last_hidden_state` (batch, tokens, hidden_size), 0 where there is no word; and F'_t.

        F'_t, `pooler_output` (batch, hidden_size), is the final state: that of each direction once it has read the
        whole text.

        Args:
            input_ids: (batch, tokens); padding stands behind the words.
            attention_mask: (batch, tokens), 1 = word; all words if absent. A text without any word counts as one word.

        `torch.export` makes a graph with as many steps as `max_position_embeddings` says.
        """
        vectors = self.dropout(self.embeddings(input_ids))
        if attention_mask is None:
            # Packing reads lengths from values, of which there are none on the device "meta".
            states, _ = self.recurrent(vectors)
            lengths = torch.full(input_ids.shape[:1], input_ids.shape[1], device=states.device)
        else:
            lengths = attention_mask.sum(1).clamp(min=1)
            read = self.read_padded if torch.compiler.is_exporting() else self.read_packed
            states = read(vectors, lengths)
        final = self.join(final_states(states, lengths))
        return BaseModelOutputWithPooling(last_hidden_state=self.join(states), pooler_output=final)

    def read_packed(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Both directions' states, (batch, tokens, 2 * channels), of `vectors` (batch, tokens, embedding_size).

        `lengths` (batch,) are those of the texts; the states behind them are 0.
        """
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=vectors.shape[1])
        return states

    def read_padded(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """As `read_packed`, for a graph, which has no packed texts, and takes as many steps for each of them.

        These are `max_position_embeddings`. Each direction reads its own way, so that padding comes last in both.
        """
        tokens, longest = vectors.shape[1], self.config.max_position_embeddings
        states = nn.functional.pad(vectors, (0, 0, 0, longest - tokens))
        for forward, backward in zip(self.recurrent.all_weights[::2], self.recurrent.all_weights[1::2], strict=True):
            behind = reverse_texts(self.read_one_way(reverse_texts(states, lengths), backward), lengths)
            states = torch.cat([self.read_one_way(states, forward), behind], -1)
        places = torch.arange(tokens, device=states.device)
        # A slice would depend on whether a text is as long as the longest one.
        return states[:, places] * (places < lengths[:, None])[..., None]

    def read_one_way(self, vectors: Tensor, weights: list[nn.Parameter]) -> Tensor:
        """The states of one layer, (batch, tokens, channels), that reads from the first place to the last one."""
        state = vectors.new_zeros(1, vectors.shape[0], self.recurrent.hidden_size)
        # Biases, one layer, no dropout, not in training, one direction, the batch first.
        settings = (True, 1, 0.0, False, False, True)
        if self.config.cell == "lstm":
            return torch.lstm(vectors, (state, state), weights, *settings)[0]
        return torch.gru(vectors, state, weights, *settings)[0]


def reverse_texts(features: Tensor, lengths: Tensor) -> Tensor:
    """Features (batch, tokens, channels) of each text from its last word to its first; twice leaves them as they are.

    `lengths` (batch,) are those of the texts; padding stays behind them.
    """
    tokens = features.shape[1]
    places = (lengths[:, None] - 1 - torch.arange(tokens, device=features.device)) % tokens
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))


def final_states(states: Tensor, lengths: Tensor) -> Tensor:
    """Of both directions' states (batch, tokens, 2 * channels) those behind the last word and before the first one.

    `lengths` (batch,) are those of the texts in words; returns (batch, 2 * channels).
    """
    forward, backward = states.chunk(2, -1)
    last = (lengths - 1)[:, None, None].expand(-1, 1, forward.shape[-1])
    return torch.cat([forward.gather(1, last).squeeze(1), backward[:, 0]], -1)


# Saved folders carry the code.
RecurrentTextEncoder.register_for_auto_class("AutoModel")

__all__ = ["RecurrentTextEncoder"]
