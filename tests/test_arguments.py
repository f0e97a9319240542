"""Whatever is passed for an argument, a public function works or names the argument that it cannot
use.
"""

from __future__ import annotations

import copy
import inspect
import io
import re
import types
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from snnsim import MultiStep, Recorder, calibrate, functional, neurons, quant, surrogate, viz
from snnsim.errors import SnnsimError

X = torch.tensor([[0.25, 0.5, 1.0], [0.0, 0.75, 0.5]])
SEQUENCE = torch.stack([X, X, X, X]).round()
LABELS = torch.tensor([0, 2])
CODEBOOK = quant.uniform(3)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def spiking():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), neurons.LIFNode(state_quant=CODEBOOK))
    nn.init.constant_(net[0].bias, 1.5)
    return MultiStep(net, time_steps=4)


def quantized():
    net = plain()
    quant.quantize(net, weights=8, inputs=quant.QuantDescriptor(8, calib_method="histogram"))
    return net


def filled(calibrator):
    calibrator.collect(X)
    return calibrator


def recorded():
    net = spiking()
    with Recorder(net) as recorder:
        net(X)
    return recorder


def quantizer():
    made = quant.TensorQuantizer(quant.QuantDescriptor(8, calib_method="histogram"))
    made.calibrator.collect(X)
    return made


class Writer:
    def add_scalar(self, tag, scalar_value, global_step):
        pass

    def add_histogram(self, tag, values, global_step):
        pass


class Fresh:
    """A good value that a call changes or uses up: made anew for each."""

    def __init__(self, make):
        self.make = make


