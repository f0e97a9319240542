"""Random neurons of a user's own: fused, in whatever way they are run, they give what their steps
give.

`python tests/random_neurons.py --seeds 1000 --start 0` tries any number of them.
"""

import argparse
import copy
import random
import sys
import warnings

import torch
from torch import nn

from snnsim import MultiStep, SingleStep, neurons, quant
from snnsim.surrogate import ATan, Triangle, from_derivative

SCALE = {"rate": 0.9}


class Own(neurons.BaseNode):
    """A neuron whose equations are put together from parts; what a part keeps is reset with the
    copy of the node.
    """

    def __init__(self, parts, **options):
        super().__init__(**options)
        self.parts, self.kept = parts, {"rate": 0.9, "mean": 0.0}
        self.rate = 0.9
        self.register_buffer("noise", torch.zeros(()))
        self.weight = nn.Parameter(torch.tensor(0.9))
        self.generator = torch.Generator().manual_seed(7)

    def leak(self, v):
        return {
            "linear": lambda: self.rate * v,
            "quadratic": lambda: v - 0.2 * v * (1.5 - v),
            "exponential": lambda: v * torch.exp(-0.1 * v.abs()),
            "container": lambda: self.kept["rate"] * v,
            "global": lambda: SCALE["rate"] * v,
            "learned": lambda: self.weight * v,
            "neurons": lambda: v - 0.1 * v.mean(-1, keepdim=True),
            "batch": lambda: v - 0.1 * v.mean(0, keepdim=True),
            "place": lambda: v * torch.linspace(0.5, 1, v.shape[-1]),
            "number of neurons": lambda: v * (1 - 1 / (1 + v.shape[-1])),
        }[self.parts["leak"]]()

    def drive(self, x):
        return {
            "plain": lambda: x,
            "gain": lambda: x * SCALE["rate"],
            "largest": lambda: x / x.abs().amax().clamp(min=1),
            "noise": lambda: x + 0.1 * torch.randn_like(x),
        }[self.parts["drive"]]()

    def fire(self, q):
        return {
            "threshold": lambda: super(Own, self).fire(q),
            "winner": lambda: (
                super(Own, self).fire(q) * (q == q.amax(-1, keepdim=True)).to(q.dtype)
            ),
            "random": lambda: torch.bernoulli(torch.sigmoid((q - 1) / 0.1)),
            "own generator": lambda: torch.bernoulli(
                torch.sigmoid((q - 1) / 0.1).detach(), generator=self.generator
            ),
            "attribute": lambda: self._adapting(q),
            "held": lambda: self._holding(q),
        }[self.parts["fire"]]()

    def _adapting(self, q):
        s = super().fire(q)
        self.kept["mean"] = 0.9 * self.kept["mean"] + 0.1 * float(s.mean())
        return s * float(self.kept["mean"] < 0.2)

    def _holding(self, q):
        a = self.held("a")
        a = torch.zeros_like(q) if a is None else a
        s = self.surrogate(q - (1 + 0.5 * a), training=self.training)
        self.hold(a=0.9 * a + s)
        return s


def surrogates(draw):
    slope = draw.choice([1.0, 2.0])
    return draw.choice([ATan(), Triangle(), from_derivative(lambda x: slope / (1 + x.abs()))])


