"""LAVT's own behavior: ablations, encoders, windows, text encoder, configuration."""

import copy
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
import torch
import torch.nn.functional as F
from method_tests import MethodTests
from PIL import Image
from tiny_configs import BERT, SHORT_BERT, SWIN, THREE_STAGES, TWO_STAGES
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_methods import TinyLavt
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from hf_refseg import LavtConfig, LavtForReferringSegmentation
from hf_refseg.modeling import swin_refseg
from hf_refseg.modeling.modeling_lavt import (
    ClosedPathway,
    GatedPathway,
    LanguageGate,
    PixelWordAttention,
    PooledSentence,
    UngatedPathway,
    VisualStage,
)
from hf_refseg.modeling.swin_refseg import SwinStages, WindowLayer

TINY_SWIN = TinyLavt.fields["backbone_config"]
ABLATIONS = [
    {"language_pathway": "none"},
    {"language_pathway": "replacement"},
    {"language_pathway": "concatenation"},
    {"language_pathway": "concatenation", "gate_activation": "none"},
    {"fusion_hidden_size": 12},
    {"decoder_norm": "none"},
    {"fusion_type": "pooled_sentence"},
    {"fusion_type": "bidirectional"},
    {"gate_activation": "sigmoid"},
    {"gate_activation": "none"},
    {"fusion_norm": "layer"},
    {"fusion_norm": "batch"},
    {"fusion_norm": "none"},
    {"decoder_features": "E"},
    {"decoder_features": "E", "gate_activation": "none"},
    {"decoder_features": "V"},
    {"decoder_features": "V", "gate_activation": "none"},
    {"fusion_num_heads": [1, 2, 4]},
    {"fusion_activation": "relu"},
    {"fusion_dropout": 0.1},
    {"text_dropout": False},
    {"loss_type": "cross_entropy"},
    {"loss_type": "dice_focal"},
    {"loss_type": "dice_boundary", "boundary_loss_weight": 0.1},
]


