"""Stands for the generation tests of transformers' repository, which its source distribution does not ship."""


class GenerationTesterMixin:
    """Tests nothing: no model here generates text."""