def random_neuron(draw):
    """A node, the shape of a sample, and the parts that its equations are made of."""
    parts = {
        "leak": draw.choice(
            [
                "linear",
                "quadratic",
                "exponential",
                "container",
                "global",
                "learned",
                "neurons",
                "batch",
                "place",
                "number of neurons",
            ]
        ),
        "drive": draw.choice(["plain", "plain", "gain", "largest", "noise"]),
        "fire": draw.choice(
            [
                "threshold",
                "threshold",
                "threshold",
                "winner",
                "random",
                "own generator",
                "attribute",
                "held",
            ]
        ),
    }
    codebook = draw.choice(
        [
            quant.uniform(4),
            quant.uniform(2),
            quant.exponential(3),
            quant.state_quant(num_bits=3),
            None,
        ]
    )
    if codebook is not None and draw.random() < 0.2:
        codebook = quant.LearnedUniform(3)
    reset = draw.choice([0.0, 0.0, None])
    node = Own(
        parts,
        v_reset=reset,
        state_quant=codebook,
        surrogate=surrogates(draw),
        detach_reset=draw.random() < 0.3,
    )
    return node.train(draw.random() < 0.5), draw.choice([(5,), (1,), (2, 3), (4, 1, 2)]), parts


def change(node, draw):
    """Something that the equations read becomes another, in one way of many."""
    value = draw.choice([0.3, 0.5, 0.7])
    with torch.no_grad():
        draw.choice(
            [
                lambda: setattr(node, "rate", value),
                lambda: node.kept.update(rate=value),
                lambda: SCALE.update(rate=value),
                lambda: node.weight.data.fill_(value),
                lambda: (
                    node.state_quant is not None
                    and not node.state_quant.is_learned
                    and node.state_quant.levels.data.mul_(1 - value / 100)
                ),
                lambda: node.train(not node.training),
            ]
        )()


def stepwise(node, x_seq):
    """The definition: one step after the other from rest."""
    first = x_seq[0]
    v, outputs = node.rest(first, x_seq.dtype, node.state_quant).expand(first.shape), []
    for x in x_seq:
        s, _, v = node.step(x, v)
        outputs.append(s)
    return torch.stack(outputs)


def outcome(call, node, x_seq):
    """What a run of a copy of the node gives, and its gradients; every run draws the same random
    numbers.
    """
    torch.manual_seed(0)
    node = copy.deepcopy(node)
    x = x_seq.clone().requires_grad_()
    out = call(node)(x)
    leaves = [leaf for leaf in (x, *node.parameters()) if leaf.requires_grad]
    if not out.requires_grad:
        return [out]
    return [
        out.detach(),
        *torch.autograd.grad(out.sum(), leaves, allow_unused=True, materialize_grads=True),
    ]


def try_one(seed):
    """Raise where a run differs from the steps; the number of runs that were compared."""
    draw, SCALE["rate"] = random.Random(seed), 0.9
    torch.manual_seed(seed)
    node, shape, parts = random_neuron(draw)
    kept, compared = node, 0
    for _ in range(3):
        x_seq = (
            torch.rand(
                6,
                draw.choice([1, 3]),
                *shape,
                generator=torch.Generator().manual_seed(draw.randrange(100)),
            )
            * 2
        )
        expected = outcome(lambda node: lambda x: stepwise(node, x), kept, x_seq)
        for runner in (MultiStep, SingleStep):
            # a node that has been run before, as it is: its plan may be of another day
            torch.manual_seed(0)
            state = copy.deepcopy((kept.kept, kept.generator.get_state()))
            with torch.no_grad():
                again = runner(kept)(x_seq)
            kept.kept, _ = state[0], kept.generator.set_state(state[1])
            found = outcome(runner, kept, x_seq)
            assert torch.equal(again, expected[0]), (
                seed,
                parts,
                runner.__name__,
                "a node that was run before",
            )
            assert torch.equal(found[0], expected[0]), (seed, parts, runner.__name__)
            for ours, loop in zip(found[1:], expected[1:], strict=True):
                assert torch.allclose(ours, loop, rtol=1e-4, atol=1e-5), (
                    seed,
                    parts,
                    runner.__name__,
                    "gradient",
                )
            compared += 2
        change(kept, draw)
    return compared


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    total = 0
    for seed in range(options.start, options.start + options.seeds):
        total += try_one(seed)
    sys.stdout.write(f"{options.seeds} neurons, {total} runs compared, none differs\n")


if __name__ == "__main__":
    main()
