"""Training on cached features is training on the images, and a cache is never used for what it does not hold."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from fresh_process import PROCESSES, run_program
from PIL import Image
from places import CHECKOUT
from safetensors.torch import load_file, save
from tiny_configs import BERT, IMAGE_SWIN
from tiny_methods import TinyUnifiedLavt
from tiny_recipes import write_recipe
from torch.utils.data import DataLoader
from train_tiny import build_model, build_processor

from hf_refseg import LavtForReferringSegmentation, RefSegImageProcessor, RisamConfig, RisamForReferringSegmentation
from hf_refseg.data.examples import ReferentExamples, RefSegCollator, SentenceExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import encode_mask
from hf_refseg.modeling.modeling_outputs_refseg import ImageFeatures
from hf_refseg.training import feature_cache
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.feature_cache import (
    EncodedCollator,
    EncodedImage,
    FeatureCache,
    FeatureCacheError,
    cache_image_features,
)
from hf_refseg.training.recipes import run_recipe
from hf_refseg.training.trainer import RefSegTrainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return load_refseg("refshapes", train_size=6, val_size=2, test_size=1, image_size=64, cache_dir=str(folder))


def frozen_lavt() -> LavtForReferringSegmentation:
    """The same weights each time, its image encoder frozen."""
    model = build_model()
    model.backbone.requires_grad_(False)
    return model


def frozen_risam() -> RisamForReferringSegmentation:
    """As `frozen_lavt`; for images of 64 pixels."""
    torch.manual_seed(0)
    vision = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "global_attn_indexes": [0, 1, 2, 3]}
    vision |= {"image_size": 64, "patch_size": 8, "window_size": 2, "initializer_range": 0.02}
    text = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RisamConfig(
        backbone_config={"model_type": "sam_vision_model", **vision},
        text_config={"model_type": "clip_text_model", "intermediate_size": 32, **text},
        hidden_size=32,
        num_attention_heads=4,
    )
    return RisamForReferringSegmentation(config)


@pytest.fixture
def model():
    return frozen_lavt()


@pytest.fixture
def processor():
    return build_processor()


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def images_of(*rows: Dataset) -> int:
    return sum(len(set(data["image_id"])) for data in rows)


def train(model, processor, data, output_dir: Path, cache: FeatureCache | None, **arguments) -> RefSegTrainer:
    images = {} if cache is None else {"read_image": cache.read}
    collator = RefSegCollator(processor) if cache is None else EncodedCollator(processor, model.dtype)
    # Batches of four tiny maps amplify every rounding: a large step would make the runs diverge.
    defaults = {"max_steps": 4, "learning_rate": 1e-4, "adam_epsilon": 1e-2, "logging_steps": 1}
    defaults |= {"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "pictures": 0}
    defaults |= {"per_device_train_batch_size": 4}
    trainer = RefSegTrainer(
        model=model,
        args=RefSegTrainingArguments(output_dir=str(output_dir), **{**defaults, **arguments}),
        processing_class=processor,
        train_dataset=ReferentExamples(data["train"], 3, **images),
        eval_dataset=SentenceExamples(data["val"], **images),
        data_collator=collator,
    )
    trainer.train()
    trainer.evaluate()
    return trainer


def logged(trainer: RefSegTrainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.slow_process
@pytest.mark.parametrize(("build", "workers"), [(frozen_lavt, 0), (frozen_lavt, 2), (frozen_risam, 0)])
def test_training_with_and_without_a_cache_agree_and_only_one_of_them_encodes(
    build, workers, processor, data, count_calls, tmp_path
) -> None:
    model = build()
    cache = FeatureCache.open(tmp_path / "cache", model, processor)
    cache.fill(model, processor, data.values(), batch_size=4, num_workers=workers, progress=False)
    # Pinning needs an accelerator; without one it warns and does nothing.
    arguments = {"dataloader_num_workers": workers, "dataloader_pin_memory": torch.cuda.is_available()}
    cached_calls = count_calls(model, "encode_image")
    cached = train(model, processor, data, tmp_path, cache, **arguments)
    assert not cached_calls
    plain_model = build()
    plain_calls = count_calls(plain_model, "encode_image")
    plain = train(plain_model, processor, data, tmp_path, None, **arguments)
    assert len(plain_calls) > 4
    for key in ("loss", "loss_dice", "eval_loss"):
        expected = logged(plain, key)
        assert logged(cached, key) == pytest.approx(expected, rel=1e-3) and expected[0] > 0, key
        assert key == "eval_loss" or expected[0] != expected[-1]
    assert logged(cached, "eval_oIoU") == pytest.approx(logged(plain, "eval_oIoU"), abs=0.5)
    initial = dict(build().named_parameters())
    moved = {name: (value - initial[name]).abs().max() for name, value in model.named_parameters()}
    assert max(moved.values()) > 1e-4
    assert not any(change for name, change in moved.items() if name.startswith("backbone."))


def test_unified_lavt_trains_and_evaluates_from_a_cache_as_from_images(processor, data, tmp_path) -> None:
    models = TinyUnifiedLavt()
    text = {**BERT, "vocab_size": len(processor.tokenizer)}
    config = models.tiny_config(freeze_image_encoder=True, fusion_dropout=0.0, text_config=text)
    cache, logs = None, []
    for trains_on in ("images", "features"):
        torch.manual_seed(0)
        model = models.model_class(config)
        if trains_on == "features":
            cache = FeatureCache.open(tmp_path / "cache", model, processor)
            cache.fill(model.eval(), processor, data.values(), batch_size=4, progress=False)
        logs.append(train(model, processor, data, tmp_path, cache, max_steps=2))
    for key in ("loss", "eval_loss"):
        assert logged(logs[1], key) == pytest.approx(logged(logs[0], key), rel=1e-3), key


def test_the_key_of_unified_lavt_holds_both_encoders(processor, tmp_path) -> None:
    models = TinyUnifiedLavt()
    model = models.build(freeze_image_encoder=True)
    FeatureCache.open(tmp_path, model, processor)
    other = models.build(freeze_image_encoder=True, image_backbone_config={**IMAGE_SWIN, "layer_norm_eps": 1e-3})
    other.load_state_dict(model.state_dict())
    with pytest.raises(FeatureCacheError, match="image backbone config"):
        FeatureCache.open(tmp_path, other, processor)


@pytest.mark.parametrize("size", [{"height": 64, "width": 64}, {"longest_edge": 64}], ids=str)
def test_a_batch_holds_the_encoders_features_and_the_same_texts_and_masks(
    model, processor, data, tmp_path, size
) -> None:
    processor.image_processor = RefSegImageProcessor(size=size)
    cache = FeatureCache.open(tmp_path, model, processor)
    cache.fill(model, processor, [data["train"]], batch_size=4, progress=False)
    plain, encoded = ReferentExamples(data["train"], 1), ReferentExamples(data["train"], 1, cache.read)
    wanted = RefSegCollator(processor)([plain[index] for index in range(5)])
    batch = EncodedCollator(processor, torch.float32)([encoded[index] for index in range(5)])
    assert set(batch) == {"encoder_features", "input_ids", "attention_mask", "mask_labels"}
    for name in ("input_ids", "attention_mask", "mask_labels"):
        assert torch.equal(batch[name], wanted[name]) and batch[name].dtype == wanted[name].dtype
    with torch.no_grad():
        expected = model.eval().get_encoder_features(wanted["pixel_values"])
    features = batch["encoder_features"]
    assert features.image_size == (64, 64)
    torch.testing.assert_close(features.maps, expected.maps, rtol=1e-3, atol=1e-3)
    typed = EncodedCollator(processor, torch.bfloat16)([encoded[0]])["encoder_features"]
    assert {each.dtype for each in typed.maps} == {torch.bfloat16}
    assert all(load_file(path)["maps.0"].dtype == torch.float16 for path in files_of(tmp_path))


def test_a_batch_comes_whole_through_workers_and_to_other_types(model, processor, data, tmp_path) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    cache.fill(model, processor, [data["train"]], progress=False)
    examples = ReferentExamples(data["train"], 1, cache.read)
    collator = EncodedCollator(processor, torch.float32)
    here = collator([examples[index] for index in range(4)])
    for context in ("fork", PROCESSES):
        loader = DataLoader(examples, 4, num_workers=1, collate_fn=collator, multiprocessing_context=context)
        first = next(iter(loader))
        assert torch.equal(first["encoder_features"].maps[0], here["encoder_features"].maps[0])
        assert first["encoder_features"].image_size == here["encoder_features"].image_size
        assert torch.equal(first["mask_labels"], here["mask_labels"])
    moved = here.to("meta")
    assert {moved[name].device.type for name in ("input_ids", "mask_labels")} == {"meta"}
    assert moved["encoder_features"].maps[0].device.type == "meta"
    typed = collator([examples[0]]).to(torch.bfloat16)
    assert typed["encoder_features"].maps[0].dtype == torch.bfloat16 and typed["input_ids"].dtype == torch.int64


def test_pinning_reaches_every_tensor(model, processor, data, tmp_path, monkeypatch) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    cache.fill(model, processor, [data["train"]], progress=False)
    batch = EncodedCollator(processor, torch.float32)([ReferentExamples(data["train"], 1, cache.read)[0]])
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: tensor + 1)
    pinned = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert set(pinned) == set(batch)
    assert torch.equal(pinned["input_ids"], batch["input_ids"] + 1)
    assert torch.equal(pinned["encoder_features"].maps[0], batch["encoder_features"].maps[0] + 1)


def test_filling_goes_on_where_it_was_cut_off(model, processor, data, count_calls, monkeypatch, tmp_path) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    original = model.encode_image
    calls = []

    def stop_after_two(pixel_values):
        calls.append(len(pixel_values))
        if len(calls) > 2:
            raise KeyboardInterrupt
        return original(pixel_values)

    monkeypatch.setattr(model, "encode_image", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(model, processor, [data["train"]], batch_size=2, progress=False)
    finished = {path: path.stat().st_mtime_ns for path in files_of(tmp_path)}
    assert len(finished) == 4 and not list(tmp_path.rglob("*.partial"))
    monkeypatch.setattr(model, "encode_image", original)
    calls = count_calls(model, "encode_image")
    reopened = FeatureCache.open(tmp_path, model, processor)
    reopened.fill(model, processor, [data["train"]], progress=False)
    assert len(calls) == 2 and len(files_of(tmp_path)) == images_of(data["train"]) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    reopened.fill(model, processor, [data["train"]], progress=False)
    assert len(calls) == 2


def test_the_progress_bar_counts_the_missing_images_and_the_size_is_said(
    model, processor, data, tmp_path, capsys
) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    cache.fill(model, processor, [data["val"]], progress=False)
    assert "images" not in capsys.readouterr().err
    cache.fill(model, processor, data.values())
    missing = images_of(*data.values()) - images_of(data["val"])
    shown = capsys.readouterr().err
    assert f"{missing} images will take" in shown and str(tmp_path) in shown and f"{missing}/{missing}" in shown


def test_masks_are_resized_and_padded_as_with_their_images(processor) -> None:
    generator = np.random.default_rng(0)
    items = [
        {"image": Image.new("RGB", (width, height)), "text": "circle", "mask": generator.random((height, width)) > 0.5}
        for height, width in ((50, 70), (101, 33), (1, 90), (64, 64))
    ]
    for size in ({"height": 48, "width": 64}, {"longest_edge": 64}):
        processor.image_processor = RefSegImageProcessor(size=size)
        wanted = RefSegCollator(processor)(items)["mask_labels"]
        features = ImageFeatures(maps=(torch.zeros(1, 2, 2, 2),), image_size=(64, 64))
        encoded = [{**item, "image": EncodedImage(features, *item["mask"].shape)} for item in items]
        assert torch.equal(EncodedCollator(processor, torch.float32)(encoded)["mask_labels"], wanted)


def rows_with(image: Image.Image, path: Path) -> Dataset:
    """One row whose image is a file."""
    image.save(path)
    mask = encode_mask(np.ones((image.height, image.width), dtype=bool))
    sentences = [{"sent_id": "1", "raw": "circle", "sent": "circle"}]
    row = {"image": {"bytes": None, "path": str(path)}, "image_id": "7", "ref_id": "1", "mask": mask}
    return Dataset.from_list([{**row, "no_target": False, "sentences": sentences}])


def test_another_image_of_the_same_id_or_path_is_another_image(model, processor, tmp_path) -> None:
    cache = FeatureCache.open(tmp_path / "cache", model, processor)
    cache.fill(model, processor, [rows_with(Image.new("RGB", (80, 60), "red"), tmp_path / "7.png")], progress=False)
    rows = rows_with(Image.new("RGB", (80, 60), "blue"), tmp_path / "7.png")
    with pytest.raises(FeatureCacheError, match="has nothing of the image of row 1"):
        ReferentExamples(rows, 0, cache.read)[0]
    cache.fill(model, processor, [rows], progress=False)
    image = ReferentExamples(rows, 0, cache.read)[0]["image"]
    assert (image.height, image.width) == (60, 80) and len(files_of(tmp_path)) == 2


def test_a_cache_of_other_weights_or_another_preprocessing_or_version_is_refused(
    model, processor, tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "features"
    FeatureCache.open(folder, model, processor)
    before = (folder / "cache.json").read_bytes()
    processor.image_processor.mask_threshold = 0.2
    with torch.no_grad():
        model.decoder.classifier.weight.add_(1)
    FeatureCache.open(folder, model, processor)
    processor.image_processor.image_mean = (0.5, 0.5, 0.5)
    with pytest.raises(FeatureCacheError, match=r"features is the feature cache of another.*: preprocessing differ"):
        FeatureCache.open(folder, model, processor)
    processor = build_processor()
    monkeypatch.setattr(feature_cache, "FORMAT_VERSION", feature_cache.FORMAT_VERSION + 1)
    with pytest.raises(FeatureCacheError, match="another model or preprocessing: format version differ"):
        FeatureCache.open(folder, model, processor)
    monkeypatch.undo()
    with torch.no_grad():
        next(model.backbone.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(FeatureCacheError, match=r"encoder weights differ.*delete this one"):
        FeatureCache.open(folder, model, processor)
    model.config.backbone_config.window_size = 2
    with pytest.raises(FeatureCacheError, match="encoder config and encoder weights differ"):
        FeatureCache.open(folder, model, processor)
    assert (folder / "cache.json").read_bytes() == before


def test_a_saved_model_finds_its_cache_again(model, processor, tmp_path) -> None:
    FeatureCache.open(tmp_path / "cache", model, processor)
    model.config.freeze_image_encoder = True
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model")
    FeatureCache.open(tmp_path / "cache", loaded, type(processor).from_pretrained(tmp_path / "model"))


def test_a_folder_of_something_else_is_refused_and_stays(model, processor, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FeatureCacheError, match=r"holds other files, but no cache\.json\. Choose a new or an empty"):
        FeatureCache.open(tmp_path, model, processor)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for content in ("[1]", '{"format', "\x00"):
        (tmp_path / "cache.json").write_text(content)
        with pytest.raises(FeatureCacheError, match=r"cache\.json is"):
            FeatureCache.open(tmp_path, model, processor)


def test_a_trained_image_encoder_is_refused(processor, tmp_path) -> None:
    with pytest.raises(FeatureCacheError, match="Set freeze_image_encoder"):
        FeatureCache.open(tmp_path / "cache", build_model(), processor)
    assert not (tmp_path / "cache").exists()


def test_too_small_a_disk_is_said_before_anything_is_written(model, processor, data, tmp_path, monkeypatch) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    usage = feature_cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: usage._replace(free=5000))
    with pytest.raises(OSError, match=r"needs 2\.\d+e-05 GiB for the 6 images .*4\.66e-06 GiB are free") as caught:
        cache.fill(model, processor, [data["train"]], progress=False)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path)
    assert not files_of(tmp_path)


def test_a_disk_that_gets_full_leaves_the_finished_files(model, processor, data, tmp_path, monkeypatch) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    original = Path.write_bytes

    def full_after_three(path: Path, content: bytes) -> int:
        if len(files_of(tmp_path)) == 3:
            original(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_after_three)
    with pytest.raises(OSError, match=r"for the 3 images that it lacks.*finished images are kept") as caught:
        cache.fill(model, processor, [data["train"]], batch_size=2, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert len(files_of(tmp_path)) == 3 and not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    cache.fill(model, processor, [data["train"]], progress=False)
    assert len(files_of(tmp_path)) == 6


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_features_that_float16_cannot_hold_are_an_error(model, processor, data, tmp_path, monkeypatch, value) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    original = model.encode_image

    def extreme(pixel_values):
        encoded = original(pixel_values)
        encoded.maps[0][0, 0, 0, 0] = value
        return encoded

    monkeypatch.setattr(model, "encode_image", extreme)
    with pytest.raises(FeatureCacheError, match=r"values up to (100000|nan), but the float16"):
        cache.fill(model, processor, [data["train"]], progress=False)
    assert not files_of(tmp_path)


def test_a_damaged_file_is_named(model, processor, data, tmp_path) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    cache.fill(model, processor, [data["val"]], progress=False)
    for path in files_of(tmp_path):
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FeatureCacheError, match=r"[0-9a-f]{40}\.safetensors is damaged .*Delete it"):
        SentenceExamples(data["val"], cache.read)[0]


def stored(tensors: dict[str, torch.Tensor], **metadata: str) -> bytes:
    sizes = {"image_size": "[64, 64]", "size": "[64, 64]"}
    return save(tensors, {name: value for name, value in {**sizes, **metadata}.items() if value})


def rewritten(features: torch.Tensor, **metadata: str) -> bytes:
    return stored({"maps.0": features}, **metadata)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda features: save({"maps.0": features}), "its metadata should hold image_size"),
        (lambda features: rewritten(features, size=""), "its metadata should hold size"),
        (lambda features: rewritten(features, size="[64]"), r"should hold size, 2 whole numbers, found \[64\]"),
        (lambda features: rewritten(features, image_size="[1e999, 2]"), r"image_size.*found \[inf, 2\]"),
        (lambda features: rewritten(features, image_size="[" * 50_000), "recursion"),
        (lambda features: rewritten(features, image_size="{"), "Expecting property name"),
        (lambda features: rewritten(features * float("nan")), "not finite"),
        (lambda features: rewritten(features.float()), "of type F32, not F16"),
        (lambda features: rewritten(features.view(torch.int16)), "of type I16, not F16"),
        (lambda features: rewritten(features.repeat(2, 1, 1, 1)), r"shape \(2, .*not that of one image"),
        (lambda features: save({"other": features}), "metadata"),
        (lambda features: stored({"maps.1": features}), r"should hold maps\.0 and so on, found \['maps\.1'\]"),
        (lambda features: stored({"maps.0": features, "features": features.clone()}), "found .*'features'"),
    ],
)
def test_a_file_that_holds_something_else_is_named(change, reason, model, processor, data, tmp_path) -> None:
    cache = FeatureCache.open(tmp_path, model, processor)
    cache.fill(model, processor, [data["val"]], progress=False)
    SentenceExamples(data["val"], cache.read)[0]
    for path in files_of(tmp_path):
        path.write_bytes(change(load_file(path)["maps.0"]))
    with pytest.raises(FeatureCacheError, match=rf"\.safetensors is damaged .*{reason}.*Delete it") as caught:
        SentenceExamples(data["val"], cache.read)[0]
    assert "\n" not in str(caught.value)


def test_features_of_several_shapes_never_meet_in_a_batch(processor) -> None:
    items = []
    for length in (2, 3):
        features = ImageFeatures(maps=(torch.zeros(1, 2, length, length),), image_size=(64, 64))
        items.append({"image": EncodedImage(features, 8, 8), "text": "circle", "mask": np.ones((8, 8), dtype=bool)})
    with pytest.raises(FeatureCacheError, match=r"differ in shape .*\(1, 2, 2, 2\).*\(1, 2, 3, 3\).*Delete"):
        EncodedCollator(processor, torch.float32)(items)


def test_further_processes_wait_until_the_first_has_filled_the_cache(
    model, processor, data, tmp_path, monkeypatch, count_calls
) -> None:
    monkeypatch.setattr(feature_cache, "POLL_SECONDS", 0.02)
    calls = count_calls(model, "encode_image")
    args = RefSegTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, disable_tqdm=True)
    further = RefSegTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, disable_tqdm=True)
    monkeypatch.setattr(type(further), "local_process_index", property(lambda self: int(self is further)))
    arguments = (tmp_path / "cache", model, processor, [data["train"]])
    waiting = threading.Thread(target=cache_image_features, args=(*arguments, further))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and not calls
    cache_image_features(*arguments, args)
    waiting.join(30)
    assert not waiting.is_alive() and len(calls) == 1


@pytest.mark.slow_process
def test_the_command_trains_from_a_cache_in_two_processes_and_evaluates_from_it(tmp_path) -> None:
    recipe = write_recipe(tmp_path, tmp_path / "data", max_steps=2, test_splits="val", max_test_images=1)
    config = {"freeze_image_encoder": True}
    options = ["--cache_image_features", str(tmp_path / "cache"), "--config", json.dumps(config), "--pictures", "1"]
    command = ["train", str(recipe), *options, "--per_device_train_batch_size", "2"]
    for done in run_program(CHECKOUT / "hf_refseg_cli.py", *command, cwd=tmp_path, processes=2):
        assert done.exit_status == 0, done.errors
    assert len(files_of(tmp_path / "cache")) == 6
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["training"]["steps"] == 2
    # The encoder is the same from random weights of the same seed, so a second run needs no file to be written.
    before = {path: path.stat().st_mtime_ns for path in files_of(tmp_path / "cache")}
    again = ["--resume_from_checkpoint", "never", "--output_dir", str(tmp_path / "again"), "--max_steps", "2"]
    assert run_recipe([str(recipe), *options, *again])["training"]["steps"] == 2
    assert {path: path.stat().st_mtime_ns for path in files_of(tmp_path / "cache")} == before
    with pytest.raises(FeatureCacheError, match="Set freeze_image_encoder"):
        run_recipe([str(recipe), *options[:2], *again])
    with pytest.raises(FeatureCacheError, match="of another model or preprocessing: preprocessing differ"):
        run_recipe([str(recipe), *options, *again, "--image_size", "32"])
