"""A model on an image and a text encoder, as transformers and the Hub want one: made, loaded, saved and frozen."""

import math
from collections.abc import Iterable
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from .configuration_encoders_refseg import longest_text
from .configuration_refseg import RefSegConfig
from .encoders_refseg import MapEncoder, load_image_encoder
from .layers_refseg import VocabularyHead, start_at_prior
from .pipeline_refseg import PIPELINES
from .pretrained_refseg import load_encoder_weights
from .saved_files_refseg import naming_damage
from .tasks_refseg import TASKS
from .text_encoders_refseg import load_text_encoder
from .training_task_refseg import TrainingTask

logger = logging.get_logger(__name__)


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing in it is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def describe_pipelines(tasks: Iterable[str]) -> dict[str, dict]:
    """These pipelines as transformers' `custom_pipelines`, which a configuration holds on disk."""
    names = {task: (PIPELINES[task].__module__.split(".")[-1], PIPELINES[task].__name__) for task in tasks}
    return {task: {"impl": ".".join(name), "pt": ["AutoModel"], "type": "multimodal"} for task, name in names.items()}


def find_input_embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """The module that embeds what a model reads, in a list; nothing for a model that reads features."""
    try:
        return [model.get_input_embeddings()]
    except NotImplementedError:
        return []


