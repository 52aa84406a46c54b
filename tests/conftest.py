"""Fixtures that several test files share.

PyTorch is imported where it is used: before any worker starts, the process that leads them reads this file.
"""

from __future__ import annotations

import gc
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import typer
from browser import browser  # noqa: F401
from fresh_process import WITHOUT_ONEDNN
from hub_server import hub, hub_port  # noqa: F401

if TYPE_CHECKING:
    from torch import nn


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-onednn", action="store_true", help="run PyTorch's own kernels in the place of oneDNN's"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-onednn"):
        import torch

        torch.backends.mkldnn.set_flags(False)
        # Trainings in processes of their own are compared with those in this one.
        os.environ[WITHOUT_ONEDNN] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Every training collects garbage: what is imported need not be looked through each time, and by itself rarely."""
    gc.disable()
    collected: Any = yield
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()
    return collected


@pytest.fixture(scope="module", autouse=True)
def later_collections_look_at_less() -> Iterator[None]:
    """What a file leaves for good, caches of compilers above all, need not be looked through by the files after it."""
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, and short ones last, so that processes which share the files end together."""
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow_process")}
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Iterator[None]:
    """Typer's test runner makes a command line anew for each call, which takes longer than most commands do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def expressions_are_kept() -> Iterator[None]:
    """transformers makes an expression of the name of every weight that it saves or loads: more than Python keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(re, "_MAXCACHE", 20_000)
        yield


@pytest.fixture(scope="session", autouse=True)
def pictures_are_compressed_quickly() -> Iterator[None]:
    """Pictures are the same however well they are compressed, and tests that draw or build scenes do little else."""
    from PIL import Image, PngImagePlugin

    save = PngImagePlugin._save

    def save_quickly(image: Image.Image, *arguments, **keywords) -> None:
        image.encoderinfo.setdefault("compress_level", 1)
        save(image, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Image.SAVE, "PNG", save_quickly)
        yield


@pytest.fixture
def count_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module, str], list[tuple]]:
    """`count_calls(module, method)` gives a list that grows by the arguments of every call."""

    def watch(module: nn.Module, method: str) -> list[tuple]:
        calls: list[tuple] = []
        original = getattr(module, method)

        def recorded(*arguments, **keywords):
            calls.append(arguments)
            return original(*arguments, **keywords)

        monkeypatch.setattr(module, method, recorded)
        return calls

    return watch


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """This process, as if it were all those of a distributed run."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
