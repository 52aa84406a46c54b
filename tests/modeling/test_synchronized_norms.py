"""Batch norms that share their statistics among processes keep timm's activations and train as one process does."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from fresh_process import FORKED
from tiny_methods import TinyLavt, TinyM3Att, TinyMethod
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoConfig, PreTrainedModel

from hf_refseg.modeling.encoders_refseg import TimmMaps, build_map_encoder

LAST_STAGES = {"model_type": "timm_backbone", "out_indices": [-3, -2, -1]}


def timm_maps(name: str) -> TimmMaps:
    torch.manual_seed(0)
    return build_map_encoder(AutoConfig.for_model(**LAST_STAGES, backbone=name), 3).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["darknet53", "resnet101"])
def test_pytorchs_conversion_keeps_the_maps_of_the_recipes_backbones(name: str) -> None:
    maps, pixel_values = timm_maps(name), torch.randn(1, 3, 64, 64)
    expected, weights = maps(pixel_values), maps.state_dict()
    norms = [path for path, module in maps.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for _ in range(2):  # what is converted already is converted again
        maps = nn.SyncBatchNorm.convert_sync_batchnorm(maps)
        assert norms == [path for path, module in maps.named_modules() if isinstance(module, nn.SyncBatchNorm)]
        assert all(torch.equal(*pair) for pair in zip(maps(pixel_values), expected, strict=True))
        assert maps.state_dict().keys() == weights.keys()


def test_timms_conversion_keeps_the_maps_too() -> None:
    from timm.layers import convert_sync_batchnorm

    maps, pixel_values = timm_maps("lcnet_035"), torch.randn(1, 3, 64, 64)
    expected = maps(pixel_values)
    converted = convert_sync_batchnorm(maps)
    assert all(torch.equal(*pair) for pair in zip(converted(pixel_values), expected, strict=True))


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over the processes."""

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return SumOverProcesses.forward(context, gradient)


class SlowSynchronizedNorm:
    """PyTorch's kernel, which runs on GPUs alone, written out."""

    @staticmethod
    def apply(
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
        group: dist.ProcessGroup,
        world_size: int,
    ) -> Tensor:
        axes = [0, *range(2, features.ndim)]
        shape = [-1 if axis == 1 else 1 for axis in range(features.ndim)]
        count = features.new_full((1,), features.numel() // features.shape[1])
        total, count = SumOverProcesses.apply(torch.cat([features.sum(axes), count])).split([features.shape[1], 1])
        centered = features - (total / count).view(shape)
        variance = SumOverProcesses.apply(centered.square().sum(axes)) / count
        return centered * (weight / (variance + eps).sqrt()).view(shape) + bias.view(shape)


# Norms of timm's, with activations, in an image encoder, and PyTorch's in a decoder.
LCNET = {
    "backbone_config": {**LAST_STAGES, "backbone": "lcnet_035"},
    "language_reconstruction": None,
}
# Nothing is drawn, which each process would do on its own.
STILL = {
    "loss_type": "dice",
    "backbone_config": {**TinyLavt.fields["backbone_config"], "drop_path_rate": 0.0},
    "text_config": {**TinyLavt.fields["text_config"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
CASES = ((TinyM3Att(), LCNET), (TinyLavt(), STILL))


def model_and_batch(tiny: TinyMethod, fields: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The same weights and four texts each time, one of them shorter, in double precision."""
    model = tiny.build(**fields)
    batch = {**tiny.inputs(batch=4), "mask_labels": tiny.labels(batch=4)}
    batch["pixel_values"] = batch["pixel_values"].double()
    batch["attention_mask"][3, 4:] = 0
    return model.double().train(), batch


def gradients_of_halves(rank: int, meeting: Path) -> list[dict[str, Tensor]]:
    """The gradients of a step of two processes, of which this one has a half of the batch; of each case."""
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )
    gradients = [gradients_of_half(rank, *model_and_batch(*case)) for case in CASES]
    dist.destroy_process_group()
    return gradients


def gradients_of_half(rank: int, model: PreTrainedModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with (
        mock.patch.object(nn.modules.batchnorm, "sync_batch_norm", SlowSynchronizedNorm),
        mock.patch.object(torch._C, "_get_privateuse1_backend_name", lambda: "cpu"),
    ):
        model(**{name: value[2 * rank : 2 * rank + 2] for name, value in batch.items()}).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for gradient in gradients.values():
        dist.all_reduce(gradient)
        gradient /= 2
    return gradients


def run_other_half(meeting: Path) -> None:
    # Threads of OpenMP do not survive a fork.
    torch.set_num_threads(1)
    gradients_of_halves(1, meeting)


@pytest.mark.slow_process
def test_two_processes_have_the_gradients_of_one(tmp_path) -> None:
    meeting = tmp_path / "meeting"
    other = FORKED.Process(target=run_other_half, args=(meeting,))
    other.start()
    of_cases = gradients_of_halves(0, meeting)
    other.join()
    assert other.exitcode == 0
    for case, gradients in zip(CASES, of_cases, strict=True):
        model, batch = model_and_batch(*case)
        model(**batch).loss.backward()
        for name, parameter in model.named_parameters():
            assert_close(
                gradients[name], parameter.grad, atol=1e-7, rtol=1e-4, msg=lambda text, name=name: name + text
            )
