"""Random networks, lowered and compared with their own forward: equal, or refused by the name of a
part.

    python -m tests.deploy.random_networks --seeds 1000 --start 0 [--c]

A number makes a network: every operation and geometry, layers and pools used twice, tied,
parametrized and pruned weights, hooks, methods put in place of a layer's or a neuron's, dtypes,
norms kept in training, input ranges. `--c` compiles the generated C under sanitizers and compares
it too.
"""

import argparse
import copy
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from snnsim import MultiStep, SingleStep, layers, neurons, quant
from snnsim.deploy import IntegerNetwork, lower, to_grid, verify
from snnsim.errors import SnnsimError
from snnsim.layers.time import Scale
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantLinear
from snnsim.quant.recipes import LearnedUniform

# a network that `to_grid` has rounded fires almost as it did; chance differences grow from layer to
# layer
CHANGED = 0.25
SANITIZED = [
    "-std=c99",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]


class Fault(AssertionError):
    """Something that is neither equal nor refused by name."""


class Noise(nn.Module):
    def forward(self, w):
        return w + torch.randn_like(w)


class Drawn(nn.Module):
    """A network that is a list of steps; a step is the name of a function, what it is given, and
    where its values come from.

    Step `i` returns value `i + 1`; value 0 is the input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self.steps = []

    def forward(self, x):
        values = [x]
        for kind, argument, *sources in self.steps:
            given = [values[source] for source in sources]
            values.append(
                self.parts[argument](*given)
                if kind == "call"
                else FUNCTIONS[kind](*given, argument)
            )
        return values[-1]


def _added_in_place(x, y, _):
    x += y
    return x


FUNCTIONS = {
    "add": lambda x, y, _: x + y,
    "add in place": _added_in_place,
    "view": lambda x, _: x.view(x.size(0), -1),
    "reshape": lambda x, _: x.reshape(x.shape[0], -1),
    "flatten": lambda x, start: torch.flatten(x, start),
    "view of sizes": lambda x, sizes: x.view(-1, *sizes),
    "mean": lambda x, dims: x.mean(dims),
    "mean that keeps": lambda x, dims: x.mean(dims, keepdim=True),
    "average": lambda x, size: nn.functional.avg_pool2d(x, size),
    "maximum": lambda x, size: nn.functional.max_pool2d(x, size),
    "double": lambda x, _: x * 2,
}


class Doubled(QuantLinear):
    def forward(self, x):
        return super().forward(x) * 2


@dataclass
class Case:
    """A network, and how it is lowered and fed.

    Attributes:
        shape, bounds: of one sample of its input.
        dtype: of network and input.
        time_steps: of a static input, or None.
        real: the input holds fractions, for an `input_quant`.
    """

    net: Drawn
    shape: tuple
    bounds: tuple
    dtype: torch.dtype = torch.float32
    time_steps: int | None = None
    real: bool = False

    def runner(self):
        return MultiStep(self.net, time_steps=self.time_steps)

    def inputs(self, batch, steps=6):
        size = (batch, *self.shape) if self.time_steps else (steps, batch, *self.shape)
        if self.real:
            return torch.rand(size, dtype=self.dtype)
        low, high = self.bounds
        x = torch.randint(low, high + 1, size)
        # events: most of them none
        return (x * (torch.rand(size) < 0.5)).to(self.dtype)


class Draw:
    """Draws one network, piece by piece."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.net = Drawn()
        self.shape = ()
        # values that hold whole numbers, and may be read again: (value, shape)
        self.earlier = []

    def chance(self, probability):
        return self.random.random() < probability

    def of(self, *values):
        return values[self.random.integers(len(values))]

    def within(self, low, high):
        return int(self.random.integers(low, high + 1))

    # what stands last
    @property
    def last(self):
        return len(self.net.steps)

    def step(self, kind, argument, *sources):
        self.net.steps.append((kind, argument, *(sources or (self.last,))))

    def call(self, module, *sources):
        name = f"p{len(self.net.parts)}"
        self.net.parts[name] = module
        self.step("call", name, *sources)
        return name

    def measure(self):
        """The shape of the last value, as torch finds it."""
        net = copy.deepcopy(self.net).float().eval()
        with torch.no_grad():
            self.shape = tuple(net(torch.zeros(2, *self.first))[0].shape)

    def case(self):
        axes = self.within(1, 3)
        self.first = {
            1: (self.within(1, 12),),
            2: (self.within(1, 4), self.within(4, 9)),
            3: (self.within(1, 4), self.within(4, 8), self.within(4, 8)),
        }[axes]
        self.shape = self.first
        bounds = self.of((0, 1), (0, 1), (0, 1), (0, 255), (-3, 3), (0, 4))
        case = Case(self.net, self.first, bounds)
        case.time_steps = self.of(None, None, None, 5)
        for stage in range(self.within(1, 3)):
            self.stage(stage, case)
        if self.chance(0.15):
            self.product(None)
        self.trouble(case)
        return case

    def stage(self, stage, case):
        """A neuron, with what is in front of it."""
        if self.chance(0.35):
            self.change_shape()
        if self.chance(0.3):
            self.pool()
        inputs = None
        if stage == 0 and self.chance(0.15) and case.bounds == (0, 1):
            case.real = True
            amax = self.of(1.0, 255 / 256, 15 / 16)
            inputs = QuantDescriptor(
                self.of(4, 8), unsigned=True, amax=amax, power_of_two=self.chance(0.3)
            )
        shape, source = self.shape, self.last
        self.product(inputs)
        if self.chance(0.2):
            # a second branch of the same shape, or the same layer once more
            first, width = self.last, self.shape
            self.shape = shape
            self.product(None, source)
            if self.shape == width:
                self.step("add", None, first, self.last)
            else:
                # the layer stays in the network, and nothing calls it
                del self.net.steps[first:]
                self.shape = width
        elif self.chance(0.08):
            self.step("add", None, self.last, self.last)
        if self.chance(0.25):
            self.pool()
        self.neuron()
        same = [value for value, earlier in self.earlier if earlier == self.shape]
        if same and self.chance(0.4):
            self.step(self.of("add", "add", "add", "add in place"), None, self.last, self.of(*same))
        self.earlier.append((self.last, self.shape))

    def change_shape(self):
        before = self.shape
        if self.chance(0.2):
            self.call(self.of(nn.Identity(), nn.Dropout(0.5), layers.Delay(self.within(0, 2))))
        if len(before) > 1:
            kind = self.of("view", "reshape", "flatten", "module", "sizes")
            if kind == "module":
                self.call(nn.Flatten())
            elif kind == "sizes":
                self.step("view of sizes", (before[0], int(np.prod(before[1:]))))
            else:
                self.step(kind, 1)
        elif before[0] % 2 == 0 and self.chance(0.5):
            self.call(nn.Unflatten(1, (2, before[0] // 2)))
        self.measure()

    def pool(self):
        spatial = len(self.shape) - 1
        if spatial == 0:
            return
        size = min(self.shape[1:])
        kernel = self.within(1, min(3, size))
        options = {"stride": self.within(1, 2), "padding": self.within(0, kernel // 2)}
        kinds = {
            1: (nn.AvgPool1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
            2: (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
        }[spatial]
        choice = self.within(0, 6)
        again = [name for name, m in self.net.parts.items() if isinstance(m, kinds)]
        if again and self.chance(0.3):
            # one module in two places
            self.step("call", self.of(*again))
        elif choice < 2:
            listed = [kernel] * spatial if self.chance(0.3) else kernel
            self.call(kinds[choice](listed, **options))
        elif choice < 4:
            self.call(kinds[choice](self.of(1, 1, 2)))
        elif choice == 4:
            self.step(self.of("mean", "mean that keeps"), tuple(range(2, 2 + spatial)))
        elif spatial == 2:
            self.step("average" if choice == 5 else "maximum", kernel)
        self.measure()

    def quantizer(self):
        bits = self.of(1, 2, 3, 4, 8, 8, 8)
        axis = self.of(0, 0, None)
        if self.chance(0.3):
            return QuantDescriptor(bits, learn_amax=True, narrow_range=bits > 1)
        return QuantDescriptor(bits, axis=axis, narrow_range=bits == 2 or self.chance(0.3))

    def product(self, inputs, *sources):
        """A layer with quantized weights, and what may be done to it."""
        spatial = len(self.shape) - 1
        options = {
            "bias": self.chance(0.7),
            "weight_quant": self.quantizer(),
            "input_quant": inputs,
        }
        tied = [
            m
            for m in self.net.parts.values()
            if isinstance(m, QuantLinear | QuantConv1d | QuantConv2d)
        ]
        if spatial == 0:
            again = [
                name
                for name, m in self.net.parts.items()
                if type(m) is QuantLinear and m.in_features == self.shape[0]
            ]
            if again and inputs is None and self.chance(0.3):
                self.step("call", self.of(*again), *sources)
                self.measure()
                return
            width = self.of(self.shape[0], self.within(1, 12))
            layer = QuantLinear(self.shape[0], width, **options)
        else:
            groups = self.of(1, 1, self.shape[0])
            kernel = self.within(1, min(3, *self.shape[1:]))
            geometry = {
                "stride": self.within(1, 2),
                "padding": self.of(0, kernel // 2, 1),
                "dilation": self.of(1, 1, 2) if kernel <= 2 else 1,
                "groups": groups,
            }
            if geometry["stride"] == 1 and self.chance(0.1):
                geometry["padding"] = "same"
            kind = QuantConv1d if spatial == 1 else QuantConv2d
            layer = kind(self.shape[0], groups * self.within(1, 3), kernel, **geometry, **options)
        for other in tied:
            if (
                other.weight.shape == layer.weight.shape
                and self.chance(0.3)
                and isinstance(other.weight, nn.Parameter)
            ):
                layer.weight = other.weight
                break
        else:
            with torch.no_grad():
                layer.weight.mul_(self.of(1.0, 3.0, 6.0, 20.0))
                if self.chance(0.1):
                    layer.weight[self.within(0, len(layer.weight) - 1)] = 0
                if layer.bias is not None and self.chance(0.1):
                    layer.bias[0] = -6.0
            if layer.weight_quantizer.descriptor.learn_amax:
                layer.reset_learned_range()
        if self.chance(0.06):
            self.of(
                parametrizations.spectral_norm,
                parametrizations.orthogonal,
                parametrizations.weight_norm,
            )(layer)
        if self.chance(0.04):
            layer.weight_quantizer.descriptor = QuantDescriptor(12, axis=0)
        self.call(layer, *sources)
        self.measure()
        if self.chance(0.25):
            self.norm()

    def norm(self):
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[len(self.shape) - 1](self.shape[0])
        with torch.no_grad():
            norm.running_mean.copy_(0.3 * torch.randn(self.shape[0]))
            norm.running_var.copy_(torch.rand(self.shape[0]) + 0.1)
            norm.weight.copy_(torch.randn(self.shape[0]))
            norm.bias.copy_(0.3 * torch.randn(self.shape[0]))
            if self.chance(0.1):
                norm.weight[0] = 0
        self.call(norm)

    def codebook(self):
        bits = self.of(1, 2, 3, 4, 4, 6, 8)
        kind = self.of(quant.uniform, quant.uniform, quant.exponential)
        if self.chance(0.1):
            return LearnedUniform(bits)
        return kind(bits)

    def constant(self, low, high):
        """A number, or one for each channel, row or neuron."""
        choice = self.within(0, 9)
        if choice < 7:
            return self.of(2.0, 4.0, 3.0, float(self.random.uniform(low, high)))
        shape = (
            self.shape
            if choice == 9
            else tuple(
                size if i == (0 if choice == 7 else len(self.shape) - 1) else 1
                for i, size in enumerate(self.shape)
            )
        )
        return torch.from_numpy(self.random.uniform(low, high, shape)).float()

    def neuron(self):
        if self.chance(0.06):
            # as calibrate.convert makes them
            self.call(
                neurons.IFNode(
                    v_threshold=1.5, v_reset=None, state_quant=quant.uniform(6, threshold=1.5)
                )
            )
            self.call(Scale(self.of(1.5, 0.3)))
            return
        options = {
            "v_reset": self.of(0.0, None),
            "state_quant": self.codebook(),
            "min_decay": self.chance(0.1),
        }
        leaky = {"tau": self.constant(1.5, 6.0), "decay_input": self.chance(0.7)}
        kind = self.within(0, 9)
        while True:
            try:
                if kind < 3:
                    node = neurons.IFNode(**options)
                elif kind < 7:
                    node = neurons.LIFNode(**leaky, **options)
                elif kind == 7:
                    node = neurons.ParametricLIFNode(
                        float(self.random.uniform(1.5, 5.0)), **options
                    )
                elif kind == 8:
                    node = neurons.SynapticNode(
                        0.6,
                        0.7,
                        state_quant=options["state_quant"],
                        current_quant=quant.uniform(6, low=-3.0, high=3.0),
                    )
                else:
                    node = neurons.LIReadout(self.of(2.0, 3.0), state_quant=options["state_quant"])
                break
            except SnnsimError:
                # of few bits a neuron may not come back from a spike
                options["state_quant"] = quant.uniform(self.within(3, 8))
        self.call(node)

    def trouble(self, case):
        """What lowering has to see, in a few networks."""
        parts = list(self.net.parts.values())
        part = self.of(*parts)
        kind = self.within(0, 39)
        if kind == 0:
            part.register_forward_hook(lambda module, inputs, output: output * 2)
        elif kind == 1:
            part.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
        elif kind == 2:
            self.net.register_forward_hook(lambda module, inputs, output: output * 2)
        elif kind == 3:
            forward = part.forward
            part.forward = lambda x: forward(x) * 2
        elif kind == 4 and isinstance(part, QuantLinear) and type(part) is QuantLinear:
            part.__class__ = Doubled
        elif kind == 5 and hasattr(part, "charge"):
            charge = part.charge
            part.charge = lambda x, v: charge(2 * x, v)
        elif kind == 6:
            case.dtype = self.of(torch.float16, torch.bfloat16)
        elif kind in (7, 8):
            case.dtype = torch.float64
        elif (
            kind == 9
            and isinstance(part, QuantLinear | QuantConv1d | QuantConv2d)
            and isinstance(part.weight, nn.Parameter)
        ):
            prune.random_unstructured(part, "weight", 0.4)
        elif kind == 10:
            self.step("double", None)
        elif kind == 11 and isinstance(part, QuantLinear | QuantConv1d | QuantConv2d):
            part.freeze()
        elif kind == 12 and hasattr(part, "fire"):
            part.fire = lambda q: ((q >= 1) & (q < 1.3)).to(q.dtype)
        elif kind == 13 and hasattr(part, "fire"):
            part.leak = lambda v: v / 2 if bool(v.max() > 0.5) else v / 4
        elif (
            kind == 14
            and isinstance(part, QuantLinear | QuantConv1d | QuantConv2d)
            and isinstance(part.weight, nn.Parameter)
        ):
            parametrize.register_parametrization(part, "weight", Noise())
        self.net.to(case.dtype)


def draw(seed):
    """The network of a number."""
    torch.manual_seed(seed)
    while True:
        drawn = Draw(seed)
        try:
            return drawn.case()
        except SnnsimError:
            raise
        except (RuntimeError, ValueError):
            # a geometry that torch refuses
            seed += 1_000_003


def named(refusal, net):
    """Whether a refusal says of which part it speaks."""
    names = [name for name, _ in net.named_modules() if name]
    text = str(refusal)
    return (
        "network" in text
        or "input_" in text
        or any(repr(name) in text for name in names)
        or bool(re.match(r"'\w+' ", text))
    )


def gridded(case, grid_bits):
    """Put the network on a grid, as its refusals say; None, or the refusal that stays."""
    for _ in range(3):
        kinds = [type(module) for module in case.net.modules()]
        state = copy.deepcopy(case.net.state_dict())
        try:
            to_grid(case.runner(), grid_bits, input_shape=case.shape, input_range=case.bounds)
            return None
        except SnnsimError as problem:
            refusal = problem
        if [type(module) for module in case.net.modules()] != kinds or not same(
            state, case.net.state_dict()
        ):
            raise Fault(f"a refusal changed the network: {refusal}")
        if not named(refusal, case.net):
            raise Fault(f"a refusal names no part: {refusal}")
        remedy = re.search(r"grid_bits=(\d+)(?:\)| or more|,)", str(refusal).split(":", 1)[-1])
        if remedy is None or int(remedy[1]) == grid_bits:
            if remedy is not None:
                raise Fault(f"a refusal names what was done: {refusal}")
            return refusal
        grid_bits = int(remedy[1])
    return refusal


def same(state, other):
    return state.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in state.items() if torch.is_tensor(value)
    )


def outputs(case, x, single=False):
    net = case.net.eval()
    runner = (
        SingleStep(net, time_steps=case.time_steps)
        if single
        else MultiStep(net, time_steps=case.time_steps)
    )
    with torch.no_grad():
        return runner(x)


def equal(what, found, expected):
    if found.shape != expected.shape:
        raise Fault(f"{what}: shape {tuple(found.shape)}, and {tuple(expected.shape)} expected")
    differing = int((found.double() != expected.double()).sum())
    if differing:
        raise Fault(f"{what}: {differing} of {expected.numel()} outputs differ")


def check(seed, compiler=None):
    """Draw, lower and compare; returns what came of it: "equal", "equal by thresholds" or "refused:
    why".

    Raises:
        Fault: a difference, or a refusal without a name.
    """
    choice = np.random.default_rng(seed + 1)
    try:
        case = draw(seed)
        x = case.inputs(3)
        before = outputs(case, x)
    except (SnnsimError, RuntimeError) as refusal:
        # a network that does not run by itself, as some do in half precision
        return f"does not run: {type(refusal).__name__}"
    on_grid = choice.random() < 0.8
    if on_grid:
        refusal = gridded(case, int(choice.integers(8, 18)))
        if refusal is not None:
            return f"refused: {refusal}"
    try:
        integer = lower(case.runner(), case.shape, case.bounds)
    except SnnsimError as refusal:
        if not named(refusal, case.net):
            raise Fault(f"a refusal names no part: {refusal}") from refusal
        return f"refused: {refusal}"
    expected = outputs(case, x)
    scale = 2.0 ** -integer.signals[integer.output].frac_bits
    found = integer(x)
    equal("lowered", found.double() * scale, expected)
    equal("step by step", outputs(case, x, single=True), expected)
    if integer.time_steps is None:
        equal("streamed", torch.stack([integer.step(now) for now in x]), found)
    equal("traced", integer.trace(x)[0], found)
    equal("no samples", integer.trace(x[:0] if case.time_steps else x[:, :0])[0], found[:, :0])
    # compiles C of its own where it can, which takes longer than all else
    if (compiler is not None or seed % 4 == 0) and not verify(case.runner(), integer, [x]).exact:
        raise Fault("verify finds a difference")
    with tempfile.TemporaryDirectory() as folder:
        integer.save(Path(folder) / "saved")
        loaded = IntegerNetwork.load(Path(folder) / "saved")
        equal("loaded", loaded(x), found)
        if loaded.fingerprint() != integer.fingerprint():
            raise Fault("the loaded network has another fingerprint")
        if compiler is not None:
            equal("C", run_c(integer, x, Path(folder) / "c", compiler), found)
    changed = float((expected != before).double().mean())
    coarse = any(
        getattr(module, "grid_bits", None) is not None and module.grid_bits < 13
        for module in case.net.modules()
    )
    if (
        on_grid
        and not coarse
        and x.numel()
        and changed > CHANGED
        and integer.signals[integer.output].is_binary
    ):
        raise Fault(f"to_grid changed {changed:.1%} of the outputs")
    return "equal" if on_grid else "equal by thresholds"


def run_c(integer, x, folder, compiler):
    """Outputs of the generated C under sanitizers."""
    integer.to_c(folder)
    program = folder / "run"
    subprocess.run(
        [compiler, *SANITIZED, "-o", program, folder / "main.c", folder / "snn.c"],
        check=True,
        capture_output=True,
    )
    values = integer._sequence(x)
    steps, batch = values.shape[:2]
    given = (
        np.array([batch, steps], np.uint32).tobytes()
        + np.ascontiguousarray(values.swapaxes(0, 1)).tobytes()
    )
    done = subprocess.run([program], input=given, check=True, capture_output=True)
    signal = integer.signals[integer.output]
    codes = sum(neuron.output.size for neuron in integer.neurons.values())
    rows = (
        np.frombuffer(done.stdout, np.uint8)
        .reshape(batch, steps, 4 * signal.size + codes)
        .swapaxes(0, 1)
    )
    out = np.ascontiguousarray(rows[..., : 4 * signal.size]).view(np.int32)
    return torch.from_numpy(out.reshape(steps, batch, *signal.shape).copy())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100, help="how many networks")
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    parser.add_argument("--c", action="store_true", help="compile and compare the generated C too")
    parser.add_argument("--verbose", action="store_true", help="show what came of every network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcomes, faults = Counter(), []
    for seed in range(options.start, options.start + options.seeds):
        try:
            outcome = check(seed, "gcc" if options.c else None)
        except Exception as problem:  # noqa: BLE001  whatever it is, it is the outcome
            outcome = f"FAULT {type(problem).__name__}: {problem}"
            faults.append(seed)
            sys.stdout.write(f"{seed}: {outcome}\n")
            if options.verbose:
                traceback.print_exc()
        if options.verbose:
            sys.stdout.write(f"{seed}: {outcome}\n")
            sys.stdout.flush()
        outcomes[re.sub(r"'[^']*'|[\d.]+|\(.*?\)", "*", outcome)[:70]] += 1
    for outcome, count in outcomes.most_common():
        sys.stdout.write(f"{count:6} {outcome}\n")
    sys.stdout.write(f"{options.seeds} networks, {len(faults)} faults: {faults}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
