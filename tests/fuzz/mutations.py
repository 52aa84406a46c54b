"""Hypothesis strategies: descriptions of damaged files and of calls, one strategy for each target."""

from __future__ import annotations

from typing import Any

from damage import DEEP, NUMPY, SECRET, SHARED
from hypothesis import strategies as st
from targets import CHECKPOINT_DTYPES, HEIGHT, RESULTS, TENSOR_CHANGES, WIDTH

from hf_refseg.data.masks import encode_mask

places = st.integers(0, 2**20)
odd_texts = ["", " ", "\t\n", "\0", "\x1b[31m", "a\nb", "\ud800", "\u202eab", "x" * 3000, "nan", "-1", "1e999", "<b>&"]
odd_paths = [
    f"../outside/{SECRET}.png",
    "..",
    "/etc/passwd",
    f"../../outside/{SECRET}.png",
    f"../../../outside/{SECRET}",
    "a" * 300,
]
texts = st.one_of(st.text(max_size=8), st.sampled_from([*odd_texts, *odd_paths]))
odd_numbers = [2**31 - 1, 2**31, 2**32, 2**63, -(2**63), 2**70, 10**400, 1e308, 0.5, float("nan"), float("inf"), 13000]
numbers = st.one_of(st.integers(-3, 30), st.floats(width=32), st.sampled_from(odd_numbers))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, st.sampled_from([DEEP, SHARED]))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
pieces = st.one_of(
    st.binary(min_size=1, max_size=8), st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff"])
)
byte_places = st.one_of(st.integers(0, 300), st.integers(-300, -1), places)
byte_edit = st.one_of(
    st.tuples(st.sampled_from(["set", "insert"]), byte_places, pieces),
    st.tuples(st.sampled_from(["remove", "repeat"]), byte_places, st.integers(1, 1000)),
    st.tuples(st.just("cut"), byte_places, st.none()),
)
byte_edits = st.lists(byte_edit, min_size=1, max_size=2)


def structure_edits(new: st.SearchStrategy[Any] = values) -> st.SearchStrategy[list[tuple]]:
    edit = st.one_of(
        st.tuples(st.just("replace"), places, new),
        st.tuples(st.sampled_from(["remove", "repeat", "swap"]), places, places),
        st.tuples(st.just("rename"), places, texts),
    )
    return st.lists(edit, min_size=1, max_size=2)


def of_kinds(path: str, **kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, str, Any]]:
    """Damages of a file by some of `damage.KINDS`; any file may have other bytes."""
    kinds = {**kinds, "bytes": byte_edits}
    return st.one_of(*(st.tuples(st.just(path), st.just(kind), how) for kind, how in kinds.items()))


def some_of(*damages: st.SearchStrategy) -> st.SearchStrategy[list[tuple]]:
    return st.lists(st.one_of(*damages), min_size=1, max_size=2, unique_by=lambda damage: damage[0])


# --- Data sets -----------------------------------------------------------------------------------------------------

