"""The optimizer's steps are those of the reference implementation, and parameter groups are as it made them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_configs
import torch
from golden_lavt import BERT_CONFIG, FOLDER, golden_case, golden_model, model_inputs, our_name
from tiny_lavt import tiny_lavt, tiny_processor
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import CLIPTextConfig, CLIPTextModel, TrainerCallback

from hf_refseg import LavtForReferringSegmentation, VideoLavtConfig, VideoLavtForReferringSegmentation
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.optimization import (
    build_muon,
    decay_parameter_names,
    synchronize_batch_norm,
    train_first_text_layers,
)
from hf_refseg.training.trainer import RefSegTrainer

# In float64, where machines agree: in float32, Adam makes whole steps of what rounding leaves of a gradient near zero.
GOLDEN = json.loads((FOLDER / "train_trajectory_float64.json").read_text())


class OneBatch(Dataset):
    """The two samples of a golden case in float64, the same in each epoch."""

    def __init__(self, name: str) -> None:
        tensors, _ = golden_case(name)
        self.batch = {**model_inputs(tensors), "mask_labels": tensors["target"].long()}
        self.batch["pixel_values"] = self.batch["pixel_values"].double()

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in self.batch.items()}


class KeepNorms(TrainerCallback):
    """The norms of the gradients at the first step, and of the weights and statistics after the `last` one."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.gradients: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        if state.global_step == 0:
            trained = {name: value for name, value in model.named_parameters() if value.grad is not None}
            self.gradients = {name: value.grad.norm() for name, value in trained.items()}

    def on_step_end(self, args, state, control, model, **kwargs) -> None:
        if state.global_step == self.last:
            self.weights = {name: value.double().norm() for name, value in model.state_dict().items()}


def golden_model_without_drop_path() -> LavtForReferringSegmentation:
    converted = golden_model()
    config = converted.config
    config.backbone_config.drop_path_rate = 0.0
    model = LavtForReferringSegmentation(config)
    model.load_state_dict(converted.state_dict())
    return model.double()


def expected_norms(kind: str) -> Iterator[tuple[str, list[str], float]]:
    """Released name, our names and norm, of each parameter that exists here and that the reference used."""
    for released, norm in GOLDEN[kind].items():
        if "layers.3.res_gate" in released or "pooler" in released or norm is None:
            continue
        letters = "qkv" if ".attn.qkv." in released else " "
        yield released, [our_name(released.replace("qkv", letter)) for letter in letters], norm


def test_five_optimizer_steps_match_the_reference(tmp_path) -> None:
    assert BERT_CONFIG["num_hidden_layers"] == 2 and GOLDEN["num_bert_layers_trained"] == 1
    model, losses = golden_model_without_drop_path(), []
    # What Trainer logs is rounded to float32.
    model.register_forward_hook(lambda module, inputs, output: losses.append(output.loss.item()))
    keeper = KeepNorms(last=len(GOLDEN["steps"]))
    trainer = RefSegTrainer(
        model=model,
        args=RefSegTrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            learning_rate=GOLDEN["lr"],
            weight_decay=GOLDEN["weight_decay"],
            max_steps=GOLDEN["total_iterations"],
            per_device_train_batch_size=2,
            text_layers_trained=1,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        processing_class=tiny_processor(),
        train_dataset=OneBatch(GOLDEN["case"]),
        data_collator=torch.utils.data.default_collate,
        callbacks=[keeper],
    )
    trainer.train()

    expected_losses = [expected["loss"] for expected in GOLDEN["steps"]]
    assert losses[: len(expected_losses)] == pytest.approx(expected_losses, abs=1e-9)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in entries] == pytest.approx(losses, abs=1e-6)
    assert [entry["loss_cross_entropy"] for entry in entries] == pytest.approx(losses, abs=1e-6)
    rates = [entry["learning_rate"] for entry in entries]
    assert rates[0] == GOLDEN["lr"]
    assert rates[1:] == pytest.approx([expected["lr_after"] for expected in GOLDEN["steps"]], abs=1e-12)

    compared = 0
    for released, names, expected in expected_norms("param_norm_after"):
        norm = torch.stack([keeper.weights[name] for name in names]).norm().item()
        # Adam makes steps of what rounding leaves of these gradients, small ones beside its epsilon.
        tolerance = 1e-8 if released in GOLDEN["zero_gradient_params"] else 1e-9
        assert norm == pytest.approx(expected, abs=tolerance), released
        compared += 1
    assert compared > 150
    compared = 0
    for released, names, expected in expected_norms("grad_norm_step0"):
        if set(names) <= keeper.gradients.keys():
            norm = torch.stack([keeper.gradients[name] for name in names]).norm().item()
            assert norm == pytest.approx(expected, abs=1e-9), released
            compared += 1
    assert compared > 150
    for released, expected in GOLDEN["bn_running_mean_after"].items():
        assert keeper.weights[our_name(released)].item() == pytest.approx(expected, abs=1e-9), released


