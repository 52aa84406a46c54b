"""Images or videos, texts and masks together on their way into any model for referring segmentation, and back."""

import reprlib
import string
from collections.abc import Iterable, Mapping
from numbers import Integral
from os import PathLike
from typing import Any, Literal

from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase, TextInput
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, ModelOutput, logging

from .image_processing_refseg import RefSegImageProcessorKwargs
from .messages_refseg import nearest_names, reason_of
from .saved_files_refseg import (
    AGAIN,
    OUT_OF_REACH,
    SavedFileError,
    check_mappings,
    check_vocabulary,
    load_saved_tokenizer,
    may_be_damage,
)
from .video_refseg import are_of_clips, as_clips

logger = logging.get_logger(__name__)

# So many unknown words are named, not each one of a whole data set.
MOST_NAMED_WORDS = 20
PROCESSOR_FILES = (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME)
# Arguments of `from_pretrained` that replace or add tokens; transformers takes the older name of one as well.
TOKEN_OPTIONS = {
    *("tokenizer", "extra_special_tokens", "additional_special_tokens"),
    *PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES,
}
PADDING_OPTIONS = ("padding", "padding_side", "pad_to_multiple_of")


# To mypy, which does not read transformers, it is no TypedDict.
class RefSegProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    images_kwargs: RefSegImageProcessorKwargs
    _defaults = {"text_kwargs": {"padding": True, "return_token_type_ids": False, "return_attention_mask": True}}


