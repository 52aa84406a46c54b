"""Pickles of the REFER collection: plain data is read however it was written, bombs are refused before they go off."""

import io
import pickle
import pickletools
from pathlib import Path

import numpy as np
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


NUMBERS = [
    *(np.bool_(True), np.int8(-3), np.int16(-300), np.int32(5), np.int64(2**40), np.uint8(200), np.uint16(65535)),
    *(np.uint32(2**32 - 1), np.uint64(2**63), np.float16(0.5), np.float32(1.5), np.float64(-2.25)),
    np.array(7, ">i4")[()],
]


@pytest.mark.parametrize("pickler", [pickle._Pickler, pickle.Pickler])
@pytest.mark.parametrize("protocol", range(6))
def test_numbers_of_numpy_become_plain_ones(protocol, pickler, tmp_path):
    data = [{"ref_id": number, "box": [number, 2, number], "pair": (number, "x")} for number in NUMBERS]
    plain = [number.item() for number in NUMBERS]
    buffer = io.BytesIO()
    pickler(buffer, protocol).dump(data)
    for content in (buffer.getvalue(), pickletools.optimize(buffer.getvalue())):
        found = read(tmp_path, content)
        assert found == [{"ref_id": value, "box": [value, 2, value], "pair": (value, "x")} for value in plain]
        assert [type(record["ref_id"]) for record in found] == [bool, *[int] * 8, *[float] * 3, int]


# The number 7 twice, as NumPy 1 of Python 2 wrote it, with protocol 0 and 2 of cPickle.
NUMPY_OF_PYTHON_2 = [
    b"(lp1\ncnumpy.core.multiarray\nscalar\np2\n(cnumpy\ndtype\np3\n(S'i8'\np4\nI0\nI1\ntp5\nRp6\n(I3\nS'<'\np7\n"
    b"NNNI-1\nI-1\nI0\ntp8\nbS'\\x07\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\np9\ntp10\nRp11\nag11\na.",
    b"\x80\x02]q\x01(cnumpy.core.multiarray\nscalar\nq\x02cnumpy\ndtype\nq\x03U\x02i8q\x04K\x00K\x01\x87q\x05Rq\x06(K\x03"
    b"U\x01<q\x07NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x08bU\x08\x07\0\0\0\0\0\0\0q\x09\x86q\x0aRq\x0bh\x0be.",
]


@pytest.mark.parametrize("content", NUMPY_OF_PYTHON_2)
def test_numbers_of_numpy_are_read_as_python_2_wrote_them(content, tmp_path):
    assert pickle.loads(content, encoding="latin1") == read(tmp_path, content) == [7, 7]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        np.array([1, 2]),
        np.array([None]),
        np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")])[0],
        np.dtype("i8"),
        np.int64,
        np.datetime64("2020-01-01"),
        np.complex64(1),
        np.longdouble(1),
        np.str_("x"),
        np.bytes_(b"x"),
        np.void(b"ab"),
    ],
    ids=repr,
)
def test_nothing_else_of_numpy_is_read(value, protocol, tmp_path):
    for data in (value, [value], {"a": value}, (value,)):
        with pytest.raises(DataFormatError, match=r"refs\.p: it (asks for|holds|changes) .*delete it"):
            read(tmp_path, pickle.dumps(data, protocol))


def numpy_number(code=b"i8", order=b"<", flags=b"K\x00", content=b"\7" + b"\0" * 7, names=b"N") -> bytes:
    """A list of one number of NumPy; each argument is a part of it."""
    kind = b"cnumpy\ndtype\n(U%c%sK\0K\1tR" % (len(code), code)
    state = b"(K\3U%c%sN%sNJ\xff\xff\xff\xffJ\xff\xff\xff\xff%stb" % (len(order), order, names, flags)
    return b"](cnumpy.core.multiarray\nscalar\n(%s%sU%c%stRe." % (kind, state, len(content), content)


def test_a_number_of_numpy_of_another_form_is_refused(tmp_path):
    assert read(tmp_path, numpy_number()) == [7]
    assert read(tmp_path, numpy_number(order=b">")) == [7 << 56]
    assert read(tmp_path, numpy_number(code=b"i1", order=b"|", content=b"\xff")) == [-1]
    for content in (
        numpy_number(content=b"\7"),
        numpy_number(content=b"\7" * 9),
        numpy_number(content=b""),
        numpy_number(order=b"|"),
        numpy_number(order=b"="),
        numpy_number(order=b""),
        numpy_number(code=b"O8"),
        numpy_number(code=b"i16"),
        numpy_number(code=b"i8,i8"),
        numpy_number(flags=b"K\x3f"),
        numpy_number(names=b"(U\1at"),
    ):
        pickletools.dis(content, io.StringIO())
        with pytest.raises(DataFormatError, match=r"refs\.p: it holds .*delete it"):
            read(tmp_path, content)


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
    "state of a dict": b"}}b.",
    "state of a function": b"cnumpy\ndtype\n}U\1aK\1sb.",
    "state of one field": b"cnumpy\ndtype\n(U\2i8K\0K\1tR}b.",
    "a function as data": b"]cnumpy\ndtype\na.",
    "a function as a key": b"}cnumpy\ndtype\nNs.",
    "a function": b"c_codecs\nencode\n.",
    "a type as data": b"](cnumpy\ndtype\n(U\2i8K\0K\1tRe.",
    "a type in a tuple": b"cnumpy\ndtype\n(U\2i8K\0K\1tR\x85.",
    "a type in tuples": b"](cnumpy\ndtype\n(U\2i8K\0K\1tR\x85\x85e.",
    "a number without a type": b"cnumpy.core.multiarray\nscalar\n(U\1aU\1btR.",
    "a call of a call": b"cnumpy\ndtype\n(cnumpy\ndtype\nK\0K\1tR.",
    "a call of a number": b"K\0)R.",
    "arguments that are none": b"cnumpy\ndtype\nK\0R.",
    "arguments in a list": b"cnumpy\ndtype\n(U\2i8K\0K\1lR.",
    "too few arguments": b"c_codecs\nencode\n(U\1atR.",
    "too many arguments": b"c_codecs\nencode\n(U\1aU\6latin1U\6stricttR.",
    "a new object": b"cnumpy\ndtype\n(U\2i8K\0K\1t\x81.",
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


def test_what_stands_for_a_function_of_numpy_is_called_in_no_other_way(tmp_path):
    with pytest.raises(DataFormatError, match=r"it asks for 'numpy.dtype', which data has no need of; it was refused"):
        read(tmp_path, b"(U\2i8inumpy\ndtype\n.")
    with pytest.raises(DataFormatError, match=r"it holds bytes in the encoding 'rot13'"):
        read(tmp_path, b"c_codecs\nencode\n(U\1aU\5rot13tR.")
    # The functions that a pickle may call do not make others ones that it may.
    with pytest.raises(DataFormatError, match=r"it asks for 'posix.system'"):
        read(tmp_path, b"](c_codecs\nencode\n(U\1aU\6latin1tRcposix\nsystem\n(U\4truetRe.")
