"""What a model costs: FLOPs against convolutions counted by hand, and against those of a pass that is computed."""

import pytest
import torch
from tiny_configs import IMAGE_SWIN, SHORT_BERT, SWIN, THREE_STAGES, TWO_STAGES, VIDEO_SWIN
from tiny_methods import TinyLavt, TinyM3Att, TinyMethod, TinyRisam, TinyUnifiedLavt, TinyVideoLavt
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hf_refseg import LavtConfig, LavtForReferringSegmentation
from hf_refseg.model_costs import count_parameters, count_pass, count_task_flops

# Nothing is computed, but each operation takes its time: few layers, of which some shift their windows.
FEW_LAYERS = {"text_config": SHORT_BERT, "fusion_num_heads": [1, 1]}


class ShortLavt(TinyLavt):
    fields = {"backbone_config": {**SWIN, **TWO_STAGES}, **FEW_LAYERS}


class ShortVideoLavt(TinyVideoLavt):
    fields = {"backbone_config": {**VIDEO_SWIN, **TWO_STAGES}, **FEW_LAYERS}


class ShortUnifiedLavt(TinyUnifiedLavt):
    fields = {
        **{**TinyUnifiedLavt.fields, **ShortVideoLavt.fields},
        "image_backbone_config": {**IMAGE_SWIN, **TWO_STAGES},
    }


def flops_of_a_pass(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("tiny", [ShortLavt(), TinyRisam()], ids=["lavt", "risam"])
def test_the_total_is_that_of_a_pass(tiny: TinyMethod) -> None:
    # The fused kernel of attention on CPUs is none that the counter knows.
    model = tiny.build(attn_implementation="eager", presence_head=True)
    computed = flops_of_a_pass(model, tiny.inputs(batch=1))
    counted = count_pass(model.to("meta"), tiny.size, tokens=6)
    assert counted.by_part()["total"] == computed > 0
    steps = counted.by_step()
    assert list(steps) == ["image encoder", "text encoder", "fusion", "decoder", "tasks that answer"]
    assert min(steps.values()) > 0 and sum(steps.values()) == computed
    assert steps["tasks that answer"] == counted.parts["presence_head"]
    # The decoder of each is a module of its own, RISAM's with a bias that computes nothing of this kind.
    (decoder,) = {"decoder", "mask_decoder"} & counted.parts.keys()
    assert steps["decoder"] == counted.parts[decoder]
    assert "decode" not in vars(model)


def test_the_total_of_a_clip_is_that_of_a_pass() -> None:
    tiny = ShortVideoLavt()
    model = tiny.build(attn_implementation="eager")
    computed = flops_of_a_pass(model, tiny.clips(batch=1))
    counted = count_pass(model.to("meta"), (40, 48), tokens=6, frames=3).by_part()
    assert counted["total"] == computed > 0
    assert counted["total"] > 2 * count_pass(model, (40, 48), tokens=6).by_part()["total"]


def test_parts_have_the_flops_of_their_modules() -> None:
    tiny = ShortLavt()
    model = tiny.build(attn_implementation="eager")
    by_hand = 0

    def count(layer: nn.Conv2d, _: tuple, output: Tensor) -> None:
        nonlocal by_hand
        by_hand += 2 * layer.weight.numel() * output[0, 0].numel()

    handles = [each.register_forward_hook(count) for each in model.decoder.modules() if isinstance(each, nn.Conv2d)]
    model(**tiny.inputs(batch=1))
    for handle in handles:
        handle.remove()
    model.to("meta")
    counted = count_pass(model, tiny.size, tokens=6).by_part()
    assert counted["decoder"] == by_hand > 0
    assert counted["backbone"] > 0 and counted["stages"] > 0
    assert counted["total"] == sum(count for part, count in counted.items() if part != "total")
    twice = count_pass(model, tiny.size, tokens=12).by_part()
    assert twice["text_encoder"] > 2 * counted["text_encoder"] and twice["decoder"] == counted["decoder"]


def test_frozen_parameters_are_counted_as_such() -> None:
    counted = count_parameters(ShortLavt().build(freeze_text_encoder=True))
    trained, frozen = counted["text_encoder"]
    assert trained == 0 < frozen == counted["total"][1]


TASK = {"special_token_ids": [0], "mask_token_id": 4, "predictor_layers": 1}


@pytest.mark.parametrize("image_features", ["sentence", "masked_sentence"])
def test_a_task_costs_what_a_pass_with_it_costs_more(image_features: str) -> None:
    tiny = ShortLavt()
    fields = {"mask_grounding": {**TASK, "image_features": image_features, "predictor_size": 24}}
    model, alone = (tiny.build(attn_implementation="eager", **each) for each in (fields, {}))
    inputs = {**tiny.inputs(batch=1), "mask_labels": tiny.labels(batch=1)}
    more = flops_of_a_pass(model, inputs) - flops_of_a_pass(alone, inputs)
    counted = count_task_flops(model.to("meta"), tiny.size, tokens=6)
    assert counted["mask_grounding"] == more > 0
    assert counted["total"] == count_pass(model, tiny.size, tokens=6).by_part()["total"] and not model.training


def test_every_task_has_its_costs() -> None:
    tiny = ShortUnifiedLavt()
    tasks = {"presence_head": True, "language_reconstruction": {}, "mask_grounding": TASK}
    model = tiny.build(**tasks).to("meta")
    counted = count_task_flops(model, (40, 48), tokens=6, frames=3)
    assert list(counted) == ["presence_head", "mask_grounding", "language_reconstruction", "total"]
    assert min(counted.values()) > 0
    # In training both of its encoders read a clip.
    assert counted["total"] > count_pass(model, (40, 48), tokens=6, frames=3).by_part()["total"]


@pytest.mark.parametrize(("cell", "gates"), [("gru", 3), ("lstm", 4)])
def test_a_recurrent_text_encoder_is_counted(cell: str, gates: int) -> None:
    text = {"model_type": "refseg_recurrent_text", "vocab_size": 97, "embedding_size": 16, "hidden_size": 24}
    tiny = TinyM3Att()
    short = {"backbone_config": {**SWIN, **THREE_STAGES}, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = tiny.build(
        text_config={**text, "cell": cell}, language_reconstruction={"sentence_vector": "final_state"}, **short
    ).to("meta")
    by_hand = 2 * 6 * 2 * (16 + 24) * 24 * gates
    assert count_pass(model, tiny.size, tokens=6).by_part()["text_encoder"] == by_hand
    assert count_task_flops(model, tiny.size, tokens=6)["language_reconstruction"] > by_hand


@pytest.mark.slow_process
def test_the_width_of_the_predictor_that_costs_what_magnets_paper_says() -> None:
    """4.76 % more than LAVT with Swin-B and BERT at 480 pixels."""
    task = {**TASK, "predictor_layers": 8, "predictor_size": 512}
    with torch.device("meta"):
        model = LavtForReferringSegmentation(LavtConfig(mask_grounding=task))
    counted = count_task_flops(model, (480, 480), tokens=20)
    assert 100 * counted["mask_grounding"] / counted["total"] == pytest.approx(4.76, abs=0.1)
