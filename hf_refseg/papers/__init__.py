"""The papers' tables as data: `read_paper`, and a YAML file for each paper beside this one."""

from .reader import Paper, RecipeRun, Row, Table, paper_names, read_paper

__all__ = ["Paper", "RecipeRun", "Row", "Table", "paper_names", "read_paper"]
