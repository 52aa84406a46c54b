"""transformers' tests of models, on tiny models of all methods."""

from unittest import TestCase

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


class MethodTest(test_modeling_common.ModelTesterMixin):
    """Base of the test classes; a method adds its tester."""

    method: type[MethodTester]
    _is_composite = True
    additional_model_inputs = ("input_ids", "attention_mask")

    def setUp(self) -> None:
        torch.manual_seed(0)
        self.model_tester = self.method(self)
        self.all_model_classes = (self.method.model_class,)

    def _prepare_for_class(
        self, inputs_dict: dict[str, Tensor], model_class: type, return_labels: bool = False
    ) -> dict[str, Tensor]:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["mask_labels"] = (inputs["pixel_values"][:, 0] > 0).long()
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


class BtmaeTest(MethodTest, TestCase):
    method = BtmaeTester


class RisamTest(MethodTest, TestCase):
    method = RisamTester
