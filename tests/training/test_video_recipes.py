"""A recipe for videos trains on clips, on single frames and on images and clips mixed, scores, and leaves a model."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from places import EXAMPLES
from tiny_recipes import TINY as TINY_IMAGES
from tiny_recipes import TINY_VIDEO as TINY
from tiny_recipes import data_options
from tiny_recipes import write_video_recipe as write_recipe
from train_tiny import freeze_batch_statistics
from transformers import AutoModel, AutoProcessor, set_seed

from hf_refseg import load_refseg
from hf_refseg.modeling.modeling_outputs_refseg import ReferringSegmentationOutput
from hf_refseg.training import recipes
from hf_refseg.training.arguments import ModelArguments, RefSegTrainingArguments
from hf_refseg.training.building import build_model_and_processor
from hf_refseg.training.checkpoints import checkpoint_to_resume
from hf_refseg.training.data_arguments import VideoDataArguments
from hf_refseg.training.mixed_batches import MixedCollator
from hf_refseg.training.options import find_data_class, parse_options
from hf_refseg.training.recipes import load_data, run_recipe
from hf_refseg.training.trainer import RefSegTrainer

RECIPES = [
    path
    for path in sorted((EXAMPLES / "recipes").glob("*.yaml"))
    if find_data_class([str(path)]) is VideoDataArguments
]

UNIFIED = {
    "model_type": "unified_lavt",
    "config": {
        **TINY["config"],
        "image_backbone_config": {
            "model_type": "swin",
            "image_size": 64,
            **TINY["config"]["backbone_config"],
            "window_size": 4,
        },
    },
}
IMAGE_METHOD = {"model_type": "lavt", "config": TINY_IMAGES["config"]}


def parse(arguments: list[str]) -> tuple[ModelArguments, VideoDataArguments, RefSegTrainingArguments]:
    return parse_options(arguments, VideoDataArguments, "")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def with_images(cache: Path) -> dict:
    """Options that add images to the training."""
    return {"image_data": {"dataset_name": "refshapes", "dataset_options": data_options(cache)}}


def build_trainer(recipe: Path, *options: str) -> RefSegTrainer:
    """The trainer of a run, with batch norms that keep their statistics: those of a batch depend on its size."""
    model_arguments, data_arguments, training = parse([str(recipe), *options])
    set_seed(training.seed)
    model, processor = build_model_and_processor(model_arguments)
    freeze_batch_statistics(model)
    return recipes.build_trainer(model, processor, load_data(data_arguments), data_arguments, training)


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module, tolerance: float = 0.0) -> None:
    weights = other.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=tolerance, rtol=0, msg=name)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory) -> tuple[Path, Path, dict]:
    """Recipe, output folder and report of a finished run on clips."""
    folder = tmp_path_factory.mktemp("finished")
    often = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    recipe = write_recipe(folder, cache, eval_split="val", window=3, overlap=1, pictures=1, **often)
    return recipe, folder / "run", run_recipe([str(recipe)])


@pytest.fixture(scope="module")
def image_run(cache, tmp_path_factory) -> tuple[Path, dict]:
    """Output folder and report of a run of an image method on single frames."""
    folder = tmp_path_factory.mktemp("images")
    report = run_recipe([str(write_recipe(folder, cache, **IMAGE_METHOD, test_splits="val"))])
    return folder / "run", report


def test_a_run_scores_every_split_but_train_under_the_named_protocol(finished) -> None:
    _, folder, report = finished
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(report))
    assert list(report["splits"]) == ["val", "test"] and report["training"]["steps"] == 2
    for result in report["splits"].values():
        assert result["protocol"] == "davis" and result["videos"] == 2 and result["sentences"] > 2
        assert {"J&F", "J", "F"} <= result["metrics"].keys()
        assert "records" not in result


def test_the_folder_loads_and_segments_clips_and_images(finished) -> None:
    _, folder, _ = finished
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    clip = list(torch.randint(0, 255, (5, 50, 60, 3), dtype=torch.uint8).numpy())
    for inputs, shape in (({"videos": [clip]}, (1, 5, 64, 64)), ({"images": clip[0]}, (1, 64, 64))):
        with torch.no_grad():
            outputs = model(**processor(**inputs, text="the red circle moving left", return_tensors="pt"))
        assert outputs.logits.shape == shape
    assert "[UNK]" not in processor.tokenizer.tokenize("the red circle moving left")


def test_the_model_card_says_what_happened(finished) -> None:
    _, folder, report = finished
    card = ModelCard.load(folder / "README.md")
    assert "| videos | 4 of refshapes_video, as clips of 3 frames |" in card.text
    scores = {(entry.dataset_split, entry.metric_type): entry.metric_value for entry in card.data.eval_results}
    assert scores["val", "J&F"] == pytest.approx(report["splits"]["val"]["metrics"]["J&F"], abs=1e-4)
    assert card.data.datasets == ["refshapes_video"]
    for picture in ("video_predictions.png", "worst_and_best_videos.png"):
        assert (folder / picture).is_file() and picture in card.text
    assert (folder / "pictures" / "step-2-clips.png").is_file()


def test_clips_are_scored_during_training(finished) -> None:
    _, folder, _ = finished
    log = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    (scores,) = [entry for entry in log if "eval_loss" in entry]
    assert {"eval_oIoU", "eval_mIoU", "eval_loss_dice"} <= scores.keys()


def test_a_finished_run_is_not_trained_further(finished, capsys) -> None:
    recipe, folder, _ = finished
    before = AutoModel.from_pretrained(folder)
    report = run_recipe([str(recipe), "--test_splits", "val", "--max_test_videos", "1"])
    assert "checkpoint-2 is the end of this training" in capsys.readouterr().out
    assert report["splits"]["val"]["videos"] == 1
    assert_same_weights(AutoModel.from_pretrained(folder), before)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ("--num_frames 2", "num_frames 3, now 2"),
        ("--dataset_options {seed: 5}", "refshapes_video.seed the default, now 5"),
        ("--config {loss_type: dice_boundary}", 'loss_type the default, now "dice_boundary"'),
        ("--weight_decay 0.3 --max_steps 3", "weight_decay the default, now 0.3"),
    ],
)
def test_a_run_goes_on_with_its_own_options_alone(finished, options, difference) -> None:
    recipe, _, _ = finished
    with pytest.raises(ValueError, match="checkpoint-2 was trained with other options: .*" + re.escape(difference)):
        run_recipe([str(recipe), *re.findall(r"\{.*?\}|\S+", options)])


@pytest.mark.slow_process
@pytest.mark.parametrize("method", [{}, UNIFIED], ids=["video_lavt", "unified_lavt"])
def test_a_resumed_joint_run_equals_one_that_never_stopped(method, cache, tmp_path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 9, "max_steps": 4}
    recipe = write_recipe(tmp_path, cache, **options, **with_images(cache), **method)
    whole = build_trainer(recipe)
    whole.train()
    # The middle of the first epoch.
    assert json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())["epoch"] % 1
    shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "stopped" / "checkpoint-2")
    resumed = build_trainer(recipe, "--output_dir", str(tmp_path / "stopped"))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert_same_weights(resumed.model, whole.model)
    at_stop = AutoModel.from_pretrained(tmp_path / "stopped" / "checkpoint-2").state_dict()
    assert any(not torch.equal(value, at_stop[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.slow_process
@pytest.mark.parametrize("method", [{}, UNIFIED], ids=["video_lavt", "unified_lavt"])
def test_a_joint_run_sees_images_and_clips_apart_and_scores_both(method, cache, tmp_path, monkeypatch, capsys) -> None:
    seen = []
    collate = MixedCollator.__call__

    def spy(self, items):
        items = list(items)
        batch = collate(self, items)
        seen.append(("clips" if "frames" in items[0] else "images", tuple(batch["pixel_values"].shape)))
        return batch

    monkeypatch.setattr(MixedCollator, "__call__", spy)
    options = {"max_steps": 4, "image_share": 0.5, "max_test_videos": 1, "test_splits": "val"}
    recipe = write_recipe(tmp_path, cache, **options, **with_images(cache), **method)
    report = run_recipe([str(recipe), "--image_data", "{test_splits: [val], max_test_images: 1}"])
    assert set(seen) == {("clips", (2, 3, 3, 64, 64)), ("images", (2, 3, 64, 64))}
    assert list(report["splits"]) == list(report["images"]["splits"]) == ["val"]
    assert report["images"]["splits"]["val"]["images"] == 1
    assert report["images"]["training_data"]["refshapes"]["images"] == 4
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.datasets == ["refshapes_video", "refshapes"]
    assert "| steps on images | 50 % |" in card.text
    measured = {(entry.dataset_type, entry.metric_type) for entry in card.data.eval_results}
    assert {("refshapes_video", "J&F"), ("refshapes", "oIoU")} <= measured
    printed = capsys.readouterr().out
    assert "Scores in percent, protocol davis:\nsplit  J&F" in printed
    assert "Scores in percent, protocol original:\nsplit  oIoU" in printed
    for name in ("video_predictions.png", "worst_and_best.png"):
        assert str(tmp_path / "run" / name) in printed
    assert f"Try it: hf-refseg predict {tmp_path / 'run'} VIDEO.mp4 --text" in printed


def test_two_accumulation_steps_of_one_equal_one_step_of_two(cache, tmp_path) -> None:
    # With Adam's own epsilon, a gradient that is zero but for rounding would become a step as long as any other.
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = {**TINY["config"], "text_config": {**TINY["config"]["text_config"], **still}}
    options = {"config": config, "adam_epsilon": 1e-2, "max_steps": 2, "logging_steps": 1}
    recipe = write_recipe(tmp_path, cache, **options, **with_images(cache))
    at_once = build_trainer(recipe)
    in_two = build_trainer(recipe, "--per_device_train_batch_size", "1", "--total_train_batch_size", "2")
    assert in_two.args.gradient_accumulation_steps == 2
    for trainer in (at_once, in_two):
        trainer.train()
    assert_same_weights(in_two.model, at_once.model, tolerance=5e-6)
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (at_once, in_two)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6) and len(set(losses[0])) > 1


def test_an_image_method_is_trained_on_frames_and_scored_frame_by_frame(image_run, cache) -> None:
    folder, report = image_run
    model = AutoModel.from_pretrained(folder)
    assert model.config.model_type == "lavt" and list(report["splits"]) == ["val"]
    rows = load_refseg("refshapes_video", **data_options(cache), num_frames=4)["val"]
    sentences = sum(len(referent["sentences"]) for row in rows for referent in row["referents"])
    assert report["splits"]["val"]["frames"] == 4 * sentences
    assert "as single frames" in (folder / "README.md").read_text()


def test_a_video_lavt_starts_from_an_image_lavt(image_run, cache, tmp_path) -> None:
    folder, _ = image_run
    arguments = ModelArguments(model_name_or_path=str(folder), model_type="video_lavt")
    model, _ = build_model_and_processor(arguments)
    arguments.config = {"pwam_structur": 2}
    with pytest.raises(ValueError, match="no field pwam_structur; did you mean pwam_structure"):
        build_model_and_processor(arguments)
    image_model = AutoModel.from_pretrained(folder)
    assert model.config.model_type == "video_lavt"
    for name, value in image_model.decoder.state_dict().items():
        assert torch.equal(model.decoder.state_dict()[name], value), name
    options = {"model_name_or_path": str(folder), "config": None, "max_steps": 1, "test_splits": []}
    assert run_recipe([str(write_recipe(tmp_path, cache, **options))])["training"]["steps"] == 1
    assert AutoModel.from_pretrained(tmp_path / "run").config.model_type == "video_lavt"


def test_a_video_model_goes_on_and_becomes_no_other_method(finished, cache, tmp_path) -> None:
    _, folder, _ = finished
    options = {"model_name_or_path": str(folder), "config": None, "test_splits": []}
    recipe = write_recipe(tmp_path, cache, **options, model_type=None, max_steps=1)
    assert run_recipe([str(recipe)])["training"]["steps"] == 1
    with pytest.raises(ValueError, match="is a model of type video_lavt, not lavt: leave model_type out"):
        run_recipe([str(write_recipe(tmp_path, cache, **options, model_type="lavt"))])


def test_of_a_split_without_masks_the_servers_file_is_written(cache, tmp_path, monkeypatch, capsys) -> None:
    whole = load_refseg("refshapes_video", **data_options(cache), num_frames=4)

    def without_masks(row: dict) -> dict:
        return {"referents": [{**referent, "annotated_frames": [], "masks": []} for referent in row["referents"]]}

    test = Dataset.from_list([row | without_masks(row) for row in whole["test"]], features=whole["test"].features)

    def show(videos: Dataset) -> None:
        splits = DatasetDict({"train": whole["train"], "test": videos})
        monkeypatch.setattr("hf_refseg.training.video_data.load_refseg", lambda *_, **__: splits)

    def submit(model: torch.nn.Module) -> str:
        """What is written for a model, without a training."""
        _, data_arguments, training = parse([recipe])
        data, processor = load_data(data_arguments), AutoProcessor.from_pretrained(folder)
        trainer = recipes.build_trainer(model, processor, data, data_arguments, training)
        return data[0].submit(trainer)["submissions"]["test"]

    show(test)
    (unnamed,) = load_data(parse([str(write_recipe(tmp_path, cache))])[1])
    assert unnamed.tested == unnamed.submitted == {}
    recipe = str(write_recipe(tmp_path, cache, max_steps=1, max_test_videos=1, test_splits="test"))
    folder = tmp_path / "run"
    report = run_recipe([recipe])
    assert report["splits"] == {} and (folder / report["submissions"]["test"]).is_file()
    masks = list(folder.glob("submission_test_*/Annotations/*/*/*.png"))
    sentences = [each for referent in test[0]["referents"] for each in referent["sentences"]]
    assert len(masks) == 4 * len(sentences)
    first = report["submissions"]["test"]
    assert capsys.readouterr().out.endswith(f"\nFor the evaluation server, of test: {folder / first}\n")
    shared = [folder / name for name in ("metrics.json", "run_options.json", first.replace(".zip", ".json"))]
    assert not [path for path in shared if str(tmp_path) in path.read_text() or str(cache) in path.read_text()]
    model = AutoModel.from_pretrained(folder)
    assert submit(model) == first
    show(test.map(lambda row: {"frame_names": [f"9{name}" for name in row["frame_names"]]}))
    assert submit(model) != first
    show(test)
    model.decoder.classifier.bias.data += 1
    second = submit(model)
    assert second != first and (folder / second).is_file() and (folder / first).is_file()
    with pytest.raises(ValueError, match="The split 'test' of refshapes_video has no masks"):
        run_recipe([str(write_recipe(tmp_path, cache, eval_split="test"))])


def test_frames_without_annotation_do_not_count(cache, tmp_path) -> None:
    trainer = build_trainer(write_recipe(tmp_path, cache))
    labels = torch.ones(2, 3, 64, 64, dtype=torch.long)
    labels[0, 1] = -100
    labels[1, 2] = 0
    logits = torch.ones(2, 3, 64, 64)
    logits[0, 0] = -1
    output = ReferringSegmentationOutput(
        loss=torch.tensor(0.0), loss_components={"dice": torch.tensor(0.0)}, logits=logits
    )
    trainer.model.forward = lambda **inputs: output
    trainer.prediction_step(trainer.model, {"mask_labels": labels}, prediction_loss_only=False)
    assert trainer.eval_counts[0].tolist() == [[4096, 2 * 4096], [2 * 4096, 3 * 4096]]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_parses_into_the_papers_setting(path) -> None:
    model, data, training = parse([str(path), "--use_cpu"])
    assert training.output_dir == f"runs/{path.stem}" and training.weight_decay in (0.01, 0.05)
    if "refshapes" in path.stem:
        return
    rates = {"ref_youtube_vos": 4e-5, "a2d_sentences": 6e-5}
    assert training.learning_rate == rates[data.dataset_name] and data.num_frames == 8
    assert training.lr_scheduler_kwargs == {"lr_end": 0.0, "power": 0.9}
    assert (training.max_grad_norm, training.warmup_steps, training.text_layers_trained) == (0, 0, 10)
    assert data.protocol == ("a2d" if data.dataset_name == "a2d_sentences" else "davis")
    if model.model_name_or_path is None:
        assert (model.max_text_length, model.config["drop_path_rate"]) == (22, 0.3)
    else:
        assert (EXAMPLES / "recipes" / f"{Path(model.model_name_or_path).name}.yaml").is_file()


def test_the_methods_that_are_compared_have_equal_widths_and_data() -> None:
    compared = [EXAMPLES / "recipes" / f"{name}_refshapes_video.yaml" for name in ("video_lavt", "lavt")]
    (model, data, training), (image_model, image_data, image_training) = (
        parse([str(path), "--use_cpu"]) for path in compared
    )
    assert model.config["text_config"] == image_model.config["text_config"]
    for name in ("embed_dim", "depths", "num_heads"):
        assert model.config["backbone_config"][name] == image_model.config["backbone_config"][name]
    sizes = (
        model.config["backbone_config"]["window_size"][1:],
        [image_model.config["backbone_config"]["window_size"]] * 2,
    )
    assert sizes[0] == sizes[1] and model.config["decoder_hidden_size"] == image_model.config["decoder_hidden_size"]
    assert data.dataset_options == image_data.dataset_options
    assert (model.image_size, model.tokenizer_name_or_path) == (
        image_model.image_size,
        image_model.tokenizer_name_or_path,
    )
    assert (training.learning_rate, training.weight_decay) == (
        image_training.learning_rate,
        image_training.weight_decay,
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"image_data": {"dataset_options": {"train_siez": 4}}}, "refshapes has no option 'train_siez'"),
        ({"config": {**TINY["config"], "pwam_structur": 2}}, "no field pwam_structur; did you mean pwam_structure"),
        ({"image_share": 0.25}, "image_share goes with image_data"),
        ({"num_frame": 3}, "there is no option num_frame; did you mean num_frames"),
        ({"protocol": "lavt"}, "Unknown protocol 'lavt' for videos"),
        ({"num_frames": 0}, "num_frames has to be 1 at least"),
        ({"eval_split": "valid"}, "refshapes_video has no split 'valid', only train, val, test"),
        ({"test_splits": ["testA"]}, "refshapes_video has no split 'testA'"),
        ({"image_data": {"data_set": "refcoco"}}, "image_data has no option data_set, only dataset_name"),
        ({"image_data": {"dataset_name": "refshapes", "protocol": "davis"}}, "Unknown protocol 'davis'"),
    ],
)
def test_a_wrong_option_is_one_clear_error(cache, tmp_path, options, error) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        run_recipe([str(write_recipe(tmp_path, cache, **options))])


def test_a_checkpoint_that_is_none_is_named(cache, tmp_path) -> None:
    with pytest.raises(ValueError, match="resume_from_checkpoint: nowhere is no folder"):
        run_recipe([str(write_recipe(tmp_path, cache)), "--resume_from_checkpoint", "nowhere"])


def test_no_checkpoint_is_that_of_a_run_which_begins_anew(tmp_path) -> None:
    assert checkpoint_to_resume(RefSegTrainingArguments(str(tmp_path), resume_from_checkpoint=None)) is None
