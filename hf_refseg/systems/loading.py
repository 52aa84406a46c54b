"""Which system a name means: by the configuration that lies in a folder or on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from ..auto import registered_configs
from ..evaluation.systems import System
from ..hub.saved_models import read_config
from ..modeling.inference_refseg import VideoWindow
from ..shipped import find_model
from ..training.adapters import is_adapter
from .exported import is_exported
from .kinds import (
    DETECTORS,
    EXPORTED,
    KINDS,
    OF_ITS_REPOSITORY,
    OURS,
    PAIR,
    SEGMENTERS,
    Kind,
    is_pair,
    known_kinds,
    split_pair,
)


def load_system(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    threshold: float | None = None,
    window: VideoWindow | None = None,
    batch_size: int | None = None,
    score_threshold: float | None = None,
    instances: Literal["all", "best"] | None = None,
) -> System:
    """Load what a name means, by the `model_type` of its configuration.

    Args:
        name: folder or Hub id of a model or an adapter of this library, or of a model of one of the `KINDS`; folder
            of an exported model; or "refshapes-demo", the model that travels with the library.
        device: such as "cpu" or "cuda:1"; None = the accelerator, if there is one.
        dtype: such as "float32"; None = as the weights were saved.
        trust_remote_code: run the code that lies beside the weights, of a model that no kind covers.
        threshold: foreground probability above which a pixel belongs to a mask where a protocol names none; None =
            the kind's, of a model of this library its processor's.
        window: how a model of this library goes through a video; None = the whole of it is one clip.
        batch_size: texts per forward pass; None = the kind's.
        score_threshold: of systems that find instances, the score above which one counts; None = the kind's.
        instances: of such systems, whether the mask holds "all" instances or the "best" one; None = the kind's.

    Returns:
        The system. An option that is None is not given; one that is given has an effect.

    Raises:
        ValueError: the name means no model, or one of no known kind; an option has no effect on the kind, or a value
            out of range; weights, configuration or processor are missing or damaged.
        OSError: the Hub has no such model, or cannot be reached.
    """
    given = {
        "threshold": threshold,
        "window": window,
        "batch_size": batch_size,
        "score_threshold": score_threshold,
        "instances": instances,
    }
    options = {option: value for option, value in given.items() if value is not None}
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    name = find_model(name)
    kind = find_kind(name, trust_remote_code)
    check_options(kind, name, options)
    module = import_module(f".{kind.module}", __package__)
    return module.load(name, device=device, dtype=dtype, **options)


def find_kind(name: str, trust_remote_code: bool) -> Kind:
    """The kind of a model; raises as `load_system`, also where it is trusted for no reason."""
    kind = _kind_of(name, trust_remote_code)
    if trust_remote_code and kind is not OF_ITS_REPOSITORY:
        raise ValueError(
            f"{name} is {kind.title} and needs no code but what is installed: leave out trust_remote_code "
            "(--trust-remote-code)."
        )
    return kind


def brings_code(name: str) -> bool:
    """Whether a model is of no known kind and has code of its own; raises ValueError as `load_system`."""
    return _kind_of(name, trust_remote_code=True) is OF_ITS_REPOSITORY


def _kind_of(name: str, trust_remote_code: bool) -> Kind:
    if is_pair(name):
        return _kind_of_pair(*split_pair(name))
    if is_exported(name):
        return EXPORTED
    return OURS if is_adapter(name) else _kind_of_model(name, trust_remote_code)


def _kind_of_pair(detector: str, segmenter: str) -> Kind:
    for name, part, known in ((detector, "detector", DETECTORS), (segmenter, "segmenter", SEGMENTERS)):
        found = read_config(name).get("model_type")
        if found not in known:
            raise ValueError(
                f"{name} is a model of type {found} and no {part} ({', '.join(known)}): write detector+segmenter."
            )
    return PAIR


def _kind_of_model(name: str, trust_remote_code: bool) -> Kind:
    config = read_config(name)
    model_type = config.get("model_type")
    # A list would be no key of a mapping.
    if model_type in tuple(registered_configs()):
        return OURS
    for kind in KINDS:
        if model_type in kind.model_types:
            return kind
    if model_type in DETECTORS:
        raise ValueError(
            f"{name} is a detector ({model_type}), which finds boxes: add a segmenter to its name, such as "
            f"{name}+facebook/sam-vit-base."
        )
    if model_type in SEGMENTERS:
        raise ValueError(
            f"{name} is a segmenter ({model_type}), which reads no text: put a detector in front of its name, such as "
            f"IDEA-Research/grounding-dino-tiny+{name}."
        )
    what = f"a model of type {model_type}" if isinstance(model_type, str) else "a model without a model_type"
    if "auto_map" not in config:
        raise ValueError(f"{name} is {what}; {known_kinds()}.")
    if not trust_remote_code:
        raise ValueError(
            f"{name} is {what}, which brings code of its own: read it, and pass trust_remote_code=True "
            f"(--trust-remote-code) to run it; {known_kinds()}."
        )
    return OF_ITS_REPOSITORY


def check_options(kind: Kind, name: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option that has no effect on systems of a kind."""
    without_effect = [option for option in options if option not in kind.options]
    if without_effect:
        raise ValueError(
            f"{name} is {kind.title}, on which {without_effect[0]} (--{without_effect[0].replace('_', '-')}) has no "
            f"effect: leave it out. It takes {', '.join(kind.options)}."
        )
