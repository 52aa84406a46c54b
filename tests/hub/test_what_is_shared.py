"""Neither the Hub's token nor a path of this machine is in what reaches the Hub, or in the files of a run."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import yaml
from datasets import Dataset, DatasetDict
from fresh_process import run_python
from hub_server import TOKEN, HubServer
from huggingface_hub import ModelCard
from tiny_configs import BERT
from tiny_recipes import TINY
from transformers import AutoConfig, BertConfig, BertModel, BertTokenizer, SwinConfig, SwinModel

from hf_refseg import LavtConfig
from hf_refseg.datasets_scripts.refshapes import REFSHAPES_WORDS
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.image_data import ImageData
from hf_refseg.training.run_options import (
    LOCAL_OPTIONS,
    check_same_options,
    load_run_options,
    read_run_options,
    regime_of_run,
    write_local_options,
    write_run_options,
)

SHARE = """
from pathlib import Path

from transformers import AutoModel, AutoProcessor
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.training.recipes import run_recipe

data = {"train_size": 4, "val_size": 2, "test_size": 2, "image_size": 64, "cache_dir": "cache"}
prepare_dataset("refshapes", None, Path("data/shapes").resolve(), push_to_hub="tester/shapes", **data)
run_recipe(["whole.yaml", "--max_steps", "1"])
run_recipe(["whole.yaml", "--max_steps", "2"])
for each in (AutoModel, AutoProcessor):
    each.from_pretrained(Path("run").resolve()).push_to_hub("tester/by_hand")
run_recipe(["adapter.yaml", "--max_steps", "1"])
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of everything on this machine: encoders, data, caches, output folders."""
    root = tmp_path_factory.mktemp("machine")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *REFSHAPES_WORDS]
    SwinModel(SwinConfig(**TINY["config"]["backbone_config"])).save_pretrained(root / "swin")
    BertModel(BertConfig(**TINY["config"]["text_config"], vocab_size=len(words))).save_pretrained(root / "bert")
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(root / "bert")
    return root


@pytest.fixture(scope="module")
def hub_of_machine(machine: Path) -> Iterator[HubServer]:
    """What the machine shares: a data set, a training with all of its checkpoints, the model by hand, an adapter."""
    shared = {name: value for name, value in TINY.items() if name not in ("config", "tokenizer_name_or_path")}
    shared |= {
        "dataset_name": str(machine / "data" / "shapes"),
        "dataset_options": {"cache_dir": str(machine / "cache")},
        "test_splits": "val",
        "max_test_images": 1,
        "pictures": 1,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "report_to": "tensorboard",
        "push_to_hub": True,
        "hub_token": TOKEN,
        "hub_always_push": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    }
    whole = {
        "output_dir": str(machine / "run"),
        "hub_model_id": "tester/whole",
        "hub_strategy": "all_checkpoints",
        "vision_name_or_path": str(machine / "swin"),
        "text_name_or_path": str(machine / "bert"),
        "config": {"fusion_num_heads": TINY["config"]["fusion_num_heads"]},
    }
    adapter = {
        "output_dir": str(machine / "adapted"),
        "hub_model_id": "tester/adapter",
        "model_name_or_path": "tester/by_hand",
        "adapter": "heads",
        "hub_strategy": "end",
    }
    for name, options in (("whole", whole), ("adapter", adapter)):
        (machine / f"{name}.yaml").write_text(yaml.safe_dump({**shared, **options}))
    with HubServer(machine / "home" / "hub") as server:
        # The adapter is pushed in the end alone, which the Hub interrupts.
        server.faults["tester/adapter/commit/"] = "busy"
        environment = {**server.environment("cache"), "HOME": str(machine / "home")}
        (machine / "printed.txt").write_text(run_python(SHARE, cwd=machine, env=environment, imports=()))
        yield server


def contents(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file, and what is packed in it."""
    yield name, name.encode() + data
    if zipfile.is_zipfile(io.BytesIO(data)):
        archive = zipfile.ZipFile(io.BytesIO(data))
        yield from ((f"{name}: {member}", archive.read(member)) for member in archive.namelist())
    if name.endswith(".parquet"):
        table = parquet.read_table(io.BytesIO(data))
        yield f"{name}: rows", repr((table.schema.metadata, table.to_pylist())).encode()


def leaks(files: Mapping[str, bytes], machine: Path) -> list[str]:
    """What holds the token or a path of the machine."""
    different = {(Path(name).name, data): name for name, data in files.items()}
    unpacked = (part for (_, data), name in different.items() for part in contents(name, data))
    secrets = (TOKEN.encode(), str(machine).encode())
    return [name for name, data in unpacked if any(secret in data for secret in secrets)]


