"""Text encoders of any kind that transformers has, as a whole or run stage by stage."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from .configuration_encoders_refseg import TEXT_LAYERS, require_text_encoder
from .configuration_recurrent_text_refseg import RecurrentTextConfig
from .pretrained_refseg import load_encoder_weights, model_class_of, read_encoder_config, without_pooling
from .recurrent_text_refseg import RecurrentTextEncoder
from .saved_files_refseg import naming_damage

# Text encoders with a head behind the one vector that they make of a text, which nothing here reads.
TEXTS_WITH_HEAD = ("siglip2_text_model", "siglip_text_model")


def load_text_encoder(name_or_path: str) -> PreTrainedModel:
    """A pretrained text encoder on the Hub or on disk, or that of a model for image and text; without its pooling."""
    config = read_encoder_config(name_or_path, "text_config")
    require_text_encoder(config)
    model_class = model_class_of(config)
    with naming_damage(name_or_path, {}):
        return model_class.from_pretrained(name_or_path, config=config, **without_pooling(model_class))


def build_text_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A text encoder of any kind, whose `last_hidden_state` is all that is read."""
    if config.model_type == RecurrentTextConfig.model_type:
        # transformers knows it only where the library is installed.
        return RecurrentTextEncoder(config)
    model_class = model_class_of(config)
    encoder = model_class._from_config(config, **without_pooling(model_class))
    if config.model_type in TEXTS_WITH_HEAD:
        encoder.head = nn.Identity()
    return encoder


class TextStages(nn.Module):
    """A text encoder of transformers', run stage by stage: embeddings, then consecutive groups of layers.

    A fresh or pretrained model lies inside as `model`, so that its weights load and save as in transformers.

    Args:
        config: its configuration, which `require_text_layers` accepts.
        last_layers: for each stage its last layer, counted from 1.
    """

    def __init__(self, config: PreTrainedConfig, last_layers: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.model = build_text_encoder(config)
        self.parts = TEXT_LAYERS[config.model_type]
        # That each word sees those before it alone is said by the option as well: without padding there is no mask.
        self.create_mask = create_causal_mask if self.parts.is_causal else create_bidirectional_mask
        self.options = {"is_causal": True} if self.parts.is_causal else {}
        self.layers_of_stages = [slice(first, last) for first, last in pairwise([0, *last_layers])]

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained encoder of the same configuration."""
        load_encoder_weights(self.model, pretrained)

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Puts other word embeddings in their place."""
        self.model.set_input_embeddings(value)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embeddings (batch, tokens, channels) of token ids (batch, tokens)."""
        return self.model.embeddings(input_ids=input_ids)

    def last_norm(self, text: Tensor) -> Tensor:
        """What follows the last layer."""
        return text if self.parts.last_norm is None else self.model.get_submodule(self.parts.last_norm)(text)

    def run_stage(self, index: int, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """The layers of one stage; `text` (batch, tokens, channels), `text_mask` (batch, tokens) 1 = token."""
        is_token = None if text_mask is None else text_mask.bool()
        # By its place: None is the cache of the one, which versions of transformers call otherwise.
        mask = self.create_mask(self.model.config, text, is_token, None)
        for layer in self.model.get_submodule(self.parts.path)[self.layers_of_stages[index]]:
            text = layer(text, attention_mask=mask, **self.options)
        return text if index + 1 < len(self.layers_of_stages) else self.last_norm(text)
