"""What every method must do, as a test class to inherit from beside the method's tiny model."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fsdp_on_cpus import find_shards, shard_model
from peft import LoraConfig, get_peft_model
from PIL import Image
from rounded_operations import RoundedOperations
from tiny_lavt import tiny_processor
from tiny_methods import TinyMethod
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.testing import assert_close
from transformers import pipeline
from transformers.utils import logging

from hf_refseg import AutoModelForReferringSegmentation, RefSegImageProcessor, RefSegProcessor
from hf_refseg.export.agreement import measure_agreement
from hf_refseg.export.exporting import write_graphs
from hf_refseg.onnx import ONE_GRAPH, TWO_GRAPHS
from hf_refseg.training.adapters import add_adapter, find_attention_projections, load_with_adapter
from hf_refseg.training.sharding import classes_to_shard


class MethodTests(TinyMethod):
    """A test class inherits from the method's `TinyMethod` and from this."""

    # Ends of the names of parameters whose gradient is zero by construction in a new model.
    without_effect_at_the_start: tuple[str, ...] = ()
    # Fields of a configuration with as few layers as there may be, since graphs are made layer by layer.
    few_layers: dict[str, Any] = {}
    # Whether attention weights are there with every implementation of attention.
    always_has_attentions = False

    def processor(self) -> RefSegProcessor:
        """One that makes images of the size of `inputs`."""
        image_processor = RefSegImageProcessor(size=dict(zip(("height", "width"), self.size, strict=True)))
        return RefSegProcessor(image_processor, tiny_processor().tokenizer)

    def test_output_shapes(self) -> None:
        output = self.build()(**self.inputs(), mask_labels=self.labels())
        assert output.logits.shape == (2, *self.size)
        assert output.loss.shape == () and output.loss.isfinite()
        assert all(value.shape == () and not value.requires_grad for value in output.loss_components.values())

    @torch.no_grad()
    def test_image_features_have_the_names_of_transformers(self) -> None:
        (inputs, _), model = self.training_inputs(), self.build()
        image = model.get_image_features(inputs["pixel_values"])
        # Of clips the tokens of all frames.
        tokens = image.maps[-1].movedim(-3, -1)
        assert torch.equal(image.last_hidden_state, tokens.reshape(len(tokens), -1, tokens.shape[-1]))
        assert image.pooler_output is None

    def test_loss_is_the_weighted_sum_of_its_components(self) -> None:
        model = self.build()
        model.loss_weights = {name: 0.5 + index for index, name in enumerate(model.loss_weights)}
        output = model(**self.inputs(), mask_labels=self.labels())
        expected = sum(model.loss_weights[name] * value for name, value in output.loss_components.items())
        assert_close(output.loss, expected)

    def test_every_parameter_gets_a_gradient(self) -> None:
        model = self.build()  # in evaluation mode, where nothing is dropped at random
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        dead = [name for name, gradient in gradients.items() if not gradient.any()]
        assert [name for name in dead if not name.endswith(self.without_effect_at_the_start)] == []

    def test_evaluation_gives_the_same_loss_each_time_and_draws_nothing(self) -> None:
        model, state = self.build(), torch.get_rng_state()
        losses = [model(**self.inputs(), mask_labels=self.labels()).loss for _ in range(2)]
        assert torch.equal(*losses) and torch.equal(torch.get_rng_state(), state)

    @torch.no_grad()
    def test_masks_start_at_their_prior(self, tmp_path) -> None:
        inputs = self.inputs()
        rare, common = (self.build(mask_prior=prior) for prior in (0.04, 0.2))
        log_odds = math.log(0.04 / 0.96) - math.log(0.2 / 0.8)
        logits = rare(**inputs).logits
        torch.testing.assert_close(logits - common(**inputs).logits, torch.full_like(logits, log_odds))
        # Where there is nothing to see yet, as between two answers, the probability is about the prior.
        assert 0.01 < logits.sigmoid().mean() < 0.15
        rare.save_pretrained(tmp_path)
        torch.testing.assert_close(self.model_class.from_pretrained(tmp_path)(**inputs).logits, logits)
        with pytest.raises(Exception, match=r"mask_prior: a probability above 0 and below 1 is needed, got 1\.0"):
            self.tiny_config(mask_prior=1.0)

    def test_empty_masks_are_legal_labels(self) -> None:
        output = self.build()(**self.inputs(), mask_labels=torch.zeros(2, *self.size, dtype=torch.long))
        assert output.loss.isfinite()

    def test_frozen_encoders_run_without_gradients_and_do_not_drift(self, tmp_path) -> None:
        self.build(freeze_image_encoder=True, freeze_text_encoder=True).save_pretrained(tmp_path)
        model = self.model_class.from_pretrained(tmp_path).train()
        encoders = (model.backbone, model.text_encoder)
        before = [{name: value.clone() for name, value in encoder.state_dict().items()} for encoder in encoders]
        assert not any(module.training for encoder in encoders for module in encoder.modules())
        assert not model.get_encoder_features(self.inputs()["pixel_values"]).maps[0].requires_grad
        assert not model.get_text_features(self.inputs()["input_ids"]).last_hidden_state.requires_grad
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert all(parameter.grad is None for encoder in encoders for parameter in encoder.parameters())
        heads = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert heads and all(parameter.grad is not None for parameter in heads)
        for encoder, state in zip(encoders, before, strict=True):
            assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())

    def test_encoder_features_stand_for_the_image_in_training(self, count_calls) -> None:
        model, inputs = self.build(), self.inputs()
        expected = model(**inputs, mask_labels=self.labels())
        features = model.get_encoder_features(inputs.pop("pixel_values"))
        calls = count_calls(model, "encode_image")
        actual = model(**inputs, encoder_features=features, mask_labels=self.labels())
        assert calls == []
        assert_close(actual.loss, expected.loss)

    @torch.no_grad()
    def test_features_of_a_frozen_encoder_serve_training_and_evaluation(self) -> None:
        model, inputs = self.build(freeze_image_encoder=True), self.inputs()
        pixel_values = inputs.pop("pixel_values")
        features = [model.train(mode).get_encoder_features(pixel_values) for mode in (True, False)]
        assert all(torch.equal(*maps) for maps in zip(*(each.maps for each in features), strict=True))
        for mode in (True, False):
            model.train(mode)
            outputs = []
            for image in ({"pixel_values": pixel_values}, {"encoder_features": features[0]}):
                torch.manual_seed(0)  # the same dropout
                outputs.append(model(**inputs, **image, mask_labels=self.labels()))
            assert_close(outputs[0].logits, outputs[1].logits, atol=1e-5, rtol=0)
            assert_close(outputs[0].loss, outputs[1].loss)

    def test_presence_head_learns_whether_there_is_a_target(self, tmp_path) -> None:
        model = self.build(presence_head=True, presence_loss_weight=0.5, **self.few_layers)
        labels = self.labels()
        labels[0] = 0
        optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
        while len(losses) < 30 and min(losses, default=1) >= 0.1:
            output = model(**self.inputs(), mask_labels=labels)
            assert output.loss.isfinite()
            losses.append(output.loss_components["presence"].item())
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
        assert losses[-1] < 0.1
        assert (output.presence_logits > 0).tolist() == [False, True]
        model.save_pretrained(tmp_path)
        with torch.no_grad():
            loaded = self.model_class.from_pretrained(tmp_path)(**self.inputs()).presence_logits
            assert_close(loaded, model(**self.inputs()).presence_logits)

    @torch.no_grad()
    def test_presence_head_weighs_the_highest_mask_logit(self) -> None:
        """With weights of 0 at first, so that models of earlier versions answer as they did."""
        model, inputs = self.build(presence_head=True, **self.few_layers), self.inputs()
        head, read = model.presence_head, []
        head.classifier[0].register_forward_hook(lambda module, inputs, output: read.append(output))
        before = model(**inputs)
        assert_close(before.presence_logits, head.classifier[1:](read[0]).squeeze(1))
        head.highest_logit_weight.uniform_(-1, 1)
        highest = before.logits.flatten(1).amax(1, keepdim=True)
        expected = head.classifier[1:](read[0] + highest * head.highest_logit_weight).squeeze(1)
        assert_close(model(**inputs).presence_logits, expected)
        assert (expected - before.presence_logits).abs().min() > 1e-4

    def test_presence_moves_no_mask(self) -> None:
        model = self.build(presence_head=True, **self.few_layers)
        model.presence_head.highest_logit_weight.data.fill_(0.5)
        output = model(**self.inputs())
        output.logits.retain_grad()
        output.presence_logits.sum().backward()
        assert output.logits.grad is None

    def with_mask_grounding(self, **fields) -> nn.Module:
        """A model with the task, and the presence head beside it."""
        task = {"special_token_ids": [0, 1, 2, 3, 4], "mask_token_id": 4, "predictor_layers": 2, **fields}
        return self.build(mask_grounding=task, presence_head=True)

    @pytest.mark.parametrize("image_features", ["sentence", "masked_sentence"])
    def test_mask_grounding_trains_every_parameter(self, image_features: str) -> None:
        model = self.with_mask_grounding(image_features=image_features, loss_weight=0.5).train()
        assert model.loss_weights["mask_grounding"] == 0.5
        output = model(**self.inputs(), mask_labels=self.labels())
        assert set(output.loss_components) == set(model.loss_weights) >= {"mask_grounding", "presence"}
        expected = sum(model.loss_weights[name] * value for name, value in output.loss_components.items())
        assert_close(output.loss, expected)
        output.loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        # The task itself trains the language encoder.
        model.zero_grad()
        model.loss_weights = dict.fromkeys(model.loss_weights, 0.0) | {"mask_grounding": 1.0}
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert any(parameter.grad.any() for parameter in model.text_encoder.parameters() if parameter.grad is not None)

    def test_mask_grounding_overfits(self) -> None:
        task = {"special_token_ids": [0, 1, 2, 3, 4], "mask_token_id": 4, "predictor_layers": 1}
        model = self.build(mask_grounding=task, **self.few_layers)
        optimizer, losses = torch.optim.Adam(model.parameters(), lr=5e-3), []
        while len(losses) < 40 and min(losses, default=math.inf) >= 0.2 * max(losses, default=0):
            output = model(**self.inputs(), mask_labels=self.labels())
            losses.append(output.loss_components["mask_grounding"].item())
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
        assert losses[-1] < 0.2 * losses[0]

    def test_mask_grounding_with_frozen_encoders(self) -> None:
        task = {"special_token_ids": [0], "mask_token_id": 4, "predictor_layers": 1}
        model = self.build(mask_grounding=task, freeze_image_encoder=True, freeze_text_encoder=True).train()
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        encoders = ("backbone.", "text_encoder.")
        assert trained == {name for name, _ in model.named_parameters() if not name.startswith(encoders)}
        # Which reaches it through the text encoder.
        assert model.mask_grounding.mask_token.change.grad.any()

    def test_mask_grounding_leaves_out_empty_masks(self) -> None:
        model, labels = self.with_mask_grounding(), self.labels()
        alone = {name: value[:1] for name, value in self.inputs().items()}
        labels[1] = 0
        assert model(**self.inputs(), mask_labels=labels).loss_components["mask_grounding"] > 0
        model.train()
        output = model(**self.inputs(), mask_labels=torch.zeros_like(labels))
        assert output.loss_components["mask_grounding"] == 0
        output.loss.backward()
        parameters = list(model.mask_grounding.parameters())
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in parameters)
        assert model(**alone, mask_labels=labels[1:]).loss.isfinite()

    @torch.no_grad()
    def test_mask_grounding_costs_nothing_at_inference(self, count_calls: Callable) -> None:
        model, inputs = self.with_mask_grounding(), self.inputs()
        encoded, predicted = count_calls(model, "encode_text"), count_calls(model.mask_grounding, "forward")
        for mode in (True, False):
            model.train(mode)(**inputs)
        assert len(encoded) == 2 and predicted == []
        model(**inputs, mask_labels=self.labels())
        assert len(encoded) == 4 and len(predicted) == 1

    @torch.no_grad()
    def test_mask_grounding_is_saved_or_left_out(self, tmp_path) -> None:
        model, inputs = self.with_mask_grounding(), self.inputs()
        for save_auxiliary in (True, False):
            folder = tmp_path / str(save_auxiliary)
            model.save_pretrained(folder, save_auxiliary=save_auxiliary)
            loaded, report = self.model_class.from_pretrained(folder, output_loading_info=True)
            assert not report["missing_keys"] and not report["unexpected_keys"]
            assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
            components = loaded(**inputs, mask_labels=self.labels()).loss_components
            if save_auxiliary:
                assert loaded.config.mask_grounding == model.config.mask_grounding
                expected = model(**inputs, mask_labels=self.labels()).loss_components
                assert_close(components["mask_grounding"], expected["mask_grounding"])
            else:
                assert loaded.config.mask_grounding is None and "mask_grounding" not in components
                assert not any(name.startswith("mask_grounding") for name in loaded.state_dict())
        assert model.config.mask_grounding is not None

    def test_mask_grounding_with_gradient_checkpointing(self) -> None:
        plain, checkpointed = self.with_mask_grounding().train(), self.with_mask_grounding().train()
        checkpointed.gradient_checkpointing_enable()
        for model in (plain, checkpointed):
            torch.manual_seed(0)
            model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert all(layer.gradient_checkpointing for layer in checkpointed.mask_grounding.predictor.encoder.layer)
        for (name, expected), actual in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
            assert_close(actual.grad, expected.grad, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: name + text)

    @torch.no_grad()
    def test_mask_grounding_in_bfloat16_and_with_eager_attention(self) -> None:
        model, inputs = self.with_mask_grounding(), self.inputs()
        expected = model(**inputs, mask_labels=self.labels()).loss_components["mask_grounding"]
        model.set_attn_implementation("eager")
        assert model.mask_grounding.predictor.config._attn_implementation == "eager"
        actual = model(**inputs, mask_labels=self.labels()).loss_components["mask_grounding"]
        assert_close(actual, expected, atol=1e-4, rtol=0)
        inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
        actual = model.bfloat16()(**inputs, mask_labels=self.labels()).loss_components["mask_grounding"]
        assert_close(actual.float(), expected, atol=0, rtol=0.05)

    def test_language_reconstruction_trains_image_and_text(self) -> None:
        model = self.build(language_reconstruction={"loss_weight": 0.5}).train()
        assert model.loss_weights["language_reconstruction"] == 0.5
        output = model(**self.inputs(), mask_labels=self.labels())
        output.loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        model.zero_grad()
        model.loss_weights = dict.fromkeys(model.loss_weights, 0.0) | {"language_reconstruction": 1.0}
        output = model(**self.inputs(), mask_labels=self.labels())
        assert_close(output.loss.detach(), output.loss_components["language_reconstruction"])
        output.loss.backward()
        for part in (model.backbone, model.text_encoder, model.language_reconstruction):
            assert any(parameter.grad.abs().sum() > 0 for parameter in part.parameters())

    @torch.no_grad()
    def test_language_reconstruction_is_saved_or_left_out(self, tmp_path, count_calls: Callable) -> None:
        model, inputs = self.build(language_reconstruction={}), self.inputs()
        calls = count_calls(model.language_reconstruction, "forward")
        logits = model(**inputs).logits
        assert calls == []
        for save_auxiliary in (True, False):
            folder = tmp_path / str(save_auxiliary)
            model.save_pretrained(folder, save_auxiliary=save_auxiliary)
            loaded, report = self.model_class.from_pretrained(folder, output_loading_info=True)
            assert not report["missing_keys"] and not report["unexpected_keys"]
            assert torch.equal(loaded(**inputs).logits, logits)
            components = loaded(**inputs, mask_labels=self.labels()).loss_components
            assert ("language_reconstruction" in components) == save_auxiliary
        assert model.config.language_reconstruction.loss_weight == 0.1

    @torch.no_grad()
    def test_many_texts_are_fused_in_parts(self, count_calls) -> None:
        model, inputs = self.build(), self.inputs(batch=5)
        expected = model(**inputs).logits
        model.texts_per_pass = 2
        calls = count_calls(model, "fuse")
        assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=0)
        assert len(calls) == 3

    @torch.no_grad()
    def test_the_pipeline_answers_batches_like_single_images(self) -> None:
        generator = np.random.default_rng(0)
        pictures = [Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(3)]
        texts = ["the left red dog", ["red circle", "right"], "dog"]
        requests = [{"image": picture, "text": text} for picture, text in zip(pictures, texts, strict=True)]
        segment = pipeline(
            "referring-image-segmentation", model=self.build(), processor=self.processor(), threshold=0.0
        )
        expected = [result["score"] for request in requests for result in segment(request)]
        found = [result["score"] for results in segment(requests, batch_size=3) for result in results]
        assert found == pytest.approx(expected, abs=1e-5) and len(set(expected)) == 4

    @torch.no_grad()
    def test_masks_alone_are_the_labels_of_kept_features(self) -> None:
        model, processor, generator = self.build(), self.processor(), np.random.default_rng(0)
        images = list(generator.integers(0, 256, (2, 30, 41, 3), dtype=np.uint8))
        texts = {
            "text": ["the left red dog", "circle"],
            "segmentation_maps": list(generator.random((2, 30, 41)) > 0.7),
        }
        inputs = processor(images, **texts, return_tensors="pt")
        features = model.get_encoder_features(inputs["pixel_values"])
        labeled = processor(**texts, return_tensors="pt")
        assert inputs.keys() - labeled.keys() == {"pixel_values"}
        assert_close(model(**labeled, encoder_features=features).loss, model(**inputs).loss)

    def test_padding_does_not_change_the_mask(self) -> None:
        model, inputs = self.build(), self.inputs(batch=1, tokens=6)
        alone = model(**inputs).logits
        padded = dict(inputs)
        padded["input_ids"] = torch.cat([inputs["input_ids"], torch.zeros(1, 9, dtype=torch.long)], 1)
        padded["attention_mask"] = torch.cat([inputs["attention_mask"], torch.zeros(1, 9, dtype=torch.long)], 1)
        assert_close(model(**padded).logits, alone, atol=1e-4, rtol=0)
        padded["input_ids"] = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, 7)
        assert_close(model(**padded).logits, alone, atol=1e-4, rtol=0)

    @torch.no_grad()
    def test_a_batch_gives_what_its_parts_give(self) -> None:
        model, inputs = self.build(), self.inputs(batch=3)
        together = model(**inputs).logits
        for index in range(3):
            alone = model(**{name: value[index : index + 1] for name, value in inputs.items()}).logits
            assert_close(together[index : index + 1], alone, atol=1e-4, rtol=0)

    @torch.no_grad()
    def test_the_text_matters(self) -> None:
        model, inputs = self.build(), self.inputs(batch=1)
        other = {**inputs, "input_ids": inputs["input_ids"].flip(1) + 1}
        assert (model(**inputs).logits - model(**other).logits).abs().max() > 1e-4

    @torch.no_grad()
    def test_one_image_with_many_texts_is_encoded_once(self, count_calls: Callable) -> None:
        model, inputs = self.build(), self.inputs(batch=3)
        image = inputs["pixel_values"][:1]
        repeated = model(**{**inputs, "pixel_values": image.expand(3, -1, -1, -1)}).logits
        calls = count_calls(model, "encode_image")
        once = model(**{**inputs, "pixel_values": image}).logits
        assert [call[0].shape[0] for call in calls] == [1]
        assert_close(once, repeated, atol=1e-4, rtol=0)
        embeds = model.get_image_features(image)
        words = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        calls.clear()
        for text in (words, words.last_hidden_state):
            given = model(image_embeds=embeds, text_embeds=text, attention_mask=inputs["attention_mask"]).logits
            assert_close(given, once, atol=1e-5, rtol=0)
        assert calls == []
        maps, *_ = model.get_image_features(image, return_dict=False)
        assert all(torch.equal(*pair) for pair in zip(maps, embeds.maps, strict=True))
        assert torch.equal(model.get_text_features(inputs["input_ids"], return_dict=False)[0], words.last_hidden_state)

    @torch.no_grad()
    def test_keywords_of_transformers(self, caplog) -> None:
        model, inputs = self.build(), self.inputs()
        expected = model(**inputs).logits
        caplog.clear()
        token_types = torch.zeros_like(inputs["input_ids"])
        output = model(**inputs, token_type_ids=token_types, output_hidden_states=False, inputs_embeds=None)
        assert torch.equal(output.logits, expected) and caplog.records == []
        model.get_text_features(inputs["input_ids"], inputs["attention_mask"], token_type_ids=token_types)
        logging.get_logger("transformers").warning_once.cache_clear()
        model.get_text_features(inputs["input_ids"], output_hidden_states=True)
        model.get_image_features(inputs["pixel_values"], output_attentions=True)
        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == 1 and "have no effect but in `forward`" in warnings[0]
        for call, given in (
            (model, inputs),
            (model.get_text_features, {"input_ids": inputs["input_ids"]}),
            (model.get_image_features, {"pixel_values": inputs["pixel_values"]}),
        ):
            with pytest.raises(TypeError, match="unexpected keyword argument 'mask_label'"):
                call(**given, mask_label=self.labels())
        # Losses are means: Trainer must not take the keywords for those of one that sums over its items.
        assert not model.accepts_loss_kwargs

    @torch.no_grad()
    def test_hidden_states_and_attentions_are_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, inputs, fused = self.build(), self.inputs(), []
        model.set_attn_implementation("eager")
        plain, fuse = model(**inputs), model.fuse
        assert plain.hidden_states is None and plain.attentions is None
        monkeypatch.setattr(model, "fuse", lambda *arguments: fused.append(fuse(*arguments)) or fused[-1])
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert torch.equal(output.logits, plain.logits)
        states, maps = output.hidden_states, fused[-1].maps
        assert len(states) >= len(maps) and all(map(torch.equal, states, maps))
        assert {len(each) for each in (*states, *output.attentions)} == {2}
        assert output.attentions and all(each.ndim == 4 for each in output.attentions)
        for weights in output.attentions:
            assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        # What masked words make anew for the losses is not recorded a second time.
        model = self.with_mask_grounding(image_features="masked_sentence")
        model.set_attn_implementation("eager")
        trained = model(**inputs, mask_labels=self.labels(), output_hidden_states=True, output_attentions=True)
        for recorded, again in ((states, trained.hidden_states), (output.attentions, trained.attentions)):
            assert [each.shape for each in recorded] == [each.shape for each in again]

    @torch.no_grad()
    def test_the_configuration_says_what_is_recorded(self) -> None:
        model, inputs = self.build(), self.inputs()
        model.set_attn_implementation("eager")
        model.config.output_hidden_states = model.config.output_attentions = True
        output = model(**inputs)
        assert output.hidden_states and output.attentions
        assert len(model(**inputs, return_dict=False)) == 3
        output = model(**inputs, output_hidden_states=False, output_attentions=False)
        assert output.hidden_states is None and output.attentions is None

    @torch.no_grad()
    def test_what_is_recorded_of_several_texts_is_that_of_each(self) -> None:
        model, inputs = self.build(), self.inputs(batch=3)
        model.set_attn_implementation("eager")
        inputs["pixel_values"] = inputs["pixel_values"][:1]
        asked = {"output_hidden_states": True, "output_attentions": True}
        at_once = model(**inputs, **asked)
        model.texts_per_pass = 2
        joined = model(**inputs, **asked)
        for name in ("logits", "hidden_states", "attentions"):
            assert_close(getattr(joined, name), getattr(at_once, name), atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_fused_kernels_tell_no_attention_weights(self, caplog: pytest.LogCaptureFixture) -> None:
        model, inputs = self.build(), self.inputs()
        logging.get_logger("transformers").warning_once.cache_clear()
        caplog.clear()
        assert model(**inputs, output_hidden_states=True).hidden_states and not caplog.records
        attentions = model(**inputs, output_attentions=True).attentions
        warnings = [record.getMessage() for record in caplog.records]
        if self.always_has_attentions:
            assert attentions and not warnings
        else:
            assert attentions == () and len(warnings) == 1 and 'set_attn_implementation("eager")' in warnings[0]

    def test_a_configuration_reloads_as_it_was(self, tmp_path) -> None:
        config = self.tiny_config()
        config.save_pretrained(tmp_path)
        assert type(config).from_pretrained(tmp_path).to_dict() == config.to_dict()

    @torch.no_grad()
    def test_save_and_load_keep_the_logits(self, tmp_path) -> None:
        model, inputs = self.build(), self.inputs()
        model.save_pretrained(tmp_path)
        for loader in (self.model_class, AutoModelForReferringSegmentation):
            loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
            assert type(loaded) is self.model_class
            assert not report["missing_keys"] and not report["unexpected_keys"]
            assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    @torch.no_grad()
    def test_bfloat16_agrees_with_float32(self) -> None:
        model, inputs = self.build(), self.inputs()
        expected = model(**inputs).logits
        actual = model.to(torch.bfloat16)(**inputs).logits
        assert actual.dtype == torch.bfloat16
        inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
        assert torch.equal(model(**inputs).logits, actual)
        assert (actual.float() - expected).abs().mean() < 0.1 * expected.std()

    @pytest.mark.parametrize("is_training", [False, True])
    def test_nothing_rounds_float64(self, is_training: bool) -> None:
        task = {"special_token_ids": [0, 1, 2, 3, 4], "mask_token_id": 4, "predictor_layers": 1}
        model = self.build(presence_head=True, mask_grounding=task, language_reconstruction={})
        model.double().train(is_training)
        inputs = self.inputs() | {"pixel_values": self.inputs()["pixel_values"].double()}
        with RoundedOperations() as rounded:
            output = model(**inputs, mask_labels=self.labels())
            output.loss.backward()
        assert rounded.names == []
        assert {value.dtype for value in (output.logits, output.loss)} == {torch.float64}
        assert {value.dtype for value in output.loss_components.values()} == {torch.float64}

    @torch.no_grad()
    def test_eager_attention_agrees_with_sdpa(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, inputs = self.build(), self.inputs()
        expected = model(**inputs).logits
        model.set_attn_implementation("eager")
        assert model.config._attn_implementation == "eager"
        monkeypatch.delattr(nn.functional, "scaled_dot_product_attention")
        assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=0)

    def export(self, model: nn.Module) -> torch.export.ExportedProgram:
        """The model as a graph that takes any batch."""
        inputs = self.inputs(batch=3)
        batch = {name: {0: torch.export.Dim.DYNAMIC} for name in inputs}
        return torch.export.export(model, (), inputs, dynamic_shapes=batch)

    @pytest.mark.slow_process
    @torch.no_grad()
    def test_export_with_any_batch(self) -> None:
        model = self.build(**self.few_layers)
        exported = self.export(model).module()
        # More than a pass of the model itself holds.
        inputs = self.inputs(batch=model.texts_per_pass + 1)
        assert_close(exported(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=0)

    @pytest.mark.slow_process
    def test_onnx_says_the_same_of_any_texts(self, tmp_path) -> None:
        """Of images, or of clips where the method takes them."""
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="installed with the extra `export`")
        model = self.build(presence_head=True, **self.few_layers)
        pixel_values = self.training_inputs()[0]["pixel_values"]
        traced, other = pixel_values[:1], pixel_values[1:]
        longest = tiny_processor().max_text_length
        paths, _ = write_graphs(model, tmp_path, traced, longest, "onnx")
        assert tuple(paths) == (ONE_GRAPH if model.fuses_in_encoder else TWO_GRAPHS)
        # Raises where they disagree.
        agreement = measure_agreement(model, paths, other, longest)
        assert set(agreement["differences"]) == {"logits", "presence_logits"}

    @pytest.mark.slow_process
    def test_a_training_step_is_one_graph(self) -> None:
        model, (inputs, labels) = self.build(**self.few_layers).train(), self.training_inputs()
        losses = []
        # What other methods compiled would make their sizes variable here, which takes minutes.
        torch.compiler.reset()
        for call in (model, torch.compile(model, backend="eager", fullgraph=True)):
            torch.manual_seed(0)
            losses.append(call(**inputs, mask_labels=labels).loss)
        losses[1].backward()
        assert_close(*losses)
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)

    @torch.no_grad()
    def test_weights_on_disk_give_the_same_mask(self, tmp_path) -> None:
        """Each weight is brought to the module that owns it, when that is called."""
        model, inputs = self.build(presence_head=True, **self.few_layers), self.inputs()
        model.save_pretrained(tmp_path / "model")
        # accelerate dispatches no model that lies on the disk as a whole.
        devices = {**dict.fromkeys(dict(model.named_children()), "disk"), "presence_head": "cpu"}
        loaded = self.model_class.from_pretrained(
            tmp_path / "model", device_map=devices, offload_folder=tmp_path / "offloaded"
        )
        assert any(parameter.is_meta for parameter in loaded.parameters())
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    @pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor")
    def test_sharded_by_fsdp_it_trains_as_in_one_piece(self, group_of_one: None) -> None:
        """By the units that it names, by accelerate: each has to be called, none read past its forward."""
        # In float64, so that two steps magnify no rounding that hangs on the processor's kernels.
        whole, sharded = self.with_mask_grounding().double(), self.with_mask_grounding().double()
        named = {type(module).__name__ for module in sharded.modules()} & sharded._no_split_modules
        assert named == sharded._no_split_modules
        shard_model(sharded)
        units = {type(module).__name__.removeprefix("FSDP") for module in find_shards(sharded)}
        assert units >= set(classes_to_shard(whole)) and len(units) > 3
        results = []
        for model in (whole, sharded):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            for _ in range(2):
                optimizer.zero_grad()
                loss = model(**self.inputs(), mask_labels=self.labels()).loss
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    results.append((loss.detach(), model(**self.inputs()).logits))
        assert_close(results[2:], results[:2], atol=1e-5, rtol=1e-4)
        assert not torch.equal(results[0][1], results[1][1])
        sharded.reshard()
        for (name, parameter), shard in zip(whole.named_parameters(), sharded.parameters(), strict=True):
            assert isinstance(shard, DTensor)
            # Of what nothing reads there is none, or zeros.
            gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in (shard, parameter)]
            actual, expected = gradients[0].full_tensor(), gradients[1]
            assert_close(actual, expected, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: name + text)

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_gradient_checkpointing_gives_the_same_gradients(self, use_reentrant: bool) -> None:
        # Gradients are summed up in another order: in float64 that makes no difference.
        plain, checkpointed = self.build().double().train(), self.build().double().train()
        checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        assert checkpointed.is_gradient_checkpointing
        for model in (plain, checkpointed):
            torch.manual_seed(0)
            model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        for (name, expected), actual in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
            assert_close(actual.grad, expected.grad, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: name + text)

    def lora_gradients(self, **checkpointing: bool) -> dict[str, Tensor]:
        """The gradients of a LoRA adapter of both encoders, with gradient checkpointing where it has options."""
        model = self.build()
        if checkpointing:
            model.gradient_checkpointing_enable(checkpointing)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=find_attention_projections(model)))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.02)
        model.train()(**self.inputs(), mask_labels=self.labels()).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}

    def test_lora_with_gradient_checkpointing_gives_the_same_gradients(self) -> None:
        plain, checkpointed = self.lora_gradients(), self.lora_gradients(use_reentrant=False)
        assert all(any(encoder in name for name in plain) for encoder in ("backbone.", "text_encoder."))
        for name, gradient in plain.items():
            assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-3, msg=lambda text, name=name: name + text)

    @pytest.mark.parametrize("lora_rank", [None, 2], ids=["heads", "lora"])
    def test_an_adapter_trains_saves_and_loads(self, lora_rank: int | None, tmp_path) -> None:
        self.build(**self.few_layers).save_pretrained(tmp_path / "base")
        base = self.model_class.from_pretrained(tmp_path / "base")
        before = base(**self.inputs()).logits
        model = add_adapter(base, lora_rank=lora_rank).train()
        trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
        adapted = {name.split(".")[2] for name in trained if ".lora_A." in name}
        assert adapted == (set() if lora_rank is None else {"backbone", "text_encoder"})
        model(**self.inputs(), mask_labels=self.labels()).loss.backward()
        assert {name for name, part in model.named_parameters() if part.grad is not None} == trained.keys()
        torch.optim.SGD(trained.values(), lr=0.1).step()
        model.save_pretrained(tmp_path / "adapter")
        with torch.no_grad():
            after, again = (
                each.eval()(**self.inputs()).logits for each in (model, load_with_adapter(tmp_path / "adapter"))
            )
        assert_close(again, after, atol=1e-5, rtol=1e-5)
        assert (after - before).abs().max() > 1e-3

    def test_word_embeddings_can_be_replaced_and_resized(self, tmp_path) -> None:
        model, inputs = self.with_mask_grounding(), self.inputs()
        logits, embeddings = model(**inputs).logits, model.get_input_embeddings()
        assert embeddings in model.text_encoder.modules() and embeddings.num_embeddings == 97
        model.set_input_embeddings(nn.Embedding.from_pretrained(embeddings.weight.detach().flip(0)))
        assert not torch.equal(model(**inputs).logits, logits)
        flipped = {**inputs, "input_ids": 96 - inputs["input_ids"]}
        assert_close(model(**flipped).logits, logits)
        model.set_input_embeddings(embeddings)
        assert model.resize_token_embeddings(99) is model.get_input_embeddings()
        assert torch.equal(model(**inputs).logits, logits)
        inputs["input_ids"][:] = 98
        model.save_pretrained(tmp_path)
        loaded, report = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["mismatched_keys"]
        losses = [each(**inputs, mask_labels=self.labels()).loss for each in (model, loaded)]
        assert torch.equal(*losses) and losses[0].isfinite()

    def test_tuple_output(self) -> None:
        model, inputs = self.build(), self.inputs()
        assert torch.equal(model(**inputs, return_dict=False)[0], model(**inputs).logits)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixel_values": None}, "exactly one of `pixel_values`, `image_embeds` and `encoder_features`"),
            ({"input_ids": None}, "exactly one of `input_ids` and `text_embeds`"),
            ({"pixel_values": torch.zeros(3, 3, 64, 64)}, "got 3 and 2"),
            ({"mask_labels": torch.zeros(2, 32, 36)}, "segmentation_maps"),
            ({"mask_labels": torch.full((2, 64, 72), 255)}, "`mask_labels` hold 255, but only 0"),
            ({"mask_labels": torch.full((2, 64, 72), 0.5)}, "`mask_labels` hold 0.5, but only 0"),
            ({"attention_mask": torch.tensor([[1] * 6, [0] * 6])}, "`attention_mask` is 0 all over text 1"),
            ({"attention_mask": torch.ones(2, 4)}, r"`attention_mask` has shape \(2, 4\), but .* \(2, 6\)"),
            ({"input_ids": torch.ones(6, dtype=torch.long)}, r"`input_ids` have shape \(6,\): pass \(batch, tokens\)"),
            ({"input_ids": torch.full((2, 6), 97)}, r"`input_ids` go from 97 to 97, .* knows 97 tokens"),
            ({"pixel_values": torch.zeros(2, 3, 64, 64, dtype=torch.uint8)}, r"torch\.uint8: pass normalized images"),
            ({"token_type_ids": torch.ones(2, 6, dtype=torch.long)}, "a text is a single sentence"),
            ({"output_hidden_states": [0]}, r"`output_hidden_states` is True or False, not \[0\]"),
        ],
    )
    def test_wrong_inputs_are_named(self, change: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.build()(**{**self.inputs(), **change})
