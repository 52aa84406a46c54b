"""The kinds of systems that there are, each with the configurations that mean it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..auto import registered_configs
from ..files import may_be_on_hub


@dataclass(frozen=True)
class Kind:
    """A kind of systems.

    Attributes:
        title: what errors and the documentation call it.
        module: the module of this package whose `load(name, *, device, dtype, **options)` makes a system of a name.
        model_types: of the configurations that mean this kind.
        options: those of `load_system` that have an effect; `load` takes them by the same names.
    """

    title: str
    module: str
    model_types: tuple[str, ...]
    options: tuple[str, ...]


OURS = Kind("a model of this library", "own", (), ("threshold", "window", "batch_size"))
OF_ITS_REPOSITORY = Kind("a model with code of its own", "remote", (), OURS.options)
# Found by the file of settings in its folder.
EXPORTED = Kind("an exported model", "exported", (), ("threshold", "batch_size"))
# Found by a name "detector+segmenter", of which neither is a system of its own.
PAIR = Kind("a detector with a segmenter", "grounded", (), ("score_threshold", "instances", "batch_size"))
DETECTORS = ("grounding-dino", "mm-grounding-dino", "owlv2", "owlvit", "omdet-turbo")
SEGMENTERS = ("sam", "sam2", "sam2_video")
KINDS = (
    Kind("Florence-2", "florence", ("florence2",), ("batch_size",)),
    Kind("CLIPSeg", "clipseg", ("clipseg",), ("threshold", "batch_size")),
    Kind("SAM 3", "sam3", ("sam3", "sam3_video"), ("score_threshold", "instances", "batch_size")),
)

# Of what a text finds: whether the mask is the union, or that of the highest score.
INSTANCES = ("all", "best")


def check_instances(instances: str) -> None:
    """Raises ValueError for what is none of `INSTANCES`."""
    if instances not in INSTANCES:
        raise ValueError(f"instances is one of {', '.join(INSTANCES)}, not {instances!r}.")


def known_kinds() -> str:
    """What an error says of the kinds that there are."""
    others = [f"{kind.title} ({', '.join(kind.model_types)})" for kind in KINDS]
    others.append(f"detector+segmenter (of {', '.join(DETECTORS)} with {', '.join(SEGMENTERS)})")
    return f"known methods: {', '.join(registered_configs())}; known systems of others: {', '.join(others)}"


def is_pair(name: str) -> bool:
    """Whether a name is that of two models; a folder's own name may hold a "+" as well."""
    return "+" in name and not Path(name).exists()


def short_name(name: str) -> str:
    """What files are called after a system: the last part of its name, or of both names."""
    return "+".join(Path(each).name for each in (split_pair(name) if is_pair(name) else (name,)))


def split_pair(name: str) -> tuple[str, str]:
    """The names of detector and segmenter; raises ValueError where one of them can be no model."""
    places = [place for place, character in enumerate(name) if character == "+"]
    for first, second in ((name[:place], name[place + 1 :]) for place in places):
        if all(each and (Path(each).exists() or may_be_on_hub(each)) for each in (first, second)):
            return first, second
    raise ValueError(
        f"{name} should be the names of two models, detector+segmenter, each a folder or a Hub id such as user/name."
    )
