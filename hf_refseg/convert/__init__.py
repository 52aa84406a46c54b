"""Released checkpoints of the papers as models of this library."""

from .checkpoints import CheckpointError, load_checkpoint
from .lavt import convert_lavt_checkpoint

__all__ = ["CheckpointError", "convert_lavt_checkpoint", "load_checkpoint"]
