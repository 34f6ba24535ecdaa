"""Memory of large results is used again, up to a limit, and given back when asked."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from accel import kernels
from accel.kernels import _native as native

if native.module is None:
    pytest.skip(native.reason, allow_module_level=True)

LARGE = native.POOLED_BYTES // 4  # floats


@pytest.fixture(autouse=True)
def _empty_before_and_after():
    kernels.release_memory()
    yield
    kernels.release_memory()


def test_a_result_takes_the_place_of_one_that_is_gone():
    first = native.empty(LARGE)
    at = first.data_ptr()
    assert native.empty(LARGE).data_ptr() != at
    view = first[10:20]
    del first
    assert native.empty(LARGE).data_ptr() != at  # a view still holds it
    del view
    taken = {native.empty(LARGE).data_ptr() for _ in range(3)}
    assert taken
    assert kernels.release_memory() >= LARGE * 4
    assert native.module.pool_kept() == 0


def test_smaller_and_much_larger_ones_do_not_share():
    small = native.empty(LARGE)
    at = small.data_ptr()
    del small
    assert native.empty(4 * LARGE).data_ptr() != at
    assert native.module.pool_kept() >= 5 * LARGE * 4
    assert native.empty(LARGE).data_ptr() == at


def test_no_more_than_the_limit_is_kept():
    before = kernels.keep_memory(3 * LARGE * 4)
    try:
        tensors = [native.empty(LARGE) for _ in range(6)]
        tensors.clear()
        assert native.module.pool_kept() == 3 * LARGE * 4
        kernels.keep_memory(LARGE * 4)
        assert native.module.pool_kept() == LARGE * 4
        kernels.keep_memory(0)
        del tensors
        native.empty(LARGE)
        assert native.module.pool_kept() == 0
    finally:
        kernels.keep_memory(before)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        kernels.keep_memory(-1)


def test_memory_order_is_kept():
    x = torch.randn(1, 8, 512, 512).to(memory_format=torch.channels_last)
    y = native.empty_like(x)
    assert y.shape == x.shape
    assert y.stride() == x.stride()
    assert native.empty(3, 5).shape == (3, 5)


def test_many_threads_never_share_a_block():
    wrong = []

    def work(mark: int) -> None:
        for _ in range(20):
            a, b = native.empty(LARGE), native.empty(LARGE + mark)
            a[::4096], b[::4096] = mark, -mark
            if not (a[::4096].eq(mark).all() and b[::4096].eq(-mark).all()):
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(i + 1,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_large_results_train_and_infer(mode):
    x = torch.randn(2048, 2048).requires_grad_()
    with mode():
        y = kernels.geglu(x)
        z = y * 2
    assert torch.allclose(z, kernels.geglu(x.detach()) * 2)
    if mode is torch.enable_grad:
        z.sum().backward()
        assert x.grad is not None
        y = y + 0
        y.detach_().mul_(2)
    gc.collect()
