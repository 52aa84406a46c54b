"""Video LAVT: LAVT for clips (https://huggingface.co/papers/2112.02244, journal version, section 3.2).

What differs from LAVT: the encoder is a Video Swin transformer, the pixel-word attention module has convolutions over
time and space (the 3D PWAM), and each stage may update the words as well. Language gates and decoder work frame by
frame. Sections and tables are those of the journal version.
"""

import copy
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .configuration_video_lavt import VideoLavtConfig
from .explanations_refseg import Explanation, pixels_of_words, words_of_pixels
from .input_checks_refseg import require_annotated_frames
from .layers_refseg import CrossModalAttention, PixelWordAttention, build_fusion_norm
from .modeling_lavt import (
    ACTIVATIONS,
    LanguageGate,
    LavtForReferringSegmentation,
    MultiModalFusion,
    PooledSentence,
)
from .modeling_outputs_refseg import DecoderOutput, FusedFeatures, ImageFeatures, ReferringSegmentationOutput
from .video_swin_refseg import VideoSwinModel, inflate_swin, load_pretrained_video_swin

Kernel = tuple[int, int, int]
# What a model cannot change that starts from an image model.
KEPT_FIELDS = (
    "backbone_config",
    "text_config",
    "fusion_type",
    "fusion_hidden_size",
    "fusion_num_heads",
    "fusion_activation",
    "fusion_norm",
    "language_pathway",
    "gate_activation",
    "decoder_features",
    "decoder_norm",
    "decoder_hidden_size",
)


class Design(NamedTuple):
    """The convolutions of a projection function (figure 6).

    Args:
        branches: branches side by side; the kernels of each, in the order in which they are applied.
        are_concatenated: whether the branches' outputs are concatenated, and their channels reduced, or added.
    """

    branches: tuple[tuple[Kernel, ...], ...]
    are_concatenated: bool = False


class Structure(NamedTuple):
    """A row of table 1: the designs of the projection functions omega_m, omega_q, omega_w and omega_o."""

    pixels: Design
    query: Design
    output: Design
    fused: Design


ELEMENT, TIME, SPACE, BOTH = (1, 1, 1), (3, 1, 1), (1, 3, 3), (3, 3, 3)
PLAIN = Design(((ELEMENT,),))
FULL = Design(((BOTH,),))
PAIR = Design(((BOTH,), (ELEMENT,)))
STRUCTURES = {
    1: Structure(PLAIN, PLAIN, PLAIN, PLAIN),
    2: Structure(Design(((TIME,),)), Design(((TIME,),)), PLAIN, PLAIN),
    3: Structure(Design(((SPACE,),)), Design(((SPACE,),)), PLAIN, PLAIN),
    4: Structure(FULL, FULL, PLAIN, PLAIN),
    5: Structure(Design(((SPACE, TIME),)), Design(((SPACE, TIME),)), PLAIN, PLAIN),
    6: Structure(Design(((TIME,), (SPACE,))), Design(((TIME,), (SPACE,))), PLAIN, PLAIN),
    7: Structure(PAIR, PAIR, PLAIN, PLAIN),
    8: Structure(PAIR._replace(are_concatenated=True), PAIR._replace(are_concatenated=True), PLAIN, PLAIN),
    9: Structure(FULL, FULL, FULL, FULL),
    10: Structure(PAIR, PAIR, PAIR, PLAIN),
    11: Structure(PAIR, PAIR, PLAIN, PAIR),
    12: Structure(PAIR, PAIR, PAIR, PAIR),
}


