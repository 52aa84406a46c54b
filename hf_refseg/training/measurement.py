"""What happens inside a model in one step: norms per block, gradients of each loss, and what is predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from ..data.clips import NOT_ANNOTATED
from ..hub.model_card import plain_model
from ..modeling.inference_refseg import find_foreground

# The parts of a model by the name of its child; all else decodes.
ENCODERS = {"backbone": "image encoder", "text_encoder": "text encoder"}
DECODER = "decoder"
PARTS = (*ENCODERS.values(), DECODER)


@dataclass(frozen=True)
class Block:
    """A part of a model that has a row of its own; `parameters` are those that no other block has."""

    name: str
    module: nn.Module
    parameters: tuple[nn.Parameter, ...]

    @property
    def part(self) -> str:
        return part_of(self.name)


@dataclass(frozen=True)
class BlockNorms:
    """Norms of a block.

    Attributes:
        name: as in `named_modules`; "(own)" follows where its blocks have rows and it has parameters beside them.
        part: one of `PARTS`.
        parameters: the norm of all of its parameters together.
        activations: root mean square of what it, or what is called of it, returned in training; None without any.
        gradient: the norm of its gradient before clipping, 0 where none arrived; None where nothing of it is trained.
    """

    name: str
    part: str
    parameters: float
    activations: float | None
    gradient: float | None


@dataclass(frozen=True)
class LossNorms:
    """One loss.

    Attributes:
        value: without its weight.
        weight: what it is multiplied by.
        gradient: the norm of the gradient of the weighted loss alone.
        share: this norm's share of the sum of those of all losses, in [0, 1].
        parts: the same norm in each of `PARTS`; None where nothing of one is trained.
    """

    value: float
    weight: float
    gradient: float
    share: float
    parts: dict[str, float | None]


@dataclass(frozen=True)
class Foreground:
    """Labels and answers over all annotated pixels, in [0, 1]; the answers are those of evaluation mode.

    Attributes:
        labeled: the share of pixels that belong to a target.
        predicted: that of pixels that the model takes for one, by the processor's threshold.
        probability: the mean foreground probability.
        on_target: the mean within the targets; None without any.
        elsewhere: the mean outside of them; None without any such pixel.
        largest: the largest of all.
    """

    labeled: float
    predicted: float
    probability: float
    on_target: float | None
    elsewhere: float | None
    largest: float


@dataclass(frozen=True)
class Measurement:
    """A model after so many steps.

    Attributes:
        gradient: the norm of the whole gradient of the batch, before clipping.
        parts: the same norm in each of `PARTS`; None where nothing of one is trained.
        losses: by name, those that have a weight.
    """

    step: int
    gradient: float
    parts: dict[str, float | None]
    losses: dict[str, LossNorms]
    blocks: list[BlockNorms]
    foreground: Foreground


def part_of(name: str) -> str:
    """Which of `PARTS` a module or a parameter belongs to, by its name."""
    return ENCODERS.get(name.partition(".")[0], DECODER)


def find_blocks(model: nn.Module) -> list[Block]:
    """The blocks of a model: its children one or two levels deep, each entry of a list, each stage of an encoder.

    Together they hold every parameter once, but for those that an adapter replaces. A module that merely wraps another
    one is no level.
    """
    seen: set[nn.Parameter] = set()
    found = []
    for name, module, recurse in _walk("", model, 2):
        parameters = tuple(each for each in module.parameters(recurse) if each not in seen)
        seen.update(parameters)
        if parameters:
            found.append(Block(name, module, parameters))
    return found


def _walk(name: str, module: nn.Module, levels: int) -> Iterator[tuple[str, nn.Module, bool]]:
    """Names and modules of blocks, and whether all inside counts as well."""
    if isinstance(module, ModulesToSaveWrapper):
        # The adapter's copy, which is trained, in the place of the module that it stands for.
        yield from _walk(name, module.modules_to_save["default"], levels)
        return
    parts = {key: child for key, child in module.named_children() if _has_parameters(child)}
    own = any(True for _ in module.parameters(recurse=False))
    wraps = len(parts) == 1 and not own
    # An encoder from elsewhere is a model of its own.
    levels = max(levels, 1) if isinstance(module, PreTrainedModel) else levels
    if not parts or (levels == 0 and not wraps and not _is_list(module, parts.values())):
        yield name, module, True
        return
    if own:
        yield f"{name} (own)".strip(), module, False
    for key, child in parts.items():
        yield from _walk(f"{name}.{key}".lstrip("."), child, levels if wraps else max(0, levels - 1))


def _is_list(module: nn.Module, parts: Iterable[nn.Module]) -> bool:
    """Whether it is a list of blocks rather than of layers."""
    if isinstance(module, nn.Sequential):
        return all(any(_has_parameters(child) for child in part.children()) for part in parts)
    return isinstance(module, nn.ModuleList)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def measure(
    model: PreTrainedModel | PeftModel, inputs: Mapping[str, Tensor], step: int, threshold: float, seed: int
) -> Measurement:
    """Measures a model on a batch and leaves it as it was: buffers, random numbers and mode; gradients are emptied.

    Args:
        model: the model.
        inputs: what `forward` takes, `mask_labels` among them.
        step: how many steps it was trained for.
        threshold: foreground probability above which a pixel belongs to a mask.
        seed: of dropout and the like, so that two measurements draw the same.

    Raises:
        NotFiniteError: the model answers with NaN or infinity.
    """
    with _left_alone(model, seed):
        blocks = find_blocks(plain_model(model))
        model.train()
        losses, activations = _run(model, blocks, inputs)
        parameters = {each: name for name, each in plain_model(model).named_parameters() if each.requires_grad}
        of_losses, gradient = _backward(model, losses, parameters)
        trained = {part_of(name) for name in parameters.values()}
        total = sum(norm for _, norm, _ in of_losses.values())
        return Measurement(
            step,
            _norm(gradient.values()),
            _by_part(gradient, parameters, trained),
            {
                name: LossNorms(
                    value=losses[name].item(),
                    weight=float(weight),
                    gradient=norm,
                    share=norm / total if total else 0.0,
                    parts=by_part,
                )
                for name, (weight, norm, by_part) in of_losses.items()
            },
            [
                BlockNorms(
                    block.name,
                    block.part,
                    _norm(each.detach() for each in block.parameters),
                    activations.get(block.name),
                    _norm(gradient[each] for each in block.parameters if each in gradient)
                    if any(each.requires_grad for each in block.parameters)
                    else None,
                )
                for block in blocks
            ],
            _foreground(model, inputs, threshold),
        )


@contextmanager
def _left_alone(model: nn.Module, seed: int) -> Iterator[None]:
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    was_training = model.training
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng([device.index for device in devices]):
            torch.manual_seed(seed)
            yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def _run(
    model: nn.Module, blocks: list[Block], inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The losses, unweighted and with their graphs, and the root mean square of what blocks returned."""
    weights = plain_model(model).loss_weights
    # The derivative by a weight is the loss that it belongs to, and what `forward` returns of it is detached.
    device = plain_model(model).device
    leaves = {name: torch.tensor(float(each), requires_grad=True, device=device) for name, each in weights.items()}
    before = dict(weights)
    try:
        weights.update(leaves)
        with recorded_activations(blocks) as activations:
            loss = model(**inputs).loss
    finally:
        weights.update(before)
    losses = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
    return {name: value for name, value in zip(leaves, losses, strict=True) if value is not None}, activations