OPCODES = [
    *(bytes([code]) for code in b"(]})lda estu012NRbo.Q" if code != ord(" ")),
    *(b"K\x05", b"J\xff\xff\xff\x7f", b"I99\n", b"L99L\n", b"F1e999\n", b"V\\ud800\n", b"S'\\x1b'\n", b"\x88"),
    *(b"q\0", b"r\xff\xff\xff\x0f", b"r\0\0\0\x10", b"p99999999\n", b"h\0", b"j\0\0\0\0", b"g0\n", b"\x94"),
    *(
        b"X\xff\xff\xff\x7f",
        b"\x8d\xff\xff\xff\xff\0\0\0\0",
        b"B\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8a\xff",
    ),
    *(b"\x95\xff\xff\xff\xff\0\0\0\0", b"\x96\xff\xff\xff\xff\0\0\0\0", b"\x97", b"\x98", b"\x8f", b"\x90", b"\x91"),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"iposix\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"\x82\x01"),
    *(
        b"\x81",
        b"\x92",
        b"P0\n",
        b"\x85",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"cnumpy.core.multiarray\nscalar\n",
        b"c_codecs\nencode\n",
        b"U\2i8K\0K\1\x87",
        b"U\1aU\6latin1\x86",
        b"cnumpy._core.multiarray\n_reconstruct\n",
        b"\x80\x05",
    ),
]
opcodes = st.tuples(
    places, st.lists(st.tuples(st.sampled_from(OPCODES), st.sampled_from([1, 1, 2, 50, 5000])), min_size=1, max_size=5)
)
pickles = st.tuples(st.integers(0, 5), structure_edits(values | st.just(NUMPY)))
png_edits = st.lists(
    st.one_of(
        byte_edit,
        st.tuples(
            st.just("header"),
            st.just(0),
            st.tuples(
                st.sampled_from([0, 1, WIDTH, 20_000, 2**31]),
                st.sampled_from([0, 1, HEIGHT, 20_000, 2**31]),
                st.sampled_from([1, 2, 4, 8, 16, 3]),
                st.sampled_from([0, 2, 3, 4, 6, 9]),
                *(st.sampled_from([0, 1]) for _ in range(3)),
            ),
        ),
        st.tuples(st.just("rename"), places, st.sampled_from([b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"acTL", b"IDAT"])),
        st.tuples(st.just("pixels"), places, st.tuples(pieces, st.sampled_from([1, 1000, 10**6]))),
    ),
    min_size=1,
    max_size=3,
)
dtypes = st.sampled_from(["bool", "uint8", "int16", "uint16", "int64", "float16", "float32", "float64"])
some_numbers = st.lists(
    st.sampled_from([0.0, 1.0, 3.0, -1.0, 0.5, 255.0, 1e9, float("nan"), float("inf")]), min_size=1
)
arrays = st.tuples(dtypes, st.lists(st.sampled_from([0, 1, 2, HEIGHT, WIDTH]), max_size=4), some_numbers)
h5_data = arrays | st.sampled_from(
    [None, "external link", "soft link", "group", "other storage", "virtual", "huge", ("S5", (2,), ["a"])]
)
h5 = st.fixed_dictionaries({"instance": h5_data, "reMask": h5_data})
mat = st.tuples(st.dictionaries(st.sampled_from(["part_mask", "other"]), arrays, max_size=2), st.booleans())
tables = st.tuples(st.booleans(), structure_edits())
YOUTUBE_LABELS = "train/Annotations/t1/00005.png"
A2D_MASKS = "text_annotations/a2d_annotation_with_instances/a/00005.h5"
DAVIS_TEXTS = "davis_text_annotations/Davis17_{}.txt"
STUDIO_FILE = "project-1-at-2026-01-01-00-00-0a1b2c3d.json"
DATA_SETS = {
    "refcoco": some_of(
        of_kinds("refcoco/refs(unc).p", pickle=pickles, opcodes=opcodes),
        of_kinds("refcoco/instances.json", json=structure_edits()),
    ),
    "refclef": some_of(
        of_kinds("refclef/refs(unc).p", pickle=pickles, opcodes=opcodes),
        of_kinds("refclef/instances.json", json=structure_edits()),
    ),
    "grefcoco": some_of(
        of_kinds("grefcoco/grefs(unc).json", json=structure_edits()),
        of_kinds("grefcoco/instances.json", json=structure_edits()),
    ),
    "refer": some_of(
        of_kinds("rrsisd/refs(unc).p", pickle=pickles, opcodes=opcodes),
        of_kinds("rrsisd/instances.json", json=structure_edits()),
        of_kinds("images/rrsisd/JPEGImages/00005.jpg"),
    ),
    "prepared": some_of(
        of_kinds("data/train-00000-of-00001.parquet", table=tables),
        of_kinds("data/val-00000-of-00001.parquet", table=tables),
        of_kinds("README.md"),
    ),
    "ref_youtube_vos": some_of(
        of_kinds("meta_expressions/train/meta_expressions.json", json=structure_edits()),
        of_kinds("meta_expressions/test/meta_expressions.json", json=structure_edits()),
        of_kinds(YOUTUBE_LABELS, png=png_edits),
        of_kinds("train/JPEGImages/t1/00005.jpg"),
    ),
    "ref_davis17": some_of(
        of_kinds("meta_expressions/valid/meta_expressions.json", json=structure_edits()),
        of_kinds("ImageSets/2017/val.txt", csv=structure_edits()),
        of_kinds("Annotations/480p/two/00001.png", png=png_edits),
    ),
    "ref_davis17_release": some_of(
        of_kinds(DAVIS_TEXTS.format("annot1"), csv=structure_edits()),
        of_kinds(DAVIS_TEXTS.format("annot2")),
        of_kinds("DAVIS/ImageSets/2017/train.txt", csv=structure_edits()),
        of_kinds("DAVIS/Annotations_unsupervised/480p/india/00001.png", png=png_edits),
    ),
    "a2d_sentences": some_of(
        of_kinds("text_annotations/a2d_annotation.txt", csv=structure_edits()),
        of_kinds("Release/videoset.csv", csv=structure_edits()),
        of_kinds(A2D_MASKS, h5=h5),
    ),
    "metadata": some_of(
        of_kinds("metadata.jsonl", jsonl=structure_edits()),
        of_kinds("masks/0.png", png=png_edits),
        of_kinds("images/0.png", png=png_edits),
    ),
    "metadata_csv": some_of(
        of_kinds("metadata.csv", csv=structure_edits()),
        of_kinds("masks/0.png", png=png_edits),
    ),
    "labels": some_of(
        of_kinds("labels.csv", csv=structure_edits()),
        of_kinds("labels/train/0.png", png=png_edits),
        of_kinds("images/train/0.jpg"),
    ),
    "phrases": some_of(
        of_kinds("output_phrase_train.txt"),
        of_kinds("masks/0.png", png=png_edits),
    ),
    "coco": some_of(
        of_kinds("annotations/instances_default.json", json=structure_edits()),
        of_kinds("images/1.png", png=png_edits),
    ),
    "labelme": some_of(
        of_kinds("a.json", json=structure_edits()),
        of_kinds("labels/b.json", json=structure_edits()),
        of_kinds("a.jpg"),
    ),
    "label_studio": some_of(
        of_kinds(STUDIO_FILE, json=structure_edits(values | st.lists(st.integers(0, 255), max_size=40))),
        of_kinds("images/a.jpg"),
    ),
    "jhmdb_sentences": some_of(
        of_kinds("samples_metadata.json", json=structure_edits()),
        of_kinds("puppet_mask/run/j1/puppet_mask.mat", mat=mat),
    ),
    "phrasecut": some_of(
        of_kinds("VGPhraseCut_v0/refer_train.json", json=structure_edits()),
        of_kinds("VGPhraseCut_v0/refer_miniv.json", json=structure_edits()),
        of_kinds("VGPhraseCut_v0/image_data_split.json", json=structure_edits()),
    ),
    "jhmdb_sentences_release": some_of(
        of_kinds("jhmdb_annotation.txt", csv=structure_edits()),
        of_kinds("puppet_mask/run/j1/puppet_mask.mat", mat=mat),
        of_kinds("Rename_Images/run/j2/00003.png", png=png_edits),
    ),
}

