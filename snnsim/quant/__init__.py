"""Which values states, weights and activations may take."""

from snnsim.quant.codebook import Codebook, StochasticCodebook
from snnsim.quant.convert import (
    ConversionReport,
    LayerNote,
    calibrate_inputs,
    fold_batch_norm,
    freeze,
    quantize,
    weight_descriptor,
)
from snnsim.quant.descriptor import (
    QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QUANT_DESC_8BIT_PER_TENSOR,
    QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR,
    QuantDescriptor,
)
from snnsim.quant.functional import (
    affine_k_bit_quantize,
    clamp_by_linear,
    fake_tensor_quant,
    k_bit_quantize,
    step_quantize,
    tensor_quant,
)
from snnsim.quant.layers import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantizedWeight,
    QuantLinear,
)
from snnsim.quant.learned import LearnedUniform
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.quant.ranges import Histogram, HistogramCalibrator, MaxCalibrator
from snnsim.quant.recipes import exponential, from_levels, integer_grid, state_quant, uniform
from snnsim.quant.ste import ceil, clamp, floor, round, straight_through

__all__ = [
    "QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW",
    "QUANT_DESC_8BIT_PER_TENSOR",
    "QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR",
    "Codebook",
    "ConversionReport",
    "Histogram",
    "HistogramCalibrator",
    "LayerNote",
    "LearnedUniform",
    "MaxCalibrator",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantDescriptor",
    "QuantLinear",
    "QuantizedWeight",
    "StochasticCodebook",
    "TensorQuantizer",
    "affine_k_bit_quantize",
    "calibrate_inputs",
    "ceil",
    "clamp",
    "clamp_by_linear",
    "exponential",
    "fake_tensor_quant",
    "floor",
    "fold_batch_norm",
    "freeze",
    "from_levels",
    "integer_grid",
    "k_bit_quantize",
    "quantize",
    "round",
    "state_quant",
    "step_quantize",
    "straight_through",
    "tensor_quant",
    "uniform",
    "weight_descriptor",
]
