"""Released checkpoint files: what is read, what is refused, and what a converted model is worth on disk."""

import argparse
import os
import pickle

import pytest
import torch
from golden_lavt import BERT_CONFIG, golden_case, golden_model, model_inputs, released_checkpoint

from hf_refseg import LavtForReferringSegmentation
from hf_refseg.convert import CheckpointError, convert_lavt_checkpoint, load_checkpoint


def test_dimensions_are_read_off_the_tensors() -> None:
    config = golden_model().config
    backbone = config.backbone_config
    assert (backbone.embed_dim, list(backbone.depths), list(backbone.num_heads)) == (16, [1, 1, 2, 2], [1, 2, 2, 4])
    assert (backbone.window_size, backbone.patch_size, backbone.mlp_ratio) == (4, 4, 4.0)
    inferred = convert_lavt_checkpoint(released_checkpoint()).config.text_config
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"):
        assert getattr(inferred, name) == BERT_CONFIG[name]


def test_a_released_file_loads_with_its_arguments_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "model.pth"
    torch.save({**released_checkpoint(), "epoch": 39, "args": argparse.Namespace(lr=5e-5, mha="1-1-1-1")}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint["args"].lr == 5e-5
    name = "backbone.norm0.weight"
    assert torch.equal(checkpoint["model"][name], released_checkpoint()["model"][name])


@torch.no_grad()
def test_a_converted_model_survives_the_disk(tmp_path) -> None:
    """Swin's parameters have other names on disk than in memory."""
    model = golden_model()
    model.save_pretrained(tmp_path)
    loaded, report = LavtForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = model_inputs(golden_case("pad")[0])
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_and_does_nothing(tmp_path, monkeypatch, legacy: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Bomb()}))
    else:
        torch.save({"model": Bomb()}, path)
    with pytest.raises(CheckpointError, match=r"model\.pth: this is no checkpoint that can be loaded safely"):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_damaged_missing_and_odd_files_are_named(tmp_path) -> None:
    path = tmp_path / "model.pth"
    torch.save(released_checkpoint(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"model\.pth.*Download it again"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="expected a dictionary"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pth")


def without(name: str) -> dict:
    checkpoint = released_checkpoint()
    del checkpoint["model"][name]
    return checkpoint


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({}, "no tensors under 'model'"),
        ({"model": {"backbone.conv1.weight": torch.zeros(1)}}, "no tensors under 'bert_model'"),
        ({"state_dict": {}, "epoch": 3}, "its keys are state_dict, epoch"),
        ({"model": {"text_encoder.x": torch.zeros(1), "stem.conv": torch.zeros(1)}}, "such as stem.conv"),
        (without("backbone.norm2.bias"), "1 tensors are missing"),
        (without("backbone.patch_embed.proj.weight"), "no tensor 'backbone.patch_embed.proj.weight'"),
    ],
    ids=["empty", "two modules without BERT", "other layout", "other method", "incomplete", "no patches"],
)
def test_wrong_checkpoints_are_named(checkpoint: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_lavt_checkpoint(checkpoint, text_config=BERT_CONFIG)


def test_a_text_configuration_that_does_not_fit_is_named() -> None:
    with pytest.raises(CheckpointError, match="have another shape"):
        convert_lavt_checkpoint(released_checkpoint(), text_config={**BERT_CONFIG, "intermediate_size": 32})
