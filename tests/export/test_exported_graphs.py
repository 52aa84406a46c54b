"""What `hf-refseg export` writes says what the model says, with other texts than were traced, and without torch."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from command_line import error_of, output_of
from fresh_process import run_new_python
from headless_browser import wait_for
from hub_server import TOKEN, HubServer
from huggingface_hub import HfApi, ModelCard, snapshot_download
from PIL import ExifTags, Image
from places import CHECKOUT
from tiny_exports import processor_to_export, risam_to_export
from torch import nn
from web_page import missing_for_the_page, served_page

from hf_refseg import ReferringSegmentationOutput, RefSegProcessor, VideoWindow, load_system
from hf_refseg.export import DisagreementError, export_model, exporting
from hf_refseg.hub.uploads import upload
from hf_refseg.modeling.inference_refseg import (
    ProbabilityMap,
    prepare_image,
    probabilities_of_images,
    video_probabilities,
)
from hf_refseg.modeling.pictures_refseg import read_image
from hf_refseg.onnx import OnnxSegmenter, resize_bilinear, sigmoid
from hf_refseg.systems import brings_code

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="installed with the extra `export`")
pytestmark = pytest.mark.slow_process

# The last one is longer than the processor leaves it.
TEXTS = ["the left dog", "red", "the green circle right left left left left left left"]


class Exported(NamedTuple):
    """A model, its processor, the folder that it was exported to, what was printed, and its traced graphs by name."""

    model: nn.Module
    processor: RefSegProcessor
    folder: Path
    output: str
    traced: dict[str, Any]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """RISAM, by the command. Tracing takes nearly all of the time: once is enough for all tests."""
    folder, model = tmp_path_factory.mktemp("export"), risam_to_export()
    processor = processor_to_export({"longest_edge": 64})
    for part in (model, processor):
        part.save_pretrained(folder / "model")
    traced: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        trace = exporting.trace
        patch.setattr(exporting, "trace", lambda graph, *rest: traced.setdefault(graph.name, trace(graph, *rest)))
        output = output_of("export", folder / "model", "--output", folder / "exported")
    return Exported(model, processor, folder / "exported", output, traced)


@pytest.fixture
def graphs_at_hand(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is exported, its graphs are those of the fixture."""

    def copy(graph: Any, program: Any, path: Path) -> int:
        shutil.copy(exported.folder / path.name, path)
        return 20

    monkeypatch.setattr(exporting, "trace", lambda graph, *rest: exported.traced[graph.name])
    monkeypatch.setattr(exporting, "write_onnx", copy)


def picture(width: int = 90, height: int = 50) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def maps_of_the_model(exported: Exported, image: Image.Image) -> list[ProbabilityMap]:
    prepared, size = prepare_image(exported.processor, image, TEXTS), (image.height, image.width)
    return list(probabilities_of_images(exported.model, exported.processor, [prepared], sizes=[size]))


def changed(folder: Path, copy: Path, **settings: Any) -> Path:
    """A copy of an export whose `export.json` says something else."""
    shutil.copytree(folder, copy)
    content = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    (copy / "export.json").write_text(json.dumps({**content, **settings}), encoding="utf-8")
    return copy


def test_masks_are_those_of_the_model(exported: Exported, tmp_path: Path) -> None:
    # On its side, as a camera writes it, and of other sides than the graph's.
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture().save(tmp_path / "photo.png", exif=exif)
    upright = read_image(tmp_path / "photo.png")
    assert upright.size == (50, 90)
    expected = maps_of_the_model(exported, upright)
    threshold = float(np.median([each.probabilities for each in expected]))
    # Two runs of the second graph; the first one is asked once.
    found = OnnxSegmenter(exported.folder, batch_size=2)(tmp_path / "photo.png", TEXTS, threshold)
    assert len(found) == len(TEXTS)
    assert 0.05 < np.mean([each.mask for each in found]) < 0.95
    for mine, its in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.probabilities, its.probabilities, atol=1e-5)
        mask = its.mask(threshold)
        assert (mine.mask != mask.mask.numpy()).mean() < 1e-3
        assert mine.present == mask.present and mine.score == pytest.approx(mask.score, abs=1e-3)