# by name: what to call, and a good value for every argument; those in `free` may be anything at
# all, those in `text` any str
CALLS = {
    "quant.Codebook": (
        lambda: quant.Codebook,
        {"levels": [0.0, 1.0], "edges": [0.5], "ste": "clip", "dtype": torch.float32},
    ),
    "quant.Codebook.encode": (lambda: CODEBOOK.encode, {"h": X}),
    "quant.Codebook.decode": (lambda: CODEBOOK.decode, {"codes": LABELS}),
    "quant.Codebook.forward": (lambda: CODEBOOK.forward, {"h": X}),
    "quant.Codebook.snap": (lambda: CODEBOOK.snap, {"target": X, "rest": 0.0}),
    "quant.Codebook.with_rounding": (
        lambda: CODEBOOK.with_rounding,
        {"rounding": "stochastic", "generator": torch.Generator(), "rest": None},
    ),
    "quant.Codebook.with_rounding, toward rest": (
        lambda: CODEBOOK.with_rounding,
        {"rounding": "toward_rest", "generator": None, "rest": 0.0},
    ),
    "quant.Codebook.effective_threshold": (
        lambda: CODEBOOK.effective_threshold,
        {"v_threshold": 1.0},
    ),
    "quant.Codebook.stuck_codes": (lambda: CODEBOOK.stuck_codes, {"leak": 0.5}),
    "quant.StochasticCodebook": (
        lambda: quant.StochasticCodebook,
        {"levels": [0.0, 1.0], "ste": "clip", "generator": torch.Generator()},
    ),
    "quant.LearnedUniform": (
        lambda: quant.LearnedUniform,
        {"bits": 3, "threshold": 1.0, "rest": 0.0, "low": -1.0, "high": 2.0},
    ),
    "quant.LearnedUniform.from_codebook": (
        lambda: quant.LearnedUniform.from_codebook,
        {"codebook": CODEBOOK, "rest": 0.0},
    ),
    "quant.state_quant": (
        lambda: quant.state_quant,
        {
            "num_bits": 3,
            "uniform": False,
            "thr_centered": True,
            "threshold": 1.0,
            "lower_limit": 0.0,
            "upper_limit": 0.2,
            "multiplier": 0.5,
        },
    ),
    "quant.uniform": (
        lambda: quant.uniform,
        {"bits": 3, "threshold": 1.0, "rest": 0.0, "low": -1.0, "high": 2.0},
    ),
    "quant.exponential": (
        lambda: quant.exponential,
        {"bits": 3, "threshold": 1.0, "rest": 0.0, "low": -1.0, "high": 2.0, "ratio": 0.5},
    ),
    "quant.integer_grid": (lambda: quant.integer_grid, {"bits": 3, "frac_bits": 2}),
    "quant.from_levels": (lambda: quant.from_levels, {"levels": [0.0, 1.0], "edges": [0.5]}),
    "quant.QuantDescriptor": (
        lambda: quant.QuantDescriptor,
        {
            "num_bits": 8,
            "name": "weights",
            "fake_quant": True,
            "axis": 0,
            "amax": [1.0, 2.0],
            "learn_amax": False,
            "scale_amax": 2.0,
            "calib_method": "max",
            "unsigned": False,
            "narrow_range": False,
            "power_of_two": False,
        },
    ),
    "quant.QuantDescriptor.from_dict": (
        lambda: quant.QuantDescriptor.from_dict,
        {"values": {"num_bits": 4}},
    ),
    "quant.QuantDescriptor.from_json": (
        lambda: quant.QuantDescriptor.from_json,
        {"text": '{"num_bits": 4}'},
    ),
    "quant.Histogram": (lambda: quant.Histogram, {"num_bins": 8}),
    "quant.Histogram.collect": (lambda: quant.Histogram().collect, {"values": X}),
    "quant.MaxCalibrator": (
        lambda: quant.MaxCalibrator,
        {"num_bits": 8, "axis": 0, "unsigned": False},
    ),
    "quant.MaxCalibrator.collect": (lambda: quant.MaxCalibrator().collect, {"x": X}),
    "quant.HistogramCalibrator": (
        lambda: quant.HistogramCalibrator,
        {"num_bits": 8, "axis": 0, "unsigned": False, "num_bins": 2048},
    ),
    "quant.HistogramCalibrator.collect": (lambda: quant.HistogramCalibrator().collect, {"x": X}),
    "quant.HistogramCalibrator.compute_amax": (
        lambda: filled(quant.HistogramCalibrator()).compute_amax,
        {"method": "percentile", "percentile": 99.0},
    ),
    "quant.TensorQuantizer": (
        lambda: quant.TensorQuantizer,
        {"descriptor": quant.QuantDescriptor()},
    ),
    "quant.TensorQuantizer.amax": (
        lambda: lambda amax: setattr(quantizer(), "amax", amax),
        {"amax": 1.0},
    ),
    "quant.TensorQuantizer.forward": (lambda: quant.TensorQuantizer().forward, {"x": X}),
    "quant.TensorQuantizer.load_calib_amax": (
        lambda: quantizer().load_calib_amax,
        {"method": "percentile", "percentile": 99.0, "name": "first"},
    ),
    "quant.calibrate_inputs": (
        lambda: quant.calibrate_inputs,
        {
            "net": Fresh(quantized),
            "batches": [X],
            "forward": None,
            "method": "mse",
            "percentile": 99.0,
        },
    ),
    "quant.round": (lambda: quant.round, {"x": X}),
    "quant.ceil": (lambda: quant.ceil, {"x": X}),
    "quant.floor": (lambda: quant.floor, {"x": X}),
    "quant.clamp": (lambda: quant.clamp, {"x": X, "min_value": 0.0, "max_value": 1.0}),
    "quant.straight_through": (lambda: quant.straight_through, {"value": X, "source": X}),
    "quant.step_quantize": (lambda: quant.step_quantize, {"x": X, "step": 0.5}),
    "quant.k_bit_quantize": (lambda: quant.k_bit_quantize, {"x": X, "k": 2}),
    "quant.affine_k_bit_quantize": (
        lambda: quant.affine_k_bit_quantize,
        {"x": X, "k": 2, "w": 2.0, "b": 1.0},
    ),
    "quant.clamp_by_linear": (lambda: quant.clamp_by_linear, {"x": X, "eps": 1e-5}),
    "quant.tensor_quant": (
        lambda: quant.tensor_quant,
        {"x": X, "amax": 1.0, "num_bits": 8, "unsigned": False, "narrow_range": True},
    ),
    "quant.fake_tensor_quant": (
        lambda: quant.fake_tensor_quant,
        {"x": X, "amax": 1.0, "num_bits": 8, "unsigned": False, "narrow_range": True},
    ),
    "functional.delay": (lambda: functional.delay, {"x_seq": SEQUENCE, "delay_steps": 1}),
    "functional.first_spike_index": (lambda: functional.first_spike_index, {"spikes": SEQUENCE}),
    "functional.first_spike_time": (
        lambda: functional.first_spike_time,
        {"spikes": SEQUENCE, "none_value": 4.0},
    ),
    "functional.soft_first_spike_time": (
        lambda: functional.soft_first_spike_time,
        {"spikes": SEQUENCE, "none_value": 4.0},
    ),
    "functional.redundant_one_hot": (
        lambda: functional.redundant_one_hot,
        {"labels": LABELS, "num_classes": 3, "n": 2},
    ),
    "functional.kaiming_normal_conv_linear_weight": (
        lambda: functional.kaiming_normal_conv_linear_weight,
        {"net": Fresh(plain)},
    ),
    "functional.set_threshold_margin": (
        lambda: functional.set_threshold_margin,
        {
            "output_layer": Fresh(neurons.IFNode),
            "label_one_hot": torch.eye(3),
            "eval_threshold": 1.0,
            "threshold0": 0.9,
            "threshold1": 1.1,
        },
    ),
    "functional.encode.rate": (
        lambda: functional.encode.rate,
        {"x": X, "time_steps": 3, "generator": torch.Generator()},
    ),
    "functional.encode.latency": (lambda: functional.encode.latency, {"x": X, "time_steps": 3}),
    "functional.encode.phase": (
        lambda: functional.encode.phase,
        {"x": X, "time_steps": 3, "period": 8},
    ),
    "functional.encode.direct": (lambda: functional.encode.direct, {"x": X, "time_steps": 3}),
    "functional.encode.delta": (
        lambda: functional.encode.delta,
        {"x_seq": SEQUENCE, "threshold": 0.5},
    ),
    "functional.decode.rate": (lambda: functional.decode.rate, {"s_seq": SEQUENCE}),
    "functional.decode.first_spike": (lambda: functional.decode.first_spike, {"s_seq": SEQUENCE}),
    "functional.decode.membrane": (lambda: functional.decode.membrane, {"v_seq": SEQUENCE}),
    "functional.loss.rate_mse": (
        lambda: functional.loss.rate_mse,
        {"s_seq": SEQUENCE, "target_rate": X},
    ),
    "functional.loss.rate_cross_entropy": (
        lambda: functional.loss.rate_cross_entropy,
        {"s_seq": SEQUENCE, "labels": LABELS, "scale": 1.0},
    ),
    "functional.loss.spike_count": (
        lambda: functional.loss.spike_count,
        {"s_seq": SEQUENCE, "labels": LABELS, "true_count": 3.0, "false_count": 0.0},
    ),
    "functional.loss.temporal_mse": (
        lambda: functional.loss.temporal_mse,
        {"s_seq": SEQUENCE, "target_time": X},
    ),
    "functional.loss.temporal_cross_entropy": (
        lambda: functional.loss.temporal_cross_entropy,
        {"s_seq": SEQUENCE, "labels": LABELS, "tau": 1.0},
    ),
    "functional.loss.tet": (
        lambda: functional.loss.tet,
        {"x_seq": SEQUENCE, "labels": LABELS, "regularization": 0.05, "target": 1.0},
    ),
    "functional.loss.van_rossum": (
        lambda: functional.loss.van_rossum,
        {"s_seq": SEQUENCE, "target_seq": SEQUENCE, "tau": 2.0},
    ),
    "calibrate.BitSchedule": (
        lambda: calibrate.BitSchedule,
        {"net": Fresh(spiking), "bits": {0: 8}, "make": lambda bits: {}},
    ),
    "calibrate.BitSchedule.step": (
        lambda: calibrate.BitSchedule(spiking(), {0: 8}).step,
        {"epoch": 0},
    ),
    "calibrate.BitSchedule.bits_at": (
        lambda: calibrate.BitSchedule(spiking(), {0: 8}).bits_at,
        {"epoch": 0},
    ),
    "calibrate.Scale": (lambda: calibrate.Scale, {"factor": 2.0}),
    "calibrate.apply": (
        lambda: calibrate.apply,
        {"net": Fresh(spiking), "codebooks": {"net.1": CODEBOOK}},
    ),
    "calibrate.codebooks": (
        lambda: calibrate.codebooks,
        {"net": Fresh(spiking), "bits": 3, "recipe": quant.uniform},
    ),
    "calibrate.convert": (
        lambda: calibrate.convert,
        {"ann": Fresh(plain), "batches": [X], "T": 4, "percentile": 99.9, "per_channel": False},
    ),
    "calibrate.inspect": (lambda: calibrate.inspect, {"net": Fresh(spiking), "batches": [X]}),
    "calibrate.ranges": (
        lambda: calibrate.ranges,
        {"net": Fresh(spiking), "batches": [X], "percentile": 99.0, "per_channel": False},
    ),
    "calibrate.states": (
        lambda: calibrate.states,
        {
            "net": Fresh(spiking),
            "batches": [X],
            "bits": 2,
            "method": "percentile",
            "percentile": 99.0,
            "recipe": quant.uniform,
        },
    ),
    "calibrate.warm_start": (
        lambda: calibrate.warm_start,
        {"net": Fresh(spiking), "state_dict": Fresh(lambda: spiking().state_dict())},
    ),
    "viz.bits_accuracy": (
        lambda: viz.bits_accuracy,
        {
            "results": {"uniform": {2: 0.5}},
            "baseline": 0.9,
            "cost": "bits",
            "baseline_name": "float",
            "ax": None,
        },
    ),
    "viz.codebook": (
        lambda: viz.codebook,
        {"levels": [0.0, 1.0], "edges": [0.5], "v_threshold": 0.5, "ax": None},
    ),
    "viz.event_frame": (
        lambda: viz.event_frame,
        {"frame": torch.ones(2, 3, 3), "full": 2.0, "ax": None},
    ),
    "viz.event_movie": (
        lambda: viz.event_movie,
        {
            "frames": torch.ones(1, 2, 3, 3),
            "path": "movie.gif",
            "step_ms": 1.0,
            "fps": 8.0,
            "full": 2.0,
        },
    ),
    "viz.firing_rates": (lambda: viz.firing_rates, {"rates": {"first": 0.5}, "ax": None}),
    "viz.learning_curve": (
        lambda: viz.learning_curve,
        {"history": [{"loss": [1.0]}], "labels": ["run"], "ax": None},
    ),
    "viz.log": (lambda: viz.log, {"writer": Writer(), "recorder": Fresh(recorded), "step": 0}),
    "viz.membrane": (
        lambda: viz.membrane,
        {
            "v": [0.0, 0.5],
            "levels": [0.0, 0.5],
            "v_threshold": 0.5,
            "spikes": [0, 1],
            "labels": ["neuron"],
            "ax": None,
        },
    ),
    "viz.occupancy": (
        lambda: viz.occupancy,
        {"v": [0.0, 0.5], "levels": [0.0, 0.5], "v_threshold": 0.5, "ax": None},
    ),
    "viz.pareto_front": (lambda: viz.pareto_front, {"costs": [1.0, 2.0], "values": [0.5, 0.9]}),
    "viz.raster": (lambda: viz.raster, {"spikes": SEQUENCE[:, 0], "ax": None}),
    "viz.save": (lambda: viz.save, {"picture": Fresh(Figure), "path": "picture.svg", "dpi": 100}),
    "viz.surrogate": (
        lambda: viz.surrogate,
        {"function": surrogate.ATan(), "span": 2.0, "ax": None},
    ),
    "viz.surrogate_gallery": (
        lambda: viz.surrogate_gallery,
        {"functions": [surrogate.ATan()], "span": 2.0, "axes": None},
    ),
    "viz.weight_histogram": (
        lambda: viz.weight_histogram,
        {"before": X, "after": X.round(), "ax": None},
    ),
}
# what is tried elsewhere: layers and their conversion (tests/quant/test_layers.py,
# test_convert.py), results, neurons, types
ELSEWHERE = {
    *(
        f"quant.{name}"
        for name in quant.__all__
        if name.startswith(("QuantConv", "QuantLinear", "QUANT_DESC"))
    ),
    *("quant.QuantizedWeight", "quant.ConversionReport", "quant.LayerNote"),
    *("quant.quantize", "quant.freeze", "quant.fold_batch_norm", "quant.weight_descriptor"),
    *("calibrate.BalancedIFNode", "calibrate.Finding", "calibrate.Recipe"),
}
HOSTILE = {
    "text": "a",
    "bytes": b"a",
    "None": None,
    "True": True,
    "complex": 1 + 2j,
    "nan": float("nan"),
    "inf": float("inf"),
    "huge int": 10**400,
    "negative": -1,
    "zero": 0,
    "fraction": 1.5,
    "empty list": [],
    "list": [1.0, 0.0],
    "list of text": ["0.5", "1"],
    "list with None": [0.5, None],
    "list of complex": [1j, 2.0],
    "list of huge ints": [0, 10**400],
    "ragged": [[1.0], [1.0, 2.0]],
    "dict": {"a": 1},
    "object": object(),
    "function": lambda *args: None,
    "type": dict,
    "array of text": np.array(["a", "b"]),
    "array": np.array([1.0, 2.0]),
    "complex tensor": torch.tensor([0, 1 + 1j]),
    "empty tensor": torch.zeros(0),
    "four axes": torch.ones(2, 3, 4, 5),
    "int tensor": torch.ones(2, dtype=torch.int64),
    "bool tensor": torch.ones(2, 3, dtype=torch.bool),
    "nan tensor": torch.full((2, 3), torch.nan),
    "scalar tensor": torch.tensor(0.5),
    "module": nn.Linear(1, 1),
    "iterator": iter(()),
    "file": io.StringIO("a"),
}
# never right, unless ACCEPTED says so: whatever comes of these is a guess
NEVER = {
    "text",
    "bytes",
    "complex",
    "list of text",
    "list of complex",
    "array of text",
    "complex tensor",
    "object",
    "dict",
}
# what the user's own network or function is called with, or is
RUN = {"batches", "forward", "leak", "make", "recipe"}
ACCEPTED = {
    ("functional.encode.direct", "x"): {"complex tensor"},
    # text, and a rate of a layer named "a"
    ("viz.bits_accuracy", "cost"): {"text"},
    ("viz.bits_accuracy", "baseline_name"): {"text"},
    ("viz.firing_rates", "rates"): {"dict"},
}


