"""Makes the models known to transformers' Auto classes and pipelines."""

from collections import OrderedDict

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from . import methods
from .modeling.image_processing_refseg import RefSegImageProcessor
from .modeling.modeling_refseg import RefSegPreTrainedModel
from .modeling.processing_refseg import RefSegProcessor
from .modeling.two_encoders_refseg import PIPELINES


class AutoModelForReferringSegmentation(_BaseAutoModelClass):
    """Loads any model for referring segmentation by its configuration, as `AutoModel` does."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


AutoModelForReferringSegmentation = auto_class_update(
    AutoModelForReferringSegmentation, head_doc="referring segmentation"
)


def registered_methods() -> dict[str, type[RefSegPreTrainedModel]]:
    """The models of all registered methods, by the `model_type` of their configurations."""
    registered = AutoModelForReferringSegmentation._model_mapping.items()
    return {config_class.model_type: model_class for config_class, model_class in registered}


def register_method(model_class: type[RefSegPreTrainedModel]) -> None:
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


def register_model(model_class: type[PreTrainedModel]) -> None:
    """Makes a model known to `AutoConfig` and `AutoModel`."""
    config_class = model_class.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")


def register_all() -> None:
    """Registers what `methods.py` lists, processors and pipelines."""
    classes = [each for each in vars(methods).values() if isinstance(each, type)]
    for model_class in (each for each in classes if issubclass(each, PreTrainedModel)):
        register = register_method if issubclass(model_class, RefSegPreTrainedModel) else register_model
        register(model_class)
    RefSegImageProcessor.register_for_auto_class()
    RefSegProcessor.register_for_auto_class()
    for task, pipeline_class in PIPELINES.items():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=AutoModel, type="multimodal")