predictions = st.one_of(
    of_kinds("images.jsonl", jsonl=structure_edits()),
    of_kinds("videos.jsonl", jsonl=structure_edits()),
    of_kinds("results.json", json=structure_edits()),
    of_kinds("masks/0.png", png=png_edits),
)

results = st.one_of(*(of_kinds(f"{protocol}.json", json=structure_edits()) for protocol in RESULTS))

# --- Pictures and masks --------------------------------------------------------------------------------------------

pictures = st.one_of(
    st.tuples(st.just("png"), st.just("png"), png_edits),
    st.tuples(
        st.sampled_from(["png", "jpg", "gif", "bmp", "tif", "webp", "avif", "dds", "ppm", "tga", "ico", "pcx", "jp2"]),
        st.just("bytes"),
        byte_edits,
    ),
)


@st.composite
def encodings(draw: st.DrawFn) -> Any:
    """Run-length encodings: right ones, such with changes, and what is none."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    encoded: dict[str, Any] = encode_mask(_mask(bits, height, width))
    if draw(st.integers(0, 2)) == 2:
        encoded["counts"] = draw(
            st.one_of(
                st.lists(numbers, max_size=6),
                st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=20),
                st.binary(max_size=10),
                st.just(encoded["counts"][:-1]),
                st.just(encoded["counts"].encode()),
                values,
            )
        )
    if draw(st.integers(0, 5)) == 5:
        encoded["size"] = draw(st.lists(numbers, max_size=3) | values)
    return draw(values) if draw(st.integers(0, 9)) == 9 else encoded


def _mask(bits: list[bool], height: int, width: int) -> Any:
    import numpy as np

    return np.array(bits).reshape(height, width)


sides = st.one_of(st.integers(1, 40), st.integers(1, 40), numbers)
points = st.tuples(st.floats(-5, 45), st.floats(-5, 45))
outlines = st.lists(points, min_size=3, max_size=6).map(lambda drawn: [side for point in drawn for side in point])
polygons = st.lists(st.one_of(outlines, outlines, st.lists(numbers, max_size=8), values), max_size=3)
lines = st.lists(st.lists(points.map(list), max_size=6), max_size=3)
drawings = st.lists(st.one_of(lines, st.lists(st.lists(numbers, max_size=3), max_size=4), values), max_size=3)
overlaps = st.sampled_from(["union", "background", "other"])
masks = st.one_of(
    st.tuples(st.just("decode"), st.fixed_dictionaries({"rle": encodings()})),
    st.tuples(st.just("encode"), st.fixed_dictionaries({"mask": st.builds(lambda array: ("numpy", *array), arrays)})),
    st.tuples(
        st.just("polygons"),
        st.fixed_dictionaries({"polygons": polygons, "height": sides, "width": sides, "overlap": overlaps}),
    ),
    st.tuples(
        st.just("drawing"), st.fixed_dictionaries({"polygons": lines | drawings, "height": sides, "width": sides})
    ),
    st.tuples(
        st.just("annotation"),
        st.fixed_dictionaries(
            {
                "segmentation": st.one_of(encodings(), st.lists(encodings(), max_size=2), polygons, values),
                "height": sides,
                "width": sides,
                "overlap": overlaps,
            }
        ),
    ),
    st.tuples(
        st.just("statistics"),
        st.fixed_dictionaries(
            {
                "references": st.dictionaries(st.sampled_from(["a", "b"]), encodings(), max_size=2),
                "predictions": st.lists(
                    st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 1) | numbers, encodings()), max_size=3
                ),
            }
        ),
    ),
)

# --- Processor -----------------------------------------------------------------------------------------------------

fills = st.lists(
    st.sampled_from(
        [0.0, 1.0, 0.5, 0.25, 100.0, 255.0, -1.0, 256.0, 4095.0, 65535.0, 1e9, float("nan"), float("inf")]
    ),
    min_size=1,
    max_size=2,
)
RGB_SHAPES = [(5, 6, 3), (3, 5, 6), (1, 1, 3), (1, 900, 3), (3, 3, 3)]
ODD_SHAPES = [(5, 6), (1, 5, 6), (5, 6, 1), (5, 6, 4), (5, 6, 5), (2, 5, 6), (0, 6, 3), (5, 0, 3), (3, 0, 6), (5,), ()]
shapes = st.sampled_from([*RGB_SHAPES, *ODD_SHAPES, (2, 5, 6, 3)])
images = st.one_of(
    st.tuples(st.sampled_from(["numpy", "torch"]), dtypes, shapes, fills),
    st.tuples(st.just("pil"), st.just("uint8"), st.sampled_from([(5, 6), (5, 6, 3), (5, 6, 4), (1, 900)]), fills),
    st.tuples(st.just("pil"), st.sampled_from(["uint16", "int32", "float32"]), st.just((5, 6)), fills),
)
maps = st.tuples(
    st.sampled_from(["numpy", "torch"]), dtypes, st.sampled_from([(5, 6), (6, 5), (1, 5, 6), (0, 6)]), fills
)
calls = st.fixed_dictionaries(
    {},
    optional={
        "images": st.one_of(images, st.lists(images, max_size=2), values),
        "text": st.one_of(texts, st.lists(texts, max_size=3), values),
        "segmentation_maps": st.one_of(maps, st.lists(maps, max_size=2), values),
    },
)
logits = st.tuples(
    st.just("torch"),
    st.sampled_from(["float32", "float64", "float16", "int64"]),
    st.sampled_from([(1, 8, 8), (2, 8, 8), (0, 8, 8), (1, 0, 8), (8, 8), (1, 2, 8, 8), (1, 1, 1)]),
    fills,
)
sizes = st.lists(st.tuples(numbers, numbers) | st.tuples(st.integers(1, 40), st.integers(1, 40)) | scalars, max_size=2)
post_processing = st.fixed_dictionaries(
    {
        "logits": logits,
        "target_sizes": st.none() | sizes,
        "threshold": st.none() | st.floats(0, 1) | numbers | values,
    }
)

# --- Checkpoints ---------------------------------------------------------------------------------------------------

far_shapes = st.sampled_from([(10**8, 3, 4, 4), (10**9, 10**9), (2**40,), (4, 4), (0,), ()])
names = st.one_of(
    st.integers(0, 9),
    texts,
    st.sampled_from(
        [
            "backbone.layers.99.blocks.0.norm1.weight",
            "backbone.layers.0.blocks.x.norm1.weight",
            "text_encoder.encoder.layer",
            "classifier.conv1_1.weight",
            "encoder.layer.1.extra",
        ]
    ),
)
ARGUMENTS = {"dtype": st.integers(0, len(CHECKPOINT_DTYPES) - 1), "shape": st.lists(st.integers(0, 5), max_size=5)}
ARGUMENTS |= {"stride": far_shapes, "fill": st.sampled_from([0.0, float("nan"), float("inf")])}
groups = st.sampled_from(["model", "bert_model"])
tensor_changes = st.one_of(
    *(st.tuples(groups, places, st.just(action), ARGUMENTS.get(action, st.none())) for action in TENSOR_CHANGES),
    st.tuples(groups, places, st.sampled_from(["name", "add"]), names),
    st.tuples(groups, places, st.sampled_from(["value", "group"]), scalars),
    st.tuples(groups, places, st.just("remove"), st.none()),
)
checkpoints = st.one_of(
    st.tuples(st.sampled_from(["pth", "legacy"]), st.lists(tensor_changes, min_size=1, max_size=2), st.just([])),
    st.tuples(st.sampled_from(["pth", "legacy", "safetensors"]), st.just([]), byte_edits),
)

STRATEGIES = {
    **DATA_SETS,
    "predictions": predictions,
    "results": results,
    "picture": pictures,
    "masks": masks,
    "processor": calls,
    "post_processing": post_processing,
    "checkpoint": checkpoints,
}
