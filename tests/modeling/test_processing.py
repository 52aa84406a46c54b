"""Image processor, processor and pipeline: every kind of input, and masks back at the image's own size."""

import base64
import functools
import logging
import math
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny_lavt import tiny_lavt, tiny_processor
from torch.testing import assert_close
from torch.utils.data import Dataset as TorchDataset
from transformers import AutoImageProcessor, AutoProcessor, BertTokenizer, SamImageProcessor, pipeline
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging as transformers_logging

from hf_refseg import (
    LavtForReferringSegmentation,
    ReferringImageSegmentationPipeline,
    RefSegImageProcessor,
    RefSegProcessor,
    VideoFrames,
    VideoLavtForReferringSegmentation,
)
from hf_refseg.data.examples import ImageExamples, ReferentExamples
from hf_refseg.data.masks import encode_mask
from hf_refseg.modeling.inference_refseg import segment_video
from hf_refseg.modeling.modeling_outputs_refseg import ReferringSegmentationOutput
from hf_refseg.modeling.picture_files_refseg import open_image
from hf_refseg.modeling.pictures_refseg import read_image
from hf_refseg.visualization import draw_overlay


def photograph(height: int = 50, width: int = 70) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixel_values(image, **options) -> torch.Tensor:
    return tiny_processor()(image, return_tensors="pt", **options)["pixel_values"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
def test_every_picture_mode(mode: str) -> None:
    picture = photograph().convert("L").convert("I").convert("I;16") if mode == "I;16" else photograph().convert(mode)
    values = pixel_values(picture)
    assert values.shape == (1, 3, 64, 64) and values.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 70), (70, 64), (50, 70)])
def test_images_are_resized_as_by_pil_whichever_sides_are_right_already(height: int, width: int) -> None:
    picture = photograph(height, width)
    values = pixel_values(picture, do_rescale=False, do_normalize=False)[0]
    expected = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR))
    assert (values.permute(1, 2, 0).numpy() == expected).all()


