"""Damaged pictures of any format, and pictures of too many pixels, are one clear error wherever they are opened."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features
from tiny_lavt import tiny_lavt, tiny_processor
from transformers import pipeline

from hf_refseg import VideoFrames
from hf_refseg.data.examples import open_image as open_row_image
from hf_refseg.data.shards import verify_image
from hf_refseg.datasets_scripts.original_files import picture_size
from hf_refseg.datasets_scripts.video import read_labels
from hf_refseg.modeling.picture_files_refseg import open_image, upright_rgb
from hf_refseg.modeling.pictures_refseg import read_image
from hf_refseg.visualization import draw_masks, draw_overlay


def encode(picture_format: str, mode: str = "RGB", **options: Any) -> bytes:
    colors = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).convert(mode).save(buffer, picture_format, **options)
    return buffer.getvalue()


def damage_avif() -> bytes:
    if not features.check("avif"):
        pytest.skip("This Pillow reads no AVIF.")
    content = encode("AVIF")
    start = content.index(b"mdat") + 4
    return content[:start] + bytes(len(content) - start)


def damage_blp() -> bytes:
    content = encode("BLP", "P")
    return content[:4] + b"\xff\xff\xff\xff" + content[8:]


def damage_dds() -> bytes:
    return encode("DDS", "RGBA", pixel_format="DXT5").replace(b"DXT5", b"QQQQ")


DAMAGED = {
    "avif": damage_avif,
    "blp": damage_blp,
    "dds": damage_dds,
    "jpeg": lambda: encode("JPEG")[:-200],
    "text": lambda: b"<html>404</html>",
    "empty": lambda: b"",
}


def row_of(path: Path) -> dict[str, Any]:
    return {"ref_id": "ref-7", "image": {"path": str(path), "bytes": None}}


PLACES: dict[str, Callable[[Path], Any]] = {
    "open_image": open_image,
    "read_image": lambda path: read_image(str(path)),
    "processor": lambda path: tiny_processor()(images=str(path), text="dog"),
    "pipeline": lambda path: pipeline("referring-image-segmentation", model=tiny_lavt(), processor=tiny_processor())(
        path, text="dog"
    ),
    "frames": lambda path: VideoFrames(path.parent),
    "row": lambda path: open_row_image(row_of(path)),
    "prepare": lambda path: verify_image(row_of(path)["image"], None, "ref-7"),
    "labels": lambda path: read_labels(path, "video a"),
}


@pytest.fixture(params=DAMAGED)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.png"
    path.write_bytes(DAMAGED[request.param]())
    return path


@pytest.mark.filterwarnings("ignore:.*Truncated File Read")
@pytest.mark.parametrize("place", PLACES)
def test_whatever_a_decoder_raises_is_a_damaged_picture(place: str, damaged: Path) -> None:
    with pytest.raises(ValueError, match=r"damaged\.png.* is damaged or no image \(.+\)") as caught:
        PLACES[place](damaged)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500
    # Worker processes send their errors home.
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


@pytest.mark.parametrize("place", [*PLACES, "size"])
def test_pictures_of_too_many_pixels_stay_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the number of pixels on at which Pillow warns; it refuses twice as many."""
    path = tmp_path / "large.png"
    path.write_bytes(encode("PNG", "L"))
    PLACES[place](path) if place in PLACES else picture_size(path, "video a")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 56 - 1)
    with pytest.raises(ValueError, match=r"large\.png.* is too large to open: .*decompression bomb"):
        PLACES[place](path) if place in PLACES else picture_size(path, "video a")


def test_a_picture_that_was_opened_elsewhere_is_named(tmp_path: Path) -> None:
    """Pillow decodes what it has opened when it is needed."""
    path = tmp_path / "damaged.jpg"
    path.write_bytes(encode("JPEG")[:-200])
    nothing = np.zeros((40, 56), dtype=bool)
    for use in (
        upright_rgb,
        read_image,
        lambda image: tiny_processor()(images=image, text="dog"),
        lambda image: tiny_processor()(images=image, text="dog", do_convert_rgb=False),
        lambda image: tiny_processor()(images=Image.new("RGB", (56, 40)), segmentation_maps=image),
        lambda image: list(VideoFrames([image])),
        lambda image: draw_overlay(image, nothing),
        lambda image: draw_masks(image, [nothing], ["dog"]),
    ):
        with pytest.raises(ValueError, match=r"damaged\.jpg is damaged or no image \(image file is truncated"):
            use(Image.open(path))
    with pytest.raises(ValueError, match=r"^The image is damaged or no image"):
        upright_rgb(Image.open(io.BytesIO(path.read_bytes())))


def test_no_program_is_run_for_a_picture(monkeypatch, tmp_path) -> None:
    (tmp_path / "photo.png").write_bytes(encode("EPS"))
    started: list[tuple] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: started.append(arguments))
    with pytest.raises(ValueError, match=r"photo\.png is damaged or no image"):
        open_image(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="damaged or no image"):
        open_row_image({"ref_id": 1, "image": {"bytes": encode("EPS"), "path": None}})
    assert not started
