"""What the configurations of all methods share, and the plug-in training tasks that any of them can carry."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .checks_refseg import (
    Conditions,
    names_of,
    refuse_unknown,
    require_at_least_one,
    require_effect,
    require_encoder,
    require_ranges,
    unknown_among,
    values_of,
)
from .configuration_encoders_refseg import RECURRENT_TEXT, longest_text, require_text_encoder
from .messages_refseg import nearest_names

logger = logging.get_logger(__name__)
# That of the library; a saved configuration holds the one that wrote it, and its first number is that of the format.
HF_REFSEG_VERSION = "0.2.0.dev0"
SAVED_VERSION = "hf_refseg_version"
# So many unknown names are said.
MOST_NAMED = 5

# The type of the field of an encoder. A configuration is what it holds, also where a mapping or None is put into it:
# `RefSegConfig` makes one of them.
if TYPE_CHECKING:
    EncoderConfig: TypeAlias = PreTrainedConfig
else:
    EncoderConfig = PreTrainedConfig | dict | None


@dataclass(kw_only=True)
class TaskConfig:
    """Base of the configurations of training tasks, which are dataclasses and know the task's name."""

    task: ClassVar[str]
    # As of `RefSegConfig`, which looks at it: files of earlier versions may hold what has no effect.
    effective_with: ClassVar[Conditions] = {}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """From a mapping, as it stands in a recipe or in config.json.

        Raises:
            ValueError: a field that does not exist.
        """
        names = [field.name for field in fields(cls)]
        unknown = [str(name) for name in values if name not in names]
        if unknown:
            hint = nearest_names(unknown, names) or "."
            raise ValueError(f"{cls.task} has no field {', '.join(unknown)}, only {', '.join(names)}{hint}")
        return cls(**values)

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, **values: Any) -> Any:
        """From fields, and from what a task has to know of the tokenizer; nothing unless it says otherwise."""
        return cls.from_dict(values)


