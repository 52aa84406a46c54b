"""Unified LAVT: one model for images and clips (https://huggingface.co/papers/2112.02244, journal version).

What differs from video LAVT is the encoder (section 3.2.3, figure 7): in training a Swin transformer for images
encodes the central frame beside the Video Swin transformer, and the two are added up; afterwards images pass through
the one alone, clips through the other. Fusion, language gates and decoder are those of video LAVT, shared by both.

| paper | here |
| --- | --- |
| section 3.2.3, the two parallel paths | `TwoStreamEncoder` |
| V_t, V_c | `UnifiedLavtForReferringSegmentation.run_stream` |
| their sum | `add_streams`, `add_to_center` |
| single streams at inference | `UnifiedLavtForReferringSegmentation.streams_of` |
| figure 7 | `UnifiedLavtForReferringSegmentation.encode_stage` |
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_unified_lavt import UnifiedLavtConfig
from .layers_refseg import independent_draws
from .modeling_lavt import LavtForReferringSegmentation
from .modeling_outputs_refseg import ImageFeatures
from .modeling_video_lavt import VideoLavtForReferringSegmentation, as_clips, size_of, to_features, to_maps
from .swin_refseg import SwinStages
from .video_swin_refseg import VideoSwinModel, encode_frames

CLIPS, IMAGES, BOTH = ("clips",), ("images",), ("clips", "images")


@dataclass
class UnifiedImageFeatures(ImageFeatures):
    """V_1.

    Args:
        clip_weights (`torch.FloatTensor` of shape `(images,)`):
            By what the encoder of clips counts in the sum of both, where this is drawn for each image; `None` = fully.
    """

    clip_weights: Tensor | None = None


class TwoStreamEncoder(nn.Module):
    """The two encoders side by side: `clips` and `images` (figure 7)."""

    def __init__(self, clips: VideoSwinModel, image_config: PreTrainedConfig) -> None:
        super().__init__()
        self.clips = clips
        self.images = SwinStages(image_config)

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained `VideoSwinModel` of the same configuration."""
        self.clips.load_encoder(pretrained)


