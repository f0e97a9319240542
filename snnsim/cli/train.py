"""`snnsim train`: one network, resumable."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from snnsim.cli.options import positive_int, state_bits, weight_bits, whole_number
from snnsim.cli.pictures import draw_curves, draw_membranes
from snnsim.cli.tensorboard import add_tensorboard, log_epoch, writer_of
from snnsim.errors import OutputError
from snnsim.metrics import footprint
from snnsim.training import CODEBOOKS, DATASETS, NETWORKS, Config, Training, describe_bits, load_datasets

DESCRIPTION = """Train a spiking classifier with quantized neuron states and write a checkpoint, the learning curve and a raster.
The checkpoint is written after every epoch; --resume continues an interrupted run to the same weights."""


def add_parser(commands: Any) -> None:
    """Add this command to the parser."""
    defaults = Config()
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a network on digits, MNIST or event recordings",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        default=defaults.dataset,
        help="digits ships with scikit-learn, and so does digits-dvs, its digits before an event camera; mnist needs --data",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with the four MNIST idx files, gzipped or not; for digits-dvs, where its recordings are kept",
    )
    parser.add_argument(
        "--bits",
        type=state_bits,
        default=defaults.bits,
        metavar="N|float",
        help="bits of a neuron state, 1..16, or float",
    )
    parser.add_argument("--codebook", choices=tuple(CODEBOOKS), default=defaults.codebook, help="recipe of the levels")
    parser.add_argument(
        "--weight-bits",
        type=weight_bits,
        default="float",
        metavar="N|float",
        help="bits of a weight, 1..8 (1 is binary, 2 ternary), or float",
    )
    parser.add_argument("--network", choices=NETWORKS, default=defaults.network, help="one hidden layer, or two convolutions")
    parser.add_argument("--hidden", type=positive_int, default=defaults.hidden, help="neurons of the hidden layer")
    parser.add_argument(
        "--time-steps",
        type=positive_int,
        default=defaults.time_steps,
        help="how often an image is presented, or frames of a recording",
    )
    parser.add_argument("--epochs", type=positive_int, default=defaults.epochs, help="passes over the training set")
    parser.add_argument(
        "--float-epochs",
        type=whole_number,
        default=defaults.float_epochs,
        help="how many of them come first with float states and weights",
    )
    parser.add_argument("--batch-size", type=positive_int, default=defaults.batch_size, help="images per step")
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=defaults.learning_rate,
        help="of Adam at the start, decays along a cosine",
    )
    parser.add_argument("--tau", type=float, default=defaults.tau, help="time constant in time steps")
    parser.add_argument("--hard-reset", action="store_true", help="reset to 0 after a spike instead of subtracting the threshold")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of weights and image order")
    parser.add_argument("--out", type=Path, default=Path("runs/train"), metavar="DIR", help="where checkpoint and pictures go")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--overwrite", action="store_true", help="discard the checkpoint in --out")
    parser.add_argument("--threads", type=positive_int, default=torch.get_num_threads(), help="of torch")
    add_tensorboard(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train as asked; returns the exit status."""
    config = Config(
        dataset=options.dataset,
        bits=options.bits,
        codebook=options.codebook,
        weight_bits=options.weight_bits,
        network=options.network,
        hidden=options.hidden,
        time_steps=options.time_steps,
        epochs=options.epochs,
        float_epochs=options.float_epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        tau=options.tau,
        hard_reset=options.hard_reset,
        seed=options.seed,
    )
    torch.set_num_threads(options.threads)
    training = Training(config, *load_datasets(config, options.data), progress=not options.quiet)
    checkpoint = options.out / "checkpoint.pt"
    if options.resume:
        training.resume(checkpoint)
    else:
        if checkpoint.exists() and not options.overwrite:
            raise OutputError(f"{checkpoint} exists; continue it with --resume, discard it with --overwrite, or give another --out")
        # an unwritable folder shows now, not after the first epoch
        training.save(checkpoint)
    with writer_of(options) as writer:
        while training.epoch < config.epochs:
            record = training.run_epoch()
            training.save(checkpoint)
            print(
                f"epoch {training.epoch}/{config.epochs}  loss {record['loss']:.4f}  test accuracy {record['accuracy']:.2%}  "
                f"firing rate {record['firing_rate']:.3f}",
                flush=True,
            )
            if writer is not None:
                log_epoch(writer, training)
    report(training, options.out)
    return 0


def report(training: Training, out: Path) -> None:
    """Print what the run came to, and write its pictures and a JSON summary."""
    images, _ = training.test_set.take(torch.tensor([0]))
    size = footprint(training.runner, images)
    last = training.history[-1]
    print(
        f"{describe_bits(training.config.bits)} states: test accuracy {last['accuracy']:.2%}, firing rate "
        f"{last['firing_rate']:.3f} spikes per neuron and step, {size.state_bytes} bytes of neuron state"
    )
    curves = draw_curves({describe_bits(training.config.bits): training.history}, out / "learning_curve.png")
    membranes = draw_membranes(training, out / "membranes.png")
    summary = out / "summary.json"
    summary.write_text(json.dumps({"history": training.history, "state_bytes": size.state_bytes}, indent=2) + "\n")
    print("wrote", ", ".join(str(path) for path in (out / "checkpoint.pt", curves, membranes, summary)))
