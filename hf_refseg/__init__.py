"""hf_refseg: an image or a video and a sentence in, the mask of what the sentence means out."""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# In a checkout `modeling/` and `datasets_scripts/` lie beside the package; installed, they lie inside it.
if not (Path(__file__).parent / "modeling").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

from .auto import AutoModelForReferringSegmentation, register
from .modeling.configuration_btmae import BtmaeConfig
from .modeling.configuration_lavt import LavtConfig
from .modeling.configuration_m3att import M3AttConfig
from .modeling.configuration_magnet import MagNetConfig
from .modeling.configuration_refseg import MaskGroundingConfig
from .modeling.configuration_risam import RisamConfig
from .modeling.configuration_unified_lavt import UnifiedLavtConfig
from .modeling.configuration_video_lavt import VideoLavtConfig
from .modeling.image_processing_refseg import RefSegImageProcessor
from .modeling.inference_refseg import FrameMask, VideoWindow, segment_video
from .modeling.modeling_btmae import BtmaeForReferringSegmentation
from .modeling.modeling_lavt import LavtForReferringSegmentation
from .modeling.modeling_m3att import M3AttForReferringSegmentation
from .modeling.modeling_magnet import MagNetForReferringSegmentation
from .modeling.modeling_outputs_refseg import ReferringSegmentationOutput
from .modeling.modeling_risam import RisamForReferringSegmentation
from .modeling.modeling_unified_lavt import UnifiedLavtForReferringSegmentation
from .modeling.modeling_video_lavt import VideoLavtForReferringSegmentation
from .modeling.pipeline_refseg import ReferringImageSegmentationPipeline, ReferringVideoSegmentationPipeline
from .modeling.processing_refseg import RefSegProcessor
from .modeling.video_refseg import VideoFrames

register()

# Imported on first use: what they need is slow to import, and those who only run a model never need it.
_LAZY = {
    "add_adapter": ".training.adapters",
    "RefSegTrainer": ".training.trainer",
    "RefSegTrainingArguments": ".training.arguments",
    "evaluate_masks": ".evaluation.protocols",
    "evaluate_model": ".evaluation.evaluator",
    "load_refseg": ".data.loading",
    "load_with_adapter": ".training.adapters",
}

__all__ = [
    "AutoModelForReferringSegmentation",
    "BtmaeConfig",
    "BtmaeForReferringSegmentation",
    "FrameMask",
    "LavtConfig",
    "LavtForReferringSegmentation",
    "M3AttConfig",
    "M3AttForReferringSegmentation",
    "MagNetConfig",
    "MagNetForReferringSegmentation",
    "MaskGroundingConfig",
    "RefSegImageProcessor",
    "RefSegProcessor",
    "ReferringImageSegmentationPipeline",
    "ReferringSegmentationOutput",
    "ReferringVideoSegmentationPipeline",
    "RisamConfig",
    "RisamForReferringSegmentation",
    "UnifiedLavtConfig",
    "UnifiedLavtForReferringSegmentation",
    "VideoLavtConfig",
    "VideoLavtForReferringSegmentation",
    "VideoFrames",
    "VideoWindow",
    "segment_video",
    *_LAZY,
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'hf_refseg' has no attribute '{name}'")
