"""Released checkpoint files: what is read, what is refused, and what a converted model is worth on disk."""

import argparse
import copy
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden_lavt import BERT_CONFIG, golden_case, golden_model, model_inputs, released_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from hf_refseg import LavtForReferringSegmentation
from hf_refseg.convert import CheckpointError, convert_lavt_checkpoint, load_checkpoint
from hf_refseg.hub.saved_models import load_whole_model


def test_dimensions_are_read_off_the_tensors() -> None:
    config = golden_model().config
    backbone = config.backbone_config
    assert (backbone.embed_dim, list(backbone.depths), list(backbone.num_heads)) == (16, [1, 1, 2, 2], [1, 2, 2, 4])
    assert (backbone.window_size, backbone.patch_size, backbone.mlp_ratio) == (4, 4, 4.0)
    inferred = convert_lavt_checkpoint(released_checkpoint()).config.text_config
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"):
        assert getattr(inferred, name) == BERT_CONFIG[name]


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "first format"])
def test_a_released_file_loads_with_its_arguments_and_nothing_else(tmp_path, legacy: bool) -> None:
    """As the training scripts save them: with optimizer and schedule, and names and tensors that come twice."""
    path = tmp_path / "model.pth"
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=5e-5, amsgrad=True)
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    released = {
        **released_checkpoint(),
        "layer": layer.state_dict(),
        "average": layer.state_dict(),
        "parameters": dict(layer.named_parameters()),
        "epoch": 39,
        "args": argparse.Namespace(lr=5e-5, mha="1-1-1-1", seed=2**40, sizes=[480, (1.5, None)], pretrained=True),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]).state_dict(),
    }
    torch.save(released, path, _use_new_zipfile_serialization=not legacy)
    checkpoint = load_checkpoint(path)
    assert checkpoint["args"] == released["args"]
    assert checkpoint["lr_scheduler"]["milestones"] == {3: 1, 5: 1}
    assert torch.equal(checkpoint["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    for part in ("model", "bert_model", "average", "parameters"):
        assert all(torch.equal(tensor, released[part][name]) for name, tensor in checkpoint[part].items())


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
    with pytest.raises(CheckpointError, match=r"model\.pth.*it is cut off or damaged\. Download it again"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="expected a dictionary"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pth")


class Called:
    """Is pickled as a call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def repack(path: Path, compressed: str = "", copies: int = 0) -> None:
    """Writes a checkpoint's archive anew: with one part compressed, and entries that are copies of the largest one."""
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            packing = zipfile.ZIP_DEFLATED if name == compressed else zipfile.ZIP_STORED
            archive.writestr(name, content, packing)
        largest = max(archive.filelist, key=lambda entry: entry.file_size)
        for index in range(copies):
            entry = copy.copy(largest)
            entry.filename = f"{largest.filename}{index}"
            archive.filelist.append(entry)


def save_compressed_tensor(path: Path) -> None:
    torch.save({"model": {"conv.weight": torch.zeros(10**6)}}, path)
    repack(path, compressed="model/data/0")
    assert path.stat().st_size < 10_000


def save_compressed_list(path: Path) -> None:
    torch.save({"model": {}, "args": "A" * 10**6}, path)
    repack(path, compressed="model/data.pkl")


def save_overlapping(path: Path) -> None:
    torch.save({"model": {"conv.weight": torch.zeros(10**5)}}, path)
    repack(path, copies=3)


def save_two_directories(path: Path) -> None:
    """An archive within the comment of another one."""
    torch.save({"model": {}}, path)
    inner = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = inner


def save_without_values(path: Path) -> None:
    """Of the first format, with a tensor whose values do not follow."""
    torch.save({"model": {"conv.weight": torch.ones(10**5)}}, path, _use_new_zipfile_serialization=False)
    with path.open("rb") as file:
        for _ in range(3):
            pickle.load(file)
        start = file.tell()
    content = path.read_bytes()
    end = start + content[start:].index(b"s.") + 2
    path.write_bytes(content[:end] + pickle.dumps([], 2))


def nested_tuple() -> tuple:
    """Takes ten thousand steps to hash."""
    key: tuple = ()
    for _ in range(14):
        key = (key, key)
    return key


GROWING_FILES = {
    "compressed tensor": (save_compressed_tensor, "its part model/data/0 is compressed"),
    "compressed list": (save_compressed_list, r"its part model/data\.pkl is compressed"),
    "two directories": (save_two_directories, "something between its directory and its end"),
    "overlapping": (save_overlapping, "its parts overlap"),
    "without values": (save_without_values, "its tensors hold more values than the file"),
}
GROWING_VALUES = {
    "expanded": (
        {"conv.weight": torch.zeros(1).expand(10**8, 3, 4, 4)},
        r"conv\.weight of shape \(100000000, 3, 4, 4\) needs 19200000000 bytes, but there are only 4",
    ),
    "buffer": (Called(bytearray, 10**6), r"it asks for \w+\.bytearray, which no checkpoint needs"),
    "tensor by its size": (
        {"conv.weight": Called(torch.FloatTensor, 10**6)},
        r"it asks for torch\.FloatTensor, which",
    ),
    "nested key": ({nested_tuple(): 1}, "a tuple in it has more than 2000 items"),
    "long": ([[]] * 10_000, "more than 9999 steps"),
}


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{path}: .*{message}.* Download it again, from its authors\.$"):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", GROWING_FILES)
def test_files_that_would_grow_are_refused(tmp_path, kind: str) -> None:
    save, message = GROWING_FILES[kind]
    save(tmp_path / "model.pth")
    assert_refused(tmp_path / "model.pth", message)


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "first format"])
@pytest.mark.parametrize("kind", GROWING_VALUES)
def test_values_that_would_grow_are_refused(tmp_path, monkeypatch, kind: str, legacy: bool) -> None:
    monkeypatch.setattr("hf_refseg.convert.torch_files.MAX_OPCODES", 9999)
    value, message = GROWING_VALUES[kind]
    torch.save({"model": value}, tmp_path / "model.pth", _use_new_zipfile_serialization=not legacy)
    assert_refused(tmp_path / "model.pth", message)