class RefSegProcessor(ProcessorMixin):
    """An image processor and a tokenizer in one.

    A saved one knows the size of its vocabulary, so that a tokenizer with other words is noticed.

    Args:
        image_processor ([`RefSegImageProcessor`]): for images and masks.
        tokenizer: for the texts.
        max_text_length (`int`, *optional*, defaults to 20):
            Tokens per text, the special ones included. A longer text is cut, with one warning. A call goes before:
            `max_length`, and `truncation=False` to cut nothing.
        text_truncation (`str`, *optional*, defaults to `"keep_end_token"`):
            `"keep_end_token"`: a cut text still ends with the end token ([SEP] for BERT). `"released"`: the end token
            is cut off with the rest, as LAVT's released weights have seen it.
    """

    valid_processor_kwargs = RefSegProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        max_text_length: int = 20,
        text_truncation: Literal["keep_end_token", "released"] = "keep_end_token",
        **kwargs,
    ) -> None:
        if text_truncation not in ("keep_end_token", "released"):
            raise ValueError(f"text_truncation is 'keep_end_token' or 'released', got '{text_truncation}'.")
        _check_at_least_one(max_text_length=max_text_length)
        self.max_text_length = max_text_length
        self.text_truncation = text_truncation
        self._named_words: set[str] = set()
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs) -> Any:
        """As in transformers.

        Raises:
            ValueError: a file of the processor is missing or damaged, or holds other words than were saved; the
                message names it.
            OSError: the Hub has no such processor, or cannot be reached.
        """
        name = pretrained_model_name_or_path
        try:
            loaded = super().from_pretrained(name, **kwargs)
        except Exception as error:
            # Whatever a value in one of the files makes transformers raise.
            if may_be_damage(error, name):
                check_mappings(name, PROCESSOR_FILES, kwargs)
                if "tokenizer" not in kwargs:
                    load_saved_tokenizer(name, **kwargs)
            if isinstance(error, OUT_OF_REACH):
                raise
            raise SavedFileError(
                f"{name}: no processor can be made of its {PROCESSOR_NAME} ({reason_of(error)}). {AGAIN}"
            ) from error
        if not TOKEN_OPTIONS.intersection(kwargs):
            processor = loaded[0] if isinstance(loaded, tuple) else loaded
            check_vocabulary(processor.tokenizer, name, kwargs)
        return loaded

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the size of the vocabulary."""
        return super().to_dict() | {"vocab_size": len(self.tokenizer)}

    def save_pretrained(self, *args, **kwargs) -> list[str]:
        """As in transformers; the processor itself stays as it was."""
        files = super().save_pretrained(*args, **kwargs)
        if self._auto_class is not None:
            # The place of its code, which transformers writes into the file by way of the object.
            del self.auto_map
        return files

    def __call__(
        self,
        images: ImageInput | None = None,
        text: TextInput | list[TextInput] | None = None,
        segmentation_maps: ImageInput | None = None,
        videos: Any = None,
        **kwargs: Unpack[RefSegProcessorKwargs],
    ) -> BatchFeature:
        """Prepares the inputs of a model.

        Args:
            images: one image, or a list with one image per text. One image with several texts is encoded once.
            text: a sentence or a list.
            segmentation_maps: one (height, width) mask per text, positive = target, as large as its image, for
                training; one (frames, height, width) array or list of masks per text along with `videos`. They may lie
                in `images_kwargs` instead. Without images and videos, lists of masks in a list, and arrays of four
                axes, are those of clips.
            videos: instead of `images`: one clip, or a list with one clip per text, all of one length. A clip is a
                list of frames (PIL images, arrays or tensors), or the path of a folder of frames or of a video file.

        Returns:
            `pixel_values` (images, 3, height, width) or (clips, frames, 3, height, width), `input_ids` and
            `attention_mask` (texts, tokens), and `mask_labels` (masks, height, width) or (masks, frames, height,
            width) where masks were given.

        Raises:
            ValueError: where nothing is given, or both images and clips, or a list is empty, or a text is, or lengths
                differ, or the numbers of texts and masks, or an option is out of range; and as the image processor
                and [`VideoFrames`] raise it.
            TypeError: an option in `images_kwargs` or `text_kwargs` that image processor or tokenizer do not take, or
                something that is no image, video or mask.
        """
        images_kwargs = dict(kwargs.pop("images_kwargs", {}))
        nested_maps = images_kwargs.pop("segmentation_maps", None)
        self._refuse_unknown({**kwargs, "images_kwargs": images_kwargs})
        if nested_maps is not None and segmentation_maps is not None:
            raise ValueError("Pass `segmentation_maps` once: as an argument, or in `images_kwargs`.")
        segmentation_maps = nested_maps if segmentation_maps is None else segmentation_maps
        if all(each is None for each in (images, text, videos, segmentation_maps)):
            raise ValueError("Pass `images` or `videos`, `text`, or both; or `segmentation_maps` alone.")
        if images is not None and videos is not None:
            raise ValueError("Pass `images` or `videos`, not both.")
        merged = self._merge_kwargs(
            self.valid_processor_kwargs,
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            images_kwargs=images_kwargs,
            **kwargs,
        )
        texts = None if text is None else as_sentences(text)
        data: dict = {}
        if videos is not None or (images is None and are_of_clips(segmentation_maps)):
            clips = None if videos is None else as_clips(videos)
            masks = None if segmentation_maps is None else as_clips(segmentation_maps, frame_axes=2)
            data.update(self.image_processor.preprocess_clips(clips, masks, **merged["images_kwargs"]))
        elif images is not None or segmentation_maps is not None:
            data.update(self.image_processor(images, segmentation_maps=segmentation_maps, **merged["images_kwargs"]))
        if texts is not None:
            data.update(self._tokenize(texts, **merged["text_kwargs"]))
            if len(data.get("mask_labels", texts)) != len(texts):
                raise ValueError(f"Got {len(data['mask_labels'])} masks for {len(texts)} texts: pass one for each.")
        return BatchFeature(data)

    def _refuse_unknown(self, options: Mapping[str, Any]) -> None:
        """Raises TypeError for an unknown one among the options of images or of texts.

        Of options outside these groups transformers itself warns: they may be meant for other processors.
        """
        known = {"images_kwargs": self.image_processor.valid_kwargs, "text_kwargs": TextKwargs}
        for group, legal in ((group, set(each.__annotations__)) for group, each in known.items()):
            unknown = [name for name in options.get(group, {}) if name not in legal]
            if unknown:
                hint = nearest_names(unknown, sorted(legal)) or "."
                raise TypeError(f"{group} of {type(self).__name__} have no option {', '.join(unknown)}{hint}")

    def _tokenize(self, texts: list[str], **kwargs) -> Mapping:
        limit = kwargs.pop("max_length", None)
        limit = self.max_text_length if limit is None else limit
        multiple = kwargs.get("pad_to_multiple_of")
        _check_at_least_one(max_length=limit, pad_to_multiple_of=1 if multiple is None else multiple)
        may_cut = kwargs.pop("truncation", None) not in (False, "do_not_truncate")
        return_tensors = kwargs.pop("return_tensors", None)
        is_special_wanted = kwargs.pop("return_special_tokens_mask", False)
        length = limit if kwargs["padding"] == "max_length" else None
        tokens = self.tokenizer(texts, max_length=length, return_special_tokens_mask=True, **kwargs)
        if len(tokens["input_ids"]) != len(texts):
            raise ValueError("Texts are sentences: they take neither `is_split_into_words` nor overflowing tokens.")
        words = [
            [token for token, special in zip(*of_text, strict=True) if not special]
            for of_text in zip(tokens["input_ids"], tokens["special_tokens_mask"], strict=True)
        ]
        self._look_for_unknown_words(texts, words)
        num_special = (
            self.tokenizer.num_special_tokens_to_add(pair=False) if kwargs.get("add_special_tokens", True) else 0
        )
        if may_cut and max(map(len, words)) + num_special > limit:
            tokens = self._cut(texts, limit, num_special, length, return_special_tokens_mask=True, **kwargs)
        if not is_special_wanted:
            del tokens["special_tokens_mask"]
        return tokens.convert_to_tensors(return_tensors)

    def _cut(self, texts: list[str], limit: int, num_special: int, length: int | None, **kwargs) -> BatchEncoding:
        if self.text_truncation == "keep_end_token" and limit <= num_special:
            raise ValueError(f"{limit} tokens leave no room for a word beside {num_special} special ones: allow more.")
        logger.warning_once(
            f"A text has more than {limit} tokens and is cut; the processor's `max_text_length` is the limit."
        )
        # Apart from cutting: together they refuse a limit that is no multiple of `pad_to_multiple_of`.
        padding = {name: kwargs.pop(name) for name in PADDING_OPTIONS if name in kwargs}
        if self.text_truncation == "released":
            whole = self.tokenizer(texts, **kwargs)
            cut = {name: [values[:limit] for values in rows] for name, rows in whole.items()}
        else:
            cut = self.tokenizer(texts, truncation=True, max_length=limit, **kwargs)
        return self.tokenizer.pad(cut, max_length=length, **padding)

    def _look_for_unknown_words(self, texts: list[str], words: list[list[int]]) -> None:
        """Warnings name the words that the tokenizer does not know; `words` are the tokens of each text."""
        unknown = self.tokenizer.unk_token_id
        for text, own in zip(texts, words, strict=True):
            if unknown is not None and unknown in own:
                self._name_unknown_words(text, nothing_is_known=set(own) == {unknown})

    def _name_unknown_words(self, text: str, nothing_is_known: bool) -> None:
        """A warning with the unknown words of a text that none has named yet; once there were many, no more."""
        if len(self._named_words) >= MOST_NAMED_WORDS:
            return
        words = [word for word in unknown_words(self.tokenizer, text) if word not in self._named_words]
        if not words:
            return
        words = words[: MOST_NAMED_WORDS - len(self._named_words)]
        self._named_words.update(words)
        # As Python writes them, without control characters.
        named = ", ".join(f'"{repr(word[:40])[1:-1]}"' for word in words)
        parts = [f"The tokenizer does not know {named}: the model reads {self.tokenizer.unk_token} there"]
        if nothing_is_known:
            parts.append(", and no word of that text")
        parts.append(".")
        if len(self._named_words) >= MOST_NAMED_WORDS:
            parts.append(" Further words that it does not know are not named.")
        logger.warning_once("".join(parts))

    def post_process_referring_segmentation(
        self, outputs: ModelOutput, target_sizes: list[tuple[int, int]] | None = None, threshold: float | None = None
    ) -> list[dict]:
        """See [`RefSegImageProcessor.post_process_referring_segmentation`]."""
        return self.image_processor.post_process_referring_segmentation(outputs, target_sizes, threshold)

    def post_process_referring_video_segmentation(
        self, outputs: ModelOutput, target_sizes: list[tuple[int, int]] | None = None, threshold: float | None = None
    ) -> list[dict]:
        """See [`RefSegImageProcessor.post_process_referring_video_segmentation`]."""
        return self.image_processor.post_process_referring_video_segmentation(outputs, target_sizes, threshold)

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask"]


def _check_at_least_one(**numbers: Any) -> None:
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number is True or number < 1:
            raise ValueError(f"`{name}` is a whole number from 1 on, not {reprlib.repr(number)}.")


def as_sentences(text: Any) -> list[str]:
    """A sentence, or several, as a list.

    Raises:
        ValueError: there is no sentence, or one is empty, no string or no Unicode.
    """
    several = isinstance(text, Iterable) and not isinstance(text, str | bytes | Mapping)
    texts = list(text) if several else [text]
    if not texts:
        raise ValueError("There is no text: pass one text at least.")
    for index, each in enumerate(texts):
        if not isinstance(each, str) or not each.strip():
            # Of nested lists this is not the end: what is in a list counts for each list that holds it.
            found = reprlib.repr(each)[:80]
            raise ValueError(f"Text {index} of {len(texts)} is empty or no string ({found}): pass a sentence.")
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"Text {index} of {len(texts)} holds half a character: {reprlib.repr(each)}.") from error
    return texts


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The words of a text that become, as a whole or in part, the tokenizer's unknown token; each once."""
    words = dict.fromkeys(word.strip(string.punctuation) or word for word in text.split())
    known = tokenizer(list(words), add_special_tokens=False)["input_ids"]
    return [word for word, ids in zip(words, known, strict=True) if tokenizer.unk_token_id in ids]


__all__ = ["RefSegProcessor", "as_sentences"]
