"""The configurations of `accelerate launch`: accelerate knows every key, and the commands in them exist."""

import re

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from fsdp_on_cpus import launched_environment
from places import CHECKOUT

from hf_refseg.training.recipe_files import find_recipe

FOLDER = CHECKOUT / "examples" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
TOLD = {
    "ddp_two_nodes": {"ACCELERATE_MIXED_PRECISION": "no"},
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    },
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    },
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_knows_every_key_and_tells_its_processes(file, monkeypatch) -> None:
    # It refuses others, but for those of a library of its own.
    config = load_config_from_file(str(file))
    options = {option.dest for option in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= options
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    told = launched_environment(file)
    assert TOLD[file.stem].items() <= told.items()


def test_each_kind_has_a_file_and_two_nodes_divide_their_processes() -> None:
    configs = {file.stem: load_config_from_file(str(file)) for file in FILES}
    kinds = {name: config.distributed_type for name, config in configs.items()}
    expected = {"ddp_two_nodes": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    assert kinds == {name: DistributedType(kind) for name, kind in expected.items()}
    nodes = configs["ddp_two_nodes"]
    assert nodes.num_machines == 2 and nodes.num_processes % nodes.num_machines == 0


@pytest.mark.parametrize("file", [*FILES, FOLDER / "README.md"], ids=lambda file: file.name)
def test_commands_name_files_and_recipes_that_exist(file) -> None:
    text = re.sub(r"\\\n(# )?", "", file.read_text())
    commands = re.findall(r"accelerate launch --config_file (\S+) .*-m hf_refseg_cli train (\S+)", text)
    assert commands
    for config, recipe in commands:
        assert (CHECKOUT / config).is_file() and config.endswith(file.name if file in FILES else ".yaml")
        find_recipe(recipe)
