"""Batch normalization to the scale of the threshold."""

from __future__ import annotations

from typing import Any

from torch import nn

from snnsim._core.checks import checked_number

__all__ = ["ThresholdDependentBatchNorm1d", "ThresholdDependentBatchNorm2d"]


class _ThresholdDependent(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose output starts with standard deviation `alpha * v_threshold`, so that neurons
    behind it fire from the start.

        y = weight (x - mean) / sqrt(variance + eps) + bias,   weight = alpha * v_threshold at first

    Mean and variance of a channel are over time, batch and space, which is what MultiStep's folded
    batch `[T*B, C, ...]` gives; in SingleStep every time step is normalized by itself while
    training. `quant.fold_batch_norm` folds it as any batch norm.

    Args:
        num_features: channels.
        v_threshold: threshold of the neurons behind it, above 0.
        alpha: 1, or 1/sqrt(n) where the outputs of n such layers are added, as in a residual block;
            above 0.
        options: eps, momentum, track_running_stats, device and dtype, as for torch's batch norm.

    Source: Zheng et al. 2021, "Going Deeper With Directly-Trained Larger Spiking Neural Networks",
        arXiv 2011.05280; alpha *
    v_threshold, there a fixed factor of a learned weight, is the first value of that weight here.
    """

    def __init__(
        self, num_features: int, v_threshold: float = 1.0, alpha: float = 1.0, **options: Any
    ) -> None:
        who = type(self).__name__
        self.first_weight = checked_number(
            who, "v_threshold", v_threshold, above=0
        ) * checked_number(who, "alpha", alpha, above=0)
        super().__init__(num_features, **options)

    def reset_parameters(self) -> None:
        """Running statistics of no data, bias 0, weight `alpha * v_threshold`."""
        super().reset_parameters()
        nn.init.constant_(self.weight, self.first_weight)


class ThresholdDependentBatchNorm1d(_ThresholdDependent, nn.BatchNorm1d):
    __doc__ = _ThresholdDependent.__doc__


class ThresholdDependentBatchNorm2d(_ThresholdDependent, nn.BatchNorm2d):
    __doc__ = _ThresholdDependent.__doc__
