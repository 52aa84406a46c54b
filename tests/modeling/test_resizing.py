"""Maps that are resized and joined with others have the right gradient, and PyTorch computes it from one block."""

import pytest
import torch
import torch.nn.functional as F

from hf_refseg.modeling import layers_refseg


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_gradient_reaches_the_resizing_in_one_block(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 3, 3).to(memory_format=layout).requires_grad_()
    others, weights = (torch.randn(2, channels, 6, 6).to(memory_format=layout) for channels in (4, 12))
    plain = torch.cat([F.interpolate(maps, size=(6, 6), mode="bilinear", align_corners=True), others], 1)
    (expected,) = torch.autograd.grad((plain * weights).sum(), maps)

    gradients, interpolate = [], F.interpolate

    def watched(*arguments, **keywords) -> torch.Tensor:
        resized = interpolate(*arguments, **keywords)
        resized.register_hook(gradients.append)
        return resized

    monkeypatch.setattr(F, "interpolate", watched)
    joined = torch.cat([layers_refseg.resize(maps, (6, 6), align_corners=True), others], 1)
    (actual,) = torch.autograd.grad((joined * weights).sum(), maps)
    assert torch.equal(joined, plain)
    torch.testing.assert_close(actual, expected)
    assert [gradient.is_contiguous(memory_format=layout) for gradient in gradients] == [True]