@pytest.mark.slow_process
def test_nothing_that_reaches_the_hub_holds_the_token_or_a_path(hub_of_machine: HubServer, machine: Path) -> None:
    repositories = {name: repository for (_, name), repository in hub_of_machine.storage.repositories.items()}
    files = {
        f"{name}@{sha}/{path}": file.content
        for name, repository in repositories.items()
        for sha, commit in repository.commits.items()
        for path, file in commit.items()
    }
    newest = set(repositories["tester/whole"].files("main"))
    state = {"checkpoint-1/trainer_state.json", "checkpoint-2/optimizer.pt"}
    assert {"run_options.json", "metrics.json", *state} <= newest
    assert any(path.startswith("runs/") for path in newest)
    assert {"README.md", "findings.json", "preview_val.png"} <= set(repositories["tester/shapes"].files("main"))
    assert "adapter_model.safetensors" in repositories["tester/adapter"].files("main") and not hub_of_machine.faults
    assert not any(path.endswith(("training_args.bin", LOCAL_OPTIONS)) for path in files)
    assert not leaks(files, machine)
    assert not leaks({str(number): body for number, body in enumerate(hub_of_machine.received)}, machine)
    assert not leaks({f"{command} {path}": b"" for command, path in hub_of_machine.requests}, machine)


