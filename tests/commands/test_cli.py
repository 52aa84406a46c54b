"""The command line: what each command writes and prints, its errors in one line, and a light --help."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from importlib.metadata import entry_points, version
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from command_line import error_of, output_of, run
from folder_trees import make_metadata
from fresh_process import CHECKOUT, run_new_python, run_program, run_python
from golden_lavt import FOLDER as GOLDEN_LAVT
from golden_lavt import golden_case, model_inputs, released_checkpoint
from PIL import Image
from places import FIXTURES
from refer_trees import make_rrsisd
from safetensors.torch import load_file
from tiny_lavt import tiny_lavt, tiny_processor
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor
from typer.main import get_command

from hf_refseg import (
    AutoModelForReferringSegmentation,
    LavtForReferringSegmentation,
    RefSegImageProcessor,
    add_adapter,
)
from hf_refseg.data.catalog import DATASETS, data_options
from hf_refseg.data.leakage import image_collection
from hf_refseg.data.loading import load_refseg, option_names
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.evaluation import evaluate_model, with_shuffled_sentences
from hf_refseg.evaluation.saved_results import read_result
from hf_refseg.model_costs import count_pass, count_task_flops
from hf_refseg.onnx import ExportSettings
from hf_refseg.training.run_options import write_run_options
from hf_refseg_cli import app

REFER_API = FIXTURES / "refer_api"
# The random model's probabilities lie around it, so that masks are neither empty nor full.
THRESHOLD = 0.455
COMMANDS = (
    ["predict"],
    ["evaluate"],
    ["compare"],
    ["leaderboard"],
    ["prepare"],
    ["preview"],
    ["convert"],
    ["convert", "lavt"],
    ["convert", "magnet"],
    ["convert", "video_lavt"],
    ["merge"],
    ["explain"],
    ["export"],
    ["info"],
    ["label"],
    ["table"],
    ["train"],
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    processor = tiny_processor()
    processor.image_processor.mask_threshold = THRESHOLD
    tiny_lavt().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    sizes = {"train_size": 2, "val_size": 3, "test_size": 2, "image_size": 64}
    return prepare_dataset("refshapes", None, root / "shapes", cache_dir=str(root / "cache"), **sizes)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in its own folder, offline, and caches data sets there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def noise(path: Path, size: tuple[int, int] = (50, 40), **options: object) -> Path:
    """A picture of random pixels; `size` is width, height."""
    generator = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, **options)
    return path


def huge_png(path: Path) -> Path:
    """A small file that says it has 20000 x 20000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.slow_process
def test_help_imports_nothing_heavy(tmp_path):
    code = f"""
    import sys
    from typer.testing import CliRunner
    from hf_refseg_cli import app
    for command in [[], *{COMMANDS}]:
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage" in result.output
    print([name for name in ("hf_refseg", "torch", "transformers", "datasets", "numpy", "PIL") if name in sys.modules])
    """
    assert run_new_python(code, cwd=tmp_path) == "[]\n"


@pytest.mark.slow_process
def test_the_library_itself_imports_what_models_need_alone(tmp_path):
    code = """
    import sys
    import hf_refseg
    print([name for name in ("datasets", "evaluate", "matplotlib", "peft", "timm") if name in sys.modules])

    from hf_refseg.auto import registered_configs
    from transformers import AutoModel, BertConfig, SwinConfig
    def loaded_methods():
        return [each for each in registered_configs() if f"hf_refseg.modeling.modeling_{each}" in sys.modules]
    print(loaded_methods())
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 8}
    image = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    config = hf_refseg.LavtConfig(backbone_config=image, text_config=BertConfig(**sizes))
    print(AutoModel.from_config(config).__module__, loaded_methods())
    """
    imported, before, after = run_python(code, cwd=tmp_path, imports=()).splitlines()
    assert (imported, before) == ("[]", "[]")
    assert after == "hf_refseg.modeling.modeling_lavt ['lavt']"


def test_the_console_script_is_this_app():
    (script,) = entry_points(group="console_scripts", name="hf-refseg")
    assert script.load() is app


@pytest.mark.slow_process
def test_bad_input_in_a_process_of_its_own(tmp_path):
    (done,) = run_program(CHECKOUT / "hf_refseg_cli.py", "info", "nowhere", cwd=tmp_path)
    assert done.exit_status == 1
    assert done.output == ""
    assert done.errors.startswith("Error: nowhere is neither a model")
    assert done.errors.count("\n") == 1


def test_debug_shows_the_traceback(model_folder):
    result = run("--debug", "predict", model_folder, "none.png", "--text", "dog", "--output", "out")
    assert isinstance(result.exception, FileNotFoundError)


def test_predict_writes_masks_and_overlays(model_folder, monkeypatch):
    encoded = {"encode_image": [], "encode_text": []}

    def watch(name):
        encode = getattr(LavtForReferringSegmentation, name)

        def counting(self, values, *others):
            encoded[name].append(len(values))
            return encode(self, values, *others)

        monkeypatch.setattr(LavtForReferringSegmentation, name, counting)

    for name in encoded:
        watch(name)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees.
    images = [noise(Path("a/photo.png")), noise(Path("b/photo.jpg"), exif=exif)]
    texts = ["the left dog", "../Red  circle/é!"]
    model, processor = AutoModel.from_pretrained(model_folder), AutoProcessor.from_pretrained(model_folder)
    outputs = {}
    with torch.no_grad():
        for path in images:
            for text in texts:
                outputs[path, text] = model(**processor(Image.open(path), text, return_tensors="pt"))
    threshold = torch.stack([output.logits for output in outputs.values()]).sigmoid().median().item()
    for counts in encoded.values():
        counts.clear()
    options = ["--text", texts[0], "--text", texts[1], "--output", "out", "--threshold", threshold]
    printed = output_of("predict", model_folder, *images, *options)

    names = ["photo_1_the-left-dog", "photo_2_red-circle-e", "photo-2_1_the-left-dog", "photo-2_2_red-circle-e"]
    assert encoded == {"encode_image": [1, 1], "encode_text": [2, 2]}
    expected_files = {*names, "photo_overlay", "photo-2_overlay"}
    assert {path.name for path in Path("out").iterdir()} == {f"{name}.png" for name in expected_files}

    shares = []
    lines = printed.splitlines()
    for line, name, (path, text) in zip(lines, names, outputs, strict=True):
        height, width = (40, 50) if path.suffix == ".png" else (50, 40)
        (expected,) = processor.post_process_referring_segmentation(outputs[path, text], [(height, width)], threshold)
        mask = np.asarray(Image.open(f"out/{name}.png"))
        assert set(np.unique(mask)) <= {0, 255}
        assert mask.shape == (height, width)
        assert np.mean((mask == 255) != expected["mask"].numpy()) < 0.01
        shares.append(np.mean(mask == 255))
        assert line == f"out/{name}.png  score {expected['score']:.3f}  {100 * shares[-1]:.1f} % of pixels"
        overlay = Image.open(f"out/{name.split('_')[0]}_overlay.png")
        assert overlay.width == width
        assert overlay.height > height
    assert any(0.1 < share < 0.9 for share in shares)


