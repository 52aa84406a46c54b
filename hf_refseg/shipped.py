"""The small model that travels with the library, for the first steps without a network."""

from __future__ import annotations

from pathlib import Path

# What the command line and `load_system` call it.
NAME = "refshapes-demo"
REFSHAPES_DEMO = str(Path(__file__).with_name("refshapes_demo"))
"""Folder of the model: a LAVT that was trained on RefShapes, generated scenes of shapes, in bfloat16."""


def find_model(name: str) -> str:
    """The folder of the shipped model where that one is meant, which a folder of the same name goes before."""
    return REFSHAPES_DEMO if name == NAME and not Path(name).exists() else name
