"""hf_refseg: an image or a video and a sentence in, the mask of what the sentence means out."""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# In a checkout `modeling/` and `datasets_scripts/` lie beside the package; installed, they lie inside it.
if not (Path(__file__).parent / "modeling").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

from . import methods
from .auto import AutoModelForReferringSegmentation, register_all, register_method
from .methods import *
from .modeling.configuration_refseg import MaskGroundingConfig
from .modeling.image_processing_refseg import RefSegImageProcessor
from .modeling.inference_refseg import FrameMask, VideoWindow, segment_video
from .modeling.modeling_outputs_refseg import ReferringSegmentationOutput
from .modeling.pipeline_refseg import ReferringImageSegmentationPipeline, ReferringVideoSegmentationPipeline
from .modeling.processing_refseg import RefSegProcessor
from .modeling.video_refseg import VideoFrames

register_all()

# Imported on first use: what they need is slow to import, and those who only run a model never need it.
_LAZY = {
    "Answer": ".evaluation.systems",
    "System": ".evaluation.systems",
    "add_adapter": ".training.adapters",
    "RefSegTrainer": ".training.trainer",
    "RefSegTrainingArguments": ".training.arguments",
    "evaluate_masks": ".evaluation.protocols",
    "evaluate_model": ".evaluation.evaluator",
    "evaluate_system": ".evaluation.evaluator",
    "load_refseg": ".data.loading",
    "load_system": ".systems",
    "load_with_adapter": ".training.adapters",
    "preview_dataset": ".data.preview",
}

__all__ = [
    "AutoModelForReferringSegmentation",
    "FrameMask",
    "MaskGroundingConfig",
    "RefSegImageProcessor",
    "RefSegProcessor",
    "ReferringImageSegmentationPipeline",
    "ReferringSegmentationOutput",
    "ReferringVideoSegmentationPipeline",
    "VideoFrames",
    "VideoWindow",
    "register_method",
    "segment_video",
    *(name for name in vars(methods) if not name.startswith("_")),
    *_LAZY,
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'hf_refseg' has no attribute '{name}'")
