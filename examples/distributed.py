"""Data-parallel training: every process takes its share of each batch, and the losses are those of
one process.

    torchrun --nproc-per-node 2 examples/distributed.py
    python examples/distributed.py                   # one process, same batches, same losses

NCCL where every process has a GPU of its own, gloo elsewhere.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from snnsim import MultiStep, data, neurons, quant
from snnsim.functional import decode

TIME_STEPS = 6


def build() -> MultiStep:
    def node() -> neurons.LIFNode:
        return neurons.LIFNode(tau=2.0, decay_input=False, state_quant=quant.uniform(4))

    # without batch norm, whose statistics would be those of each share (nn.SyncBatchNorm is torch's
    # answer to that)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), node(), nn.Linear(128, 10), neurons.LIReadout()
    )
    return MultiStep(net, time_steps=TIME_STEPS)


def train(rank: int, processes: int, device: torch.device, options: argparse.Namespace) -> None:
    train_set, test_set = data.digits(train=True).to(device), data.digits(train=False).to(device)
    # the same weights and the same order everywhere
    torch.manual_seed(options.seed)
    order = torch.Generator().manual_seed(options.seed)
    net = build().to(device)
    run = DistributedDataParallel(net) if processes > 1 else net
    optimizer = torch.optim.SGD(run.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(1 if options.quick else options.epochs):
        total = torch.zeros((), device=device)
        for batch, (images, labels) in enumerate(
            data.batches(train_set, 64, shuffle=True, generator=order, drop_last=True)
        ):
            potentials = decode.membrane(run(images[rank::processes]))
            error = nn.functional.cross_entropy(potentials, labels[rank::processes])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            # shares are equal, so that the mean of their losses is the loss of the whole batch
            share = error.detach() / processes
            if processes > 1:
                dist.all_reduce(share)
            total += share
            if rank == 0 and epoch == 0 and batch < 5:
                print(f"batch {batch}: loss {share.item():.6f}")
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {total.item() / (batch + 1):.4f}")
    if rank == 0:
        net.eval()
        images, labels = test_set.tensors()
        with torch.no_grad():
            accuracy = (decode.membrane(net(images)).argmax(1) == labels).float().mean()
        print(
            f"test accuracy {accuracy.item():.1%} with {processes} process{'es' * (processes > 1)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="1 epoch: shows that it runs, not how well"
    )
    options = parser.parse_args()
    # set by torchrun
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    on_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if processes == 1:
        train(rank, processes, device, options)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        train(rank, processes, device, options)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
