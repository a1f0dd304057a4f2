"""Trainings side by side, each in a process of its own and on one thread."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.control.settings import Settings
from benchmarks.control.training import fit


def begin(lock: Any) -> None:
    """In a process of trainings, which ends with the one that started it, however that does."""
    tqdm.set_lock(lock)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def together(trainings: list[Settings], out: Path, about: dict[str, Any], jobs: int) -> None:
    """All that is not done yet, so many at once."""
    if jobs == 1:
        for settings in trainings:
            fit(settings, out, about)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=begin, initargs=(context.RLock(),)) as pool:
        each = [pool.submit(fit, settings, out, about, i) for i, settings in enumerate(trainings)]
        try:
            for one in as_completed(each):
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise
