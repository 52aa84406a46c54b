"""What the models of all methods share: weights of losses, and the way from image and text to the mask."""

import math
from collections.abc import Callable, Iterable
from operator import itemgetter
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, is_tracing, logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_encoders_refseg import longest_text
from .configuration_refseg import RefSegConfig
from .encoders_refseg import load_image_encoder
from .layers_refseg import VocabularyHead
from .losses_refseg import NOT_ANNOTATED
from .modeling_outputs_refseg import (
    DecoderOutput,
    ForwardPass,
    FusedAndDecoded,
    FusedFeatures,
    ImageFeatures,
    ReferringSegmentationOutput,
)
from .pipeline_refseg import ReferringImageSegmentationPipeline, ReferringVideoSegmentationPipeline
from .pretrained_refseg import load_encoder_weights
from .saved_files_refseg import naming_damage
from .tasks_refseg import TASKS, TrainingTask
from .text_encoders_refseg import load_text_encoder

logger = logging.get_logger(__name__)
# What makes the output of a model of the fused and the decoded features.
Finish = Callable[[FusedAndDecoded], ReferringSegmentationOutput]
# The pipelines of every model. Importing them here also makes their code travel with each of them.
PIPELINES = {
    "referring-image-segmentation": ReferringImageSegmentationPipeline,
    "referring-video-segmentation": ReferringVideoSegmentationPipeline,
}


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing in it is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def describe_pipelines(tasks: Iterable[str]) -> dict[str, dict]:
    """These pipelines as transformers' `custom_pipelines`, which a configuration holds on disk."""
    names = {task: (PIPELINES[task].__module__.split(".")[-1], PIPELINES[task].__name__) for task in tasks}
    return {task: {"impl": ".".join(name), "pt": ["AutoModel"], "type": "multimodal"} for task, name in names.items()}


