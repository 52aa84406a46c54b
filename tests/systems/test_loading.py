"""Which system a name means, and what is said of names that mean none."""

import json
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_systems import noise, save, tiny_clipseg, tiny_sam3
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, ViTImageProcessor

from hf_refseg import VideoWindow
from hf_refseg.evaluation.systems import ModelSystem
from hf_refseg.systems import KINDS, load_system
from hf_refseg.training.adapters import add_adapter

TEXTS = ["the left dog", "red circle"]


def folder_of(config: dict, folder: Path) -> str:
    """A folder with nothing but a configuration."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def test_our_models_are_systems_with_their_options(tmp_path) -> None:
    model, processor = tiny_lavt(), tiny_processor()
    name = save(tmp_path, model, processor)
    window = VideoWindow(4)
    system = load_system(name, device="cpu", threshold=0.4, window=window, batch_size=3)
    assert isinstance(system, ModelSystem) and system.name == name
    assert (system.threshold, system.window, system.batch_size) == (0.4, window, 3)
    assert load_system(name, device="cpu").threshold == processor.image_processor.mask_threshold
    expected = ModelSystem(model, processor).segment(noise(40, 30), TEXTS)
    for answer, before in zip(system.segment(noise(40, 30), TEXTS), expected, strict=True):
        np.testing.assert_array_equal(answer.probabilities, before.probabilities)


def test_an_adapter_is_a_system(tmp_path) -> None:
    base = save(tmp_path / "base", tiny_lavt(), tiny_processor())
    adapted = add_adapter(load_system(base, device="cpu").model, lora_rank=2)
    adapter = save(tmp_path / "adapter", adapted, tiny_processor())
    answers = load_system(adapter, device="cpu").segment(noise(40, 30), TEXTS)
    assert [answer.probabilities.shape for answer in answers] == [(30, 40)] * 2


def test_an_unknown_kind_is_told_which_there_are(tmp_path) -> None:
    with pytest.raises(ValueError, match="is a model of type bert; known methods: ") as error:
        load_system(folder_of({"model_type": "bert"}, tmp_path / "bert"))
    assert "lavt" in str(error.value) and "detector+segmenter" in str(error.value)
    for kind in KINDS:
        assert kind.title in str(error.value) and all(each in str(error.value) for each in kind.model_types)
    with pytest.raises(ValueError, match="a model without a model_type; known methods: "):
        load_system(folder_of({"architecture": "resnet50"}, tmp_path / "timm"))
    for number, config in enumerate(({"model_type": []}, {"model_type": None})):
        with pytest.raises(ValueError, match=r"\d: config.json should name its model_type, not (\[\]|None)"):
            load_system(folder_of(config, tmp_path / str(number)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is no model: expected a folder with config.json.*found nothing"):
        load_system(str(tmp_path / "empty"))


@pytest.mark.parametrize("text", ["[]", "{", '{"model_type": ["lavt"]}', '{"model_type": 3, "auto_map": 4}', "null"])
def test_a_damaged_configuration_is_named(text: str, tmp_path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    for trusted in (False, True):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            load_system(str(tmp_path), device="cpu", trust_remote_code=trusted)


def test_a_part_of_a_pair_is_told_what_it_lacks(tmp_path) -> None:
    detector = folder_of({"model_type": "grounding-dino"}, tmp_path / "detector")
    segmenter = folder_of({"model_type": "sam"}, tmp_path / "segmenter")
    with pytest.raises(ValueError, match=r"is a detector \(grounding-dino\).*such as .*detector\+"):
        load_system(detector)
    with pytest.raises(ValueError, match=r"is a segmenter \(sam\), which reads no text.*\+.*segmenter"):
        load_system(segmenter)
    with pytest.raises(
        ValueError, match=r"segmenter is a model of type sam and no detector.*write detector.segmenter"
    ):
        load_system(f"{segmenter}+{detector}")
    with pytest.raises(ValueError, match="detector is a model of type grounding-dino and no segmenter"):
        load_system(f"{detector}+{detector}")
    with pytest.raises(ValueError, match=r"names of two models, detector.segmenter"):
        load_system(f"{detector}+")


def test_a_folder_may_have_a_plus_in_its_name(tmp_path) -> None:
    name = folder_of({"model_type": "bert"}, tmp_path / "a+b")
    with pytest.raises(ValueError, match="is a model of type bert"):
        load_system(name)


def test_an_option_without_effect_is_refused(tmp_path) -> None:
    clipseg = save(tmp_path / "clipseg", *tiny_clipseg())
    sam3 = save(tmp_path / "sam3", *tiny_sam3())
    lavt = save(tmp_path / "lavt", tiny_lavt(), tiny_processor())
    for name, options in (
        (clipseg, {"window": VideoWindow(4)}),
        (clipseg, {"score_threshold": 0.5}),
        (sam3, {"threshold": 0.5}),
        (lavt, {"instances": "best"}),
    ):
        (option,) = options
        with pytest.raises(ValueError, match=f"{option} .*has no effect: leave it out. It takes "):
            load_system(name, **options)
    with pytest.raises(ValueError, match="leave out trust_remote_code"):
        load_system(clipseg, trust_remote_code=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        load_system(clipseg, batch_size=0)


def test_missing_and_damaged_files_are_named(tmp_path) -> None:
    model, processor = tiny_clipseg()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model, but no processor .*save_pretrained"):
        load_system(str(tmp_path), device="cpu")
    processor.save_pretrained(tmp_path)
    processor_file = tmp_path / "processor_config.json"
    whole = processor_file.read_text(encoding="utf-8")
    processor_file.write_text(whole[:50], encoding="utf-8")
    with pytest.raises(ValueError, match=r"processor_config.json"):
        load_system(str(tmp_path), device="cpu")
    processor_file.write_text(whole, encoding="utf-8")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        load_system(str(tmp_path), device="cpu")
    processor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"weights are damaged|model.safetensors"):
        load_system(str(tmp_path), device="cpu")
    weights.unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        load_system(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("file_name", "outcome"),
    [
        ("processor_config.json", pytest.raises(ValueError, match="no processor can be made of its files")),
        # A processor knows the class of its tokenizer itself.
        ("tokenizer_config.json", nullcontext()),
        ("model.safetensors", pytest.raises(ValueError, match="which was not run")),
    ],
)
def test_no_code_of_a_folder_is_run(file_name: str, outcome: AbstractContextManager, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda question="": pytest.fail(question))
    trace, folder = tmp_path / "trace", tmp_path / "clipseg"
    name = save(folder, *tiny_clipseg())
    (folder / "harm.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Harm:\n    pass\n")
    code = {"AutoImageProcessor": "harm.Harm", "AutoProcessor": "harm.Harm"}
    kinds = {
        "processor_config.json": {"image_processor": {"image_processor_type": "Harm", "auto_map": code}},
        "tokenizer_config.json": {"tokenizer_class": "Harm", "auto_map": {"AutoTokenizer": ["harm.Harm", None]}},
    }
    path = folder / file_name
    if file_name in kinds:
        saved = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**saved, **kinds[file_name]}), encoding="utf-8")
    else:
        path.unlink()
        torch.save({"weights": Touching(trace)}, folder / "pytorch_model.bin")
    with outcome:
        load_system(name, device="cpu")
    assert not trace.exists()


@pytest.mark.parametrize("attention", ["their/kernel:harm", {"vision_config": "their/kernel:harm"}])
def test_attention_of_a_repository_is_not_fetched(attention: str | dict[str, str], tmp_path) -> None:
    name, path = save(tmp_path, *tiny_clipseg()), tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "attn_implementation": attention}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"attention of a repository, their/kernel:harm, whose code was not run"):
        load_system(name, device="cpu")


class Touching:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def rename_type(folder: Path, model_type: str, **more: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model_type": model_type, **more}), encoding="utf-8")


def test_code_of_a_repository_is_run_for_who_trusts_it(tmp_path) -> None:
    model, processor = tiny_lavt(), tiny_processor()
    name = save(tmp_path / "theirs", model, processor)
    rename_type(tmp_path / "theirs", "their_method")
    with pytest.raises(ValueError, match=r"type their_method, which brings code of its own.*--trust-remote-code"):
        load_system(name, device="cpu")
    system = load_system(name, device="cpu", trust_remote_code=True, threshold=0.3, batch_size=1)
    assert type(system.model).__module__.startswith("transformers_modules.") and system.threshold == 0.3
    expected = ModelSystem(model, processor).segment(noise(40, 30), TEXTS)
    for answer, before in zip(system.segment(noise(40, 30), TEXTS), expected, strict=True):
        np.testing.assert_allclose(answer.probabilities, before.probabilities, atol=1e-5)


CODE = """
from transformers import CLIPConfig, CLIPModel

class TheirConfig(CLIPConfig):
    model_type = "their_clip"

class TheirModel(CLIPModel):
    config_class = TheirConfig
"""


def test_code_of_another_contract_is_an_error(tmp_path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    _, processor = tiny_clipseg()
    clip = CLIPModel(CLIPConfig(text_config={**small, "vocab_size": 60}, vision_config=small, projection_dim=16))
    name = save(tmp_path, clip, CLIPProcessor(ViTImageProcessor(), processor.tokenizer))
    (tmp_path / "theirs.py").write_text(CODE, encoding="utf-8")
    rename_type(
        tmp_path, "their_clip", auto_map={"AutoConfig": "theirs.TheirConfig", "AutoModel": "theirs.TheirModel"}
    )
    with pytest.raises(ValueError, match=r"TheirConfig does not follow the contract of this library.*CLIPSeg"):
        load_system(name, device="cpu", trust_remote_code=True)
