import gc
import multiprocessing
import threading

import numpy as np
import pytest
import torch

from snnsim.errors import InvalidValueError
from snnsim.kernels.cpu import host
from snnsim.kernels.scan import scan

SHAPE = (2, host.MINIMUM)


@pytest.fixture(autouse=True)
def _fresh_pool():
    before = host.limit()
    host.set_limit(0)
    host.set_limit(1 << 28)
    yield
    host.set_limit(0)
    host.set_limit(before)


def test_memory_comes_back_when_its_tensor_is_gone():
    first = host.empty(SHAPE, torch.float32)
    address = first.data_ptr()
    assert host.free_bytes() == 0
    del first
    assert host.free_bytes() >= 4 * 2 * host.MINIMUM
    assert host.empty(SHAPE, torch.float32).data_ptr() == address


@pytest.mark.parametrize(
    "keep",
    [
        lambda tensor: tensor[1:],
        lambda tensor: tensor.detach(),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.view(torch.int32).t(),
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: torch.from_dlpack(tensor),
        lambda tensor: (tensor.requires_grad_() ** 2).grad_fn,
        lambda tensor: memoryview(tensor.numpy()),
    ],
    ids=[
        "view",
        "detached",
        "array",
        "other dtype",
        "storage",
        "dlpack",
        "saved for backward",
        "memoryview",
    ],
)
def test_memory_that_something_can_still_see_is_not_handed_out(keep):
    tensor = host.empty(SHAPE, torch.float32)
    address, kept = tensor.data_ptr(), keep(tensor)
    del tensor
    gc.collect()
    assert host.free_bytes() == 0
    assert host.empty(SHAPE, torch.float32).data_ptr() != address
    del kept
    gc.collect()
    assert host.free_bytes() > 0


def test_two_tensors_never_share_memory():
    tensors = [host.empty(SHAPE, torch.uint8) for _ in range(3)]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
    assert [int(tensor.max()) for tensor in tensors] == [0, 1, 2]
    assert [int(tensor.min()) for tensor in tensors] == [0, 1, 2]


def test_memory_is_aligned_like_torch_aligns_it_and_has_the_shape_and_dtype_asked_for():
    for dtype in (torch.float32, torch.float64, torch.uint8, torch.int16):
        tensor = host.empty((3, 700_001), dtype)
        assert tensor.data_ptr() % 64 == 0
        assert tensor.shape == (3, 700_001)
        assert tensor.dtype == dtype


def test_little_memory_is_ordinary_memory():
    del_me = host.empty((10,), torch.float32)
    del del_me
    assert host.free_bytes() == 0


def test_the_pool_keeps_no_more_than_its_limit_and_drops_what_waited_longest():
    size = 4 * 2 * host.MINIMUM
    host.set_limit(2 * size + size // 2)
    tensors = [host.empty(SHAPE, torch.float32) for _ in range(4)]
    addresses = [tensor.data_ptr() for tensor in tensors]
    while tensors:
        del tensors[0]
    assert size <= host.free_bytes() <= host.limit()
    assert host.empty(SHAPE, torch.float32).data_ptr() == addresses[-1]


def test_a_limit_of_zero_switches_the_pool_off():
    tensor = host.empty(SHAPE, torch.float32)
    host.set_limit(0)
    del tensor
    assert host.free_bytes() == 0
    assert type(host.empty(SHAPE, torch.float32).resize_(1)) is torch.Tensor
    assert host.free_bytes() == 0


def test_a_negative_limit_is_refused():
    with pytest.raises(
        InvalidValueError,
        match=r"set_limit\(-1\): bytes to keep, at least 0; 0 switches the pool off",
    ):
        host.set_limit(-1)


def test_a_tensor_that_moves_to_shared_memory_leaves_its_buffer_to_others():
    tensor = host.empty(SHAPE, torch.uint8).fill_(7)
    tensor.share_memory_()
    other = host.empty(SHAPE, torch.uint8).fill_(9)
    assert int(tensor.max()) == 7
    assert int(other.min()) == 9


def test_a_forked_child_and_its_parent_do_not_see_each_others_writes():
    tensor = host.empty(SHAPE, torch.uint8)
    tensor.numpy().fill(1)
    context = multiprocessing.get_context("fork")

    def in_child(connection):
        nonlocal tensor
        seen = [int(tensor.numpy().max())]
        del tensor
        again = host.empty(SHAPE, torch.uint8)
        again.numpy().fill(2)
        connection.send([*seen, int(again.numpy().min())])

    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(sender,))
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == [1, 2]
    child.join()
    assert int(tensor.numpy().max()) == 1


def test_threads_that_take_and_give_back_at_once_never_share_a_buffer():
    problems = []

    def use(number):
        for _ in range(50):
            array = host.empty(SHAPE, torch.uint8).numpy()
            array[::4096] = number
            if (array[::4096] != number).any():
                problems.append(number)

    workers = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []
    assert host.free_bytes() <= host.limit()


def test_a_scan_takes_its_outputs_from_the_pool_and_results_stay_right(random_table):
    table = random_table(16)
    x = torch.randn(4, 100_000)
    expected = scan(x, torch.zeros(1), table, "reference")[0]
    for _ in range(3):
        assert np.array_equal(scan(x, torch.zeros(1), table, "cpu")[0].numpy(), expected.numpy())
    assert host.free_bytes() > 0
