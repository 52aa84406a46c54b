"""A training task beside those of the library: one class and one field of the configuration."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from safetensors.torch import load_file, save_file
from tiny_configs import SHORT_BERT, SWIN, TWO_STAGES
from tiny_methods import TinyLavt
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel
from transformers import initialization as init

from hf_refseg import LavtConfig, LavtForReferringSegmentation
from hf_refseg.modeling.configuration_refseg import TaskConfig
from hf_refseg.modeling.layers_refseg import VocabularyHead
from hf_refseg.modeling.modeling_outputs_refseg import ForwardPass
from hf_refseg.modeling.training_task_refseg import TrainingTask


@strict
@dataclass(kw_only=True)
class TargetSizeConfig(TaskConfig):
    task = "target_size"

    loss_weight: float = 0.5


class Scale(nn.Module):
    """A learned factor, which starts at 3."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.empty(1))

    def forward(self, values: Tensor) -> Tensor:
        return self.factor * values


class TargetSize(TrainingTask):
    """The share of the image that the target covers, from the coarsest map; and which word is the first."""

    name = "target_size"
    loss_name = "target_size_error"
    _keys_to_ignore_on_load_missing = [r"target_size\.scale\."]

    def __init__(self, channels: int, vocabulary: int) -> None:
        super().__init__()
        self.scale = Scale()
        self.regression = nn.Linear(channels, 1)
        self.first_word = VocabularyHead(channels, vocabulary)

    @classmethod
    def build(cls, model: PreTrainedModel, map_channels: int, text_channels: int) -> "TargetSize":
        return cls(map_channels, model.config.text_config.vocab_size)

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        if isinstance(module, Scale):
            init.constant_(module.factor, 3.0)

    def loss(self, model: PreTrainedModel, forward_pass: ForwardPass) -> Tensor:
        pooled = forward_pass.fused.maps[-1].mean((-2, -1))
        sizes = (forward_pass.mask_labels > 0).flatten(1).to(pooled.dtype).mean(1)
        words = F.cross_entropy(self.first_word(pooled), forward_pass.input_ids[:, 0])
        return F.mse_loss(self.scale(self.regression(pooled)).squeeze(1), sizes) + words


class LavtWithTargetSizeConfig(LavtConfig):
    target_size: TargetSizeConfig | dict | None = None


class LavtWithTargetSize(LavtForReferringSegmentation):
    config: LavtWithTargetSizeConfig
    task_classes = (*LavtForReferringSegmentation.task_classes, TargetSize)


class TinyLavtWithTargetSize(TinyLavt):
    model_class = LavtWithTargetSize
    fields = {"backbone_config": {**SWIN, **TWO_STAGES}, "text_config": SHORT_BERT, "fusion_num_heads": [1, 1]}


@pytest.fixture
def tiny() -> TinyLavtWithTargetSize:
    return TinyLavtWithTargetSize()


def test_it_trains_and_costs_nothing_at_inference(tiny, count_calls) -> None:
    model = tiny.build(target_size={}, presence_head=True).train()
    assert model.loss_weights["target_size_error"] == 0.5
    calls = count_calls(model.target_size, "loss")
    optimizer, errors = torch.optim.Adam(model.target_size.parameters(), lr=1e-2), []
    for _ in range(10):
        output = model(**tiny.inputs(), mask_labels=tiny.labels())
        expected = sum(model.loss_weights[name] * value for name, value in output.loss_components.items())
        assert_close(output.loss, expected)
        errors.append(output.loss_components["target_size_error"].item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert errors[-1] < 0.9 * errors[0]
    assert all(parameter.grad.any() for parameter in (*model.target_size.parameters(), *model.backbone.parameters()))
    model(**tiny.inputs())
    assert len(calls) == 10
    assert "target_size_error" not in tiny.build()(**tiny.inputs(), mask_labels=tiny.labels()).loss_components


@torch.no_grad()
def test_it_is_saved_or_left_out(tiny, tmp_path) -> None:
    model, inputs, labels = tiny.build(target_size={"loss_weight": 2.0}), tiny.inputs(), tiny.labels()
    expected = model(**inputs, mask_labels=labels)
    for save_auxiliary in (True, False):
        model.save_pretrained(tmp_path, save_auxiliary=save_auxiliary)
        loaded, report = LavtWithTargetSize.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        output = loaded(**inputs, mask_labels=labels)
        assert torch.equal(output.logits, expected.logits)
        assert loaded.config.target_size == (TargetSizeConfig(loss_weight=2.0) if save_auxiliary else None)
        assert output.loss_components == {
            name: value
            for name, value in expected.loss_components.items()
            if save_auxiliary or name != "target_size_error"
        }
    assert model.config.target_size is not None


@torch.no_grad()
def test_what_a_checkpoint_lacks_starts_as_the_task_says(tiny, tmp_path) -> None:
    model = tiny.build(target_size={})
    assert model.target_size.scale.factor == 3
    model.target_size.scale.factor.fill_(1)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["target_size.scale.factor"]
    save_file(tensors, path, metadata={"format": "pt"})
    loaded, report = LavtWithTargetSize.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and loaded.target_size.scale.factor == 3


@torch.no_grad()
def test_its_heads_grow_with_the_vocabulary(tiny) -> None:
    model, inputs = tiny.build(target_size={}), tiny.inputs()
    model.resize_token_embeddings(99)
    assert model.target_size.first_word.out_features == 99
    inputs["input_ids"][:, 0] = 98
    assert model(**inputs, mask_labels=tiny.labels()).loss.isfinite()


def test_its_fields_are_checked_like_all_others(tiny) -> None:
    with pytest.raises(ValueError, match="target_size has no field weight, only loss_weight"):
        tiny.build(target_size={"weight": 2.0})