def public_names():
    for package in (
        quant,
        functional,
        functional.encode,
        functional.decode,
        functional.loss,
        calibrate,
        viz,
    ):
        for name in package.__all__:
            if not isinstance(getattr(package, name), types.ModuleType):
                yield f"{package.__name__.removeprefix('snnsim.')}.{name}"


def call(name, **other):
    make, good = CALLS[name]
    values = {
        key: value.make() if isinstance(value, Fresh) else copy.deepcopy(value)
        for key, value in good.items()
    }
    with warnings.catch_warnings():
        # of what the values are; not of numbers that lose their imaginary part
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("error", "Casting complex")
        return make()(**{**values, **other})


def complaint(name, argument, label):
    """What is wrong with the answer to a hostile value; None if nothing is."""
    value = HOSTILE[label]
    try:
        call(name, **{argument: value})
    except Exception as error:  # noqa: BLE001 (most of them are not what a user should see)
        expected = isinstance(error, SnnsimError | TypeError | ValueError)
        # of two that do not fit together either may be named
        named = any(re.search(rf"\b{known}\b", str(error)) for known in CALLS[name][1])
        # raised by a function of the user's own, or by a network that is given other data than it
        # takes
        of_user = argument in RUN and isinstance(value, Iterable | Callable)
        return (
            None
            if (expected and named) or of_user
            else f"{argument}={label}: {type(error).__name__}: {error}"
        )
    guessed = label in NEVER - ACCEPTED.get((name, argument), set())
    return f"{argument}={label}: accepted" if guessed else None


def test_every_public_function_is_tried():
    assert set(public_names()) - ELSEWHERE - set(CALLS) == set()


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_is_tried(name):
    make, good = CALLS[name]
    assert set(inspect.signature(make()).parameters) == set(good)


@pytest.mark.parametrize("name", CALLS)
def test_good_arguments_are_good(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(name)


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_works_or_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [complaint(name, argument, label) for argument in CALLS[name][1] for label in HOSTILE]
    assert [text for text in found if text] == []