def test_it_is_told_what_was_written(exported: Exported) -> None:
    files = {path.name for path in exported.folder.iterdir()}
    assert files == {"image_encoder.onnx", "expression_decoder.onnx", "tokenizer.json", "export.json", "README.md"}
    card = ModelCard.load(exported.folder / "README.md")
    assert {"risam", "onnx"} <= set(card.data.tags) and card.data.library_name == "hf_refseg"
    (shown,) = re.findall(r"Largest difference to the model: (.*) \(allowed", card.text)
    assert f"Largest difference to the model: {shown}" in exported.output and "OnnxSegmenter(" in card.text
    settings = json.loads((exported.folder / "export.json").read_text(encoding="utf-8"))
    assert settings["image_size"] == [64, 64] and settings["max_text_length"] == 9 and not settings["has_presence"]
    assert settings["agreement"]["differences"]["logits"] <= settings["agreement"]["tolerance"]
    assert "image_encoder.onnx, expression_decoder.onnx, 64 x 64 pixels" in exported.output


def test_a_shared_export_says_the_same(exported: Exported, hub: HubServer, tmp_path: Path) -> None:
    api, name = HfApi(endpoint=hub.endpoint, token=TOKEN), "tester/exported"
    api.create_repo(name)
    upload(partial(api.upload_folder, folder_path=exported.folder, repo_id=name), exported.folder, name, "model")
    shared = snapshot_download(name, endpoint=hub.endpoint, token=TOKEN, cache_dir=tmp_path / "cache")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    told, read = (OnnxSegmenter(folder)(picture, TEXTS) for folder in (exported.folder, Path(shared)))
    assert len(told) == len(TEXTS)
    assert all(np.array_equal(one.probabilities, other.probabilities) for one, other in zip(told, read, strict=True))


def test_it_runs_where_torch_cannot_be_imported(exported: Exported, tmp_path: Path) -> None:
    picture().save(tmp_path / "photo.png")
    code = f"""
        import sys

        for name in ("torch", "torchvision", "transformers", "datasets", "huggingface_hub"):
            sys.modules[name] = None
        from hf_refseg.onnx import OnnxSegmenter

        for found in OnnxSegmenter({str(exported.folder)!r})("photo.png", {TEXTS!r}):
            print(float(found.probabilities.sum()))
        """
    sums = [float(line) for line in run_new_python(code, tmp_path).split()]
    expected = [each.probabilities.sum().item() for each in maps_of_the_model(exported, picture())]
    assert sums == pytest.approx(expected, rel=1e-4)


def test_the_code_of_the_page_runs(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "export.md").read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    Path("exported").symlink_to(exported.folder)
    picture().save("photo.jpg")
    exec(code, {})
    assert [line.partition(" ")[0] in ("True", "False") for line in capsys.readouterr().out.splitlines()] == [True] * 2


def test_it_is_a_system(exported: Exported, tmp_path: Path) -> None:
    image, name = picture(), str(exported.folder)
    system = load_system(name, threshold=0.3, batch_size=1)
    answers = list(system.segment(image, TEXTS))
    for answer, its in zip(answers, maps_of_the_model(exported, image), strict=True):
        np.testing.assert_allclose(answer.probabilities, its.probabilities, atol=1e-5)
    at_model_size = list(system.segment_at_model_size(image, TEXTS))
    assert {answer.size for answer in at_model_size} == {(36, 64)}
    assert system.threshold == 0.3 and not system.sees_clips and not brings_code(name)
    image.save(tmp_path / "photo.png")
    printed = output_of("predict", name, tmp_path / "photo.png", "--text", "red", "--output", tmp_path / "masks")
    assert "photo_1_red.png" in printed
    for option, value in (("dtype", "bfloat16"), ("device", "cuda:0")):
        with pytest.raises(ValueError, match=f"--{option}"):
            load_system(name, **{option: value})


