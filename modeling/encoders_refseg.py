"""The encoders that methods pick from, by kind."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from transformers import AutoBackbone, AutoModel, PreTrainedConfig, PreTrainedModel, SamVisionModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionSdpaAttention

from .recurrent_text_refseg import RecurrentTextConfig, RecurrentTextEncoder
from .saved_files_refseg import naming_damage
from .swin_refseg import SwinMaps


class SamAttention(SamVisionSdpaAttention):
    """SAM's attention, whose kernel may change after the model was built."""

    def __init__(self, config: PreTrainedConfig, window_size: int) -> None:
        super().__init__(config, window_size)
        self.config = config

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        if self.config._attn_implementation == "eager":
            return SamVisionAttention.forward(self, hidden_states, output_attentions)
        return super().forward(hidden_states, output_attentions)


class SamStages(SamVisionEncoder):
    """transformers' SAM image encoder up to a block, without the neck; shapes as in `SamMaps`.

    Args:
        config: its configuration.
        blocks: the blocks whose outputs `forward` returns, in their order.
    """

    def __init__(self, config: PreTrainedConfig, blocks: list[int]) -> None:
        super().__init__(config)
        self.blocks = blocks
        self.layers = self.layers[: blocks[-1] + 1]
        for layer in self.layers:
            layer.attn = SamAttention(config, layer.window_size)
        self.neck = nn.Identity()

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        features = self.patch_embed(pixel_values)
        if self.pos_embed is not None:
            features = features + self.pos_embed
        maps = []
        for index, layer in enumerate(self.layers):
            features = layer(features)
            if index in self.blocks:
                maps.append(features.permute(0, 3, 1, 2))
        return maps


class SamMaps(nn.Module):
    """transformers' SAM image encoder up to its fourth global-attention block, without the neck.

    `forward` takes images (batch, 3, height, width) of the configured size and returns the outputs of the second,
    third and fourth block with global attention, each (batch, channels, height / patch, width / patch).
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.model = AutoModel.from_config(config)
        blocks = list(config.global_attn_indexes[1:4])
        self.widths = [config.hidden_size] * len(blocks)
        self.model.vision_encoder = SamStages(config, blocks)

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained `SamVisionModel` of the same configuration, all that is used here."""
        weights = pretrained.state_dict()
        self.model.load_state_dict({name: weights[name] for name in self.model.state_dict()})

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        expected = self.model.vision_encoder.image_size
        if tuple(pixel_values.shape[-2:]) != (expected, expected):
            raise ValueError(
                f"This model takes images of {expected} x {expected} pixels, got {pixel_values.shape[-2]} x "
                f'{pixel_values.shape[-1]}: set the image processor\'s size to {{"longest_edge": {expected}}}.'
            )
        return self.model.vision_encoder(pixel_values)


class SyncBatchNormActivation(nn.SyncBatchNorm):
    """What a batch norm of timm's that holds an activation becomes where processes share their statistics."""

    def forward(self, features: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(features)))


