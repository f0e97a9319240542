"""A residual network: plain torch modules, with neurons where the ReLUs were; mixed precision,
torch.compile, checkpointing.

    python examples/resnet.py --data MNIST
    python examples/resnet.py --amp --compile
    python examples/resnet.py --quick

The membranes stay in float32 on their levels whatever autocast does to the layers around them.
"""

import argparse
import contextlib

import torch
from torch import Tensor, nn

import snnsim
from snnsim import MultiStep, data, neurons, quant


class Block(nn.Module):
    """Two convolutions and a shortcut; spikes are added up before the last neuron, as currents."""

    def __init__(self, channels_in: int, channels: int, stride: int, bits: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            node(bits),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        same = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        )
        self.node = node(bits)

    def forward(self, x: Tensor) -> Tensor:
        return self.node(self.body(x) + self.shortcut(x))


class Checkpointed(nn.Module):
    """A block whose inside is computed again in the backward pass instead of kept: memory for time.

    `snnsim.checkpoint` and not torch's own: the neurons inside must know the time steps then, too.
    Batch norm sees every batch twice, as with torch's own, and moves its running statistics twice.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return snnsim.checkpoint(self.block, x)


def node(bits: int) -> neurons.LIFNode:
    return neurons.LIFNode(
        tau=2.0, decay_input=False, detach_reset=True, state_quant=quant.uniform(bits)
    )


def build(bits: int, width: int, depth: int, time_steps: int, checkpointed: bool) -> MultiStep:
    # every block but the first halves the picture and doubles the channels
    widths = [width * 2**index for index in range(depth)]
    blocks = [
        Block(widths[max(index - 1, 0)], wide, 2 if index else 1, bits)
        for index, wide in enumerate(widths)
    ]
    net = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        node(bits),
        *(Checkpointed(block) if checkpointed else block for block in blocks),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], 10),
    )
    return MultiStep(net, time_steps=time_steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder with the four MNIST files; scikit-learn's digits without"
    )
    parser.add_argument("--bits", type=int, default=4, help="bits of a neuron state")
    parser.add_argument("--width", type=int, default=32, help="channels of the first block")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--time-steps", type=int, default=4)
    parser.add_argument("--amp", action="store_true", help="convolutions in bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument(
        "--checkpoint", action="store_true", help="compute the blocks again in the backward pass"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=(
            "320 images, 1 epoch of 2 time steps, a small network: shows that it runs, not how well"
        ),
    )
    options = parser.parse_args()
    epochs, width, time_steps = (
        (1, 8, 2) if options.quick else (options.epochs, options.width, options.time_steps)
    )
    depth = 2 if options.quick else 3
    root = options.data
    train_set, test_set = (
        data.MNIST(root, part) if root else data.digits(part) for part in (True, False)
    )
    if options.quick:
        train_set, test_set = train_set.subset(range(320)), test_set.subset(range(100))
    train_set, test_set = train_set.to(options.device), test_set.to(options.device)

    torch.manual_seed(options.seed)
    net = build(options.bits, width, depth, time_steps, options.checkpoint).to(options.device)
    run = torch.compile(net) if options.compile else net
    precision = (
        torch.autocast(options.device, torch.bfloat16) if options.amp else contextlib.nullcontext()
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(options.seed)
    for epoch in range(epochs):
        net.train()
        for images, labels in data.batches(
            train_set, 32, shuffle=True, generator=order, drop_last=True
        ):
            with precision:
                output = run(images)
            # the classifier's currents, averaged over time
            error = nn.functional.cross_entropy(output.float().mean(0), labels)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}/{epochs}: loss of the last batch {error.item():.3f}", flush=True)

    net.eval()
    with torch.no_grad(), precision:
        right = sum(
            int((net(images).mean(0).argmax(1) == labels).sum())
            for images, labels in data.batches(test_set, 250)
        )
    print(f"test accuracy with {options.bits}-bit states: {right / len(test_set):.1%}")


if __name__ == "__main__":
    main()
