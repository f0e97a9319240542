import pytest
import torch
from torch import nn

from snnsim.quant import layers
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv2d, QuantConvTranspose2d
from snnsim.quant.weight import QuantizedWeight

CONVOLUTIONS = {
    "Conv1d": (2, 4, 9),
    "Conv2d": (2, 4, 9, 8),
    "Conv3d": (2, 4, 5, 6, 5),
    "ConvTranspose1d": (2, 4, 6),
    "ConvTranspose2d": (2, 4, 6, 5),
    "ConvTranspose3d": (2, 4, 3, 4, 3),
}


def spikes(*shape: int) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.3).float()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axis", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_agree_with_torch_on_the_quantized_weight(kind, axis, groups):
    quantized = getattr(layers, "Quant" + kind)
    channel = quantized.channel_axis if axis else None
    arguments = (4, 6, 3, 2, 1)
    layer = quantized(*arguments, groups=groups, weight_quant=QuantDescriptor(4, axis=channel))
    plain = getattr(nn, kind)(*arguments, groups=groups)
    plain.load_state_dict(
        {"weight": layer.quantized_weight().detach(), "bias": layer.bias.detach()}
    )
    s = spikes(*CONVOLUTIONS[kind])
    torch.testing.assert_close(layer(s), plain(s))
    assert torch.equal(torch.cat([layer(s[:1]), layer(s[1:])]), layer(s))


def test_convolution_arguments_keep_their_meaning():
    layer = QuantConv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False)
    plain = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False)
    plain.load_state_dict({"weight": layer.quantized_weight().detach()})
    s = spikes(2, 2, 5, 5)
    torch.testing.assert_close(layer(s), plain(s))
    transposed = QuantConvTranspose2d(2, 3, 3, stride=2)
    assert transposed(s, [12, 12]).shape == (2, 3, 12, 12)
    # no batch axis
    torch.testing.assert_close(layer(s)[0], layer(s[0]))


def test_every_layer_is_the_torch_layer_too():
    for name in layers.__all__:
        layer = getattr(layers, name)
        assert issubclass(layer, QuantizedWeight)
        assert issubclass(layer, getattr(nn, name.removeprefix("Quant")))
