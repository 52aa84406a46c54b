"""The model card says what was given and nothing else, its metadata is valid, and its usage examples run."""

import ast
import re
import shlex
from html import unescape

import pytest
from fresh_process import run_python
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from places import CHECKOUT
from tiny_configs import BERT, VIDEO_SWIN
from tiny_lavt import tiny_lavt, tiny_processor
from transformers import BertConfig, BertModel

from hf_refseg import VideoLavtConfig, VideoLavtForReferringSegmentation, add_adapter
from hf_refseg.data.findings import Findings
from hf_refseg.data.leakage import TrainingPart
from hf_refseg.hub.dataset_card import build_dataset_card
from hf_refseg.hub.markdown import escape
from hf_refseg.hub.model_card import write_model_card

METRICS = {
    ("refshapes", "val", "original"): {"oIoU": 61.23456, "mIoU": 58.5, "Pr@0.5": 70},
    ("refshapes", "val", "lavt"): {"oIoU": 60.0},
    ("refcoco", "testA", "original"): {"oIoU": 12.5, "mIoU": 10.25},
}


@pytest.fixture(scope="module")
def lavt():
    return tiny_lavt()


def section(card: ModelCard, title: str) -> str:
    """The text of one section of a card; raises where there is none."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card.text, re.DOTALL | re.MULTILINE).group(1)


def titles(card: ModelCard) -> list[str]:
    return re.findall(r"^## (.*)$", card.text, re.MULTILINE)


def test_metadata_reads_back_as_given(lavt, tmp_path):
    path = write_model_card(
        tmp_path,
        model=lavt,
        metrics=METRICS,
        datasets=["refshapes"],
        base_model=["microsoft/swin-tiny", "google-bert/bert-base-uncased"],
        repo_id="someone/my-model",
    )
    assert path == tmp_path / "README.md"
    data = ModelCard.load(path).data
    assert data.library_name == "hf_refseg"
    assert data.pipeline_tag == "image-segmentation"
    assert data.tags == ["referring-image-segmentation", "lavt"]
    assert data.license == "apache-2.0"
    assert data.datasets == ["refshapes"]
    assert data.base_model == ["microsoft/swin-tiny", "google-bert/bert-base-uncased"]
    assert data.model_name == "my-model"
    read = {
        (result.dataset_type, result.dataset_split, result.metric_args["protocol"], result.metric_type): result
        for result in data.eval_results
    }
    expected = {(*key, name): value for key, scores in METRICS.items() for name, value in scores.items()}
    assert read.keys() == expected.keys()
    for key, value in expected.items():
        assert read[key].metric_value == pytest.approx(value, abs=5e-5)
        assert key[1] in read[key].metric_name and key[2] in read[key].metric_name


def test_results_table_names_protocols_and_leaves_gaps(lavt, tmp_path):
    card = ModelCard.load(write_model_card(tmp_path, model=lavt, metrics=METRICS))
    rows = [line.split("|")[1:-1] for line in section(card, "Results").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert rows[0] == ["data set", "split", "protocol", "oIoU", "mIoU", "Pr@0.5"]
    assert rows[2:] == [
        ["refshapes", "val", "original", "61.23", "58.50", "70.00"],
        ["refshapes", "val", "lavt", "60.00", "", ""],
        ["refcoco", "testA", "original", "12.50", "10.25", ""],
    ]


def test_scores_come_with_intervals_and_with_what_measures_them_again(lavt, tmp_path):
    key, other = ("refshapes", "val", "original"), ("refcoco", "testA", "original")
    path = write_model_card(
        tmp_path,
        model=lavt,
        metrics=METRICS,
        intervals={key: {"oIoU": (58.1, 63.949)}},
        commands={key: ["refshapes", "--split", "val"], other: ["refcoco", "--split", "a `b`; $(c)"]},
        repo_id="someone/my-model",
    )
    results = section(ModelCard.load(path), "Results")
    assert "| 61.23 (58.10 to 63.95) | 58.50 | 70.00 |" in results and "95 % intervals" in results
    (block,) = re.findall(r"```bash\n(.*?)```", results, re.DOTALL)
    assert [shlex.split(line) for line in block.splitlines()] == [
        ["hf-refseg", "evaluate", "someone/my-model", "refshapes", "--split", "val"],
        ["hf-refseg", "evaluate", "someone/my-model", "refcoco", "--split", "a `b`; $(c)"],
    ]
    assert "95 %" not in section(ModelCard.load(write_model_card(tmp_path, model=lavt, metrics=METRICS)), "Results")


def test_limits_follow_from_data_and_configuration(lavt, tmp_path):
    limits = section(ModelCard.load(write_model_card(tmp_path, model=lavt, datasets=["refshapes"])), "Limits")
    assert "trained on refshapes." in limits and "presence_head" in limits
    model = tiny_lavt()
    model.config.presence_head = True
    card = ModelCard.load(write_model_card(tmp_path, model=model, datasets=["refshapes"]))
    assert "presence_head" not in section(card, "Limits")


def test_emissions_and_curve_stand_with_the_training(lavt, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "training_curve.png")
    emissions = {"emissions": 12.5, "source": "codecarbon", "hardware_used": "2 x A"}
    card = ModelCard.load(
        write_model_card(tmp_path, model=lavt, training_curve=tmp_path / "training_curve.png", emissions=emissions)
    )
    assert card.data.co2_eq_emissions == emissions
    training = section(card, "Training")
    assert "| emissions | 12.5 g of CO2, as told by codecarbon |" in training
    assert "![training curve](<training_curve.png>)" in training


def test_nothing_is_claimed_that_was_not_given(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    card = ModelCard.load(write_model_card(tmp_path / "model", model=BertModel(config)))
    assert titles(card) == ["Usage"]
    assert card.data.eval_results is None and card.data.datasets is None and card.data.base_model is None
    assert card.data.tags == ["referring-image-segmentation", "bert"]


def test_given_sections_pictures_and_citation_appear(lavt, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    inside, outside = folder / "predictions.png", tmp_path / "worst cases.png"
    Image.new("RGB", (4, 4), "red").save(inside)
    Image.new("RGB", (4, 4), "blue").save(outside)
    path = write_model_card(
        folder,
        model=lavt,
        training={"steps": 120, "learning rate": 5e-5, "note": "a | b\nc"},
        datasets=["refshapes"],
        pictures=[inside, outside],
        intended_use="Teaching.",
        limitations="Knows shapes only.",
    )
    card = ModelCard.load(path)
    assert titles(card) == ["Usage", "Intended use", "Limits", "Training", "Citation"]
    assert section(card, "Limits").strip() == "Knows shapes only."
    training = section(card, "Training")
    assert "| data | refshapes |" in training
    assert "| steps | 120 |" in training and "| learning rate | 5e-05 |" in training
    assert "| note | a \\| b c |" in training
    assert "yang2022lavt" in section(card, "Citation")
    pictures = re.findall(r"!\[(.*?)\]\(<(.*?)>\)", card.text)
    assert pictures == [("predictions", "predictions.png"), ("worst cases", "worst cases.png")]
    assert Image.open(folder / "worst cases.png").getpixel((0, 0)) == (0, 0, 255)


def rendered(text: str) -> str:
    """Markdown as HTML, as the Hub shows it: tags of the text itself are kept."""
    return MarkdownIt("gfm-like", {"linkify": False}).enable("table").render(text)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a &lt;b&gt; & c &#60;",
        "**bold** _a_ __b__ a_b __init__.py *c*",
        "[name](http://example.org) ![picture](x.png)",
        "`code` ``more`` \\` ~~gone~~ \\",
        "a | b",
        "J&F 5e-05 [1, 2] #1 refcoco+",
    ],
)
def test_names_are_shown_as_they_are(text: str) -> None:
    for written in (f"# {escape(text)}", f"| {escape(text)} |\n| --- |", f"![{escape(text)}](<x.png>)"):
        tags = re.findall("<.*?>", html := rendered(written))
        assert {tag.strip("</>").split()[0] for tag in tags} <= {"h1", "table", "thead", "tr", "th", "p", "img"}
        shown = re.search('alt="(.*?)"', html)[1] if "<img" in html else re.sub("<.*?>", "", html)
        assert unescape(shown).strip() == text


def test_a_name_is_one_line_without_what_cannot_be_seen() -> None:
    assert escape("a\n\n# b\x1b[1m\x00\u202ec \udc80") == "a # b \\[1m c"


def test_no_name_becomes_markup_or_metadata(lavt, tmp_path):
    name = '<b>x</b> [a](b) `c` | d_"e\\ ---\nlicense: mit'
    folder = tmp_path / name.replace("/", "")
    folder.mkdir()
    picture = folder / "<i>&amp; %41_(1).png"
    Image.new("RGB", (4, 4), "red").save(picture)
    path = write_model_card(
        folder,
        model=lavt,
        metrics={(name, f"val {name}", "original"): {"oIoU": 1.0}},
        training={name: name},
        training_data={name: TrainingPart(rows=1, images=1, dropped_rows=0, dropped_images=0)},
        datasets=["refcoco", name],
        base_model=["user/model", name],
        pictures=[picture],
    )
    assert "<b" not in path.read_text() and "<i" not in path.read_text()
    card = ModelCard.load(path)
    one_line = " ".join(name.split())
    assert card.data.license == "apache-2.0" and card.data.model_name == one_line.replace("/", "")
    # The Hub takes nothing but ids there.
    assert card.data.datasets == ["refcoco"] and card.data.base_model == ["user/model"]
    (score,) = card.data.eval_results
    assert (score.dataset_type, score.dataset_name, score.dataset_split) == (one_line, one_line, f"val {one_line}")
    html = rendered(card.text)
    assert "<b>" not in html and "<i>" not in html and "<a " not in html
    cells = [unescape(cell) for cell in re.findall("<td>(.*?)</td>", html)]
    assert cells.count(one_line) == 4 and f"val {one_line}" in cells
    assert re.findall('<img src="(.*?)" alt="(.*?)"', html) == [
        ("%3Ci%3E%26amp;%20%2541_(1).png", "&lt;i&gt;&amp;amp; %41 (1)")
    ]
    for snippet in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        loaded = re.findall(r"from_pretrained\((\".*\")(?:, trust_remote_code=True)?\)", snippet)
        assert [ast.literal_eval(each) for each in loaded] == [folder.name] * 2


def test_the_card_of_an_adapter_names_its_base_model_without_the_path(tmp_path):
    base = tmp_path / "<b>ase"
    tiny_lavt().save_pretrained(base)
    card = write_model_card(tmp_path / "adapter", model=add_adapter(type(tiny_lavt()).from_pretrained(base)))
    assert " in &lt;b&gt;ase, which is loaded" in card.read_text() and str(tmp_path) not in card.read_text()


def test_the_card_of_a_data_set_escapes_splits_options_and_findings():
    counts = {'<b>"x"': {"referents": 1, "sentences": 1, "images": 1}}
    findings = Findings(records={"<b>bold": ["record"]})
    card = build_dataset_card("refcoco", counts, {"split_by": "<i>*u*"}, findings)
    html = rendered(card.text)
    assert "<b>" not in card.text and "<i>" not in html and "<em>" not in html
    assert "&lt;i&gt;*u*" in html and "&lt;b&gt;bold: 1" in html and r'dataset["\x3cb>\"x\""]' in card.text


def test_a_missing_picture_is_an_error_and_writes_nothing(lavt, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png does not exist"):
        write_model_card(tmp_path / "model", model=lavt, pictures=[tmp_path / "absent.png"])
    assert not (tmp_path / "model").exists()


@pytest.mark.slow_process
def test_usage_examples_run_with_and_without_the_package(lavt, tmp_path):
    folder = tmp_path / "my-model"
    lavt.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    card = ModelCard.load(write_model_card(folder, model=lavt))
    with_package, without_package = re.findall(r"```python\n(.*?)```", section(card, "Usage"), re.DOTALL)
    Image.new("RGB", (50, 40), "green").save(tmp_path / "photo.jpg")
    check = "\nprint(mask.dtype, tuple(mask.shape))"
    for snippet, package in ((with_package, CHECKOUT), (without_package, None)):
        printed = run_python(snippet + check, cwd=tmp_path, package=package)
        assert printed.splitlines()[-1] == "torch.bool (40, 50)"


@pytest.mark.slow_process
def test_cards_of_clip_models_show_how_to_segment_a_clip(tmp_path):
    folder = tmp_path / "my-model"
    model = VideoLavtForReferringSegmentation(VideoLavtConfig(backbone_config=VIDEO_SWIN, text_config=BERT)).eval()
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    metrics = {("ref_davis17", "val", "davis"): {"J&F": 12.0}, ("refcoco", "val", "lavt"): {"oIoU": 11.0}}
    card = ModelCard.load(write_model_card(folder, model=model, metrics=metrics))
    assert card.data.tags == ["referring-image-segmentation", "referring-video-segmentation", "video_lavt"]
    kinds = [result.task_name for result in card.data.eval_results]
    assert kinds == ["Referring video segmentation", "Referring image segmentation"]
    assert "yang2024language" in section(card, "Citation")
    (tmp_path / "clip.mp4").mkdir()  # a folder of frames, whatever its name
    for number in range(3):
        Image.new("RGB", (50, 40), "green").save(tmp_path / "clip.mp4" / f"{number}.png")
    for snippet, package in zip(
        re.findall(r"```python\n(.*?)```", section(card, "Usage"), re.DOTALL), (CHECKOUT, None), strict=True
    ):
        printed = run_python(snippet + "\nprint(masks.dtype, tuple(masks.shape))", cwd=tmp_path, package=package)
        assert printed.splitlines()[-1] == "torch.bool (3, 480, 854)"
