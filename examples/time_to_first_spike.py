"""Classes told apart by who fires first: latency-coded digits, trained through the times of first
spikes.

    python examples/time_to_first_spike.py
    python examples/time_to_first_spike.py --quick

Every pixel has two inputs: one fires the earlier the brighter it is, the other the earlier the
darker. The class whose neuron fires first wins, so most answers are there long before the last time
step. Without biases a network at rest stays there: an input that comes later gives the same
answers, as much later.
"""

import argparse

import torch
from torch import Tensor, nn

from snnsim import MultiStep, data, functional, neurons, quant
from snnsim.functional import encode, loss


def build(bits: int) -> MultiStep:
    def node() -> neurons.IFNode:
        return neurons.IFNode(state_quant=quant.uniform(bits))

    return MultiStep(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(128, 128, bias=False),
            node(),
            nn.Linear(128, 10, bias=False),
            node(),
        )
    )


def spikes_of(images: Tensor, time_steps: int) -> Tensor:
    """Latencies of brightness and darkness, `[T, B, 2, 8, 8]`; a value of 0, which would come last,
    stays silent.
    """
    both = torch.cat([images, 1 - images], dim=1)
    return encode.latency(both, time_steps) * (both > 0)


def first_times(run: MultiStep, x_seq: Tensor) -> Tensor:
    """Step of each output neuron's first spike, `[B, 10]`; T if it never fires."""
    return functional.first_spike_time(run(x_seq).movedim(0, -1), none_value=len(x_seq))


def train(
    run: MultiStep, train_set: data.ImageDataset, epochs: int, time_steps: int, seed: int
) -> None:
    optimizer = torch.optim.Adam(run.parameters(), lr=5e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for images, labels in data.batches(train_set, 32, shuffle=True, generator=order):
            # a neuron that never fires counts as firing at step T, and is taught by how much
            # earlier a spike would be
            error = loss.temporal_cross_entropy(run(spikes_of(images, time_steps)), labels)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=4, help="bits of a neuron state")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--time-steps", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="3 epochs of 8 time steps: shows that it runs, not how well",
    )
    options = parser.parse_args()
    epochs, time_steps = (3, 8) if options.quick else (options.epochs, options.time_steps)
    train_set, test_set = data.digits(train=True), data.digits(train=False)
    torch.manual_seed(options.seed)
    run = build(options.bits)
    train(run, train_set, epochs, time_steps, options.seed)

    run.eval()
    images, labels = test_set.tensors()
    x_seq = spikes_of(images, time_steps)
    with torch.no_grad():
        times = first_times(run, x_seq)
        # room for the delay after the last pixel
        late = 3
        waiting = torch.cat([x_seq, torch.zeros_like(x_seq[:late])])
        early_times, late_times = (
            first_times(run, functional.delay(waiting, steps)) for steps in (0, late)
        )
    decided = times.amin(1)
    never = int((decided == time_steps).sum())
    print(f"test accuracy {(times.argmin(1) == labels).float().mean():.1%}")
    print(
        f"answer after {decided.mean() + 1:.1f} of {time_steps} steps on average, none in {never}"
        f" of {len(labels)} cases"
    )
    answered = early_times < len(x_seq)
    same = torch.equal(late_times[answered], early_times[answered] + late)
    print(f"with an input {late} steps later every first spike comes {late} steps later: {same}")


if __name__ == "__main__":
    main()
