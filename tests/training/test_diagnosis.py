"""A diagnosis measures what happens inside a model, leaves it as it was, and says what is out of proportion."""

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
import run_ris
import torch
from tiny_methods import (
    TinyBtmae,
    TinyLavt,
    TinyM3Att,
    TinyMagNet,
    TinyMethod,
    TinyRisam,
    TinyUnifiedLavt,
    TinyVideoLavt,
)
from tiny_recipes import UNSCORED, write_recipe, write_video_recipe
from torch import Tensor, nn
from transformers import TrainerCallback
from typer.testing import CliRunner

from hf_refseg.modeling.modeling_outputs_refseg import ReferringSegmentationOutput
from hf_refseg.training.adapters import add_adapter
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.diagnosis import find_faults
from hf_refseg.training.measurement import Measurement, find_blocks, measure
from hf_refseg.training.options import parse_options
from hf_refseg.training.recipes import run_recipe, train_recipe
from hf_refseg_cli import app

METHODS = [TinyLavt, TinyVideoLavt, TinyUnifiedLavt, TinyMagNet, TinyM3Att, TinyBtmae, TinyRisam]
ALL_METHODS = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


class ByHand(nn.Module):
    """Logits decoder * (backbone * pixel + text_encoder * word), whose gradients can be written down."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.loss_weights = {"mask": 1.0, "words": 10.0}
        for name, weight in (("backbone", 3.0), ("text_encoder", 4.0), ("decoder", 2.0)):
            layer = nn.Linear(1, 1, bias=False)
            nn.init.constant_(layer.weight, weight)
            self.add_module(name, layer)

    def forward(self, pixels: Tensor, words: Tensor, mask_labels: Tensor | None = None) -> ReferringSegmentationOutput:
        text = self.text_encoder(words)
        logits = self.decoder(self.backbone(pixels) + text)[..., 0]
        if mask_labels is None:
            return ReferringSegmentationOutput(logits=logits)
        losses = {"mask": logits.mean(), "words": text.mean()}
        loss = sum(self.loss_weights[name] * value for name, value in losses.items())
        return ReferringSegmentationOutput(loss=loss, logits=logits)


def measure_method(model: nn.Module, method: TinyMethod) -> Measurement:
    inputs, labels = method.training_inputs()
    return measure(model, {**inputs, "mask_labels": labels}, step=0, threshold=0.5, seed=3)


def faults_of(measured: Measurement, norms: tuple[float, ...] = (1.0,), limit: float = 0.0, prior=None) -> str:
    return "\n".join(find_faults(measured, norms, limit, prior))


def test_numbers_are_those_computed_by_hand() -> None:
    model = ByHand()
    labels = torch.tensor([[[1, 0], [0, -100]]])
    inputs = {"pixels": torch.ones(1, 2, 2, 1), "words": torch.ones(1, 1, 1, 1), "mask_labels": labels}
    found = measure(model, inputs, step=7, threshold=0.5, seed=0)
    assert [(each.name, each.parameters, each.activations) for each in found.blocks] == [
        ("backbone", 3, 3),
        ("text_encoder", 4, 4),
        ("decoder", 2, 14),
    ]
    # Of the sum of both losses; the words' weight is in it.
    assert [each.gradient for each in found.blocks] == pytest.approx([2, 12, 7])
    assert found.gradient == pytest.approx(sqrt(2**2 + 12**2 + 7**2)) and found.step == 7
    mask, words = found.losses["mask"], found.losses["words"]
    assert (mask.value, mask.weight, words.value, words.weight) == (14, 1, 4, 10)
    assert mask.gradient == pytest.approx(sqrt(57)) and words.gradient == pytest.approx(10)
    assert mask.share == pytest.approx(sqrt(57) / (10 + sqrt(57)))
    assert mask.parts == pytest.approx({"image encoder": 2, "text encoder": 2, "decoder": 7})
    assert words.parts == pytest.approx({"image encoder": 0, "text encoder": 10, "decoder": 0})
    assert found.foreground.labeled == pytest.approx(1 / 3) and found.foreground.predicted == 1
    assert found.foreground.on_target == pytest.approx(torch.tensor(14.0).sigmoid().item())


def test_what_is_frozen_has_no_gradient_to_tell() -> None:
    model = ByHand()
    model.backbone.requires_grad_(False)
    inputs = {"pixels": torch.ones(1, 2, 2, 1), "words": torch.ones(1, 1, 1, 1)}
    found = measure(model, {**inputs, "mask_labels": torch.ones(1, 2, 2)}, step=0, threshold=0.5, seed=0)
    assert found.parts["image encoder"] is None and found.blocks[0].gradient is None
    assert "image encoder" not in faults_of(found) and found.foreground.elsewhere is None


@ALL_METHODS
def test_a_model_of_every_method_is_measured_and_left_as_it_was(method: type[TinyMethod]) -> None:
    tiny = method()
    model = tiny.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights, random_state = dict(model.loss_weights), torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = measure_method(model, tiny)
    found = measure_method(model, tiny)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.loss_weights == weights and torch.equal(torch.get_rng_state(), random_state)
    assert not model.training and all(each.grad is None for each in model.parameters())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    # What a step of training would see.
    inputs, labels = tiny.training_inputs()
    torch.manual_seed(3)
    loss = model.train()(**inputs, mask_labels=labels).loss
    loss.backward()
    norms = [each.grad.norm() for each in model.parameters() if each.grad is not None]
    assert found.gradient == pytest.approx(torch.stack(norms).norm().item(), rel=1e-4)
    assert sum(each.weight * each.value for each in found.losses.values()) == pytest.approx(loss.item(), rel=1e-5)
    assert sqrt(sum((each.gradient or 0) ** 2 for each in found.blocks)) == pytest.approx(found.gradient, rel=1e-4)
    assert rounded.gradient == pytest.approx(found.gradient, rel=0.5) and rounded.gradient != found.gradient
    assert {each.part for each in found.blocks if each.activations} == {"image encoder", "text encoder", "decoder"}


@ALL_METHODS
def test_blocks_hold_every_parameter_once(method: type[TinyMethod]) -> None:
    model = method().build()
    held = [parameter for block in find_blocks(model) for parameter in block.parameters]
    assert len(held) == len(set(held)) and set(held) == set(model.parameters())
    names = [block.name for block in find_blocks(model)]
    assert len(names) == len(set(names)) and 10 <= len(names) <= 60
    assert sum(name.startswith("backbone") for name in names) >= 3


def test_an_adapter_has_the_blocks_of_its_model() -> None:
    tiny = TinyM3Att()
    model = tiny.build()
    model.name_or_path = "base"
    names = [block.name for block in find_blocks(model)]
    found = measure_method(add_adapter(model, lora_rank=None), tiny)
    assert [each.name for each in found.blocks] == names and all(each.activations for each in found.blocks)
    assert [each.gradient is None for each in found.blocks] == [each.part != "decoder" for each in found.blocks]
    assert found.parts == {"image encoder": None, "text encoder": None, "decoder": found.gradient}


def test_checkpoints_of_activations_change_no_number() -> None:
    tiny = TinyLavt()
    plain = tiny.build()
    found = measure_method(plain, tiny)
    for reentrant in (True, False):
        model = tiny.build()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        again = measure_method(model, tiny)
        activations = [[each.activations for each in one.blocks] for one in (again, found)]
        assert activations[0] == pytest.approx(activations[1], rel=1e-5)
        assert again.gradient == pytest.approx(found.gradient, rel=1e-4)


@pytest.mark.parametrize(("prior", "advised"), [(None, "See mask_prior"), (0.001, "started at mask_prior 0.001")])
def test_a_model_that_predicts_nothing_is_told_so(prior: float | None, advised: str) -> None:
    tiny = TinyM3Att()
    model = tiny.build(mask_prior=prior)
    sees_all = faults_of(measure_method(model, tiny), prior=prior)
    nn.init.constant_(model.mask_decoder.classifier.bias, -7)
    found = faults_of(measure_method(model, tiny), prior=prior)
    assert "It predicts no pixel: the foreground probability is 0.0" in found and advised in found
    assert "It does not tell targets from the rest" in found
    nn.init.constant_(model.mask_decoder.classifier.bias, 7)
    found = faults_of(measure_method(model, tiny), prior=prior)
    assert "It predicts 100 % of the pixels, 22 % of the labeled ones" in found and "no pixel" not in found
    assert ("no pixel" in sees_all) == (prior is not None)


def test_losses_and_parts_out_of_proportion_are_told() -> None:
    tiny = TinyBtmae()
    model = tiny.build()
    assert " has " not in faults_of(measure_method(model, tiny))
    model.loss_weights["word_reconstruction"] = 1e4
    found = faults_of(measure_method(model, tiny))
    assert (
        "word_reconstruction has 100 % of the gradient: the other losses hardly count. Its weight is 10000." in found
    )
    assert "iou has 0." in found
    # A loss that is switched off is not to be told.
    model.loss_weights.update({"word_reconstruction": 0.0, "image_reconstruction": 0.0, "iou": 0.0})
    assert " has " not in faults_of(measure_method(model, tiny))


def test_small_parts_idle_blocks_and_clipping_are_told() -> None:
    tiny = TinyLavt()
    measured = measure_method(tiny.build(), tiny)
    assert "No gradient reaches" not in faults_of(measured) and "Clipping" not in faults_of(measured, (9.0,), 1.0)
    parts = {**measured.parts, "text encoder": 0.001 * measured.gradient}
    blocks = [replace(measured.blocks[0], gradient=0.0), *measured.blocks[1:]]
    found = faults_of(replace(measured, parts=parts, blocks=blocks), (1.0, 40.0, 50.0), 2.0)
    assert "The text encoder gets 0.1 % of the gradient" in found
    assert f"No gradient reaches {measured.blocks[0].name}," in found
    assert "Clipping leaves 5 % of the gradient in the median step: its norm is 40, max_grad_norm 2." in found


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Norms(TrainerCallback):
    """Keeps the norms of gradients that a training logs."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.norms += [logs["grad_norm"]] if "grad_norm" in logs else []


