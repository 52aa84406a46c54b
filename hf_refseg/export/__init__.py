"""Models as graphs: ONNX for onnxruntime, or programs of torch.export; `hf_refseg.onnx` runs them without torch."""

from .agreement import DisagreementError
from .exporting import USUAL_FRAMES, export_model, quantize_export, size_of

__all__ = ["USUAL_FRAMES", "DisagreementError", "export_model", "quantize_export", "size_of"]
