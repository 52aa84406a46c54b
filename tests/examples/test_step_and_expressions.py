"""The benchmarks of training steps and of many expressions count what is computed, and steps change no weight."""

import expressions
import torch
import training_step
from tiny_methods import TinyM3Att, TinyRisam

from hf_refseg.model_costs import count_pass


def test_a_step_counts_forward_and_backward_of_what_is_trained_and_changes_no_weight() -> None:
    tiny = TinyRisam()
    model, (inputs, labels) = tiny.build(freeze_image_encoder=True).train(), tiny.training_inputs()
    batch = {**inputs, "mask_labels": labels}
    batch["encoder_features"] = training_step.encoder_features(model, batch.pop("pixel_values"))
    counted = sum(training_step.count_flops(model, batch).values())
    forward = count_pass(tiny.build().to("meta"), tiny.size, tokens=6).by_part()
    without_encoder = len(labels) * (forward["total"] - forward["backbone"])
    # Each product has two in the backward pass, but for what comes from the features.
    assert 2.5 * without_encoder < counted <= 3 * without_encoder

    before = {name: value.clone() for name, value in model.named_parameters()}
    step = training_step.build_step(model, batch)
    for variant in training_step.VARIANTS:
        step(variant)
        assert model.is_gradient_checkpointing == variant.checkpointing
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_what_needs_no_text_is_computed_once_for_all_expressions() -> None:
    tiny = TinyM3Att()
    model, one = tiny.build(), tiny.inputs(batch=1)
    shared, own = expressions.count_shared_and_own(model, one)
    texts = {name: one[name].expand(3, -1) for name in ("input_ids", "attention_mask")}
    model, three = model.to("meta"), {name: tensor.to("meta") for name, tensor in (one | texts).items()}
    assert expressions.count_flops(lambda: model(**three)) == {name: shared[name] + 3 * own[name] for name in own}
    assert sum(shared.values()) > 0
