"""What accelerate tells its processes, and FSDP by it on processors, where by itself it shards nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from accelerate import PartialState
from accelerate.commands import launch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch import nn
from torch.distributed.fsdp import FSDPModule

from hf_refseg.training.sharding import name_shards


def shard_model(model: nn.Module) -> None:
    """Shards a model among the processes of the group, as Trainer does by accelerate."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    name_shards(plugin, model)
    state = SimpleNamespace(fsdp_plugin=plugin)
    fsdp2_prepare_model(
        SimpleNamespace(state=state, mixed_precision="no", is_main_process=True, device=torch.device("cpu")), model
    )


def find_shards(model: nn.Module) -> list[nn.Module]:
    """The modules that are sharded by themselves, the model among them."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def launched_environment(config_file: Path) -> dict[str, str]:
    """What `accelerate launch` tells the processes that it starts by a configuration file, as variables."""
    arguments = launch.launch_command_parser().parse_args(["--config_file", str(config_file), "train.py"])
    arguments, _, _ = launch._validate_launch_command(arguments)
    arguments.main_process_port = 0  # any free one
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


@contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Inside it accelerate takes processes on processors for such on accelerators, and so shards their models."""
    begin = PartialState.__init__

    def begin_as_on_accelerators(state: PartialState, *arguments: object, **options: object) -> None:
        begin(state, *arguments, **options)
        if state.distributed_type is DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    with mock.patch.object(PartialState, "__init__", begin_as_on_accelerators):
        yield
