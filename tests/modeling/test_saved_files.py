"""Folders of models with a file that is missing, damaged or another one's: one error, and it names the file."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_lavt import WORDS, tiny_lavt, tiny_processor
from transformers import AutoModel, AutoProcessor, BertTokenizer, CLIPTokenizer, pipeline
from typer.testing import CliRunner

from hf_refseg import LavtForReferringSegmentation, RefSegImageProcessor, RefSegProcessor, add_adapter
from hf_refseg.commands.info import describe_model
from hf_refseg.data.vocabulary import train_word_tokenizer
from hf_refseg.hub.saved_models import load_model, load_tokenizer
from hf_refseg.messages import message_of
from hf_refseg.modeling.saved_files_refseg import SavedFileError
from hf_refseg_cli import app

SCENES = ("--train-size", 1, "--val-size", 1, "--test-size", 1, "--image-size", 64)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, and beside it a picture."""
    folder = tmp_path_factory.mktemp("saved") / "sound"
    tiny_lavt().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    Image.new("RGB", (32, 32)).save(folder.parent / "photo.png")
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to do damage to."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture(scope="module")
def sound_adapter(sound: Path) -> Path:
    output = sound.parent / "adapter"
    add_adapter(LavtForReferringSegmentation.from_pretrained(sound)).save_pretrained(output)
    tiny_processor().save_pretrained(output)
    return output


@pytest.fixture
def adapter(sound_adapter: Path, tmp_path: Path) -> Path:
    """A copy of it, to do damage to."""
    return Path(shutil.copytree(sound_adapter, tmp_path / "adapter"))


