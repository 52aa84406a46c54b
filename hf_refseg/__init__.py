"""hf_refseg: an image or a video and a sentence in, the mask of what the sentence means out."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"

# In a checkout `modeling/` and `datasets_scripts/` lie beside the package; installed, they lie inside it.
if not (Path(__file__).parent / "modeling").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

# Imported when they are asked for: what they need is slow to import, and nobody needs all of it.
_MODULES = {
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

# Exported graphs run without torch, and there is nothing to register then.
if find_spec("torch") is not None:
    from .auto import MODULES, register_all

    register_all()
    _MODULES |= MODULES

__all__ = [*_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'hf_refseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
