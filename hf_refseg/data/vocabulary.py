"""Tokenizers of whole words, from the sentences of a data set, and vectors of their words from GloVe files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer
from torch import Tensor
from tqdm import tqdm
from transformers import BertTokenizer, PreTrainedTokenizerFast

from ..messages import short_text
from .rows import DataFormatError

logger = logging.getLogger(__name__)

PAD, UNKNOWN, MASK = "[PAD]", "[UNK]", "[MASK]"
# Published vectors have 25 to 300 values, those of language models up to some thousand.
MAX_DIMENSIONS = 4096
MAX_LINE_BYTES = 32 * MAX_DIMENSIONS
# How word processors and telephones write what keyboards have one character for.
TYPOGRAPHIC = {
    "'": "[\u2018\u2019\u201b\u02bc\u2032]",
    '"': "[\u201c\u201d\u201e\u201f\u2033]",
    "-": "[\u2010-\u2015\u2212]",
}


def train_word_tokenizer(sentences: Iterable[str], min_count: int = 1) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each word of the sentences, in lower case, and for each run of punctuation.

    Typographic apostrophes, quotation marks and dashes are those of a keyboard to it. It adds no tokens of start and
    end. The numbers of the words follow their counts, ties the alphabet: the same sentences in any order give the same
    tokenizer. A word that it does not know becomes [UNK].

    Args:
        sentences: those to train on.
        min_count: a word that comes less often is unknown.

    Raises:
        ValueError: no sentence has a word that comes often enough.
    """
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    plain = [normalizers.Replace(Regex(pattern), character) for character, pattern in TYPOGRAPHIC.items()]
    tokenizer.normalizer = normalizers.Sequence([*plain, normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [PAD, UNKNOWN, MASK]
    trainer = WordLevelTrainer(vocab_size=2**31, min_frequency=min_count, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    if tokenizer.get_vocab_size() == len(special):
        raise ValueError(f"The sentences have no word that comes {min_count} times: there is no vocabulary to make.")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, mask_token=MASK, padding_side="right"
    )


def with_words_of(tokenizer: BertTokenizer, sentences: Iterable[str]) -> BertTokenizer:
    """A tokenizer that knows each word of the sentences as well, in lower case, and each mark of punctuation.

    What the other one knows keeps its number, so that the rows of a model's word embeddings stay those of their words
    when it is resized (`resize_token_embeddings`); new words follow, in the order of the alphabet. The other tokenizer
    stays as it is.

    Args:
        tokenizer: one of whole words in lower case, such as that of a model trained on RefShapes, or one that knows
            special tokens alone.
        sentences: whatever is to be read.
    """
    normalizer, splitter = tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer
    found = {
        word for sentence in sentences for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(sentence))
    }
    numbers = tokenizer.get_vocab()
    known = sorted(numbers, key=numbers.__getitem__)
    new = sorted(found - numbers.keys())
    return BertTokenizer(vocab={word: number for number, word in enumerate((*known, *new))})


def load_glove(path: str | PathLike[str], vocabulary: Mapping[str, int]) -> Tensor:
    """The vectors of a vocabulary's words from a GloVe file, float32 (words, dimensions).

    A line is a word and its values, separated by single spaces, or blank. A word that the file lacks gets a random
    vector with the mean and the standard deviation of those found, [PAD] gets 0.

    Args:
        path: the text file, such as glove.6B.300d.txt.
        vocabulary: the number of each word, `tokenizer.get_vocab()`; the numbers are 0 to len(vocabulary) - 1.

    Raises:
        FileNotFoundError: no such file.
        DataFormatError: the file is no text, a line has another number of values than the first one, values of a word
            are no finite numbers or are more than `MAX_DIMENSIONS`, a word of the vocabulary comes twice, or none of
            them comes at all. File and line are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no GloVe file {path}: name the unpacked text file, as glove.6B.300d.txt.")
    found: dict[str, np.ndarray] = {}
    lines: dict[str, int] = {}
    for line, word, values in _read_entries(path):
        if word not in vocabulary:
            continue
        if word in found:
            raise DataFormatError(f"{path}, line {line}: {short_text(word)} stands in line {lines[word]} already.")
        found[word], lines[word] = _to_numbers(values, path, line), line
    if not found:
        raise DataFormatError(
            f"{path} has none of the {len(vocabulary)} words of the vocabulary: is it a GloVe file of this language?"
        )
    logger.info("%s has %d of the %d words.", path, len(found), len(vocabulary))
    known = torch.from_numpy(np.stack(list(found.values())))
    vectors = torch.randn(len(vocabulary), known.shape[1]) * known.std(correction=0) + known.mean()
    vectors[[vocabulary[word] for word in found]] = known
    if PAD in vocabulary:
        vectors[vocabulary[PAD]] = 0
    return vectors


def _read_entries(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """The number of each line, from 1, its word and its values."""
    dimensions = None
    with path.open("rb") as file, tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name) as bar:
        for line, content in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), start=1):
            bar.update(len(content))
            if len(content) == MAX_LINE_BYTES:
                raise DataFormatError(
                    f"{path}, line {line} has {MAX_LINE_BYTES} bytes or more, for vectors of at most {MAX_DIMENSIONS} "
                    "values: name the unpacked text file, as glove.6B.300d.txt."
                )
            text = _decode(content, path, line).rstrip()
            if not text:
                continue
            word, *values = text.split(" ")
            if not values:
                raise DataFormatError(f"{path}, line {line}: a word and its values are expected, with spaces between.")
            dimensions = dimensions or len(values)
            if dimensions > MAX_DIMENSIONS:
                raise DataFormatError(
                    f"{path}, line {line}: {dimensions} values for {short_text(word)}, but vectors of words have "
                    f"at most {MAX_DIMENSIONS}: name the unpacked text file, as glove.6B.300d.txt."
                )
            # Some published files have entries with spaces in them, such as ". . .".
            inside = values[:-dimensions]
            if len(values) < dimensions or any(_is_number(part) for part in inside):
                raise DataFormatError(
                    f"{path}, line {line}: {len(values)} values for {short_text(word)}, but {dimensions} in the first "
                    "line."
                )
            yield line, " ".join([word, *inside]), values[-dimensions:]


def _decode(content: bytes, path: Path, line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{path}, line {line} is no text in UTF-8: unpack the file first.") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _to_numbers(values: list[str], path: Path, line: int) -> np.ndarray:
    try:
        numbers = np.array(values, dtype=np.float32)
    except ValueError as error:
        raise DataFormatError(f"{path}, line {line}: {error}.") from error
    if not np.isfinite(numbers).all():
        raise DataFormatError(f"{path}, line {line}: a value is not finite.")
    return numbers