@pytest.mark.slow_process
def test_no_file_of_a_run_holds_the_token_or_a_path_but_the_one_that_is_not_shared(
    hub_of_machine: HubServer, machine: Path
) -> None:
    folder = machine / "run"
    files = {str(path.relative_to(machine)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert str(machine / "cache").encode() in files.pop(f"run/{LOCAL_OPTIONS}")
    assert not leaks(files, machine)
    for model in (folder, folder / "checkpoint-2"):
        assert load_run_options(str(model))["datasets"]["shapes"] == {"cache_dir": str(machine / "cache")}


@pytest.mark.slow_process
def test_every_checkpoint_is_pushed_and_in_the_end_the_model_with_the_librarys_card(
    hub_of_machine: HubServer, machine: Path
) -> None:
    assert f"On the Hub: {hub_of_machine.endpoint}/tester/whole" in (machine / "printed.txt").read_text().splitlines()
    repository = hub_of_machine.storage.repositories["models", "tester/whole"]
    snapshots = [set(files) for files in repository.commits.values()]
    model = {"model.safetensors", "config.json", "processor_config.json", "modeling_lavt.py", "pipeline_refseg.py"}
    for step in (1, 2):
        pushed = next(files for files in snapshots if f"checkpoint-{step}/trainer_state.json" in files)
        assert model <= pushed and {f"checkpoint-{step}/{name}" for name in (*model, "optimizer.pt")} <= pushed
    of_checkpoints = {"trainer_state.json", "SHA256SUMS", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert not of_checkpoints & snapshots[-1]
    assert {"README.md", "metrics.json", "predictions.png"} <= snapshots[-1]
    pipelines = json.loads((machine / "run" / "config.json").read_text())["custom_pipelines"]
    assert set(pipelines) == {"referring-image-segmentation", "referring-video-segmentation"}
    card = ModelCard(repository.files("main")["README.md"].content.decode())
    assert card.data.library_name == "hf_refseg" and "tester/whole" in card.text
    assert {entry.dataset_split for entry in card.data.eval_results} == {"val (first 1 images)"}
    assert "hf-refseg evaluate tester/whole shapes --split val --protocol original --max-images 1" in card.text
    assert "![training curve](<training_curve.png>)" in card.text and "training_curve.png" in snapshots[-1]
    assert " to " in next(line for line in card.text.splitlines() if line.startswith("| shapes | val"))
    assert "| hardware | 1 x CPU" in card.text and "| duration | " in card.text


@pytest.mark.parametrize(
    ("datasets", "model", "regime"),
    [
        (["refcoco"], {}, "single"),
        (["refcoco+", "refcoco"], {}, "mixed"),
        (["refcoco+"], {}, "extra"),
        (["refcoco"], {"model_name_or_path": "user/model"}, "extra"),
        (["refcoco"], {"vision_name_or_path": "user/swin"}, "single"),
        ([], {"model_name_or_path": "user/model"}, "unknown"),
    ],
)
def test_a_run_tells_what_its_model_was_trained_on(tmp_path, datasets, model, regime) -> None:
    options = {"model": model, "datasets": {name: {"split_by": "unc"} for name in datasets}}
    assert regime_of_run(options, "refcoco") == regime
    # A prepared folder goes by its name.
    (tmp_path / "refcoco").mkdir()
    assert regime_of_run(options, str(tmp_path / "refcoco")) == regime
    assert regime_of_run({}, "refcoco") == "unknown"


def test_options_are_kept_without_places_and_with_the_names_of_other_paths(tmp_path) -> None:
    (tmp_path / "words.txt").touch()
    options = {
        "model": {"model_name_or_path": "user/model", "word_vectors": str(tmp_path / "words.txt")},
        "data": {"dataset_name": [str(tmp_path), "refcoco"], "leakage_list": "list.json"},
        "datasets": {"refcoco": {"data_dir": "data", "split_by": "unc"}, str(tmp_path): {"cache_dir": tmp_path}},
        "training": {"output_dir": "runs/a", "hub_token": TOKEN, "fsdp_config": {"paths": [tmp_path / "words.txt"]}},
    }
    folder = tmp_path / "run"
    folder.mkdir()
    write_run_options(folder, options)
    name = tmp_path.name
    kept = {
        "model": {"model_name_or_path": "user/model", "word_vectors": "words.txt"},
        "data": {"dataset_name": [name, "refcoco"]},
        "datasets": {"refcoco": {"split_by": "unc"}, name: {}},
        "training": {"fsdp_config": {"paths": ["words.txt"]}},
    }
    assert read_run_options(folder) == load_run_options(str(folder)) == kept
    write_local_options(folder, options)
    assert read_run_options(folder) == kept
    found = {"refcoco": {"data_dir": "data", "split_by": "unc"}, name: {"cache_dir": str(tmp_path)}}
    assert load_run_options(str(folder))["datasets"] == found
    other = {**options, "model": {**options["model"], "word_vectors": "/others.txt"}}
    # A checkpoint of an earlier version holds paths.
    check_same_options("checkpoint-1", json.loads(json.dumps(options, default=str)), options)
    with pytest.raises(ValueError, match=r'word_vectors "words\.txt", now "others\.txt"'):
        check_same_options("checkpoint-1", kept, other)


def test_what_trackers_upload_holds_no_path_and_no_token(tmp_path) -> None:
    arguments = RefSegTrainingArguments(str(tmp_path), use_cpu=True, hub_token=TOKEN, run_name=str(tmp_path / "first"))
    assert str(tmp_path) not in arguments.to_json_string() and TOKEN not in arguments.to_json_string()
    shown = arguments.to_dict()
    assert (shown["output_dir"], shown["hub_token"], shown["run_name"]) == ("<OUTPUT_DIR>", "<HUB_TOKEN>", "first")
    assert shown["weight_decay"] == 0.01 and arguments.output_dir == str(tmp_path)


def test_a_configuration_does_not_say_in_what_folders_its_encoders_lay(machine: Path, tmp_path) -> None:
    backbone = AutoConfig.from_pretrained(machine / "swin")
    config = LavtConfig(backbone_config=backbone, text_config=BERT, fusion_num_heads=[1, 1])
    config.text_config._name_or_path = "user/bert"
    config.save_pretrained(tmp_path)
    loaded = LavtConfig.from_pretrained(tmp_path)
    for saved in ((tmp_path / "config.json").read_text(), json.dumps(config.to_dict()), json.dumps(loaded.to_dict())):
        assert str(machine) not in saved and str(tmp_path) not in saved
        assert "user/bert" in saved


def test_data_sets_in_folders_go_by_the_names_of_these(monkeypatch, tmp_path) -> None:
    rows = Dataset.from_dict({"image_id": ["1"], "sentences": [[{"raw": "red"}]]})
    monkeypatch.setattr(
        "hf_refseg.training.image_data.load_refseg", lambda *_, **__: DatasetDict(train=rows, val=rows)
    )
    names = [str(tmp_path / folder / "shapes") for folder in "ab"]
    arguments = ImageDataArguments(dataset_name=[*names, "refcoco"], test_splits=[f"{names[1]}/val", "refcoco/val"])
    assert list(arguments.shown_names.values()) == ["shapes", "shapes-2", "refcoco"]
    images = ImageData.load(arguments)
    assert list(images.trained) == list(images.evaluated) == ["shapes", "shapes-2", "refcoco"]
    assert list(images.tested) == ["shapes-2/val", "refcoco/val"]
    assert list(images.describe_parts()) == ["shapes", "shapes-2", "refcoco"]
