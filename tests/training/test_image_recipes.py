"""A recipe for images is trained, resumed and scored, and leaves a folder that loads like any model."""

import io
import json
import logging
import re
import shutil
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from phrasecut_tree import make_phrasecut
from PIL import Image
from places import EXAMPLES, FIXTURES
from safetensors.torch import load_file
from tiny_configs import CLIP, SAM, THREE_STAGES
from tiny_recipes import TINY, UNSCORED, write_recipe
from transformers import AutoModel, AutoProcessor, SwinConfig, SwinModel
from typer.testing import CliRunner

from hf_refseg import M3AttConfig, load_refseg
from hf_refseg.training.arguments import ModelArguments, RefSegTrainingArguments
from hf_refseg.training.building import build_model_and_processor
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.new_models import build_image_processor
from hf_refseg.training.options import find_data_class, parse_options, run_script, take_debug
from hf_refseg.training.recipes import run_recipe
from hf_refseg_cli import app

REFER_API = FIXTURES / "refer_api"
RECIPES = [
    path
    for path in sorted((EXAMPLES / "recipes").glob("*.yaml"))
    if find_data_class([str(path)]) is ImageDataArguments
]


def parse(arguments: list[str]) -> tuple[ModelArguments, ImageDataArguments, RefSegTrainingArguments]:
    return parse_options(arguments, ImageDataArguments, "")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Finished(NamedTuple):
    """A finished run: its recipe, output folder and report, and what it printed."""

    recipe: Path
    folder: Path
    report: dict
    printed: str


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, cache, pictures=1)
    printed = io.StringIO()
    with redirect_stdout(printed):
        report = run_recipe([str(recipe), "--max_steps", "3", "--protocol", "lavt"])
    return Finished(recipe, folder / "run", report, printed.getvalue())


def test_a_run_scores_every_split_but_train_under_the_named_protocol(finished) -> None:
    _, folder, report, _ = finished
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(report))
    assert list(report["splits"]) == ["val", "test"]
    assert report["training"]["steps"] == 3
    for result in report["splits"].values():
        assert result["protocol"] == "lavt" and result["images"] == 2 and result["sentences"] > 2
        assert {"oIoU", "mIoU", "Pr@0.5", "Pr@0.9"} <= result["metrics"].keys()


def test_the_folder_loads_and_predicts(finished, caplog, monkeypatch) -> None:
    folder = finished.folder
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    image = Image.new("RGB", (50, 40), "red")
    with torch.no_grad():
        outputs = model(**processor(image, "the red circle", return_tensors="pt"))
    result = processor.post_process_referring_segmentation(outputs, target_sizes=[(40, 50)])[0]
    assert result["mask"].shape == (40, 50)
    assert "[UNK]" not in processor.tokenizer.tokenize("the leftmost red circle")


def test_the_model_card_says_what_happened(finished) -> None:
    _, folder, report, _ = finished
    card = ModelCard.load(folder / "README.md")
    assert re.search(r"\| steps \| 3 of 3 \|", card.text)
    assert re.search(r"\| batch \| 4 referents \(1 processes, 1 accumulation steps\) \|", card.text)
    assert "learning rate 0.001, weight decay 0.01, polynomial schedule" in card.text
    scores = {(entry.dataset_split, entry.metric_type): entry.metric_value for entry in card.data.eval_results}
    assert scores["val", "oIoU"] == pytest.approx(report["splits"]["val"]["metrics"]["oIoU"], abs=1e-4)
    assert card.data.datasets == ["refshapes"]
    assert (folder / "predictions.png").is_file() and "predictions.png" in card.text
    part = report["training_data"]["refshapes"]
    assert (part["images"], part["dropped_images"]) == (4, 0)
    assert f"| refshapes | {part['rows']} | 4 | 0 | 0 |" in card.text
    assert (folder / "pictures" / "step-3.png").is_file()


def test_evaluate_scores_the_scenes_of_the_run(finished) -> None:
    _, folder, report, _ = finished
    scored = CliRunner().invoke(app, ["evaluate", str(folder), "refshapes", "--protocol", "lavt", "-o", str(folder)])
    assert scored.exit_code == 0, scored.output
    written = json.loads((folder / "refshapes_val_lavt.json").read_text())
    assert written["metrics"] == pytest.approx(report["splits"]["val"]["metrics"])


def logged_losses(folder: Path, step: int) -> dict[int, float]:
    """Evaluation loss by step, in the log of the checkpoint of `step`."""
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}


@pytest.mark.slow_process
def test_a_run_goes_on_from_its_newest_complete_checkpoint_unless_told_otherwise(finished, cache, tmp_path) -> None:
    folder = finished.folder
    options = [str(write_recipe(tmp_path, cache, test_splits=[])), "--max_steps", "5"]
    report = run_recipe([*options, "--output_dir", str(folder)])
    assert report["training"]["steps"] == 5
    # The schedule of a run of 5 steps gives other weights after 3 steps than that of the run of 3 steps.
    assert logged_losses(folder, 5)[3] == logged_losses(folder, 3)[3]
    run_recipe([*options, "--output_dir", str(folder / "again")])
    run_recipe([*options, "--output_dir", str(folder), "--resume_from_checkpoint", "never"])
    assert logged_losses(folder, 5) == logged_losses(folder / "again", 5)
    assert logged_losses(folder / "again", 5)[3] != logged_losses(folder / "again", 5)[5]


