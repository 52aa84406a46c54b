"""A model as graphs of tensors: what goes into each, what comes out, and the axes that may have any size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from ..modeling.configuration_recurrent_text_refseg import RecurrentTextConfig
from ..modeling.inference_refseg import evaluation_mode
from ..modeling.modeling_outputs_refseg import ImageFeatures, ReferringSegmentationOutput
from ..modeling.modeling_refseg import RefSegPreTrainedModel
from ..onnx import ONE_GRAPH, TWO_GRAPHS

# How many texts of how many tokens are traced. A number of 1 would become part of the graph.
TRACED_TEXTS, TRACED_TOKENS = 3, 7
ANSWERS = ("logits", "presence_logits")
TOKENS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Graph:
    """A part of a model that becomes one graph.

    Attributes:
        name: one of `ONE_GRAPH` or `TWO_GRAPHS`.
        module: what is computed.
        inputs: what it is traced with, by the names of the parameters of `forward`.
        input_names, output_names: of all tensors, in order.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor | list[Tensor]]
    input_names: list[str]
    output_names: list[str]


class WholeModel(nn.Module):
    """From pixels and tokens to the answers."""

    def __init__(self, model: RefSegPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return answers_of(self.model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask))


class ImageEncoder(nn.Module):
    """From pixels to all that the model knows of an image before it reads a text, as maps."""

    def __init__(self, model: RefSegPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.get_image_features(pixel_values).maps)


class ExpressionDecoder(nn.Module):
    """From the maps of `ImageEncoder`, of one image, and tokens to the answers."""

    def __init__(self, model: RefSegPreTrainedModel, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.image_size = model, image_size

    def forward(self, maps: list[Tensor], input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        image = ImageFeatures(maps=tuple(maps), image_size=self.image_size)
        return answers_of(self.model(image_embeds=image, input_ids=input_ids, attention_mask=attention_mask))


def answers_of(output: ReferringSegmentationOutput) -> tuple[Tensor, ...]:
    """The logits, and those of a presence head where the model has one."""
    return tuple(output[name] for name in ANSWERS if output.get(name) is not None)


def graphs_of(model: RefSegPreTrainedModel, pixel_values: Tensor, longest_text: int) -> list[Graph]:
    """The graphs of a model, as many as its method allows: two where an image is encoded before a text is read.

    Args:
        model: in evaluation mode.
        pixel_values: one image (1, 3, height, width), or one clip (1, frames, 3, height, width).
        longest_text: tokens of the longest text.
    """
    tokens = draw_tokens(model, TRACED_TEXTS, min(TRACED_TOKENS, longest_text))
    answers = list(ANSWERS if model.config.presence_head else ANSWERS[:1])
    if model.fuses_in_encoder:
        inputs = {"pixel_values": pixel_values, **tokens}
        return [Graph(*ONE_GRAPH, WholeModel(model), inputs, list(inputs), answers)]
    encoder = ImageEncoder(model)
    with evaluation_mode(model):
        maps = list(encoder(pixel_values))
    names = [f"map_{number}" for number in range(1, len(maps) + 1)]
    decoder = ExpressionDecoder(model, tuple(pixel_values.shape[-2:]))
    return [
        Graph(TWO_GRAPHS[0], encoder, {"pixel_values": pixel_values}, ["pixel_values"], names),
        Graph(TWO_GRAPHS[1], decoder, {"maps": maps, **tokens}, [*names, *tokens], answers),
    ]


def draw_tokens(model: RefSegPreTrainedModel, texts: int, tokens: int) -> dict[str, Tensor]:
    """Texts of drawn tokens, the same ones each time; of several, each ends one token earlier than the one before."""
    generator = torch.Generator().manual_seed(texts)
    vocabulary = model.config.text_config.vocab_size
    lengths = (tokens - torch.arange(texts)).clamp(min=1)
    return {
        "input_ids": torch.randint(vocabulary, (texts, tokens), generator=generator),
        "attention_mask": (torch.arange(tokens) < lengths[:, None]).long(),
    }


def trace(graph: Graph, longest_text: int) -> ExportedProgram:
    """The graph as PyTorch exports it, for any number of texts of at most so many tokens."""
    texts = {0: Dim("texts"), 1: Dim("tokens", max=longest_text)}
    shapes = {name: tree_map(lambda _: None, value) for name, value in graph.inputs.items()}
    shapes |= {name: texts for name in shapes if name in TOKENS}
    with torch.no_grad():
        return torch.export.export(graph.module, (), graph.inputs, dynamic_shapes=shapes)


@contextmanager
def texts_of_at_most(model: RefSegPreTrainedModel, longest_text: int) -> Iterator[None]:
    """While it lasts, the graph of a recurrent text encoder takes so many steps, instead of as many as it could."""
    text_config = model.config.text_config
    if not isinstance(text_config, RecurrentTextConfig):
        yield
        return
    before = text_config.max_position_embeddings
    text_config.max_position_embeddings = longest_text
    try:
        yield
    finally:
        text_config.max_position_embeddings = before


@contextmanager
def written_out_attention(model: RefSegPreTrainedModel) -> Iterator[None]:
    """While it lasts, attention is computed step by step: ONNX has no form for what PyTorch's kernels lay out."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