class TimmMaps(nn.Module):
    """A timm backbone; `forward` takes images (batch, 3, height, width), returns its feature maps with channels first.

    The configuration's `out_indices` say which stages.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.model = AutoBackbone.from_config(config)
        self.widths = list(self.model.channels)

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained `TimmBackbone` of the same configuration."""
        self.model.load_state_dict(pretrained.state_dict())

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As in PyTorch, whose `SyncBatchNorm.convert_sync_batchnorm` puts the converted backbone back by this method.

        It drops the activations inside timm's batch norms; here they come into effect again.
        """
        for norm in module.modules():
            # PyTorch's own has no parts: these are the activation and the dropout of timm's.
            if type(norm) is nn.SyncBatchNorm and any(norm.children()):
                norm.__class__ = SyncBatchNormActivation
        super().add_module(name, module)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.model(pixel_values).feature_maps
        # Networks of timm's that know one format alone, channels first, do not name it.
        if getattr(self.model._backbone, "output_fmt", "NCHW") == "NHWC":
            return [features.permute(0, 3, 1, 2) for features in maps]
        return list(maps)


def build_map_encoder(config: PreTrainedConfig, swin_stages: int = 3) -> SamMaps | SwinMaps | TimmMaps:
    """An image encoder that gives feature maps at once: SAM's, the last stages of a Swin transformer, or timm's."""
    if config.model_type == "swin":
        return SwinMaps(config, swin_stages)
    return {"sam_vision_model": SamMaps, "timm_backbone": TimmMaps}[config.model_type](config)


def load_pretrained_swin(name_or_path: str, drop_path_rate: float) -> PreTrainedModel:
    """A pretrained Swin transformer; `drop_path_rate` is its stochastic depth in training."""
    with naming_damage(name_or_path, {}):
        vision = AutoModel.from_pretrained(name_or_path, add_pooling_layer=False)
    vision.config.drop_path_rate = drop_path_rate
    return vision


def load_pretrained_timm(name_or_path: str, stages: int) -> PreTrainedModel:
    """The timm backbone of "timm/NAME", with so many of its last stages."""
    # Here, not above: timm would cost everyone who imports this library a tenth of a second.
    from transformers import TimmBackbone

    return TimmBackbone.from_pretrained(name_or_path.removeprefix("timm/"), out_indices=list(range(-stages, 0)))


def load_pretrained_sam_or_timm(name_or_path: str, timm_stages: int) -> PreTrainedModel:
    """A pretrained SAM (its image encoder alone), or, for "timm/NAME", a timm backbone."""
    if name_or_path.startswith("timm/"):
        return load_pretrained_timm(name_or_path, timm_stages)
    with naming_damage(name_or_path, {}):
        return SamVisionModel.from_pretrained(name_or_path)


def load_pretrained_swin_or_timm(
    name_or_path: str, drop_path_rate: float | None, timm_stages: int, default_drop_path_rate: float
) -> PreTrainedModel:
    """A pretrained Swin transformer, or, for "timm/NAME", a timm backbone.

    Raises:
        ValueError: a `drop_path_rate` for a timm backbone, which takes none.
    """
    if not name_or_path.startswith("timm/"):
        return load_pretrained_swin(name_or_path, default_drop_path_rate if drop_path_rate is None else drop_path_rate)
    if drop_path_rate is not None:
        raise ValueError(f"drop_path_rate: {name_or_path} has no stochastic depth: leave it out.")
    return load_pretrained_timm(name_or_path, timm_stages)


def load_pretrained_text(name_or_path: str) -> PreTrainedModel:
    """A pretrained text encoder like BERT, without its pooling."""
    with naming_damage(name_or_path, {}):
        return AutoModel.from_pretrained(name_or_path, add_pooling_layer=False)


def build_text_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A text encoder that gives word features at once: a recurrent one, or one like BERT without its pooling."""
    if config.model_type == RecurrentTextConfig.model_type:
        return RecurrentTextEncoder(config)
    return AutoModel.from_config(config, add_pooling_layer=False)


class BertStages(nn.Module):
    """transformers' BERT, run stage by stage: embeddings, then consecutive groups of layers.

    A fresh or pretrained `BertModel` lies inside as `model`, so that its weights load and save as in transformers.

    Args:
        config: its configuration.
        last_layers: for each stage its last layer, counted from 1.
    """

    def __init__(self, config: PreTrainedConfig, last_layers: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.model = AutoModel.from_config(config, add_pooling_layer=False)
        self.layers_of_stages = [slice(first, last) for first, last in pairwise([0, *last_layers])]

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained `BertModel` without pooler, of the same configuration."""
        self.model.load_state_dict(pretrained.state_dict())

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Puts other word embeddings in their place."""
        self.model.set_input_embeddings(value)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embeddings (batch, tokens, channels) of token ids (batch, tokens)."""
        return self.model.embeddings(input_ids=input_ids)

    def run_stage(self, index: int, words: Tensor, word_mask: Tensor | None) -> Tensor:
        """The layers of one stage; `words` (batch, tokens, channels), `word_mask` (batch, tokens) 1 = word."""
        mask = create_bidirectional_mask(
            config=self.model.config,
            inputs_embeds=words,
            attention_mask=None if word_mask is None else word_mask.bool(),
        )
        for layer in self.model.encoder.layer[self.layers_of_stages[index]]:
            words = layer(words, attention_mask=mask)
        return words
