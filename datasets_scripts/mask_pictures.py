"""Masks and labels that somebody drew as pictures: of any mode, with gray edges, transparent, or in colors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from hf_refseg.data.rows import DataFormatError
from hf_refseg.modeling.picture_files_refseg import PictureError

from .original_files import read_picture

# Between black and white: what JPEG makes of a background or of a target is nearer to them than this.
NEARLY = 9
# Edges, as scaling and JPEG blur them, are narrower.
EDGE = 9
# More values than this are no labels.
MOST_LABELS = 16
WHITE = {8: 255, 16: 65535}
RGB_MODES = ("RGB", "RGBA", "RGBX", "RGBa")
# Of what is written in these nothing is a label as it stands.
COLOR_SPACES = ("CMYK", "YCbCr", "LAB", "HSV")
GRAY_EDGES = "masks with gray edges, cut at half of white"


def read_mask_picture(path: Path, above: int | None, note: Callable[[str], None]) -> np.ndarray:
    """The mask (bool, H x W) that a picture shows.

    What is not black is foreground, whatever its value: 1, 255, a color, a number of a palette, 16 bits. Where a
    picture is transparent in part, what is opaque is foreground. Gray edges are cut at half of white, which `note` is
    told.

    Args:
        path: the picture.
        above: brighter pixels (of 0 to 255, or as the file stores them) are foreground; None = as said above.
        note: is told of gray edges.

    Raises:
        DataFormatError: the picture is absent, damaged, or no mask: it has gray areas, or several colors.
    """
    values, alpha = _read_values(path)
    if above is not None:
        return _gray(values, path) > above
    if alpha is None or alpha.min() == alpha.max():
        return _to_mask(_gray(values, path), path, note)
    mask = _to_mask(alpha, path, note)
    colors = _pack(values)
    found = np.unique(colors)
    # Soft edges that are painted on nothing have the whole color, and are transparent in part.
    decided = (alpha == 0) | (alpha == alpha.max())
    if len(found) == 2 and found[0] == 0 and ((colors > 0) != mask)[decided].any():
        raise DataFormatError(
            f"{path} is a mask by its colors and another one by what is transparent. Save it without transparency."
        )
    return mask


def read_label_picture(path: Path, colors: bool) -> np.ndarray:
    """The label of each pixel (int32, H x W): a number, or a color as red * 65536 + green * 256 + blue.

    Numbers are indices of a palette, or gray values of 8 or 16 bits.

    Raises:
        DataFormatError: the picture is absent or damaged, or has colors where numbers are expected.
    """
    if colors:
        return _pack(read_picture(path, "label picture", lambda picture: np.asarray(_exact(picture).convert("RGB"))))
    mode, values = read_picture(path, "label picture", lambda picture: (picture.mode, np.asarray(_exact(picture))))
    if values.ndim == 3:
        values = _single_channel(values[..., :3] if mode in RGB_MODES else values[..., :1])
    if values is None or values.dtype.kind not in "bui" or values.min() < 0 or values.max() >= 2**24:
        raise DataFormatError(
            f"{path} has colors (mode {mode}), where numbers of labels are expected: name colors in the table, or "
            "save it as a gray or a palette picture."
        )
    return values.astype(np.int32)


def _exact(picture: Image.Image) -> Image.Image:
    """The picture; raises PictureError where its format or mode makes other labels of those that were drawn."""
    if picture.format == "JPEG":
        raise PictureError("a JPEG file, which changes labels at every edge: save it as PNG")
    if picture.mode in COLOR_SPACES:
        raise PictureError(f"a picture in the colors of {picture.mode}, which holds no labels: save it as PNG")
    return _not_turned(_only_page(picture))


def _not_turned(picture: Image.Image) -> Image.Image:
    """The picture; raises PictureError where programs show it turned, so that it was not drawn as it is stored."""
    # Of a PNG file it may stand behind the pixels.
    picture.load()
    turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
    if turn in range(2, 9):
        raise PictureError(f"shown turned by programs (EXIF orientation {turn}): save it upright, without EXIF")
    return picture


def _only_page(picture: Image.Image) -> Image.Image:
    """The picture; raises PictureError where there are others behind it, one of which might be meant."""
    try:
        picture.seek(1)
    except EOFError:
        return picture
    raise PictureError("a file of several pictures: save the one that is meant")


def _read_values(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Gray values (H, W) or colors (H, W, 3), and how opaque pixels are, if that is stored."""

    def read(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        picture = _not_turned(_only_page(picture))
        if picture.mode == "P":
            picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
            return np.asarray(picture), None
        if picture.mode in ("LA", "PA", "RGBA", "RGBa", "La"):
            picture = picture.convert("RGBA")
            return np.asarray(picture.convert("RGB")), np.asarray(picture.getchannel("A"))
        return np.asarray(picture.convert("RGB")), None

    return read_picture(path, "mask", read)


def _gray(values: np.ndarray, path: Path) -> np.ndarray:
    """Colors as gray values, where they are gray; two colors, one of them black, as 0 and 1."""
    if values.ndim == 2:
        return values
    gray = _single_channel(values)
    if gray is not None:
        return gray
    colors = _pack(values)
    found = np.unique(colors)
    if len(found) <= 2 and found[0] == 0:
        return colors > 0
    shown = ", ".join(f"#{each:06x}" for each in found[:4].tolist())
    raise DataFormatError(
        f"{path} is no mask: it has {len(found)} colors ({shown}{', ...' if len(found) > 4 else ''}), a mask black "
        "and one other. Save the mask in black and white, or name the colors in labels.csv."
    )


def _pack(colors: np.ndarray) -> np.ndarray:
    """Colors (H, W, 3) as numbers (int32, H x W): red * 65536 + green * 256 + blue."""
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]


