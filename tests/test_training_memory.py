"""The memory of a training step: activations as autograd saves them in a step that is computed, the rest by hand."""

import pytest
import torch
from command_line import error_of, output_of
from tiny_lavt import tiny_processor
from tiny_methods import TinyLavt, TinyMethod, TinyRisam
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_refseg import training_memory
from hf_refseg.training_memory import TrainingPlan, estimate_training_memory


def saved_by_a_step(tiny: TinyMethod, checkpointing: bool) -> int:
    """Bytes that autograd holds after the pass forward of two images, without those of parameters and buffers."""
    model = tiny.build().train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    # Kept: of what leads to no loss the memory is freed during the pass, and another tensor gets its place.
    held: dict[int, torch.UntypedStorage] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        inputs = tiny.inputs(batch=2)
        inputs.pop("attention_mask", None)
        loss = model(**inputs, mask_labels=tiny.labels(batch=2)).loss
    loss.backward()
    return sum(storage.nbytes() for storage in held.values())


def estimate(tiny: TinyMethod, config: PreTrainedConfig | None = None, **plan: object) -> dict[str, int]:
    return estimate_training_memory(config or tiny.build().config, tiny.size, 6, TrainingPlan(**plan))


@pytest.mark.parametrize("tiny", [TinyLavt(), TinyRisam()], ids=["lavt", "risam"])
def test_activations_are_what_autograd_saves(tiny: TinyMethod) -> None:
    assert estimate(tiny, batch_size=2)["activations"] == saved_by_a_step(tiny, False) > 0


def test_checkpointing_keeps_less_and_one_layer_more_than_autograd_saves() -> None:
    tiny = TinyRisam()
    plain, checkpointed = (estimate(tiny, batch_size=2, gradient_checkpointing=each) for each in (False, True))
    one_layer = checkpointed["activations"] - saved_by_a_step(tiny, True)
    assert 0 < one_layer < plain["activations"] - saved_by_a_step(tiny, True)
    assert any(isinstance(module, GradientCheckpointingLayer) for module in tiny.build().modules())


def test_bfloat16_halves_no_parameter_and_lessens_activations() -> None:
    # A batch beside which the copies of the weights are small.
    plain, half = (estimate(TinyRisam(), batch_size=32, bf16=each) for each in (False, True))
    assert half["activations"] < plain["activations"]
    assert {name: size for name, size in half.items() if name not in ("activations", "total")} == {
        name: size for name, size in plain.items() if name not in ("activations", "total")
    }


def test_what_is_trained_has_gradients_and_two_states_and_shards_are_divided(monkeypatch) -> None:
    monkeypatch.setattr(training_memory, "_count_activations", lambda *_: 1000)
    tiny = TinyRisam()
    model = tiny.build(freeze_image_encoder=True)
    parameters = 4 * model.num_parameters()
    trained = 4 * model.num_parameters(only_trainable=True)
    assert trained < parameters
    alone, together, sharded = (
        estimate(tiny, model.config, **plan) for plan in ({}, {"gpus": 4}, {"gpus": 4, "strategy": "fsdp"})
    )
    whole = {"parameters": parameters, "gradients": trained, "optimizer states": 2 * trained}
    assert alone == {**whole, "activations": 1000, "total": parameters + 3 * trained + 1000}
    assert together == {**alone, "gradient buckets": trained, "total": alone["total"] + trained}
    gathered = sharded.pop("gathered parameters")
    assert 0 < gathered < parameters
    assert {name: 4 * sharded[name] for name in whole} == pytest.approx(whole, abs=4)
    assert sharded["total"] == sum(size for name, size in sharded.items() if name != "total") + gathered
    assert estimate(tiny, model.config, gpus=4, strategy="zero3") == {**sharded, "gathered parameters": gathered}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"strategy": "fsdp"}, "fsdp spreads a model over several GPUs"),
        ({"batch_size": 0}, "1 image and 1 GPU at least"),
        ({"gpus": 0}, "1 image and 1 GPU at least"),
    ],
)
def test_a_plan_that_makes_no_sense_is_an_error(plan: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingPlan(**plan)


def test_the_command_tells_it_of_a_saved_model_and_refuses_what_has_none(tmp_path) -> None:
    TinyLavt().build().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    options = (
        "--training-memory",
        "--batch-size",
        "2",
        "--gpus",
        "8",
        "--strategy",
        "fsdp",
        "--gradient-checkpointing",
    )
    table, told = output_of("info", tmp_path / "model", *options).split("\n\n")
    rows = dict(line.rsplit(maxsplit=1) for line in table.splitlines())
    assert list(rows)[-1] == "total" and {"parameters", "gathered parameters", "activations"} < rows.keys()
    assert "2 images of 64 x 64 pixels on each of 8 GPUs" in told and "gradient checkpointing" in told
    assert "not counted" in told
    assert "takes images, no clips" in error_of("info", tmp_path / "model", "--training-memory", "--frames", "2")
    assert "name one, or a method (btmae," in error_of("info", "--training-memory")
    assert "--gpus says how a model is trained" in error_of("info", tmp_path / "model", "--gpus", "2")