def test_only_visual_norms_and_position_tables_do_not_decay() -> None:
    model = golden_model()
    names = {name for name, _ in model.named_parameters()}
    expected = {our_name(f"backbone.{name}") for name in GOLDEN["no_decay_backbone_params"]}
    assert names - set(decay_parameter_names(model)) == expected
    assert {"text_encoder.embeddings.LayerNorm.weight", "decoder.steps.0.norm1.weight"} <= names - expected


@pytest.mark.parametrize("fusion_norm", ["instance", "layer"])
def test_norms_and_position_tables_of_a_video_encoder_do_not_decay(fusion_norm: str) -> None:
    backbone = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": [2, 4, 4]}
    model = VideoLavtForReferringSegmentation(
        VideoLavtConfig(backbone_config=backbone, text_config=tiny_configs.BERT, fusion_norm=fusion_norm)
    )
    undecayed = {name for name, _ in model.named_parameters()} - set(decay_parameter_names(model))
    visual = {name for name, _ in model.backbone.named_parameters(prefix="backbone")}
    expected = {name for name in visual if re.search(r"norm\d?\.|relative_position_bias_table$", name)}
    tables = [name for name in expected if name.endswith("relative_position_bias_table")]
    assert undecayed & visual == expected and len(tables) == 5
    # Elsewhere, layer norms alone: of each stage before the decoder, of the 3D pixel-word attention where it has some.
    others = {name for name in undecayed - visual if "language_maps" not in name}
    assert len(others) == 2 * 4 and not any(name.startswith("text_encoder.") for name in others)
    assert (undecayed - visual == others) == (fusion_norm == "instance")


def test_each_trained_parameter_is_in_one_group_of_the_optimizer(tmp_path) -> None:
    model = tiny_lavt()
    trainer = RefSegTrainer(
        model=model,
        args=RefSegTrainingArguments(output_dir=str(tmp_path), use_cpu=True, text_layers_trained=1),
        processing_class=tiny_processor(),
    )
    decayed, undecayed = trainer.create_optimizer().param_groups
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)
    grouped = [id(parameter) for group in (decayed, undecayed) for parameter in group["params"]]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(trained)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(
        name.startswith(("text_encoder.embeddings.", "text_encoder.encoder.layer.1.")) for name in frozen
    )


def muon_trainer(folder: Path, **arguments) -> RefSegTrainer:
    args = RefSegTrainingArguments(
        str(folder), use_cpu=True, learning_rate=1e-3, muon_learning_rate=4e-3, weight_decay=0.0, **arguments
    )
    return RefSegTrainer(model=tiny_lavt(), args=args, processing_class=tiny_processor())


def test_muon_steps_as_far_in_all_directions_of_a_matrix_and_adamw_makes_the_other_steps(tmp_path) -> None:
    trainer = muon_trainer(tmp_path, text_layers_trained=1)
    model, optimizer = trainer.model, trainer.create_optimizer()
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for parameter in trained.values()}
    torch.manual_seed(0)
    for parameter in trained.values():
        parameter.grad = torch.randn_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer.step()
    steps = {name: (before[name] - parameter.detach()) for name, parameter in trained.items()}
    orthogonal = {
        name for name, step in steps.items() if step.ndim > 1 and not step.abs().std() < 1e-3 * step.abs().mean()
    }
    for name in orthogonal:
        step = steps[name].flatten(1)
        lengths = torch.linalg.svdvals(step) / (4e-3 * 0.2 * max(step.shape) ** 0.5)
        # All but the smallest ones of a square matrix, which take more iterations than there are.
        assert lengths.max() < 1.4 and (lengths > 0.7).double().mean() > 0.9, name
    # The first step of Adam is the learning rate everywhere.
    for name in steps.keys() - orthogonal:
        torch.testing.assert_close(steps[name].abs(), torch.full_like(steps[name], 1e-3), rtol=1e-3, atol=0)
    matrices = {
        f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }
    assert orthogonal == matrices.intersection(trained) - {"decoder.classifier.weight"}