@pytest.mark.parametrize("options", [{}, {"do_normalize": False}, {"image_mean": 0.5, "image_std": [0.2, 0.3, 0.4]}])
@pytest.mark.parametrize("size", [{"longest_edge": 64}, {"height": 48, "width": 80}], ids=["edge", "stretched"])
def test_pictures_are_prepared_as_the_processor_prepares_them(
    exported: Exported, tmp_path: Path, size: dict[str, int], options: dict[str, Any]
) -> None:
    processor = processor_to_export(size).image_processor
    for name, value in options.items():
        setattr(processor, name, value)
    said = exporting.describe_images(processor)
    segmenter = OnnxSegmenter(changed(exported.folder, tmp_path / "other", **said))
    for image in (picture(), picture(40, 120)):
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(segmenter.prepare(image), expected, atol=1e-5)


@pytest.mark.parametrize("truncation", ["keep_end_token", "released"])
def test_texts_are_cut_and_padded_as_the_processor_does(exported: Exported, tmp_path: Path, truncation: str) -> None:
    processor = processor_to_export({"longest_edge": 64}, text_truncation=truncation)
    folder = changed(exported.folder, tmp_path / "other", text_truncation=truncation)
    exporting.write_tokenizer(processor, folder)
    segmenter = OnnxSegmenter(folder)
    for texts in (TEXTS, TEXTS[:2]):
        tokens = segmenter.tokenize(texts)
        expected = processor(text=texts, return_tensors="np")
        assert tokens.keys() == expected.keys()
        assert all(np.array_equal(tokens[name], expected[name]) for name in tokens)


def test_maps_are_resized_as_torch_does() -> None:
    values = np.random.default_rng(0).normal(size=(13, 17)).astype(np.float32)
    for size in ((50, 9), (13, 40), (1, 1), (7, 17)):
        expected = nn.functional.interpolate(torch.from_numpy(values)[None, None], size, mode="bilinear")[0, 0]
        np.testing.assert_allclose(resize_bilinear(values, size), expected, atol=1e-5)
    extremes = sigmoid(np.array([-1e4, 0, 1e4], dtype=np.float32))
    assert extremes.tolist() == [0, 0.5, 1]


