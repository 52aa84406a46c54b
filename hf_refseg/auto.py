"""Makes the models known to transformers' Auto classes and pipelines."""

from collections import OrderedDict

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling.configuration_btmae import BtmaeConfig
from .modeling.configuration_lavt import LavtConfig
from .modeling.configuration_m3att import M3AttConfig
from .modeling.configuration_magnet import MagNetConfig
from .modeling.configuration_risam import RisamConfig
from .modeling.configuration_unified_lavt import UnifiedLavtConfig
from .modeling.configuration_video_lavt import VideoLavtConfig
from .modeling.image_processing_refseg import RefSegImageProcessor
from .modeling.modeling_btmae import BtmaeForReferringSegmentation
from .modeling.modeling_lavt import LavtForReferringSegmentation
from .modeling.modeling_m3att import M3AttForReferringSegmentation
from .modeling.modeling_magnet import MagNetForReferringSegmentation
from .modeling.modeling_refseg import PIPELINES
from .modeling.modeling_risam import RisamForReferringSegmentation
from .modeling.modeling_unified_lavt import UnifiedLavtForReferringSegmentation
from .modeling.modeling_video_lavt import VideoLavtForReferringSegmentation
from .modeling.processing_refseg import RefSegProcessor
from .modeling.recurrent_text_refseg import RecurrentTextConfig, RecurrentTextEncoder
from .modeling.video_swin_refseg import VideoSwinConfig, VideoSwinModel


class AutoModelForReferringSegmentation(_BaseAutoModelClass):
    """Loads any model for referring segmentation by its configuration, as `AutoModel` does."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


AutoModelForReferringSegmentation = auto_class_update(
    AutoModelForReferringSegmentation, head_doc="referring segmentation"
)

MODELS = {
    BtmaeConfig: BtmaeForReferringSegmentation,
    LavtConfig: LavtForReferringSegmentation,
    M3AttConfig: M3AttForReferringSegmentation,
    MagNetConfig: MagNetForReferringSegmentation,
    RisamConfig: RisamForReferringSegmentation,
    UnifiedLavtConfig: UnifiedLavtForReferringSegmentation,
    VideoLavtConfig: VideoLavtForReferringSegmentation,
}
# Encoders of the methods that transformers does not have.
ENCODERS = {RecurrentTextConfig: RecurrentTextEncoder, VideoSwinConfig: VideoSwinModel}


def register() -> None:
    """Registers every method; done on `import hf_refseg`. Saved folders then carry the code they need."""
    for config_class, model_class in {**MODELS, **ENCODERS}.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
        config_class.register_for_auto_class()
        model_class.register_for_auto_class("AutoModel")
    for config_class, model_class in MODELS.items():
        AutoModelForReferringSegmentation.register(config_class, model_class, exist_ok=True)
        AutoImageProcessor.register(
            config_class, image_processor_classes={"torchvision": RefSegImageProcessor}, exist_ok=True
        )
        AutoProcessor.register(config_class, RefSegProcessor, exist_ok=True)
    RefSegImageProcessor.register_for_auto_class()
    RefSegProcessor.register_for_auto_class()
    for task, pipeline_class in PIPELINES.items():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=AutoModel, type="multimodal")