def test_muon_takes_what_layers_multiply_by() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(9, 8),
            "recurrent": nn.GRU(8, 8),
            "attention": nn.MultiheadAttention(8, 2),
            "convolution": nn.Conv3d(8, 8, 3),
            "norm": nn.LayerNorm(8),
        }
    )
    model.positions = nn.Parameter(torch.zeros(6, 8))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_muon(model, 1e-3, 1e-2, 0.1, (0.9, 0.999))
    by_muon = [group["params"] for group in optimizer.param_groups if not group["use_fallback"]]
    assert {names[id(parameter)] for parameters in by_muon for parameter in parameters} == {
        *("recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "convolution.weight"),
        *("attention.in_proj_weight", "attention.out_proj.weight"),
    }


def test_rates_of_muon_and_adamw_follow_the_schedule(tmp_path) -> None:
    trainer = muon_trainer(tmp_path, warmup_steps=10)
    trainer.create_optimizer_and_scheduler(100)
    assert trainer.optimizer.param_groups[0]["use_fallback"]
    for _ in range(4):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    rates = {
        group["use_fallback"]: group["lr"] * group["fallback_lr_scale"] for group in trainer.optimizer.param_groups
    }
    assert rates == pytest.approx({True: 4e-4, False: 4e-4})
    muon = [group["lr"] for group in trainer.optimizer.param_groups if not group["use_fallback"]]
    assert muon and muon == pytest.approx([1.6e-3] * len(muon))


def test_muon_goes_with_adamw_and_has_a_rate(tmp_path) -> None:
    with pytest.raises(ValueError, match="muon_learning_rate has to be larger than 0, got -1"):
        RefSegTrainingArguments(str(tmp_path), use_cpu=True, muon_learning_rate=-1.0)
    with pytest.raises(ValueError, match="muon_learning_rate goes with AdamW, not with optim adafactor"):
        RefSegTrainingArguments(str(tmp_path), use_cpu=True, muon_learning_rate=1e-3, optim="adafactor")
    with pytest.raises(ValueError, match="adam_epsilon has no effect with muon_learning_rate"):
        RefSegTrainingArguments(str(tmp_path), use_cpu=True, muon_learning_rate=1e-3, adam_epsilon=1e-6)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_first_text_layers_of_any_encoder_are_trained(layers: int) -> None:
    clip = CLIPTextModel(
        CLIPTextConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    )
    for encoder, layer in ((clip, "encoder.layers.{}."), (tiny_lavt().text_encoder, "encoder.layer.{}.")):
        train_first_text_layers(encoder, layers)
        trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        beginnings = tuple(layer.format(index) for index in range(layers))
        assert trained == {name for name, _ in encoder.named_parameters() if name.startswith(beginnings)}


def test_more_text_layers_than_there_are_is_an_error(tmp_path) -> None:
    arguments = RefSegTrainingArguments(output_dir=str(tmp_path), use_cpu=True, text_layers_trained=3)
    with pytest.raises(ValueError, match="text_layers_trained is 3, but the text encoder has 2 layers"):
        RefSegTrainer(model=tiny_lavt(), args=arguments, processing_class=tiny_processor())


def test_batch_norms_are_synchronized_on_several_gpus_only() -> None:
    model = tiny_lavt()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    for world_size, device in ((1, "cuda"), (2, "cpu")):
        unchanged = synchronize_batch_norm(model, world_size, torch.device(device))
        assert not any(isinstance(module, nn.SyncBatchNorm) for module in unchanged.modules())
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    converted = synchronize_batch_norm(model, 2, torch.device("cuda"))
    assert norms == {name for name, module in converted.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    after = converted.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # The optimizer has to find the parameters that it was given.
    assert all(parameter is parameters[name] for name, parameter in converted.named_parameters())