ODD_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "meta": lambda tensor: tensor.to("meta"),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "int64": lambda tensor: tensor.long(),
    "not finite": lambda tensor: tensor * torch.nan,
    r"\(\) instead of \(32,\)": lambda tensor: tensor[0],
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "first format"])
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_tensors_of_another_kind_are_named(tmp_path, kind: str, legacy: bool) -> None:
    """Where they are converted and, of those that cost time or memory to make, where they are loaded."""
    checkpoint, name = released_checkpoint(), "backbone.layers.1.blocks.0.norm1.weight"
    checkpoint["model"][name] = ODD_TENSORS[kind](checkpoint["model"][name])
    named = rf"{name} .*{kind}"
    with pytest.raises(CheckpointError, match=named):
        convert_lavt_checkpoint(checkpoint, text_config=BERT_CONFIG)
    if kind in ("sparse", "quantized", "meta", "complex"):
        path = tmp_path / "model.pth"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match=rf"^{path}: .*{named}"):
            load_checkpoint(path)


BLOCK = "backbone.layers.0.blocks.0."
TABLE = BLOCK + "attn.relative_position_bias_table"
PATCHES = "backbone.patch_embed.proj.weight"
WORDS = "embeddings.word_embeddings.weight"
# What is put into which part of a checkpoint, and what is said of it.
CHANGES = {
    "extra BERT": ("bert_model", "adapter.weight", torch.zeros(1), "1 tensors .* such as text_encoder.adapter.weight"),
    "extra Swin": ("model", BLOCK + "mlp.gate", torch.zeros(1), rf"1 tensors .* such as {BLOCK}mlp.gate"),
    "number as name": (
        "model",
        0,
        torch.zeros(1),
        "'model' of the checkpoint holds 0 of the type Tensor, where a name",
    ),
    "number as tensor": (
        "bert_model",
        "step",
        1,
        "'bert_model' of the checkpoint holds step of the type int, where a",
    ),
    "0-d patches": ("model", PATCHES, torch.tensor(1.0), rf"{PATCHES}' .* has the shape \(\), but 4 or 5 axes are"),
    "0-d projections": (
        "model",
        BLOCK + "attn.qkv.weight",
        torch.tensor(1.0),
        r"qkv.weight .* has the shape \(\), which",
    ),
    "two projections": ("model", BLOCK + "attn.qkv.weight", torch.zeros(16, 16), "which is not that of three"),
    "0-d words": ("bert_model", WORDS, torch.tensor(1.0), rf"{WORDS}' .* has the shape \(\), but 2 axes are expected"),
    "empty layer": (
        "model",
        BLOCK + "mlp.fc1.weight",
        torch.zeros(64, 0),
        r"fc1.weight' .* has the shape \(64, 0\), but",
    ),
    "odd heads": (
        "model",
        TABLE,
        torch.zeros(49, 5),
        "5 attention heads in stage 0, which do not divide its 16 channels",
    ),
    "odd BERT": (
        "bert_model",
        WORDS,
        torch.zeros(97, 200),
        "no model can be made with the sizes of the .* not a multiple",
    ),
    "odd window": (
        "model",
        TABLE,
        torch.zeros(50, 1),
        rf"1 have another shape \({TABLE} \(50, 1\) instead of \(49, 1\)",
    ),
    "two of one name": (
        "model",
        BLOCK + "attn.q.weight",
        torch.zeros(1),
        "qkv.weight and .*q.weight .* are the same tensor",
    ),
}


