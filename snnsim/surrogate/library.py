"""The surrogates in common use: for each its derivative and, where one exists in closed form, its
primitive.

`x` is the distance to the threshold, `q - v_threshold`. Every formula is written so that no
intermediate overflows to NaN for large or infinite `x`, and so that autograd of a primitive gives
the derivative at every point where the derivative is continuous, x = 0 included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snnsim.surrogate.base import Surrogate, parameter

__all__ = [
    "S2NN",
    "ATan",
    "Erf",
    "FastSigmoid",
    "LeakyKReLU",
    "LogTailedReLU",
    "MultiGaussian",
    "NonzeroSignLogAbs",
    "PiecewiseExp",
    "PiecewiseLeakyReLU",
    "PiecewiseQuadratic",
    "QPseudoSpike",
    "Rect",
    "Sigmoid",
    "SoftSign",
    "StraightThrough",
    "SuperSpike",
    "Triangle",
]


def _magnitude(x: Tensor) -> Tensor:
    """abs(x), with slope +1 at 0, where torch.abs has slope 0."""
    return torch.where(x < 0, -x, x)


def _finite(x: Tensor) -> Tensor:
    """`x` with infinities replaced by the largest finite numbers: keeps inf / inf and 0 * inf out
    of a formula.
    """
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)


def _soft_sign(z: Tensor) -> Tensor:
    """z / (1 + abs(z)), -1 to 1."""
    z = _finite(z)
    return z / (1 + z.abs())


def _soft_sign_slope(z: Tensor) -> Tensor:
    """1 / (1 + abs(z))^2, the derivative of `_soft_sign`."""
    # the inverse first: its square cannot overflow, in either direction of differentiation
    return (1 + z.abs()).reciprocal().square()


def _sigmoid_slope(z: Tensor) -> Tensor:
    """sigmoid(z) (1 - sigmoid(z)); 1 - sigmoid(z) is sigmoid(-z), which keeps its precision in the
    tail.
    """
    return torch.sigmoid(z) * torch.sigmoid(-z)


def _tent(z: Tensor) -> Tensor:
    """max(0, 1 - abs(z))."""
    return (1 - z.abs()).clamp(min=0)


def _tent_area(z: Tensor) -> Tensor:
    """Integral of `_tent` from minus infinity to z, 0 to 1."""
    z = z.clamp(-1, 1)
    return z - z * z.abs() / 2 + 0.5


@dataclass(frozen=True)
class PiecewiseQuadratic(Surrogate):
    """Triangular slope of height alpha; its primitive is made of two parabolas.

    derivative  max(0, alpha - alpha^2 abs(x))
    primitive   alpha x - alpha^2 x abs(x)/2 + 1/2 for abs(x) <= 1/alpha, 0 below, 1 above

    Source: Esser et al. 2016, "Convolutional Networks for Fast, Energy-Efficient Neuromorphic
    Computing", arXiv 1603.08270; Bellec et al. 2018, arXiv 1803.09574.
    """

    alpha: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha * _tent(self.alpha * x)

    def primitive(self, x: Tensor) -> Tensor:
        return _tent_area(self.alpha * x)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """Triangular slope of area 1 that is 0 beyond `width`: `PiecewiseQuadratic(1 / width)`, named
    by its width.

    derivative  max(0, 1 - abs(x)/width) / width

    Source: as for PiecewiseQuadratic.
    """

    width: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return _tent(x / self.width) / self.width

    def primitive(self, x: Tensor) -> Tensor:
        return _tent_area(x / self.width)


@dataclass(frozen=True)
class PiecewiseExp(Surrogate):
    """Slope that decays exponentially on both sides of the threshold.

    derivative  alpha/2 exp(-alpha abs(x))
    primitive   exp(alpha x)/2 for x < 0, 1 - exp(-alpha x)/2 else

    Source: Shrestha & Orchard 2018, "SLAYER: Spike Layer Error Reassignment in Time", arXiv
    1810.08646.
    """

    alpha: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha / 2 * torch.exp(-self.alpha * x.abs())

    def primitive(self, x: Tensor) -> Tensor:
        tail = torch.exp(-self.alpha * _magnitude(x)) / 2
        return torch.where(x < 0, tail, 1 - tail)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """Slope of the logistic function.

    derivative  alpha s (1 - s), s = sigmoid(alpha x)
    primitive   s

    Source: Wu et al. 2018, "Spatio-Temporal Backpropagation for Training High-Performance Spiking
    Neural Networks", arXiv 1706.02609.
    """

    alpha: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha * _sigmoid_slope(self.alpha * x)

    def primitive(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.alpha * x)


@dataclass(frozen=True)
class SoftSign(Surrogate):
    """Slope of the soft sign, scaled to the range 0 to 1.

    derivative  alpha / (2 (1 + abs(alpha x))^2)
    primitive   (alpha x / (1 + abs(alpha x)) + 1) / 2

    Source: Zenke & Ganguli 2018, "SuperSpike", arXiv 1705.11146.
    """

    alpha: float = parameter(2.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha / 2 * _soft_sign_slope(self.alpha * x)

    def primitive(self, x: Tensor) -> Tensor:
        return (_soft_sign(self.alpha * x) + 1) / 2


@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """Slope of the soft sign, scaled in height only.

    derivative  alpha / (1 + abs(x))^2
    primitive   alpha x / (1 + abs(x)), from -alpha to alpha, not 0 to 1

    Source: Zenke & Ganguli 2018, "SuperSpike", arXiv 1705.11146.
    """

    alpha: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha * _soft_sign_slope(x)

    def primitive(self, x: Tensor) -> Tensor:
        return self.alpha * _soft_sign(x)


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """Slope of the soft sign, scaled in width only: its height is 1 for every `slope`.

    derivative  1 / (1 + slope abs(x))^2
    primitive   x / (1 + slope abs(x)), from -1/slope to 1/slope, not 0 to 1

    Source: Zenke & Ganguli 2018, "SuperSpike", arXiv 1705.11146; in this scaling Zenke & Vogels
    2021, "The Remarkable Robustness of Surrogate Gradient Learning", Neural Computation 33(4).
    """

    slope: float = parameter(25.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return _soft_sign_slope(self.slope * x)

    def primitive(self, x: Tensor) -> Tensor:
        return _soft_sign(self.slope * x) / self.slope


@dataclass(frozen=True)
class ATan(Surrogate):
    """Slope of the arc tangent; the default of every neuron.

    derivative  alpha / (2 (1 + (pi alpha x / 2)^2))
    primitive   atan(pi alpha x / 2) / pi + 1/2

    Source: Fang et al. 2021, "Incorporating Learnable Membrane Time Constant to Enhance Learning of
    Spiking Neural Networks", arXiv 2007.05785.
    """

    alpha: float = parameter(2.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        # the factor in front is inside the sum and the square: an operation less for each element
        return (2 / self.alpha + (math.pi * math.sqrt(self.alpha / 2) * x).square()).reciprocal()

    def primitive(self, x: Tensor) -> Tensor:
        return torch.atan(math.pi / 2 * self.alpha * x) / math.pi + 0.5


@dataclass(frozen=True)
class NonzeroSignLogAbs(Surrogate):
    """Slope that falls like 1/abs(x), so that gradient reaches neurons far from the threshold.

    derivative  alpha / (1 + abs(alpha x))
    primitive   sign(x) log(1 + abs(alpha x)), sign(0) = 1; unbounded on both sides, not 0 to 1

    Source: Fang et al. 2023, "SpikingJelly", Science Advances 9(40).
    """

    alpha: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha / (1 + (self.alpha * x).abs())

    def primitive(self, x: Tensor) -> Tensor:
        size = torch.log1p(self.alpha * _magnitude(x))
        return torch.where(x < 0, -size, size)


@dataclass(frozen=True)
class Erf(Surrogate):
    """Gaussian slope; its primitive is the error function.

    derivative  alpha / sqrt(pi) exp(-alpha^2 x^2)
    primitive   erfc(-alpha x) / 2

    Source: Wu et al. 2018, "Spatio-Temporal Backpropagation", arXiv 1706.02609 (the Gaussian curve
    h4).
    """

    alpha: float = parameter(2.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha / math.sqrt(math.pi) * torch.exp(-(self.alpha * x).square())

    def primitive(self, x: Tensor) -> Tensor:
        return torch.erfc(-self.alpha * x) / 2


@dataclass(frozen=True)
class PiecewiseLeakyReLU(Surrogate):
    """Rectangular slope of half width `w`, with a small constant slope `c` outside.

    derivative  1/(2w) for abs(x) <= w, c outside
    primitive   x/(2w) + 1/2 inside; c x + c w below; c x - c w + 1 above

    Source: the rectangle of Wu et al. 2018, arXiv 1706.02609, with leaky tails. An older published
    form has slope 1/w inside, which is not the derivative of its primitive; here it is 1/(2w).
    """

    w: float = parameter(1.0, above=0)
    c: float = parameter(0.01, at_least=0)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.c).masked_fill(x.abs() <= self.w, 1 / (2 * self.w))

    def primitive(self, x: Tensor) -> Tensor:
        inside = x.clamp(-self.w, self.w)
        return inside / (2 * self.w) + 0.5 + self.c * (_finite(x) - inside)


@dataclass(frozen=True)
class Rect(Surrogate):
    """Rectangular slope of height alpha and area 1.

    derivative  alpha where abs(x) < 1/(2 alpha), 0 elsewhere
    primitive   alpha x + 1/2, limited to 0..1

    Source: Wu et al. 2018, "Spatio-Temporal Backpropagation", arXiv 1706.02609 (the rectangular
    curve h1).
    """

    alpha: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).masked_fill(x.abs() < 1 / (2 * self.alpha), self.alpha)

    def primitive(self, x: Tensor) -> Tensor:
        return (self.alpha * x + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """Slope 1 everywhere: the step is passed as if it were the identity.

    derivative  1
    primitive   x, unbounded on both sides, not 0 to 1

    Source: Bengio, Leonard & Courville 2013, arXiv 1308.3432.
    """

    def derivative(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def primitive(self, x: Tensor) -> Tensor:
        return x.clone()


@dataclass(frozen=True)
class QPseudoSpike(Surrogate):
    """Slope with a power-law tail whose weight `alpha` sets: near 1 a heavy tail, large values an
    exponential one.

    derivative  (1 + 2 abs(x) / (alpha - 1))^-alpha
    primitive   t/2 for x < 0, 1 - t/2 else, with t = (1 + 2 abs(x) / (alpha - 1))^(1 - alpha)

    Source: Herranz-Celotti & Rouat 2022, "Surrogate Gradients Design", arXiv 2202.00282. The
    primitive is ours.
    """

    alpha: float = parameter(2.0, above=1)

    def derivative(self, x: Tensor) -> Tensor:
        return (1 + 2 / (self.alpha - 1) * x.abs()).pow(-self.alpha)

    def primitive(self, x: Tensor) -> Tensor:
        tail = (1 + 2 / (self.alpha - 1) * _magnitude(x)).pow(1 - self.alpha) / 2
        return torch.where(x < 0, tail, 1 - tail)


@dataclass(frozen=True)
class S2NN(Surrogate):
    """Sigmoid slope below the threshold, hyperbolic above; the two sides meet only where alpha = 4
    beta.

    derivative  alpha s (1 - s) with s = sigmoid(alpha x) for x < 0; beta / (x + 1) else
    primitive   s for x < 0; beta log(x + 1) + 1/2 else, unbounded above

    Source: Suetake et al. 2022, "S2NN: Time Step Reduction of Spiking Surrogate Gradients for
    Training Energy Efficient Single-Step Neural Networks", arXiv 2201.10879.
    """

    alpha: float = parameter(4.0, above=0)
    beta: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        # limited to its own side, so that the branch not taken is finite and its gradient is not
        # NaN
        above = x.clamp(min=0)
        return torch.where(
            x < 0, self.alpha * _sigmoid_slope(self.alpha * x), self.beta / (above + 1)
        )

    def primitive(self, x: Tensor) -> Tensor:
        above = x.clamp(min=0)
        return torch.where(
            x < 0, torch.sigmoid(self.alpha * x), self.beta * torch.log1p(above) + 0.5
        )


@dataclass(frozen=True)
class LeakyKReLU(Surrogate):
    """Slope `k` at and above the threshold, `leak` below.

    derivative  k for x >= 0, leak below
    primitive   k x for x >= 0, leak x below; unbounded, not 0 to 1

    Source: Fang et al. 2023, "SpikingJelly", Science Advances 9(40).
    """

    leak: float = parameter(0.0, at_least=0)
    k: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.leak).masked_fill(x >= 0, self.k)

    def primitive(self, x: Tensor) -> Tensor:
        x = _finite(x)
        return torch.where(x >= 0, self.k * x, self.leak * x)


@dataclass(frozen=True)
class LogTailedReLU(Surrogate):
    """Slope 1 up to one unit above the threshold, then falling like 1/x; `alpha` at and below the
    threshold.

    derivative  alpha for x <= 0, 1 for 0 < x <= 1, 1/x above
    primitive   alpha x for x <= 0, x for 0 < x <= 1, 1 + log(x) above; unbounded, not 0 to 1

    Source: Cai et al. 2017, "Deep Learning with Low Precision by Half-wave Gaussian Quantization",
    arXiv 1702.00953.
    """

    alpha: float = parameter(0.0, at_least=0)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.where(x <= 0, self.alpha, 1 / x.clamp(min=1))

    def primitive(self, x: Tensor) -> Tensor:
        above = torch.where(x <= 1, x, 1 + torch.log(x.clamp(min=1)))
        return torch.where(x <= 0, self.alpha * _finite(x), above)


@dataclass(frozen=True)
class MultiGaussian(Surrogate):
    """Gaussian slope with negative lobes on both sides, made of three normal densities.

    derivative  gain ((1 + height) N(x; 0, width) - height N(x; width, scale width) - height N(x;
    -width, scale width))
    primitive   the same with normal distribution functions for the densities N(x; mean, standard
    deviation)

    Source: Yin, Corradi & Bohte 2021, "Accurate and efficient time-domain classification with
    adaptive spiking recurrent neural networks", arXiv 2103.12593. The primitive is ours.
    """

    height: float = parameter(0.15, at_least=0)
    scale: float = parameter(6.0, above=0)
    width: float = parameter(0.5, above=0)
    gain: float = parameter(0.5, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        centre, right, left = (torch.exp(-z.square() / 2) for z in self._standardized(x))
        area = self.width * math.sqrt(2 * math.pi)
        return (
            self.gain
            / area
            * ((1 + self.height) * centre - self.height / self.scale * (right + left))
        )

    def primitive(self, x: Tensor) -> Tensor:
        centre, right, left = (torch.special.ndtr(z) for z in self._standardized(x))
        return self.gain * ((1 + self.height) * centre - self.height * (right + left))

    def _standardized(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance of `x` from the three means, in standard deviations."""
        side = self.scale * self.width
        return x / self.width, (x - self.width) / side, (x + self.width) / side
