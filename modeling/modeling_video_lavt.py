"""Video LAVT: LAVT for clips (https://huggingface.co/papers/2112.02244, journal version, section 3.2).

What differs from LAVT: the encoder is a Video Swin transformer, the pixel-word attention module has convolutions over
time and space (the 3D PWAM), and each stage may update the words as well. Language gates and decoder work frame by
frame. Sections and tables are those of the journal version.

| paper | here |
| --- | --- |
| section 3.2.1, phi_i | `VideoSwinModel.encode_stage` (video_swin_refseg) |
| figure 5 a | `VideoLavtForReferringSegmentation.fuse` |
| figure 5 b, the 3D PWAM | `ClipFusion` (pwam_video_lavt) |
| equations 1 to 5 with 3D convolutions | `PixelWordAttention` (layers_refseg), `ClipWordAttention` (pwam_video_lavt) |
| equations 6 and 7 with 3D convolutions | `MultiModalFusion` (modeling_lavt), `ClipFusion` (pwam_video_lavt) |
| equations 8 and 9 | `LanguageGate`, `GatedPathway` (modeling_lavt) |
| equation 10 | `DecoderStep` (layers_refseg) |
| tables 1 and 7 | `Structure`, `ClipFusion` (pwam_video_lavt) |
| figure 6 | `Design`, `AddedBranches`, `ConcatenatedBranches` (pwam_video_lavt) |
| section 4.2, bi-3D-PWAM | `WordUpdate` |
| table 8, image-based backbone | `FrameStages` (video_swin_refseg) |
| table 9, VLF | `VisionLanguageFusion` (pwam_video_lavt) |
"""

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from .configuration_video_lavt import VideoLavtConfig
from .configuration_video_swin_refseg import VideoSwinConfig
from .explanations_refseg import Explanation, pixels_of_words, words_of_pixels
from .inflation_video_lavt import video_model_from_image
from .input_checks_refseg import require_annotated_frames
from .layers_refseg import AttentionKernel, CrossModalAttention
from .modeling_lavt import ACTIVATIONS, LanguageGate, LavtForReferringSegmentation
from .modeling_outputs_refseg import DecoderOutput, FusedFeatures, ImageFeatures, RecordedOutput
from .pwam_video_lavt import ClipFusion, VisionLanguageFusion
from .video_swin_refseg import build_clip_encoder, kind_of_encoder, load_pretrained_video_swin


def build_clip_fusion(config: VideoLavtConfig, stage: int) -> nn.Module:
    return (ClipFusion if config.has_pwam else VisionLanguageFusion)(config, stage)


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
    _no_split_modules = ["VideoSwinBlock", "WindowLayer", "FusionStage", "LavtDecoder"]
    _can_record_outputs = {
        **LavtForReferringSegmentation._can_record_outputs,
        "multimodal_attentions": OutputRecorder(AttentionKernel, index=1),
    }
    input_modalities = ("image", "video", "text")
    build_backbone = staticmethod(build_clip_encoder)
    fusion_class = staticmethod(build_clip_fusion)

    def __init__(self, config: VideoLavtConfig) -> None:
        super().__init__(config)
        self.word_updates = nn.ModuleList(build_word_update(config, stage) for stage in range(len(self.stages)))
        self.post_init()

    @classmethod
    def load_image_encoder(cls, name_or_path: str, drop_path_rate: float | None) -> PreTrainedModel:
        """A Video Swin transformer: "torchvision/swin3d_b" (or `_s`, `_t`), or a folder of `VideoSwinModel`.

        Or one of the image encoders of LAVT, which then encodes each frame by itself (table 8).
        """
        if kind_of_encoder(name_or_path) == VideoSwinConfig.model_type:
            return load_pretrained_video_swin(name_or_path, 0.3 if drop_path_rate is None else drop_path_rate)
        return super().load_image_encoder(name_or_path, drop_path_rate)

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

    def explain_output(self, output: RecordedOutput, text_mask: Tensor) -> dict[str, Explanation]:
        """As in LAVT, frame by frame; and the pixels of all frames that each word attends to where it is updated."""
        config, attentions, explanations = self.config, iter(output.attentions), self.explain_decoder(output)
        for index, maps in enumerate(output.hidden_states[: len(self.stages)]):
            if config.fuses(index) and config.fusion_type == "vision_language":
                next(attentions)  # of pixels to pixels
            if config.fuses(index) and config.fusion_type != "pooled_sentence":
                explanations[f"word_attention_{index + 1}"] = words_of_pixels(next(attentions), maps)
            if updates_words(config, index):
                explanations[f"words_to_pixels_{index + 1}"] = pixels_of_words(next(attentions), maps, text_mask)
        return explanations

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
        return video_model_from_image(cls, image_model, num_window_frames, config)


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