def changed(part: str, name: object, tensor: object) -> dict:
    checkpoint = released_checkpoint()
    checkpoint[part][name] = tensor
    return checkpoint


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


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_no_part_of_a_checkpoint_is_named(kind: str) -> None:
    part, name, tensor, message = CHANGES[kind]
    with pytest.raises(CheckpointError, match=message):
        convert_lavt_checkpoint(changed(part, name, tensor))


def test_a_text_configuration_that_does_not_fit_is_named() -> None:
    with pytest.raises(CheckpointError, match="have another shape"):
        convert_lavt_checkpoint(released_checkpoint(), text_config={**BERT_CONFIG, "intermediate_size": 32})


def test_a_model_larger_than_its_checkpoint_is_not_made() -> None:
    """The sizes of some tensors decide upon those of others and upon tables that are in no checkpoint."""
    wide = changed("model", PATCHES, torch.zeros(50_000, 3, 4, 4))
    with pytest.raises(CheckpointError, match=r"backbone.* \(16,\) instead of \(50000,\)"):
        convert_lavt_checkpoint(wide, text_config=BERT_CONFIG)
    checkpoint = released_checkpoint()
    for name, tensor in checkpoint["model"].items():
        if name.endswith("relative_position_bias_table"):
            checkpoint["model"][name] = torch.zeros(399**2, tensor.shape[1])
    with pytest.raises(CheckpointError, match="windows so large that indexing them takes more than 1073741824 bytes"):
        convert_lavt_checkpoint(checkpoint, text_config=BERT_CONFIG)


def test_views_of_the_same_values_are_refused() -> None:
    checkpoint = released_checkpoint()
    values = torch.zeros(10**6)
    checkpoint["bert_model"].update({f"encoder.layer.{layer}.values": values.view(1000, 1000) for layer in range(9)})
    with pytest.raises(CheckpointError, match="tensors under 'bert_model' of the checkpoint are views of the same"):
        convert_lavt_checkpoint(checkpoint, text_config=BERT_CONFIG)


def test_weights_of_a_model_folder_that_would_grow_are_refused(tmp_path) -> None:
    """transformers also loads weights that `torch.save` wrote."""
    model = golden_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert load_whole_model(str(tmp_path), None).num_parameters() == model.num_parameters()
    repack(tmp_path / "pytorch_model.bin", compressed="pytorch_model/data.pkl")
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin: .* its part pytorch_model/data\.pkl is compressed"
    ):
        load_whole_model(str(tmp_path), None)


def test_half_precision_is_converted() -> None:
    checkpoint = released_checkpoint()
    for tensors in checkpoint.values():
        tensors.update({name: value.half() for name, value in tensors.items() if value.is_floating_point()})
    model = convert_lavt_checkpoint(checkpoint, text_config=BERT_CONFIG)
    weight = model.backbone.model.embeddings.norm.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight.half(), checkpoint["model"]["backbone.patch_embed.norm.weight"])


def test_safetensors_are_read_whole_or_named(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(released_checkpoint()["bert_model"], path)
    assert len(load_checkpoint(path)) == 37
    path.write_bytes(path.read_bytes()[:-10])
    assert_refused(path, "it is cut off or damaged")
