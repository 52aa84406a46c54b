"""Masks that people draw as pictures are read right, whatever their mode, or refused in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter

from hf_refseg.data.rows import DataFormatError
from hf_refseg.datasets_scripts.mask_pictures import GRAY_EDGES, read_label_picture, read_mask_picture

HEIGHT, WIDTH = 48, 64
MASK = np.zeros((HEIGHT, WIDTH), dtype=bool)
MASK[10:38, 12:40] = True
GRAY = MASK.astype(np.uint8) * 255
LABELS = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
LABELS[:20, :30], LABELS[20:, 30:] = 1, 2


def palette(indices: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([level for color in colors for level in color])
    return image


def colored(background: tuple[int, ...], foreground: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.where(MASK[..., None], np.uint8(foreground), np.uint8(background)))


def transparent_palette() -> Image.Image:
    image = palette(MASK.astype(np.uint8), (0, 0, 0), (200, 10, 10))
    image.info["transparency"] = b"\x00\xff"
    return image


SHARP = {
    "white": Image.fromarray(GRAY),
    "one": Image.fromarray(GRAY // 255),
    "some gray": Image.fromarray(GRAY // 2),
    "one bit": Image.fromarray(MASK),
    "16 bits": Image.fromarray(MASK.astype(np.uint16) * 65535),
    "16 bits, one": Image.fromarray(MASK.astype(np.uint16)),
    "32 bits": Image.fromarray(MASK.astype(np.int32) * 7),
    "RGB": Image.fromarray(GRAY).convert("RGB"),
    "red": colored((0, 0, 0), (255, 0, 0)),
    "alpha": colored((9, 200, 3, 0), (120, 33, 44, 255)),
    "alpha of a photograph": Image.fromarray(
        np.dstack([np.arange(HEIGHT * WIDTH * 3, dtype=np.uint32).reshape(HEIGHT, WIDTH, 3).astype(np.uint8), GRAY])
    ),
    "opaque": Image.fromarray(GRAY).convert("RGBA"),
    "LA": Image.fromarray(np.dstack([np.zeros_like(GRAY), GRAY])),
    "palette": palette(MASK.astype(np.uint8), (0, 0, 0), (128, 0, 0)),
    # As PIL numbers the colors of a quantized picture: the brightest first.
    "palette, white first": palette((~MASK).astype(np.uint8), (255, 255, 255), (0, 0, 0)),
    "palette, transparent": transparent_palette(),
}


def save(folder: Path, image: Image.Image, name: str = "mask.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("image", SHARP.values(), ids=SHARP)
def test_a_mask_of_two_values_is_read_whatever_its_mode(image: Image.Image, tmp_path: Path) -> None:
    notes: list[str] = []
    path = save(tmp_path, image, "mask.tif" if image.mode == "I" else "mask.png")
    mask = read_mask_picture(path, None, notes.append)
    assert mask.dtype == bool and np.array_equal(mask, MASK) and notes == []


@pytest.mark.parametrize("foreground", [0, 1, 255])
def test_a_mask_of_one_value_is_empty_or_full(foreground: int, tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("L", (WIDTH, HEIGHT), foreground))
    mask = read_mask_picture(path, None, pytest.fail)
    assert mask.all() if foreground else not mask.any()


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1.5))


def painted_on_nothing(alpha: Image.Image) -> Image.Image:
    return Image.merge("RGBA", [alpha.point(lambda level: 255 * (level > 0))] * 3 + [alpha])


EDGES: dict[str, Callable[[Path], Path]] = {
    "JPEG": lambda folder: save(folder, Image.fromarray(GRAY), "mask.jpg", quality=50),
    "JPEG in color": lambda folder: save(folder, Image.fromarray(GRAY).convert("RGB"), "mask.jpg", quality=80),
    "blurred": lambda folder: save(folder, blurred(Image.fromarray(GRAY))),
    "scaled": lambda folder: save(
        folder, Image.fromarray(GRAY.repeat(3, 0).repeat(3, 1)).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    ),
    "soft alpha": lambda folder: save(
        folder, Image.merge("RGBA", [Image.new("L", (WIDTH, HEIGHT), 90)] * 3 + [blurred(Image.fromarray(GRAY))])
    ),
    # As painted with a soft brush on a transparent layer: what was not touched is black.
    "white on nothing": lambda folder: save(folder, painted_on_nothing(blurred(Image.fromarray(GRAY)))),
}


@pytest.mark.parametrize("write", EDGES.values(), ids=EDGES)
def test_gray_edges_are_cut_at_half_and_noted(write: Callable[[Path], Path], tmp_path: Path) -> None:
    notes: list[str] = []
    mask = read_mask_picture(write(tmp_path), None, notes.append)
    assert notes == [GRAY_EDGES]
    inside, around = MASK.copy(), MASK.copy()
    inside[[10, 37], :] = inside[:, [12, 39]] = False
    around[9:39, 11:41] = True
    assert mask[inside].all() and not mask[~around].any()


NO_MASKS = {
    "labels": (Image.fromarray(LABELS), r"areas of several gray values \(0, 1, 2\)"),
    "scaled labels": (Image.fromarray(LABELS * 120), r"areas of several gray values \(0, 120, 240\)"),
    "one label and 255": (Image.fromarray(LABELS // 2 * 254 + LABELS % 2), r"\(0, 1, 254\)"),
    "16 bit labels": (Image.fromarray(LABELS.astype(np.uint16) * 300), r"\(0, 300, 600\)"),
    "a dark photograph": (
        Image.fromarray(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8) // 2),
        "areas",
    ),
    "a photograph": (
        Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))),
        "areas of sev",
    ),
    "a palette of labels": (palette(LABELS, (0, 0, 0), (128, 0, 0), (0, 128, 0)), r"3 colors \(#000000, #008000, #8"),
    "red on white": (colored((255, 255, 255), (255, 0, 0)), "2 colors .*a mask black and one other"),
    "fractions": (Image.fromarray(LABELS.astype(np.float32) / 2), r"3 values from 0\.0 to 1\.0"),
    "two masks": (
        Image.fromarray(np.dstack([GRAY.T.reshape(HEIGHT, WIDTH)] * 3 + [GRAY])),
        "by its colors and another one by what is transparent",
    ),
}


@pytest.mark.parametrize(("image", "message"), NO_MASKS.values(), ids=NO_MASKS)
def test_what_is_no_mask_is_one_error(image: Image.Image, message: str, tmp_path: Path) -> None:
    path = save(tmp_path, image, "mask.tif" if image.mode == "F" else "mask.png")
    with pytest.raises(DataFormatError, match=message) as caught:
        read_mask_picture(path, None, pytest.fail)
    assert str(path) in str(caught.value)


def test_of_several_pictures_in_a_file_none_is_taken(tmp_path: Path) -> None:
    pages = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    for name in ("mask.tif", "mask.png", "mask.gif"):
        path = save(tmp_path, pages[0], name, save_all=True, append_images=pages[1:])
        for read in (
            lambda path: read_mask_picture(path, None, pytest.fail),
            lambda path: read_label_picture(path, colors=False),
        ):
            with pytest.raises(DataFormatError, match="a file of several pictures"):
                read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_that_programs_show_turned_is_one_error(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    path = save(tmp_path, Image.fromarray(GRAY), f"mask.{suffix}", exif=exif)
    with pytest.raises(DataFormatError, match=r"mask\.\w+ .*EXIF orientation 3.*save it upright"):
        read_mask_picture(path, None, pytest.fail)
    labels = save(tmp_path, Image.fromarray(GRAY), "labels.png", exif=exif)
    with pytest.raises(DataFormatError, match=r"labels\.png .*EXIF orientation 3.*save it upright"):
        read_label_picture(labels, colors=False)
    exif[ExifTags.Base.Orientation] = 1
    upright = save(tmp_path, Image.fromarray(GRAY), "upright.png", exif=exif)
    assert np.array_equal(read_mask_picture(upright, None, pytest.fail), MASK)


def test_a_threshold_is_what_brighter_pixels_are_above(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(LABELS * 50))
    assert np.array_equal(read_mask_picture(path, 50, pytest.fail), LABELS == 2)


def test_damaged_absent_and_too_large_masks_are_one_error(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(GRAY))
    path.write_bytes(path.read_bytes()[:-40])
    for bad, message in ((path, "cannot be read as a picture"), (tmp_path / "absent.png", "does not exist")):
        with pytest.raises(DataFormatError, match=message):
            read_mask_picture(bad, None, pytest.fail)
    with pytest.raises(DataFormatError, match="too large to open"):
        read_mask_picture(save(tmp_path, Image.new("1", (10_000, 10_000)), "huge.png"), None, pytest.fail)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LABELS),
        palette(LABELS, (9, 9, 9), (128, 0, 0), (0, 128, 0)),
        Image.fromarray(LABELS.astype(np.uint16)),
        Image.fromarray(LABELS).convert("RGB"),
    ],
    ids=["gray", "palette", "16 bits", "RGB"],
)
def test_labels_are_numbers(image: Image.Image, tmp_path: Path) -> None:
    assert np.array_equal(read_label_picture(save(tmp_path, image), colors=False), LABELS)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_labels_are_colors(mode: str, tmp_path: Path) -> None:
    image = palette(LABELS, (9, 9, 9), (128, 0, 0), (0, 128, 1))
    found = read_label_picture(save(tmp_path, image if mode == "P" else image.convert(mode)), colors=True)
    assert np.array_equal(found, np.choose(LABELS, [0x090909, 0x800000, 0x008001]))


def test_labels_that_are_none_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"has colors .*where numbers of labels are expected"):
        read_label_picture(save(tmp_path, colored((0, 0, 0), (255, 0, 0))), colors=False)
    # Its labels stand in the channel of black, behind those that are looked at.
    ink = Image.merge("CMYK", [Image.new("L", (WIDTH, HEIGHT))] * 3 + [Image.fromarray(LABELS)])
    with pytest.raises(DataFormatError, match="in the colors of CMYK"):
        read_label_picture(save(tmp_path, ink, "labels.tif"), colors=False)
    with pytest.raises(DataFormatError, match="JPEG file, which changes labels"):
        read_label_picture(save(tmp_path, Image.fromarray(LABELS), "labels.jpg"), colors=False)