def test_the_command_prints_and_writes_the_first_steps_of_the_run_and_saves_no_model(tmp_path: Path, cache) -> None:
    options = {"bf16": True, "max_grad_norm": 1e-3, "max_steps": 3, "logging_steps": 1, "warmup_steps": 2}
    recipe = write_recipe(tmp_path, cache, **UNSCORED, **options | {"save_strategy": "no"})
    folder = tmp_path / "diagnosed"
    asked = ["train", str(recipe), "--diagnose", "--diagnosis_steps", "2", "--output_dir", str(folder)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["diagnosis.json"]
    report = json.loads((folder / "diagnosis.json").read_text())
    assert [each["step"] for each in report["measurements"]] == [0, 2]
    for sentence in (*report["findings"], "Step 0\n", "Step 2\n", "clipped to 0.001 in 2 of them"):
        assert sentence in result.stdout
    assert "backbone.model.encoder.layers.1" in result.stdout and "decoder.classifier" in result.stdout
    before, after = (each["blocks"] for each in report["measurements"])
    assert all(each["activations"] for each in before)
    assert [each["parameters"] for each in before] != [each["parameters"] for each in after]
    logged = Norms()
    train_recipe(*parse_options([str(recipe)], ImageDataArguments, ""), callbacks=[logged])
    assert report["gradient_norms"] == pytest.approx(logged.norms[:2], rel=1e-6) and len(logged.norms) == 3


def test_a_recipe_of_videos_is_diagnosed(tmp_path: Path, cache) -> None:
    report = run_recipe([str(write_video_recipe(tmp_path, cache, **UNSCORED)), "--diagnose", "--diagnosis_steps", "1"])
    assert [each["step"] for each in report["measurements"]] == [0, 1] and len(report["gradient_norms"]) == 1
    names = {each["name"] for each in report["measurements"][0]["blocks"]}
    assert {"backbone.features.0.0", "stages.1", "decoder.classifier"} <= names
    assert 0 < report["measurements"][0]["foreground"]["labeled"] < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--diagnosis_steps", "3"], "diagnosis_steps goes with diagnose"),
        (["--diagnose", "--diagnosis_steps", "0"], "diagnosis_steps has to be 1 at least"),
        (["--diagnose", "--adapter", "heads"], "an adapter needs that of a new model saved"),
        (["--diagnose", "--resume_from_checkpoint", "run"], "diagnose resumes no training"),
    ],
)
def test_what_a_diagnosis_cannot_do_is_refused(tmp_path: Path, cache, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe([str(write_recipe(tmp_path, cache)), *options])


def test_a_script_that_trains_step_by_step_refuses_it(tmp_path: Path, cache) -> None:
    with pytest.raises(ValueError, match="hf-refseg train RECIPE --diagnose"):
        run_ris.main([str(write_recipe(tmp_path, cache, **UNSCORED)), "--diagnose"])
    assert not (tmp_path / "run").exists()
