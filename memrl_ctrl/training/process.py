"""What a training asks of its process: threads, a device, a clean end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch

from memrl_ctrl.errors import UsageError


def usable_device(name: str) -> str:
    """Return torch's name of a device that can be used.

    Raises:
        UsageError: it cannot.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name!r} cannot be used here: {str(error).splitlines()[0]}; use cpu"
        ) from error
    return str(device)


def cuda_count() -> int:
    """Return how many CUDA devices torch sees; begins no work on any."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch its threads, and put back what was; 0: one a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch take only algorithms that give the same numbers each time, and put back what was."""
    if not wanted:
        yield
        return
    # What cuBLAS, and the LSTM of cuDNN with it, asks for; read when a GPU is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event; the second one ends the process as ever."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            with suppress(TypeError):  # None: a handler that Python did not install
                signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()
        put_back()

    for number in before:
        signal.signal(number, stop)
    try:
        yield event
    finally:
        put_back()