def test_predict_threshold_and_dtype(model_folder):
    image = noise(Path("photo.png"))
    arguments = ["predict", model_folder, image, "--text", "dog", "--output", "out", "--dtype", "bfloat16"]
    assert output_of(*arguments, "--threshold", 0.99).endswith("score 0.000  0.0 % of pixels  no target\n")
    assert output_of(*arguments, "--threshold", 0.01).endswith("100.0 % of pixels\n")


def test_predict_needs_whole_images(model_folder):
    def predict_error(path: Path) -> str:
        return error_of("predict", model_folder, path, "--text", "dog", "--output", "out")

    truncated = noise(Path("truncated.png"))
    truncated.write_bytes(truncated.read_bytes()[:2000])
    Path("text.jpg").write_text("no image")
    # The header of a format whose decoder raises errors of its own class.
    Path("odd.png").write_bytes(b"BLP2\xff\xff\xff\xff\1\0\0\0\x38\0\0\0\x28\0\0\0" + bytes(1200))
    assert predict_error(Path("odd.png")).startswith("odd.png is damaged or no image (Unknown BLP compression -1)")
    assert predict_error(Path("none.png")).startswith("none.png: there is no such image file")
    assert predict_error(truncated).startswith("truncated.png is damaged or no image")
    assert predict_error(Path("text.jpg")).startswith("text.jpg is damaged or no image")
    assert predict_error(huge_png(Path("huge.png"))).startswith("huge.png is too large to open")


def test_a_bad_image_is_reported_before_the_model_loads_and_the_rest_goes_on(model_folder):
    good, bad, late = noise(Path("good.png")), Path("bad.png"), noise(Path("late.png"))
    bad.write_text("no image")
    arguments = ["--text", "dog", "--output", "out", "--json", "all.json"]
    failed = run("predict", model_folder, good, bad, "none.png", late, *arguments)
    assert failed.exit_code == 1
    errors = [line for line in failed.stderr.splitlines() if line.startswith("Error: ")]
    assert [error.split()[1] for error in errors] == ["bad.png", "none.png:"]
    assert [line.split()[0] for line in failed.stdout.splitlines()] == ["out/good_1_dog.png", "out/late_1_dog.png"]
    assert [each["image"] for each in json.loads(Path("all.json").read_text())] == ["good.png", "late.png"]
    failed = run("predict", "missing", good, bad, *arguments)
    first, second = failed.stderr.splitlines()
    assert first.startswith("Error: bad.png") and second.startswith("Error: missing is no model")


def test_predict_takes_folders_and_patterns(model_folder):
    for name in ("a/10.png", "a/9.JPG", "a/deep/1.png", "b/[1].png", "b/1.png"):
        noise(Path(name))
    Path("a/notes.txt").write_text("no image")
    Path("broken").mkdir()
    Path("broken/gone.png").symlink_to("nowhere.png")
    Path("a/.hidden.png").write_text("no image")
    Path("empty").mkdir()

    def segmented(*arguments: object) -> list[str]:
        output_of("predict", model_folder, *arguments, "--text", "dog", "--output", "out", "--json", "all.json")
        return [each["image"] for each in json.loads(Path("all.json").read_text())]

    assert segmented("a", "b/1.png") == ["a/10.png", "a/9.JPG", "b/1.png"]
    assert segmented("a/*.png", "a/**/1*.png", "b/[1].png") == ["a/10.png", "a/deep/1.png", "b/[1].png"]
    noise(Path("[ab]/3.png"))
    assert segmented("[ab]/[3].png", "[ab]/*.png") == ["[ab]/3.png"]
    arguments = ["--text", "dog", "--output", "out"]
    assert error_of("predict", model_folder, "c/*.png", *arguments).startswith("c/*.png: there is no such image file")
    assert error_of("predict", model_folder, "broken", *arguments).startswith("broken/gone.png: there is no such")
    assert error_of("predict", model_folder, "empty", *arguments).startswith("empty holds no images or videos")


