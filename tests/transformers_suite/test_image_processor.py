"""transformers' tests of image processors, on ours."""

from unittest import TestCase

from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from hf_refseg import RefSegImageProcessor


class RefSegImageProcessingTester(ImageProcessingTester):
    """Small pictures."""

    def __init__(self, parent: TestCase) -> None:
        super().__init__(
            parent,
            batch_size=3,
            max_resolution=80,
            size={"height": 24, "width": 36},
            image_mean=[0.5, 0.4, 0.3],
            image_std=[0.5, 0.6, 0.7],
            mask_threshold=0.4,
        )

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"torchvision": RefSegImageProcessor}


class ImageProcessorTest(ImageProcessingTestMixin, TestCase):
    image_processor_tester_class = RefSegImageProcessingTester