def test_a_saved_model_can_be_trained_further(finished, cache, tmp_path) -> None:
    folder = finished.folder
    recipe = write_recipe(tmp_path, cache, model_name_or_path=str(folder), config=None, max_steps=1, **UNSCORED)
    report = run_recipe([str(recipe)])
    assert report["training"]["steps"] == 1
    assert ModelCard.load(tmp_path / "run" / "README.md").data.base_model is None


def test_a_saved_model_sees_images_and_texts_of_the_sizes_that_are_named(finished) -> None:
    folder = finished.folder
    sizes = {"image_size": 96, "max_text_length": 9}
    arguments = ModelArguments(model_name_or_path=str(folder), **sizes)
    model, processor = build_model_and_processor(arguments)
    inputs = processor(Image.new("RGB", (50, 40)), " ".join(["red"] * 20), return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (96, 96) and inputs["input_ids"].shape == (1, 9)
    assert model(**inputs).logits.shape[-2:] == (96, 96)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"max_text_length": 600},
            "max_text_length is 600, but the model takes texts of at most 512 tokens: lower it",
        ),
        ({"max_text_length": 0}, "max_text_length has to be 1 at least, got 0"),
        ({"tokenizer_name_or_path": "refshapes_video"}, "has another tokenizer than refshapes_video: leave"),
        ({"model_type": "magnet"}, "is a model of type lavt, not magnet: leave model_type out"),
        ({"word_vectors": "glove.txt"}, "takes no encoders, nor word_vectors"),
        ({"config": {"gate_activatio": "sigmoid"}}, "no field gate_activatio; did you mean gate_activation"),
        ({"config": {"backbone_config": {"embed_dims": 8}}}, "no field embed_dims; did you mean embed_dim"),
        (
            {"config": {"decoder_hidden_size": 24}},
            "go on with another decoder_hidden_size, as its weights have",
        ),
        ({"config": {"language_pathway": False}}, "go on with another language_pathway, as not all of its"),
    ],
)
def test_what_a_saved_model_cannot_follow_is_refused(finished, options, error) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        build_model_and_processor(ModelArguments(model_name_or_path=str(finished[1]), **options))


def test_a_saved_model_goes_on_with_other_fields_and_takes_training_tasks(finished) -> None:
    folder = str(finished[1])
    config = {
        "loss_type": "dice_boundary",
        "backbone_config": {"drop_path_rate": 0.25},
        "mask_grounding": {"predictor_layers": 1},
        "presence_head": True,
    }
    model, processor = build_model_and_processor(ModelArguments(model_name_or_path=folder, config=config))
    saved = AutoModel.from_pretrained(folder)
    assert (model.config.loss_type, model.config.backbone_config.drop_path_rate) == ("dice_boundary", 0.25)
    assert model.config.backbone_config.embed_dim == saved.config.backbone_config.embed_dim
    assert model.config.mask_grounding.mask_token_id == processor.tokenizer.mask_token_id
    weights, kept = model.state_dict(), saved.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in kept.items())
    assert {name.split(".")[0] for name in weights.keys() - kept.keys()} == {"mask_grounding", "presence_head"}
    inputs = processor(Image.new("RGB", (50, 40), "red"), "the red circle", return_tensors="pt")
    losses = model(**inputs, mask_labels=torch.ones(1, 64, 64, dtype=torch.long)).loss_components
    assert {"mask_grounding", "presence", "boundary"} <= losses.keys()


def test_an_adapter_of_a_changed_saved_model_finds_its_base_again(finished, cache, tmp_path) -> None:
    changed = {"model_name_or_path": str(finished[1]), "config": {"presence_head": True}, "adapter": "heads"}
    run_recipe([str(write_recipe(tmp_path, cache, **changed, max_steps=1, **UNSCORED))])
    assert AutoModel.from_pretrained(tmp_path / "run").config.presence_head
    assert AutoModel.from_pretrained(tmp_path / "run" / "base_model").config.presence_head


def test_a_saved_model_of_one_image_size_alone_refuses_others(tmp_path) -> None:
    arguments = ModelArguments(model_type="m3att", tokenizer_name_or_path="words", config=M3ATT, image_size=64)
    for saved in build_model_and_processor(arguments, ["a red dog"]):
        saved.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"image_size 32 does not go with this model: .* 64 x 64 pixels, got 32 x 32"):
        build_model_and_processor(ModelArguments(model_name_or_path=str(tmp_path), image_size=32))