def test_predict_writes_scores_boxes_and_masks_as_json(model_folder):
    image = noise(Path("photo.png"))
    arguments = ["--text", "the left dog", "--text", "red", "--output", "out", "--json", "new/all.json"]
    printed = output_of("predict", model_folder, image, *arguments).splitlines()
    (record,) = json.loads(Path("new/all.json").read_text())
    assert record["image"] == "photo.png"
    for line, text, each in zip(printed, ("the left dog", "red"), record["predictions"], strict=True):
        mask = np.asarray(Image.open(each["file"])) == 255
        assert each["text"] == text and mask.any() and each["present"] is True
        assert np.array_equal(decode_mask(each["mask"]), mask)
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        assert each["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert line.startswith(f"{each['file']}  score {each['score']:.3f}")
    assert not decode_mask(record["predictions"][0]["mask"]).all()
    output_of("predict", model_folder, image, *arguments, "--threshold", 1.0)
    (record,) = json.loads(Path("new/all.json").read_text())
    for each in record["predictions"]:
        assert (each["score"], each["present"], each["bbox"]) == (0, False, [0, 0, 0, 0])
    assert "out is a folder" in error_of("predict", model_folder, image, *arguments[:-1], "out")


def test_predict_prints_the_text_that_a_legend_cannot_show(model_folder, monkeypatch):
    monkeypatch.setattr("hf_refseg.visualization.layout.SYSTEM_FONTS", ())
    arguments = ["--text", "dog", "--text", "大きい犬", "--output", "out"]
    first, second = output_of("predict", model_folder, noise(Path("photo.png")), *arguments).splitlines()
    assert first.endswith("of pixels") and second.startswith("out/photo_2.png") and second.endswith("  2 is 大きい犬")


def test_predict_needs_text_and_device(model_folder):
    arguments = ["predict", model_folder, noise(Path("photo.png")), "--output", "out"]
    assert "expression is empty" in error_of(*arguments, "--text", "dog", "--text", " ")
    assert "no device 'abacus'" in error_of(*arguments, "--text", "dog", "--device", "abacus")
    assert run(*arguments).exit_code == 2
    assert not Path("out").exists()


def test_predict_needs_a_model_of_this_library(model_folder, tmp_path):
    def predict_error(folder: object) -> str:
        return error_of("predict", folder, image, "--text", "dog", "--output", "out")

    image = noise(Path("photo.png"))
    for name in ("other", "bert", "lone", "cut", "part"):
        Path(name).mkdir()
    Path("other/notes.txt").write_text("hello")
    assert "config.json, or a Hub id such as user/name; found notes.txt" in predict_error("other")
    assert "there is no such folder" in predict_error("missing")
    assert predict_error("user/missing").startswith("user/missing cannot be loaded: there is no folder of this name")
    assert predict_error("./missing").endswith("there is no such folder.")
    Path("bert/config.json").write_text('{"model_type": "bert"}')
    assert "bert is a model of type bert; known methods: " in predict_error("bert")

    tiny_lavt().save_pretrained("lone")
    assert "no processor_config.json" in predict_error("lone")
    AutoProcessor.from_pretrained(model_folder).save_pretrained("lone")
    weights = Path("lone/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "the weights are damaged" in predict_error("lone")


def test_a_processor_whose_texts_do_not_fit_is_an_error(model_folder):
    tiny_lavt().save_pretrained("long")
    processor = AutoProcessor.from_pretrained(model_folder)
    processor.max_text_length = 33
    processor.save_pretrained("long")
    error = error_of("predict", "long", noise(Path("photo.png")), "--text", "dog", "--output", "out")
    assert error.startswith("The processor's max_text_length is 33, but the model takes texts of at most 32 tokens")


def test_incomplete_weights_are_an_error(model_folder):
    model = tiny_lavt()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("decoder.classifier")}
    model.save_pretrained("part", state_dict=state)
    AutoProcessor.from_pretrained(model_folder).save_pretrained("part")
    error = error_of("predict", "part", noise(Path("photo.png")), "--text", "dog", "--output", "out")
    assert "2 weights are missing, such as decoder.classifier.bias" in error


@pytest.fixture(scope="module")
def damaged_model(model_folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows no word but NaN."""
    folder = tmp_path_factory.mktemp("damaged") / "tiny"
    model = tiny_lavt()
    model.get_input_embeddings().weight.data.fill_(torch.nan)
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_a_damaged_model_segments_and_scores_nothing(damaged_model, shapes_folder):
    paths = [noise(Path(name)) for name in ("a.png", "b.png")]
    result = run("predict", damaged_model, *paths, "-t", "the left dog", "-o", "masks")
    assert result.exit_code == 1 and not result.stdout and not any(Path("masks").iterdir())
    for path in paths:
        assert f"Error: {path}: 100 % of the model's logits are NaN or infinite. Either" in result.stderr
    error = error_of("evaluate", damaged_model, shapes_folder, "-o", "scores")
    assert error.startswith("Image '") and "100 % of the model's logits are NaN" in error
    assert not any(Path("scores").iterdir())
    error = error_of("explain", damaged_model, "a.png", "the left dog", "-o", "explained")
    assert "% of the model's explanations are NaN or infinite" in error and not Path("explained").exists()


@pytest.mark.parametrize("way", ["first images", "streamed", "shuffled"])
def test_evaluate_writes_scores_and_cases(model_folder, shapes_folder, way):
    shuffled = way == "shuffled"
    options = ["--shuffle-sentences"] if shuffled else ["--max-images", 2]
    options += ["--streaming"] if way == "streamed" else []
    printed = output_of("evaluate", model_folder, shapes_folder, *options, "--batch-size", 3, "--output", "results")

    name = "shapes_val_original_shuffled" if shuffled else "shapes_val_original"
    written = json.loads(Path(f"results/{name}.json").read_text())
    rows = load_refseg(str(shapes_folder))["val"]
    model, processor = AutoModel.from_pretrained(model_folder), AutoProcessor.from_pretrained(model_folder)
    expected = evaluate_model(
        model, processor, with_shuffled_sentences(rows) if shuffled else rows, max_examples=None if shuffled else 2
    )
    assert 0 < expected.metrics["oIoU"] < 100
    assert written["metrics"] == pytest.approx(expected.metrics)
    assert written["images"] == (3 if shuffled else 2)
    assert written["sentences"] == len(written["records"]) == expected.sentences
    assert written["training_regime"] == "unknown"
    assert (written["model"], written["dataset"]) == (str(model_folder), str(shapes_folder))
    assert (written["split"], written["protocol"], written["shuffled_sentences"]) == ("val", "original", shuffled)
    assert read_result(Path(f"results/{name}.json")).records == written["records"]
    low, high = written["intervals"]["oIoU"]
    scores = [line.split() for line in printed.splitlines()]
    assert ["oIoU", f"{written['metrics']['oIoU']:.2f}", f"{low:.2f}", "to", f"{high:.2f}"] in scores
    assert printed.splitlines()[-2:] == [f"results/{name}.json", f"results/{name}.png"]
    # Four columns, and one row for each of the five worst and five best sentences.
    picture = Image.open(f"results/{name}.png")
    assert picture.height > 10 * 200


def test_evaluate_breaks_scores_down_and_probes_on_request(model_folder, shapes_folder):
    arguments = ["evaluate", model_folder, shapes_folder, "--max-images", 2, "--output", "results"]
    result = run(*arguments, "--breakdown", "--probes")
    assert result.exit_code == 0 and "misspelled: 100%" in result.stderr, result.output
    printed, written = result.stdout, json.loads(Path("results/shapes_val_original.json").read_text())
    kinds = [group["kind"] for group in written["breakdown"]]
    assert list(dict.fromkeys(kinds)) == ["words", "length", "area", "same category", "category"]
    lengths = [group["sentences"] for group in written["breakdown"] if group["kind"] == "length"]
    assert sum(lengths) == written["sentences"]
    assert {group["images"] for group in written["breakdown"]} <= {1, 2}
    shuffled, *_ = written["probes"]
    assert (shuffled["probe"], shuffled["sentences"]) == ("shuffled", written["sentences"])
    assert shuffled["unchanged"] == pytest.approx(written["metrics"])
    for name, drop in shuffled["drops"].items():
        assert drop == pytest.approx(shuffled["unchanged"][name] - shuffled["changed"][name])
    lines = [line.split() for line in printed.splitlines()]
    assert ["words", "place"] in [line[:2] for line in lines]
    assert ["mirrored", str(written["probes"][1]["sentences"])] in [line[:2] for line in lines]
    assert Image.open("results/shapes_val_original_breakdown.png").width > 500
    assert not list(Path("results").glob("*.unfinished"))
    assert "leave --shuffle-sentences out" in error_of(*arguments, "--probes", "--shuffle-sentences")
    assert "without streaming" in error_of(*arguments, "--probes", "--streaming")
    told = error_of(*arguments, "--probes", "--max-images", 1, "--output", "one_image")
    assert "cannot all go to other images" in told and not Path("one_image").exists()


def test_evaluate_names_its_results_by_data_set_split_and_protocol(model_folder):
    arguments = ["--data-dir", REFER_API, "--split-by", "umd", "--split", "test", "--protocol", "lavt"]
    output_of("evaluate", model_folder, "refcocog", *arguments, "--max-images", 1)
    folder = Path("runs/evaluate/tiny")
    names = {"refcocog_umd_test_lavt.json", "refcocog_umd_test_lavt.png"}
    assert {path.name for path in folder.iterdir()} == {*names, "times.jsonl"}
    written = json.loads((folder / "refcocog_umd_test_lavt.json").read_text())
    assert (written["data_dir"], written["split_by"]) == (str(REFER_API), "umd")


def test_other_peoples_data_is_prepared_and_scored_under_its_own_name(model_folder, tmp_path):
    root = make_rrsisd(tmp_path / "data")
    ways = ["--dataset", "rrsisd", "--on-bad-record", "skip", "--on-size-mismatch", "resize_mask"]
    printed = output_of("prepare", "refer", root, *ways, "--output", "out")
    assert [line.split()[:2] for line in printed.splitlines()[1:4]] == [["train", "1"], ["val", "1"], ["test", "1"]]
    card = Path("out/README.md").read_text().replace("\\", "")
    assert "dataset = rrsisd" in card and "# REFER format for referring segmentation" in card
    # Equal ids of other data in the format mean other images.
    assert image_collection("out") == "out"
    output_of("evaluate", model_folder, "refer", "--data-dir", root, "--split", "test", *ways, "--output", "results")
    written = json.loads(Path("results/refer_rrsisd_test_original.json").read_text())
    assert (written["dataset"], written["split"], written["images"]) == ("refer rrsisd", "test", 1)
    assert "pass dataset" in error_of("prepare", "refer", root, "--output", "other")


@pytest.mark.parametrize("command", ["evaluate", "prepare"])
def test_every_option_of_the_data_sets_is_one_of_the_command(command):
    parameters = {parameter.name for parameter in get_command(app).commands[command].params}
    # A command with one split reads that one alone.
    assert data_options().keys() - parameters == ({"splits"} if "split" in parameters else set())


def test_evaluate_takes_the_data_options_of_the_run_that_trained_the_model(model_folder):
    options = {"train_size": 1, "val_size": 3, "test_size": 1, "image_size": 64, "seed": 7}
    shutil.copytree(model_folder, "run")
    write_run_options("run", {"datasets": {"refshapes": {**options, "no_longer_there": 1}}})
    rows = load_refseg("refshapes", **options)["val"]
    printed = output_of("evaluate", "run", "refshapes", "--output", "out")
    written = json.loads(Path("out/refshapes_val_original.json").read_text())
    expected = evaluate_model(AutoModel.from_pretrained("run"), AutoProcessor.from_pretrained("run"), rows)
    assert written["metrics"] == pytest.approx(expected.metrics) and written["sentences"] == expected.sentences
    assert "Data as in the run that trained the model: train_size 1, val_size 3, test_size 1, image_s" in printed
    assert written["training_regime"] == "single"
    output_of("evaluate", "run", "refshapes", "--val-size", "2", "--training-regime", "extra", "--output", "out")
    written = json.loads(Path("out/refshapes_val_original.json").read_text())
    assert (
        written["training_regime"] == read_result(Path("out/refshapes_val_original.json")).training_regime == "extra"
    )
    assert (written["images"], written["val_size"], written["seed"]) == (2, 2, 7)
    Path("run/run_options.json").write_text("{")
    assert "run_options.json is damaged" in error_of("evaluate", "run", "refshapes")


def test_evaluate_scores_sentences_without_target(model_folder):
    sizes = {"train_size": 1, "val_size": 6, "test_size": 1, "image_size": 64}
    prepare_dataset("grefshapes", None, "shapes", **sizes)
    printed = output_of("evaluate", model_folder, "shapes", "--protocol", "rela", "--output", "results")
    written = json.loads(Path("results/shapes_val_rela.json").read_text())
    assert written["protocol"] == "rela"
    assert read_result(Path("results/shapes_val_rela.json")).metrics == written["metrics"]
    assert list(written["metrics"]) == ["cIoU", "gIoU", "Pr@0.7", "Pr@0.8", "Pr@0.9", "N-acc", "T-acc"]
    assert {record["no_target"] for record in written["records"]} == {True, False}
    wrong = [record for record in written["records"] if record["no_target"] and record["present"]]
    none = [record for record in written["records"] if record["no_target"]]
    assert written["metrics"]["N-acc"] == pytest.approx(100 - 100 * len(wrong) / len(none))
    names = [line.split()[0] for line in printed.splitlines()]
    assert names[1:9] == ["score", *written["metrics"]]


def test_evaluate_names_what_is_wrong(model_folder, shapes_folder):
    def evaluate_error(*arguments: object) -> str:
        return error_of("evaluate", model_folder, *arguments)

    Path("empty").mkdir()
    assert "Unknown protocol 'nope': choose one of cris" in evaluate_error(shapes_folder, "--protocol", "nope")
    assert "no split 'testA'. Choose one of: train, val, test" in evaluate_error(shapes_folder, "--split", "testA")
    assert "Unknown data set 'nope'. Choose one of: refcoco" in evaluate_error("nope")
    assert "expected README.md and data/*.parquet, found nothing" in evaluate_error("empty")
    assert "pass data_dir" in evaluate_error("refcoco")
    assert "refshapes cannot be streamed" in evaluate_error("refshapes", "--streaming")
    assert "Expected refcoco/refs(unc).p" in evaluate_error("refcoco", "--data-dir", "empty")
    assert "takes no --mask-overlap" in evaluate_error(shapes_folder, "--mask-overlap", "union")
    assert "takes no data_dir" in evaluate_error("refshapes", "--data-dir", "empty")
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", DATASETS)
def test_an_option_that_is_not_of_the_data_set_is_refused(model_folder, name):
    for option in sorted(data_options().keys() - {"data_dir", "split_by", *option_names(name)}):
        flag = f"--{option.replace('_', '-')}"
        value = {"mask_overlap": "union", "image_dir": "."}.get(option, 0)
        for command in (["prepare", name, "--output", "out"], ["evaluate", model_folder, name]):
            assert error_of(*command, flag, value) == f"'{name}' takes no {flag}. Leave it out."
    assert not Path("out").exists() and not Path("runs").exists()


def test_prepare_says_first_that_there_is_no_such_data_set():
    assert "Unknown data set 'nope'" in error_of("prepare", "nope", "--output", "out", "--seed", 0)


LONG = "x" * 3000


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "MODEL", LONG],
        ["evaluate", "MODEL", "a\n\x1b[31mb"],
        ["evaluate", "MODEL", "SHAPES", "--split", LONG],
        ["evaluate", "MODEL", "SHAPES", "--protocol", LONG],
        ["evaluate", "MODEL", "SHAPES", "--device", "\x1b[31m" + LONG],
        ["evaluate", LONG, "SHAPES"],
        ["predict", LONG, "photo.png", "--text", "red", "--output", "out"],
        ["predict", "MODEL", "\x1b[31m.png", "--text", "red", "--output", "out"],
        ["prepare", "\x1b[31m" + LONG, "--output", "out"],
        ["prepare", "refcoco", "--split-by", LONG, "--output", "out"],
        ["info", LONG],
        ["info", "\x1b[31mred"],
        ["convert", "lavt", LONG, "out"],
        ["merge", LONG, "out"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_error_is_one_short_printable_line(model_folder, shapes_folder, arguments):
    noise(Path("photo.png"))
    places = {"MODEL": model_folder, "SHAPES": shapes_folder}
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: ") and error.isprintable() and len(error) <= len("Error: ") + 500


def test_evaluate_takes_no_folder_of_predictions(model_folder, shapes_folder):
    output_of("predict", model_folder, noise(Path("photo.png")), "--text", "red", "--output", "predictions")
    error = error_of("evaluate", "predictions", shapes_folder)
    assert error.startswith("predictions is no model: expected a folder with config.json")
    error = error_of("evaluate", model_folder, "predictions")
    assert error.startswith("predictions is no prepared data set: expected README.md")
    assert "such as 'folder' for your own pictures" in error
    assert not Path("runs").exists()


def test_evaluate_names_a_damaged_data_set(model_folder):
    sizes = {"train_size": 1, "val_size": 1, "test_size": 1, "image_size": 64}
    prepare_dataset("refshapes", None, "shapes", **sizes)
    (shard,) = Path("shapes/data").glob("val-*")
    shard.write_bytes(shard.read_bytes()[:500])
    assert error_of("evaluate", model_folder, "shapes").startswith("shapes is damaged (")
    assert error_of("info", "shapes").startswith("shapes is damaged (")


def test_prepare_writes_what_load_dataset_reads():
    printed = output_of("prepare", "refcoco", "--data-dir", REFER_API, "--output", "refcoco")
    read = datasets.load_dataset("refcoco")
    assert {split: len(rows) for split, rows in read.items()} == {"train": 17, "val": 6, "testA": 6, "testB": 6}
    assert printed.splitlines()[1].split()[:2] == ["train", "17"]
    assert output_of("info", "refcoco") == printed


def test_prepare_passes_its_options_on(monkeypatch):
    uploads = []
    monkeypatch.setattr("hf_refseg.data.prepare.upload_dataset", lambda *arguments: uploads.append(arguments))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    sizes = ["--train-size", 1, "--val-size", 2, "--test-size", 1, "--image-size", 80, "--seed", 7]
    output_of("prepare", "refshapes", "--output", "shapes", *sizes, "--push-to-hub", "user/shapes")
    rows = datasets.load_dataset("shapes", split="val")
    assert len(set(rows["image_id"])) == 2
    assert rows[0]["image"].size == (80, 80)
    assert uploads == [(Path("shapes"), "user/shapes")]
    begun = json.loads(Path("shapes/.prepare.json").read_text())
    assert begun["seed"] == 7

    arguments = ["prepare", "refcocog", "--data-dir", REFER_API, "--split-by", "google"]
    output_of(*arguments, "--mask-overlap", "background", "--output", "refcocog")
    begun = json.loads(Path("refcocog/.prepare.json").read_text())
    assert (begun["split_by"], begun["mask_overlap"]) == ("google", "background")


def test_prepare_needs_a_token_to_push(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    error = error_of("prepare", "refshapes", "--output", "shapes", "--push-to-hub", "user/shapes")
    assert error.startswith("--push-to-hub needs a token") and "hf auth login" in error
    assert not Path("shapes").exists()


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # Nothing listens there.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    sizes = ["--train-size", 1, "--val-size", 1, "--test-size", 1, "--image-size", 64]
    error = error_of("prepare", "refshapes", "--output", "shapes", *sizes, "--push-to-hub", "user/shapes")
    assert error.startswith("The Hub cannot be reached (") and error.endswith("start the same command again.")


def test_prepare_writes_videos():
    sizes = ["--train-size", 2, "--val-size", 1, "--test-size", 1, "--image-size", 64, "--num-frames", 4]
    printed = output_of("prepare", "refshapes_video", "--output", "moving", *sizes)
    read = datasets.load_dataset("moving")
    assert {split: len(rows) for split, rows in read.items()} == {"train": 2, "val": 1, "test": 1}
    assert [frame.size for frame in read["val"][0]["frames"]] == [(64, 64)] * 4
    assert printed.splitlines()[0].split() == ["split", "referents", "sentences", "videos"]
    assert output_of("info", "moving") == printed
    first = min(Path("moving/data").glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:500])
    assert f"{first} is damaged" in error_of("info", "moving")


def test_prepare_takes_the_folder_of_the_data_as_its_second_argument():
    printed = output_of("prepare", "refcoco", REFER_API, "--output", "refcoco")
    assert printed.splitlines()[1].split()[:2] == ["train", "17"]
    make_metadata(Path("photos"))
    printed = output_of("prepare", "folder", "photos", "--output", "own")
    assert printed.splitlines()[1].split() == ["train", "4", "5", "4"]
    assert {split: len(rows) for split, rows in datasets.load_dataset("own").items()} == {"train": 4, "val": 1}
    assert output_of("prepare", "folder", "--data-dir", "photos", "--output", "own") == printed
    error = error_of("prepare", "folder", "photos", "--data-dir", "other", "--output", "out")
    assert error == "The data lies in photos or in --data-dir other: name one of them."
    assert "refshapes is generated and takes no data_dir" in error_of("prepare", "refshapes", "photos", "-o", "out")
    error = error_of("prepare", "folder", "nowhere", "--output", "out")
    assert error.startswith(f"The folder {Path('nowhere').resolve()} does not exist.")


def test_prepare_names_what_is_wrong():
    arguments = ["prepare", "refcoco", "--data-dir", REFER_API, "--output", "refcoco"]
    assert "Unknown data set 'nope'" in error_of("prepare", "nope", "--output", "out")
    assert "Unknown split_by 'umd' for refcoco. Choose one of: unc" in error_of(*arguments, "--split-by", "umd")
    assert "Unknown mask_overlap 'xor'" in error_of(*arguments, "--mask-overlap", "xor")
    assert "'refcoco' takes no --seed" in error_of(*arguments, "--seed", 1)
    assert "'refshapes' takes no --image-dir" in error_of("prepare", "refshapes", "-o", "out", "--image-dir", "x")
    assert not Path("refcoco").exists()

    verified = run(*arguments, "--verify")
    assert verified.exit_code == 1
    assert "| train | referents | 42404 | 17 | -42387 |" in verified.stderr.splitlines()
    assert not Path("refcoco").exists()

    Path("refcoco").mkdir()
    Path("refcoco/thesis.txt").write_text("all of it")
    assert "refcoco holds other files" in error_of(*arguments)
    assert [path.name for path in Path("refcoco").iterdir()] == ["thesis.txt"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A released checkpoint beside the vocabulary it was trained with."""
    torch.save(released_checkpoint(), tmp_path / "lavt.pth")
    words = (GOLDEN_LAVT / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join(words[:97]), encoding="utf-8")
    return tmp_path / "lavt.pth"


def test_convert_lavt_writes_what_auto_classes_load(checkpoint):
    heads = ["--text-heads", 4, "--fusion-num-heads", 1, 1, 1, 1]
    printed = output_of("convert", "lavt", checkpoint, "lavt", "--tokenizer", "vocab.txt", *heads)
    assert printed.startswith("lavt  lavt, 1.0 M parameters")
    model, processor = AutoModel.from_pretrained("lavt"), AutoProcessor.from_pretrained("lavt")
    tensors, _ = golden_case("pad")
    with torch.no_grad():
        logits = model(**model_inputs(tensors)).logits
    background, foreground = tensors["logits"].unbind(1)
    assert_close(logits, foreground - background, atol=1e-4, rtol=0)
    assert processor.text_truncation == "released"
    assert processor(Image.new("RGB", (50, 40)), return_tensors="pt")["pixel_values"].shape == (1, 3, 480, 480)
    printed = output_of("predict", "lavt", noise(Path("photo.png")), "--text", "dog", "--output", "out")
    assert printed.startswith("out/photo_1_dog.png  score ")


def test_convert_lavt_passes_options_on(checkpoint):
    options = ["--fusion-num-heads", 2, 1, 1, 4, "--loss-type", "dice"]
    output_of("convert", "lavt", checkpoint, "lavt", "--tokenizer", "vocab.txt", *options)
    config = json.loads(Path("lavt/config.json").read_text())
    assert config["fusion_num_heads"] == [2, 1, 1, 4]
    assert config["loss_type"] == "dice"


def test_convert_lavt_names_what_is_wrong(checkpoint):
    def convert_error(path: object, *options: object) -> str:
        return error_of("convert", "lavt", path, "lavt", *(options or ("--tokenizer", "vocab.txt")))

    torch.save({"model": {"vision.weight": torch.zeros(1)}, "bert_model": {}}, "other.pth")
    torch.save({"weights": 1}, "keys.pth")
    Path("text.pth").write_text("no checkpoint")
    assert "none.pth: there is no such checkpoint" in convert_error("none.pth")
    assert convert_error("other.pth").startswith("other.pth: the checkpoint holds 1 tensors")
    assert convert_error("keys.pth").startswith("keys.pth: the checkpoint has no tensors under 'model'")
    assert convert_error("text.pth").startswith("text.pth: this is no checkpoint")
    vocabulary = GOLDEN_LAVT / "vocab.txt"
    error = convert_error(checkpoint, "--tokenizer", vocabulary)
    assert f"has {len(vocabulary.read_text(encoding='utf-8').splitlines())} words, the checkpoint" in error
    assert "none.txt" in convert_error(checkpoint, "--tokenizer", "none.txt")
    assert "loss_type" in convert_error(checkpoint, "--tokenizer", "vocab.txt", "--loss-type", "nope")
    assert "3 heads" in convert_error(checkpoint, "--tokenizer", "vocab.txt", "--fusion-num-heads", 3, 1, 1, 1)
    assert not Path("lavt").exists()

    Path("lavt").mkdir()
    Path("lavt/thesis.txt").write_text("all of it")
    assert "lavt holds other files" in convert_error(checkpoint)
    assert [path.name for path in Path("lavt").iterdir()] == ["thesis.txt"]
    assert "No such command 'nope'" in run("convert", "nope", checkpoint, "out").output


def test_convert_names_the_tensor_or_file_that_is_wrong(checkpoint):
    def error_with(model: dict, bert: dict) -> str:
        parts = released_checkpoint()
        torch.save({"model": parts["model"] | model, "bert_model": parts["bert_model"] | bert}, "changed.pth")
        return error_of("convert", "lavt", "changed.pth", "lavt", "--tokenizer", "vocab.txt")

    expanded, qkv = torch.zeros(1).expand(10**8, 3, 4, 4), "backbone.layers.0.blocks.0.attn.qkv.weight"
    assert error_with({}, {"adapter.weight": torch.zeros(2)}).startswith(
        "changed.pth: the checkpoint holds 1 tensors that this method does not have, such as text_encoder.adapter."
    )
    assert error_with({}, {3: torch.zeros(2)}).startswith("changed.pth: 'bert_model' of the checkpoint holds 3 of the")
    assert error_with({qkv: torch.tensor(1.0)}, {}).startswith(
        f"changed.pth: {qkv} of the checkpoint has the shape ()"
    )
    assert error_with({qkv: torch.zeros(48, 16).to_sparse()}, {}).startswith(
        f"changed.pth: this is no checkpoint that can be loaded safely: {qkv} is a sparse tensor"
    )
    assert error_with({"backbone.patch_embed.proj.weight": expanded}, {}).startswith(
        "changed.pth: backbone.patch_embed.proj.weight of shape (100000000, 3, 4, 4) needs 19200000000 bytes, but"
    )
    Path("list.json").write_text('["dog", "cat"]')
    Path("latin.txt").write_bytes("[PAD]\ncaf\xe9".encode("latin-1"))
    Path("twice.txt").write_text("[PAD]\ndog\ndog")
    for tokenizer, message in (
        ("list.json", "it should hold a mapping, not a list"),
        ("latin.txt", "is no text in UTF-8"),
        ("twice.txt", ", line 3: 'dog' stands in line 2 already"),
    ):
        error = error_of("convert", "lavt", checkpoint, "lavt", "--tokenizer", tokenizer)
        assert error.startswith(tokenizer) and message in error
    assert not Path("lavt").exists()


@pytest.mark.slow_process
def test_version_is_told_without_importing_the_library(tmp_path):
    code = """
    import sys
    from typer.testing import CliRunner
    from hf_refseg_cli import app
    print(CliRunner().invoke(app, ["--version"]).output, end="")
    print([name for name in ("hf_refseg", "torch") if name in sys.modules])
    """
    assert run_new_python(code, cwd=tmp_path) == f"hf_refseg {version('hf_refseg')}\n[]\n"


def test_info_without_folder_names_everything_known():
    printed = output_of("info")
    told = {line.split("  ")[0]: line for line in printed.splitlines()}
    assert torch.__version__.split("+")[0] in told["torch"]
    assert "lavt" in told["methods"]
    assert "refcoco+" in told["data sets"]
    assert "refshapes" in told["data sets"]
    assert "original, lavt, vlt, cris" in told["protocols"]


def test_info_of_a_model(model_folder):
    model = tiny_lavt()
    model.config.loss_type = "cross_entropy"
    model.save_pretrained("model")
    AutoProcessor.from_pretrained(model_folder).save_pretrained("model")
    lines = [line.split() for line in output_of("info", "model").splitlines()]
    total, decoder = model.num_parameters(), sum(parameter.numel() for parameter in model.decoder.parameters())
    assert ["method", "lavt", "(LavtForReferringSegmentation)"] in lines
    assert ["loss_type", "cross_entropy"] in lines
    assert ["input", "64", "x", "64", "pixels"] in [line[:5] for line in lines]
    assert ["total", f"{total:,}", f"{total:,}", "0"] in lines
    assert ["decoder", f"{decoder:,}", f"{decoder:,}", "0"] in lines
    assert not any(line[:1] == ["fusion_type"] for line in lines)


@pytest.mark.parametrize("rank", [None, 2])
def test_info_of_an_adapter_counts_what_it_trains(model_folder, rank):
    model = add_adapter(AutoModelForReferringSegmentation.from_pretrained(model_folder), lora_rank=rank)
    model.save_pretrained("adapter")
    AutoProcessor.from_pretrained(model_folder).save_pretrained("adapter")
    counted = {line.split()[0]: line.split()[1:] for line in output_of("info", "adapter").splitlines() if line}
    plain = tiny_lavt()
    sizes = {name: sum(each.numel() for each in part.parameters()) for name, part in plain.named_children()}
    held = load_file("adapter/adapter_model.safetensors")
    in_backbone = sum(tensor.numel() for name, tensor in held.items() if ".backbone." in name)
    assert (in_backbone > 0) == (rank is not None)
    frozen = sizes["backbone"]
    assert counted["backbone"] == [f"{each:,}" for each in (frozen + in_backbone, in_backbone, frozen)]
    assert counted["decoder"] == [f"{sizes['decoder']:,}"] * 2 + ["0"]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen += sizes["text_encoder"]
    assert counted["total"] == [f"{each:,}" for each in (frozen + trained, trained, frozen)]


def test_info_of_an_export_says_what_it_takes(tmp_path):
    agreement = {"differences": {"logits": 1e-5}, "tolerance": 9e-4}
    levels = {"resample": 2, "rescale_factor": 1 / 255, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    settings = ExportSettings(
        **{"method": "lavt", "format": "onnx", "graphs": {"model": "model.onnx"}, "opset": 20, "num_frames": None},
        **{"image_size": (96, 64), "keeps_aspect_ratio": False, "max_text_length": 20, "text_truncation": "error"},
        **{"mask_threshold": 0.4, "has_presence": True, "vocab_size": 30, "quantization": None},
        **{"agreement": agreement, "hf_refseg_version": "0.1.0", **levels},
    )
    (tmp_path / "export.json").write_text(json.dumps(settings.to_dict()))
    told = output_of("info", tmp_path)
    assert "96 x 64 pixels" in told and "at most 20 tokens" in told and "(allowed 0.0009)" in told
    assert "name one" in error_of("info", tmp_path, "--image-size", "64")
    (tmp_path / "export.json").write_text(json.dumps({**settings.to_dict(), "image_size": [0, 64]}))
    assert "says nothing usable of image_size" in error_of("info", tmp_path)


def test_info_counts_flops_by_part(model_folder):
    _, parts, steps = output_of("info", model_folder, "--image-size", "64").split("\n\n")
    header, *lines = parts.splitlines()
    assert header.split() == ["part", "parameters", "trained", "frozen", "GFLOPs"]
    counted = count_pass(tiny_lavt().to("meta"), (64, 64), tokens=20)
    assert {line.split()[0]: line.split()[-1] for line in lines} == {
        part: f"{count / 1e9:,.2f}" for part, count in counted.by_part().items()
    }
    header, *lines = steps.splitlines()
    assert header.startswith("step, for an image of 64 x 64 and one sentence")
    assert [line.split("  ")[0] for line in lines] == ["image encoder", "text encoder", "fusion", "decoder"]
    shares = [float(line.split()[-2]) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.3) and shares[-1] == pytest.approx(
        100 * counted.decoding / counted.total, abs=0.06
    )


def test_info_tells_what_training_tasks_cost(tmp_path):
    config = tiny_lavt().config
    config.mask_grounding = {"special_token_ids": [0], "mask_token_id": 4, "predictor_layers": 1}
    model = LavtForReferringSegmentation(config)
    for part in (model, tiny_processor()):
        part.save_pretrained(tmp_path)
    _, parts, _, tasks = output_of("info", tmp_path, "--image-size", "64").split("\n\n")
    assert next(line for line in parts.splitlines() if line.startswith("mask_grounding")).split()[-1] == "-"
    header, line = tasks.splitlines()
    assert header.split("  ")[0] == "training task"
    counted = count_task_flops(model.to("meta"), (64, 64), tokens=20)
    name, parameters, flops, share, _ = line.split()
    assert (name, parameters) == (
        "mask_grounding",
        f"{sum(each.numel() for each in model.mask_grounding.parameters()):,}",
    )
    assert flops == f"{counted[name] / 1e9:.2f}" and share == f"{100 * counted[name] / counted['total']:.2f}"


def test_info_refuses_to_count_flops_of_what_has_none(model_folder, shapes_folder):
    assert "takes images, no clips" in error_of("info", model_folder, "--image-size", "64", "--frames", "2")
    assert "pass that as well" in error_of("info", model_folder, "--frames", "2")
    for name in ([], [shapes_folder]):
        assert "counts the FLOPs of a model: name one" in error_of("info", *name, "--image-size", "64")


@pytest.mark.slow_process
def test_info_of_models_on_the_hub(hub, model_folder, tmp_path):
    code = f"""
    from typer.testing import CliRunner
    from transformers import AutoModel, AutoProcessor
    from hf_refseg import add_adapter
    from hf_refseg_cli import app

    model, processor = (each.from_pretrained({str(model_folder)!r}) for each in (AutoModel, AutoProcessor))
    model.push_to_hub("tester/model")
    processor.push_to_hub("tester/model")
    add_adapter(AutoModel.from_pretrained("tester/model")).push_to_hub("tester/adapter")
    processor.push_to_hub("tester/adapter")
    for name in ({str(model_folder)!r}, "tester/model", "tester/adapter", "tester/missing"):
        result = CliRunner().invoke(app, ["info", name])
        print(result.stdout, result.stderr[:30], result.exit_code, sep="@", end="@")
    """
    printed = run_python(code, cwd=tmp_path, env=hub.environment("writer")).split("@")
    local, _, done, *printed = printed
    assert done == "0" and printed[0] == local and printed[2] == "0"
    told = " ".join(printed[3].split())
    assert "base model tester/model" in told and "heads alone" in told and printed[5] == "0"
    assert printed[7].startswith("Error: tester/missing is not a") and printed[8] == "1"


def test_info_of_a_model_that_pads_images(model_folder):
    tiny_lavt().save_pretrained("model")
    processor = AutoProcessor.from_pretrained(model_folder)
    processor.image_processor = RefSegImageProcessor(size={"longest_edge": 96})
    processor.save_pretrained("model")
    assert "longer side 96 pixels, padded to a square, 20 tokens" in output_of("info", "model")


def test_info_of_a_prepared_data_set(shapes_folder):
    rows = load_refseg(str(shapes_folder))["val"]
    sentences = sum(len(row["sentences"]) for row in rows.remove_columns("image"))
    lines = [line.split() for line in output_of("info", shapes_folder).splitlines()]
    assert lines[0] == ["split", "referents", "sentences", "images"]
    assert ["val", str(len(rows)), str(sentences), "3"] in lines


@pytest.mark.parametrize("way", ["option", "environment"])
def test_info_checks_a_prepared_data_set_for_leakage(way, monkeypatch):
    prepare_dataset("refcoco", REFER_API, "refcoco")
    train = datasets.load_dataset("refcoco", split="train")["image_id"][:]
    leaked, images = train[0], len(set(train))
    arguments = ["info", "--leakage", "refcoco"]
    if way == "option":
        arguments += ["--leakage-list", "list.json"]
    else:
        monkeypatch.setenv("HF_REFSEG_LEAKAGE_LIST", "list.json")
    # Of these, the second is in no split, the third in val alone.
    Path("list.json").write_text(f"[{leaked}, 42, 300034]")
    error = error_of(*arguments)
    assert error.startswith(
        f"refcoco: 1 of {images} training images, with {train.count(leaked)} of {len(train)} referents, are on the "
        "list list.json"
    )
    Path("list.json").write_text("[42, 300034]")
    assert output_of(*arguments) == (
        f"refcoco: none of its {images} training images (COCO train2014) is on the list list.json "
        "(2 ids of COCO train2014).\n"
    )


def test_info_names_what_the_check_for_leakage_lacks(shapes_folder, model_folder, monkeypatch):
    monkeypatch.delenv("HF_REFSEG_LEAKAGE_LIST", raising=False)
    Path("list.json").write_text("[25]")
    listed = ["--leakage", "--leakage-list", "list.json"]
    assert "none of its 2 training images (RefShapes) is on the list" in output_of("info", shapes_folder, *listed)
    assert "pass --leakage-list FILE" in error_of("info", shapes_folder, "--leakage")
    assert "checks a folder that `hf-refseg prepare` wrote" in error_of("info", *listed)
    assert "checks a folder that `hf-refseg prepare` wrote" in error_of("info", model_folder, *listed)
    Path("list.json").write_text("{}")
    assert "list.json should hold a JSON list of image ids" in error_of("info", shapes_folder, *listed)
    Path("list.json").write_text("[25]")
    shutil.copytree(shapes_folder, "other")
    card = Path("other/README.md")
    card.write_text(card.read_text(encoding="utf-8").replace("pretty_name: RefShapes", "pretty_name: Mine"))
    assert "where its images come from is unknown" in error_of("info", "other", *listed)


def test_info_of_something_else():
    Path("other").mkdir()
    Path("other/notes.txt").write_text("hello")
    assert "found notes.txt" in error_of("info", "other")
    assert "it is a file" in error_of("info", "other/notes.txt")