@contextmanager
def recorded_activations(blocks: Iterable[Block]) -> Iterator[dict[str, float]]:
    """Fills in the root mean square of what each block returns, over all of its calls, when it ends.

    A block that is never called itself, as its parts are called one by one, returns what they return.
    """
    recorders = {block.name: _Recorder(block.module) for block in blocks}
    found: dict[str, float] = {}
    try:
        yield found
    finally:
        for recorder in recorders.values():
            recorder.remove()
    found |= {name: recorder.root_mean_square() for name, recorder in recorders.items() if recorder.number}


class _Recorder:
    """Hooks on a module and all inside, which add up what the outermost ones that are called return."""

    def __init__(self, module: nn.Module) -> None:
        self.squares: list[Tensor] = []
        self.number = 0
        self.depth = 0
        self.handles = [
            handle
            for each in module.modules()
            for handle in (each.register_forward_pre_hook(self.enter), each.register_forward_hook(self.leave))
        ]

    def enter(self, module: nn.Module, arguments: tuple) -> None:
        self.depth += 1

    def leave(self, module: nn.Module, arguments: tuple, output: object) -> None:
        self.depth -= 1
        if self.depth == 0:
            tensors = [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.is_floating_point()]
            self.squares += [each.detach().float().square().sum() for each in tensors]
            self.number += sum(each.numel() for each in tensors)

    def root_mean_square(self) -> float:
        return (sum(self.squares).item() / self.number) ** 0.5

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _backward(
    model: nn.Module, losses: Mapping[str, Tensor], parameters: Mapping[nn.Parameter, str]
) -> tuple[dict[str, tuple[float, float, dict[str, float | None]]], dict[nn.Parameter, Tensor]]:
    """Of each loss its weight and the norm of its gradient, in all and by part; and the gradient of their sum."""
    weights = plain_model(model).loss_weights
    trained = {part_of(name) for name in parameters.values()}
    of_losses = {}
    whole: dict[nn.Parameter, Tensor] = {}
    for name, loss in losses.items():
        model.zero_grad(set_to_none=True)
        if loss.requires_grad:
            # Not `torch.autograd.grad`, which reentrant checkpoints refuse.
            (weights[name] * loss).backward(retain_graph=True)
        gradient = {each: each.grad for each in parameters if each.grad is not None}
        norm = _norm(gradient.values())
        of_losses[name] = (weights[name], norm, _by_part(gradient, parameters, trained))
        for each, values in gradient.items():
            whole[each] = whole[each] + values if each in whole else values
    return of_losses, whole


def _by_part(
    gradient: Mapping[nn.Parameter, Tensor], parameters: Mapping[nn.Parameter, str], trained: set[str]
) -> dict[str, float | None]:
    return {
        part: _norm(values for each, values in gradient.items() if part_of(parameters[each]) == part)
        if part in trained
        else None
        for part in PARTS
    }


def _norm(tensors: Iterable[Tensor]) -> float:
    squares = [each.float().square().sum() for each in tensors]
    return torch.stack(squares).sum().sqrt().item() if squares else 0.0


@torch.no_grad()
def _foreground(model: nn.Module, inputs: Mapping[str, Tensor], threshold: float) -> Foreground:
    model.eval()
    outputs = model(**{name: value for name, value in inputs.items() if name != "mask_labels"})
    annotated = inputs["mask_labels"] != NOT_ANNOTATED
    labels = inputs["mask_labels"][annotated] != 0
    probabilities = outputs.logits[annotated].float().sigmoid()
    return Foreground(
        labeled=labels.float().mean().item(),
        predicted=find_foreground(outputs, threshold)[annotated].float().mean().item(),
        probability=probabilities.mean().item(),
        on_target=_mean(probabilities[labels]),
        elsewhere=_mean(probabilities[~labels]),
        largest=probabilities.max().item(),
    )


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if values.numel() else None
