"""The memory that a training step takes on each GPU, without computing anything and without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .auto import AutoModelForReferringSegmentation
from .model_costs import TOTAL, make_inputs
from .training.sharding import classes_to_shard

FLOAT32 = 4
# Adam's two means of each parameter.
OPTIMIZER_STATES = 2
# FSDP and ZeRO-3 bring the next shard while one is computed with.
SHARDS_AT_ONCE = 2
NOT_COUNTED = (
    "the context of CUDA, workspaces of kernels, short-lived tensors, and what the allocator keeps beyond need"
)
Strategy = Literal["ddp", "fsdp", "zero3"]


@dataclass(frozen=True)
class TrainingPlan:
    """How a model is trained.

    Attributes:
        batch_size: images, each with a sentence, on each GPU at once.
        gpus: how many, of all machines together.
        strategy: whether each of them holds the whole model ("ddp"), or a part.
        gradient_checkpointing: whether layers are computed once more in the backward pass, rather than kept.
        bf16: whether matrix products are in bfloat16; parameters and optimizer states stay in float32.

    Raises:
        ValueError: less than one image or GPU, or a model that is to be sharded on one GPU.
    """

    batch_size: int = 1
    gpus: int = 1
    strategy: Strategy = "ddp"
    gradient_checkpointing: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.gpus < 1:
            raise ValueError(f"A training has 1 image and 1 GPU at least, got {self.batch_size} and {self.gpus}.")
        if self.strategy != "ddp" and self.gpus == 1:
            raise ValueError(f"{self.strategy} spreads a model over several GPUs: say how many, 2 or more.")


def estimate_training_memory(
    config: PreTrainedConfig,
    image_size: tuple[int, int],
    tokens: int,
    plan: TrainingPlan,
    frames: int | None = None,
) -> dict[str, int]:
    """Bytes that the largest part of a training step by AdamW takes on each GPU, by what they hold, and "total".

    - parameters, gradients (of what is trained) and optimizer states, in float32; with "fsdp" and "zero3" divided
      among the GPUs;
    - activations: all that autograd keeps from the forward pass for the backward pass, without values; with gradient
      checkpointing what it keeps then, and what the layer that keeps most keeps while it is computed once more;
    - gathered parameters: of a sharded model the two largest shards, and all that is in none; gradient buckets: with
      DDP the copy of the gradients that is sent.

    What is not there: the context of CUDA, workspaces of kernels, tensors that live shorter than the forward pass, and
    what the allocator holds without need.

    Args:
        config: of the model; what it freezes is not trained.
        image_size: height and width of the images in pixels.
        tokens: of each sentence, without padding.
        plan: how the model is trained.
        frames: of each clip in the place of an image; None = images.

    Raises:
        ValueError: the model does not take such images or so many tokens.
    """
    with torch.device("meta"):
        model = AutoModelForReferringSegmentation.from_config(config).train()
    with FakeTensorMode(allow_non_fake_inputs=True), _on_processor(model):
        inputs = make_inputs(image_size, tokens, frames, plan.batch_size)
        activations = _count_activations(model, inputs, plan)
    sizes = _ModelSizes.of(model)
    parts = sizes.gpus_share(1 if plan.strategy == "ddp" else plan.gpus)
    if plan.strategy != "ddp":
        parts["gathered parameters"] = sizes.gathered
    elif plan.gpus > 1:
        parts["gradient buckets"] = sizes.trained
    parts["activations"] = activations
    return {**parts, TOTAL: sum(parts.values())}


@dataclass(frozen=True)
class _ModelSizes:
    """Bytes of a model's parameters in float32: all, what is trained, and what a sharded one has gathered at once."""

    parameters: int
    trained: int
    gathered: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> _ModelSizes:
        names = set(classes_to_shard(model))
        shards = [module for module in model.modules() if type(module).__name__ in names]
        within = {parameter for shard in shards for parameter in shard.parameters()}
        largest = sorted((_bytes_of(shard.parameters()) for shard in shards), reverse=True)[:SHARDS_AT_ONCE]
        rest = _bytes_of(parameter for parameter in model.parameters() if parameter not in within)
        return cls(
            parameters=_bytes_of(model.parameters()),
            trained=_bytes_of(parameter for parameter in model.parameters() if parameter.requires_grad),
            gathered=sum(largest) + rest,
        )

    def gpus_share(self, parts: int) -> dict[str, int]:
        """What one of so many GPUs holds of them."""
        return {
            "parameters": self.parameters // parts,
            "gradients": self.trained // parts,
            "optimizer states": OPTIMIZER_STATES * self.trained // parts,
        }