class RefSegPreTrainedModel(PreTrainedModel):
    """Base of all methods: `forward` goes from image and text to logits and losses.

    A method names its encoders `backbone` and `text_encoder`, calls `add_tasks`, and defines, in the order
    of its paper, `encode_image`, `project_image` where something trained works on the image before it meets the text,
    `encode_text`, `fuse`, `decode` and `compute_losses`. It fills `loss_weights`: the weight of each loss by name,
    which may change during training.

    An encoder without trained parameters runs without gradients and stays in evaluation mode, so that neither batch
    statistics nor dropout disturb it.
    """

    config: RefSegConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # Losses are means over a batch, so Trainer has to average them over accumulation steps itself.
    accepts_loss_kwargs = False
    # Of which a model has those that its configuration names.
    task_classes: tuple[type[TrainingTask], ...] = TASKS
    # Without gradients no more texts than these are fused and decoded at once, each frame of a clip counting as one:
    # it bounds the memory.
    texts_per_pass = 8
    # What is recorded while `fuse` and `decode` run, for `output_hidden_states` and `output_attentions`.
    _can_record_outputs = {"multimodal_hidden_states": [], "multimodal_attentions": []}
    # Whether the fused maps have met the sentence.
    maps_hold_language = True

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
    ) -> "RefSegPreTrainedModel":
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
    ) -> "RefSegPreTrainedModel":
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

    def train(self, mode: bool = True) -> "RefSegPreTrainedModel":
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

        The encoders inside are initialized by their own rules.
        """
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)
        for task in self.tasks:
            task.init_weights(module)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """What the image encoder makes of images (images, 3, height, width), or of clips where a method takes them.

        Clips are (clips, frames, 3, height, width).
        """
        raise NotImplementedError

    def project_image(self, image: ImageFeatures) -> ImageFeatures:
        """What is trained and works on the image alone; nothing unless a method says otherwise."""
        return image

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What the text encoder makes of token ids (texts, tokens), before it meets the image.

        `attention_mask` (texts, tokens) is 1 where there is a token, `None` where all are; returns (texts, tokens,
        channels).
        """
        raise NotImplementedError

    def fuse(self, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> FusedFeatures:
        """Brings image and text together.

        Args:
            image: what `project_image` returned, an image for each text.
            text: what `encode_text` returned, (texts, tokens, channels).
            text_mask: (texts, tokens), 1 = token, 0 = padding, in the type of `text`.
        """
        raise NotImplementedError

    def decode(self, fused: FusedFeatures, image_size: tuple[int, ...]) -> DecoderOutput:
        """Logits of the size of the image, (texts, height, width), or (texts, frames, height, width) for clips.

        `image_size` is that of [`ImageFeatures`].
        """
        raise NotImplementedError

    def compute_losses(self, output: DecoderOutput, mask_labels: Tensor) -> dict[str, Tensor]:
        """The unweighted losses by name, each the mean over the samples.

        `output` is what `decode` returned, `mask_labels` are of the shape of its logits.
        """
        raise NotImplementedError

    def get_encoder_features(self, pixel_values: Tensor) -> ImageFeatures:
        """What the image encoder alone makes of images (batch, 3, height, width), or of clips where it takes them.

        Pass the result as `encoder_features`, to train on images without encoding them again. Of a frozen encoder it
        is the same in training and in evaluation mode. Images of another floating-point type than the weights are cast
        to theirs.

        Raises:
            ValueError: neither images nor, where the configuration's `takes_clips` is True, clips; or whole numbers.
        """
        return self._run_image_encoder(self.encode_image, pixel_values)

    def _run_image_encoder(self, encode: Callable[[Tensor], ImageFeatures], pixel_values: Tensor) -> ImageFeatures:
        """What `encode`, which runs the image encoder, makes of `pixel_values`; args and errors as above."""
        if pixel_values.ndim != 4 and not (pixel_values.ndim == 5 and self.config.takes_clips):
            clips = " or clips (batch, frames, 3, height, width)" if self.config.takes_clips else ""
            raise ValueError(
                f"`pixel_values` has shape {tuple(pixel_values.shape)}, but this model takes images "
                f"(batch, 3, height, width){clips}."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"`pixel_values` are {pixel_values.dtype}: pass normalized images, as the image processor makes them."
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.backbone)):
            return encode(pixel_values.to(self.dtype))

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> ImageFeatures:
        """All that can be computed of images (batch, 3, height, width) without the text.

        Pass the result as `image_embeds`, to segment several expressions in one image without encoding it again.
        `kwargs` are those of `check_requests`.
        """
        self.check_requests(**kwargs)
        return self._embed_image(pixel_values)

    def _embed_image(self, pixel_values: Tensor) -> ImageFeatures:
        """What `get_image_features` returns, of `pixel_values` alone."""
        return self.project_image(self._run_image_encoder(self.encode_image, pixel_values))

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Word features, `last_hidden_state` (batch, tokens, channels).

        Pass the result, or that field, as `text_embeds` along with the `attention_mask`. `token_type_ids` and `kwargs`
        are as in `check_requests`.

        Raises:
            ValueError: more tokens than the text encoder has positions for or others than it knows, a mask of another
                shape, or sentences in pairs.
        """
        self.check_requests(token_type_ids, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=self._embed_text(input_ids, attention_mask))

    def _embed_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The word features of `get_text_features`; arguments and errors are the same."""
        _require_tokens(input_ids, attention_mask, self.config.text_config.vocab_size)
        limit = longest_text(self.config.text_config)
        if input_ids.shape[1] > limit:
            raise ValueError(
                f"The texts have {input_ids.shape[1]} tokens, the text encoder takes at most {limit}: lower the "
                "processor's `max_text_length`."
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.text_encoder)):
            return self.encode_text(input_ids, attention_mask)

    def check_requests(
        self,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **unknown: Any,
    ) -> None:
        """Checks what tokenizers and users of transformers pass to models, but no method reads.

        Args:
            token_type_ids: (batch, tokens), all 0, as a tokenizer makes them of single sentences.
            output_hidden_states: a warning says that it has no effect, but as an argument of `forward`.
            output_attentions: the same.
            unknown: nothing but names without a value, which wrappers of other models pass on.

        Raises:
            TypeError: a keyword that has a value, but no effect.
            ValueError: the token types of sentences in pairs.
        """
        given = [name for name, value in unknown.items() if value is not None]
        if given:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument '{given[0]}'.")
        if token_type_ids is not None and can_be_read(token_type_ids) and token_type_ids.any():
            raise ValueError(
                "`token_type_ids` are not all 0: a text is a single sentence. Give the tokenizer a list of texts, no "
                "pairs."
            )
        if output_hidden_states or output_attentions:
            logger.warning_once(
                "Features of an image or a text alone come without hidden states and attention weights: "
                "`output_hidden_states` and `output_attentions` have no effect but in `forward`."
            )

    def finish_text(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """What a text encoder makes of a sentence that never meets the image, (batch, tokens, channels).

        `text` is that of `encode_text`, as here where that is all; a method whose text encoder goes on in `fuse`
        runs the rest of it.
        """
        return text

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_labels: Tensor | None = None,
        image_embeds: ImageFeatures | None = None,
        text_embeds: BaseModelOutputWithPooling | Tensor | None = None,
        encoder_features: ImageFeatures | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> ReferringSegmentationOutput:
        """Segments what each text means.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, 3, height, width)`):
                Normalized images, one for each text or a single one for all texts (it is encoded once). Where the
                configuration's `takes_clips` is True, clips `(batch, frames, 3, height, width)` as well. They are cast
                to the type of the weights.
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): the tokenized texts.
            attention_mask (`torch.LongTensor` of shape `(batch, tokens)`):
                1 = word, 0 = padding; all words if absent. Each text has one word at least.
            mask_labels (`torch.LongTensor` of shape `(batch, height, width)`):
                0 = background, 1 = target; all 0 where there is no target. For clips `(batch, frames, height, width)`
                with -100 all over the frames that are not annotated.
            image_embeds ([`ImageFeatures`]): what `get_image_features` returned, instead of `pixel_values`.
            text_embeds ([`BaseModelOutputWithPooling`] or `torch.FloatTensor` of shape `(batch, tokens, channels)`):
                What `get_text_features` returned, or its `last_hidden_state`, instead of `input_ids`.
            encoder_features ([`ImageFeatures`]): what `get_encoder_features` returned, instead of `pixel_values`.
            token_type_ids (`torch.LongTensor` of shape `(batch, tokens)`):
                All 0, as a tokenizer makes them of single sentences; they say nothing more.
            output_hidden_states: whether to return `hidden_states`; as the configuration says, if absent.
            output_attentions: whether to return `attentions`; as the configuration says, if absent.
            kwargs: `return_dict`, and those of `check_requests`.

        Raises:
            ValueError: where an input is missing, the numbers of images, texts and masks do not match, or values are
                none of those above.
            TypeError: an unknown keyword.
        """
        self.check_requests(token_type_ids, **kwargs)
        recorded = self.what_to_record(output_hidden_states, output_attentions)
        image, text, text_mask = self.encode_inputs(
            pixel_values, input_ids, attention_mask, image_embeds, text_embeds, encoder_features
        )
        if mask_labels is None:
            return self.segment(image, text, text_mask, self.make_output, **recorded)
        return self.forward_with_loss(
            image, text, text_mask, input_ids, attention_mask, mask_labels, self.make_output, {}, **recorded
        )

    def encode_inputs(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        image_embeds: ImageFeatures | None = None,
        text_embeds: BaseModelOutputWithPooling | Tensor | None = None,
        encoder_features: ImageFeatures | None = None,
    ) -> tuple[ImageFeatures, Tensor, Tensor]:
        """What `fuse` takes, from the inputs of `forward`: an image for each text, the words, and their mask."""
        _require_one(pixel_values=pixel_values, image_embeds=image_embeds, encoder_features=encoder_features)
        _require_one(input_ids=input_ids, text_embeds=text_embeds)
        _require_words(attention_mask)
        if pixel_values is not None:
            image_embeds = self._embed_image(pixel_values)
        elif encoder_features is not None:
            image_embeds = self.project_image(encoder_features)
        if text_embeds is None:
            text = self._embed_text(input_ids, attention_mask)
        else:
            text = text_embeds.last_hidden_state if isinstance(text_embeds, ModelOutput) else text_embeds
        return _match_images_to_texts(image_embeds, text.shape[0]), text, _text_mask(text, attention_mask)

    def forward_with_loss(
        self,
        image: ImageFeatures,
        text: Tensor,
        text_mask: Tensor,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        mask_labels: Tensor,
        finish: Finish,
        further_losses: dict[str, Tensor],
        **recorded: bool,
    ) -> ReferringSegmentationOutput:
        """What `finish` makes, and the losses, `further_losses` and those of all auxiliary tasks included."""
        _require_labels(mask_labels, self.config.takes_clips)
        made = self.fuse_and_decode(image, text, text_mask, **recorded)
        output = finish(made)
        _require_matching_labels(mask_labels, output.logits)
        losses = further_losses | self.compute_losses(made.decoded, mask_labels)
        forward_pass = ForwardPass(input_ids, attention_mask, image, text, text_mask, made.fused, mask_labels, output)
        losses |= {task.loss_name: task.loss(self, forward_pass) for task in self.tasks}
        return type(output)(
            loss=sum(self.loss_weights[name] * value for name, value in losses.items()),
            loss_components={name: value.detach() for name, value in losses.items()},
            **output,
        )

    def segment(
        self, image: ImageFeatures, text: Tensor, text_mask: Tensor, finish: Finish, **recorded: bool
    ) -> ReferringSegmentationOutput:
        """What `finish` makes of all texts, without gradients of `texts_per_pass` at a time; inputs as of `fuse`."""
        texts, at_once = text.shape[0], max(1, self.texts_per_pass // image.num_frames)
        # An exported graph is one pass, as it could not tell how many a batch of another size takes.
        if torch.is_grad_enabled() or torch.compiler.is_exporting() or torch.jit.is_tracing() or texts <= at_once:
            return finish(self.fuse_and_decode(image, text, text_mask, **recorded))
        passes = [slice(first, first + at_once) for first in range(0, texts, at_once)]
        parts = [
            self.segment(image.apply_to_tensors(itemgetter(part)), text[part], text_mask[part], finish, **recorded)
            for part in passes
        ]
        return tree_map(lambda *tensors: torch.cat(tensors), *parts)

    @capture_outputs
    def fuse_and_decode(
        self, image: ImageFeatures, text: Tensor, text_mask: Tensor, **recorded: bool
    ) -> FusedAndDecoded:
        """What `fuse` and `decode` make of texts; `recorded` is what `what_to_record` returns."""
        fused = self.fuse(image, text, text_mask)
        return FusedAndDecoded(fused=fused, decoded=self.decode(fused, image.image_size))

    def what_to_record(self, output_hidden_states: bool | None, output_attentions: bool | None) -> dict[str, bool]:
        """What the arguments of `forward` ask for, or the configuration where they are absent."""
        config = self.config
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = config.output_attentions if output_attentions is None else output_attentions
        return {
            "return_dict": True,
            "output_multimodal_hidden_states": states,
            "output_multimodal_attentions": attentions,
        }

    def make_output(self, made: FusedAndDecoded) -> ReferringSegmentationOutput:
        """What `forward` returns without labels."""
        predictions = {name: value for task in self.tasks for name, value in task.predict(made.fused).items()}
        states, attentions = made.multimodal_hidden_states, made.multimodal_attentions
        kernel = self.config._attn_implementation
        if attentions == () and kernel != "eager" and not is_tracing(made.decoded.logits):
            logger.warning_once(
                f"`{kernel}` attention does not support `output_attentions=True`. Please set your attention to "
                '`eager`, with `model.set_attn_implementation("eager")`.'
            )
        return ReferringSegmentationOutput(
            logits=made.decoded.logits,
            hidden_states=None if states is None else (*made.fused.maps, *states),
            attentions=attentions,
            **predictions,
        )


def find_input_embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """The module that embeds what a model reads, in a list; nothing for a model that reads features."""
    try:
        return [model.get_input_embeddings()]
    except NotImplementedError:
        return []


def can_be_read(values: Tensor) -> bool:
    """Whether Python can look at values: not in a graph that is being made of tensors without any."""
    return not (values.is_meta or is_tracing(values))


def _require_tokens(input_ids: Tensor, attention_mask: Tensor | None, vocab_size: int) -> None:
    """Raises ValueError where `input_ids` are no token ids, or the mask is not theirs."""
    shape = tuple(input_ids.shape)
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"`input_ids` have shape {shape}: pass (batch, tokens), one token at least.")
    if attention_mask is not None and tuple(attention_mask.shape) != shape:
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}, but `input_ids` have {shape}: pass both as "
            "the tokenizer made them."
        )
    if can_be_read(input_ids) and ((input_ids < 0) | (input_ids >= vocab_size)).any():
        raise ValueError(
            f"`input_ids` go from {input_ids.min().item()} to {input_ids.max().item()}, but the text encoder knows "
            f"{vocab_size} tokens: take the tokenizer that was saved with the model."
        )


