"""Unified LAVT: one model for images and clips (https://huggingface.co/papers/2112.02244, journal version).

What differs from video LAVT is the encoder (section 3.2.3, figure 7): in training a Swin transformer for images
encodes the central frame beside the Video Swin transformer, and the two are added up; afterwards images pass through
the one alone, clips through the other. Fusion, language gates and decoder are those of video LAVT, shared by both.
"""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_unified_lavt import UnifiedLavtConfig
from .modeling_lavt import LavtForReferringSegmentation
from .modeling_outputs_refseg import ImageFeatures
from .modeling_video_lavt import VideoLavtForReferringSegmentation, as_clips, size_of, to_features, to_maps
from .swin_refseg import SwinStages
from .video_swin_refseg import VideoSwinModel


class TwoStreamEncoder(nn.Module):
    """The two encoders side by side: `clips` and `images`."""

    def __init__(self, clips: VideoSwinModel, image_config: PreTrainedConfig) -> None:
        super().__init__()
        self.clips = clips
        self.images = SwinStages(image_config)

    def load_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained `VideoSwinModel` of the same configuration."""
        self.clips.load_encoder(pretrained)

    def encode_frame(self, index: int, features: Tensor) -> Tensor:
        """A stage of the Swin transformer on a frame each, (batch, height, width, channels): V_c.

        `features` (batch, height, width, channels), for the first stage (batch, 3, height, width).
        """
        if index == 0:
            tokens, size = self.images.first_stage(features)
        else:
            tokens, size = self.images.next_stage(index, features.flatten(1, 2), tuple(features.shape[1:3]))
        return tokens.unflatten(1, size)


class UnifiedLavtForReferringSegmentation(VideoLavtForReferringSegmentation):
    """Unified LAVT (figure 7). `pixel_values` are clips (batch, frames, 3, height, width) or images (batch, 3, height,
    width). In training mode both encoders run; in evaluation mode the one for images or the one for clips.

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
    def from_encoders(
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

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """In training V_t of all frames and V_c of the central one; afterwards the one of them that is needed."""
        return self.encode_with_both(pixel_values) if self.training else super().encode_image(pixel_values)

    def get_encoder_features(self, pixel_values: Tensor) -> ImageFeatures:
        """V_t of all frames and V_c of the central one, in either mode; args and errors as in all methods."""
        return self._run_image_encoder(self.encode_with_both, pixel_values)

    def encode_with_both(self, pixel_values: Tensor) -> ImageFeatures:
        """The first stage of both encoders: V_t, and V_c, which of clips has a frame axis of length 1."""
        clips, image_size = as_clips(pixel_values), size_of(pixel_values)
        encoded = self.backbone.clips.encode_stage(0, clips)  # V_t
        local = self.backbone.encode_frame(0, clips[:, center_of(clips)]).unsqueeze(1)  # V_c
        maps = (to_maps(encoded, image_size), to_maps(local, image_size))
        return ImageFeatures(maps=maps, image_size=image_size)

    def project_image(self, image: ImageFeatures) -> ImageFeatures:
        """V_1: in training the sum of both encoders; afterwards that of the one for images or the one for clips."""
        image_size = image.image_size
        if self.training:
            visual = to_maps(add_to_center(*map(to_features, image.maps)), image_size)
        else:
            visual = image.maps[0] if len(image_size) == 3 else image.maps[-1]
        return ImageFeatures(maps=(visual,), image_size=image_size)

    def encode_stage(self, index: int, features: Tensor, image_size: tuple[int, ...]) -> Tensor:
        """V_i, (batch, frames, height, width, channels): a stage of both encoders, or of the one that is needed.

        Args as in video LAVT.
        """
        is_image = len(image_size) == 2
        if is_image and not self.training:
            return self.backbone.encode_frame(index, features.squeeze(1)).unsqueeze(1)
        encoded = self.backbone.clips.encode_stage(index, features)  # V_t
        if not self.training:
            return encoded
        local = self.backbone.encode_frame(index, features[:, center_of(features)])
        return add_to_center(encoded, local.unsqueeze(1))


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