@strict
@dataclass(kw_only=True)
class MaskGroundingConfig(TaskConfig):
    """
    Configuration of Mask Grounding, a training task: masked words have to be named from the rest of the sentence, the
    image and the target's mask (https://huggingface.co/papers/2312.12198, section 3.2). `image_tokens`, `mask_encoder`
    and `reconstructs` also give the baselines of the paper's table 3 a.

    Args:
        special_token_ids (`list[int]`):
            Tokens that are never masked: the tokenizer's `all_special_ids`.
        mask_token_id (`int`):
            The token that is put in the place of a masked word; to its embedding the task adds one of its own, which
            is learned even where the text encoder is frozen. A tokenizer without a mask token (CLIP's) lends its
            unknown token.
        mask_probability (`float`, *optional*, defaults to 0.15):
            How likely each ordinary token is masked; one of a sentence is masked at least.
        image_tokens (`bool`, *optional*, defaults to `True`):
            Whether the predictor sees the image. With `False` and `mask_encoder="none"` the task is plain masked
            language modeling.
        mask_encoder (`str`, *optional*, defaults to `"center"`):
            What the predictor is told of the target's mask: the coordinates of its `"center"`, the `"average"` of the
            image features inside it (table 3 b), or `"none"`.
        reconstructs (`str`, *optional*, defaults to `"words"`):
            What is masked and has to be found again: `"words"`, or `"words_and_image"`, the latter in a pass of its
            own through the image encoder and the fusion. With `mask_encoder="none"` that is masked vision-language
            modeling ("MaskedVLM").
        image_mask_probability (`float`, *optional*, defaults to 0.6):
            How likely each part of the image, that of one image token, is masked there; one of an image is at least.
        image_features (`str`, *optional*, defaults to `"sentence"`):
            What text the image features have met: `"sentence"`, those of the main pass (equation 2), although the
            masked words can be read off them; `"masked_sentence"`, features that are fused anew with what is left of
            the sentence. On RefShapes the masks are better with the latter step for step (oIoU 54.8 and 53.4 after
            800 steps), and with the former in the same time (58.1), as a second fusion costs: with
            `predictor_size=512` the task takes 4.8 % of a pass forward of LAVT at 480 pixels with the former, and
            43 % with the latter.
        predictor_layers (`int`, *optional*, defaults to 8):
            Layers of the masked token predictor (table 3 c: 4, 8 or 12).
        predictor_size (`int`, *optional*):
            Channels of the predictor, with heads of 64 where that divides them; by default those of the map of image
            features. The paper says that the task costs 4.76 % more; on LAVT with Swin-B at 480 pixels 512 channels
            cost 4.77 %, the 1024 of the map 15 %.
        max_map_size (`int`, *optional*, defaults to 16):
            Height and width to which a larger map of image features is averaged, so that no more than 16 x 16 image
            tokens reach the predictor.
        loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the loss `mask_grounding`.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from hf_refseg import LavtConfig
    >>> from hf_refseg.modeling.configuration_refseg import MaskGroundingConfig

    >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
    >>> configuration = LavtConfig(mask_grounding=MaskGroundingConfig.for_tokenizer(tokenizer, predictor_layers=4))
    ```"""

    task = "mask_grounding"
    effective_with: ClassVar[Conditions] = {
        "image_mask_probability": (
            'with reconstructs="words_and_image"',
            lambda config: config.reconstructs == "words_and_image",
        ),
        "image_features": (
            'with image_tokens=True or mask_encoder="average"',
            lambda config: config.image_tokens or config.mask_encoder == "average",
        ),
        "max_map_size": ("with image_tokens=True", lambda config: config.image_tokens),
    }

    special_token_ids: list[int] | tuple[int, ...] | None = None
    mask_token_id: int | None = None
    mask_probability: float | int = 0.15
    image_tokens: bool = True
    mask_encoder: Literal["center", "average", "none"] = "center"
    reconstructs: Literal["words", "words_and_image"] = "words"
    image_mask_probability: float | int = 0.6
    image_features: Literal["sentence", "masked_sentence"] = "sentence"
    predictor_layers: int = 8
    predictor_size: int | None = None
    max_map_size: int = 16
    loss_weight: float | int = 1.0

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, **values: Any) -> "MaskGroundingConfig":
        """With the token ids of a tokenizer, where `values`, the other fields, do not name them."""
        mask_token_id = tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
        return cls.from_dict(
            {"special_token_ids": sorted(tokenizer.all_special_ids), "mask_token_id": mask_token_id, **values}
        )

    @property
    def token_ids(self) -> tuple[int, Sequence[int]]:
        """`mask_token_id` and `special_token_ids`, neither of which is None once the fields are checked."""
        assert self.mask_token_id is not None and self.special_token_ids is not None
        return self.mask_token_id, self.special_token_ids

    def validate_fields(self):
        """Checks the ranges; called on construction."""
        for name, source in (
            ("special_token_ids", "the tokenizer's all_special_ids"),
            ("mask_token_id", "the tokenizer's mask_token_id, or that of another token that stands for a masked word"),
        ):
            if getattr(self, name) is None:
                raise ValueError(
                    f"mask_grounding: {name} is needed: {source}. MaskGroundingConfig.for_tokenizer(tokenizer) fills "
                    "it in, and so does a recipe."
                )
        for name in ("mask_probability", "image_mask_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: a probability is needed, got {getattr(self, name)}.")
        require_at_least_one(self, "predictor_layers", "max_map_size")
        if self.predictor_size is not None:
            require_at_least_one(self, "predictor_size")
        if self.reconstructs == "words_and_image" and not self.image_tokens:
            raise ValueError('reconstructs: "words_and_image" finds the image again in its tokens: image_tokens=True.')
        mask_token_id, special_token_ids = self.token_ids
        if min(mask_token_id, *special_token_ids) < 0:
            raise ValueError("mask_grounding: special_token_ids and mask_token_id: no token has a number below 0.")
        require_ranges(values_of(self))


@strict
@dataclass(kw_only=True)
class LanguageReconstructionConfig(TaskConfig):
    """
    Configuration of language feature reconstruction, a training task: the encoded sentence has to be readable from
    what image and text became together (M3Att, section III-C; the defaults are those of the paper).

    Args:
        sentence_vector (`str`, *optional*, defaults to `"attention"`):
            The vector F'_t of the whole sentence that stands beside its words: an `"attention"`-weighted sum of them;
            `"final_state"`, that of a recurrent text encoder, as in the paper; or the features of the `"last_word"`,
            of which a recurrent encoder's backward direction has read that word alone.
        num_layers (`int`, *optional*, defaults to 3):
            Linear layers of the reconstruction.
        loss_weight (`float`, *optional*, defaults to 0.1):
            Weight of the loss `language_reconstruction`.
    """

    task = "language_reconstruction"

    sentence_vector: Literal["attention", "final_state", "last_word"] = "attention"
    num_layers: int = 3
    loss_weight: float | int = 0.1

    def validate_fields(self):
        """Checks the ranges; called on construction."""
        if self.num_layers < 1:
            raise ValueError(f"language_reconstruction: num_layers: at least 1 is needed, got {self.num_layers}.")
        require_ranges(values_of(self))


