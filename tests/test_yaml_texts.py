"""YAML is read as PyYAML's own parser reads it, whatever parses it."""

import pytest
import yaml
from places import EXAMPLES

from hf_refseg.yaml_texts import read_yaml

RECIPE = (EXAMPLES / "recipes" / "lavt_refshapes.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [RECIPE, "", "a: 1e-4", "a: [yes, 0o7, 2001-01-01, ~, 'é']\nb: &x {c: .inf}\nd: *x"])
def test_a_text_says_what_pyyaml_reads(text: str) -> None:
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1e-3\ndata: a: b", "line 2, column 8:\n    data: a: b\n           ^"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor for the tag"),
    ],
)
def test_what_is_no_plain_yaml_is_an_error_that_shows_the_line(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError) as raised:
        read_yaml(text)
    assert message in str(raised.value)
