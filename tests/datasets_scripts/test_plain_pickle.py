"""Pickles of the REFER collection: plain data is read however it was written, bombs are refused before they go off."""

import io
import pickle
import pickletools
from pathlib import Path

import pytest

from hf_refseg.data.rows import DataFormatError
from hf_refseg.datasets_scripts import plain_pickle
from hf_refseg.datasets_scripts.plain_pickle import read_pickle

TOKENS = ["the", "man's", "café", "☕"]
BOX = [1.5, -2.0, 3, 2**40]
DATA = [
    {
        "ref_id": number,
        "sentences": [{"raw": " ".join(TOKENS), "tokens": TOKENS, "sent_id": 2**70}],
        "box": BOX,
        "pair": (number, "x", (), (1,), (1, 2, 3, 4)),
        "long": "word " * 60,
        "many": list(range(1100)),
        "none": [None, True, False, b"bytes", {}, []],
    }
    for number in range(9)
]


def read(tmp_path: Path, content: bytes):
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    return read_pickle(path)


@pytest.mark.parametrize("pickler", [pickle._Pickler, pickle.Pickler])
@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol_is_read(protocol, pickler, tmp_path):
    # Before protocol 3 bytes are made by a call of a function.
    data = DATA if protocol > 2 else [{**record, "none": [None, True, False, {}, []]} for record in DATA]
    buffer = io.BytesIO()
    pickler(buffer, protocol).dump(data)
    assert read(tmp_path, buffer.getvalue()) == data
    assert read(tmp_path, pickletools.optimize(buffer.getvalue())) == data


# As Python 2 wrote [{'raw': 'caf\xc3\xa9', u'n\xe9': 3L, 'l': [1, 1.5]}], with protocol 0, 1 and 2 of cPickle.
PYTHON_2 = [
    b"(lp1\n(dp2\nS'raw'\np3\nS'caf\\xc3\\xa9'\np4\nsVn\xe9\np5\nL3L\nsS'l'\np6\n(lp7\nI1\naF1.5\nasa.",
    b"]q\x01}q\x02(U\x03rawq\x03U\x05caf\xc3\xa9q\x04X\x03\x00\x00\x00n\xc3\xa9q\x05L3L\nU\x01lq\x06]q\x07(K\x01"
    b"G?\xf8\x00\x00\x00\x00\x00\x00eua.",
    b"\x80\x02]q\x01}q\x02(U\x03rawq\x03U\x05caf\xc3\xa9q\x04X\x03\x00\x00\x00n\xc3\xa9q\x05\x8a\x01\x03U\x01lq\x06]"
    b"q\x07(K\x01G?\xf8\x00\x00\x00\x00\x00\x00eua.",
]


@pytest.mark.parametrize("content", PYTHON_2)
def test_pickles_of_python_2_are_read(content, tmp_path):
    assert read(tmp_path, content) == [{"raw": "cafÃ©", "né": 3, "l": [1, 1.5]}]


def doubled(levels: int, join: bytes) -> bytes:
    """Each level refers to the one before it twice; `join` makes one value of two."""
    steps = [b"\x80\x02]q\x00"]
    for level in range(levels):
        steps.append(b"(h%ch%c" % (level, level) + join + b"q%c" % (level + 1))
    return b"".join(steps)


REFS = b"]}(X\x06\x00\x00\x00ref_id%sX\x05\x00\x00\x00splitX\x03\x00\x00\x00valua."
BOMBS = {
    "memo": b"]r\xff\xff\xff\x1f.",
    "memo of text": b"]p536870911\n.",
    "negative memo": b"]p-1\n.",
    "shared lists": doubled(60, b"l") + b".",
    "shared lists in a record": REFS % doubled(60, b"l"),
    "shared tuples": doubled(60, b"t") + b".",
    "shared texts": b"(B\x00\x00\x01\x00" + b"x" * 65536 + b"q\x00" + b"h\x00" * 100_000 + b"l.",
    "shared records": b"((" + b"N" * 9999 + b"lq\x00" + b"h\x00" * 9999 + b"l.",
    "filled later": b"(]q\x00(" + b"h\x00" * 99 + b"lq\x01(" + b"h\x01" * 99 + b"lh\x00(" + b"N" * 999 + b"el.",
    "itself": b"]q\x00h\x00a.",
    "a dict in itself": b"}q\x00(X\x01\x00\x00\x00ah\x00u.",
    "deep tuples": b")" + b"\x85" * 200_000 + b".",
    "deep tuples as a key": b"}(" + b")" + b"\x85" * 200_000 + b"Nu.",
    "deep lists": b"(" * 200_000 + b"l" * 200_000 + b".",
    "numbers as keys": b"}(K\x01Nu.",
    "doubled": b")" + b"2\x86" * 60 + b".",
    "set": b"\x80\x04\x8f.",
    "bytearray": b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00x.",
    "state": b"]Nb.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_anything_is_loaded(name, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "PlainUnpickler", None)
    with pytest.raises(DataFormatError) as error:
        read(tmp_path, BOMBS[name])
    message = str(error.value)
    assert str(tmp_path / "refs.p: it ") in message and message.endswith("download it from its authors.")


@pytest.mark.parametrize("name", ["MAX_BYTES", "MAX_STEPS"])
def test_a_file_beyond_all_data_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, name, 1000)
    content = pickle.dumps([None] * 2000)
    with pytest.raises(DataFormatError, match=r"refs\.p: it has .*1000"):
        read(tmp_path, content)
    assert read(tmp_path, pickle.dumps([None] * 500)) == [None] * 500


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"]",
        b".",
        b"a.",
        b"]q",
        b"]h\x05.",
        b"]h\x00.",
        b"q\x00.",
        b"e.",
        b"\x85.",
        b"X\xff\xff\xff\x7fab.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.",
        b"T\xff\xff\xff\xffab.",
        b"\x8b\xff\xff\xff\xff\x00.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff].",
        b"Ix\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"Fx\n.",
        b"gx\n.",
        b"S'x\n.",
        b"\xffabc",
        b"I1",
    ],
)
def test_a_damaged_pickle_is_named(content, tmp_path):
    with pytest.raises(DataFormatError, match=r"refs\.p is not a complete pickle \(.+\)\. Download the file again\.$"):
        read(tmp_path, content)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_class_is_named(protocol, tmp_path):
    with pytest.raises(DataFormatError, match=r"refs\.p: it asks for 'pathlib.*Path', which data has no need of"):
        read(tmp_path, pickle.dumps([Path("x")], protocol=protocol))