class TwoEncoderModel(PreTrainedModel):
    """A model with the encoders `backbone` and `text_encoder`, the training tasks of its configuration, and the weight
    of each loss by name in `loss_weights`.

    An encoder without trained parameters stays in evaluation mode, so that neither batch statistics nor dropout
    disturb it.
    """

    config: RefSegConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # Losses are means over a batch, so Trainer has to average them over accumulation steps itself.
    accepts_loss_kwargs = False
    # Of which a model has those that its configuration names.
    task_classes: tuple[type[TrainingTask], ...] = TASKS

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """All attention goes through transformers' interface, which guesses from the source and would guess wrong."""
        return True

    @property
    def tasks(self) -> list[TrainingTask]:
        """The training tasks that the model has, each a module of it."""
        return [getattr(self, task.name) for task in self.task_classes if task.is_part_of(self.config)]

    def add_tasks(self, map_channels: int, text_channels: int) -> None:
        """Adds the tasks that the configuration names; called once encoders and `loss_weights` are there.

        Args:
            map_channels: channels of the last of the fused maps.
            text_channels: channels of the fused text features.
        """
        for task in self.task_classes:
            if task.is_part_of(self.config):
                self.add_module(task.name, task.build(self, map_channels, text_channels))
                self.loss_weights[task.loss_name] = task.loss_weight(self.config)

    def post_init(self) -> None:
        super().post_init()
        # With other encoders some are not there, and accelerate refuses to look for them.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}
        # Once and for all: no compiler follows how the fields of a configuration are looked up.
        self.longest_text = longest_text(self.config.text_config)
        self.freeze_encoders()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str] | None, *args, **kwargs) -> Any:
        """As in transformers; what the configuration freezes is frozen (loading makes every parameter trainable).

        Raises:
            ValueError: a file is damaged; the message names it.
            OSError: there is no such model, or the Hub cannot be reached.
        """
        with naming_damage(pretrained_model_name_or_path, kwargs):
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_encoders()
        return loaded

    @classmethod
    def from_loaded_encoders(
        cls, vision: PreTrainedModel, text: PreTrainedModel | None, **config: Any
    ) -> "TwoEncoderModel":
        """A new model on pretrained encoders, in evaluation mode.

        Args:
            vision: the image encoder.
            text: the text encoder; None for a new one, as the field `text_config` says.
            config: other fields of the configuration.
        """
        text_config = {} if text is None else {"text_config": text.config}
        model = cls(cls.config_class(backbone_config=vision.config, **text_config, **config))
        model.backbone.load_encoder(vision)
        if text is not None:
            model.load_text_encoder(text)
        return model.eval()

    @classmethod
    def from_encoders(
        cls,
        vision_name_or_path: str,
        text_name_or_path: str | None,
        drop_path_rate: float | None = None,
        **config: Any,
    ) -> "TwoEncoderModel":
        """A new model on pretrained encoders of any kind that the method permits, in evaluation mode.

        Args:
            vision_name_or_path: an image encoder on the Hub or on disk, or "timm/NAME"; of a model for image and text
                it is the encoder of images.
            text_name_or_path: a text encoder on the Hub or on disk; of a model for image and text it is the encoder
                of texts. None for a new one, as the field `text_config` says.
            drop_path_rate: stochastic depth of the image encoder in training, where it has any; by default that of
                the method's paper.
            config: other fields of the configuration.

        Raises:
            ValueError: an encoder that the method cannot read, with the reason; a field that does not exist.
            OSError: there is no such encoder, or the Hub cannot be reached.
        """
        vision = cls.load_image_encoder(str(vision_name_or_path), drop_path_rate)
        text = None if text_name_or_path is None else load_text_encoder(str(text_name_or_path))
        return cls.from_loaded_encoders(vision, text, **config)

    @classmethod
    def load_image_encoder(cls, name_or_path: str, drop_path_rate: float | None) -> PreTrainedModel:
        """The pretrained image encoder of `from_encoders`."""
        config_class = cls.config_class
        papers = config_class.sub_configs_defaults["backbone_config"].init_kwargs.get("drop_path_rate")
        return load_image_encoder(name_or_path, config_class.num_image_maps, drop_path_rate, papers)

    def load_text_encoder(self, pretrained: PreTrainedModel) -> None:
        """Takes over the weights of a pretrained text encoder of the same configuration."""
        load_encoder_weights(self.text_encoder, pretrained)

    def check_image_size(self, height: int, width: int) -> None:
        """Raises ValueError where the image encoder cannot take images of this size, before any is read."""
        for encoder in (module for module in self.modules() if isinstance(module, MapEncoder)):
            encoder.require_size(height, width)

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of the text encoder."""
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Puts other word embeddings into the text encoder."""
        self.text_encoder.set_input_embeddings(value)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """As in transformers; what names words of the vocabulary grows or shrinks along with it."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        for head in (module for module in self.modules() if isinstance(module, VocabularyHead)):
            resized = self._get_resized_lm_head(head, embeddings.num_embeddings, mean_resizing=mean_resizing)
            resized.requires_grad_(head.weight.requires_grad)
            head.weight, head.bias, head.out_features = resized.weight, resized.bias, resized.out_features
        return embeddings

    def enable_input_require_grads(self) -> None:
        """As in transformers, also for embeddings that are returned along with their size, as a Swin transformer's."""

        def require_gradient(module: nn.Module, arguments: tuple, output: Tensor | tuple) -> None:
            embedded = output[0] if isinstance(output, tuple) else output
            embedded.requires_grad_(True)

        encoders = [module for module in self.modules() if isinstance(module, PreTrainedModel)]
        embeddings = {part for encoder in encoders for part in find_input_embeddings(encoder)}
        self._require_grads_hooks = [module.register_forward_hook(require_gradient) for module in embeddings]

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *args,
        state_dict: dict[str, Tensor] | None = None,
        save_auxiliary: bool = True,
        **kwargs,
    ) -> None:
        """As in transformers; with `save_auxiliary=False` a model without its tasks of training alone is written.

        The configuration names the pipelines, so that `pipeline(task, model=..., trust_remote_code=True)` finds their
        code beside the weights.
        """
        left_out = [task.name for task in self.tasks if task.is_for_training_alone and not save_auxiliary]
        tasks = {name: getattr(self.config, name) for name in left_out}
        if tasks:
            prefixes = tuple(f"{name}." for name in tasks)
            tensors = self.state_dict() if state_dict is None else state_dict
            state_dict = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
        self.config.custom_pipelines = describe_pipelines(self.config.custom_pipelines or PIPELINES)
        try:
            for name in tasks:
                setattr(self.config, name, None)
            super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        finally:
            del self.config.custom_pipelines
            for name, task in tasks.items():
                setattr(self.config, name, task)

    def freeze_encoders(self) -> None:
        """Freezes the encoders that the configuration says are frozen."""
        for encoder, frozen in (
            (self.backbone, self.config.freeze_image_encoder),
            (self.text_encoder, self.config.freeze_text_encoder),
        ):
            if frozen:
                encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "TwoEncoderModel":
        super().train(mode)
        for encoder in (self.backbone, self.text_encoder):
            encoder.train(mode and not is_frozen(encoder))
        idle = [task.name for task in self.tasks if task.is_for_text_encoder and mode and is_frozen(self.text_encoder)]
        for name in idle:
            logger.warning_once(
                f"The task {name} is meant to train the text encoder, but all of it is frozen: only the task's own "
                "parts and the fusion learn from it. Set freeze_text_encoder to False in the model's configuration "
                f"(or train a LoRA adapter instead of the heads alone), or leave {name} out."
            )
        return self

    def initialize_weights(self) -> None:
        """As in transformers, by the rules of the models inside, also where loading finds no weights for them.

        In models from outside, transformers passes over modules without parameters of their own, but CLIP's layers
        initialize their parts from there.
        """
        for module in self.modules():
            if isinstance(module, PreTrainedModel) and module is not self:
                module.initialize_weights()
        super().initialize_weights()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear and convolution layers start as PyTorch starts them, all else as transformers does.

        The encoders inside are initialized by their own rules. Masks start at the configuration's `mask_prior`.
        """
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)
        if self.config.mask_prior is not None:
            start_at_prior(module, self.config.mask_prior)
        for task in self.tasks:
            task.init_weights(module)


__all__ = ["TwoEncoderModel", "is_frozen"]
