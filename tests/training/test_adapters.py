"""Adapters hold what was trained and nothing else, load in every way, and are refused by other models."""

import json
import re
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from fresh_process import run_python
from huggingface_hub import HfApi, ModelCard
from model_copies import ModelAsBuilt
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft import __version__ as peft_version
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_configs import BERT, SWIN
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_methods import TinyM3Att, TinyRisam
from tiny_recipes import TINY, write_recipe
from torch import nn
from torch.testing import assert_close
from train_tiny import build_model, build_processor
from transformers import AutoModel
from transformers.integrations import peft as peft_integration
from typer.testing import CliRunner

from hf_refseg import (
    AutoModelForReferringSegmentation,
    LavtConfig,
    LavtForReferringSegmentation,
    RefSegTrainer,
    RisamConfig,
    RisamForReferringSegmentation,
    add_adapter,
    evaluate_model,
    load_with_adapter,
)
from hf_refseg.data.examples import ReferentExamples, SentenceExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.modeling.configuration_refseg import MaskGroundingConfig
from hf_refseg.training.adapters import find_heads, load_adapter_weights
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.checkpoints import find_checkpoint_fault, last_complete_checkpoint
from hf_refseg.training.recipes import run_recipe
from hf_refseg.training.resuming import load_weights
from hf_refseg_cli import app

SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
MODERNBERT = {**BERT, **SPECIAL, "model_type": "modernbert", "cls_token_id": 0, "sep_token_id": 0}
DISTILBERT = {"model_type": "distilbert", "vocab_size": 97, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
T5 = {"model_type": "t5", "vocab_size": 97, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 48}
RANKS = {"heads": None, "lora": 4}
kinds = pytest.mark.parametrize("kind", list(RANKS))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A saved model, with an auxiliary task, and its processor."""
    folder = tmp_path_factory.mktemp("models") / "base"
    config = tiny_lavt().config
    config.presence_head = True
    torch.manual_seed(0)
    LavtForReferringSegmentation(config).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@lru_cache(maxsize=2)
def as_loaded(folder: Path) -> ModelAsBuilt:
    return ModelAsBuilt(AutoModelForReferringSegmentation.from_pretrained(folder))


def load_base(folder: Path) -> LavtForReferringSegmentation:
    return as_loaded(folder).copy()


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(2, 3, 64, 64, generator=generator),
        "input_ids": torch.randint(5, 12, (2, 6), generator=generator),
        "attention_mask": torch.ones(2, 6, dtype=torch.long),
    }


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    outputs = model.eval()(**inputs())
    return torch.cat([outputs.logits.flatten(), outputs.presence_logits])


def train(model: nn.Module, steps: int = 3) -> nn.Module:
    """Makes a few long steps on whatever requires a gradient."""
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[0, 10:40, 20:50] = 1
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], 1e-2)
    model.train()
    for _ in range(steps):
        model(**inputs(), mask_labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> dict[str, tuple[Path, torch.Tensor]]:
    """By kind: the folder of a trained adapter, and what the model gave when it was saved."""
    found = {}
    for kind, rank in RANKS.items():
        torch.manual_seed(0)
        model = train(add_adapter(load_base(base), lora_rank=rank, lora_alpha=16))
        folder = tmp_path_factory.mktemp("adapters") / kind
        model.save_pretrained(folder)
        tiny_processor().save_pretrained(folder)
        found[kind] = folder, logits(model)
    return found


def test_heads_are_trained_and_encoders_are_not(base) -> None:
    before = load_base(base).state_dict()
    model = train(add_adapter(load_base(base)))
    plain = model.get_base_model()
    assert not plain.backbone.training and not plain.text_encoder.training and plain.decoder.training
    trainable = {
        name.split("modules_to_save.default")[0] for name, part in model.named_parameters() if part.requires_grad
    }
    assert trainable == {f"base_model.model.{head}." for head in ("stages.0", "stages.1", "decoder", "presence_head")}
    after = model.merge_and_unload().state_dict()
    assert before.keys() == after.keys()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in before if name.startswith(("backbone.", "text_encoder."))} <= same
    for name in ("decoder.classifier.weight", "decoder.steps.0.norm1.running_mean", "presence_head.norm.weight"):
        assert name not in same


def test_lora_reaches_the_attention_of_both_encoders_alone(base) -> None:
    model = add_adapter(load_base(base), lora_rank=2)
    plain = model.get_base_model()
    plain.train()
    assert plain.backbone.training and plain.text_encoder.training
    adapted = {name.partition(".lora_A")[0] for name, _ in plain.named_parameters() if "lora_A" in name}
    # 2 stages of one layer and 2 text layers with three projections each, but not the fusion's query, key and value.
    assert len(adapted) == 3 * (2 + 2)
    assert all(re.search(r"\.(q_proj|k_proj|v_proj|query|key|value)$", name) for name in adapted)
    updates = [part for name, part in train(model).named_parameters() if "lora_B" in name]
    assert len(updates) == len(adapted) and all(part.abs().max() > 1e-3 for part in updates)  # they start at 0


@pytest.mark.parametrize(
    ("text_config", "names"),
    [
        ({**BERT, **SPECIAL, "model_type": "clip_text_model"}, {"q_proj", "k_proj", "v_proj"}),
        (DISTILBERT, {"q_lin", "k_lin", "v_lin"}),
        (MODERNBERT, {"Wqkv"}),
        (T5, {"q", "k", "v"}),
        ({**BERT, "model_type": "deberta-v2"}, {"query_proj", "key_proj", "value_proj"}),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_attention_is_found_whatever_its_projections_are_called(text_config: dict, names: set[str], tmp_path) -> None:
    LavtForReferringSegmentation(LavtConfig(backbone_config=SWIN, text_config=text_config)).save_pretrained(tmp_path)
    model = add_adapter(load_base(tmp_path), lora_rank=2)
    updates = {name: part for name, part in train(model).named_parameters() if "lora_B" in name}
    words = {name: part for name, part in updates.items() if "text_encoder" in name}
    assert {name.partition(".lora_B")[0].rpartition(".")[2] for name in words} == names
    assert len(words) == 2 * len(names) and len(updates) - len(words) == 3 * 4
    assert all(part.abs().max() > 1e-4 for part in updates.values())  # they start at 0


def test_an_encoder_without_attention_is_named(tmp_path) -> None:
    timm = {"model_type": "timm_backbone", "backbone": "test_resnet", "out_indices": [-3, -2, -1]}
    config = RisamConfig(backbone_config=timm, text_config=BERT, hidden_size=16, num_attention_heads=2)
    RisamForReferringSegmentation(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="The backbone of RisamForReferringSegmentation has no attention"):
        add_adapter(load_base(tmp_path), lora_rank=2)


@torch.no_grad()
def test_adapters_whose_file_describes_the_projections_by_a_pattern_are_read(base, tmp_path) -> None:
    """As add_adapter wrote them before it looked for the projections itself."""
    pattern = r"(backbone|text_encoder)\.(.*\.)?(q_proj|k_proj|v_proj|query|key|value|qkv)"
    model = load_base(base)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=pattern, modules_to_save=find_heads(model))
    model = get_peft_model(model, config)
    model.peft_config["default"].base_model_name_or_path = str(base)
    for name, part in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(part, std=0.1)
    model.save_pretrained(tmp_path)
    resumed = add_adapter(load_base(base), lora_rank=4, lora_alpha=16)
    load_adapter_weights(resumed, tmp_path)
    for loaded in (load_with_adapter(tmp_path), AutoModel.from_pretrained(tmp_path), resumed):
        assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-5)


@kinds
def test_every_way_of_loading_gives_the_same(base, trained, kind) -> None:
    folder, expected = trained[kind]
    assert (expected - logits(load_base(base))).abs().max() > 0.1
    loaded = {
        "load_with_adapter": load_with_adapter(folder),
        "PeftModel": PeftModel.from_pretrained(load_base(base), folder),
        "AutoModel": AutoModel.from_pretrained(folder),
        "AutoModelForReferringSegmentation": AutoModelForReferringSegmentation.from_pretrained(folder),
    }
    for way, model in loaded.items():
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-5, msg=lambda text, way=way: way + text)


@kinds
def test_the_folder_holds_the_trained_parts_and_the_bases_name(base, trained, kind) -> None:
    folder, _ = trained[kind]
    tensors = load_file(folder / "adapter_model.safetensors")
    parts = {name.removeprefix("base_model.model.").split(".")[0] for name in tensors}
    encoders = {"backbone", "text_encoder"} if kind == "lora" else set()
    assert parts == {"stages", "decoder", "presence_head", *encoders}
    assert all("lora_" in name for name in tensors if "backbone." in name or "text_encoder." in name)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert not (folder / "config.json").exists() and not (folder / "model.safetensors").exists()


@kinds
def test_merging_gives_a_plain_model(trained, kind, tmp_path) -> None:
    folder, expected = trained[kind]
    merged = load_with_adapter(folder).merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is LavtForReferringSegmentation
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert not [name for name in loaded.state_dict() if "lora" in name or "modules_to_save" in name]
    torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=1e-4)


@kinds
def test_adapters_of_risam(kind, tmp_path) -> None:
    tests = TinyRisam()
    frozen = {"freeze_image_encoder": True, "freeze_text_encoder": True}
    tests.build(**frozen).save_pretrained(tmp_path / "base")
    model = add_adapter(load_base(tmp_path / "base"), lora_rank=RANKS[kind]).train()
    model(**tests.inputs(), mask_labels=tests.labels()).loss.backward()
    assert not [name for name, part in model.named_parameters() if part.requires_grad and part.grad is None]
    adapted = {name.split(".")[2] for name, part in model.named_parameters() if "lora_A" in name}
    assert adapted == ({"backbone", "text_encoder"} if kind == "lora" else set())
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model.eval()(**tests.inputs()).logits
        for loaded in (AutoModel.from_pretrained(tmp_path / "adapter"), load_with_adapter(tmp_path / "adapter")):
            torch.testing.assert_close(loaded.eval()(**tests.inputs()).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_adapter_of_the_papers_risam_is_small() -> None:
    with torch.device("meta"):
        model = RisamForReferringSegmentation(RisamConfig())
    model.name_or_path = "someone/risam"
    saved = get_peft_model_state_dict(add_adapter(model), save_embedding_layers=False)
    assert 10e6 < sum(tensor.numel() * tensor.element_size() for tensor in saved.values()) < 40e6


@torch.no_grad()
@kinds
def test_an_adapter_without_the_parts_of_later_versions_computes_the_same(kind, tmp_path) -> None:
    config = tiny_lavt().config
    config.presence_head = True
    config.mask_grounding = MaskGroundingConfig(special_token_ids=[0, 1, 2, 3, 4], mask_token_id=4, predictor_layers=1)
    LavtForReferringSegmentation(config).save_pretrained(tmp_path / "base")
    model = add_adapter(load_base(tmp_path / "base"), lora_rank=RANKS[kind]).eval()
    for part in model.parameters():
        if part.requires_grad:
            part.add_(0.05 * torch.randn(part.shape, generator=torch.Generator().manual_seed(0)))
    later = (model.mask_grounding.mask_token.change, model.presence_head.highest_logit_weight)
    for part in later:
        part.zero_()
    labels = torch.ones(2, 64, 64, dtype=torch.long)
    expected = model(**inputs(), mask_labels=labels)
    model.save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    for name in ("mask_grounding.mask_token.change", "presence_head.highest_logit_weight"):
        del tensors[f"base_model.model.{name}"]
    save_file(tensors, weights)
    for part in later:
        part.fill_(1)
    load_weights(model, tmp_path / "adapter")  # as a training does that goes on
    for loaded in (load_with_adapter(tmp_path / "adapter"), model):
        assert not loaded.mask_grounding.mask_token.change.any()
        assert not loaded.presence_head.highest_logit_weight.any()
        assert torch.equal(loaded(**inputs(), mask_labels=labels).loss, expected.loss)
    del tensors["base_model.model.mask_grounding.words.kind.weight"]
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"words\.kind\.weight has the shape none in the adapter"):
        load_with_adapter(tmp_path / "adapter")


@torch.no_grad()
def test_an_adapter_whose_scales_have_no_axis_is_read(tmp_path) -> None:
    tests = TinyM3Att()
    tests.build().save_pretrained(tmp_path / "base")
    model = add_adapter(load_base(tmp_path / "base")).eval()
    for name, part in model.named_parameters():
        if name.endswith(".scale"):
            part.fill_(0.7)
    expected = model(**tests.inputs()).logits
    model.save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    scales = {name: value.squeeze() for name, value in tensors.items() if name.endswith(".scale")}
    assert scales and {value.shape for value in scales.values()} == {()}
    save_file(tensors | scales, weights)
    loaded = load_with_adapter(tmp_path / "adapter")
    assert_close(loaded(**tests.inputs()).logits, expected)


class OtherForReferringSegmentation(LavtForReferringSegmentation):
    """Another method."""


@kinds
def test_an_adapter_for_another_model_is_refused(base, trained, kind, tmp_path) -> None:
    folder, _ = trained[kind]

    def error(model: LavtForReferringSegmentation) -> str:
        with pytest.raises(ValueError) as caught:
            load_with_adapter(folder, model)
        message = str(caught.value)
        assert str(folder) in message and str(base.resolve()) in message
        return message

    config = load_base(base).config
    assert "it is an adapter of LavtForReferringSegmentation" in error(OtherForReferringSegmentation(config))
    shutil.copytree(base, tmp_path / "other")
    message = error(load_base(tmp_path / "other"))
    assert str(tmp_path / "other") in message and "base_model_name_or_path" in message
    config.decoder_hidden_size = 24
    assert re.search(
        r"decoder\.\S+ has the shape \[.*\] in the adapter and \[.*\] in the model",
        error(LavtForReferringSegmentation(config)),
    )
    config = tiny_lavt().config
    assert "presence_head" in error(LavtForReferringSegmentation(config))


def test_an_adapter_of_another_kind_is_refused(trained, base) -> None:
    model = add_adapter(load_base(base))
    with pytest.raises(ValueError, match=r"lora_A.* has the shape \[4, \d+\] in the adapter and none in the model"):
        load_adapter_weights(model, trained["lora"][0])


def test_a_broken_folder_is_named(base, trained, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        load_with_adapter(base)
    folder = tmp_path / "adapter"
    shutil.copytree(trained["heads"][0], folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        load_with_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    for name, message in ((str(tmp_path / "gone"), "gone, which is not there"), (None, "does not say what")):
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
        with pytest.raises(ValueError, match=message) as caught:
            load_with_adapter(folder)
        assert "adapter_config.json" in str(caught.value)


def test_models_that_cannot_be_adapted_are_refused(base) -> None:
    with pytest.raises(ValueError, match="never loaded from anywhere"):
        add_adapter(tiny_lavt())
    with pytest.raises(ValueError, match="has an adapter already"):
        add_adapter(add_adapter(load_base(base)))
    model = load_base(base)
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="bare parameter 'scale'"):
        add_adapter(model)
    model = load_base(base)
    model.attention = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"modules 'attention' and '\S+\.attention', which PEFT cannot tell apart"):
        add_adapter(model)
    model.attention = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert "attention.0" in find_heads(model) and "attention" not in find_heads(model)
    model = load_base(base)
    model.backbone.norm = nn.BatchNorm2d(2)
    with pytest.raises(ValueError, match=r"batch statistics of backbone\.norm"):
        add_adapter(model, lora_rank=2)
    for options in ({"lora_rank": 0}, {"lora_rank": 2, "lora_alpha": 0}, {"lora_rank": 2, "lora_dropout": 1.0}):
        with pytest.raises(ValueError, match="lora_rank has to be at least 1"):
            add_adapter(load_base(base), **options)


@kinds
def test_evaluation_reaches_the_base_model(shapes_base, kind, cache) -> None:
    rows = load_refseg("refshapes", train_size=6, val_size=3, test_size=1, image_size=64, cache_dir=str(cache))["val"]
    options = {"bootstrap_samples": 0, "progress": False}
    before = evaluate_model(load_base(shapes_base), build_processor(), rows, **options)
    model = train(add_adapter(load_base(shapes_base), lora_rank=RANKS[kind]), steps=1)
    found = evaluate_model(model, build_processor(), rows, **options)
    assert 0 < found.metrics["oIoU"] < 100 and found.metrics != before.metrics
    merged = evaluate_model(model.merge_and_unload(), build_processor(), rows, **options)
    assert found.metrics == pytest.approx(merged.metrics, abs=0.1)


READ = """
import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

def show(model, processor):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    with torch.no_grad():
        logits = model.eval()(**processor(image, "the left dog", return_tensors="pt")).logits
    print(type(model).__module__.split(".")[0], logits.mean().item(), logits.std().item())

def read(name, **options):
    show(AutoModel.from_pretrained(name, **options), AutoProcessor.from_pretrained(name, **options))
"""
PUSH = """
from hf_refseg import AutoModelForReferringSegmentation, RefSegTrainer, add_adapter
from hf_refseg.hub.saved_models import load_model
from hf_refseg.training.arguments import RefSegTrainingArguments

model = AutoModelForReferringSegmentation.from_pretrained("base")
processor = AutoProcessor.from_pretrained("base")
model.push_to_hub("tester/base")
processor.push_to_hub("tester/base")
model = add_adapter(AutoModelForReferringSegmentation.from_pretrained("tester/base"), lora_rank=2)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
model.push_to_hub("tester/adapter")
processor.push_to_hub("tester/adapter")
arguments = RefSegTrainingArguments(
    "run", use_cpu=True, push_to_hub=True, hub_model_id="tester/trained", report_to="none", disable_tqdm=True
)
RefSegTrainer(model, arguments, processor).push_to_hub()
read("tester/adapter")
read("tester/trained")
show(*load_model("tester/adapter", "cpu", "float32"))
show(model.merge_and_unload(), processor)
"""


@pytest.mark.slow_process
def test_an_adapter_on_the_hub_is_loaded_with_its_base(hub, base, tmp_path) -> None:
    shutil.copytree(base, tmp_path / "base")
    *_, by_hand, by_trainer, by_command, expected = run_python(
        READ, PUSH, cwd=tmp_path, env=hub.environment("writer")
    ).splitlines()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    read = "read('tester/adapter', trust_remote_code=True)"
    stranger = run_python(READ, read, cwd=elsewhere, env=hub.environment("reader"), package=None).splitlines()[-1]
    numbers = pytest.approx([float(number) for number in expected.split()[1:]], abs=1e-4)
    for printed, package in (
        (by_hand, "hf_refseg"),
        (by_trainer, "hf_refseg"),
        (by_command, "hf_refseg"),
        (stranger, "transformers_modules"),
    ):
        assert printed.split()[0] == package
        assert [float(number) for number in printed.split()[1:]] == numbers

    api = HfApi(endpoint=hub.endpoint)
    for name in ("adapter", "trained"):
        files = set(api.list_repo_files(f"tester/{name}"))
        assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json"} <= files
        assert not files & {"config.json", "model.safetensors"}
    card = api.model_info("tester/trained").card_data
    assert card.base_model == "tester/base" and card.base_model_relation == "adapter"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def shapes_base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "shapes"
    build_model(loss_type="dice_boundary").save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def build_trainer(
    output_dir: Path, base: Path, cache: Path, rank: int | None = None, model=None, **arguments
) -> RefSegTrainer:
    data = load_refseg("refshapes", train_size=6, val_size=3, test_size=1, image_size=64, cache_dir=str(cache))
    torch.manual_seed(0)
    defaults = {
        "use_cpu": True,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "pictures": 0,
    }
    return RefSegTrainer(
        model=add_adapter(load_base(base), lora_rank=rank) if model is None else model,
        args=RefSegTrainingArguments(output_dir=str(output_dir), **{**defaults, **arguments}),
        processing_class=build_processor(),
        train_dataset=ReferentExamples(data["train"], seed=3),
        eval_dataset=SentenceExamples(data["val"]),
    )


@kinds
def test_training_resumes_from_checkpoints_of_the_adapter(shapes_base, cache, tmp_path, kind) -> None:
    schedule = {"boundary": {"start": 0.0, "end": 0.4}}
    options = {"loss_weight_schedules": schedule, "gradient_checkpointing": kind == "lora"}
    whole = build_trainer(tmp_path / "whole", shapes_base, cache, RANKS[kind], **options)
    whole.train()
    assert whole.model.get_base_model().loss_weights["boundary"] == pytest.approx(0.3)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert {path.name for path in checkpoint.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert last_complete_checkpoint(tmp_path / "whole") == str(tmp_path / "whole" / "checkpoint-4")
    resumed = build_trainer(tmp_path / "whole", shapes_base, cache, RANKS[kind], **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    for (name, expected), actual in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            actual, expected, atol=1e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_checkpoints_that_are_cut_off_are_passed_over(shapes_base, cache, tmp_path) -> None:
    build_trainer(tmp_path, shapes_base, cache).train()
    newest = tmp_path / "checkpoint-4"
    assert find_checkpoint_fault(newest) is None
    config = (newest / "adapter_config.json").read_text()
    (newest / "adapter_config.json").unlink()
    assert find_checkpoint_fault(newest) == "adapter_config.json is missing"
    (newest / "adapter_config.json").write_text(config)
    weights = (newest / "adapter_model.safetensors").read_bytes()
    (newest / "adapter_model.safetensors").write_bytes(weights[:-5])
    assert find_checkpoint_fault(newest) == "adapter_model.safetensors is cut off"
    (newest / "adapter_model.safetensors").unlink()
    assert find_checkpoint_fault(newest) == "adapter_model.safetensors is missing"
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_the_best_adapter_is_loaded_in_the_end(shapes_base, cache, tmp_path) -> None:
    trainer = build_trainer(
        tmp_path,
        shapes_base,
        cache,
        2,
        learning_rate=0.5,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        max_steps=3,
        save_total_limit=3,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
    )
    trainer.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    saved = load_with_adapter(tmp_path / f"checkpoint-{best}").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-4)


def test_options_that_an_adapter_cannot_hold_are_refused(shapes_base, cache, tmp_path) -> None:
    with pytest.raises(ValueError, match="text_layers_trained"):
        build_trainer(tmp_path, shapes_base, cache, text_layers_trained=1)
    with pytest.raises(ValueError, match="Push the base model first"):
        build_trainer(tmp_path, shapes_base, cache, push_to_hub=True, hub_model_id="tester/adapter", hub_token="none")
    with pytest.raises(ValueError, match="holds a whole model, but an adapter is trained"):
        build_trainer(shapes_base, shapes_base, cache)
    add_adapter(load_base(shapes_base)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an adapter, but a whole model is trained"):
        build_trainer(tmp_path, shapes_base, cache, model=load_base(shapes_base))


def test_the_model_card_names_the_base_on_the_hub(shapes_base, cache, tmp_path) -> None:
    trainer = build_trainer(tmp_path, shapes_base, cache, 2, max_steps=1)
    trainer.train()
    trainer.create_model_card(base_model=["some/encoder"])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == ["some/encoder"] and "peft" in card.data.tags
    assert "LoRA of rank 2, alpha 16" in card.text and "text layers trained" not in card.text
    held = sum(tensor.numel() for name, tensor in trainer.model.named_parameters() if tensor.requires_grad)
    assert f"An adapter of {held / 1e6:.2f} million parameters for the `LavtForReferringSegmentation`" in card.text
    trainer.model.peft_config["default"].base_model_name_or_path = "someone/base"
    trainer.create_model_card(base_model=["some/encoder"])
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model == "someone/base" and data.base_model_relation == "adapter"


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def failure(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("Error: "), result.output
    return result.stderr.splitlines()[-1]


@pytest.mark.slow_process
def test_the_script_trains_resumes_and_the_commands_take_the_result(cache, tmp_path) -> None:
    recipe = write_recipe(tmp_path, cache, adapter="lora", lora_rank=2, max_test_images=1, test_splits=["val"])
    folder = tmp_path / "run"
    run_recipe([str(recipe), "--max_steps", "2"])
    assert not (folder / "config.json").exists()
    first = logits_of(folder)
    with pytest.raises(ValueError, match="seed the default, now 7"):
        run_recipe([str(recipe), "--max_steps", "3", "--seed", "7"])
    report = run_recipe([str(recipe), "--max_steps", "3"])
    assert report["training"]["steps"] == 3
    assert (logits_of(folder) - first).abs().max() > 1e-4
    state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    again = run_recipe([str(recipe), "--max_steps", "3"])
    assert again["splits"]["val"]["metrics"] == report["splits"]["val"]["metrics"]

    Image.new("RGB", (50, 40), "red").save(tmp_path / "photo.png")
    segment = ["predict", folder, tmp_path / "photo.png", "--text", "the red circle", "--output"]
    of_adapter = command(*segment, tmp_path / "masks").replace(str(tmp_path / "masks"), "")
    shown = command("info", folder)
    assert re.search(r"adapter +heads, and LoRA of rank 2, alpha 16", shown) and str(folder / "base_model") in shown
    command("merge", folder, tmp_path / "merged")
    torch.testing.assert_close(logits_of(tmp_path / "merged"), logits_of(folder), atol=1e-4, rtol=1e-4)
    segment[1] = tmp_path / "merged"
    assert command(*segment, tmp_path / "masks2").replace(str(tmp_path / "masks2"), "") == of_adapter
    assert "holds other files" in failure("merge", folder, tmp_path / "merged")
    assert "nothing to merge" in failure("merge", tmp_path / "merged", tmp_path / "again")

    with pytest.raises(ValueError, match="belongs to the base model"):
        run_recipe([str(recipe), "--max_steps", "4", "--resume_from_checkpoint", "never"])
    assert logits_of(folder / "checkpoint-3").isfinite().all()
    with pytest.raises(ValueError, match="has another gate_activation"):
        run_recipe([str(recipe), "--max_steps", "4", "--config", '{"gate_activation": "sigmoid"}'])
    with pytest.raises(ValueError, match='adapter "lora", now "heads"'):
        run_recipe([str(recipe), "--max_steps", "4", "--adapter", "heads", "--lora_rank", "8"])
    with pytest.raises(ValueError, match="holds an adapter, but a whole model is trained"):
        run_recipe([str(recipe), "--max_steps", "4", "--adapter", "none", "--lora_rank", "8"])
    other = write_recipe(
        tmp_path, cache, config=None, model_name_or_path=str(folder), output_dir=str(tmp_path / "next")
    )
    with pytest.raises(ValueError, match="is an adapter: write a whole model"):
        run_recipe([str(other)])


@pytest.mark.slow_process
def test_heads_are_trained_on_cached_features(cache, tmp_path) -> None:
    options = {"adapter": "heads", "max_steps": 2, "max_test_images": 1, "test_splits": ["val"]}
    losses = []
    for name in ("plain", "cached"):
        recipe = write_recipe(tmp_path, cache, output_dir=str(tmp_path / name), **options)
        extra = ["--cache_image_features", str(tmp_path / "features")] if name == "cached" else []
        run_recipe([str(recipe), *extra])
        state = json.loads((tmp_path / name / "checkpoint-2" / "trainer_state.json").read_text())
        losses += [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert len(losses) == 2 and losses[0] == pytest.approx(losses[1], abs=1e-3)


@torch.no_grad()
def logits_of(folder: Path) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, TINY["image_size"], TINY["image_size"], generator=generator)
    model = AutoModel.from_pretrained(folder).eval()
    return model(pixel_values=pixels, input_ids=torch.tensor([[2, 7, 8, 3]])).logits


@torch.no_grad()
def check_adapters_of_transformers(folder: Path) -> None:
    """`PreTrainedModel.add_adapter` changes the model, can be switched off, and is saved and loaded."""
    model = tiny_lavt()
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), "input_ids": torch.tensor([[2, 5, 8, 3]])}
    plain = model(**inputs).logits
    # Its second matrix starts from random values, so that the new adapter has an effect.
    model.add_adapter(LoraConfig(r=2, target_modules=r"text_encoder\..*\.(query|value)", init_lora_weights=False))
    model.eval()
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"text_encoder"}
    adapted = model(**inputs).logits
    assert (adapted - plain).abs().max() > 1e-4
    model.save_pretrained(folder)
    model.disable_adapters()
    assert torch.equal(model(**inputs).logits, plain)
    loaded = tiny_lavt()
    loaded.load_adapter(str(folder))
    assert torch.equal(loaded.eval()(**inputs).logits, adapted)


@pytest.mark.skipif(
    Version(peft_version) < Version(peft_integration.MIN_PEFT_VERSION),
    reason=f"this transformers takes peft {peft_integration.MIN_PEFT_VERSION} or newer here, not {peft_version}",
)
def test_adapters_of_transformers(tmp_path) -> None:
    check_adapters_of_transformers(tmp_path)


def test_adapters_of_transformers_work_with_an_older_peft(tmp_path, monkeypatch) -> None:
    """All but the check of the version does."""
    monkeypatch.setattr(peft_integration, "MIN_PEFT_VERSION", peft_version)
    check_adapters_of_transformers(tmp_path)