def test_sixteen_bit_gray_keeps_its_contrast() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    sixteen = pixel_values(Image.fromarray(ramp.astype(np.uint16)))
    eight = pixel_values(Image.fromarray((ramp // 257).astype(np.uint8)))
    assert_close(sixteen, eight, atol=0.05, rtol=0)


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[str]:
    """The address under which the files in `tmp_path` can be downloaded."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("largest", [255, 4095, 65535])
def test_a_gray_picture_of_any_depth_is_read_alike_wherever_it_comes_from(tmp_path, served, largest: int) -> None:
    gray = np.linspace(0, largest, 64 * 64).astype(np.uint16).reshape(64, 64)
    picture, path = Image.fromarray(gray), tmp_path / "gray.png"
    picture.save(path)
    source = {"bytes": None, "path": str(path)}
    row = {"image": source, "image_id": "1", "ref_id": "1", "no_target": False, "mask": encode_mask(gray > 9)}
    rows = Dataset.from_list([{**row, "sentences": [{"sent_id": "1", "raw": "red", "sent": "red"}]}])
    rows = rows.cast_column("image", datasets.Image())
    base64_text = base64.b64encode(path.read_bytes()).decode()
    pictures = {
        "file": str(path),
        "path": path,
        "address": f"{served}/gray.png",
        "base64": base64_text,
        "data address": f"data:image/png;base64,{base64_text}",
        "PIL image": picture,
        "array": gray,
        "tensor": torch.from_numpy(gray),
        "one channel": gray[..., None],
        "command line": open_image(path),
        "decoded by datasets": rows[0]["image"],
        "training": ReferentExamples(rows)[0]["image"],
        "evaluation": ImageExamples(rows)[0]["image"],
        "video": next(iter(VideoFrames(tmp_path))),
    }
    expected = torch.from_numpy(gray.astype(np.int64) * 255 // largest).float()
    assert (expected.min(), expected.max()) == (0, 255)
    for name, source in pictures.items():
        values = pixel_values(source, do_rescale=False, do_normalize=False)
        assert torch.equal(values[0].float(), expected.expand(3, 64, 64)), name
        assert np.array_equal(np.asarray(read_image(source))[..., 1], expected.numpy()), name
        drawn = draw_overlay(source, np.zeros((64, 64), dtype=bool)) if isinstance(source, Image.Image) else None
        assert drawn is None or np.array_equal(np.asarray(drawn)[..., 2], expected.numpy()), name


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", torch.float32, torch.bfloat16])
def test_fractions_of_white_are_the_picture_of_8_bits(segment, dtype) -> None:
    picture = photograph()
    array = np.asarray(picture)
    fractions = (
        torch.from_numpy(array / 255).to(dtype) if isinstance(dtype, torch.dtype) else (array / 255).astype(dtype)
    )
    tolerance = 0.05 if dtype in (np.float16, torch.bfloat16) else 0.02
    expected = pixel_values(picture)
    assert_close(pixel_values(fractions), expected, atol=tolerance, rtol=0)
    assert_close(pixel_values(fractions * 255), expected, atol=2 * tolerance, rtol=0)
    clip = tiny_processor()(videos=[[fractions, fractions]], return_tensors="pt")["pixel_values"]
    assert_close(clip, expected.expand(1, 2, -1, -1, -1), atol=tolerance, rtol=0)
    assert np.abs(np.asarray(read_image(fractions)).astype(int) - array).max() <= (1 if tolerance > 0.02 else 0)
    assert agree(segment(fractions, text="red"), segment(picture, text="red"))
    black = np.zeros((5, 5, 3), dtype=np.float32)
    assert torch.equal(pixel_values(black), pixel_values(Image.new("RGB", (5, 5))))


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_floats_that_were_rounded_beside_black_and_white_are_the_same_picture(kind, white: int) -> None:
    array = np.asarray(photograph()).copy()
    array[0, 0], array[-1, -1] = 0, 255
    levels = array / 255 * white
    rounded = kind(np.where(levels == white, white * 1.0001, np.where(levels == 0, white * -0.0001, levels)))
    assert_close(pixel_values(rounded), pixel_values(Image.fromarray(array)), atol=0.02, rtol=0)
    assert np.abs(np.asarray(read_image(rounded)).astype(int) - array).max() == 0


def test_what_is_scaled_already_stays_as_it_is_without_rescaling() -> None:
    normalized = torch.randn(3, 64, 64, requires_grad=True)
    options = {"do_rescale": False, "do_normalize": False}
    assert torch.equal(pixel_values(normalized, **options)[0], normalized)
    fractions = torch.rand(3, 64, 64, requires_grad=True)
    pixel_values(fractions).sum().backward()
    assert fractions.grad.min() > 1


def test_pictures_in_two_colors_and_of_flipped_axes() -> None:
    array = np.asarray(photograph())
    drawing = array[..., 0] > 100
    assert torch.equal(pixel_values(drawing), pixel_values(drawing.astype(np.uint8) * 255))
    assert torch.equal(pixel_values(torch.from_numpy(drawing)), pixel_values(drawing))
    assert torch.equal(pixel_values(array[..., ::-1]), pixel_values(array[..., ::-1].copy()))


SOUND = np.full((6, 7, 3), 0.5)
NOT_FINITE = [np.where(np.eye(6, 7, dtype=bool)[..., None], value, SOUND) for value in (np.nan, np.inf, -np.inf)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        *((image, r"values from \S+ to \S+: pass") for image in NOT_FINITE),
        (SOUND - 0.6, "values from -0.1 to -0.1: pass levels from 0 to 255, or fractions of white"),
        (torch.full((3, 6, 7), -5, dtype=torch.int16), "values from -5 to -5"),
        (Image.fromarray(np.full((6, 7), -1, dtype=np.int32)), "values from -1 to -1"),
        (Image.fromarray(np.full((6, 7), np.nan, dtype=np.float32)), "values from nan to nan"),
        (SOUND * 2.06, "from 1.03 to 1.03, neither fractions of white nor levels .* cut fractions off at 1"),
        (np.zeros((0, 7, 3), dtype=np.uint8), r"shape \(0, 7, 3\) has no pixel"),
        (np.zeros((6, 0), dtype=np.uint8), r"shape \(6, 0\) has no pixel"),
        (Image.new("RGB", (0, 7)), "0 x 7 pixels is empty"),
        (np.zeros((6, 7, 5), dtype=np.uint8), r"shape \(6, 7, 5\) is no image: pass .* 1, 3 or 4 channels"),
        (np.zeros((6, 7, 2), dtype=np.uint8), r"shape \(6, 7, 2\) is no image"),
        (np.zeros(7), r"shape \(7,\) is no image"),
        (SOUND.astype(complex), "holds real numbers, not complex128"),
        (SOUND.astype(object), "holds real numbers, not object"),
        (torch.zeros(3, 6, 7).to_sparse(), "holds real numbers"),
        (torch.zeros(3, 6, 7, device="meta"), "holds real numbers, .* on meta"),
    ],
)
def test_what_is_no_picture_is_the_same_error_everywhere(segment, image, message: str) -> None:
    processor = segment.processor
    segment_frames = pipeline("referring-video-segmentation", model=segment.model, processor=processor)
    for run in (
        lambda: processor(image, "red"),
        lambda: processor([photograph(), image], ["red", "dog"]),
        lambda: processor(videos=[[photograph(), image]], text="red"),
        lambda: segment(image, text="red"),
        lambda: segment([image], text="red"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            run()
        assert len(str(caught.value)) < 500 and str(caught.value).isprintable()
    with pytest.raises(ValueError, match=f"{message}|A frame is .*: pass uint8"):
        segment_frames([image], text="red")


def test_without_rescaling_numbers_are_finite() -> None:
    for image in NOT_FINITE:
        with pytest.raises(ValueError, match="pass finite ones"):
            pixel_values(image, do_rescale=False)


@pytest.mark.parametrize(
    "images", [5, b"picture", {"image": 5}, [None], [[[photograph()]]], [photograph(), 5], {1, 2}]
)
def test_what_is_no_image_at_all_is_a_clear_error(images) -> None:
    with pytest.raises(TypeError, match="An image is a path, a URL, a PIL image, an array or a tensor, not"):
        tiny_processor()(images, "red")


def test_a_wrong_order_of_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match="there are 50 channels, not 1, 3 or 4"):
        pixel_values(np.asarray(photograph()), input_data_format="channels_first")


def test_fractions_of_white_and_transparency_in_pictures() -> None:
    picture = photograph().convert("RGBA")
    array = np.asarray(picture)
    assert torch.equal(pixel_values(array), pixel_values(picture))
    for same in (array, array / 255, torch.from_numpy(array.transpose(2, 0, 1) / 255).half(), array.astype(np.int64)):
        difference = np.asarray(read_image(same)).astype(int) - np.asarray(picture.convert("RGB"))
        assert np.abs(difference).max() <= 1
    assert np.asarray(read_image(Image.fromarray(np.eye(4, dtype=np.float32)))).max() == 255
    assert np.asarray(read_image(np.eye(4, dtype=bool))).max() == 255


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("absent.png", FileNotFoundError, "absent.png: there is no such image file"),
        (Path("absent.png"), FileNotFoundError, "absent.png: there is no such image file"),
        ("http://127.0.0.1:1/photo.png", ConnectionError, "photo.png cannot be downloaded"),
        (np.zeros((7, 5, 6)), ValueError, r"shape \(7, 5, 6\) is no image"),
        (7, TypeError, "a path, a URL, a PIL image, an array or a tensor, not int"),
    ],
)
def test_what_is_no_picture_is_one_clear_error(segment, source, error, message) -> None:
    with pytest.raises(error, match=message):
        segment(source, text="red circle")
    if isinstance(source, str | Path):
        with pytest.raises(error, match=message):
            tiny_processor()(source, "red circle")


def test_exif_orientation_is_applied(tmp_path) -> None:
    upright = photograph()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to the right to see it upright"
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert turned.size == (50, 70)
    assert torch.equal(pixel_values(turned), pixel_values(upright))


def test_arrays_and_tensors_equal_the_picture() -> None:
    picture = photograph()
    array = np.asarray(picture)
    expected = pixel_values(picture)
    assert torch.equal(pixel_values(array), expected)
    assert torch.equal(pixel_values(array.transpose(2, 0, 1)), expected)
    assert torch.equal(pixel_values(torch.from_numpy(array.copy())), expected)
    gray = np.asarray(picture.convert("L"))
    assert_close(pixel_values(gray), pixel_values(picture.convert("L")), atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_fractions_of_white_come_in_any_type_of_tensor(dtype: torch.dtype) -> None:
    fractions = torch.from_numpy(np.asarray(photograph()).transpose(2, 0, 1) / 255).to(dtype)
    values = pixel_values(fractions, do_rescale=False)
    assert_close(values.float(), pixel_values(photograph()), atol=0.05, rtol=0)


def test_images_of_different_sizes_make_one_batch() -> None:
    images = [photograph(), photograph(31, 90), photograph(64, 64)]
    inputs = tiny_processor()(images, ["the left dog", "red circle", "right"], return_tensors="pt")
    assert inputs["pixel_values"].shape == (3, 3, 64, 64)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (3, 5)
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask"}
    for index, image in enumerate(images):
        assert torch.equal(inputs["pixel_values"][index], pixel_values(image)[0])


def test_one_image_with_several_texts_stays_one_image() -> None:
    inputs = tiny_processor()(photograph(), ["the left dog", "red circle"], return_tensors="pt")
    assert inputs["pixel_values"].shape[0] == 1 and inputs["input_ids"].shape[0] == 2
    assert tiny_lavt()(**inputs).logits.shape == (2, 64, 64)


MASK = np.eye(50, 70)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (MASK[:20], ValueError, r"Mask 0 has 20 x 70 pixels \(height x width\), its image 50 x 70"),
        (MASK.T, ValueError, "Mask 0 has 70 x 50 pixels .* its image 50 x 70"),
        (Image.new("L", (7, 5)), ValueError, "Mask 0 has 5 x 7 pixels"),
        ([MASK, MASK], ValueError, "Got 2 masks for 1 texts: pass one for each"),
        (np.where(MASK > 0, np.nan, MASK), ValueError, "negative values, NaN or infinity: pass 0"),
        (torch.from_numpy(-MASK), ValueError, "negative values"),
        (Image.new("RGB", (70, 50)), ValueError, r"shape \(50, 70, 3\) is no mask: pass \(height, width\)"),
        (MASK[:0], ValueError, r"shape \(0, 70\) is no mask"),
        (MASK.astype(str), ValueError, "holds real numbers"),
        ([], ValueError, "There is no mask: pass one at least"),
        ("mask.png", TypeError, "A mask is a PIL image, an array or a tensor, not str"),
        (MASK.tolist(), TypeError, "A mask is a PIL image, an array or a tensor, not float"),
    ],
)
def test_what_is_no_mask_of_the_image_is_a_clear_error(mask, error, message: str) -> None:
    with pytest.raises(error, match=message):
        tiny_processor()(photograph(), "red", mask)


@pytest.mark.parametrize("mask", [MASK, torch.from_numpy(MASK).bfloat16(), torch.from_numpy(MASK).to(torch.uint16)])
def test_masks_come_in_any_type_of_number(mask) -> None:
    expected = tiny_processor()(photograph(), "red", MASK > 0, return_tensors="pt")["mask_labels"]
    assert torch.equal(tiny_processor()(photograph(), "red", mask, return_tensors="pt")["mask_labels"], expected)


def test_masks_belong_to_their_own_images() -> None:
    images = [photograph(), photograph(31, 90)]
    masks = [np.ones((50, 70)), np.zeros((31, 90))]
    labels = tiny_processor()(images, ["red", "dog"], masks, return_tensors="pt")["mask_labels"]
    assert labels.float().mean(dim=(1, 2)).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"Mask 1 has 50 x 70 pixels .* its image 31 x 90"):
        tiny_processor()(images, ["red", "dog"], masks[:1] * 2)
    with pytest.raises(ValueError, match="1 masks for 2 images"):
        tiny_processor()(images, ["red", "dog"], masks[:1])
    # Upright, as the image is.
    turned, exif = photograph(), Image.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    assert tiny_processor()(turned, "red", np.ones((70, 50)), return_tensors="pt")["mask_labels"].all()


@pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.int64])
def test_masks_become_labels(kind: type) -> None:
    mask = np.zeros((50, 70), dtype=kind)
    mask[10:30, 20:60] = 1 if kind is np.bool_ else 255
    inputs = tiny_processor()(photograph(), "red", mask, return_tensors="pt")
    labels = inputs["mask_labels"]
    expected = Image.fromarray(mask.astype(np.uint8) * (1 if kind is not np.bool_ else 255)).resize((64, 64), 0)
    assert labels.dtype == torch.int64 and labels.shape == (1, 64, 64)
    assert torch.equal(labels[0] != 0, torch.from_numpy(np.asarray(expected) != 0))
    assert labels.max() == 1


def sam_like(side: int = 64, **options) -> RefSegImageProcessor:
    return RefSegImageProcessor(size={"longest_edge": side}, **options)


@pytest.mark.parametrize(("height", "width"), [(50, 70), (90, 43), (64, 64), (200, 150), (101, 333), (427, 640)])
def test_longest_edge_prepares_images_as_sam_does(height: int, width: int) -> None:
    size = {"size": {"longest_edge": 96}, "pad_size": {"height": 96, "width": 96}}
    values = sam_like(96)(photograph(height, width), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 96, 96)
    with_pil = SamImageProcessorPil(**size)(photograph(height, width), return_tensors="pt")["pixel_values"]
    assert_close(values, with_pil, atol=1e-5, rtol=0)
    # torchvision's result differs by one of 256 gray levels here and there.
    with_torchvision = SamImageProcessor(**size)(photograph(height, width), return_tensors="pt")["pixel_values"]
    assert_close(values, with_torchvision, atol=1.01 / 255 / 0.224, rtol=0)


def test_longest_edge_takes_images_of_different_sizes_and_masks() -> None:
    images = [photograph(), photograph(90, 30), photograph(64, 64), photograph(2, 300)]
    inputs = sam_like()(images, [np.ones((image.height, image.width)) for image in images], return_tensors="pt")
    assert inputs["pixel_values"].shape == (4, 3, 64, 64)
    assert inputs["mask_labels"].dtype == torch.int64
    for index, (height, width) in enumerate([(46, 64), (64, 21), (64, 64), (1, 64)]):
        assert torch.equal(inputs["pixel_values"][index], sam_like()(images[index])["pixel_values"][0])
        assert inputs["pixel_values"][index, :, height:].abs().sum() == 0
        assert inputs["pixel_values"][index, :, :, width:].abs().sum() == 0
        inside = torch.zeros(64, 64, dtype=torch.int64)
        inside[:height, :width] = 1
        assert torch.equal(inputs["mask_labels"][index], inside)


def test_longest_edge_keeps_the_shape_of_masks() -> None:
    mask = np.zeros((50, 100), dtype=bool)
    mask[10:20, 60:100] = True
    labels = sam_like(200)(photograph(50, 100), mask, return_tensors="pt")["mask_labels"][0]
    assert labels[20:40, 120:200].all() and labels.sum() == 20 * 80


@pytest.mark.parametrize(("height", "width"), [(50, 70), (90, 30), (64, 64), (480, 333)])
def test_padding_is_cut_before_masks_are_resized(height: int, width: int) -> None:
    processor = sam_like()
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 3 : 2 * height // 3, width // 2 :] = True
    labels = processor(photograph(height, width), mask, return_tensors="pt")["mask_labels"]
    inside = processor(photograph(height, width), np.ones_like(mask), return_tensors="pt")["mask_labels"]
    # Whatever the model thinks of the padding is cut off.
    output = ReferringSegmentationOutput(logits=torch.where(inside == 1, labels * 8.0 - 4.0, 30.0))
    (result,) = processor.post_process_referring_segmentation(output, target_sizes=[(height, width)])
    predicted = result["mask"].numpy()
    assert predicted.shape == mask.shape
    assert (predicted & mask).sum() / (predicted | mask).sum() > 0.93
    assert not predicted[:, : width // 2 - width // 20].any() and not predicted[-height // 5 :].any()
    (whole,) = processor.post_process_referring_segmentation(output)
    assert whole["mask"].shape == (64, 64) and whole["mask"][inside[0] == 0].all()


def test_longest_edge_is_saved(tmp_path) -> None:
    sam_like(mask_threshold=0.35).save_pretrained(tmp_path)
    loaded = RefSegImageProcessor.from_pretrained(tmp_path)
    assert dict(loaded.size) == {"longest_edge": 64}
    values = [each(photograph(), return_tensors="pt")["pixel_values"] for each in (loaded, sam_like())]
    assert torch.equal(*values)


@pytest.mark.parametrize(
    "size",
    [
        {"shortest_edge": 64},
        {"longest_edge": 64, "shortest_edge": 32},
        {"height": 64},
        {"side": 64},
        {"height": 0, "width": 64},
        {"height": 64, "width": -3},
        {"longest_edge": 0},
        {"height": 10**6, "width": 10**6},
        {"longest_edge": 10**9},
    ],
)
def test_an_unknown_kind_of_size_is_refused(size: dict) -> None:
    with pytest.raises(ValueError, match=r'"height": ..., "width": ...} or {"longest_edge": ...} in pixels, not {'):
        RefSegImageProcessor(size=size)
    with pytest.raises(ValueError, match="longest_edge"):
        tiny_processor().image_processor(photograph(), size=size)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ({"image_std": 0.0}, "`image_std` is a number larger than 0, or one for each color, not 0.0"),
        ({"image_std": [0.2, -0.1, 0.2]}, "`image_std` is"),
        ({"image_std": [0.2, 0.2]}, "`image_std` is"),
        ({"image_mean": [math.nan] * 3}, "`image_mean` is a number, or one for each color"),
        ({"rescale_factor": 0.0}, "`rescale_factor` is a number other than 0, not 0.0"),
        ({"rescale_factor": math.inf}, "`rescale_factor` is"),
        ({"mask_threshold": 50.0}, "A threshold is a probability, from 0 to 1, not 50.0"),
        ({"mask_threshold": math.nan}, "A threshold is a probability"),
        ({"resample": 99}, "`resample` is the number of one of PIL's filters, not 99"),
        ({"pad_size": {"height": 8, "width": -3}}, "`pad_size` has sides of 1 pixel at least"),
        ({"crop_size": 0}, "`crop_size` has sides of 1 pixel at least, not 0"),
    ],
    ids=str,
)
def test_an_option_with_which_no_image_can_be_prepared_is_refused(option: dict, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        RefSegImageProcessor(**option)
    with pytest.raises(ValueError, match=wanted):
        tiny_processor().image_processor(photograph(), **option)
    with pytest.raises(ValueError, match="`do_resize` is True or False, not 'no'"):
        RefSegImageProcessor(do_resize="no")


def test_no_target_is_an_empty_mask() -> None:
    output = ReferringSegmentationOutput(
        logits=torch.full((4, 8, 8), 4.0), presence_logits=torch.tensor([3.0, -0.1, 0.0, 0.1])
    )
    results = tiny_processor().post_process_referring_segmentation(output, target_sizes=[(20, 30)] * 4)
    assert [result["present"] for result in results] == [True, False, False, True]
    assert [bool(result["mask"].any()) for result in results] == [True, False, False, True]
    assert [result["score"] for result in results[1:3]] == [0.0, 0.0]
    assert results[0]["score"] > 0.9 and results[1]["mask"].shape == (20, 30)


def test_post_processing_gives_masks_at_the_asked_sizes() -> None:
    logits = torch.full((3, 8, 8), -4.0)
    logits[0, :, :4] = 4.0
    logits[1, :, :4] = -0.3  # probability 0.43
    results = tiny_processor().post_process_referring_segmentation(
        ReferringSegmentationOutput(logits=logits), target_sizes=[(40, 80), (17, 9), (5, 5)]
    )
    assert [result["mask"].shape for result in results] == [(40, 80), (17, 9), (5, 5)]
    assert all(result["mask"].dtype == torch.bool for result in results)
    assert results[0]["mask"][:, :35].all() and not results[0]["mask"][:, 45:].any()
    assert results[0]["present"] and results[0]["score"] > 0.9
    assert not results[1]["present"] and results[1]["score"] == 0.0
    lower = tiny_processor().post_process_referring_segmentation(
        ReferringSegmentationOutput(logits=logits), threshold=0.35
    )
    assert lower[1]["present"] and 0.35 < lower[1]["score"] < 0.5
    assert lower[0]["mask"].shape == (8, 8)


def test_a_processor_s_own_threshold_is_saved_and_used(tmp_path) -> None:
    RefSegImageProcessor(mask_threshold=0.35).save_pretrained(tmp_path)
    loaded = RefSegImageProcessor.from_pretrained(tmp_path)
    output = ReferringSegmentationOutput(logits=torch.full((1, 4, 4), -0.3))
    assert loaded.post_process_referring_segmentation(output)[0]["mask"].all()


def test_post_processing_wants_one_size_per_text() -> None:
    output = ReferringSegmentationOutput(logits=torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="got 1 sizes for 2 texts"):
        tiny_processor().post_process_referring_segmentation(output, target_sizes=[(8, 8)])
    for sizes in (torch.tensor([[5, 6], [7, 8]]), np.array([[5, 6], [7, 8]]), [[5.0, 6.0], (7, 8)]):
        results = tiny_processor().post_process_referring_segmentation(output, target_sizes=sizes)
        assert [tuple(result["mask"].shape) for result in results] == [(5, 6), (7, 8)]


@pytest.mark.parametrize(
    "size",
    [(0, 8), (8, 0), (-3, 8), (8,), (8, 8, 8), (5.5, 8), (math.nan, 8), (math.inf, 8), (10**6, 10**6), "88", 8, None],
)
def test_a_size_that_no_mask_can_have_is_refused(size) -> None:
    processor = tiny_processor()
    images, clips = (ReferringSegmentationOutput(logits=torch.zeros(shape)) for shape in ((1, 8, 8), (1, 2, 8, 8)))
    with pytest.raises(ValueError, match="A target size is the height and width of a mask"):
        processor.post_process_referring_segmentation(images, target_sizes=[size])
    with pytest.raises(ValueError, match="A target size is the height and width of a mask"):
        processor.post_process_referring_video_segmentation(clips, target_sizes=[size])


@pytest.mark.parametrize("name", ["", "\x1b[31mred", "a\nb", "\ud800", "\0"])
def test_a_name_that_is_no_picture_is_shown_in_one_printable_line(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such image file") as error:
        tiny_processor()(images=name, text="dog")
    assert str(error.value).isprintable()


def test_logits_of_clips_are_not_those_of_images() -> None:
    processor = tiny_processor()
    with pytest.raises(ValueError, match=r"not those of images: .* `post_process_referring_video_segmentation`"):
        processor.post_process_referring_segmentation(ReferringSegmentationOutput(logits=torch.zeros(1, 2, 8, 8)))
    with pytest.raises(ValueError, match="not those of videos"):
        processor.post_process_referring_video_segmentation(ReferringSegmentationOutput(logits=torch.zeros(1, 8, 8)))


@pytest.mark.parametrize("shape", [(1, 0, 8), (2, 8, 0), (1, 0, 8, 8)])
def test_logits_hold_a_pixel_at_least(shape: tuple[int, ...]) -> None:
    kind = "video_" if len(shape) == 4 else ""
    post_process = getattr(tiny_processor(), f"post_process_referring_{kind}segmentation")
    with pytest.raises(ValueError, match=r"Logits of shape .* hold no pixel: pass a model's own"):
        post_process(ReferringSegmentationOutput(logits=torch.zeros(shape)), target_sizes=[(8, 8)] * shape[0])


@pytest.mark.parametrize("threshold", [50, -1, 10**400, math.nan, math.inf, "high", [0.3, 0.4]])
def test_a_threshold_is_a_probability(segment, threshold) -> None:
    processor = segment.processor
    segment_frames = pipeline("referring-video-segmentation", model=segment.model, processor=processor)
    output = ReferringSegmentationOutput(logits=torch.zeros(1, 8, 8))
    clip = ReferringSegmentationOutput(logits=torch.zeros(1, 2, 8, 8))
    for run in (
        lambda: processor.post_process_referring_segmentation(output, threshold=threshold),
        lambda: processor.post_process_referring_video_segmentation(clip, threshold=threshold),
        lambda: segment(photograph(), text="red", threshold=threshold),
        lambda: segment_frames([photograph()], text="red", threshold=threshold),
        lambda: segment_video(segment.model, processor, [photograph()], ["red"], threshold=threshold),
    ):
        with pytest.raises(ValueError, match="A threshold is a probability, from 0 to 1, not"):
            run()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("damaged", ["logits", "presence_logits"])
def test_logits_that_are_not_finite_are_no_answer(damaged: str, value: float) -> None:
    image, clip = (
        ReferringSegmentationOutput(logits=torch.ones(shape), presence_logits=torch.ones(2))
        for shape in ((2, 8, 8), (2, 3, 8, 8))
    )
    processor = tiny_processor()
    for outputs, post_process in (
        (image, processor.post_process_referring_segmentation),
        (clip, processor.post_process_referring_video_segmentation),
    ):
        assert all(result["present"] for result in post_process(outputs))
        outputs[damaged].flatten()[-1] = value
        with pytest.raises(ValueError, match=rf"% of the model's {damaged} are NaN or infinite.*float32"):
            post_process(outputs)


@pytest.mark.parametrize("weight", ["decoder.classifier.bias", "text_encoder.embeddings.word_embeddings.weight"])
def test_pipelines_do_not_answer_with_damaged_weights(segment, weight: str) -> None:
    video_model = VideoLavtForReferringSegmentation.from_image_lavt(tiny_lavt(), num_window_frames=2)
    for model in (segment.model, video_model):
        model.get_parameter(weight).data.fill_(torch.nan)
        segment_frames = pipeline("referring-video-segmentation", model=model, processor=segment.processor)
        with pytest.raises(ValueError, match="100 % of the model's logits are NaN"):
            segment_frames([photograph()] * 2, text="red circle")
    for images, options in ((photograph(), {}), ([photograph(), photograph()], {"batch_size": 2})):
        with pytest.raises(ValueError, match="100 % of the model's logits are NaN"):
            segment(images, text="red circle", **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Text 0 of 1 is empty"),
        ("   ", "Text 0 of 1 is empty"),
        (["red", ""], "Text 1 of 2 is empty"),
        ([None], r"no string \(None\)"),
        ([["red"]], r"no string \(\['red'\]\)"),
        (7, r"no string \(7\)"),
        ({"red": 1}, r"no string \({'red': 1}\)"),
        (b"red", r"no string \(b'red'\)"),
        ([[["red"] * 1000] * 1000], r"no string \(.{,80}\): pass a sentence"),
        ("red \ud800", r"Text 0 of 1 holds half a character: 'red \\ud800'"),
        ([], "There is no text: pass one text at least"),
        ((), "There is no text: pass one text at least"),
    ],
)
def test_an_empty_text_is_one_clear_error_everywhere(segment, text, message: str) -> None:
    segment_frames = pipeline("referring-video-segmentation", model=segment.model, processor=segment.processor)
    for run in (
        lambda: segment.processor(photograph(), text),
        lambda: segment(photograph(), text=text),
        lambda: segment([photograph()], text=text),
        lambda: segment_frames([photograph()], text=text),
        lambda: segment_video(segment.model, segment.processor, [photograph()], text),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_no_image_is_a_clear_error(segment) -> None:
    with pytest.raises(ValueError, match="There is no image: pass one at least"):
        segment.processor([], "red")


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="Pass `images` or `videos`, `text`, or both"):
        tiny_processor()()


@pytest.fixture
def warnings_of_processor() -> Iterator[list[str]]:
    """A list that grows by what the processor logs, even what it has logged once before this test."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("hf_refseg.modeling.processing_refseg")
    transformers_logging.warning_once.cache_clear()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_an_over_long_text_is_cut_with_one_warning(warnings_of_processor) -> None:
    processor = RefSegProcessor(tiny_processor().image_processor, tiny_processor().tokenizer, max_text_length=7)
    for _ in range(3):
        inputs = processor(text="red " * 50, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 7)
    assert processor.tokenizer.decode(inputs["input_ids"][0, -1:]) == "[SEP]"
    assert warnings_of_processor == [
        "A text has more than 7 tokens and is cut; the processor's `max_text_length` is the limit."
    ]


def test_a_text_is_tokenized_once(count_calls) -> None:
    processor = tiny_processor()
    calls = count_calls(processor.tokenizer, "_encode_plus")
    processor(text=["the red dog", "left"], return_tensors="pt")
    assert len(calls) == 1


def test_unknown_words_are_short_and_few_in_a_warning(warnings_of_processor) -> None:
    tiny_processor()(text="\x1b[31m" + "x" * 10**4 + " " + " ".join(f"zorble{number}" for number in range(300)))
    warning, _ = warnings_of_processor
    assert len(warning) < 1000 and warning.isprintable() and warning.count("zorble") == 19


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_length": 0}, "`max_length` is a whole number from 1 on, not 0"),
        ({"max_length": -1}, "`max_length` is a whole number"),
        ({"max_length": 5.5}, "`max_length` is a whole number"),
        ({"max_length": 2}, "2 tokens leave no room for a word beside 2 special ones"),
        ({"pad_to_multiple_of": 0}, "`pad_to_multiple_of` is a whole number from 1 on"),
        ({"is_split_into_words": True}, "Texts are sentences"),
    ],
    ids=str,
)
def test_options_of_texts_out_of_range_are_refused(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_processor()(text=["the red dog", "left"], **option)


@pytest.mark.parametrize("length", [0, -1, 2.5, True, None, "many"])
def test_the_length_of_texts_is_a_whole_number(length) -> None:
    with pytest.raises(ValueError, match="`max_text_length` is a whole number from 1 on, not"):
        RefSegProcessor(tiny_processor().image_processor, tiny_processor().tokenizer, max_text_length=length)


def test_words_that_the_tokenizer_does_not_know_are_named_once(warnings_of_processor) -> None:
    for _ in range(2):
        tiny_processor()(text=["the red Zorble, left of the zorble", "gribble grobble", "the red dog"])
    assert warnings_of_processor == [
        'The tokenizer does not know "Zorble", "of", "zorble": the model reads [UNK] there.',
        'The tokenizer does not know "gribble", "grobble": the model reads [UNK] there, and no word of that text.',
    ]


def test_of_many_unknown_words_the_first_are_named(warnings_of_processor) -> None:
    processor = tiny_processor()
    for index in range(200):
        processor(text=[f"the zorble{chr(97 + index % 26)}{chr(97 + index // 26)}", "the dog zorbleaa"])
    assert [warning.count("zorble") for warning in warnings_of_processor] == [1] * 20
    assert ["Further words" in warning for warning in warnings_of_processor] == [False] * 19 + [True]


def test_an_end_token_is_no_unknown_word(warnings_of_processor) -> None:
    tokenizer = tiny_processor().tokenizer
    tokenizer.unk_token = tokenizer.sep_token  # as CLIP's
    RefSegProcessor(tiny_processor().image_processor, tokenizer)(text="the red dog")
    assert not warnings_of_processor


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"text_kwargs": {"max_lenght": 3}}, "text_kwargs .* no option max_lenght; did you mean max_length"),
        ({"images_kwargs": {"do_resise": False}}, "images_kwargs .* no option do_resise; did you mean do_resize"),
        ({"text_kwargs": {"do_resize": False}}, "text_kwargs .* no option do_resize"),
    ],
    ids=str,
)
def test_an_unknown_option_is_refused(options: dict, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        tiny_processor()(Image.new("RGB", (8, 8)), "the red dog", **options)


@pytest.mark.parametrize("text_truncation", ["keep_end_token", "released"])
def test_options_of_the_tokenizer_reach_it(text_truncation: str) -> None:
    processor = RefSegProcessor(
        tiny_processor().image_processor, tiny_processor().tokenizer, 6, text_truncation=text_truncation
    )
    texts = ["red", "the left red dog right the green circle"]
    ids = processor.tokenizer(texts)["input_ids"]
    cut = ids[1][:6] if text_truncation == "released" else [*ids[1][:5], ids[1][-1]]

    def rows(**options) -> list[list[int]]:
        return processor(text=texts, return_tensors="pt", **options)["input_ids"].tolist()

    assert rows() == [[*ids[0], 0, 0, 0], cut]
    assert rows(padding_side="left") == [[0, 0, 0, *ids[0]], cut]
    assert rows(text_kwargs={"padding_side": "left"}) == [[0, 0, 0, *ids[0]], cut]
    assert rows(pad_to_multiple_of=4) == [[*ids[0], *[0] * 5], [*cut, 0, 0]]
    assert rows(truncation=False) == [[*ids[0], *[0] * 7], ids[1]]
    assert [len(row) for row in rows(padding="max_length", max_length=12)] == [12, 12]
    types = processor(text=texts, return_token_type_ids=True, return_tensors="pt")["token_type_ids"]
    assert types.tolist() == [[0] * 6] * 2
    with pytest.raises(ValueError, match="padding"):
        rows(padding=False)


def test_masks_may_lie_among_the_options_of_images() -> None:
    mask = np.zeros((50, 70), dtype=bool)
    mask[10:30, 20:60] = True
    expected = tiny_processor()(photograph(), "red", mask, return_tensors="pt")["mask_labels"]
    nested = {"images_kwargs": {"segmentation_maps": mask}, "return_tensors": "pt"}
    assert torch.equal(tiny_processor()(photograph(), "red", **nested)["mask_labels"], expected)
    with pytest.raises(ValueError, match="Pass `segmentation_maps` once"):
        tiny_processor()(photograph(), "red", mask, **nested)
    assert torch.equal(tiny_processor()(text="red", **nested)["mask_labels"], expected)


def test_an_unknown_truncation_is_refused() -> None:
    with pytest.raises(ValueError, match="'keep_end_token' or 'released'"):
        RefSegProcessor(tiny_processor().image_processor, tiny_processor().tokenizer, text_truncation="drop")


def test_the_processor_reloads_as_it_was(tmp_path) -> None:
    processor = RefSegProcessor(
        RefSegImageProcessor(size={"height": 32, "width": 48}),
        tiny_processor().tokenizer,
        max_text_length=9,
        text_truncation="released",
    )
    processor.save_pretrained(tmp_path)
    tiny_lavt().save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is RefSegProcessor
    assert (loaded.max_text_length, loaded.text_truncation) == (9, "released")
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is RefSegImageProcessor
    first, second = (each(photograph(), "the left red dog " * 4, return_tensors="pt") for each in (processor, loaded))
    assert first["pixel_values"].shape == (1, 3, 32, 48)
    for name in first:
        assert torch.equal(first[name], second[name])


@pytest.fixture
def segment() -> ReferringImageSegmentationPipeline:
    return pipeline("referring-image-segmentation", model=tiny_lavt(), processor=tiny_processor())


def test_pipeline_gives_masks_as_large_as_the_image(segment: ReferringImageSegmentationPipeline, count_calls) -> None:
    calls = count_calls(segment.model, "encode_image")
    results = segment(photograph(), text=["the left dog", "red circle"], threshold=0.4)
    assert [result["label"] for result in results] == ["the left dog", "red circle"]
    assert all(result["mask"].size == (70, 50) and result["mask"].mode == "L" for result in results)
    assert len(calls) == 1 and len(calls[0][0]) == 1
    inputs = segment.processor(photograph(), ["the left dog", "red circle"], return_tensors="pt")
    with torch.no_grad():
        expected = segment.processor.post_process_referring_segmentation(
            segment.model(**inputs), target_sizes=[(50, 70)] * 2, threshold=0.4
        )
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(torch.from_numpy(np.asarray(result["mask"]) == 255), wanted["mask"])
        assert result["score"] == pytest.approx(wanted["score"], abs=1e-5)
        assert result["present"] is wanted["present"] is True
    (absent,) = segment(photograph(), text="red circle", threshold=1.0)
    assert absent["present"] is False and absent["score"] == 0 and not np.asarray(absent["mask"]).any()


def test_pipeline_tells_that_there_is_no_target(segment: ReferringImageSegmentationPipeline, monkeypatch) -> None:
    def answer(self, pixel_values, input_ids, attention_mask) -> ReferringSegmentationOutput:
        return ReferringSegmentationOutput(logits=torch.ones(2, 64, 64), presence_logits=torch.tensor([-1.0, 1.0]))

    monkeypatch.setattr(type(segment.model), "forward", answer)
    absent, present = segment(photograph(), text=["the left dog", "red circle"])
    assert (absent["present"], absent["score"], absent["mask"].getextrema()) == (False, 0.0, (0, 0))
    assert present["present"] and present["mask"].getextrema() == (255, 255)


def test_pipeline_takes_paths_and_lists(segment: ReferringImageSegmentationPipeline, tmp_path) -> None:
    photograph().save(tmp_path / "photo.png")
    one = segment(str(tmp_path / "photo.png"), text="red circle")
    many = segment([str(tmp_path / "photo.png"), photograph(31, 90)], text="red circle")
    assert [len(results) for results in many] == [1, 1]
    assert np.array_equal(np.asarray(many[0][0]["mask"]), np.asarray(one[0]["mask"]))
    assert many[1][0]["mask"].size == (90, 31)


def agree(results: list[dict], expected: list[dict]) -> bool:
    """Whether the answers about one image are the same but for rounding, which may move single pixels."""
    return [result["label"] for result in results] == [wanted["label"] for wanted in expected] and all(
        result["present"] is wanted["present"]
        and result["score"] == pytest.approx(wanted["score"], abs=1e-4)
        and result["mask"].size == wanted["mask"].size
        and (np.asarray(result["mask"]) != np.asarray(wanted["mask"])).mean() < 0.01
        for result, wanted in zip(results, expected, strict=True)
    )


REQUESTS = [
    {"image": photograph(), "text": ["the left dog", "red circle"]},
    {"image": photograph(31, 90), "text": "the right green circle"},
    {"image": np.asarray(photograph(64, 64)), "text": ["red"]},
    {"image": photograph(20, 20).convert("L"), "text": ["dog", "the left red dog", "green"]},
    {"image": photograph(40, 30), "text": "circle"},
]


@pytest.mark.parametrize("presence_head", [False, True])
def test_batches_are_answered_like_single_images(presence_head: bool, count_calls) -> None:
    config = tiny_lavt().config
    config.presence_head = presence_head
    torch.manual_seed(0)
    model = LavtForReferringSegmentation(config).eval()
    with torch.no_grad():
        outputs = model(**tiny_processor()(photograph(), ["red", "green dog"], return_tensors="pt"))
    threshold = outputs.logits.sigmoid().median().item()
    segment = pipeline("referring-image-segmentation", model=model, processor=tiny_processor(), threshold=threshold)
    expected = [segment(request) for request in REQUESTS]
    assert [len(results) for results in expected] == [2, 1, 1, 3, 1]
    shares = [np.asarray(result["mask"]).mean() / 255 for results in expected for result in results]
    assert any(0.1 < share < 0.9 for share in shares)
    assert not agree(expected[0][:1], [{**expected[0][1], "label": expected[0][0]["label"]}])
    calls = count_calls(model, "encode_image")
    for batch_size, sizes in ((2, [2, 2, 1]), (4, [4, 1])):
        calls.clear()
        results = segment(REQUESTS, batch_size=batch_size)
        assert [len(arguments[0]) for arguments in calls] == sizes
        assert all(agree(*both) for both in zip(results, expected, strict=True))


class Pictures(TorchDataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Image.Image:
        return [photograph(), photograph(31, 90)][index]


def hub_rows() -> Dataset:
    rows = Dataset.from_dict({"image": list(Pictures()), "text": ["red", "red"], "id": [1, 2]})
    return rows.cast_column("image", datasets.Image())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: list(Pictures()), "red"),
        (lambda: tuple(Pictures()), ["red"]),
        (lambda: (picture for picture in Pictures()), "red"),
        (lambda: iter(list(Pictures())), "red"),
        (lambda: ({"image": picture, "text": "red"} for picture in Pictures()), None),
        (Pictures, "red"),
        (lambda: KeyDataset(hub_rows(), "image"), "red"),
        (hub_rows, None),
        (lambda: [np.asarray(picture) for picture in Pictures()], "red"),
        (lambda: [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in Pictures()], "red"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_pipeline_takes_several_images_in_any_form(segment, make, text, batch_size) -> None:
    expected = [segment(picture, text="red") for picture in Pictures()]
    results = segment(make(), text=text, batch_size=batch_size)
    assert isinstance(results, list) == isinstance(make(), list | tuple)
    assert all(agree(*both) for both in zip(results, expected, strict=True))


def test_pipeline_reads_a_generator_step_by_step(segment) -> None:
    read: list[int] = []

    def pictures() -> Iterator[Image.Image]:
        for number in range(4):
            read.append(number)
            yield photograph()

    results = segment(pictures(), text="red")
    next(iter(results))
    assert len(read) < 4


def test_pipeline_takes_arrays(segment) -> None:
    stack = np.stack([np.asarray(photograph())] * 2)
    expected = segment(photograph(), text="red")
    assert [agree(each, expected) for each in segment(stack, text="red")] == [True] * 2
    assert agree(segment(stack[0], text="red"), expected)
    assert agree(segment(torch.from_numpy(stack[0] / 255), "red"), expected)


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (photograph(), None, "There is no text for the image: pass `text`"),
        ([], "red", "There is no image: pass one at least"),
        ({"image": photograph()}, None, r"needs \"image\" and its own \"text\".* got \['image'\]\."),
        ({"image": photograph(), "texts": ["red"]}, None, r"got \['image', 'texts'\]\."),
        ([{"image": photograph(), "text": "red"}], "dog", r"got \['image', 'text'\] along with `text`\."),
        ({"picture": photograph()}, "dog", r"got \['picture'\] along with `text`\."),
        ({"image": photograph(), "text": []}, None, "There is no text: pass one text at least"),
    ],
)
def test_inputs_that_lack_something_are_one_clear_error(segment, images, text, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(images, text=text)


def test_pipeline_takes_a_tokenizer_and_an_image_processor(tmp_path) -> None:
    task, model, whole = "referring-image-segmentation", tiny_lavt(), tiny_processor()
    large, words = RefSegImageProcessor(size={"height": 96, "width": 96}), tiny_processor().tokenizer
    expected = pipeline(task, model=model, processor=RefSegProcessor(large, words))(photograph(), "red", threshold=0)
    assert not agree(expected, pipeline(task, model=model, processor=whole)(photograph(), "red", threshold=0))
    words.save_pretrained(tmp_path)
    large.save_pretrained(tmp_path)
    for parts in (
        {"tokenizer": words, "image_processor": large},
        {"tokenizer": str(tmp_path), "image_processor": str(tmp_path)},
        {"processor": whole, "image_processor": large},
    ):
        segment = pipeline(task, model=model, **parts)
        assert agree(segment(photograph(), "red", threshold=0), expected)
        assert segment.processor.max_text_length == 20
    assert whole.image_processor.size.height == 64
    other = BertTokenizer(vocab={word: index for index, word in enumerate(reversed(words.get_vocab()))})
    segment = pipeline(task, model=model, processor=whole, tokenizer=other)
    assert segment.tokenizer is segment.processor.tokenizer is other is not whole.tokenizer
    with pytest.raises(ValueError, match="pass a `processor`, or a `tokenizer` and an `image_processor`"):
        pipeline(task, model=model, tokenizer=words)


def test_pipeline_gives_no_texts_that_the_model_does_not_take() -> None:
    task, model, whole = "referring-image-segmentation", tiny_lavt(), tiny_processor()
    model.config.text_config.max_position_embeddings = 12
    segment = pipeline(task, model=model, tokenizer=whole.tokenizer, image_processor=whole.image_processor)
    assert segment.processor.max_text_length == 12
    with pytest.raises(ValueError, match="max_text_length is 20, but the model takes texts of at most 12 tokens"):
        pipeline(task, model=model, processor=whole)


def test_pipeline_refuses_unknown_options(segment: ReferringImageSegmentationPipeline) -> None:
    with pytest.raises(TypeError, match="takes `text` and `threshold`"):
        segment(photograph(), text="red", treshold=0.3)


def test_saving_leaves_the_processor_as_it_was(tmp_path) -> None:
    tiny_processor().save_pretrained(tmp_path / "first")
    processor = AutoProcessor.from_pretrained(tmp_path / "first")
    before = processor.to_dict()
    processor.save_pretrained(tmp_path / "second")
    assert processor.to_dict() == before == AutoProcessor.from_pretrained(tmp_path / "second").to_dict()
