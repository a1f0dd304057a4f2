"""What all tests share: uninitialised memory is NaN, so that an unwritten output shows."""

import sys
import types

import pytest
import torch

from tgo_kernels import allocator


@pytest.fixture(autouse=True)
def untuned_allocator(monkeypatch):
    """What runs a benchmark within the process of the tests would have it keep all memory of all later tests."""
    monkeypatch.setattr(allocator, "_is_glibc", lambda: False)


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    torch.backends.cudnn.allow_tf32 = False  # or else a convolution's rounding depends on its algorithm
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def torchvision(monkeypatch):
    """SpikingJelly's older models take one function from torchvision, which no test calls."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.models.utils"].load_state_dict_from_url = torch.hub.load_state_dict_from_url
