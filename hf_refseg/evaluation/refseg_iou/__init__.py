"""The `refseg_iou` module for Hugging Face evaluate."""
