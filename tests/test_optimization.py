"""The optimizer's steps are those of the reference implementation, and parameter groups are as it made them."""

import json
import re
from collections.abc import Iterator

import pytest
import tiny_configs
import torch
from golden_lavt import BERT_CONFIG, FOLDER, golden_case, golden_model, model_inputs
from test_lavt_golden import our_name
from tiny_lavt import tiny_lavt, tiny_processor
from torch import nn
from torch.utils.data import Dataset
from transformers import CLIPTextConfig, CLIPTextModel, TrainerCallback

from hf_refseg import LavtForReferringSegmentation, VideoLavtConfig, VideoLavtForReferringSegmentation
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.optimization import decay_parameter_names, synchronize_batch_norm, train_first_text_layers
from hf_refseg.training.trainer import RefSegTrainer

LOSS_TOLERANCES = (1e-4, 1e-4, 1e-3, 1e-3, 1e-3)
GOLDEN = json.loads((FOLDER / "train_trajectory.json").read_text())


class OneBatch(Dataset):
    """The two samples of a golden case, the same in each epoch."""

    def __init__(self, name: str) -> None:
        tensors, _ = golden_case(name)
        self.batch = {**model_inputs(tensors), "mask_labels": tensors["target"].long()}

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.batch.items()}


class KeepWeights(TrainerCallback):
    """Copies the model's weights after a step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, args, state, control, model, **kwargs) -> None:
        if state.global_step == self.step:
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}


def golden_model_without_drop_path() -> LavtForReferringSegmentation:
    converted = golden_model()
    config = converted.config
    config.backbone_config.drop_path_rate = 0.0
    model = LavtForReferringSegmentation(config)
    model.load_state_dict(converted.state_dict())
    return model


def expected_norms() -> Iterator[tuple[str, list[str], float]]:
    """Released name, our names and norm after training, of each parameter that exists here."""
    for released, norm in GOLDEN["param_norm_after"].items():
        if "layers.3.res_gate" in released or "pooler" in released:
            continue
        letters = "qkv" if ".attn.qkv." in released else " "
        yield released, [our_name(released.replace("qkv", letter)) for letter in letters], norm


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# With batch statistics a rounding in float32 decides which units of the decoder are on, in the reference as here. Sums
# over several threads round in another order with each number of threads and move the later losses by up to 1e-3; in
# float64, without roundings to speak of, they are 1.008e-3 away from the reference's.
@pytest.mark.usefixtures("one_thread")
def test_five_optimizer_steps_match_the_reference(tmp_path) -> None:
    assert BERT_CONFIG["num_hidden_layers"] == 2 and GOLDEN["num_bert_layers_trained"] == 1
    steps = len(GOLDEN["steps"])
    keeper = KeepWeights(steps)
    trainer = RefSegTrainer(
        model=golden_model_without_drop_path(),
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

    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    for number, (entry, expected) in enumerate(zip(entries, GOLDEN["steps"], strict=False)):
        assert entry["loss"] == pytest.approx(expected["loss"], abs=LOSS_TOLERANCES[number])
        assert entry["loss_cross_entropy"] == pytest.approx(entry["loss"], abs=1e-6)
    rates = [entry["learning_rate"] for entry in entries]
    assert rates[0] == GOLDEN["lr"]
    assert rates[1:] == pytest.approx([expected["lr_after"] for expected in GOLDEN["steps"]], abs=1e-12)

    compared = 0
    for released, names, expected in expected_norms():
        norm = torch.stack([keeper.weights[name].norm() for name in names]).norm().item()
        # Adam made full steps of what rounding left of a zero gradient: these biases cancel in softmax or norm.
        tolerance = 0.02 if "image_lang_att" in released and released.endswith("bias") else 5e-4
        assert norm == pytest.approx(expected, abs=tolerance), released
        compared += 1
    assert compared > 150
    for released, expected in GOLDEN["bn_running_mean_after"].items():
        assert keeper.weights[our_name(released)].norm().item() == pytest.approx(expected, rel=5e-3), released


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
