"""M3Att's own behavior: attention, interaction, reconstruction and mask decoder by their equations, ablations."""

import math
import shutil
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from fresh_process import run_python
from method_tests import MethodTests
from safetensors.torch import load_file, save_file
from slow_attention import slow_heads, slow_softmax
from tiny_configs import THREE_STAGES
from tiny_methods import TinyM3Att
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, SwinConfig, SwinModel

from hf_refseg import (
    AutoModelForReferringSegmentation,
    M3AttConfig,
    M3AttForReferringSegmentation,
    RefSegImageProcessor,
    RefSegProcessor,
)
from hf_refseg.data.vocabulary import train_word_tokenizer
from hf_refseg.modeling.configuration_recurrent_text_refseg import RecurrentTextConfig
from hf_refseg.modeling.configuration_refseg import LanguageReconstructionConfig
from hf_refseg.modeling.layers_refseg import TokenBatchNorm, map_positions
from hf_refseg.modeling.modeling_m3att import MaskDecoder
from hf_refseg.modeling.modeling_outputs_refseg import EncodedPass
from hf_refseg.modeling.mutual_decoder_m3att import IterativeInteraction, MutualDecoder, PlainInteraction
from hf_refseg.modeling.recurrent_text_refseg import RecurrentTextEncoder
from hf_refseg.modeling.tasks_refseg import LanguageReconstruction

TINY_SWIN, TINY_BERT = TinyM3Att.fields["backbone_config"], TinyM3Att.fields["text_config"]
TIMM = {"model_type": "timm_backbone", "backbone": "resnet10t", "out_indices": [-3, -2, -1]}
RECURRENT = {"model_type": "refseg_recurrent_text", "vocab_size": 97, "embedding_size": 12, "hidden_size": 16}
ABLATIONS = [
    {"attention_type": "independent"},
    {"attention_type": "generic"},
    {"attention_type": "language"},
    {"num_decoder_layers": 1},
    {"num_decoder_layers": 4},
    {"interaction_type": "none"},
    {"interaction_type": "plain"},
    {"interaction_scale": 0.5},
    {"residual_connections": False},
    {"mask_decoder": "concatenation"},
    {"mask_decoder": "decoder_output"},
    {"mask_decoder_convolutions": 4},
    {"fusion_stride": 8},
    {"num_encoder_layers": 0},
    {"backbone_config": TIMM},
    {"text_config": RECURRENT},
    {"text_config": {**RECURRENT, "cell": "lstm", "directions": "concatenate"}},
    {"language_reconstruction": None},
    {"language_reconstruction": {"sentence_vector": "last_word", "num_layers": 1}},
    {"language_reconstruction": {"sentence_vector": "final_state"}, "text_config": RECURRENT},
]