def _single_channel(values: np.ndarray) -> np.ndarray | None:
    """The channel that all three are equal to, if they are."""
    return values[..., 0] if (values == values[..., :1]).all() else None


def _to_mask(values: np.ndarray, path: Path, note: Callable[[str], None]) -> np.ndarray:
    """What is foreground of gray values (H, W)."""
    found = np.unique(values)
    if len(found) == 1 or (len(found) == 2 and found[0] == 0):
        return values > 0
    white = next((level for level in WHITE.values() if found[-1] <= level), None)
    if values.dtype.kind not in "ui" or white is None or found[0] < 0:
        raise DataFormatError(
            f"{path} is no mask: it has {len(found)} values from {found[0]} to {found[-1]}. Save 0 for the background "
            "and 255 for the target."
        )
    levels = (values.astype(np.float32) * (255 / white)).astype(np.uint8)
    if levels.max() < 255 - NEARLY or _has_area((levels >= NEARLY) & (levels <= 255 - NEARLY), EDGE):
        raise _no_mask(found, path)
    # Few values are edges as well where no area has one of them.
    between = found[(found > 0) & (found < found[-1])] if len(found) <= MOST_LABELS else ()
    if any(_has_area(values == value, EDGE // 2) for value in between):
        raise _no_mask(found, path)
    note(GRAY_EDGES)
    return levels > 127


def _no_mask(found: np.ndarray, path: Path) -> DataFormatError:
    shown = ", ".join(map(str, found[:6].tolist())) + ", ..." * (len(found) > 6)
    return DataFormatError(
        f"{path} is no mask: it has areas of several gray values ({shown}), as photographs and pictures of several "
        "labels have. Save 0 for the background and 255 for the target, or name the values in labels.csv."
    )


def _has_area(pixels: np.ndarray, side: int) -> bool:
    """Whether a square of so many pixels on each side is all True."""
    if min(pixels.shape) < side:
        return False
    sums = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = pixels.cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return bool((inside == side * side).any())