class UnifiedLavtForReferringSegmentation(VideoLavtForReferringSegmentation):
    """Unified LAVT (figure 7). `pixel_values` are clips (batch, frames, 3, height, width) or images (batch, 3, height,
    width). In training mode both encoders run, on images where `image_streams_in_training` says so; in evaluation mode
    the one for images or the one for clips.

    Example:

    ```python
    >>> from hf_refseg import UnifiedLavtForReferringSegmentation

    >>> model = UnifiedLavtForReferringSegmentation.from_encoders(
    ...     "torchvision/swin3d_b",
    ...     "google-bert/bert-base-uncased",
    ...     "microsoft/swin-base-patch4-window12-384-in22k",
    ...     loss_type="dice",
    ... )
    ```"""

    config: UnifiedLavtConfig
    _no_split_modules = ["VideoSwinBlock", "WindowLayer", "FusionStage", "LavtDecoder"]

    def __init__(self, config: UnifiedLavtConfig) -> None:
        super().__init__(config)
        self.backbone = TwoStreamEncoder(self.backbone, config.image_backbone_config)
        self.post_init()

    @classmethod
    # Constructors may ask for more than those of their base do, but mypy takes `__init__` alone for one.
    def from_encoders(  # type: ignore[override]
        cls,
        vision_name_or_path: str,
        text_name_or_path: str | None,
        image_name_or_path: str,
        drop_path_rate: float | None = None,
        **config,
    ) -> "UnifiedLavtForReferringSegmentation":
        """As in all methods, with a second image encoder (section 3.3).

        Args:
            vision_name_or_path: the encoder of clips, as in video LAVT.
            text_name_or_path: as in all methods.
            image_name_or_path: the encoder of images, a Swin checkpoint on the Hub or on disk.
            drop_path_rate: stochastic depth of both visual encoders in training.
            config: fields of [`UnifiedLavtConfig`].
        """
        image = LavtForReferringSegmentation.load_image_encoder(str(image_name_or_path), drop_path_rate)
        config["image_backbone_config"] = image.config
        model = super().from_encoders(vision_name_or_path, text_name_or_path, drop_path_rate, **config)
        model.backbone.images.load_encoder(image)
        return model

    def streams_of(self, image_size: tuple[int, ...]) -> tuple[str, ...]:
        """The streams that inputs of this size pass through: `BOTH`, `CLIPS` or `IMAGES`.

        In evaluation images and clips have one each; in training clips have both, and images as
        `image_streams_in_training` says.
        """
        if len(image_size) == 3:
            return BOTH if self.training else CLIPS
        return BOTH if self.training and self.config.image_streams_in_training != "single" else IMAGES

    def run_stream(self, stream: str, index: int, features: Tensor) -> Tensor:
        """A stage of one stream: V_t of all frames, or V_c of the central one, with a frame axis of length 1.

        `features` (batch, frames, height, width, channels), for the first stage (batch, frames, 3, height, width).
        """
        if stream == "clips":
            return self.backbone.clips.encode_stage(index, features)
        return encode_frames(self.backbone.images, index, features[:, center_of(features)]).unsqueeze(1)

    def encode_streams(self, pixel_values: Tensor, streams: tuple[str, ...]) -> ImageFeatures:
        """The first stage of these streams, a map each."""
        image_size, clips = size_of(pixel_values), as_clips(pixel_values)
        encoded = (self.run_stream(stream, 0, clips) for stream in streams)
        return ImageFeatures(maps=tuple(to_maps(each, image_size) for each in encoded), image_size=image_size)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """V_t of all frames and V_c of the central one, or the one of them that is needed."""
        return self.encode_streams(pixel_values, self.streams_of(size_of(pixel_values)))

    def project_image(self, image: ImageFeatures) -> UnifiedImageFeatures:
        """V_1: the sum of both streams, or the one that is needed."""
        image_size, streams = image.image_size, self.streams_of(image.image_size)
        if streams != BOTH:
            visual = image.maps[0 if streams == CLIPS else -1]
            return UnifiedImageFeatures(maps=(visual,), image_size=image_size)
        clips, local = map(to_features, image.maps)
        is_mixed = len(image_size) == 2 and self.config.image_streams_in_training == "mixed"
        weights = draw_clip_weights(clips) if is_mixed else None
        visual = to_maps(add_streams([clips, local], weights), image_size)
        return UnifiedImageFeatures(maps=(visual,), image_size=image_size, clip_weights=weights)

    def encode_stage(self, index: int, features: Tensor, image: UnifiedImageFeatures) -> Tensor:
        """V_i, (batch, frames, height, width, channels): a stage of both streams, or of the one that is needed.

        Args as in video LAVT.
        """
        encoded = [self.run_stream(stream, index, features) for stream in self.streams_of(image.image_size)]
        return add_streams(encoded, image.clip_weights)

    def get_encoder_features(self, pixel_values: Tensor) -> ImageFeatures:
        """V_t of all frames and V_c of the central one, in either mode; args and errors as in all methods."""
        return self._run_image_encoder(partial(self.encode_streams, streams=BOTH), pixel_values)

    @classmethod
    def from_image_lavt(
        cls, image_model: LavtForReferringSegmentation, num_window_frames: int = 8, **config
    ) -> "UnifiedLavtForReferringSegmentation":
        """A new model that starts from a LAVT for images, and computes the same for images of any size.

        Args and errors as in video LAVT; the encoder of images is that of the image model.
        """
        if "image_backbone_config" in config:
            raise ValueError("A model that starts from an image model keeps its encoder as that of images.")
        image_config = copy.deepcopy(image_model.config.backbone_config)
        model = super().from_image_lavt(image_model, num_window_frames, image_backbone_config=image_config, **config)
        model.backbone.images.load_state_dict(image_model.backbone.state_dict())
        return model


def draw_clip_weights(features: Tensor) -> Tensor:
    """For each image of features (batch, ...) 1 or 0 with equal chance, (batch,): whether V_t is added to its V_c."""
    return (independent_draws(features[:, 0, 0, 0, 0].detach(), None) < 0.5).to(features.dtype)


def add_streams(encoded: Sequence[Tensor], clip_weights: Tensor | None) -> Tensor:
    """V_t, each clip times its weight where there are any, plus V_c at the central frame; a single stream as it is."""
    if len(encoded) == 1:
        return encoded[0]
    clips, local = encoded
    if clip_weights is not None:
        clips = clips * clip_weights[:, None, None, None, None]
    return add_to_center(clips, local)


def center_of(clips: Tensor) -> int:
    """The place of the central frame of clips (batch, frames, ...)."""
    return clips.shape[1] // 2


def add_to_center(encoded: Tensor, local: Tensor) -> Tensor:
    """The features (batch, frames, height, width, channels) of clips with those of the central frame (batch, 1, ...)
    added to it."""
    center = center_of(encoded)
    before, frame, after = encoded.split([center, 1, encoded.shape[1] - center - 1], 1)
    return torch.cat([before, frame + local, after], 1)


__all__ = ["UnifiedLavtConfig", "UnifiedLavtForReferringSegmentation"]