class TestLavt(TinyLavt, MethodTests):
    few_layers = {
        "backbone_config": {**SWIN, **TWO_STAGES},
        "text_config": SHORT_BERT,
        "fusion_num_heads": [1, 1],
    }
    # What ablations change.
    three_stages = {
        "backbone_config": {**SWIN, **THREE_STAGES},
        "text_config": SHORT_BERT,
        "fusion_num_heads": [1, 1, 1],
    }

    @pytest.mark.slow_process
    @torch.no_grad()
    def test_one_graph_records_as_well(self) -> None:
        model, inputs = self.build(**self.few_layers), self.inputs()
        model.set_attn_implementation("eager")
        asked = {"output_hidden_states": True, "output_attentions": True}
        expected = model(**inputs, **asked)
        torch.compiler.reset()
        actual = torch.compile(model, backend="eager", fullgraph=True)(**inputs, **asked)
        for name in ("logits", "hidden_states", "attentions"):
            assert_close(getattr(actual, name), getattr(expected, name))

    @pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
    def test_every_ablation_trains_and_reloads(self, ablation: dict, tmp_path) -> None:
        model = self.build(**{**self.three_stages, **ablation}).train()
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        model.eval().save_pretrained(tmp_path)
        loaded = LavtForReferringSegmentation.from_pretrained(tmp_path)
        for name, value in ablation.items():
            assert getattr(loaded.config, name) == value
        with torch.no_grad():
            assert torch.equal(loaded(**self.inputs()).logits, model(**self.inputs()).logits)

    @torch.no_grad()
    @pytest.mark.parametrize("ablation", ABLATIONS[:19], ids=str)
    def test_every_ablation_changes_the_logits(self, ablation: dict) -> None:
        plain, changed = self.build(**self.three_stages), self.build(**{**self.three_stages, **ablation})
        for name, weight in plain.named_parameters():
            if ".gate." in name:
                weight *= 20  # new gates are almost closed
        shapes = {name: value.shape for name, value in changed.state_dict().items()}
        common = {name: value for name, value in plain.state_dict().items() if shapes.get(name) == value.shape}
        changed.load_state_dict(common, strict=False)
        assert (changed(**self.inputs()).logits - plain(**self.inputs()).logits).abs().max() > 1e-4

    def test_lora_trains_the_first_layers_with_reentrant_checkpointing(self) -> None:
        """Which stops gradients unless what the embeddings give takes them."""
        plain, checkpointed = self.lora_gradients(), self.lora_gradients(use_reentrant=True)
        for name, gradient in plain.items():
            assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-3, msg=lambda text, name=name: name + text)

    @torch.no_grad()
    def test_what_tokenizer_and_image_processor_give_is_taken(self) -> None:
        model, processor = tiny_lavt(), tiny_processor()
        image, text = Image.new("RGB", (20, 30), "red"), ["the red dog", "left"]
        tokens = processor.tokenizer(text, padding=True, return_tensors="pt")
        assert "token_type_ids" in tokens
        pixels = processor.image_processor([image] * 2, return_tensors="pt")
        expected = model(**processor(images=[image] * 2, text=text, return_tensors="pt")).logits
        assert torch.equal(model(**pixels, **tokens).logits, expected)

    def test_labels_that_are_not_there_are_named(self) -> None:
        labels = self.labels()
        labels[1] = -100
        with pytest.raises(ValueError, match=r"-100, which stands for frames of clips .* this model takes images"):
            self.build()(**self.inputs(), mask_labels=labels)
        # Any type that says 0 or 1 will do.
        labels[1] = 1
        model = self.build()
        losses = [model(**self.inputs(), mask_labels=labels.to(kind)).loss for kind in (torch.bool, torch.float32)]
        assert_close(losses[0], losses[1])

    @pytest.mark.parametrize(
        ("norm", "training", "message"),
        [
            ("instance", False, "InstanceNorm1d: a map of one pixel .*larger images"),
            ("batch", True, "BatchNorm1d: a map of one pixel .*larger images"),
        ],
    )
    def test_a_map_of_one_pixel_is_named(self, norm: str, training: bool, message: str) -> None:
        inputs = {**self.inputs(batch=1), "pixel_values": torch.randn(1, 3, 32, 32)}
        with pytest.raises(ValueError, match=message):
            self.build(fusion_norm=norm).train(training)(**inputs)
        for other in ("layer", "none"):
            assert self.build(fusion_norm=other).train(training)(**inputs).logits.shape == (1, 32, 32)

    @torch.no_grad()
    def test_absolute_positions_follow_the_size(self) -> None:
        swin = {**TINY_SWIN, "use_absolute_embeddings": True}
        model = self.build(backbone_config=swin)
        embeddings = model.backbone.model.embeddings
        embeddings.position_embeddings.copy_(torch.arange(16.0).repeat_interleave(16)[None, :, None])  # those of rows
        own = torch.randn(1, 3, 64, 64)
        tokens, size = model.backbone.embed(own)
        assert size == (16, 16) and torch.equal(tokens, embeddings(own)[0])
        for height, width in ((70, 101), (32, 128)):
            pixels = torch.randn(1, 3, height, width)
            tokens, size = model.backbone.embed(pixels)
            without = embeddings.norm(embeddings.patch_embeddings(pixels)[0])
            rows = (tokens - without).unflatten(1, size)[0, :, :, 0]
            assert size == (-(-height // 4), -(-width // 4))
            assert_close(rows, rows[:, :1].expand_as(rows), atol=1e-4, rtol=0)
            middle = (size[0] - 1) / 2
            slope = 16 / size[0]
            expected = 7.5 + slope * (torch.arange(size[0]) - middle)
            assert_close(rows[2:-2, 0], expected[2:-2], atol=0.3, rtol=0)
            assert model(**{**self.inputs(), "pixel_values": pixels}).logits.shape == (2, height, width)

    def test_ablations_choose_their_parts(self) -> None:
        kinds = {
            "plain": [GatedPathway, GatedPathway, GatedPathway, ClosedPathway],
            "no pathway": [ClosedPathway] * 4,
            "ungated": [UngatedPathway] * 3 + [ClosedPathway],
            "E": [GatedPathway] * 4,
        }
        options = {"plain": {}, "no pathway": {"language_pathway": False}, "ungated": {"gate_activation": "none"}}
        options["E"] = {"decoder_features": "E"}
        for name, expected in kinds.items():
            assert [type(stage.pathway) for stage in self.build(**options[name]).stages] == expected
        assert isinstance(self.build(decoder_features="V").stages[-1], VisualStage)
        assert len(self.build(decoder_features="V").decoder.steps) == 2
        assert isinstance(self.build().stages[0].fusion.language_maps, PixelWordAttention)
        pooled = self.build(fusion_type="pooled_sentence").stages[0].fusion.language_maps
        assert isinstance(pooled, PooledSentence)

    @torch.no_grad()
    @pytest.mark.parametrize("gate", ["tanh", "sigmoid", "none"])
    @pytest.mark.parametrize("pathway", ["sum", "replacement", "concatenation"])
    def test_pathways_compute_what_they_are_called(self, pathway: str, gate: str) -> None:
        """E_i of equations 8 and 9, and of the two that the paper names beside them."""
        stage = self.build(**self.three_stages, language_pathway=pathway, gate_activation=gate).stages[1]
        for parameter in stage.pathway.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        visual, text = torch.randn(2, 15, 32), torch.randn(2, 4, 32)
        fused = stage.fusion(visual, text, torch.ones(2, 4))
        weights = dict(stage.pathway.named_parameters())
        language = fused
        if gate != "none":
            scores = (fused @ weights["gate.reduce.weight"].T).clamp(min=0) @ weights["gate.expand.weight"].T
            language = (scores.tanh() if gate == "tanh" else scores.sigmoid()) * fused
        expected = {"sum": visual + language, "replacement": language}
        if pathway == "concatenation":
            of_visual, of_language = weights["combine.reduce.weight"].split(32, 1)
            bias = weights["combine.reduce.bias"]
            expected["concatenation"] = visual @ of_visual.T + language @ of_language.T + bias
        enhanced, features = stage(visual, text, torch.ones(2, 4))
        assert_close(enhanced, expected[pathway])
        assert_close(features, F.layer_norm(fused, [32]))

    @torch.no_grad()
    @pytest.mark.parametrize("features", ["F", "V"])
    def test_the_decoder_reads_the_features_themselves(self, features: str) -> None:
        """What equation 10 is printed on, also of the last stage, which holds no fusion where V_i is read."""
        model, inputs = self.build(**self.three_stages, decoder_features=features, decoder_norm="none"), self.inputs()
        seen: list[Tensor] = []
        for stage in model.stages:
            if features == "F":
                stage.fusion.register_forward_hook(lambda module, inputs, output: seen.append(output))
            else:
                stage.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        text = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        fused = model.fuse(model.encode_image(inputs["pixel_values"]), text, inputs["attention_mask"].float())
        for maps, tokens in zip(fused.maps, seen, strict=True):
            assert torch.equal(maps.flatten(2).transpose(1, 2), tokens)

    @torch.no_grad()
    @pytest.mark.parametrize("hidden_size", [None, 12])
    def test_fusion_equals_equations_1_to_7_pixel_by_pixel(self, hidden_size: int | None) -> None:
        fusion = self.build(**self.three_stages, fusion_norm="none", fusion_hidden_size=hidden_size).stages[1].fusion
        pixels, text = torch.randn(2, 3, 32), torch.randn(2, 5, 32)
        mask = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        maps, width = fusion.language_maps, hidden_size or 32
        expected = torch.zeros(2, 3, 32)
        for index, (image, words) in enumerate(zip(pixels, (text[0], text[1, :3]), strict=True)):
            for place, pixel in enumerate(image):
                key, value = maps.key(words), maps.value(words)  # equations 2 and 3
                scores = torch.tensor([maps.query(pixel) @ each for each in key]) / width**0.5
                language = sum(weight * each for weight, each in zip(scores.softmax(0), value, strict=True))
                visual = F.gelu(fusion.project_pixels[0](pixel))
                expected[index, place] = F.gelu(fusion.project_fused[0](visual * maps.output(language)))
                assert language.shape == visual.shape == (width,)
        assert_close(fusion(pixels, text, mask), expected)

    @torch.no_grad()
    @pytest.mark.parametrize("hidden_size", [None, 12])
    def test_bidirectional_attention_asks_words_then_pixels(self, hidden_size: int | None) -> None:
        options = {"fusion_type": "bidirectional", "fusion_norm": "none", "fusion_hidden_size": hidden_size}
        maps = self.build(**self.three_stages, **options).stages[1].fusion.language_maps
        pixels, text, width = torch.randn(1, 3, 32), torch.randn(1, 4, 32), hidden_size or 32
        contexts = PixelWordAttention.forward(maps, pixels, text, torch.ones(1, 4))[0]
        expected = []
        for context in contexts:
            scores = [maps.context_query(context) @ maps.pixel_key(pixel) / width**0.5 for pixel in pixels[0]]
            weights = torch.stack(scores).softmax(0)
            expected.append(context + sum(w * maps.pixel_value(p) for w, p in zip(weights, pixels[0], strict=True)))
        assert_close(maps(pixels, text, torch.ones(1, 4))[0], torch.stack(expected))

    def test_bidirectional_attention_is_explained_by_that_of_the_words(self) -> None:
        model = self.build(**self.three_stages, fusion_type="bidirectional")
        explained = model.explain(**self.inputs(batch=1))
        assert set(explained) == {"decoder_maps", *(f"word_attention_{stage}" for stage in (1, 2, 3))}
        for stage, size in ((1, (16, 18)), (2, (8, 9)), (3, (4, 5))):
            maps = explained[f"word_attention_{stage}"].maps
            assert maps.shape == (6, *size)
            assert_close(maps.sum(0), torch.ones(size))

    def test_pathways_of_earlier_versions_are_read(self, tmp_path) -> None:
        """Which were True or False, in files and in code."""
        for before, now in ((True, "sum"), (False, "none")):
            config = self.tiny_config(language_pathway=before)
            assert config.language_pathway == now and config == self.tiny_config(language_pathway=now)
            config.save_pretrained(tmp_path)
            fields = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
            assert fields["language_pathway"] == now
            (tmp_path / "config.json").write_text(json.dumps({**fields, "language_pathway": before}), encoding="utf-8")
            assert LavtConfig.from_pretrained(tmp_path).language_pathway == now
            assert LavtConfig.from_pretrained(tmp_path, language_pathway=not before).language_pathway != now

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(40, 40), (67, 90), (99, 33)])
    def test_any_image_size(self, size: tuple[int, int]) -> None:
        model, inputs = self.build(), self.inputs()
        inputs["pixel_values"] = torch.randn(2, 3, *size)
        assert model(**inputs).logits.shape == (2, *size)
        # A small map must leave no trace in the windows of later, larger maps.
        assert_close(model(**self.inputs()).logits, self.build()(**self.inputs()).logits)

    @torch.no_grad()
    def test_trace_before_any_call(self) -> None:
        """Whose result would depend on what an earlier call left in the Swin transformer."""

        class Logits(nn.Module):
            def __init__(self, model: nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, *inputs: Tensor) -> Tensor:
                return self.model(*inputs).logits

        inputs = tuple(self.inputs().values())
        model = Logits(self.build(**self.few_layers))
        # This runs it a second time, and compares the graphs.
        traced = torch.jit.trace(model, inputs, check_trace=True)
        assert_close(traced(*inputs), model(*inputs), atol=1e-4, rtol=0)

    def test_without_a_text_dropout_the_text_encoder_stays_in_evaluation_mode(self) -> None:
        assert not self.build(text_dropout=False).train().text_encoder.training
        model = self.build(text_dropout=True).train()
        assert model.text_encoder.training
        assert not model.eval().text_encoder.training

    def test_new_weights_start_as_the_paper_says(self) -> None:
        model = self.build()
        gate = next(module for module in model.modules() if isinstance(module, LanguageGate))
        assert gate.reduce.weight.std().item() == pytest.approx(0.02, rel=0.2)
        projection = model.stages[3].fusion.project_pixels[0].weight
        assert projection.abs().max().item() == pytest.approx(128**-0.5, rel=0.01)  # uniform, as PyTorch does
        assert model.text_encoder.encoder.layer[0].attention.self.query.weight.std().item() == pytest.approx(
            0.02, rel=0.2
        )

    def test_from_encoders_takes_over_pretrained_weights(self, tmp_path) -> None:
        swin = SwinModel(SwinConfig(**{**TINY_SWIN, "drop_path_rate": 0.1})).eval()
        bert = BertModel(BertConfig(**BERT)).eval()
        swin.save_pretrained(tmp_path / "swin")
        bert.save_pretrained(tmp_path / "bert")
        model = LavtForReferringSegmentation.from_encoders(tmp_path / "swin", tmp_path / "bert", loss_type="dice")
        assert model.config.loss_type == "dice" and model.config.backbone_config.drop_path_rate == 0.3
        inputs = self.inputs()
        with torch.no_grad():
            tokens, size = swin.embeddings(inputs["pixel_values"])
            for layer in swin.encoder.layers[0].blocks:
                tokens, _ = layer(tokens, size, always_partition=True)
            (visual,) = model.get_image_features(inputs["pixel_values"]).maps
            assert_close(visual.flatten(2).transpose(1, 2), tokens)
            words = bert(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
            assert_close(
                model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state, words
            )

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("image_size", [(128, 128), (64, 96), (40, 72), (8, 100)])
    def test_stages_equal_the_whole_swin_transformer(self, image_size: tuple[int, int], attention: str) -> None:
        """Values and gradients, also where windows hold padding: at the right, at the bottom, at both, in all."""
        config = SwinConfig(**TINY_SWIN, attn_implementation=attention)
        swin = SwinModel(config, add_pooling_layer=False).eval()
        swin.layernorm = nn.Identity()
        for parameter in swin.parameters():
            # Position biases and the keys of padding are near zero in new weights.
            nn.init.normal_(parameter, std=0.2)
        stages = SwinStages(config).eval()
        stages.load_encoder(swin)
        image = torch.randn(2, 3, *image_size)
        tokens, size = stages.embed(image)
        for index in range(4):
            tokens = stages.run_stage(index, tokens, size)
            if index < 3:
                tokens, size = stages.merge(index, tokens, size)
        expected = swin(image, always_partition=True).last_hidden_state
        assert_close(tokens, expected, atol=1e-4, rtol=1e-4)
        for output in (tokens, expected):
            output.square().mean().backward()
        expected_gradients = {name: parameter.grad for name, parameter in swin.named_parameters()}
        for name, parameter in stages.model.named_parameters():
            scale = expected_gradients[name].abs().max().item()
            assert_close(parameter.grad, expected_gradients[name], atol=1e-4 * scale + 1e-7, rtol=1e-3, msg=name)

    @torch.no_grad()
    def test_a_stage_whose_windows_hold_padding_compiles_as_one_graph(self) -> None:
        stages = SwinStages(SwinConfig(**TINY_SWIN)).eval()
        tokens, size = stages.embed(torch.randn(2, 3, 40, 72))
        expected = stages.run_stage(1, stages.merge(0, tokens, size)[0], (5, 9))
        torch.compiler.reset()
        run_stage = torch.compile(stages.run_stage, backend="eager", fullgraph=True)
        assert_close(run_stage(1, stages.merge(0, tokens, size)[0], (5, 9)), expected)

    @torch.no_grad()
    def test_shift_masks_and_position_tables_are_computed_once_per_size(self, count_calls) -> None:
        model, inputs = self.build(), self.inputs()
        layers = [module for module in model.modules() if isinstance(module, WindowLayer)]
        calls = [count_calls(layer, "compute_window_order") for layer in layers]
        calls += [count_calls(layer.attention.relative_position_bias, "compute") for layer in layers]
        for _ in range(3):
            model(**inputs)
        assert [len(call) for call in calls] == [1] * len(calls)
        model(**self.inputs(batch=3))
        assert [len(call) for call in calls] == [1] * len(calls)
        inputs["pixel_values"] = torch.randn(2, 3, 136, 64)
        model(**inputs)
        assert [len(call) for call in calls] == [2] * len(calls)

    def test_threads_with_images_of_other_sizes_do_not_disturb_each_other(self) -> None:
        """Another thread encodes another image between any two lines of the encoder's code."""
        stages = SwinStages(SwinConfig(**{**TINY_SWIN, "depths": [2], "num_heads": [1]})).eval()
        images = [torch.randn(1, 3, *size) for size in ((16, 16), (24, 20))]

        @torch.no_grad()
        def encode(image: Tensor) -> Tensor:
            return stages.run_stage(0, *stages.embed(image))

        with ThreadPoolExecutor(1) as other_thread:

            def switch_at_each_line(frame: FrameType, event: str, argument: object) -> Callable | None:
                if frame.f_code.co_filename != swin_refseg.__file__:
                    return None
                if event == "line":
                    other_thread.submit(encode, images[1]).result()
                return switch_at_each_line

            expected, before = encode(images[0]), sys.gettrace()
            sys.settrace(switch_at_each_line)
            try:
                actual = encode(images[0])
            finally:
                sys.settrace(before)
        assert torch.equal(actual, expected)

    def test_inference_mode_leaves_nothing_that_training_cannot_use(self) -> None:
        model = self.build()
        with torch.inference_mode():
            model(**self.inputs())
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()

    @pytest.mark.parametrize("fused", [False, True])
    def test_kept_tables_follow_the_weights(self, fused: bool) -> None:
        """Fused optimizers and `.data` change weights without a trace in their version counter."""
        model, inputs = self.build(), self.inputs()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
        with torch.no_grad():
            model(**inputs)
        model(**inputs, mask_labels=self.labels()).loss.backward()
        optimizer.step()
        with torch.no_grad():
            after = model(**inputs).logits
            fresh = LavtForReferringSegmentation(model.config).eval()
            fresh.load_state_dict(model.state_dict())
            assert torch.equal(after, fresh(**inputs).logits)
            model.load_state_dict(self.build().state_dict())
            assert torch.equal(model(**inputs).logits, self.build()(**inputs).logits)
            # As moving averages of weights and quantizers do.
            for target, source in zip(model.parameters(), fresh.parameters(), strict=True):
                target.data.copy_(source.data)
            assert torch.equal(model(**inputs).logits, after)
            assert torch.equal(copy.deepcopy(model)(**inputs).logits, after)

    @torch.no_grad()
    def test_nothing_is_read_back_from_another_device(self) -> None:
        """A device without values stands for one that is waited for whenever Python reads a value."""
        backbone = self.build().backbone.to("meta")
        pixels = self.inputs()["pixel_values"].to("meta")
        for _ in range(2):
            tokens, size = backbone.embed(pixels)
            assert backbone.run_stage(0, tokens, size).is_meta

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"loss_type": "iou"}, "'cross_entropy', 'dice', 'dice_focal', 'dice_boundary'"),
            ({"gate_activation": "relu"}, "'tanh', 'sigmoid', 'none'"),
            ({"fusion_norm": "group"}, "'instance', 'layer', 'batch', 'none'"),
            ({"fusion_type": "concat"}, "'pixel_word', 'pooled_sentence', 'bidirectional'"),
            ({"decoder_features": "G"}, "'F', 'E', 'V'"),
            ({"fusion_num_heads": [1, 1]}, "4 in all"),
            ({"fusion_num_heads": [3, 1, 1, 1]}, "3 heads do not divide"),
            ({"class_weights": [1.0], "loss_type": "cross_entropy"}, "two positive numbers"),
            ({"language_pathway": "product"}, "'sum', 'replacement', 'concatenation', 'none'"),
            ({"language_pathway": "none", "gate_activation": "sigmoid"}, "gate_activation: .*language_pathway"),
            ({"decoder_norm": "batch"}, "'layer', 'none'"),
            ({"fusion_hidden_size": 0}, "fusion_hidden_size: at least 1"),
            ({"fusion_hidden_size": 18, "fusion_num_heads": [4, 4, 4, 4]}, "4 heads do not divide"),
            ({"decoder_features": "E", "language_pathway": False}, 'language_pathway="sum"'),
            ({"backbone_config": {"model_type": "resnet"}}, "Pass a SwinConfig"),
        ],
        ids=str,
    )
    def test_wrong_configurations_are_named(self, overrides: dict, message: str) -> None:
        with pytest.raises(Exception, match=message):
            self.tiny_config(**overrides)


def test_the_default_configuration_is_the_paper_s_main_model() -> None:
    config = LavtConfig()
    assert (config.backbone_config.embed_dim, list(config.backbone_config.depths)) == (128, [2, 2, 18, 2])
    assert (config.backbone_config.window_size, config.backbone_config.drop_path_rate) == (12, 0.3)
    assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (12, 768)
    assert config.decoder_hidden_size == 512
    assert config.loss_type == "dice"
    with torch.device("meta"):
        model = LavtForReferringSegmentation(config)
    assert 210e6 < model.num_parameters() < 230e6
