"""What a model costs: parameters and floating-point operations by part, without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from .modeling.modeling_outputs_refseg import ForwardPass, FusedAndDecoded

# What adapters keep of a module that they train as a whole: it takes part in nothing.
REPLACED = ".original_module."
TOTAL = "total"
# The modules that every method has, and their steps.
ENCODERS = {"backbone": "image encoder", "text_encoder": "text encoder"}


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Numbers of trained and of frozen parameters in each part of a model, and in "total".

    What an adapter adds counts where it was added; what it has replaced does not count.
    """
    counts = {name: [0, 0] for name, _ in model.named_children()}
    for name, parameter in model.named_parameters():
        if REPLACED not in name:
            counts[name.partition(".")[0]][not parameter.requires_grad] += parameter.numel()
    trained, frozen = (sum(pair[place] for pair in counts.values()) for place in range(2))
    return {part: (pair[0], pair[1]) for part, pair in counts.items()} | {TOTAL: (trained, frozen)}


@dataclass(frozen=True)
class PassFlops:
    """FLOPs of one image and one sentence.

    They are those of matrix products, attention and convolutions, a multiplication and an addition counting as two,
    as `torch.utils.flop_counter` knows them.

    Attributes:
        parts: by the model's modules, training tasks that take no part in inference with 0; what a method computes
            outside of modules is part of the total alone.
        tasks: the names of those modules that are training tasks.
        decoding: what `decode` computes.
        total: all of it.
    """

    parts: dict[str, int]
    tasks: frozenset[str]
    decoding: int
    total: int

    def by_part(self) -> dict[str, int]:
        """The parts, and "total"."""
        return {**self.parts, TOTAL: self.total}

    def by_step(self) -> dict[str, int]:
        """What each step of a method computes, which is the total together; fusion is all but the other steps."""
        steps = {step: self.parts[part] for part, step in ENCODERS.items()}
        answers = sum(self.parts[task] for task in self.tasks)
        steps["fusion"] = self.total - sum(steps.values()) - self.decoding - answers
        steps["decoder"] = self.decoding
        return steps if answers == 0 else {**steps, "tasks that answer": answers}


def count_pass(
    model: PreTrainedModel, image_size: tuple[int, int], tokens: int, frames: int | None = None
) -> PassFlops:
    """FLOPs of one image and one sentence; nothing is computed, so that a model of any size is counted in seconds.

    Args:
        model: on the device "meta", in evaluation mode or not; tasks that are for training alone take no part.
        image_size: height and width of the image in pixels.
        tokens: of the sentence.
        frames: of a clip in the place of the image; None = an image.

    Raises:
        ValueError: the model does not take such images or so many tokens.
    """
    with without_values():
        inputs = make_inputs(image_size, tokens, frames)
        counter = FlopCounterMode(display=False)
        with counter, _by_part(model, counter) as flops, _decoding(model, counter) as decoding:
            model(**inputs)
    tasks = frozenset(task.name for task in model.tasks)
    return PassFlops(flops, tasks, sum(decoding), counter.get_total_flops())


def count_task_flops(
    model: PreTrainedModel, image_size: tuple[int, int], tokens: int, frames: int | None = None
) -> dict[str, int]:
    """FLOPs that each training task of a model adds to the pass forward of a training step, by the task's name.

    "total" are those of that pass without any of them: of what `encode_inputs`, `fuse` and `decode` compute in
    training. Arguments and errors as of `count_pass`; a sentence has no padding.
    """
    was_training = model.training
    counts = {}
    try:
        model.train()
        with without_values():
            pixel_values, input_ids = make_inputs(image_size, tokens, frames).values()
            with FlopCounterMode(display=False) as counter:
                image, text, text_mask = model.encode_inputs(pixel_values, input_ids, None)
                fused = model.fuse(image, text, text_mask)
                decoded = model.decode(fused, image.image_size)
            labels = torch.ones_like(decoded.logits, dtype=torch.long)
            made = FusedAndDecoded(fused=fused, decoded=decoded)
            output = model.make_output(made)
            given = (pixel_values, input_ids, None, image, text, text_mask, labels)
            for task in model.tasks:
                with FlopCounterMode(display=False) as of_task:
                    task.predict(made)
                    task.loss(model, ForwardPass(*given, fused, decoded, output))
                counts[task.name] = of_task.get_total_flops()
    finally:
        model.train(was_training)
    return {**counts, TOTAL: counter.get_total_flops()}


@contextmanager
def without_values() -> Iterator[None]:
    """Inside it tensors are made on the device "meta", and nothing is computed but their shapes."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("meta"), torch.no_grad():
        yield


def make_inputs(
    image_size: tuple[int, int], tokens: int, frames: int | None, batch_size: int = 1
) -> dict[str, Tensor]:
    """So many images, or clips, each with a sentence without padding, as `forward` takes them."""
    shape = (batch_size, *(() if frames is None else (frames,)), 3, *image_size)
    return {"pixel_values": torch.zeros(shape), "input_ids": torch.zeros(batch_size, tokens, dtype=torch.long)}


@contextmanager
def _decoding(model: PreTrainedModel, counter: FlopCounterMode) -> Iterator[list[int]]:
    """Collects the FLOPs that `counter` counts in each call of the model's `decode`."""
    counts: list[int] = []
    decode = model.decode

    def counted(*arguments: Any) -> Any:
        before = counter.get_total_flops()
        decoded = decode(*arguments)
        counts.append(counter.get_total_flops() - before)
        return decoded

    model.decode = counted
    try:
        yield counts
    finally:
        del model.decode


@contextmanager
def _by_part(model: nn.Module, counter: FlopCounterMode) -> Iterator[dict[str, int]]:
    """Collects in each part's number the FLOPs that `counter` counts while one of the part's modules runs.

    A method may call the modules of its image encoder one by one, so that no hook of the encoder itself would see it.
    """
    flops = {name: 0 for name, _ in model.named_children()}
    started: list[int] = []

    def begin(module: nn.Module, _: object) -> None:
        started.append(counter.get_total_flops())

    def end_of(part: str) -> Callable[[nn.Module, object, object], None]:
        def end(module: nn.Module, _: object, __: object) -> None:
            before = started.pop()
            if not started:
                flops[part] += counter.get_total_flops() - before

        return end

    handles = []
    for name, part in model.named_children():
        for module in part.modules():
            handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end_of(name))]
    try:
        yield flops
    finally:
        for handle in handles:
            handle.remove()
