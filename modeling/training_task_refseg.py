"""What a model asks of a training task: what any method can learn beside the masks."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from .configuration_refseg import RefSegConfig
from .modeling_outputs_refseg import ForwardPass, FusedAndDecoded


class TrainingTask(nn.Module, ABC):
    """A part of a model that learns a task of its own: a module of the model, by the name of the task.

    A model has those tasks whose field of the configuration is neither None nor False. What may be missing in a
    checkpoint stands in `_keys_to_ignore_on_load_missing`, as in transformers' models.
    """

    # Of the module, and of the configuration's field.
    name: ClassVar[str]
    loss_name: ClassVar[str]
    # Whether inference uses nothing of it, so that a model can be saved without it.
    is_for_training_alone: ClassVar[bool] = True
    # Whether it is there for the sake of the text encoder, which then has to be trained.
    is_for_text_encoder: ClassVar[bool] = False

    @classmethod
    def is_part_of(cls, config: RefSegConfig) -> bool:
        """Whether models of this configuration have the task."""
        return bool(getattr(config, cls.name))

    @classmethod
    def loss_weight(cls, config: RefSegConfig) -> float:
        """How much its loss counts beside the others, to begin with."""
        return getattr(config, cls.name).loss_weight

    @classmethod
    @abstractmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "TrainingTask":
        """The module that a model needs.

        Args:
            model: a model with its encoders; the task is part of its configuration.
            map_channels: channels of the last of the fused maps.
            text_channels: channels of the fused text features.
        """

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        """Starts the parameters of a module of the task for which transformers and PyTorch have no rule."""

    def predict(self, made: FusedAndDecoded) -> dict[str, Tensor]:
        """What it answers at inference as well, as fields of [`ReferringSegmentationOutput`]."""
        return {}

    @abstractmethod
    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        """The unweighted loss, a scalar: the mean over the samples of which the task can be learned, 0 without any.

        `model` is the one that it is part of. A task that reads more than the pass holds encodes and fuses by itself.
        """


__all__ = ["TrainingTask"]