def test_a_saved_model_or_tokenizer_without_its_words_is_refused(finished, tmp_path) -> None:
    folder = Path(shutil.copytree(finished[1], tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*")))
    (folder / "tokenizer.json").unlink()
    for options in ({"model_name_or_path": str(folder)}, {"tokenizer_name_or_path": str(folder)}):
        with pytest.raises(ValueError, match=f"{re.escape(str(folder))} holds no tokenizer.json"):
            build_model_and_processor(ModelArguments(**options))


def test_a_damaged_file_of_a_saved_model_is_one_line(finished, cache, tmp_path, capsys) -> None:
    folder = Path(shutil.copytree(finished[1], tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*")))
    recipe = write_recipe(tmp_path, cache, model_name_or_path=str(folder), config=None)
    for name, content in (
        ("tokenizer.json", b"{"),
        ("processor_config.json", b"[]"),
        ("config.json", b"[]"),
        ("model.safetensors", b"cut"),
    ):
        sound = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        status, _, error = run([recipe], capsys)
        (folder / name).write_bytes(sound)
        assert status == 1 and "Traceback" not in error
        assert error.splitlines()[-1].startswith(f"Error: {folder / name}")


def test_a_run_trains_on_a_part_of_the_sentences(cache, tmp_path) -> None:
    options = {"max_train_sentences": 5, "per_device_train_batch_size": 1, "num_train_epochs": 1, **UNSCORED}
    report = run_recipe([str(write_recipe(tmp_path, cache, **options, save_strategy="no"))])
    part = report["training_data"]["refshapes"]
    # A referent is a step of an epoch, and has a sentence at least.
    assert report["training"]["steps"] == part["rows"] <= 5 and part["dropped_rows"] == 0
    for wrong, message in (
        ({"max_train_sentences": 0}, "max_train_sentences has to be 1 at least, got 0"),
        ({"max_train_sentences": 3, "dataset_name": ["refcoco", "refcoco+"]}, "draws from one data set as it is"),
        (
            {"max_train_sentences": 3, "leakage_list": "list.json"},
            "neither with several of them nor with leakage_list",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ImageDataArguments(**wrong)


def test_a_text_length_that_does_not_fit_is_found_at_the_start(cache, tmp_path) -> None:
    config = {**TINY["config"], "text_config": {**TINY["config"]["text_config"], "max_position_embeddings": 30}}
    with pytest.raises(ValueError, match="max_text_length is 40, but the model takes texts of at most 30 tokens"):
        build_model_and_processor(
            ModelArguments(model_type="lavt", tokenizer_name_or_path="refshapes", config=config, max_text_length=40)
        )
    with pytest.raises(ValueError, match="max_text_length is 21, but the model takes texts of at most 20 tokens"):
        M3AttConfig(**M3ATT).check_text_length(21)


def test_an_image_size_that_the_encoder_cannot_take_is_found_at_the_start() -> None:
    text = {name: value for name, value in CLIP.items() if name != "vocab_size"}
    options = {"model_type": "risam", "tokenizer_name_or_path": "refshapes", "max_text_length": 20}
    config = {"backbone_config": SAM, "text_config": text, "hidden_size": 32}
    with pytest.raises(ValueError, match="takes images of 64 x 64 pixels, got 96 x 96"):
        build_model_and_processor(ModelArguments(**options, config=config, image_size=96))
    model, _ = build_model_and_processor(ModelArguments(**options, config=config, image_size=64))
    assert model.config.model_type == "risam"


def test_the_command_line_goes_before_the_recipe_and_the_recipe_before_the_defaults(cache, tmp_path) -> None:
    recipe = write_recipe(tmp_path, cache, weight_decay=0.5, image_size=96)
    options = [str(recipe), "--image_size", "128", "--config", '{"loss_type": "dice_focal"}']
    options += ["--dataset_options", '{"train_size": 5}']
    model, data, training = parse(options)
    assert (model.image_size, training.weight_decay, training.learning_rate) == (128, 0.5, 1e-3)
    assert model.config == {**TINY["config"], "loss_type": "dice_focal"} and model.max_text_length is None
    assert (data.dataset_options["train_size"], data.dataset_options["val_size"]) == (5, 2)


@pytest.mark.parametrize("unset", ["--{} null", "--{}=null"])
def test_null_unsets_an_option_of_the_recipe(cache, tmp_path, unset) -> None:
    encoders = {"vision_name_or_path": "a/b", "text_name_or_path": "c/d", "max_steps": 3, "test_splits": ["val"]}
    recipe = str(write_recipe(tmp_path, cache, **encoders, image_size=96))
    names = ["vision_name_or_path", "text-name-or-path", "test_splits", "config", "image_size", "save_total_limit"]
    given = " ".join([*map(unset.format, names[:2]), "--max_steps 4", *map(unset.format, names[2:])])
    model, data, training = parse([recipe, *given.split()])
    unset_now = (model.vision_name_or_path, model.text_name_or_path, model.image_size, data.test_splits)
    assert unset_now == (None,) * 4 and model.config == {} and training.save_total_limit is None
    assert training.max_steps == 4 and data.dataset_options["train_size"] == 4
    for option in ("learning_rate", "dataset_name"):
        with pytest.raises(ValueError, match=f"{option} is null, but always has a value"):
            parse([recipe, *unset.format(option).split()])
    with pytest.raises(ValueError, match=r"no option --text_name_or_pat.null; did you mean --text_name_or_path"):
        parse([recipe, *unset.format("text_name_or_pat").split()])


def test_a_finished_run_is_not_trained_further(finished, capsys) -> None:
    recipe, folder = finished.recipe, finished.folder
    last = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    before = load_file(folder / f"checkpoint-{last}" / "model.safetensors")
    options = ["--max_steps", str(last), "--test_splits", "val", "--max_test_images", "1"]
    report = run_recipe([str(recipe), *options])
    assert report["training"] == {"steps": last} and list(report["splits"]) == ["val"]
    assert report["splits"]["val"]["images"] == 1
    assert f"checkpoint-{last} is the end of this training" in capsys.readouterr().out
    assert not (folder / f"checkpoint-{last + 1}").exists()
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("options", "differences"),
    [
        # The run of before was finished, or goes on.
        ("--max_steps 1 --config {gate_activation: sigmoid}", ['gate_activation the default, now "sigmoid"']),
        ("--max_steps 2 --config {gate_activation: sigmoid}", ['gate_activation the default, now "sigmoid"']),
        ("--max_steps 1 --learning_rate 0.5 --seed 3", ["learning_rate 0.001, now 0.5", "seed the default, now 3"]),
        ("--max_steps 2 --image_size 32", ["size.height 64, now 32", "size.width 64, now 32"]),
        ("--max_steps 2 --max_text_length 9", ["max_text_length 20, now 9"]),
        ("--max_steps 2 --dataset_options {seed: 1}", ["refshapes.seed the default, now 1"]),
        ("--max_steps 2 --dataset_name refshapes+", ["refshapes.train_size 4, now the default", "refshapes+.train_"]),
        ("--max_steps 2 --per_device_train_batch_size 2", ["referents per step 4, now 2"]),
        ("--max_steps 2 --train_split test", ['train_split the default, now "test"']),
    ],
)
def test_a_run_goes_on_with_its_own_options_alone(stopped, options, differences) -> None:
    options = re.findall(r"\{.*?\}|\S+", options)
    with pytest.raises(ValueError, match="checkpoint-1 was trained with other options: ") as error:
        run_recipe([str(stopped), *options])
    for difference in differences:
        assert difference in str(error.value)


@pytest.fixture(scope="module")
def stopped(cache, tmp_path_factory) -> Path:
    """The recipe of a run that has gone one step, which is its end if `max_steps` is 1."""
    recipe = write_recipe(tmp_path_factory.mktemp("stopped"), cache, **UNSCORED)
    run_recipe([str(recipe), "--max_steps", "1"])
    return recipe


@pytest.mark.slow_process
def test_what_is_logged_scored_and_saved_may_change_and_the_card_tells_the_schedules(stopped, tmp_path) -> None:
    recipe, folder = str(stopped), str(shutil.copytree(stopped.with_name("run"), tmp_path / "run"))
    other = ["--logging_steps", "1", "--eval_strategy", "steps", "--save_strategy", "steps", "--save_steps", "1"]
    same_batch = ["--per_device_train_batch_size", "2", "--total_train_batch_size", "4", "--output_dir", folder]
    scored = ["--protocol", "lavt", "--test_splits", "test", "--max_test_images", "1"]
    scored += ["--per_device_eval_batch_size", "1", "--dataset_options", "{val_size: 1}"]
    for steps, further in (("2", []), ("3", scored)):
        run_recipe([recipe, "--max_steps", steps, *other, *same_batch, *further])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| steps | 3 of 3 |" in card
    assert "| schedule went by | until step 1 that of 1 steps, until step 2 that of 2 steps, then that of 3 |" in card
    with pytest.raises(ValueError, match="checkpoint-3 has gone 3 steps of a training of 3: one of 2, whose"):
        run_recipe([recipe, "--max_steps", "2", "--output_dir", folder])


@pytest.mark.slow_process
def test_a_longer_training_by_epochs_is_not_finished_by_a_shorter_one(cache, tmp_path) -> None:
    recipe = write_recipe(tmp_path, cache, **UNSCORED)
    steps = [run_recipe([str(recipe), "--num_train_epochs", epochs])["training"]["steps"] for epochs in ("0.5", "1")]
    assert steps[0] < steps[1]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_parses_into_the_papers_setting(path) -> None:
    model, data, training = parse([str(path), "--use_cpu"])
    trained_on = data.dataset_name if isinstance(data.dataset_name, str) else "union"
    # Method, variant, data set and, where it is not the usual one, who split it, or the size of the model.
    variant, last = "(_darknet|_presence|_refcoco|_swin_b|_vit_b)?", "(_google|_small|_tiny)?"
    name = rf"{model.model_type}{variant}_{re.escape(trained_on)}{last}"
    assert re.fullmatch(name, path.stem) and path.stem.endswith("_google") == (data.split_by == ["google"])
    assert training.output_dir == f"runs/{path.stem}"
    if data.dataset_name == "refshapes":
        return
    if data.dataset_name == "folder":
        # Ours, for few pictures: nothing of the paper's schedules.
        assert (model.model_name_or_path is None) == (model.vision_name_or_path is not None)
        assert training.train_batch_size == 4 and training.warmup_steps == 10 and training.load_best_model_at_end
        return
    batch = {"btmae": 12, "m3att": 48}.get(model.model_type, 32)
    assert training.train_batch_size * training.gradient_accumulation_steps == batch
    assert (training.max_grad_norm, training.warmup_steps) == (0, 0)
    PAPER_SETTINGS[model.model_type](model, data, training)


def check_lavt(model, data, training, text_layers_trained: int = 10) -> None:
    assert (model.image_size, model.config["drop_path_rate"], data.protocol) == (480, 0.3, "lavt")
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (5e-5, 0.01, 40)
    assert training.text_layers_trained == text_layers_trained
    assert training.lr_scheduler_kwargs == {"lr_end": 0.0, "power": 0.9}


def check_risam(model, data, training) -> None:
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (1e-4, 0, 50)
    assert training.learning_rate_drops == [30, 42]
    assert model.max_text_length == 2 + (17 if data.dataset_name == "refcoco" else 25)
    with_presence = training.output_dir == "runs/risam_presence_grefcoco"
    assert model.config == ({"presence_head": True} if with_presence else {})
    usual = "phrasecut" if data.dataset_name == "phrasecut" else "original"
    assert data.protocol == ("rela" if with_presence else usual)
    image_processor = build_image_processor(model)
    assert (dict(image_processor.size), image_processor.mask_threshold) == ({"longest_edge": 1024}, 0.35)


def check_m3att(model, data, training) -> None:
    """Swin-B and BERT, or Darknet-53 and GRU."""
    is_first = model.text_name_or_path is not None
    learning_rate, size, special_tokens = (5e-5, 480, 2) if is_first else (5e-3, 416, 0)
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (learning_rate, 0, 50)
    assert training.learning_rate_drops and data.protocol == "vlt"
    assert model.max_text_length == special_tokens + (20 if data.dataset_name == "refcocog" else 15)
    sizes = {"image_size": size, "max_text_length": model.max_text_length, "mask_decoder_convolutions": 4}
    recurrent = {
        "text_config": {"model_type": "refseg_recurrent_text"},
        "language_reconstruction": {"sentence_vector": "final_state"},
    }
    assert model.config == sizes | ({} if is_first else recurrent)
    assert model.word_vectors == (None if is_first else "glove.6B.300d.txt")
    image_processor = build_image_processor(model)
    assert (dict(image_processor.size), image_processor.mask_threshold) == ({"height": size, "width": size}, 0.35)


def check_btmae(model, data, training) -> None:
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (1e-4, 0, 200)
    assert training.lr_scheduler_type == "cosine_with_min_lr"
    assert training.lr_scheduler_kwargs == {"min_lr": 1e-5}
    assert (model.image_size, model.config, data.protocol) == (480, {"drop_path_rate": 0.3}, "original")


def check_video_lavt(model, data, training) -> None:
    """Stochastic depth grows with the image encoder."""
    drop_path_rate = {"t": 0.1, "s": 0.2, "b": 0.3}[model.vision_name_or_path[-1]]
    assert (model.config["drop_path_rate"], model.max_text_length, data.protocol) == (drop_path_rate, 22, "lavt")
    assert (training.learning_rate, training.weight_decay, training.text_layers_trained) == (4e-5, 0.01, 10)
    assert data.split_by_of_each() == {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def test_risams_tables_on_phrasecut_are_two_commands_a_row(cache, tmp_path) -> None:
    """Tables 8 and 9 ask a model of RefCOCO on PhraseCut; here a tiny one, trained for a step on a small RefCOCO."""
    text = {name: value for name, value in CLIP.items() if name != "vocab_size"}
    tiny = {"hidden_size": 16, "num_attention_heads": 2, "backbone_config": SAM, "text_config": text}
    options = {
        **{"vision_name_or_path": "null", "text_name_or_path": "null", "tokenizer_name_or_path": "refshapes"},
        **{"image_size": 64, "config": json.dumps({**tiny, "freeze_text_encoder": False}), "data_dir": REFER_API},
        **{"dataset_options": json.dumps({"cache_dir": str(cache)}), "output_dir": tmp_path / "run", "max_steps": 1},
        **{"total_train_batch_size": 2, "per_device_train_batch_size": 2, "dataloader_num_workers": 0, "pictures": 0},
        **{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false", "use_cpu": "true"},
        **{"test_splits": "val", "max_test_images": 1, "report_to": "none", "disable_tqdm": "true"},
    }
    report = run_recipe(["risam_refcoco", *(f"--{name}={value}" for name, value in options.items())])
    assert (report["training"]["steps"], report["protocol"]) == (1, "original")
    assert not AutoModel.from_pretrained(tmp_path / "run").config.freeze_text_encoder
    data = ["--data-dir", str(make_phrasecut(tmp_path / "tree")), "--cache-dir", str(cache), "--split", "test"]
    scored = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "phrasecut", *data, "-o", str(tmp_path)])
    assert scored.exit_code == 0, scored.output
    written = json.loads((tmp_path / "phrasecut_test_phrasecut.json").read_text())
    assert written["sentences"] == 1 and {"cum-IoU", "mean-IoU"} <= written["metrics"].keys()


PAPER_SETTINGS = {
    "btmae": check_btmae,
    "lavt": check_lavt,
    "m3att": check_m3att,
    "magnet": partial(check_lavt, text_layers_trained=12),
    "risam": check_risam,
    "unified_lavt": check_video_lavt,
    "video_lavt": check_video_lavt,
}


@pytest.mark.parametrize("path", [path for path in RECIPES if "refshapes" in path.stem], ids=lambda path: path.stem)
def test_the_recipes_for_refshapes_build_their_models(path) -> None:
    arguments, _, _ = parse([str(path), "--use_cpu"])
    model, processor = build_model_and_processor(arguments)
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert 1e6 < model.num_parameters() < 1e7


def test_the_alignment_does_not_drown_what_the_masks_teach_the_encoders_of_a_new_magnet_on_refshapes() -> None:
    torch.manual_seed(0)
    model, _ = build_model_and_processor(parse(["magnet_refshapes", "--use_cpu"])[0])
    weights, encoders = dict(model.loss_weights), [*model.backbone.parameters(), *model.text_encoder.parameters()]
    labels = torch.zeros(4, 64, 64, dtype=torch.long)
    labels[:, 20:34, 20:34] = 1
    pixels, words = torch.randn(4, 3, 64, 64), torch.randint(5, 70, (4, 8))

    def norm_of_gradients(*counted: str) -> torch.Tensor:
        model.zero_grad()
        model.loss_weights = {name: weight if name in counted else 0.0 for name, weight in weights.items()}
        model(pixels, words, torch.ones_like(words), mask_labels=labels).loss.backward()
        return torch.nn.utils.get_total_norm([each.grad for each in encoders if each.grad is not None])

    # On noise three times the masks' here, and sixty times with the paper's weight.
    assert 0 < norm_of_gradients("alignment") < 10 * norm_of_gradients("cross_entropy", "dice")


M3ATT = {
    "image_size": 64,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "encoder_feedforward": 16,
    "decoder_hidden_size": 8,
    "backbone_config": {**TINY["config"]["backbone_config"], **THREE_STAGES},
    "text_config": {"model_type": "refseg_recurrent_text", "embedding_size": 3, "hidden_size": 8},
}


def test_a_recurrent_text_encoder_reads_the_words_of_the_training_split(cache, tmp_path) -> None:
    (tmp_path / "glove.txt").write_text("zebra 9 9 9\nred 0.5 -0.5 1\nthe 0 0.25 0\n")
    options = {"model_type": "m3att", "tokenizer_name_or_path": "words", "word_vectors": str(tmp_path / "glove.txt")}
    recipe = write_recipe(tmp_path, cache, **options, config=M3ATT, max_steps=1, **UNSCORED)
    assert run_recipe([str(recipe)])["training"]["steps"] == 1
    model, processor = AutoModel.from_pretrained(tmp_path / "run"), AutoProcessor.from_pretrained(tmp_path / "run")
    rows = load_refseg("refshapes", **yaml.safe_load(recipe.read_text())["dataset_options"])["train"]
    words = {word for row in rows for each in row["sentences"] for word in re.findall(r"\w+|[^\w\s]+", each["raw"])}
    assert set(processor.tokenizer.get_vocab()) == {*(word.lower() for word in words), "[PAD]", "[UNK]", "[MASK]"}
    vectors = model.text_encoder.embeddings.weight
    ids = processor.tokenizer.convert_tokens_to_ids(["red", "the"])
    assert (vectors[ids] - torch.tensor([[0.5, -0.5, 1], [0, 0.25, 0]])).abs().max() < 2e-3


def test_a_new_recurrent_text_encoder_goes_with_a_pretrained_image_encoder(tmp_path) -> None:
    SwinModel(SwinConfig(**M3ATT["backbone_config"]), add_pooling_layer=False).save_pretrained(tmp_path / "swin")
    config = {name: value for name, value in M3ATT.items() if name != "backbone_config"}
    arguments = ModelArguments(
        model_type="m3att", vision_name_or_path=str(tmp_path / "swin"), tokenizer_name_or_path="words", config=config
    )
    model, processor = build_model_and_processor(arguments, ["a red dog"])
    assert model.config.text_config.vocab_size == len(processor.tokenizer) == 6


def write_union_recipe(folder: Path, cache: Path, **options) -> Path:
    """RefCOCO and RefCOCOg of the synthetic tree: each has training images in a val or test split of the other."""
    union = {"dataset_name": ["refcoco", "refcocog"], "split_by": ["unc", "umd"], "data_dir": str(REFER_API)}
    return write_recipe(folder, cache, dataset_options={"cache_dir": str(cache)}, **{**union, **options})


@pytest.mark.slow_process
def test_a_union_is_trained_without_held_out_images_and_scored_by_data_set(cache, tmp_path, capsys) -> None:
    listed = tmp_path / "list.json"
    listed.write_text("[300102]")
    tested = ["refcocog/val", "refcoco/testA", "refcoco/testB"]
    options = {"test_splits": tested, "max_test_images": 1, "max_steps": 1, "leakage_list": str(listed)}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "refcocog_oIoU"}
    report = run_recipe([str(write_union_recipe(tmp_path, cache, **options, **best))])
    printed = capsys.readouterr().out
    assert report["dataset"] == ["refcoco", "refcocog"] and list(report["splits"]) == tested
    # Of the images of both training splits, 300000 alone is in no other split and not on the list.
    for name, part in report["training_data"].items():
        image_ids = load_refseg(name, REFER_API, cache_dir=cache)["train"]["image_id"][:]
        rows, images = image_ids.count("300000"), len(set(image_ids))
        assert part == {
            "rows": rows,
            "images": 1,
            "dropped_rows": len(image_ids) - rows,
            "dropped_images": images - 1,
        }
        assert f"{name}: {images - 1} of {images} training images" in printed
    folder = tmp_path / "run"
    log = json.loads((folder / "checkpoint-1" / "trainer_state.json").read_text())["log_history"]
    logged = {name for entry in log for name in entry}
    assert {"eval_refcoco_oIoU", "eval_refcocog_oIoU", "eval_refcoco_loss_dice"} <= logged

    card = ModelCard.load(folder / "README.md")
    assert card.data.datasets == ["refcoco", "refcocog"]
    scores = {(entry.dataset_type, entry.dataset_split, entry.metric_type) for entry in card.data.eval_results}
    assert ("refcocog", "val (first 1 images)", "oIoU") in scores
    assert ("refcoco", "testB (first 1 images)", "oIoU") in scores
    for name, part in zip(("refcoco (unc)", "refcocog (umd)"), report["training_data"].values(), strict=True):
        cells = (part["rows"], part["images"], part["dropped_images"], part["dropped_rows"])
        assert f"| {name} | {' | '.join(map(str, cells))} |" in card.text
    for name in ("refcocog_val", "refcoco_testA"):
        assert (folder / f"predictions_{name}.png").is_file() and f"worst_and_best_{name}.png" in card.text
    assert not (folder / "predictions_refcoco_testB.png").exists()


def test_several_data_sets_and_their_partitions_are_a_list_or_several_values(cache, tmp_path) -> None:
    recipe = str(write_union_recipe(tmp_path, cache))
    _, data, _ = parse([recipe])
    assert data.split_by_of_each() == {"refcoco": "unc", "refcocog": "umd"}
    values = ["--dataset_name", "refcoco", "refcoco+", "--split_by", "google"]
    _, data, _ = parse([recipe, *values])
    assert data.split_by_of_each() == {"refcoco": "google", "refcoco+": "google"}
    _, data, _ = parse(["--output_dir", "run", "--dataset_name", "refcoco+"])
    assert (data.dataset_name, data.split_by_of_each()) == ("refcoco+", {"refcoco+": None})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dataset_name": ["refcoco", "refcoco"]}, "dataset_name names refcoco more than once"),
        ({"split_by": ["unc", "umd", "umd"]}, "split_by has 3 values for 2 data sets: give one for all, or one each"),
        ({"split_by": "unc"}, "Unknown split_by 'unc' for refcocog. Choose one of: umd, google"),
        ({"eval_split": "testA"}, "refcocog has no split 'testA', only train, val, test"),
        ({"test_splits": ["val"]}, "refcoco, refcocog: there is no split 'val', only refcoco/train, refcoco/val"),
    ],
)
def test_a_wrong_option_of_a_union_is_one_clear_error(cache, tmp_path, options, error) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        run_recipe([str(write_union_recipe(tmp_path, cache, **options))])


def run(arguments: list, capsys, main=None) -> tuple[int, str, str]:
    """Exit status, standard output and error of the script."""
    capsys.readouterr()
    try:
        run_script(main or run_recipe, [str(argument) for argument in arguments])
        status, message = 0, ""
    except SystemExit as end:
        # What a string in the place of a number is to the interpreter.
        status, message = (1, end.code) if isinstance(end.code, str) else (end.code, "")
    captured = capsys.readouterr()
    return status, captured.out, captured.err + message


def test_a_run_ends_on_its_scores_and_what_to_do_with_them(finished) -> None:
    _, folder, report, printed = finished
    lines = [line.split() for line in printed.splitlines()]
    table = lines.index(["Scores", "in", "percent,", "protocol", "lavt:"]) + 1
    assert lines[table][:3] == ["split", "oIoU", "mIoU"]
    for line, (split, result) in zip(lines[table + 1 :], report["splits"].items(), strict=False):
        assert line == [split, *(f"{result['metrics'][name]:.2f}" for name in lines[table][1:])]
    assert f"Model, processor and card: {folder}" in printed
    assert f"Pictures: {folder / 'predictions.png'}, {folder / 'worst_and_best.png'}" in printed
    assert "On the Hub" not in printed
    assert printed.splitlines()[-1].startswith(f"Try it: hf-refseg predict {folder} IMAGE.jpg --text ")


def test_what_is_wrong_with_the_input_is_one_line(cache, tmp_path, capsys) -> None:
    recipe = write_recipe(tmp_path, cache)
    status, _, error = run([recipe, "--resume_from_checkpoint", "nowhere"], capsys)
    assert status == 1 and error.startswith("Error: resume_from_checkpoint: nowhere is no folder. Name a folder")
    _, _, error = run([recipe, "--resume_from_checkpoint", tmp_path], capsys)
    assert error.startswith(f"Error: resume_from_checkpoint: {tmp_path} holds no trainer_state.json")
    (tmp_path / "torn.yaml").write_text("output_dir: [run")
    _, _, error = run([tmp_path / "torn.yaml"], capsys)
    assert error.startswith(f"Error: {tmp_path / 'torn.yaml'} is no recipe, as it is no YAML") and "\n" not in error
    _, _, error = run([recipe, "--config", "{a: ["], capsys)
    assert error.startswith("Error: config is neither YAML nor JSON") and "\n" not in error
    with pytest.raises(ValueError, match="nowhere is no folder"):
        run(["--debug", recipe, "--resume_from_checkpoint", "nowhere"], capsys)
    kept = ["recipe.yaml", "--debug", "underflow_overflow"]
    assert take_debug(kept) == (kept, False)
    assert take_debug(["recipe.yaml", "--debug"]) == (["recipe.yaml"], True)


def test_an_error_of_the_code_keeps_its_traceback(capsys) -> None:
    def broken(arguments):
        raise KeyError("a fault")

    with pytest.raises(KeyError):
        run([], capsys, broken)


@pytest.mark.parametrize("home", ["absent", "empty"])
def test_to_push_without_a_token_is_an_error_that_says_how_to_log_in(
    cache, tmp_path, monkeypatch, capsys, home
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    if home == "empty":
        (tmp_path / "token").write_text("")
    recipe = write_recipe(tmp_path, cache, push_to_hub=True)
    status, _, error = run([recipe], capsys)
    assert status == 1 and error.startswith("Error: push_to_hub needs a token") and "hf auth login" in error
    assert not (tmp_path / "run").exists()
    assert parse([str(recipe), "--hub_token", "hf_given"])[2].push_to_hub


def test_help_shows_the_options_of_this_library_and_all_on_request(capsys) -> None:
    status, short, _ = run(["--help"], capsys)
    assert status == 0
    for option in ("--model_type", "--dataset_name", "--learning_rate_drops", "--resume_from_checkpoint"):
        assert f"  {option}" in short
    assert "  --max_steps" not in short and "--no_bf16" not in short
    assert "--help_trainer" in short and short.index("--model_type") < short.index("--dataset_name")
    _, whole, _ = run(["--help_trainer"], capsys)
    assert "  --max_steps" in whole and "  --model_type" in whole and len(whole) > 2 * len(short)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lerning_rate": 1e-4}, "there is no option lerning_rate; did you mean learning_rate"),
        (
            {"config": {**TINY["config"], "gate_activatio": "relu"}},
            "no field gate_activatio; did you mean gate_activat",
        ),
        (
            {"config": {**TINY["config"], "backbone_config": {"model_type": "swin", "embed_dims": 8}}},
            "backbone_config: SwinConfig has no field embed_dims; did you mean embed_dim",
        ),
        ({"config": {**TINY["config"], "mask_grounding": {"predictor_layer": 1}}}, "did you mean predictor_layers"),
        ({"dataset_options": {"train_siez": 4}}, "refshapes has no option 'train_siez', only train_size"),
        ({"lora_alpha": 4}, "lora_alpha goes with adapter lora, not with none"),
        ({"adapter": "heads", "lora_rank": 4}, "lora_rank goes with adapter lora, not with heads"),
        ({"mask_overlap": "union"}, "refshapes has no option 'mask_overlap'"),
        (
            {"dataset_options": {"data_dir": "a"}, "data_dir": "b"},
            "data_dir is given by itself and in dataset_options",
        ),
        ({"protocol": "lvat"}, "Unknown protocol 'lvat'"),
        ({"config": [1]}, "config has to be a mapping"),
        ({"vision_name_or_path": "a/b"}, "vision_name_or_path and text_name_or_path, or neither"),
        (
            {"model_name_or_path": "a/b", "vision_name_or_path": "c", "text_name_or_path": "d"},
            "takes no encoders, nor word_vectors: they come with the saved model. The value null unsets those",
        ),
        (
            {"vision_name_or_path": "a/b", "text_name_or_path": "c/d", "config": {"drop_path_rat": 0.1}},
            "LavtConfig has no field drop_path_rat; did you mean drop_path_rate",
        ),
        (
            {"vision_name_or_path": "a/b", "text_name_or_path": "c/d", "config": {}, "model_type": "unified_lavt"},
            "unified_lavt on pretrained encoders needs image_name_or_path as well",
        ),
        ({"weight_decay": None}, "weight_decay is null, but always has a value"),
        ({"eval_split": "testA"}, "refshapes has no split 'testA', only train, val, test"),
        ({"tokenizer_name_or_path": None}, "needs tokenizer_name_or_path"),
        ({"tokenizer_name_or_path": "words", "text_name_or_path": "a/b"}, "goes with no text_name_or_path"),
        ({"word_vectors": "glove.txt"}, "word_vectors goes with a recurrent text encoder"),
        ({"per_device_train_batch_size": 64}, "fewer than one batch of 64"),
    ],
)
def test_a_wrong_option_is_one_clear_error(cache, tmp_path, options, error) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        run_recipe([str(write_recipe(tmp_path, cache, **options))])


def test_a_recipe_that_is_none_is_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no recipe .*absent\.yaml"):
        run_recipe([str(tmp_path / "absent.yaml")])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match=r"list\.yaml is no recipe"):
        run_recipe([str(tmp_path / "list.yaml")])
    with pytest.raises(ValueError, match=r"--lerning_rate=1; did you mean --learning_rate"):
        run_recipe(["--lerning_rate=1"])
    with pytest.raises(ValueError, match=r"no option --max_step 1; did you mean --max_steps") as caught:
        run_recipe(["--max_step", "1"])
    assert "--max-steps" not in str(caught.value)
    with pytest.raises(ValueError, match=r"no option --zzz 1; --help"):
        run_recipe(["--zzz", "1"])
