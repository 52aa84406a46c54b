"""transformers' tests of models, on tiny models of all methods."""

from collections.abc import Callable
from functools import wraps
from unittest import TestCase
from unittest.mock import patch

import torch
from method_testers import (
    BtmaeTester,
    LavtTester,
    M3AttTester,
    MagNetTester,
    MethodTester,
    RisamTester,
    UnifiedLavtTester,
    VideoLavtTester,
)
from torch import Tensor
from transformers_tests import test_modeling_common

# Of methods whose trained layers work on the image before it meets the text: the test asks for the encoder's width.
HAS_WIDTH_OF_ITS_OWN = True


def with_hidden_states(forward: Callable) -> Callable:
    """A `forward` that returns the logits as the hidden states which a test compares."""

    @wraps(forward)
    def wrapped(*args, output_hidden_states: bool, **kwargs):
        output = forward(*args, **kwargs)
        output["hidden_states"] = (output.logits,)
        return output

    return wrapped


class MethodTest(test_modeling_common.ModelTesterMixin):
    """Base of the test classes; a method adds its tester."""

    method: type[MethodTester]
    _is_composite = True
    additional_model_inputs = ("input_ids", "attention_mask")
    test_can_init_all_missing_weights_before_2023 = True
    # All hidden states are returned, or none. It fails in subtests, which no expected failure covers.
    test_can_capture_specific_layers_hidden_states = None

    def setUp(self) -> None:
        torch.manual_seed(0)
        self.model_tester = self.method(self)
        model_class = self.method.tiny.model_class
        self.all_model_classes = (model_class,)
        if self._testMethodName.startswith("test_eager_matches_sdpa_inference"):
            self.enterContext(patch.object(model_class, "forward", with_hidden_states(model_class.forward)))

    def _prepare_for_class(
        self, inputs_dict: dict[str, Tensor], model_class: type, return_labels: bool = False
    ) -> dict[str, Tensor]:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["mask_labels"] = (inputs["pixel_values"][..., 0, :, :] > 0).long()
        return inputs


class LavtTest(MethodTest, TestCase):
    method = LavtTester


class VideoLavtTest(MethodTest, TestCase):
    method = VideoLavtTester


class UnifiedLavtTest(MethodTest, TestCase):
    method = UnifiedLavtTester


class MagNetTest(MethodTest, TestCase):
    method = MagNetTester


class M3AttTest(MethodTest, TestCase):
    method = M3AttTester
    skip_test_image_features_output_shape = HAS_WIDTH_OF_ITS_OWN


class BtmaeTest(MethodTest, TestCase):
    method = BtmaeTester
    skip_test_image_features_output_shape = HAS_WIDTH_OF_ITS_OWN


class RisamTest(MethodTest, TestCase):
    method = RisamTester
    skip_test_image_features_output_shape = HAS_WIDTH_OF_ITS_OWN
