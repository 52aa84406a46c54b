"""The tokenizer of words, by itself and with a processor, and the reading of GloVe files with all their faults."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoProcessor, AutoTokenizer, BertTokenizer

from hf_refseg import RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.rows import DataFormatError
from hf_refseg.data.vocabulary import load_glove, train_word_tokenizer, with_words_of

SENTENCES = ["the Red dog", "the man's dog, left", "the LEFT dog", "a café"]
SPECIAL = ["[PAD]", "[UNK]", "[MASK]"]


def test_words_are_lower_case_and_punctuation_stands_alone() -> None:
    tokenizer = train_word_tokenizer(SENTENCES)
    assert tokenizer.tokenize("The man's red cafe, the CAFÉ") == [
        *("the", "man", "'", "s", "red", "[UNK]", ",", "the", "café")
    ]
    ids = tokenizer(["the red dog", "dog"], padding=True)
    assert tokenizer.convert_ids_to_tokens(ids["input_ids"][0]) == ["the", "red", "dog"]
    assert tokenizer.convert_ids_to_tokens(ids["input_ids"][1]) == ["dog", "[PAD]", "[PAD]"]
    assert ids["attention_mask"] == [[1, 1, 1], [1, 0, 0]]
    assert tokenizer.decode(ids["input_ids"][1], skip_special_tokens=True) == "dog"


def test_the_vocabulary_follows_counts_then_the_alphabet() -> None:
    tokenizer = train_word_tokenizer(SENTENCES)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert words == [*SPECIAL, "dog", "the", "left", "'", ",", "a", "café", "man", "red", "s"]
    assert train_word_tokenizer(reversed(SENTENCES)).get_vocab() == tokenizer.get_vocab()
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 2)
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2]


@pytest.mark.parametrize("way", ["trained", "read"])
def test_typographic_punctuation_is_that_of_a_keyboard(way) -> None:
    plain, typographic = """the man's "blue-green" dog""", "the man\u2019s \u201cblue\u2013green\u201d dog"
    trained_on, read = (plain, typographic) if way == "read" else (typographic, plain)
    tokenizer = train_word_tokenizer([trained_on])
    assert tokenizer.tokenize(read) == tokenizer.tokenize(trained_on)
    assert tokenizer.tokenize(read) == ["the", "man", "'", "s", '"', "blue", "-", "green", '"', "dog"]


def test_rare_words_are_unknown() -> None:
    tokenizer = train_word_tokenizer(SENTENCES, min_count=2)
    assert sorted(tokenizer.get_vocab()) == sorted([*SPECIAL, "dog", "the", "left"])
    assert tokenizer.tokenize("the red dog") == ["the", "[UNK]", "dog"]
    with pytest.raises(ValueError, match="no word that comes 9 times"):
        train_word_tokenizer(SENTENCES, min_count=9)
    with pytest.raises(ValueError, match="no word"):
        train_word_tokenizer([])


def test_words_that_are_known_keep_their_numbers_and_new_ones_follow() -> None:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "left"]
    before = BertTokenizer(vocab={word: number for number, word in enumerate(known)})
    tokenizer = with_words_of(before, SENTENCES)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    # Accents are dropped, as BERT's tokenizers of lower case do.
    assert words == [*known, "'", ",", "a", "cafe", "dog", "man", "red", "s"]
    assert tokenizer.tokenize("The man's leftmost cafe") == ["the", "man", "'", "s", "[UNK]", "cafe"]
    assert len(before) == len(known) and before.tokenize("the red") == ["the", "[UNK]"]
    assert with_words_of(tokenizer, SENTENCES).get_vocab() == tokenizer.get_vocab()


def test_the_tokenizer_is_saved_with_the_processor(tmp_path) -> None:
    tokenizer = train_word_tokenizer(SENTENCES)
    processor = RefSegProcessor(RefSegImageProcessor(), tokenizer, max_text_length=3)
    processor.save_pretrained(tmp_path)
    for loaded in (AutoProcessor.from_pretrained(tmp_path), RefSegProcessor.from_pretrained(tmp_path)):
        assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
        batch = loaded(text=["The man's dog", "red"], return_tensors="pt")
        assert loaded.tokenizer.batch_decode(batch["input_ids"]) == ["the man '", "red [PAD] [PAD]"]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert AutoTokenizer.from_pretrained(tmp_path)("the red zebra")["input_ids"][-1] == 1


VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "dog": 2, "red": 3, "café": 4}


def write_glove(folder: Path, *lines: str) -> Path:
    path = folder / "glove.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_vectors_stand_at_their_words(tmp_path) -> None:
    path = write_glove(
        tmp_path, "the 9 9 9", "red 0.5 -1 2e-1", ". . . 7 7 7", "dog 1 2 3", "café 4 5 6", "zebra 0 0 0"
    )
    vectors = load_glove(path, VOCABULARY)
    assert vectors.dtype == torch.float32 and vectors.shape == (5, 3)
    assert_close(vectors[2:], torch.tensor([[1.0, 2, 3], [0.5, -1, 0.2], [4, 5, 6]]))
    assert not vectors[0].any()
    assert vectors[1].isfinite().all() and vectors[1].any()


def test_blank_lines_are_passed_over(tmp_path) -> None:
    path = write_glove(tmp_path, "", "dog 1 2", " ", "", "red 3 4", "", "")
    assert_close(load_glove(path, VOCABULARY)[2:4], torch.tensor([[1.0, 2], [3, 4]]))


def test_missing_words_are_drawn_like_those_found(tmp_path) -> None:
    rows = np.random.default_rng(0).normal(0.3, 0.4, (50, 40))
    path = write_glove(tmp_path, *(f"w{row} {' '.join(map(str, values))}" for row, values in enumerate(rows)))
    vocabulary = {f"w{row}": row for row in range(100)}
    torch.manual_seed(0)
    vectors = load_glove(path, vocabulary)
    assert_close(vectors[:50], torch.from_numpy(rows).float())
    assert vectors[50:].mean().item() == pytest.approx(0.3, abs=0.03)
    assert vectors[50:].std().item() == pytest.approx(0.4, abs=0.03)


def test_reading_shows_its_progress(tmp_path, capsys) -> None:
    load_glove(write_glove(tmp_path, "dog 1 2"), VOCABULARY)
    assert "glove.txt: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["dog 1 2 3", "the 1 2"], "line 2: 2 values for 'the', but 3 in the first line"),
        (["the 1 2 3", "dog 1 2 3 4"], "line 2: 4 values for 'dog', but 3 in the first line"),
        (["the 1 2", "", "dog"], "line 3: a word and its values are expected"),
        (["the 1 2", "dog 1 x"], "line 2: could not convert"),
        (["dog 1 2", "red 1 nan"], "line 2: a value is not finite"),
        (["dog 1 2", "red 1 2", "dog 3 4"], "line 3: 'dog' stands in line 1 already"),
        (["the 1 2", "zebra 1 2"], "has none of the 5 words"),
        (["dog" + " 1" * 5000], "line 1: 5000 values for 'dog', but vectors of words have at most 4096"),
        (["dog 1 2", "the " + "1" * 200_000], "line 2 has 131072 bytes or more"),
    ],
    ids=["short", "long", "no values", "no number", "not finite", "twice", "other words", "wide", "endless"],
)
def test_a_faulty_file_is_one_clear_error(tmp_path, lines: list[str], message: str) -> None:
    path = write_glove(tmp_path, *lines)
    with pytest.raises(DataFormatError, match=f"{re.escape(str(path))}.*{re.escape(message)}"):
        load_glove(path, VOCABULARY)


def test_a_file_that_is_no_text_or_not_there_is_named(tmp_path) -> None:
    (tmp_path / "glove.zip").write_bytes(b"PK\x03\x04\xff\xfe\n")
    with pytest.raises(DataFormatError, match=r"glove\.zip, line 1 is no text in UTF-8: unpack"):
        load_glove(tmp_path / "glove.zip", VOCABULARY)
    for absent in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"no GloVe file {re.escape(str(absent))}"):
            load_glove(absent, VOCABULARY)
