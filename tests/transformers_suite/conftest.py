"""Makes transformers' test classes the package `transformers_tests`, and expects the named exceptions to fail."""

import sys
from fnmatch import fnmatch
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import pytest
from download import FURTHER_PACKAGES, TESTS, is_there
from exceptions import EXCEPTIONS

STUBS = Path(__file__).parent / "stubs"


def install_test_classes() -> None:
    """Adds the package `transformers_tests`: the downloaded files, and stubs for those that are not shipped."""
    if not is_there():
        raise pytest.UsageError("transformers' tests are not there: `make test-transformers` fetches and runs them.")
    sys.path += [str(FURTHER_PACKAGES), str(STUBS)]
    spec = ModuleSpec("transformers_tests", None, is_package=True)
    spec.submodule_search_locations = [str(TESTS), str(STUBS)]
    sys.modules[spec.name] = module_from_spec(spec)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnknownMarkWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = f"{item.cls.__name__}::{item.name}" if item.cls else item.name
        for pattern, reason in EXCEPTIONS.items():
            if fnmatch(place, pattern):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


install_test_classes()