def error_of(*arguments: object) -> str:
    """The one line with which a command fails."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1 and not isinstance(result.exception, Exception), repr(result.exception)
    *_, last = result.stderr.splitlines()
    assert last.startswith("Error: ") and len(last) <= 500 and "Traceback" not in result.stderr, result.stderr
    return last.removeprefix("Error: ")


def commands(model: Path, photo: Path, output: Path) -> dict[str, list[object]]:
    return {
        "predict": ["predict", model, photo, "--text", "the red dog", "--output", output],
        "explain": ["explain", model, photo, "the red dog", "--output", output],
        "info": ["info", model],
        "evaluate": ["evaluate", model, "refshapes", *SCENES, "--cache-dir", output / "cache", "--output", output],
    }


@pytest.mark.parametrize("command", ["predict", "explain", "info", "evaluate"])
def test_a_folder_without_its_words_is_refused_by_every_command(command, folder, sound, tmp_path) -> None:
    (folder / "tokenizer.json").unlink()
    arguments = commands(folder, sound.parent / "photo.png", tmp_path / "output")[command]
    assert re.match(rf"{re.escape(str(folder))} holds no tokenizer.json", error_of(*arguments))


@pytest.mark.parametrize("recorded", [True, False])
def test_a_folder_without_its_words_is_no_processor(recorded: bool, folder) -> None:
    (folder / "tokenizer.json").unlink()
    if not recorded:
        # As earlier versions saved it.
        change(folder / "processor_config.json", lambda saved: saved.pop("vocab_size"))
    for load in (
        AutoProcessor.from_pretrained,
        RefSegProcessor.from_pretrained,
        lambda name: pipeline("referring-image-segmentation", model=str(name)),
        lambda name: pipeline("referring-video-segmentation", model=str(name)),
        lambda name: pipeline(
            "referring-image-segmentation", model=tiny_lavt(), processor=tiny_processor(), tokenizer=str(name)
        ),
        lambda name: load_tokenizer(str(name)),
    ):
        with pytest.raises(SavedFileError, match=f"{re.escape(str(folder))} holds no tokenizer.json"):
            load(folder)


def test_an_adapter_without_its_words_is_refused(adapter, sound, tmp_path) -> None:
    (adapter / "tokenizer.json").unlink()
    for command in ("predict", "info"):
        arguments = commands(adapter, sound.parent / "photo.png", tmp_path / "output")[command]
        assert f"{adapter} holds no tokenizer.json" in error_of(*arguments)


@pytest.mark.parametrize("words", [WORDS[:-2], [*WORDS, "cat"]], ids=["fewer", "more"])
def test_other_words_than_were_saved_are_refused(words: list[str], folder, sound, tmp_path) -> None:
    shutil.copy(save_tokenizer(words, tmp_path / "other"), folder)
    expected = (
        f"the tokenizer has {len(words)} tokens, but processor_config.json says 12: tokenizer.json is not the one"
    )
    with pytest.raises(SavedFileError, match=re.escape(f"{folder}: {expected}")):
        AutoProcessor.from_pretrained(folder)
    with pytest.raises(SavedFileError, match=expected):
        pipeline("referring-image-segmentation", model=str(folder))
    arguments = commands(folder, sound.parent / "photo.png", tmp_path / "output")["predict"]
    assert expected in error_of(*arguments)


def test_more_words_than_the_model_has_are_refused(folder, tmp_path) -> None:
    change(folder / "processor_config.json", lambda saved: saved.pop("vocab_size"))
    shutil.copy(save_tokenizer([*WORDS, "cat"], tmp_path / "other"), folder)
    for load in (
        lambda: load_model(str(folder), "cpu", None),
        lambda: pipeline("referring-image-segmentation", model=str(folder)),
        lambda: pipeline(
            "referring-image-segmentation",
            model=tiny_lavt(),
            processor=tiny_processor(),
            tokenizer=BertTokenizer.from_pretrained(tmp_path / "other"),
        ),
    ):
        with pytest.raises(ValueError, match=r"13 tokens, but config\.json of the model says 12"):
            load()


def test_a_vocabulary_may_be_padded_and_tokens_may_be_given(folder) -> None:
    model = tiny_lavt()
    model.resize_token_embeddings(16)
    model.save_pretrained(folder)
    model, processor = load_model(str(folder), "cpu", None)
    assert (model.config.text_config.vocab_size, len(processor.tokenizer)) == (16, 12)
    assert processor(text="the red dog")["input_ids"] == tiny_processor()(text="the red dog")["input_ids"]
    for given in ({"bos_token": "[BOS]"}, {"extra_special_tokens": ["<x>"]}, {"additional_special_tokens": ["<x>"]}):
        assert len(AutoProcessor.from_pretrained(folder, **given).tokenizer) == 13
    other = BertTokenizer(vocab={word: index for index, word in enumerate([*WORDS, "cat"])})
    assert AutoProcessor.from_pretrained(folder, tokenizer=other).tokenizer is other


@pytest.mark.parametrize("kind", ["bert", "clip", "words", "added"])
def test_every_kind_of_tokenizer_has_as_many_tokens_as_when_it_was_saved(kind: str, tmp_path) -> None:
    tokenizer = {
        "bert": lambda: tiny_processor().tokenizer,
        "clip": lambda: CLIPTokenizer(
            vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "b</w>": 3, "ab</w>": 4},
            merges=[("a", "b</w>")],
        ),
        "words": lambda: train_word_tokenizer(["the red dog", "a cat on the left"]),
        "added": lambda: tiny_processor().tokenizer,
    }[kind]()
    if kind == "added":
        tokenizer.add_tokens(["zebra", "gnu"])
    RefSegProcessor(RefSegImageProcessor(), tokenizer).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert saved["vocab_size"] == len(loaded.tokenizer) == len(tokenizer)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()


JSON_FILES = ("config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.mark.parametrize("file_name", JSON_FILES)
@pytest.mark.parametrize("damage", ["cut", "list", "nested", "bytes"])
def test_a_damaged_json_file_is_named(file_name: str, damage: str, folder) -> None:
    path = folder / file_name
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "list": b"[1, 2]", "nested": b"[" * 10**5, "bytes": b"\xff\xfe{"}
    path.write_bytes(damaged[damage])
    with pytest.raises((ValueError, OSError), match=re.escape(str(path))) as caught:
        load_model(str(folder), "cpu", None)
    assert len(str(caught.value)) <= 500 and str(caught.value).endswith("Save or download it again.")


@pytest.mark.parametrize(
    ("file_name", "message"),
    [
        ("tokenizer_config.json", "holds no tokenizer_config.json, so that its tokenizer .*: put the file back"),
        ("model.safetensors", r"holds no weights \(model.safetensors\). Save or download the model again"),
    ],
)
def test_a_missing_file_is_named(file_name: str, message: str, folder, sound, tmp_path) -> None:
    (folder / file_name).unlink()
    for command in ("predict", "evaluate"):
        arguments = commands(folder, sound.parent / "photo.png", tmp_path / "output")[command]
        assert re.match(f"{re.escape(str(folder))} {message}", error_of(*arguments))


@pytest.mark.parametrize(
    ("file_name", "key", "value"),
    [
        ("config.json", "backbone_config", []),
        ("config.json", "text_config", "bert"),
        ("config.json", "mask_grounding", [1]),
        ("config.json", "model_type", ["lavt"]),
        ("config.json", "custom_pipelines", [1]),
        ("config.json", "dtype", "float33"),
        ("config.json", "fusion_dropout", 1.5),
        ("config.json", "text_config.hidden_act", "nonsense"),
        ("config.json", "text_config.vocab_size", -3),
        ("config.json", "text_config.pad_token_id", 2**70),
        ("config.json", "text_config.num_hidden_layers", 10**7),
        ("config.json", "backbone_config.depths", [1, 10**7, 1, 1]),
        ("config.json", "backbone_config.depths", []),
        ("processor_config.json", "image_processor", []),
        ("processor_config.json", "image_processor.size", [64]),
        ("processor_config.json", "image_processor.size", {"height": 0, "width": -3}),
        ("processor_config.json", "image_processor.image_std", float("nan")),
        ("processor_config.json", "image_processor.mask_threshold", 7),
        ("processor_config.json", "max_text_length", -3),
        ("processor_config.json", "max_text_length", "long"),
        ("processor_config.json", "text_truncation", []),
        ("tokenizer_config.json", "tokenizer_class", []),
        ("tokenizer_config.json", "mask_token", {"a": 1}),
        ("tokenizer.json", "model", []),
    ],
    ids=str,
)
def test_a_wrong_value_in_a_json_file_is_one_error(file_name: str, key: str, value: object, folder) -> None:
    def edit(saved: dict) -> None:
        *outer, name = key.split(".")
        for each in outer:
            saved = saved[each]
        saved[name] = value

    change(folder / file_name, edit)
    with pytest.raises(SavedFileError) as caught:
        describe_model(str(folder))
    assert str(folder) in str(caught.value) and file_name in str(caught.value)
    assert len(message_of(caught.value)) <= 500 and "\n" not in message_of(caught.value)


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_damaged_weights_are_named(damage: str, folder) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes({"cut": content[:5000], "noise": bytes(range(256)) * 40}[damage])
    for load in (AutoModel.from_pretrained, partial(load_model, device="cpu", dtype=None)):
        with pytest.raises(SavedFileError, match=rf"{re.escape(str(path))}: the weights are damaged"):
            load(str(folder))


class Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["code", "cut", "list", "pickle"])
def test_weights_in_a_pickle_run_no_code_and_are_named(damage: str, folder, tmp_path) -> None:
    (folder / "model.safetensors").unlink()
    path, trace = folder / "pytorch_model.bin", tmp_path / "trace"
    weights = {"code": {"weight": Harmful(trace)}, "cut": tiny_lavt().state_dict(), "list": [torch.zeros(2)]}
    if damage == "pickle":
        path.write_bytes(pickle.dumps({"weight": Harmful(trace)}))
    else:
        torch.save(weights[damage], path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    for load in (AutoModel.from_pretrained, partial(load_model, device="cpu", dtype=None)):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            load(str(folder))
        # torch advises to load it all the same.
        assert "weights_only" not in str(caught.value)
    assert not trace.exists()


def test_a_pickle_of_weights_alone_is_loaded(folder) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_lavt().state_dict(), folder / "pytorch_model.bin")
    model, _ = load_model(str(folder), "cpu", None)
    assert torch.equal(model.decoder.classifier.weight, tiny_lavt().decoder.classifier.weight)


@pytest.mark.parametrize("damage", ["cut", "list", "names", "shard"])
def test_a_damaged_index_or_shard_is_named(damage: str, folder) -> None:
    (folder / "model.safetensors").unlink()
    tiny_lavt().save_pretrained(folder, max_shard_size="100KB")
    index, shard = folder / "model.safetensors.index.json", min(folder.glob("model-*.safetensors"))
    content = index.read_bytes()
    damaged = {"cut": content[:100], "list": b"[]", "names": json.dumps({"weight_map": [1]}).encode()}
    if damage == "shard":
        shard.write_bytes(shard.read_bytes()[:500])
    else:
        index.write_bytes(damaged[damage])
    with pytest.raises(SavedFileError, match=re.escape(str(shard if damage == "shard" else index))):
        load_model(str(folder), "cpu", None)


@pytest.mark.parametrize(
    ("file_name", "content"),
    [
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": "x", "base_model_name_or_path": 7}'),
        ("adapter_model.safetensors", b"\0"),
        ("tokenizer.json", b"{"),
    ],
)
def test_a_damaged_adapter_is_named(file_name: str, content: bytes, adapter, sound, tmp_path) -> None:
    (adapter / file_name).write_bytes(content)
    arguments = commands(adapter, sound.parent / "photo.png", tmp_path / "output")
    assert file_name in error_of(*arguments["predict"])


@pytest.mark.parametrize("file_name", ["config.json", "model.safetensors"])
def test_a_damaged_encoder_is_named(file_name: str, sound, tmp_path) -> None:
    model = tiny_lavt()
    for part in ("swin", "bert"):
        AutoModel.from_config(
            getattr(model.config, f"{'backbone' if part == 'swin' else 'text'}_config")
        ).save_pretrained(tmp_path / part)
    path = tmp_path / "bert" / file_name
    path.write_bytes(b"[]")
    with pytest.raises(SavedFileError, match=re.escape(str(path))):
        LavtForReferringSegmentation.from_encoders(str(tmp_path / "swin"), str(tmp_path / "bert"))


@pytest.mark.parametrize("file_name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_commands_run_no_code_of_a_folder_and_do_not_ask(file_name: str, folder, tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    trace = tmp_path / "trace"
    (folder / "harm.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Harm:\n    pass\n")
    code = {"AutoConfig": "harm.Harm", "AutoModel": "harm.Harm", "AutoImageProcessor": "harm.Harm"}
    kinds = {
        "config.json": {"model_type": "harmful", "auto_map": code},
        "processor_config.json": {"image_processor": {"image_processor_type": "Harm", "auto_map": code}},
        "tokenizer_config.json": {"tokenizer_class": "Harm", "auto_map": {"AutoTokenizer": ["harm.Harm", None]}},
    }
    change(folder / file_name, lambda saved: saved.update(kinds[file_name]))
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        load_model(str(folder), "cpu", None)
    assert not trace.exists() and not asked


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """Lets `edit` change the mapping in a JSON file."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    edit(saved)
    path.write_text(json.dumps(saved), encoding="utf-8")


def save_tokenizer(words: list[str], output: Path) -> Path:
    """The tokenizer.json of other words."""
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(output)
    return output / "tokenizer.json"
