import copy
import dataclasses
import functools
import math
import os
import random
import zipfile

import pytest
import torch

from snnsim import data, neurons, quant
from snnsim.errors import (
    CheckpointError,
    MissingDataError,
    OutputError,
)
from snnsim.training import (
    Config,
    Training,
    load_checkpoint,
    load_datasets,
)

SMALL = Config(
    dataset="digits", hidden=16, time_steps=4, epochs=3, batch_size=64, learning_rate=5e-3
)


def training(config=SMALL):
    return Training(config, *load_datasets(config, None), progress=False)


def weights(run):
    return [tensor.clone() for tensor in run.runner.state_dict().values()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_learns_digits():
    run = training(dataclasses.replace(SMALL, epochs=8, hidden=32))
    for _ in range(8):
        record = run.run_epoch()
    assert record["accuracy"] > 0.85
    assert 0 < record["firing_rate"] < 1
    assert [entry["epoch"] for entry in run.history] == list(range(1, 9))
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_equal_configurations_give_equal_weights_whatever_was_drawn_before():
    first = training()
    first.run_epoch()
    torch.rand(100)
    second = training()
    second.run_epoch()
    assert same(weights(first), weights(second))
    other = training(dataclasses.replace(SMALL, seed=1))
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("done", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {"bits": None},
        {"bits": 3},
        {"bits": None, "float_epochs": 1},
        {"bits": 2, "float_epochs": 1, "codebook": "calibrated", "weight_bits": 2},
        {"bits": 3, "float_epochs": 1, "codebook": "learned", "weight_bits": 8, "network": "conv"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:calibrate.states. layer:UserWarning")
def test_a_resumed_run_ends_at_the_same_weights_bit_for_bit(tmp_path, changes, done):
    config = dataclasses.replace(SMALL, **changes)
    whole = training(config)
    for _ in range(3):
        whole.run_epoch()
    first = training(config)
    for _ in range(done):
        first.run_epoch()
    first.save(tmp_path / "checkpoint.pt")
    resumed = training(config)
    resumed.resume(tmp_path / "checkpoint.pt")
    assert resumed.epoch == done
    while resumed.epoch < 3:
        resumed.run_epoch()
    assert same(weights(resumed), weights(whole))
    assert resumed.history == whole.history
    for ours, theirs in zip(
        resumed.optimizer.state_dict()["state"].values(),
        whole.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])


@pytest.mark.parametrize(
    "changes", [{"bits": 2}, {"bits": 3, "weight_bits": 4, "codebook": "learned"}], ids=str
)
def test_runs_that_start_alike_share_their_float_epochs(changes):
    config = dataclasses.replace(SMALL, float_epochs=2, **changes)
    whole, start, rest = training(config), training(config.start()), training(config)
    for _ in range(3):
        whole.run_epoch()
    for _ in range(2):
        start.run_epoch()
    rest.skip_float_epochs(start.checkpoint())
    rest.run_epoch()
    assert same(weights(rest), weights(whole))
    assert rest.history == whole.history
    assert start.epoch == 2


def test_float_epochs_of_another_run_are_refused():
    config = dataclasses.replace(SMALL, float_epochs=1)
    start = training(config.start())
    with pytest.raises(
        CheckpointError,
        match="0 epochs done and this run begins with 1 float ones; train the start",
    ):
        training(config).skip_float_epochs(start.checkpoint())
    start.run_epoch()
    with pytest.raises(
        CheckpointError,
        match="the checkpoint is the checkpoint of another run: seed is 0 there and 1 here",
    ):
        training(dataclasses.replace(config, seed=1)).skip_float_epochs(start.checkpoint())


def test_weights_and_states_are_float_before_and_quantized_after_the_float_epochs():
    run = training(
        dataclasses.replace(SMALL, float_epochs=1, codebook="calibrated", bits=3, weight_bits=4)
    )
    run.run_epoch()
    assert [
        node.state_quant for node in run.runner.modules() if isinstance(node, neurons.LIFNode)
    ] == [None, None]
    assert run.scheduler.get_last_lr() == [pytest.approx(0, abs=1e-9)]
    run.run_epoch()
    nodes = [node for node in run.runner.modules() if isinstance(node, neurons.LIFNode)]
    assert [node.state_quant.num_levels for node in nodes] == [8, 8]
    assert [
        layer.weight_bits for layer in run.runner.modules() if isinstance(layer, quant.QuantLinear)
    ] == [4, 4]


@pytest.mark.filterwarnings("ignore:calibrate.states. layer:UserWarning")
@pytest.mark.parametrize("bits", [2, 4])
def test_learned_ranges_start_from_the_calibrated_ones(bits):
    ranges = {}
    for codebook in ("learned", "calibrated", "uniform"):
        run = training(dataclasses.replace(SMALL, float_epochs=1, codebook=codebook, bits=bits))
        run.run_epoch()
        run._quantize()
        ranges[codebook] = [
            node.state_quant.levels
            for node in run.runner.modules()
            if isinstance(node, neurons.LIFNode)
        ]
    for learned, calibrated, plain in zip(*ranges.values(), strict=True):
        torch.testing.assert_close(learned, calibrated)
        assert not torch.equal(calibrated, plain)
        assert torch.equal(plain, quant.uniform(bits).levels)


def test_fine_tuning_starts_at_half_the_learning_rate():
    run = training(dataclasses.replace(SMALL, float_epochs=1))
    assert run.scheduler.get_last_lr() == [SMALL.learning_rate]
    run.run_epoch()
    run._quantize()
    assert run.scheduler.get_last_lr() == [SMALL.learning_rate / 2]


def test_a_checkpoint_from_before_an_option_counts_as_its_default(tmp_path):
    run = training()
    run.run_epoch()
    run.save(tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name in ("weight_bits", "network", "float_epochs"):
        del saved["config"][name]
    torch.save(saved, tmp_path / "checkpoint.pt")
    again = training()
    again.resume(tmp_path / "checkpoint.pt")
    assert same(weights(again), weights(run))
    with pytest.raises(CheckpointError, match="weight_bits is None there and 4 here"):
        training(dataclasses.replace(SMALL, weight_bits=4)).resume(tmp_path / "checkpoint.pt")


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    run = training()
    path = tmp_path / "checkpoint.pt"
    run.save(path)
    before = path.read_bytes()
    run.run_epoch()

    def killed(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_checkpoint_of_another_run_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "checkpoint.pt"
    training().save(path)
    other = training(dataclasses.replace(SMALL, hidden=8, bits=2))
    before = weights(other)
    with pytest.raises(
        CheckpointError, match=r"bits is 4 there and 2 here; hidden is 16 there and 8 here"
    ):
        other.resume(path)
    assert same(weights(other), before)


def test_weights_of_another_shape_change_nothing(tmp_path):
    run = training()
    run.save(tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    saved["model"]["net.3.weight"] = torch.zeros(3, 3)
    torch.save(saved, tmp_path / "checkpoint.pt")
    before = weights(run)
    with pytest.raises(CheckpointError, match="the weights of another network"):
        run.resume(tmp_path / "checkpoint.pt")
    assert same(weights(run), before)


def test_missing_and_damaged_checkpoints(tmp_path):
    with pytest.raises(MissingDataError, match="run it without --resume first"):
        load_checkpoint(tmp_path / "none.pt")
    path = tmp_path / "checkpoint.pt"
    training().save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    # within a weight: between its parts a file has room that nobody reads
    weight = max(torch.load(path, weights_only=True)["model"].values(), key=torch.numel)
    flipped[whole.index(weight.numpy().tobytes()) + 10] ^= 0x40
    for content in (
        *(whole[: len(whole) * part // 100] for part in (1, 30, 60, 90, 99)),
        b"",
        b"hello",
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
            load_checkpoint(path)
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)
    torch.save({"format": 1, "config": {}}, path)
    with pytest.raises(CheckpointError, match="lacks"):
        load_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of snnsim"):
        load_checkpoint(path)
    torch.save({"format": 99, "version": "9.9"}, path)
    with pytest.raises(
        CheckpointError, match=r"checkpoint format 99, .* use the snnsim that wrote it, 9\.9"
    ):
        load_checkpoint(path)


def of_one_epoch(**options):
    images = data.ImageDataset(
        torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8), torch.arange(64) % 10
    )
    return Training(
        Config(hidden=4, time_steps=2, epochs=3, batch_size=32, **options),
        images,
        images,
        progress=False,
    )


def parts_of(run):
    return run.runner, run.optimizer, run.scheduler, run.history, run.order


# what may stand in the place of any value; none of it is what a run leaves there
HOSTILE = [
    *(
        None,
        True,
        -1,
        10**30,
        -1.5,
        float("nan"),
        float("inf"),
        "text",
        [],
        [1, 2],
        {},
        {"a": 1},
        (),
    ),
    *(torch.ones(2), torch.zeros(0), torch.tensor(float("nan")), torch.ones(3, dtype=torch.cfloat)),
    *(
        torch.ones(2, 2).to_sparse(),
        torch.empty(1).expand(10**6),
        torch.zeros(5056, dtype=torch.uint8),
    ),
]


def hostile_to(value):
    """What may stand in the place of this value."""
    yield from HOSTILE
    if isinstance(value, torch.Tensor):
        yield from (
            value.to(torch.cfloat) * 1j,
            value.to("meta"),
            value.tolist(),
            value.unsqueeze(0),
            value.reshape(-1)[:-1],
        )
        yield value.float() if value.dtype == torch.float64 else value.double()
        if value.is_floating_point():
            yield torch.full_like(value, float("inf"))


def paths_in(value, before=()):
    yield before
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, part in inner:
        yield from paths_in(part, (*before, name))


def with_part(value, path, part):
    if not path:
        return part
    changed = copy.copy(value)
    changed[path[0]] = with_part(value[path[0]], path[1:], part)
    return changed


def equal(a, b):
    alike = type(a) is type(b) and str(a) == str(b)
    return (
        alike and a.dtype == b.dtype and a.shape == b.shape
        if isinstance(a, torch.Tensor)
        else alike
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"codebook": "calibrated", "float_epochs": 1, "bits": 2, "weight_bits": 4}],
    ids=["plain", "calibrated"],
)
@pytest.mark.filterwarnings("ignore:calibrate.states. layer:UserWarning")
def test_any_part_of_a_checkpoint_that_is_no_runs_is_refused_and_changes_nothing(options):
    run = of_one_epoch(**options)
    for _ in range(2):
        run.run_epoch()
    saved = copy.deepcopy(run.checkpoint())
    fresh, draw = of_one_epoch(**options), random.Random(0)
    before, drawn = parts_of(fresh), torch.get_rng_state()
    expected = Training._restore
    for path in paths_in(saved):
        value = functools.reduce(lambda part, name: part[name], path, saved)
        choices = [part for part in hostile_to(value) if not equal(part, value)]
        # every part, and of what may stand there a few
        for part in choices if len(path) < 2 else draw.sample(choices, 4):
            if path == ("version",) and isinstance(part, str):
                continue
            with pytest.raises(CheckpointError):
                expected(fresh, with_part(saved, path, part), fresh.config, "the checkpoint")
            assert all(a is b for a, b in zip(parts_of(fresh), before, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn)
    expected(fresh, saved, fresh.config, "the checkpoint")
    assert same(weights(fresh), weights(run))


def test_a_checkpoint_that_lacks_a_part_within_is_refused():
    run = of_one_epoch()
    run.run_epoch()
    saved = run.checkpoint()
    for path in (
        ("optimizer", "state", 0),
        ("optimizer", "state", 1, "step"),
        ("model", "net.1.weight"),
        ("scheduler", "T_max"),
    ):
        part = functools.reduce(lambda part, name: part[name], path[:-1], saved)
        lacking = {name: value for name, value in part.items() if name != path[-1]}
        with pytest.raises(CheckpointError):
            of_one_epoch()._restore(
                with_part(saved, path[:-1], lacking), run.config, "the checkpoint"
            )


@pytest.mark.filterwarnings("ignore:calibrate.states. layer:UserWarning")
def test_levels_that_do_not_ascend_are_refused():
    options = {"codebook": "calibrated", "float_epochs": 1, "bits": 4}
    run = of_one_epoch(**options)
    for _ in range(2):
        run.run_epoch()
    for part, message in (
        ("levels", "levels must be strictly increasing"),
        ("edges", "it must lie above level 0"),
    ):
        saved, name = run.checkpoint(), f"net.2.state_quant.{part}"
        saved["model"][name] = saved["model"][name].flip(0)
        with pytest.raises(CheckpointError, match=message):
            of_one_epoch(**options)._restore(saved, run.config, "the checkpoint")


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    run = of_one_epoch()
    run.run_epoch()
    run.save(tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="was made with other data"):
        Training(run.config, run.train_set.subset(range(20)), run.test_set, progress=False).resume(
            tmp_path / "checkpoint.pt"
        )


def test_compressed_content_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(CheckpointError, match=r"is damaged at 'archive/data\.pkl'"):
        load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("options", [{}, {"float_epochs": 1}], ids=["plain", "float"])
def test_resumed_with_more_epochs_the_rate_follows_the_longer_cosine(options, tmp_path):
    run = of_one_epoch(**options)
    for _ in range(3):
        run.run_epoch()
    run.save(tmp_path / "checkpoint.pt")
    longer = Training(
        dataclasses.replace(run.config, epochs=6), run.train_set, run.test_set, progress=False
    )
    longer.resume(tmp_path / "checkpoint.pt")
    done, share = (2, 0.5) if options else (3, 1)
    expected = share * run.config.learning_rate * (1 + math.cos(math.pi * done / (done + 3))) / 2
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    for _ in range(3):
        longer.run_epoch()
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(CheckpointError, match="epochs is 3 there and 2 here"):
        Training(dataclasses.replace(run.config, epochs=2), run.train_set, run.test_set).resume(
            tmp_path / "checkpoint.pt"
        )


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_loading_executes_nothing_from_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "evil": _Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        training().save(tmp_path / "file" / "checkpoint.pt")


@pytest.mark.slow
def test_learns_real_mnist(real_data):
    config = Config(dataset="mnist", epochs=1, time_steps=5, hidden=64)
    train_set, test_set = load_datasets(config, real_data / "MNIST")
    assert (len(train_set), len(test_set)) == (60_000, 10_000)
    few = train_set.subset(range(6000))
    run = Training(config, data.ImageDataset(few.images, few.labels), test_set, progress=False)
    assert run.run_epoch()["accuracy"] > 0.8


EVENTS = Config(
    dataset="digits-dvs", hidden=16, time_steps=4, epochs=2, batch_size=16, learning_rate=5e-3
)


@pytest.fixture
def few_recordings(monkeypatch):
    """The first 64 training and 32 test recordings only."""
    from snnsim.data import events

    class Few(events.DigitsDVS):
        def __init__(self, train):
            super().__init__(train)
            self.labels = self.labels[: 64 if train else 32]

    monkeypatch.setattr("snnsim.apps.datasets.DigitsDVS", Few)


@pytest.mark.usefixtures("few_recordings")
def test_event_recordings_train_a_convolutional_network(tmp_path):
    run = Training(EVENTS, *load_datasets(EVENTS, tmp_path), progress=False)
    assert run.runner(run.test_set.take(torch.arange(3))[0]).shape == (4, 3, 10)
    assert any(isinstance(module, torch.nn.Conv2d) for module in run.runner.modules())
    first, second = run.run_epoch(), run.run_epoch()
    assert second["loss"] < first["loss"]


@pytest.mark.usefixtures("few_recordings")
def test_event_recordings_are_simulated_once(tmp_path, monkeypatch):
    train, _ = load_datasets(EVENTS, tmp_path)
    monkeypatch.setattr(
        "snnsim.data.events.DigitsDVS.recording", lambda self, index: pytest.fail("simulated again")
    )
    again, _ = load_datasets(EVENTS, tmp_path)
    assert torch.equal(train.frames, again.frames)
    # another number of frames is made of the same recordings
    more, _ = load_datasets(dataclasses.replace(EVENTS, time_steps=6), tmp_path)
    assert more.frames.shape[1] == 6
    assert torch.equal(more.frames.sum(1), train.frames.sum(1))


@pytest.mark.usefixtures("few_recordings")
def test_event_recordings_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_datasets(EVENTS, None)
    assert len(list((tmp_path / "snnsim" / "digits-dvs").rglob("*.npz"))) == 96


@pytest.mark.usefixtures("few_recordings")
def test_a_resumed_run_on_events_ends_at_the_same_weights(tmp_path):
    sets = load_datasets(EVENTS, tmp_path)
    whole, broken = (Training(EVENTS, *sets, progress=False) for _ in range(2))
    whole.run_epoch()
    whole.run_epoch()
    broken.run_epoch()
    broken.save(tmp_path / "checkpoint.pt")
    resumed = Training(EVENTS, *sets, progress=False)
    resumed.resume(tmp_path / "checkpoint.pt")
    resumed.run_epoch()
    assert same(weights(resumed), weights(whole))