class TestM3Att(TinyM3Att, MethodTests):
    always_has_attentions = True
    few_encoder_layers = {
        "backbone_config": {**TINY_SWIN, **THREE_STAGES},
        "text_config": {**TINY_BERT, "num_hidden_layers": 1},
        "language_reconstruction": {"num_layers": 1},
    }
    few_layers = {**few_encoder_layers, "num_decoder_layers": 2, "num_encoder_layers": 1}

    @torch.no_grad()
    @pytest.mark.parametrize("interaction_type", ["iterative", "plain"])
    def test_scales_that_were_saved_without_an_axis_are_read(self, interaction_type: str, tmp_path) -> None:
        model, inputs = self.build(interaction_type=interaction_type), self.inputs()
        for interaction in model.mutual_decoder.interactions:
            interaction.scale.fill_(0.7)
        expected = model(**inputs).logits
        model.save_pretrained(tmp_path / "now")
        tensors = load_file(tmp_path / "now" / "model.safetensors")
        shapes = {name: value.shape for name, value in tensors.items()}
        scales = {name: value.squeeze(0) for name, value in tensors.items() if name.endswith(".scale")}
        assert len(scales) == 2 and {value.shape for value in scales.values()} == {()}
        shutil.copytree(tmp_path / "now", tmp_path / "earlier")
        save_file(tensors | scales, tmp_path / "earlier" / "model.safetensors", {"format": "pt"})
        loaded = self.model_class.from_pretrained(tmp_path / "earlier")
        assert torch.equal(loaded(**inputs).logits, expected)
        loaded.save_pretrained(tmp_path / "again")
        again = load_file(tmp_path / "again" / "model.safetensors")
        assert {name: value.shape for name, value in again.items()} == shapes
        fresh = self.build(interaction_type=interaction_type)
        fresh.load_state_dict(model.state_dict() | scales)
        assert torch.equal(fresh(**inputs).logits, expected)

    def test_a_single_word_trains_with_the_statistics_of_evaluation(self) -> None:
        model = self.build(text_config=RECURRENT)
        inputs, labels = self.inputs(batch=1, tokens=1), self.labels(batch=1)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        assert norms
        before = [norm.running_mean.clone() for norm in norms]
        output = model.train()(**inputs, mask_labels=labels)
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
        norm, word = TokenBatchNorm(4), torch.randn(1, 1, 4)
        norm.norm.running_mean += 0.5
        assert_close(norm.train()(word, torch.ones(1, 1)), norm.eval()(word, torch.ones(1, 1)))

    @pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
    def test_every_ablation_trains_and_reloads(self, ablation: dict, tmp_path) -> None:
        model = self.build(**{**self.few_encoder_layers, **ablation}).train()
        output = model(**self.inputs(), mask_labels=self.labels())
        output.loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        assert output.loss_components.keys() == model.loss_weights.keys()
        model.eval().save_pretrained(tmp_path)
        loaded = AutoModelForReferringSegmentation.from_pretrained(tmp_path)
        # The type of a configuration is read from the file, so fields that are None have to survive it.
        assert loaded.config.language_reconstruction == model.config.language_reconstruction
        assert type(loaded.config.text_config) is type(model.config.text_config)
        with torch.no_grad():
            first, second = (each(**self.inputs(), mask_labels=self.labels()) for each in (model, loaded))
        assert torch.equal(first.logits, second.logits) and torch.equal(first.loss, second.loss)

    @torch.no_grad()
    @pytest.mark.parametrize("ablation", ABLATIONS[:-3], ids=str)
    def test_every_ablation_changes_the_logits(self, ablation: dict) -> None:
        plain, changed = self.build(), self.build(**ablation)
        shapes = {name: value.shape for name, value in changed.state_dict().items()}
        common = {name: value for name, value in plain.state_dict().items() if shapes.get(name) == value.shape}
        if "interaction_scale" in ablation:
            common = {name: value for name, value in common.items() if not name.endswith(".scale")}
        changed.load_state_dict(common, strict=False)
        assert (changed(**self.inputs()).logits - plain(**self.inputs()).logits).abs().max() > 1e-4

    @torch.no_grad()
    def test_the_reconstruction_is_no_part_of_inference(self, count_calls: Callable) -> None:
        model = self.build()
        calls = count_calls(model.language_reconstruction, "forward")
        expected = model.train(False)(**self.inputs()).logits
        assert calls == []
        without = self.build(language_reconstruction=None)
        without.load_state_dict(model.state_dict(), strict=False)
        assert torch.equal(without(**self.inputs()).logits, expected)

    def test_the_loss_is_that_of_equation_5(self) -> None:
        model = self.build()
        assert model.loss_weights == {"cross_entropy": 1.0, "language_reconstruction": 0.1}
        output = model(**self.inputs(), mask_labels=self.labels())
        probabilities = output.logits.sigmoid()
        of_pixels = torch.where(self.labels() == 1, probabilities, 1 - probabilities).log()
        assert_close(output.loss_components["cross_entropy"], -of_pixels.mean().detach())

    def test_a_dice_loss_can_stand_beside_it(self) -> None:
        inputs, labels = self.inputs(), self.labels()
        plain, model = self.build(), self.build(dice_loss_weight=0.5)
        output = model(**inputs, mask_labels=labels)
        probabilities = output.logits.sigmoid()
        shares = [
            (2 * (of_image * label).sum() + 1) / (of_image.sum() + label.sum() + 1)
            for of_image, label in zip(probabilities, labels, strict=True)
        ]
        dice = 1 - sum(shares) / len(shares)
        assert_close(output.loss_components["dice"], dice.detach())
        without = plain(**inputs, mask_labels=labels)
        assert "dice" not in without.loss_components and torch.equal(output.logits, without.logits)
        assert_close(output.loss, without.loss + 0.5 * dice)

    def test_the_final_state_of_the_text_encoder_is_what_equation_4_reads(self) -> None:
        fields = {"text_config": RECURRENT, "language_reconstruction": {"sentence_vector": "final_state"}}
        model, inputs = self.build(**fields), self.inputs()
        inputs["attention_mask"][1, 4:] = 0
        output = model(**inputs, mask_labels=self.labels())
        encoded = model.text_encoder(inputs["input_ids"], inputs["attention_mask"])
        task, mask = model.language_reconstruction, inputs["attention_mask"].float()
        decoded = model(**inputs, output_hidden_states=True).hidden_states[-1]
        expected = task(encoded.last_hidden_state, encoded.pooler_output, mask, decoded, mask)
        assert_close(output.loss_components["language_reconstruction"], expected.detach())
        words = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        inputs = {name: value for name, value in inputs.items() if name != "input_ids"}
        with pytest.raises(ValueError, match="pass `input_ids` instead of `text_embeds`"):
            model(**inputs, text_embeds=words, mask_labels=self.labels())

    def test_a_model_that_was_saved_with_more_channels_than_positions_still_loads(self, tmp_path) -> None:
        short = {**TINY_BERT, "max_position_embeddings": 8}
        with pytest.raises(ValueError, match="max_text_length: 20, but the text encoder takes texts of at most 8"):
            self.tiny_config(text_config=short)
        self.build(text_config=short, max_text_length=8).config.save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(path.read_text().replace('"max_text_length": 8', '"max_text_length": 20'))
        assert AutoConfig.from_pretrained(tmp_path).longest_text == 8

    def test_the_reconstruction_can_be_switched_off_after_loading(self, tmp_path) -> None:
        self.build().save_pretrained(tmp_path, save_auxiliary=False)
        loaded, report = M3AttForReferringSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert loaded.config.language_reconstruction is None
        assert not report["missing_keys"] and not report["unexpected_keys"]

    def test_another_image_size_is_named(self) -> None:
        with pytest.raises(ValueError, match=r'64 x 64 pixels, got 64 x 72.*"height": 64, "width": 64'):
            self.build()(**{**self.inputs(), "pixel_values": torch.zeros(2, 3, 64, 72)})

    def test_a_text_that_is_too_long_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"9 tokens, the model's max_text_length is 8.*processor"):
            self.build(max_text_length=8)(**self.inputs(tokens=9))

    @torch.no_grad()
    def test_the_image_is_enhanced_once_for_many_texts(self, count_calls: Callable) -> None:
        model, inputs = self.build(), self.inputs(batch=9)
        inputs["pixel_values"] = inputs["pixel_values"][:1]
        calls = [count_calls(model, name) for name in ("encode_image", "project_image", "fuse")]
        model(**inputs)
        assert [len(call) for call in calls] == [1, 1, 2]

    def test_padding_changes_nothing_in_training(self) -> None:
        """Neither logits nor losses nor batch statistics, in spite of batch normalization over the words."""
        inputs = self.inputs(tokens=6)
        inputs["attention_mask"][1, 4:] = 0
        padding = torch.zeros(2, 5, dtype=torch.long)
        padded = {**inputs, "input_ids": torch.cat([inputs["input_ids"], padding], 1)}
        padded["attention_mask"] = torch.cat([inputs["attention_mask"], padding], 1)
        models = self.build(text_config=RECURRENT).train(), self.build(text_config=RECURRENT).train()
        outputs = [
            model(**each, mask_labels=self.labels()) for model, each in zip(models, (inputs, padded), strict=True)
        ]
        assert_close(outputs[0].logits, outputs[1].logits, atol=1e-4, rtol=1e-4)
        assert_close(outputs[0].loss, outputs[1].loss)
        for (name, first), second in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
            assert_close(first, second, msg=lambda text, name=name: f"{name}: {text}")

    @pytest.mark.slow_process
    @pytest.mark.parametrize(
        "fields", [{}, {"cell": "lstm", "directions": "concatenate", "num_hidden_layers": 2}], ids=["gru", "lstm"]
    )
    @torch.no_grad()
    def test_a_graph_reads_texts_of_any_length_as_they_are_packed(self, fields: dict) -> None:
        torch.manual_seed(0)
        encoder = RecurrentTextEncoder(RecurrentTextConfig(**RECURRENT, **fields, max_position_embeddings=9)).eval()

        def texts(*lengths: int) -> dict[str, Tensor]:
            ids = torch.randint(1, 97, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
            return {"input_ids": ids, "attention_mask": (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])}

        axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=9)}
        shapes = dict.fromkeys(("input_ids", "attention_mask"), axes)
        graph = torch.export.export(encoder, (), texts(5, 2, 4), dynamic_shapes=shapes).module()
        # With the longest text there may be, and one without any word.
        for inputs in (texts(9, 3), texts(2, 0, 1, 2)):
            expected, found = encoder(**inputs), graph(**inputs)
            assert_close(found.last_hidden_state, expected.last_hidden_state)
            assert_close(found.pooler_output, expected.pooler_output)

    @pytest.mark.parametrize("text_config", [TINY_BERT, RECURRENT], ids=["bert", "recurrent"])
    def test_from_encoders_takes_over_pretrained_weights(self, text_config: dict, tmp_path) -> None:
        swin, bert = SwinModel(SwinConfig(**TINY_SWIN), add_pooling_layer=False), BertModel(BertConfig(**TINY_BERT))
        swin.save_pretrained(tmp_path / "swin")
        bert.save_pretrained(tmp_path / "bert")
        fields = {"image_size": 64, "hidden_size": 32, "decoder_hidden_size": 16, "encoder_feedforward": 16}
        text = (str(tmp_path / "bert"),) if text_config is TINY_BERT else (None,)
        if text_config is RECURRENT:
            fields["text_config"] = RECURRENT
        model = M3AttForReferringSegmentation.from_encoders(str(tmp_path / "swin"), *text, **fields)
        names = dict(swin.named_parameters())
        for name, parameter in model.backbone.model.named_parameters():
            assert torch.equal(parameter, names[name])
        if text_config is TINY_BERT:
            inputs = self.inputs()
            words = bert.eval()(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
            assert_close(
                model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state, words
            )
        else:
            assert isinstance(model.text_encoder, RecurrentTextEncoder)

    @pytest.mark.slow_process
    def test_code_beside_the_weights_is_enough(self, tmp_path) -> None:
        """Also for the text encoder, which transformers does not know, and for the tokenizer of words."""
        tokenizer = train_word_tokenizer(["the left dog", "red circle"])
        processor = RefSegProcessor(RefSegImageProcessor(size={"height": 64, "width": 64}), tokenizer)
        model = self.build(text_config={**RECURRENT, "vocab_size": len(tokenizer)})
        inputs = {"pixel_values": self.inputs()["pixel_values"]} | dict(
            processor(text=["the red dog", "left"], return_tensors="pt")
        )
        with torch.no_grad():
            logits = model(**inputs).logits
        save_file({"pixel_values": inputs["pixel_values"], "logits": logits}, tmp_path / "expected.safetensors")
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        code = """
        import sys
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModel, AutoProcessor

        expected = load_file("expected.safetensors")
        model = AutoModel.from_pretrained("model", trust_remote_code=True)
        processor = AutoProcessor.from_pretrained("model", trust_remote_code=True)
        model.save_pretrained("again")
        again = AutoModel.from_pretrained("again", trust_remote_code=True)
        texts = processor(text=["the red dog", "left"], return_tensors="pt")
        with torch.no_grad():
            for each in (model, again):
                logits = each(pixel_values=expected["pixel_values"], **texts).logits
                difference = (logits - expected["logits"]).abs().max().item()
                print(difference < 1e-5 or difference, type(each.text_encoder).__name__)
        print(any(name.split(".")[0] == "hf_refseg" for name in sys.modules))
        """
        printed = run_python("", code, cwd=tmp_path, package=None)
        assert printed.splitlines()[-3:] == ["True RecurrentTextEncoder"] * 2 + ["False"]

    @torch.no_grad()
    def test_the_encoder_knows_where_pixels_are(self) -> None:
        model = self.build()
        same = model.get_encoder_features(torch.zeros(1, 3, 64, 64))
        (encoded,) = model.project_image(same.apply_to_tensors(torch.ones_like)).maps
        inner = encoded[0, :, 1:3, 1:3].flatten(1).T
        assert (inner[0] - inner[1:]).abs().amax(1).min() > 1e-2

    def test_gradient_checkpointing_works_with_encoders_that_know_none(self) -> None:
        plain, checkpointed = (self.build(backbone_config=TIMM, text_config=RECURRENT).train() for _ in range(2))
        checkpointed.gradient_checkpointing_enable()
        for model in (plain, checkpointed):
            model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        layers = [*checkpointed.transformer_encoder, *checkpointed.mutual_decoder.layers]
        assert len(layers) == 4 and all(layer.gradient_checkpointing for layer in layers)
        for (name, expected), actual in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
            assert_close(actual.grad, expected.grad, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: name + text)

    @torch.no_grad()
    def test_the_map_holds_the_last_three_stages_at_one_size(self) -> None:
        model = self.build()
        swin = SwinModel(SwinConfig(**TINY_SWIN), add_pooling_layer=False).eval()
        model.backbone.load_encoder(swin)
        pixels = self.inputs()["pixel_values"]
        states = swin(
            pixels, always_partition=True, output_hidden_states=True, output_hidden_states_before_downsampling=True
        ).reshaped_hidden_states
        finest, middle, coarsest = model.get_encoder_features(pixels).maps
        assert coarsest.shape == (2, 64, 4, 4)
        assert_close(middle, states[3])
        assert_close(finest, nn.functional.avg_pool2d(states[2], 2))
        assert_close(coarsest.mean((2, 3)), states[4].mean((2, 3)))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"dice_loss_weight": -1.0}, "dice_loss_weight: at least 0"),
            ({"attention_type": "mutual"}, "'shared', 'independent', 'generic', 'language'"),
            ({"mask_decoder_convolutions": 6}, "4, 5"),
            ({"max_text_length": 33}, "max_text_length: 33, but the text encoder takes texts of at most 32 tokens"),
            ({"interaction_type": "off"}, "'iterative', 'plain', 'none'"),
            ({"mask_decoder": "vlt"}, "'kernels', 'concatenation', 'decoder_output'"),
            ({"hidden_size": 30}, "multiple of 4 and of num_attention_heads, 4"),
            ({"image_size": 65}, "multiple of fusion_stride, 16"),
            ({"num_decoder_layers": 0}, "num_decoder_layers: at least 1"),
            ({"num_encoder_layers": -1}, "num_encoder_layers: at least 0"),
            ({"backbone_config": {**TIMM, "out_indices": [-1]}}, "three stages of a timm backbone"),
            ({"backbone_config": {**TINY_SWIN, "depths": [1, 1], "num_heads": [1, 1]}}, "three stages or more"),
            (
                {"backbone_config": {"model_type": "bert"}},
                r"M3Att reads three maps .* got model_type 'bert'",
            ),
            ({"text_config": {**RECURRENT, "cell": "rnn"}}, "'gru', 'lstm'"),
            ({"text_config": {**RECURRENT, "hidden_size": 15, "directions": "concatenate"}}, "even number, got 15"),
            ({"text_config": {**RECURRENT, "pad_token_id": 97}}, "pad_token_id is 97"),
            ({"text_config": {**RECURRENT, "vocab_size": 0}}, "vocab_size: at least 1"),
            ({"language_reconstruction": {"layers": 2}}, "has no field layers, only sentence_vector, num_layers"),
            ({"language_reconstruction": {"num_layers": 0}}, "num_layers: at least 1"),
            ({"language_reconstruction": {"sentence_vector": "mean"}}, "'attention', 'final_state', 'last_word'"),
            (
                {"language_reconstruction": {"sentence_vector": "final_state"}},
                '"final_state" is that of a recurrent text encoder, and text_config is \'bert\': take "attention"',
            ),
        ],
        ids=str,
    )
    def test_wrong_configurations_are_named(self, overrides: dict, message: str) -> None:
        with pytest.raises(Exception, match=message):
            self.tiny_config(**overrides)


