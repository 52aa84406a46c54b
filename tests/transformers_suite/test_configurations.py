"""transformers' tests of configurations, on those of all methods and of our own encoders."""

from unittest import TestCase

import pytest
from method_testers import TESTERS, MethodTester
from transformers_tests.test_configuration_common import ConfigTester

from hf_refseg.modeling.configuration_recurrent_text_refseg import RecurrentTextConfig
from hf_refseg.modeling.configuration_video_swin_refseg import VideoSwinConfig


@pytest.mark.parametrize("method", TESTERS, ids=lambda method: method.tiny.model_class.config_class.__name__)
def test_configuration_of_a_method(method: type[MethodTester]) -> None:
    parent = TestCase()
    parent.model_tester = method(parent)
    ConfigTester(parent, method.tiny.model_class.config_class, has_text_modality=False).run_common_tests()


def test_configuration_of_video_swin() -> None:
    properties = ["patch_size", "embed_dim", "depths", "num_heads"]
    fields = {"common_properties": properties, "depths": [1, 1, 2, 1]}
    ConfigTester(TestCase(), VideoSwinConfig, has_text_modality=False, **fields).run_common_tests()


def test_configuration_of_the_recurrent_text_encoder() -> None:
    properties = ["hidden_size", "num_hidden_layers"]
    ConfigTester(TestCase(), RecurrentTextConfig, common_properties=properties, hidden_size=8).run_common_tests()