class FrameConvolution(nn.Conv3d):
    """A convolution over time and space for features with the channels last; keeps their shape."""

    def __init__(self, channels: int, kernel: Kernel) -> None:
        super().__init__(channels, channels, kernel, padding=tuple(extent // 2 for extent in kernel))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class AddedBranches(nn.Module):
    """A projection function of the 3D PWAM: convolutions, each branch with a nonlinearity or normalization behind it.

    (Section 3.2.2, figure 6.) Features are (batch, frames, height, width, channels), as is the result.

    Args:
        channels: channels of the features.
        design: the branches.
        finish: the nonlinearity ("gelu" or "relu") or the normalization ("instance", ...) of each branch.
    """

    def __init__(self, channels: int, design: Design, finish: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(build_convolution(channels, kernel) for kernel in kernels),
                build_norm_or_activation(channels, finish),
            )
            for kernels in design.branches
        )

    def forward(self, features: Tensor) -> Tensor:
        return sum(branch(features) for branch in self.branches)

    @torch.no_grad()
    def init_from_image(self, weight: Tensor, bias: Tensor, finish: nn.Module, shares: Sequence[float]) -> None:
        """For a single frame, each branch starts as the projection of an image model, times its share.

        Args:
            weight: (channels, channels).
            bias: (channels,).
            finish: the nonlinearity or normalization behind it.
            shares: for each branch the factor of weight and bias.
        """
        for branch, share in zip(self.branches, shares, strict=True):
            first, *others, end = branch
            set_center_tap(first, share * weight, share * bias)
            for convolution in others:
                set_center_tap(convolution, torch.eye(len(bias)), torch.zeros_like(bias))
            end.load_state_dict(finish.state_dict())


class ConcatenatedBranches(AddedBranches):
    """The same with the outputs of the branches concatenated, and their channels reduced (figure 6 b)."""

    def __init__(self, channels: int, design: Design, finish: str) -> None:
        super().__init__(channels, design, finish)
        self.reduce = nn.Linear(len(design.branches) * channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.reduce(torch.cat([branch(features) for branch in self.branches], -1))

    @torch.no_grad()
    def init_from_image(self, weight: Tensor, bias: Tensor, finish: nn.Module, shares: Sequence[float]) -> None:
        super().init_from_image(weight, bias, finish, shares)
        self.reduce.weight.copy_(torch.eye(len(bias)).repeat(1, len(self.branches)))
        self.reduce.bias.zero_()


def build_convolution(channels: int, kernel: Kernel) -> nn.Module:
    return nn.Linear(channels, channels) if kernel == ELEMENT else FrameConvolution(channels, kernel)


def build_norm_or_activation(channels: int, kind: str) -> nn.Module:
    return ACTIVATIONS[kind]() if kind in ACTIVATIONS else build_fusion_norm(kind, channels)


def build_projection(channels: int, design: Design, finish: str) -> AddedBranches:
    return (ConcatenatedBranches if design.are_concatenated else AddedBranches)(channels, design, finish)


def set_center_tap(convolution: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """The convolution computes of each position what a linear layer with this weight and bias does."""
    convolution.weight.zero_()
    taps = convolution.weight.view(*weight.shape, -1)
    taps[..., taps.shape[-1] // 2] = weight
    convolution.bias.copy_(bias)


class ClipWordAttention(PixelWordAttention):
    """For every position of a clip, the words that matter to it: the language maps of the 3D PWAM (section 3.2.2).

    As in `PixelWordAttention`, with the designs of the projection functions omega_q (`query`) and omega_w (`output`).
    """

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        channels, heads = config.stage_widths[stage], config.fusion_num_heads[stage]
        super().__init__(config, channels, config.text_config.hidden_size, heads, norm="none")
        structure = STRUCTURES[config.pwam_structure]
        self.query = build_projection(channels, structure.query, config.fusion_norm)
        self.output = build_projection(channels, structure.output, config.fusion_norm)

    @torch.no_grad()
    def init_from_image(self, image: PixelWordAttention) -> float:
        """Starts as the image model's attention; returns how many times its result it gives.

        All branches start alike, because a normalization behind a weight of zero would have a huge gradient. What
        adds up is then too large by their number: the keys make up for the queries.
        """
        queries, outputs = len(self.query.branches), len(self.output.branches)
        self.query.init_from_image(image.query.weight, image.query.bias, image.query_norm, [1.0] * queries)
        self.key.weight.copy_(image.key.weight / queries)
        self.key.bias.copy_(image.key.bias / queries)
        self.value.load_state_dict(image.value.state_dict())
        self.output.init_from_image(image.output.weight, image.output.bias, image.output_norm, [1.0] * outputs)
        return float(outputs)


class ClipPooledSentence(PooledSentence):
    """The mean of all words at every position of a clip, in the place of `ClipWordAttention` (table 5, row 3)."""

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        channels, heads = config.stage_widths[stage], config.fusion_num_heads[stage]
        super().__init__(config, channels, config.text_config.hidden_size, heads, config.fusion_norm)

    def init_from_image(self, image: PooledSentence) -> float:
        """Starts as the image model's; returns how many times its result it gives."""
        self.load_state_dict(image.state_dict())
        return 1.0


class ClipFusion(MultiModalFusion):
    """The 3D PWAM: the multi-modal features F_i of a stage (section 3.2.2, figure 5 b).

    Takes and gives (batch, frames, height, width, channels).
    """

    LANGUAGE_MAPS = {"pixel_word": ClipWordAttention, "pooled_sentence": ClipPooledSentence}

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        nn.Module.__init__(self)
        channels, activation = config.stage_widths[stage], config.fusion_activation
        structure = STRUCTURES[config.pwam_structure]
        self.language_maps = self.LANGUAGE_MAPS[config.fusion_type](config, stage)
        self.project_pixels = build_projection(channels, structure.pixels, activation)
        self.project_fused = nn.Sequential(
            build_projection(channels, structure.fused, activation), nn.Dropout(config.fusion_dropout)
        )

    @torch.no_grad()
    def init_from_image(self, image: MultiModalFusion) -> None:
        """For a single frame, starts as the fusion of an image model."""
        gain = self.language_maps.init_from_image(image.language_maps)
        for ours, (linear, activation, *_), factor in (
            (self.project_pixels, image.project_pixels, 1.0),
            (self.project_fused[0], image.project_fused, 1 / gain),
        ):
            shares = activation_shares(activation, len(ours.branches))
            ours.init_from_image(factor * linear.weight, linear.bias, activation, shares)


def activation_shares(activation: nn.Module, branches: int) -> list[float]:
    """Shares of branches that add up to what one of them would be, each with the activation behind it.

    A GELU learns from zero, so all but the last branch start there. A ReLU would not, but it takes any factor.
    """
    if isinstance(activation, nn.ReLU):
        return [1 / branches] * branches
    return [0.0] * (branches - 1) + [1.0]


class WordUpdate(nn.Module):
    """The words' side of a stage: each word attends to the positions of all frames ("bi-3D-PWAM", section 4.2).

    The paper says no more than that an attention module like the 3D PWAM has the two sides exchanged; here it is that
    of one frame, as words have no neighbors, and a gate, a tanh, starts almost closed.
    `text_features` (batch, tokens, channels), `visual` (batch, frames, height, width, visual channels); returns the
    shape of `text_features`.
    """

    def __init__(self, config: VideoLavtConfig, stage: int) -> None:
        super().__init__()
        channels = config.text_config.hidden_size
        # Each word is normalized by itself: padding would enter any statistics over the words.
        norm = "none" if config.fusion_norm == "none" else "layer"
        activation = ACTIVATIONS[config.fusion_activation]
        self.attention = CrossModalAttention(config, channels, config.stage_widths[stage], norm, activation)
        self.gate = LanguageGate(channels, "tanh")

    def forward(self, text_features: Tensor, visual: Tensor) -> Tensor:
        positions = visual.flatten(1, 3)
        fused = self.attention(text_features, positions, positions.new_ones(positions.shape[:2]))
        return text_features + self.gate(fused) * fused


class UnchangedWords(nn.Module):
    """No update: where the configuration has none, or nothing reads the words any more."""

    def forward(self, text_features: Tensor, visual: Tensor) -> Tensor:
        return text_features


def updates_words(config: VideoLavtConfig, stage: int) -> bool:
    """Whether a stage updates the words: in the bidirectional model, while a stage follows that reads them."""
    return config.bidirectional and stage + 1 < len(config.stage_widths) and config.fuses(stage + 1)


def build_word_update(config: VideoLavtConfig, stage: int) -> nn.Module:
    return WordUpdate(config, stage) if updates_words(config, stage) else UnchangedWords()


class VideoLavtForReferringSegmentation(LavtForReferringSegmentation):
    """Video LAVT (figure 5). `pixel_values` are clips (batch, frames, 3, height, width), or images, as in LAVT, which
    it sees as clips of one frame.

    Between its modules features are (batch, frames, height, width, channels).

    Example:

    ```python
    >>> from hf_refseg import VideoLavtForReferringSegmentation

    >>> model = VideoLavtForReferringSegmentation.from_encoders(
    ...     "torchvision/swin3d_b", "google-bert/bert-base-uncased", loss_type="dice_boundary"
    ... )
    ```"""

    config: VideoLavtConfig
    _no_split_modules = ["VideoSwinBlock", "FusionStage", "LavtDecoder"]
    input_modalities = ("image", "video", "text")
    build_backbone = VideoSwinModel
    fusion_class = ClipFusion

    def __init__(self, config: VideoLavtConfig) -> None:
        super().__init__(config)
        self.word_updates = nn.ModuleList(build_word_update(config, stage) for stage in range(len(self.stages)))
        self.post_init()

    @classmethod
    def load_image_encoder(cls, name_or_path: str, drop_path_rate: float | None) -> VideoSwinModel:
        """A Video Swin transformer: "torchvision/swin3d_b" (or `_s`, `_t`), or a folder of `VideoSwinModel`."""
        return load_pretrained_video_swin(name_or_path, 0.3 if drop_path_rate is None else drop_path_rate)

    @classmethod
    def from_image_lavt(
        cls, image_model: LavtForReferringSegmentation, num_window_frames: int = 8, **config
    ) -> "VideoLavtForReferringSegmentation":
        """A new model that starts from a LAVT for images: for images it computes the same.

        "The same" holds where it does for the encoder (`inflate_swin`): where no stage has a map smaller than a
        window, and those of stages with shifted windows are larger. Convolutions over time and space start from the
        image model's weights at their center; word updates and training tasks that it lacks start new.

        Args:
            image_model: of any size.
            num_window_frames: frames of a window of the encoder.
            config: fields of [`VideoLavtConfig`] that differ from those of the image model's configuration.

        Raises:
            ValueError: another model than a LAVT for images, or a field that changes what it computes.
        """
        old = image_model.config
        if old.model_type != "lavt":
            raise ValueError(f"A LAVT for images is needed to start from, got a model of type {old.model_type}.")
        changed = [name for name in KEPT_FIELDS if name in config and _differ(config[name], getattr(old, name))]
        if changed:
            raise ValueError(f"A model that starts from an image model keeps its {', '.join(changed)}.")
        vision = inflate_swin(image_model.backbone.model, num_window_frames)
        own_fields = {field.name for field in fields(old)} - {field.name for field in fields(PreTrainedConfig)}
        kept = {name: copy.deepcopy(getattr(old, name)) for name in own_fields}
        model = cls(cls.config_class(**{**kept, **config, "backbone_config": vision.config}))
        model.backbone.load_encoder(vision)
        model.load_text_encoder(image_model.text_encoder)
        model.decoder.load_state_dict(image_model.decoder.state_dict())
        for index, (ours, image) in enumerate(zip(model.stages, image_model.stages, strict=True)):
            ours.decoder_norm.load_state_dict(image.decoder_norm.state_dict())
            if old.fuses(index):
                ours.fusion.init_from_image(image.fusion)
                ours.pathway.load_state_dict(image.pathway.state_dict())
        for task in model.tasks:
            if getattr(model.config, task.name) == getattr(old, task.name):
                task.load_state_dict(getattr(image_model, task.name).state_dict())
        return model.eval()

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """V_1: all that the encoder computes before language enters."""
        image_size = size_of(pixel_values)
        visual = self.backbone.encode_stage(0, as_clips(pixel_values))
        return ImageFeatures(maps=(to_maps(visual, image_size),), image_size=image_size)

    def encode_stage(self, index: int, features: Tensor, image: ImageFeatures) -> Tensor:
        """V_i, (batch, frames, height, width, channels): the transformer layers of a stage after the first.

        Args:
            index: of the stage, from 0.
            features: E_{i-1}, (batch, frames, height, width, channels).
            image: what `project_image` returned.
        """
        return self.backbone.encode_stage(index, features)

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """Language-aware visual encoding (section 3.2.1): the decoder's feature maps."""
        visual, maps = to_features(image.maps[0]), []
        for index, (stage, update) in enumerate(zip(self.stages, self.word_updates, strict=True)):
            enhanced, features = stage(visual, text, text_mask)
            text = update(text, visual)
            maps.append(to_maps(features, image.image_size))
            if index + 1 < len(self.stages):
                visual = self.encode_stage(index + 1, enhanced, image)
        return FusedFeatures(maps=tuple(maps), text_features=text, text_mask=text_mask)

    def compute_losses(self, output: DecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """The unweighted losses of the configuration's `loss_type`, each averaged over the annotated frames.

        Raises:
            ValueError: no frame of the batch is annotated: all hold -100.
        """
        logits, mask_labels = output.logits.flatten(0, -3), mask_labels.flatten(0, -3)
        require_annotated_frames(mask_labels)
        is_annotated = (mask_labels >= 0).flatten(1).all(1)
        return self.compare_masks(logits, mask_labels.clamp(min=0), is_annotated)

    def explain_output(self, output: ReferringSegmentationOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """As in LAVT, frame by frame; and the pixels of all frames that each word attends to where it is updated."""
        config, attentions, explanations = self.config, iter(output.attentions), self.explain_decoder(output)
        for index, maps in enumerate(output.hidden_states[: len(self.stages)]):
            if config.fuses(index) and config.fusion_type == "pixel_word":
                explanations[f"word_attention_{index + 1}"] = words_of_pixels(next(attentions), maps)
            if updates_words(config, index):
                explanations[f"words_to_pixels_{index + 1}"] = pixels_of_words(next(attentions), maps, text_mask)
        return explanations


def _differ(first: object, second: object) -> bool:
    """Whether two values of a field differ; a recipe gives lists for tuples."""
    return (list(first) if isinstance(first, tuple) else first) != (
        list(second) if isinstance(second, tuple) else second
    )


def size_of(pixel_values: Tensor) -> tuple[int, ...]:
    """Height and width of images (batch, 3, height, width); of clips (batch, frames, 3, ...) frames, height, width."""
    *frames, _, height, width = pixel_values.shape[1:]
    return (*frames, height, width)


def as_clips(images: Tensor) -> Tensor:
    """Images or maps (batch, channels, height, width) as clips of one frame; clips are left as they are."""
    return images if images.ndim == 5 else images.unsqueeze(1)


def to_features(maps: Tensor) -> Tensor:
    """Maps of clips or images as features (batch, frames, height, width, channels)."""
    features = maps.movedim(-3, -1)
    return features if features.ndim == 5 else features.unsqueeze(1)


def to_maps(features: Tensor, image_size: tuple[int, ...]) -> Tensor:
    """Features (batch, frames, height, width, channels) as maps of clips, or of images, which have no frame axis."""
    maps = features.movedim(-1, 2)
    return maps if len(image_size) == 3 else maps.squeeze(1)


__all__ = ["VideoLavtConfig", "VideoLavtForReferringSegmentation"]