@strict
class CheckedConfig(PreTrainedConfig):
    """
    Base of all configurations: a name that is no field is an error. Of a saved configuration, which may be that of a
    newer version, unknown fields are left out, with a warning.
    """

    def __post_init__(self, is_saved: bool = False, **kwargs):
        if is_saved:
            kwargs = self.without_unknown(kwargs)
        else:
            encoders = {key: names_of(type(getattr(self, key))) for key in self.sub_configs_defaults}
            refuse_unknown(type(self), kwargs, encoders)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Any:
        """As in transformers; fields that this version does not know are left out, with a warning.

        Raises:
            ValueError: a version with a newer format wrote it.
        """
        values = dict(config_dict)
        require_format(cls, values.pop(SAVED_VERSION, None))
        loaded = super().from_dict({**values, "is_saved": True}, **kwargs)
        # transformers sets fields that are given to `from_pretrained` once all is validated.
        (loaded[0] if isinstance(loaded, tuple) else loaded).validate()
        return loaded

    def validate_ranges(self):
        """Checks what the names of fields say of their numbers; called on construction."""
        require_ranges(values_of(self))

    def without_unknown(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values with known names; a warning names the others."""
        known = names_of(type(self))
        unknown = [name for name in values if name not in known]
        if unknown:
            logger.warning(
                f"{type(self).__name__} has no field {', '.join(unknown)}, which is left out: the file is that of a "
                f"newer version, or was changed by hand{nearest_names(unknown, sorted(known)) or '.'}"
            )
        return {name: value for name, value in values.items() if name in known}


def require_format(config_class: type[PreTrainedConfig], version: Any) -> None:
    """Raises ValueError where a newer format was saved, or what is no version; without one it is an old file."""
    if version is None:
        return
    found = re.match(r"(\d{1,9})\.", version) if isinstance(version, str) else None
    if found is None:
        raise ValueError(f"{SAVED_VERSION}: a version such as {HF_REFSEG_VERSION} is expected, in quotes.")
    if int(found[1]) > int(HF_REFSEG_VERSION.partition(".")[0]):
        raise ValueError(
            f"The {config_class.model_type} model was saved by hf_refseg {version[:20]}, whose format this version, "
            f"{HF_REFSEG_VERSION}, does not know: pip install --upgrade hf_refseg."
        )


@strict
class RefSegConfig(CheckedConfig):
    """
    Base of the configurations of all methods for referring segmentation. Every method has these fields.

    A field that is changed although others leave it without effect is an error.

    Args:
        freeze_image_encoder (`bool`, *optional*, defaults to `False`):
            Whether a new model trains nothing of its image encoder. A frozen encoder runs without gradients and in
            evaluation mode.
        freeze_text_encoder (`bool`, *optional*, defaults to `False`):
            The same for the text encoder.
        mask_prior (`float`, *optional*):
            Foreground probability, above 0 and below 1, that the masks of a new model start at: about the share of
            pixels that belong to a target. From random weights a model that starts at one half spends its first
            hundreds of steps on unlearning it. `None` = as the layers start; the papers say nothing of it.
        presence_head (`bool`, *optional*, defaults to `False`):
            Whether the model also says if there is a target at all; an auxiliary task with the loss `presence`.
        presence_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of that loss.
        presence_no_target_weight (`float`, *optional*, defaults to 1.0):
            How much a text without a target counts in that loss, beside 1 of one with a target. Where such texts are
            few, more than 1 recognizes more of them, and misses more targets.
        mask_grounding (`MaskGroundingConfig` or `dict`, *optional*):
            Mask Grounding, an auxiliary task of training alone, with the loss `mask_grounding`; `None` = without it.
        language_reconstruction (`LanguageReconstructionConfig` or `dict`, *optional*):
            Language feature reconstruction, an auxiliary task of training alone, with the loss
            `language_reconstruction`; `None` = without it, `{}` = with its defaults.
    """

    # What to cite of the method, as BibTeX; a method is not registered without it.
    citation: ClassVar[str] = ""
    # What the method's image processor does otherwise than `RefSegImageProcessor` by default.
    image_processor_defaults: ClassVar[dict[str, Any]] = {}
    # Most tokens of a text that the method's paper reads, special ones included. With a type it would be a field,
    # which M3Att's configuration makes of it; of a `ClassVar` type checkers do not permit that.
    max_text_length = 20
    # How many maps, or stages, of its image encoder the method reads.
    num_image_maps: ClassVar[int] = 1
    # Whether `pixel_values` may be clips (batch, frames, 3, height, width) as well as images.
    takes_clips: ClassVar[bool] = False
    # Pipelines whose code lies beside the weights; a saved model names them. Each model may have
    # its own.
    custom_pipelines = dict[str, dict]()
    # Configurations of encoders that come with the methods, by model type.
    own_encoders: ClassVar[dict[str, type[PreTrainedConfig]]] = {}
    # Under what condition some fields have an effect. Sizes and starting values of a part are not among them: they
    # say what it is like, so that an ablation of a recipe changes the one field that leaves it out.
    effective_with: ClassVar[Conditions] = {
        name: ("with presence_head=True", lambda config: config.presence_head)
        for name in ("presence_loss_weight", "presence_no_target_weight")
    }

    freeze_image_encoder: bool = False
    freeze_text_encoder: bool = False
    mask_prior: float | None = None
    presence_head: bool = False
    presence_loss_weight: float | int = 1.0
    presence_no_target_weight: float | int = 1.0
    mask_grounding: MaskGroundingConfig | dict | None = None
    language_reconstruction: LanguageReconstructionConfig | dict | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Any:
        """As in transformers; pipelines that this process knows are not named: they need no code of the checkpoint."""
        known = PIPELINE_REGISTRY.supported_tasks
        fields = dict(config_dict)
        named = fields.pop("custom_pipelines", {})
        foreign = {task: pipeline for task, pipeline in named.items() if task not in known}
        if foreign:
            fields["custom_pipelines"] = foreign
        loaded = super().from_dict(fields, **kwargs)
        given = [name for name in kwargs if name in cls.task_configs()]
        (loaded[0] if isinstance(loaded, tuple) else loaded).require_effect_of_tasks(given)
        return loaded

    def __post_init__(self, is_saved: bool = False, **kwargs):
        for key, spec in self.sub_configs_defaults.items():
            if not isinstance(getattr(self, key), PreTrainedConfig):
                setattr(self, key, self.build_sub_config(key, spec, is_saved))
        self.validate_encoders()
        super().__post_init__(is_saved=is_saved, **kwargs)
        if not is_saved:
            require_effect(self, self.effective_with)
            self.require_effect_of_tasks(self.task_configs())

    def require_effect_of_tasks(self, names: Iterable[str]) -> None:
        """Raises ValueError where a field of one of these tasks has another value than its default, but no effect."""
        for task in (getattr(self, name) for name in names):
            if task is not None:
                require_effect(task, task.effective_with)

    def build_sub_config(self, key: str, spec: SubConfigSpec, is_saved: bool) -> PreTrainedConfig:
        """The configuration of an encoder from its mapping, by default that of `spec`.

        transformers would know a model type of ours only where the library is installed, not where a model's code came
        with it.

        Raises:
            ValueError: an unknown model type, or, where it `is_saved` nowhere, an unknown field.
        """
        values = getattr(self, key)
        values = {"model_type": spec.model_type, **(spec.init_kwargs if values is None else values)}
        values = {str(name): value for name, value in values.items()}
        model_type = values["model_type"]
        if model_type in self.own_encoders:
            config_class = self.own_encoders[model_type]
        elif model_type in CONFIG_MAPPING:
            config_class = CONFIG_MAPPING[model_type]
        else:
            known = [*self.own_encoders, *CONFIG_MAPPING]
            raise ValueError(
                f"{key}: there is no model_type '{model_type}'{nearest_names([model_type], known) or '.'}"
            )
        require_encoder(key, config_class, values)
        unknown = unknown_among(config_class, values)
        if not is_saved:
            refuse_unknown(config_class, unknown, where=f"{key}: ")
            return config_class(**{name: value for name, value in values.items() if name in names_of(config_class)})
        if unknown and not issubclass(config_class, CheckedConfig):
            named = ", ".join(unknown[:MOST_NAMED]) + (", ..." if len(unknown) > MOST_NAMED else "")
            hint = nearest_names(unknown[:MOST_NAMED], sorted(names_of(config_class))) or "."
            logger.warning(
                f"{key}: {config_class.__name__} does not know {named}, which has no effect: the file is that of a "
                f"newer version, or was changed by hand{hint}"
            )
        return config_class.from_dict(values)

    @property
    def longest_text(self) -> int:
        """Most tokens of a text that the model takes: its text encoder has no more positions."""
        return longest_text(self.text_config)

    def check_text_length(self, max_text_length: int) -> None:
        """Raises ValueError where texts as long as a processor lets them be do not fit into the model."""
        if max_text_length > self.longest_text:
            raise ValueError(
                f"The processor's max_text_length is {max_text_length}, but the model takes texts of at most "
                f"{self.longest_text} tokens: lower it, longer texts are then cut."
            )

    def check_vocabulary(self, tokens: int) -> None:
        """Raises ValueError where a tokenizer has more tokens than the text encoder; fewer are padding."""
        if tokens > self.text_config.vocab_size:
            raise ValueError(
                f"The tokenizer has {tokens} tokens, but config.json of the model says {self.text_config.vocab_size} "
                "(text_config, vocab_size): tokenizer.json is that of another model. Put the right one there."
            )

    def validate_encoders(self):
        """Checks the numbers in the configurations of the encoders; called on construction, before all others."""
        for key in self.sub_configs_defaults:
            encoder = getattr(self, key)
            require_encoder(key, type(encoder), values_of(encoder))
        require_text_encoder(self.text_config)

    def validate_mask_prior(self):
        """Checks the foreground probability that masks start at; called on construction."""
        if self.mask_prior is not None and not 0 < self.mask_prior < 1:
            raise ValueError(f"mask_prior: a probability above 0 and below 1 is needed, got {self.mask_prior}.")

    def validate_sentence_vector(self):
        """Checks that the text encoder has the state that a task reads; called on construction."""
        task, kind = self.language_reconstruction, self.text_config.model_type
        if (
            isinstance(task, LanguageReconstructionConfig)
            and task.sentence_vector == "final_state"
            and kind != RECURRENT_TEXT
        ):
            raise ValueError(
                f'language_reconstruction: sentence_vector="final_state" is that of a recurrent text encoder, and '
                f"text_config is '{kind}': take \"attention\", or a text_config of model_type '{RECURRENT_TEXT}'."
            )

    def __setattr__(self, name: str, value: Any) -> None:
        # Not in `__post_init__`: `from_pretrained(path, mask_grounding={...})` sets the field of a finished object.
        if isinstance(value, dict) and name in self.task_configs():
            value = self.task_configs()[name].from_dict(value)
        super().__setattr__(name, value)

    @classmethod
    def task_configs(cls) -> dict[str, type[TaskConfig]]:
        """The configurations of training tasks, by the fields that hold them: those whose type names one."""
        kinds = ((field.name, kind) for field in fields(cls) for kind in get_args(field.type))
        return {name: kind for name, kind in kinds if isinstance(kind, type) and issubclass(kind, TaskConfig)}

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the tasks as plain mappings, and without the folders that anything came from.

        transformers leaves out that of the whole model alone, and from its file alone.
        """
        tasks = {name: getattr(self, name) for name in self.task_configs()}
        values = super().to_dict() | {name: asdict(task) for name, task in tasks.items() if task is not None}
        for each in (values, *(values[key] for key in self.sub_configs_defaults)):
            if os.path.isdir(each.get("_name_or_path", "")):
                each["_name_or_path"] = ""
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: as in transformers, without what others saved beside the fields of their encoders.

        So an unknown field in a file of ours means something. The version of the library stands beside the fields.
        """
        values = {**super().to_diff_dict(), SAVED_VERSION: HF_REFSEG_VERSION}
        for key in self.sub_configs_defaults:
            encoder = getattr(self, key)
            unknown = unknown_among(type(encoder), encoder.to_dict())
            values[key] = {name: value for name, value in values[key].items() if name not in unknown}
        return values


__all__ = ["LanguageReconstructionConfig", "MaskGroundingConfig", "RefSegConfig"]