def _require_words(attention_mask: Tensor | None) -> None:
    """Raises ValueError where a text has no word: its features would be undefined."""
    if attention_mask is None or not can_be_read(attention_mask):
        return
    has_words = (attention_mask != 0).any(1)
    if not has_words.all():
        number = int((~has_words).nonzero()[0, 0])
        raise ValueError(f"`attention_mask` is 0 all over text {number}: each text needs one word at least.")


def _require_labels(mask_labels: Tensor, takes_clips: bool) -> None:
    """Raises ValueError where labels hold another value than 0, 1 and, where a model takes clips, -100."""
    if not can_be_read(mask_labels):
        return
    is_known = (mask_labels == 0) | (mask_labels == 1)
    if takes_clips:
        is_known |= mask_labels == NOT_ANNOTATED
    if is_known.all():
        return
    strange = mask_labels[~is_known][0].item()
    if strange == NOT_ANNOTATED:
        raise ValueError(
            f"`mask_labels` hold {NOT_ANNOTATED}, which stands for frames of clips that are not annotated, but this "
            "model takes images: leave out those without a mask."
        )
    known = f"0, 1 and {NOT_ANNOTATED}" if takes_clips else "0 and 1"
    raise ValueError(
        f"`mask_labels` hold {strange}, but only {known} are legal: pass `mask != 0`, as the processor's "
        "`segmentation_maps` does."
    )