def _bytes_of(parameters: Iterator[nn.Parameter]) -> int:
    return FLOAT32 * sum(parameter.numel() for parameter in parameters)


@contextmanager
def _on_processor(model: nn.Module) -> Iterator[None]:
    """Inside it a model without values pretends to lie on the processor, whose attention is fused as that of GPUs."""
    tensors = (each for module in model.modules() for each in (module._parameters, module._buffers))
    owners = [(owner, name) for owner in tensors for name in owner]
    before = [owner[name] for owner, name in owners]
    for (owner, name), tensor in zip(owners, before, strict=True):
        if tensor is not None:
            pretended = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            trained = isinstance(tensor, nn.Parameter)
            owner[name] = nn.Parameter(pretended, tensor.requires_grad) if trained else pretended
    try:
        yield
    finally:
        for (owner, name), tensor in zip(owners, before, strict=True):
            owner[name] = tensor


def _count_activations(model: PreTrainedModel, inputs: dict[str, Tensor], plan: TrainingPlan) -> int:
    kept = SavedBytes(model)
    largest = _run_and_find_largest_layer(model, inputs, kept, plan.bf16)
    if not plan.gradient_checkpointing:
        return kept.total
    # What the public methods call, whose names change from version to version.
    model._set_gradient_checkpointing(
        gradient_checkpointing_func=partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    )
    kept = SavedBytes(model)
    _run(model, inputs, kept, plan.bf16)
    return kept.total + largest


class SavedBytes:
    """Counts the bytes that autograd saves while a model runs inside of it, each memory once, parameters none."""

    def __init__(self, model: nn.Module) -> None:
        self.own = {_memory_of(each) for each in (*model.parameters(), *model.buffers())}
        # Kept, so that no other memory gets the same place.
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.hooks = saved_tensors_hooks(self._save, lambda tensor: tensor)

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())

    def _save(self, tensor: Tensor) -> Tensor:
        if (memory := _memory_of(tensor)) not in self.own:
            self.storages[memory] = tensor.untyped_storage()
        return tensor


def _memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _run(model: PreTrainedModel, inputs: dict[str, Tensor], kept: SavedBytes, bf16: bool) -> None:
    # The masks have the shape of the pictures, without their colors.
    labels = torch.ones_like(inputs["pixel_values"].select(-3, 0), dtype=torch.long)
    with kept.hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(**inputs, mask_labels=labels)


def _run_and_find_largest_layer(
    model: PreTrainedModel, inputs: dict[str, Tensor], kept: SavedBytes, bf16: bool
) -> int:
    """Runs the model; the bytes that the layer saves which saves most, of those that checkpointing computes anew."""
    started: list[int] = []
    saved = [0]

    def begin(module: nn.Module, _: object) -> None:
        started.append(kept.total)

    def end(module: nn.Module, _: object, __: object) -> None:
        before = started.pop()
        if not started:
            saved.append(kept.total - before)

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    handles = [layer.register_forward_pre_hook(begin) for layer in layers]
    handles += [layer.register_forward_hook(end) for layer in layers]
    try:
        _run(model, inputs, kept, bf16)
    finally:
        for handle in handles:
            handle.remove()
    return max(saved)
