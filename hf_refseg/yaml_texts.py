"""Reading YAML fast."""

from typing import Any

import yaml

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as Loader


def read_yaml(text: str) -> Any:
    """What a text says, as `yaml.safe_load` reads it, in about a sixth of the time where PyYAML comes with libyaml.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        # libyaml does not show the line.
        return yaml.safe_load(text)
