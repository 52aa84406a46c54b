"""Stands for the export tests of transformers' repository, which its source distribution does not ship."""


class ExportTesterMixin:
    """Tests nothing."""
