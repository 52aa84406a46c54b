"""Systems by name: saved models of this library and of others, each as an `evaluation.systems.System`."""

from .kinds import KINDS, Kind, short_name
from .loading import brings_code, find_kind, load_system

__all__ = ["KINDS", "Kind", "brings_code", "find_kind", "load_system", "short_name"]