def _text_mask(text: Tensor, attention_mask: Tensor | None) -> Tensor:
    return text.new_ones(text.shape[:2]) if attention_mask is None else attention_mask.to(text.dtype)


def _require_one(**inputs: Tensor | None) -> None:
    if sum(value is not None for value in inputs.values()) != 1:
        names = [f"`{name}`" for name in inputs]
        raise ValueError(f"Pass exactly one of {', '.join(names[:-1])} and {names[-1]}.")


def _match_images_to_texts(image: ImageFeatures, texts: int) -> ImageFeatures:
    images = image.maps[0].shape[0]
    if images not in (1, texts):
        raise ValueError(f"Pass one image for each text, or one image for all of them: got {images} and {texts}.")
    return image.apply_to_tensors(lambda tensor: tensor.expand(texts, *tensor.shape[1:]))


def _require_matching_labels(mask_labels: Tensor, logits: Tensor) -> None:
    if mask_labels.shape != logits.shape:
        raise ValueError(
            f"`mask_labels` has shape {tuple(mask_labels.shape)}, but the logits have {tuple(logits.shape)}: pass one "
            "mask for each text, at the size of `pixel_values` (the processor's `segmentation_maps` does that)."
        )


__all__ = [
    "DecoderOutput",
    "FusedFeatures",
    "ImageFeatures",
    "RefSegPreTrainedModel",
    "ReferringSegmentationOutput",
    "is_frozen",
]