def configuration(**overrides) -> M3AttConfig:
    """Width 8, a map of 3 x 3 pixels, texts of at most 5 words."""
    small = {"image_size": 48, "hidden_size": 8, "num_attention_heads": 2, "max_text_length": 5}
    return M3AttConfig(
        **{"backbone_config": TINY_SWIN, "text_config": TINY_BERT, "decoder_hidden_size": 6, **small, **overrides}
    )


def in_use(module: nn.Module) -> nn.Module:
    """In evaluation mode, with batch normalizations that have seen something and scales that are not 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.uniform_(-0.5, 0.5)
        if isinstance(part, PlainInteraction):
            part.scale.data.fill_(0.7)
    return module.eval()


def slow_mutual_attention(attention: nn.Module, query: Tensor, pixels: Tensor, independent: bool) -> Tensor:
    """Equations 1 and 2 for one sentence without padding, pair by pair."""
    channels = query.shape[1]

    def scores(word_key: nn.Linear, pixel_key: nn.Linear) -> list[list[float]]:
        return [[float(word @ pixel) / math.sqrt(channels) for pixel in pixel_key(pixels)] for word in word_key(query)]

    a = scores(attention.word_key, attention.pixel_key)
    a_language = scores(attention.second_word_key, attention.second_pixel_key) if independent else a
    vision, language = [], []
    for word in range(len(query)):
        weights = slow_softmax(a[word])
        vision.append(sum(w * v for w, v in zip(weights, attention.pixel_value(pixels), strict=True)))
    for pixel in range(len(pixels)):
        weights = slow_softmax([row[pixel] for row in a_language])
        language.append(sum(w * v for w, v in zip(weights, attention.word_value(query), strict=True)))
    f_mul = torch.tensor([[float(v @ el) for el in language] for v in vision])
    return attention.output(f_mul)


def slow_interaction(block: IterativeInteraction, decoded: Tensor, language: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 3 and what follows it, word by word."""
    language = block.transform(language)
    queries, values = block.query(decoded).clamp(min=0), block.value(language).clamp(min=0)
    rows = []
    for token, query in zip(decoded, queries, strict=True):
        weights = slow_softmax([float(query @ word) for word in language])
        gathered = sum(weight * value for weight, value in zip(weights, values, strict=True))
        rows.append(slow_batch_norm(block.norm.norm, token + 0.7 * gathered))
    return torch.stack(rows), language


