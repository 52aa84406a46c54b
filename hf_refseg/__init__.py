"""hf_refseg: an image or a video and a sentence in, the mask of what the sentence means out."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

# In a checkout `modeling/` and `datasets_scripts/` lie beside the package; installed, they lie inside it.
if not (Path(__file__).parent / "modeling").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

# Imported when they are asked for: what they need is slow to import, and nobody needs all of it.
_MODULES = {
    "REFSHAPES_DEMO": "hf_refseg.shipped",
    "Answer": "hf_refseg.evaluation.systems",
    "AutoModelForReferringSegmentation": "hf_refseg.auto",
    "BtmaeOutput": "hf_refseg.modeling.modeling_btmae",
    "FrameMask": "hf_refseg.modeling.inference_refseg",
    "MaskGroundingConfig": "hf_refseg.modeling.configuration_refseg",
    "RefSegImageProcessor": "hf_refseg.modeling.image_processing_refseg",
    "RefSegProcessor": "hf_refseg.modeling.processing_refseg",
    "RefSegTrainer": "hf_refseg.training.trainer",
    "RefSegTrainingArguments": "hf_refseg.training.arguments",
    "ReferringImageSegmentationPipeline": "hf_refseg.modeling.pipeline_refseg",
    "ReferringSegmentationOutput": "hf_refseg.modeling.modeling_outputs_refseg",
    "ReferringVideoSegmentationPipeline": "hf_refseg.modeling.pipeline_refseg",
    "System": "hf_refseg.evaluation.systems",
    "VideoFrames": "hf_refseg.modeling.video_refseg",
    "VideoWindow": "hf_refseg.modeling.inference_refseg",
    "add_adapter": "hf_refseg.training.adapters",
    "evaluate_masks": "hf_refseg.evaluation.protocols",
    "evaluate_model": "hf_refseg.evaluation.evaluator",
    "evaluate_system": "hf_refseg.evaluation.evaluator",
    "load_refseg": "hf_refseg.data.loading",
    "load_system": "hf_refseg.systems",
    "load_with_adapter": "hf_refseg.training.adapters",
    "preview_dataset": "hf_refseg.data.preview",
    "register_method": "hf_refseg.auto",
    "segment_video": "hf_refseg.modeling.inference_refseg",
}

# What type checkers, editors and the pages of the API read.
if TYPE_CHECKING:
    from .auto import (
        AutoModelForReferringSegmentation as AutoModelForReferringSegmentation,
    )
    from .auto import (
        register_method as register_method,
    )
    from .data.loading import load_refseg as load_refseg
    from .data.preview import preview_dataset as preview_dataset
    from .evaluation.evaluator import evaluate_model as evaluate_model
    from .evaluation.evaluator import evaluate_system as evaluate_system
    from .evaluation.protocols import evaluate_masks as evaluate_masks
    from .evaluation.systems import Answer as Answer
    from .evaluation.systems import System as System
    from .modeling.configuration_btmae import BtmaeConfig as BtmaeConfig
    from .modeling.configuration_lavt import LavtConfig as LavtConfig
    from .modeling.configuration_m3att import M3AttConfig as M3AttConfig
    from .modeling.configuration_magnet import MagNetConfig as MagNetConfig
    from .modeling.configuration_recurrent_text_refseg import RecurrentTextConfig as RecurrentTextConfig
    from .modeling.configuration_refseg import MaskGroundingConfig as MaskGroundingConfig
    from .modeling.configuration_risam import RisamConfig as RisamConfig
    from .modeling.configuration_unified_lavt import UnifiedLavtConfig as UnifiedLavtConfig
    from .modeling.configuration_video_lavt import VideoLavtConfig as VideoLavtConfig
    from .modeling.configuration_video_swin_refseg import VideoSwinConfig as VideoSwinConfig
    from .modeling.image_processing_refseg import RefSegImageProcessor as RefSegImageProcessor
    from .modeling.inference_refseg import (
        FrameMask as FrameMask,
    )
    from .modeling.inference_refseg import (
        VideoWindow as VideoWindow,
    )
    from .modeling.inference_refseg import (
        segment_video as segment_video,
    )
    from .modeling.modeling_btmae import (
        BtmaeForReferringSegmentation as BtmaeForReferringSegmentation,
    )
    from .modeling.modeling_btmae import (
        BtmaeOutput as BtmaeOutput,
    )
    from .modeling.modeling_lavt import LavtForReferringSegmentation as LavtForReferringSegmentation
    from .modeling.modeling_m3att import M3AttForReferringSegmentation as M3AttForReferringSegmentation
    from .modeling.modeling_magnet import MagNetForReferringSegmentation as MagNetForReferringSegmentation
    from .modeling.modeling_outputs_refseg import ReferringSegmentationOutput as ReferringSegmentationOutput
    from .modeling.modeling_risam import RisamForReferringSegmentation as RisamForReferringSegmentation
    from .modeling.modeling_unified_lavt import (
        UnifiedLavtForReferringSegmentation as UnifiedLavtForReferringSegmentation,
    )
    from .modeling.modeling_video_lavt import VideoLavtForReferringSegmentation as VideoLavtForReferringSegmentation
    from .modeling.pipeline_refseg import (
        ReferringImageSegmentationPipeline as ReferringImageSegmentationPipeline,
    )
    from .modeling.pipeline_refseg import (
        ReferringVideoSegmentationPipeline as ReferringVideoSegmentationPipeline,
    )
    from .modeling.processing_refseg import RefSegProcessor as RefSegProcessor
    from .modeling.recurrent_text_refseg import RecurrentTextEncoder as RecurrentTextEncoder
    from .modeling.video_refseg import VideoFrames as VideoFrames
    from .modeling.video_swin_refseg import VideoSwinModel as VideoSwinModel
    from .shipped import REFSHAPES_DEMO as REFSHAPES_DEMO
    from .systems import load_system as load_system
    from .training.adapters import add_adapter as add_adapter
    from .training.adapters import load_with_adapter as load_with_adapter
    from .training.arguments import RefSegTrainingArguments as RefSegTrainingArguments
    from .training.trainer import RefSegTrainer as RefSegTrainer

# Exported graphs run without torch, and there is nothing to register then.
if find_spec("torch") is not None:
    from .auto import MODULES, register_all

    register_all()
    _MODULES |= MODULES

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'hf_refseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
