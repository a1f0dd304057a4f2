"""What all tests share: uninitialised memory is NaN, so that an unwritten output shows."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
