"""transformers' tests of processors, on ours."""

from unittest import TestCase

from tiny_lavt import tiny_processor
from transformers import BertTokenizer
from transformers_tests.test_processing_common import ProcessorTesterMixin

from hf_refseg import RefSegImageProcessor, RefSegProcessor


class ProcessorTest(ProcessorTesterMixin, TestCase):
    processor_class = RefSegProcessor

    @classmethod
    def _setup_image_processor(cls) -> RefSegImageProcessor:
        return tiny_processor().image_processor

    @classmethod
    def _setup_tokenizer(cls) -> BertTokenizer:
        return tiny_processor().tokenizer

    def prepare_videos_inputs(self, batch_size: int | None = None) -> None:
        """No videos: the tests give images and videos together, the processor takes one of the two."""