def slow_batch_norm(norm: nn.BatchNorm1d, features: Tensor) -> Tensor:
    return (features - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


@torch.no_grad()
@pytest.mark.parametrize("attention_type", ["shared", "independent"])
def test_the_decoder_equals_the_equations(attention_type: str) -> None:
    """Figure 3 c with equations 1 and 2, then equation 3, then another layer."""
    torch.manual_seed(0)
    decoder = in_use(MutualDecoder(configuration(attention_type=attention_type, num_decoder_layers=3)))
    words, pixels = 2 * torch.randn(4, 8), 2 * torch.randn(9, 8)
    decoded, language = words, words
    for index, layer in enumerate([decoder.first_layer, *decoder.layers]):
        if index > 0:
            decoded, language = slow_interaction(decoder.interactions[index - 1], decoded, language)
        query = layer.self_join.norm(decoded + slow_heads(layer.self_attention, decoded, decoded))
        mutual = slow_mutual_attention(layer.mutual_attention, query, pixels, attention_type == "independent")
        multimodal = layer.mutual_join.norm(query + mutual)
        decoded = layer.cross_join.norm(query + slow_heads(layer.cross_attention, query, multimodal))
    actual = decoder(words[None], pixels[None], torch.ones(1, 4))
    assert_close(actual[0], decoded, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_vision_attended_language_features_hold_nothing_of_the_pixels_but_their_places() -> None:
    """VAL alone (section IV-B): each pixel gathers words, then each word gathers what the pixels gathered."""
    torch.manual_seed(0)
    (layer,) = [in_use(MutualDecoder(configuration(attention_type="language", num_decoder_layers=1))).first_layer]
    words, pixels = 2 * torch.randn(4, 8), 2 * torch.randn(9, 8)
    attention = layer.mutual_attention
    query = layer.self_join.norm(words + slow_heads(layer.self_attention, words, words))
    language = []
    for pixel in pixels:
        key = attention.pixel_key(pixel)
        weights = slow_softmax([float(attention.word_key(word) @ key) / math.sqrt(8) for word in query])
        gathered = sum(w * attention.word_value(word) for w, word in zip(weights, query, strict=True))
        language.append(layer.mutual_join(attention.output(gathered)))
    expected = layer.cross_join.norm(query + slow_heads(layer.cross_attention, query, torch.stack(language)))
    assert_close(layer(words[None], pixels[None], torch.ones(1, 4))[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_plain_interaction_adds_the_same_words_each_time() -> None:
    torch.manual_seed(0)
    block = in_use(PlainInteraction(configuration()))
    decoded, words = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    actual, language = block(decoded, words, torch.ones(1, 4))
    assert language is words
    expected = torch.stack(
        [slow_batch_norm(block.norm.norm, a + 0.7 * b) for a, b in zip(decoded[0], words[0], strict=True)]
    )
    assert_close(actual[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("convolutions", [4, 5])
@pytest.mark.parametrize("mask_decoder", ["kernels", "concatenation", "decoder_output"])
def test_the_mask_decoder_equals_figure_6(mask_decoder: str, convolutions: int) -> None:
    torch.manual_seed(0)
    fields = {"mask_decoder": mask_decoder, "mask_decoder_convolutions": convolutions}
    decoder = in_use(MaskDecoder(configuration(**fields)))
    assert sum(isinstance(module, nn.Conv2d) for module in decoder.modules()) == convolutions
    words, pixels = torch.randn(3, 8), torch.randn(8, 3, 3)
    attended = decoder.join.norm(words + slow_heads(decoder.attention, words, words))
    maps = torch.zeros({"kernels": 5, "concatenation": 16, "decoder_output": 5}[mask_decoder], 3, 3)
    for row in range(3):
        for column in range(3):
            pixel = pixels[:, row, column]
            if mask_decoder == "concatenation":
                maps[:, row, column] = torch.cat([pixel, sum(attended)])
                continue
            for number, kernel in enumerate(attended):
                projected = kernel @ pixel
                if mask_decoder == "decoder_output":
                    projected = decoder.maps.project.weight[3 * row + column] @ kernel
                maps[number, row, column] = projected
    if convolutions == 5:
        maps = decoder.first_convolution(maps[None])[0]
    for convolution, norm, activation in decoder.convolutions:
        maps = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
        maps = activation(norm(convolution(maps[None])))[0]
    expected = decoder.classifier(maps)[0]
    actual = decoder(words[None], torch.ones(1, 3), pixels[None])
    assert actual.shape == (1, 24, 24) and maps.shape[0] == 6
    assert_close(actual[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "part", ["shared", "independent", "generic", "language", "kernels", "concatenation", "decoder_output"]
)
def test_padded_words_have_no_influence(part: str) -> None:
    torch.manual_seed(0)
    is_attention = part in ("shared", "independent", "generic", "language")
    fields = {"attention_type": part} if is_attention else {"mask_decoder": part}
    config = configuration(**fields)
    decoder, mask_decoder = in_use(MutualDecoder(config)), in_use(MaskDecoder(config))
    pixels, words, mask = torch.randn(1, 9, 8), torch.randn(1, 5, 8), torch.tensor([[1.0, 1, 1, 0, 0]])
    other = words.clone()
    other[:, 3:] = 100.0
    alone = decoder(words[:, :3], pixels, mask[:, :3])
    for each in (words, other):
        decoded = decoder(each, pixels, mask)
        assert_close(decoded[:, :3], alone)
        decoded[:, 3:] += 50
        maps = pixels.transpose(1, 2).unflatten(2, (3, 3))
        assert_close(mask_decoder(decoded, mask, maps), mask_decoder(alone, mask[:, :3], maps))


@torch.no_grad()
@pytest.mark.parametrize("sentence_vector", ["attention", "final_state", "last_word"])
def test_the_reconstruction_equals_equation_4(sentence_vector: str) -> None:
    torch.manual_seed(0)
    task = LanguageReconstructionConfig(sentence_vector=sentence_vector)
    reconstruction = in_use(LanguageReconstruction(task, word_channels=6, feature_channels=8))
    words, features = torch.randn(4, 6), torch.randn(7, 8)
    lengths = (3, 5)
    final = torch.randn(6)
    if sentence_vector == "last_word":
        sentence = words[2]
    elif sentence_vector == "final_state":
        sentence = final
    else:
        weights = slow_softmax([float(reconstruction.sentence_vector.score(word)) for word in words[:3]])
        sentence = sum(weight * word for weight, word in zip(weights, words, strict=False))
    language = []
    for position in range(lengths[0]):
        angles = [position / 10000 ** (2 * pair / 6) for pair in range(3)]
        embedding = torch.tensor([wave(angle) for angle in angles for wave in (math.sin, math.cos)])
        language.append(words[position] + embedding)
    language.append(sentence)
    projected = sum((reconstruction.projection.weight @ each).clamp(min=0) for each in language) / 4
    read = []
    for feature in features[: lengths[1]]:
        for layer in reconstruction.layers:
            feature = slow_batch_norm(layer.norm.norm, layer.linear.weight @ feature).clamp(min=0)
        read.append(feature)
    expected = sum((a - b) ** 2 for a, b in zip(sum(read) / 5, projected, strict=True)) / 8
    masks = [(torch.arange(total) < length).float()[None] for total, length in ((4, 3), (7, 5))]
    assert len(reconstruction.layers) == 3
    encoder = SimpleNamespace(text_encoder=lambda ids, mask: SimpleNamespace(pooler_output=final[None]))
    forward_pass = pass_of(words[None], masks[0])
    sentences = reconstruction.sentence_vector(words[None], encoder, forward_pass)
    assert_close(reconstruction(words[None], sentences, masks[0], features[None], masks[1]), expected)


def pass_of(text: Tensor, text_mask: Tensor) -> EncodedPass:
    """What a task knows of the texts of a pass."""
    return EncodedPass(
        pixel_values=None,
        input_ids=text_mask.long(),
        attention_mask=text_mask,
        image=None,
        text=text,
        text_mask=text_mask,
        mask_labels=None,
    )


def test_the_reconstruction_trains_both_sides() -> None:
    torch.manual_seed(0)
    reconstruction = LanguageReconstruction(LanguageReconstructionConfig(), word_channels=6, feature_channels=8)
    words, features = torch.randn(4, 5, 6, requires_grad=True), torch.randn(4, 5, 8, requires_grad=True)
    sentences = reconstruction.sentence_vector(words, None, pass_of(words, torch.ones(4, 5)))
    reconstruction(words, sentences, torch.ones(4, 5), features, torch.ones(4, 5)).backward()
    tensors = [words, features, *reconstruction.parameters()]
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors)


def test_positions_tell_rows_and_columns() -> None:
    positions = map_positions(torch.zeros(2, 6, 8), (2, 3)).view(2, 3, 8)
    assert torch.equal(positions[0, 1, :4], positions[0, 2, :4]) and torch.equal(
        positions[0, 1, 4:], positions[1, 1, 4:]
    )
    assert len(positions.flatten(0, 1).unique(dim=0)) == 6


def text_encoder(**fields) -> RecurrentTextEncoder:
    torch.manual_seed(0)
    plain = {"vocab_size": 20, "embedding_size": 6, "hidden_size": 8}
    return RecurrentTextEncoder(RecurrentTextConfig(**{**plain, **fields})).eval()


@torch.no_grad()
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("directions", ["sum", "concatenate"])
def test_the_recurrent_encoder_reads_each_sentence_from_both_ends(cell: str, directions: str) -> None:
    encoder = text_encoder(cell=cell, directions=directions)
    input_ids = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0]])
    mask = (input_ids != 0).long()
    features, final = (encoder(input_ids, mask)[name] for name in ("last_hidden_state", "pooler_output"))
    assert features.shape == (2, 5, 8) and final.shape == (2, 8)
    assert not features[1, 3:].any()
    width = encoder.recurrent.hidden_size
    weights = encoder.recurrent.state_dict()
    for index, length in enumerate((5, 3)):
        vectors = encoder.embeddings(input_ids[index, :length])
        halves, ends = [], []
        for suffix, order in (("", range(length)), ("_reverse", reversed(range(length)))):
            step = (nn.GRUCell if cell == "gru" else nn.LSTMCell)(6, width)
            step.load_state_dict({name: weights[f"{name}_l0{suffix}"] for name in step.state_dict()})
            state, states = None, {}
            for position in order:
                state = step(vectors[position : position + 1], state)
                states[position] = state if cell == "gru" else state[0]
            halves.append(torch.cat([states[position] for position in range(length)]))
            ends.append(states[position])
        expected = halves[0] + halves[1] if directions == "sum" else torch.cat(halves, 1)
        assert_close(features[index, :length], expected)
        assert_close(final[index : index + 1], sum(ends) if directions == "sum" else torch.cat(ends, 1))
        assert_close(encoder(input_ids[index : index + 1, :length]).last_hidden_state[0], expected)


def test_word_vectors_are_taken_over_or_refused() -> None:
    encoder = text_encoder()
    vectors = torch.randn(20, 6)
    encoder.load_word_vectors(vectors)
    assert torch.equal(encoder.get_input_embeddings().weight, vectors)
    with pytest.raises(ValueError, match=r"shape \(20, 5\).*20 words with 6 values.*embedding_size"):
        encoder.load_word_vectors(torch.randn(20, 5))


def test_the_recurrent_encoder_saves_and_loads_alone(tmp_path) -> None:
    encoder = text_encoder()
    assert not encoder.embeddings.weight[0].any() and 0.2 < encoder.embeddings.weight[1:].std() < 0.6
    encoder.save_pretrained(tmp_path)
    loaded = RecurrentTextEncoder.from_pretrained(tmp_path)
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_with_a_recurrent_encoder_takes_an_attention(attention: str, tmp_path) -> None:
    models = TestM3Att()
    model, inputs = models.build(text_config=RECURRENT), models.inputs()
    model.save_pretrained(tmp_path)
    loaded = M3AttForReferringSegmentation.from_pretrained(tmp_path, attn_implementation=attention)
    assert loaded.config._attn_implementation == attention
    assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=0)
    model.set_attn_implementation(attention)
    assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=0)


@torch.no_grad()
def test_auto_classes_know_the_recurrent_encoder(tmp_path) -> None:
    encoder, input_ids = text_encoder(), torch.tensor([[3, 4, 5]])
    config = AutoConfig.for_model(**{**encoder.config.to_dict(), "embedding_size": 7})
    assert type(config) is RecurrentTextConfig and config.embedding_size == 7
    assert type(AutoModel.from_config(config)) is RecurrentTextEncoder
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is RecurrentTextEncoder
    assert torch.equal(loaded(input_ids).last_hidden_state, encoder(input_ids).last_hidden_state)


def test_the_default_configuration_is_the_papers_main_model() -> None:
    with torch.device("meta"):
        model = M3AttForReferringSegmentation(M3AttConfig())
    assert model.config.map_size == 30
    assert model.backbone.widths == [256, 512, 1024]
    assert (
        len(model.transformer_encoder) == 2
        and len(model.mutual_decoder.layers) == 2
        and len(model.mutual_decoder.interactions) == 2
    )
    assert model.mutual_decoder.first_layer.mutual_attention.output.in_features == 900
    assert model.mask_decoder.classifier.in_channels == 512
    with torch.device("meta"):
        other = M3AttForReferringSegmentation(
            M3AttConfig(
                image_size=416,
                backbone_config={**TIMM, "backbone": "darknet53"},
                text_config={"model_type": "refseg_recurrent_text"},
            )
        )
    assert other.backbone.widths == [256, 512, 1024] and other.config.map_size == 26
