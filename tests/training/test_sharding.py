"""Sharded models are trained in no way that would fail in the end, and what is not sharded is told."""

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType
from tiny_methods import TinyRisam
from torch.distributed.fsdp import StateDictType

from hf_refseg.training.checkpoints import FSDP_WEIGHTS, check_strategy
from hf_refseg.training.sharding import check_sharding, classes_to_shard


def state_of(kind: str, **plugins: object) -> SimpleNamespace:
    return SimpleNamespace(distributed_type=DistributedType(kind), **plugins)


def fsdp(state_dict_type: StateDictType = StateDictType.FULL_STATE_DICT) -> SimpleNamespace:
    return state_of("FSDP", fsdp_plugin=SimpleNamespace(state_dict_type=state_dict_type))


def deepspeed(**options: object) -> SimpleNamespace:
    return state_of("DEEPSPEED", deepspeed_plugin=SimpleNamespace(deepspeed_config={"zero_optimization": options}))


GATHERING = {"stage3_gather_16bit_weights_on_model_save": True}


@pytest.mark.parametrize(
    ("state", "pictures", "message"),
    [
        (fsdp(StateDictType.SHARDED_STATE_DICT), 0, "SHARDED_STATE_DICT, which saves no model"),
        (fsdp(), 4, "pictures is 4: one process draws them"),
        (deepspeed(stage=3), 0, "say zero3_save_16bit_model: true"),
        (deepspeed(stage=3, **GATHERING), 1, "pictures is 1"),
    ],
)
def test_what_a_sharded_model_cannot_do_is_an_error(state: SimpleNamespace, pictures: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sharding(state, pictures, None)


@pytest.mark.parametrize(
    ("state", "pictures"),
    [(state_of("NO"), 4), (state_of("MULTI_CPU"), 4), (fsdp(), 0), (deepspeed(stage=3, **GATHERING), 0)],
)
def test_other_trainings_go_on(state: SimpleNamespace, pictures: int) -> None:
    check_sharding(state, pictures, None)


def test_muon_does_not_train_parts_of_matrices() -> None:
    check_sharding(state_of("MULTI_CPU"), 0, 1e-3)
    for state in (fsdp(), deepspeed(stage=3, **GATHERING)):
        with pytest.raises(ValueError, match="muon_learning_rate: Muon needs whole matrices"):
            check_sharding(state, 0, 1e-3)


def test_sharding_that_does_not_happen_is_an_error(monkeypatch) -> None:
    """On processors accelerate would train by DDP without a word."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_sharding(fsdp(), 0, None)
    with pytest.raises(ValueError, match="FSDP is asked for, but this training would run without it"):
        check_sharding(state_of("MULTI_CPU"), 0, None)


def test_word_embeddings_are_within_no_shard_but_their_own() -> None:
    model = TinyRisam().build()
    named = set(classes_to_shard(model))
    assert named < set(model._no_split_modules) and "CLIPEncoderLayer" in named
    shards = [module for module in model.modules() if type(module).__name__ in named]
    words = model.get_input_embeddings()
    assert shards and not any(part is words for shard in shards for part in shard.modules())


@pytest.mark.parametrize(("mark", "strategy"), [(None, "DDP"), (FSDP_WEIGHTS, "FSDP"), ("latest", "DeepSpeed")])
def test_a_checkpoint_goes_on_by_the_strategy_that_wrote_it(tmp_path, mark: str | None, strategy: str) -> None:
    if mark is not None:
        (tmp_path / mark).touch()
    for other in ("DDP", "FSDP", "DeepSpeed"):
        if other == strategy:
            check_strategy(tmp_path, other)
        else:
            with pytest.raises(
                ValueError, match=f"was written by a training with {strategy}, this one is with {other}"
            ):
                check_strategy(tmp_path, other)