@pytest.mark.usefixtures("graphs_at_hand")
def test_a_graph_that_disagrees_leaves_nothing(exported: Exported, tmp_path: Path) -> None:
    other = risam_to_export()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    with pytest.raises(DisagreementError, match="disagrees with the model: logits of 1 texts of 4 tokens"):
        export_model(other, exported.processor, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
    assert not other.training and other.config._attn_implementation == "sdpa"


@pytest.mark.usefixtures("graphs_at_hand")
def test_whole_numbers_say_how_far_they_are_from_float32(exported: Exported, tmp_path: Path) -> None:
    image = picture()
    threshold = float(np.median([each.probabilities for each in maps_of_the_model(exported, image)]))
    processor = processor_to_export({"longest_edge": 64})
    processor.image_processor.mask_threshold = threshold
    settings = export_model(
        exported.model, processor, tmp_path / "int8", quantize="int8", pictures=[(image, TEXTS[:2]), (image, TEXTS)]
    )
    told = settings.quantization
    assert told == json.loads((tmp_path / "int8" / "export.json").read_text(encoding="utf-8"))["quantization"]
    assert (told["kind"], told["pictures"], told["masks"]) == ("int8", 2, 5)
    exact, whole = OnnxSegmenter(exported.folder), OnnxSegmenter(tmp_path / "int8")
    ious = []
    # What becomes of one text depends on the others that are asked with it: they share the scale of their features.
    for texts in (TEXTS[:2], TEXTS):
        pairs = zip(exact(image, texts, threshold), whole(image, texts, threshold), strict=True)
        ious += [(first.mask & second.mask).sum() / (first.mask | second.mask).sum() for first, second in pairs]
    assert told["mean_iou"] == pytest.approx(np.mean(ious)) and told["lowest_iou"] == pytest.approx(min(ious))
    assert 0.5 < told["lowest_iou"] < 1
    import onnx

    graph = onnx.load(tmp_path / "int8" / "expression_decoder.onnx").graph
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    whole_numbers = [array for array in weights.values() if array.dtype == np.int8 and array.ndim == 2]
    scales = [array for name, array in weights.items() if name.endswith("_scale") and array.ndim == 1]
    assert len(whole_numbers) > 5 and len(scales) > 5
    assert {node.op_type for node in graph.node} >= {"MatMulInteger", "DynamicQuantizeLinear"}


@pytest.mark.usefixtures("graphs_at_hand")
def test_programs_of_torch_say_the_same(exported: Exported, tmp_path: Path) -> None:
    settings = export_model(exported.model, exported.processor, tmp_path / "torch", format="torch")
    assert settings.agreement["differences"]["logits"] <= settings.agreement["tolerance"]
    encoder, decoder = (torch.export.load(tmp_path / "torch" / file).module() for file in settings.graphs.values())
    pixels, tokens = torch.randn(1, 3, 64, 64), exported.processor(text=TEXTS, return_tensors="pt")
    (logits,) = decoder(maps=list(encoder(pixel_values=pixels)), **tokens)
    torch.testing.assert_close(logits, exported.model(pixel_values=pixels, **tokens).logits, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="--format onnx"):
        OnnxSegmenter(tmp_path / "torch")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "image_encoder.onnx").unlink(), "image_encoder.onnx is not there"),
        (lambda folder: (folder / "image_encoder.onnx").write_bytes(b"no graph"), "image_encoder.onnx is damaged"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged"),
        (lambda folder: (folder / "export.json").write_text("[1]"), "export.json is damaged"),
        (lambda folder: (folder / "export.json").unlink(), "holds no export.json"),
    ],
)
def test_a_damaged_export_is_named(
    exported: Exported, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    folder = shutil.copytree(exported.folder, tmp_path / "copy")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        OnnxSegmenter(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schema_version": 2}, "schema_version 2, this version reads 1"),
        ({"mean": [0.5, "a", 0.5]}, "nothing usable of mean"),
        ({"image_size": [64]}, "nothing usable of image_size"),
        ({"graphs": {"model": "../model.onnx"}}, "nothing usable of graphs"),
        ({"new_field": 1}, "should not hold: new_field"),
        ({"image_size": [64.5, 64], "std": [1, 0, 1]}, "nothing usable of image_size, std"),
        ({"image_size": [64, 32]}, "nothing usable of image_size"),
        ({"image_size": [10**9] * 2, "num_frames": True}, "nothing usable of image_size, num_frames"),
        ({"max_text_length": -1, "resample": 99}, "nothing usable of resample, max_text_length"),
        ({"keeps_aspect_ratio": "no", "mask_threshold": 7}, "nothing usable of mask_threshold, keeps_aspect_ratio"),
    ],
)
def test_settings_of_another_kind_are_refused(
    exported: Exported, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OnnxSegmenter(changed(exported.folder, tmp_path / "copy", **settings))


def test_files_of_different_exports_are_named(exported: Exported, tmp_path: Path) -> None:
    other_size = changed(exported.folder, tmp_path / "size", image_size=[32, 32])
    other_words = shutil.copytree(exported.folder, tmp_path / "words")
    tokenizer = json.loads((other_words / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["red"] = 5000
    (other_words / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    swapped = changed(
        exported.folder,
        tmp_path / "swapped",
        graphs={"image_encoder": "expression_decoder.onnx", "expression_decoder": "image_encoder.onnx"},
    )
    for folder in (other_size, other_words, swapped):
        with pytest.raises(
            ValueError, match=f"{folder.name} holds files that do not belong together .*Export the model"
        ):
            OnnxSegmenter(folder)(picture(), ["red"])


def test_a_recurrent_text_encoder_goes_along(tmp_path: Path) -> None:
    recurrent = {"model_type": "refseg_recurrent_text", "embedding_size": 8, "hidden_size": 16}
    model, processor = risam_to_export(text_config=recurrent), processor_to_export({"longest_edge": 64})
    # Fewer tokens than are traced elsewhere.
    processor.max_text_length = 5
    settings = export_model(model, processor, tmp_path / "exported")
    assert settings.agreement["differences"]["logits"] <= settings.agreement["tolerance"]
    # The graph's steps are as many as a text may have tokens; the model's are untouched.
    assert model.config.text_config.max_position_embeddings == 512
    prepared, size = prepare_image(processor, picture(), TEXTS), (50, 90)
    expected = list(probabilities_of_images(model, processor, [prepared], sizes=[size]))
    found = OnnxSegmenter(tmp_path / "exported")(picture(), TEXTS)
    for mine, its in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.probabilities, its.probabilities, atol=1e-5)


def test_what_cannot_be_exported_is_said_before_anything_is_written(exported: Exported, tmp_path: Path) -> None:
    model, processor, output = exported.model, exported.processor, tmp_path / "new"
    for options, message in (
        ({"num_frames": 4}, "takes images, no clips"),
        ({"format": "torch", "quantize": "int8"}, "leave out --quantize"),
        ({"pictures": [(picture(), TEXTS)]}, "pass --quantize int8"),
        ({"quantize": "int4"}, "int8 or None"),
    ):
        with pytest.raises(ValueError, match=message):
            export_model(model, processor, output, **options)
    unresized = processor_to_export({"longest_edge": 64})
    unresized.image_processor.do_resize = False
    with pytest.raises(ValueError, match="do_resize=False"):
        export_model(model, unresized, output)
    of_one_token = processor_to_export({"longest_edge": 64})
    of_one_token.max_text_length = 1
    with pytest.raises(ValueError, match="max_text_length to 2 at least"):
        export_model(model, of_one_token, output)
    saved = exported.folder.parent / "model"
    assert "leave out --window" in error_of("export", saved, "--output", output, "--window", 4)
    assert "both --picture and --text" in error_of("export", saved, "--output", output, "--text", "red")
    assert "holds other files" in error_of("export", saved, "--output", saved)
    assert not output.exists()
    segmenter = OnnxSegmenter(exported.folder)
    for texts, threshold, message in ((["red", " "], None, "Text 1 of 2 is empty"), (["red"], 2, "from 0 to 1")):
        with pytest.raises(ValueError, match=message):
            segmenter(picture(), texts, threshold)


class OfAClip(nn.Module):
    """In place of a model: how bright a pixel is against the mean over its clip, and the sum of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(takes_clips=True)
        self.weight = nn.Parameter(torch.ones(()))

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return input_ids.sum(1)

    def forward(
        self, pixel_values: torch.Tensor, text_embeds: torch.Tensor, attention_mask: torch.Tensor
    ) -> ReferringSegmentationOutput:
        brightness = pixel_values.mean(2)
        sums = text_embeds.float()[:, None, None, None] / 100
        logits = brightness - brightness.mean(1, keepdim=True) + sums
        return ReferringSegmentationOutput(logits=logits, presence_logits=(sums - 0.2).flatten())


def write_of_a_clip(path: Path) -> None:
    """`OfAClip` as a graph."""
    from onnx import TensorProto, checker, helper, save

    shapes = {
        "pixel_values": (TensorProto.FLOAT, [1, 4, 3, 64, 64]),
        "input_ids": (TensorProto.INT64, ["texts", "tokens"]),
        "attention_mask": (TensorProto.INT64, ["texts", "tokens"]),
        "logits": (TensorProto.FLOAT, ["texts", 4, 64, 64]),
        "presence_logits": (TensorProto.FLOAT, ["texts"]),
    }
    values = [helper.make_tensor_value_info(name, *shape) for name, shape in shapes.items()]
    constants = {"channels": [2], "frames": [1], "tokens": [1], "four_axes": [-1, 1, 1, 1], "flat": [-1]}
    numbers = {"hundred": 100.0, "bias": 0.2}
    given = [helper.make_tensor(name, TensorProto.INT64, [len(axes)], axes) for name, axes in constants.items()]
    given += [helper.make_tensor(name, TensorProto.FLOAT, [], [number]) for name, number in numbers.items()]
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "channels"], ["brightness"], keepdims=0),
        helper.make_node("ReduceMean", ["brightness", "frames"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["brightness", "mean"], ["contrast"]),
        helper.make_node("ReduceSum", ["input_ids", "tokens"], ["whole_sums"], keepdims=0),
        helper.make_node("Cast", ["whole_sums"], ["float_sums"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float_sums", "hundred"], ["sums"]),
        helper.make_node("Reshape", ["sums", "four_axes"], ["sums_of_texts"]),
        helper.make_node("Add", ["contrast", "sums_of_texts"], ["logits"]),
        helper.make_node("Sub", ["sums", "bias"], ["presence"]),
        helper.make_node("Reshape", ["presence", "flat"], ["presence_logits"]),
    ]
    graph = helper.make_graph(nodes, "of_a_clip", values[:3], values[3:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    save(model, path)


def test_a_video_is_seen_in_the_clips_of_the_library(exported: Exported, tmp_path: Path) -> None:
    folder = changed(
        exported.folder, tmp_path / "clips", graphs={"model": "model.onnx"}, num_frames=4, has_presence=True
    )
    write_of_a_clip(folder / "model.onnx")
    model, segmenter, texts = OfAClip(), OnnxSegmenter(folder, batch_size=2), ["red", "the left dog", "green"]
    random = np.random.default_rng(1)
    frames = [Image.fromarray(random.integers(0, 256, (50, 90, 3), dtype=np.uint8)) for _ in range(11)]

    def expected_of(video: list[Image.Image]) -> list[list[ProbabilityMap]]:
        return list(video_probabilities(model, exported.processor, video, texts, window=VideoWindow(frames=4)))

    # A video that is shorter than a clip is continued with its last frame.
    for video, expected in ((frames, expected_of(frames)), (frames[:3], expected_of([*frames[:3], frames[2]])[:3])):
        found = list(segmenter.segment_video(video, texts, 0.55))
        assert [len(of_frame) for of_frame in found] == [3] * len(video)
        for mine, its in zip(chain(*found), chain(*expected), strict=True):
            np.testing.assert_allclose(mine.probabilities, its.probabilities, atol=1e-5)
            assert mine.is_found is its.is_found
            assert mine.present == its.mask(0.55).present
    assert {each.is_found for each in found[0]} == {True, False}
    system = load_system(str(folder))
    assert system.sees_clips
    (answers,) = system.segment_video(frames[:1], texts)
    assert [answer.present for answer in answers] == [each.is_found for each in found[0]]
    with pytest.raises(ValueError, match="takes clips of 4 frames"):
        segmenter(frames[0], texts)


MASK_IN_THE_PAGE = """
const {width, height} = mask;
const pixels = mask.getContext("2d").getImageData(0, 0, width, height).data;
return [height, width, Array.from(pixels.filter((_, at) => at % 4 === 3), (alpha) => Number(alpha > 0)).join("")];
"""
MOVE_THE_THRESHOLD = """
threshold.step = "any";
threshold.value = arguments[0];
threshold.dispatchEvent(new Event("input"));
"""


def test_the_page_in_a_browser_finds_the_same_masks(exported: Exported, browser: Any, tmp_path: Path) -> None:
    if missing := missing_for_the_page():
        pytest.skip(missing)
    picture().save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    segmenter = OnnxSegmenter(exported.folder)
    with served_page(exported.folder, tmp_path / "page") as address:
        browser.get(address)
        elements = {name: browser.find_element("id", name) for name in ("picture", "text", "go", "status")}

        def wait_for_status(text: str) -> None:
            wait_for(lambda: text in elements["status"].text, text)

        def mask() -> np.ndarray:
            height, width, flags = browser.execute_script(MASK_IN_THE_PAGE)
            return np.array(list(flags), dtype=int).reshape(height, width).astype(bool)

        wait_for_status("Choose a picture, and type")
        elements["picture"].send_keys(str(tmp_path / "broken.png"))
        wait_for_status("damaged, or no picture")
        elements["picture"].send_keys(str(tmp_path / "photo.png"))
        wait_for(lambda: not elements["status"].text, "an empty status")
        elements["go"].click()
        wait_for_status("Type what to segment")
        for text in (TEXTS[0], TEXTS[2]):
            (found,) = segmenter(picture(), text)
            threshold = float(np.median(found.probabilities))
            browser.execute_script(MOVE_THE_THRESHOLD, threshold)
            elements["text"].clear()
            elements["text"].send_keys(text)
            elements["go"].click()
            wait_for(elements["go"].is_enabled, "the button")
            wait_for_status("% of the picture")
            expected = found.probabilities > threshold
            assert 0.3 < expected.mean() < 0.7
            assert (mask() != expected).mean() < 5e-3
        # What was computed is kept.
        browser.execute_script(MOVE_THE_THRESHOLD, 1)
        assert not mask().any()
        wait_for_status("No target")
        browser.execute_script(MOVE_THE_THRESHOLD, 0)
        assert mask().all()
