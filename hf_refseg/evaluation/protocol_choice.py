"""What protocols of images and of videos have in common: which is meant, and from where on a pixel is of a mask."""

from __future__ import annotations

from .protocols import Protocol, get_protocol
from .video import MASK_THRESHOLD, VIDEO_PROTOCOLS, check_video_protocol


def find_protocol(protocol: str | Protocol | None, *, on_videos: bool) -> str | Protocol:
    """The protocol of images, or the name of one of videos; None = `"original"`, of videos `"davis"`.

    Raises:
        ValueError: there is none of this name for images, or for videos.
        ImportError: it needs a package that is not installed.
    """
    if not on_videos:
        return get_protocol(protocol or "original")
    protocol = VIDEO_PROTOCOLS[0] if protocol is None else protocol
    check_video_protocol(protocol)
    return protocol


def mask_threshold(protocol: str | Protocol, threshold: float) -> float:
    """The foreground probability above which a pixel is of a mask; `threshold` where a protocol has none."""
    if protocol in VIDEO_PROTOCOLS:
        return MASK_THRESHOLD
    own = get_protocol(protocol).mask_threshold
    return threshold if own is None else own
