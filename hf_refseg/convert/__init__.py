"""Released checkpoints of the papers as models of this library."""

from .lavt import convert_lavt_checkpoint
from .magnet import convert_magnet_checkpoint
from .released_files import load_checkpoint
from .torch_files import CheckpointError
from .video_lavt import convert_video_lavt_checkpoint

__all__ = [
    "CheckpointError",
    "convert_lavt_checkpoint",
    "convert_magnet_checkpoint",
    "convert_video_lavt_checkpoint",
    "load_checkpoint",
]
