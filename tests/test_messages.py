"""What errors about bad input say: one short printable line, whatever the input holds."""

import pickle
from pathlib import Path
from traceback import clear_frames

import pytest
from torch.utils.data import DataLoader, Dataset

from hf_refseg.data.rows import DataFormatError, InvalidRowError
from hf_refseg.files import write_whole
from hf_refseg.messages import BadInputError, message_of, name_text, one_line, short_text

HOSTILE = "a\x1b[2J\r\n\x00\u2028\u202e\ud800" + "x" * 10_000


@pytest.mark.parametrize("text", ["", "short", "café", HOSTILE, "\x1b" * 5000, "\U000e0001" * 600, "x" * 501])
def test_a_message_is_one_printable_line(text):
    line = one_line(text)
    assert line.isprintable() and len(line) <= 500
    assert (line == text) == (text in ("", "short", "café"))


def test_a_long_message_keeps_its_beginning_and_its_end():
    line = one_line(f"file.json: {'x' * 1000}. Download it again.")
    assert line.startswith("file.json: xxx") and line.endswith("xxx. Download it again.")


def test_a_table_keeps_its_lines():
    error = DataFormatError("two\nlines", "| a |\n| b |")
    assert str(error).splitlines() == ["two\\nlines", "| a |", "| b |"]


@pytest.mark.parametrize(
    "value", [HOSTILE, [HOSTILE] * 9, {HOSTILE: [[[[[1]]]]]}, 10**5000, -(10**4000), None], ids=type
)
def test_a_value_is_short_and_printable(value):
    for text in (short_text(value), name_text(value)):
        assert text.isprintable() and 0 < len(text) <= 80


def test_a_plain_name_is_itself():
    assert name_text("COCO_train2014_000000300000.jpg") == "COCO_train2014_000000300000.jpg"
    assert (name_text(5), name_text(""), name_text("a\nb")) == ("5", "''", r"'a\nb'")


def test_a_value_of_shared_lists_is_not_written_out():
    value = []
    for _ in range(60):
        value = [value, value]
    assert len(short_text(value)) < 80 and name_text(value) == short_text(value)


class Bad(Dataset):
    """Every item raises."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        try:
            raise OSError("first\nthing")
        except OSError as error:
            raise InvalidRowError("row 5: it is damaged\nhere. Correct it.") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_process_is_the_line_alone(workers):
    with pytest.raises(InvalidRowError) as error:
        list(DataLoader(Bad(), num_workers=workers))
    # What it still holds waits seconds for its process where garbage is collected.
    clear_frames(error.tb)
    assert str(error.value) == r"row 5: it is damaged\nhere. Correct it."


def test_an_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BadInputError("a\nb")))
    assert (type(error), str(error)) == (BadInputError, r"a\nb")


def test_a_path_that_cannot_be_written_is_named_first(tmp_path):
    (tmp_path / "folder").mkdir()
    for write in (Path.write_text, lambda path, text: write_whole(path, lambda part: part.write_text(text))):
        with pytest.raises(OSError) as error:
            write(tmp_path / "folder", "text")
        assert message_of(error.value).startswith(f"{tmp_path / 'folder'}: is a directory. Choose another path")
    assert message_of(FileNotFoundError(2, "Nothing there")) == "[Errno 2] Nothing there"
