"""Checks of the fields of any configuration: unknown names, numbers out of range, options without effect."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

from transformers import PreTrainedConfig

from .messages_refseg import nearest_names

# What transformers passes to every configuration, or saves in its file, beside its fields.
NAMES_OF_TRANSFORMERS = (
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "quantization_config",
    "use_cache",
)
# Far more than any encoder or method has.
MAX_LAYERS = 1000
# Under what condition some fields have an effect: its words, and a function of the configuration that tells it.
Conditions = dict[str, tuple[str, Callable[[Any], bool]]]


def names_of(config_class: type[PreTrainedConfig]) -> frozenset[str]:
    """Names that a configuration takes: its fields, their other names, and what transformers adds."""
    return _names_of(config_class)  # type: ignore[arg-type]  # To mypy a class is not hashable.


@cache
def _names_of(config_class: type[PreTrainedConfig]) -> frozenset[str]:
    members = {name: member for base in reversed(config_class.__mro__) for name, member in vars(base).items()}
    settable = (name for name, member in members.items() if isinstance(member, property) and member.fset is not None)
    own_fields = (field.name for field in fields(config_class))
    return frozenset((*own_fields, *settable, *config_class.attribute_map, *NAMES_OF_TRANSFORMERS))


def unknown_among(config_class: type[PreTrainedConfig], values: Mapping[str, Any]) -> list[str]:
    """The names among these values that the configuration neither takes nor derives from the others.

    A mapping that transformers wrote also holds what a configuration derives from its fields.
    """
    known = names_of(config_class)
    derived = config_class(**{name: value for name, value in values.items() if name in known}).to_dict()
    return [
        name for name, value in values.items() if name not in known and (name not in derived or derived[name] != value)
    ]


def refuse_unknown(
    config_class: type[PreTrainedConfig],
    names: Iterable[str],
    encoders: dict[str, frozenset[str]] | None = None,
    where: str = "",
) -> None:
    """Raises ValueError where one of `names` is none that the configuration takes.

    Args:
        config_class: class of the configuration.
        names: what it was given.
        encoders: for each configuration inside it the names that this one takes.
        where: what the message starts with.
    """
    known = names_of(config_class)
    unknown = [name for name in names if name not in known]
    if unknown:
        owners = [f"{key} has {name}" for key, own in (encoders or {}).items() for name in unknown if name in own]
        hint = f", but {', '.join(owners)}." if owners else nearest_names(unknown, sorted(known)) or "."
        raise ValueError(f"{where}{config_class.__name__} has no field {', '.join(unknown)}{hint}")


def require_effect(config: Any, conditions: Conditions) -> None:
    """Raises ValueError where a field has another value than its default, but no effect."""
    for field in (field for field in fields(config) if field.name in conditions):
        words, holds = conditions[field.name]
        value, default = (
            tuple(each) if isinstance(each, list) else each for each in (getattr(config, field.name), field.default)
        )
        if value != default and not holds(config):
            raise ValueError(
                f"{field.name}: it has an effect only {words}; leave it at {default!r}, or change what it needs."
            )


def require_at_least_one(config: Any, *names: str) -> None:
    """Raises ValueError where one of these fields is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: at least 1 is needed, got {getattr(config, name)}.")


def numbers_in(value: Any) -> list[int | float]:
    """A number as a list of one, or those of a list; none of anything else."""
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]


def require_ranges(values: Mapping[str, Any]) -> None:
    """Raises ValueError where a field has a number that is none, or one that its name rules out.

    Weights of losses, standard deviations and epsilons are 0 or more, dropout rates are probabilities below 1, ratios
    and temperatures are above 0. There are at most `MAX_LAYERS` layers: they are made before any weight is read.

    Args:
        values: fields of a configuration, by name.
    """
    for name, value in values.items():
        is_rate = "drop" in name or name.endswith("_prob")
        for number in numbers_in(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name}: a finite number is needed, got {number}.")
            if is_rate and not 0 <= number < 1:
                raise ValueError(f"{name}: a probability below 1 is needed, got {number}.")
            if name.endswith(("_weight", "_sigma", "_eps", "initializer_range")) and number < 0:
                raise ValueError(f"{name}: at least 0 is needed, got {number}.")
            if name.endswith(("_ratio", "_temperature")) and number <= 0:
                raise ValueError(f"{name}: a number above 0 is needed, got {number}.")
            if (name.endswith("layers") or name == "depths") and number > MAX_LAYERS:
                raise ValueError(f"{name}: at most {MAX_LAYERS} layers are possible, got {number}.")


def require_sizes(config_class: type[PreTrainedConfig], values: Mapping[str, Any]) -> None:
    """Raises ValueError where a size or a number of parts is below 1: a field whose default is above 0.

    For configurations that do not check themselves, as those of transformers; token ids and the like may be 0.

    Args:
        config_class: class of the configuration.
        values: its fields, by name.
    """
    for field in (field for field in fields(config_class) if field.name in values):
        defaults = numbers_in(field.default if field.default_factory is MISSING else field.default_factory())
        counts = bool(defaults) and all(isinstance(each, int) and each > 0 for each in defaults)
        if not counts or field.name.endswith(("_id", "_ids", "_index", "_indexes", "_indices")):
            continue
        for number in numbers_in(values[field.name]):
            if number < 1:
                raise ValueError(f"{field.name}: at least 1 is needed, got {number}.")


def require_encoder(key: str, config_class: type[PreTrainedConfig], values: Mapping[str, Any]) -> None:
    """Raises ValueError, naming `key`, where a number among the fields of an encoder's configuration is out of range.

    Of a mapping it is called before transformers makes a configuration of it, which divides by some of them.
    """
    try:
        require_sizes(config_class, values)
        require_ranges(values)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def values_of(config: Any) -> dict[str, Any]:
    """The fields of a configuration, by name."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def require_even_heads(config: Any, step: int) -> None:
    """Raises ValueError where `hidden_size` is no multiple of `step` and of the number of heads."""
    require_at_least_one(config, "hidden_size", "num_attention_heads")
    if config.hidden_size % step or config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size: {config.hidden_size} has to be a multiple of {step} and of num_attention_heads, "
            f"{config.num_attention_heads}."
        )
