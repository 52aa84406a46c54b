"""Configuration of the recurrent text encoder."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_encoders_refseg import RECURRENT_TEXT
from .configuration_refseg import CheckedConfig


@strict
class RecurrentTextConfig(CheckedConfig):
    """
    Configuration of [`RecurrentTextEncoder`].

    Args:
        vocab_size (`int`, *optional*, defaults to 10000):
            Words of the tokenizer, the special ones included.
        embedding_size (`int`, *optional*, defaults to 300):
            Width of the word vectors; 300 is that of the usual GloVe files.
        hidden_size (`int`, *optional*, defaults to 256):
            Width of the word features.
        num_hidden_layers (`int`, *optional*, defaults to 1):
            Recurrent layers, one on top of the other.
        cell (`str`, *optional*, defaults to `"gru"`):
            `"gru"` or `"lstm"`.
        directions (`str`, *optional*, defaults to `"sum"`):
            What becomes of the states of the two directions: their `"sum"`, each as wide as the word features, or
            `"concatenate"`, each half as wide.
        embedding_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the word vectors.
        max_position_embeddings (`int`, *optional*, defaults to 512):
            Longest text in words; no weight depends on it.
        pad_token_id (`int`, *optional*, defaults to 0):
            The word that fills short texts; its vector is 0.
        initializer_range (`float`, *optional*, defaults to 0.4):
            Standard deviation of the word vectors at the start, by default about that of GloVe's.
    """

    model_type = RECURRENT_TEXT

    vocab_size: int = 10000
    embedding_size: int = 300
    hidden_size: int = 256
    num_hidden_layers: int = 1
    cell: Literal["gru", "lstm"] = "gru"
    directions: Literal["sum", "concatenate"] = "sum"
    embedding_dropout: float | int = 0.0
    max_position_embeddings: int = 512
    pad_token_id: int = 0
    initializer_range: float = 0.4

    def validate_architecture(self):
        """Checks the sizes; called on construction."""
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1 is needed, got {getattr(self, name)}.")
        if self.directions == "concatenate" and self.hidden_size % 2:
            raise ValueError(f'hidden_size: directions="concatenate" needs an even number, got {self.hidden_size}.')
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id is {self.pad_token_id}, but the vocabulary has {self.vocab_size} words.")


__all__ = ["RecurrentTextConfig"]
