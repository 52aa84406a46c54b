"""Makes the models known to transformers' Auto classes and pipelines, each without importing it."""

from collections import OrderedDict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from . import methods
from .modeling.configuration_recurrent_text_refseg import RecurrentTextConfig
from .modeling.configuration_refseg import RefSegConfig
from .modeling.configuration_video_swin_refseg import VideoSwinConfig
from .modeling.image_processing_refseg import RefSegImageProcessor
from .modeling.pipeline_refseg import PIPELINES
from .modeling.processing_refseg import RefSegProcessor

if TYPE_CHECKING:
    from .modeling.modeling_refseg import RefSegPreTrainedModel


class AutoModelForReferringSegmentation(_BaseAutoModelClass):
    """Loads any model for referring segmentation by its configuration, as `AutoModel` does."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


auto_class_update(AutoModelForReferringSegmentation, head_doc="referring segmentation")


class ModelOnDemand(type):
    """A class that is registered in the place of a model, whose module is imported when anything is asked of it."""

    def __new__(cls, module: str, name: str, config_class: type[PreTrainedConfig]) -> "ModelOnDemand":
        return super().__new__(cls, name, (), {"__module__": module, "config_class": config_class})

    def __init__(cls, *args: Any) -> None:
        super().__init__(cls.__name__, (), {})

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.load(), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> PreTrainedModel:
        return cls.load()(*args, **kwargs)

    def load(cls) -> type[PreTrainedModel]:
        return getattr(import_module(cls.__module__), cls.__name__)


def model_of_method(config_class: type[RefSegConfig]) -> ModelOnDemand:
    """The model of a method of this library: `modeling_lavt` has a `LavtForReferringSegmentation`."""
    module = config_class.__module__.replace(".configuration_", ".modeling_")
    return ModelOnDemand(module, config_class.__name__.replace("Config", "ForReferringSegmentation"), config_class)


METHODS = [model_of_method(each) for name, each in vars(methods).items() if name.endswith("Config")]
# What comes with them.
ENCODERS = [
    ModelOnDemand("hf_refseg.modeling.recurrent_text_refseg", "RecurrentTextEncoder", RecurrentTextConfig),
    ModelOnDemand("hf_refseg.modeling.video_swin_refseg", "VideoSwinModel", VideoSwinConfig),
]
# Where the public classes of methods and encoders are.
MODULES = {each.__name__: each.__module__ for model in (*METHODS, *ENCODERS) for each in (model, model.config_class)}


def registered_configs() -> dict[str, type[RefSegConfig]]:
    """The configurations of all registered methods, by their `model_type`."""
    return {config_class.model_type: config_class for config_class in AutoModelForReferringSegmentation._model_mapping}


def load_model_class(config_class: type[RefSegConfig]) -> "type[RefSegPreTrainedModel]":
    """The model of a registered method."""
    model_class = AutoModelForReferringSegmentation._model_mapping[config_class]
    return model_class.load() if isinstance(model_class, ModelOnDemand) else model_class


def registered_methods() -> "dict[str, type[RefSegPreTrainedModel]]":
    """The models of all registered methods, by the `model_type` of their configurations."""
    return {model_type: load_model_class(config_class) for model_type, config_class in registered_configs().items()}


def register_method(model_class: "type[RefSegPreTrainedModel] | ModelOnDemand") -> None:
    """Makes a method known to the Auto classes, and thereby to all of this library.

    Those of the library are registered on `import hf_refseg`. Saved folders carry the code that they need.

    Raises:
        ValueError: its configuration has no `citation` of its own, which cards of trained models give.
    """
    config_class = model_class.config_class
    if not vars(config_class).get("citation"):
        raise ValueError(
            f"{config_class.__name__} does not say what to cite: give it a `citation`, the BibTeX entry of its paper."
        )
    register_model(model_class)
    AutoModelForReferringSegmentation.register(config_class, model_class, exist_ok=True)
    AutoImageProcessor.register(
        config_class, image_processor_classes={"torchvision": RefSegImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(config_class, RefSegProcessor, exist_ok=True)


def register_model(model_class: type[PreTrainedModel] | ModelOnDemand) -> None:
    """Makes a model known to `AutoConfig` and `AutoModel`."""
    config_class = model_class.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    config_class.register_for_auto_class()


def register_all() -> None:
    """Registers the methods, encoders, processors and pipelines of this library."""
    for model_class in METHODS:
        register_method(model_class)
    for model_class in ENCODERS:
        register_model(model_class)
    RefSegImageProcessor.register_for_auto_class()
    RefSegProcessor.register_for_auto_class()
    for task, pipeline_class in PIPELINES.items():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=AutoModel, type="multimodal")
