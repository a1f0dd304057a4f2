"""What all tests share: uninitialised memory is NaN, so that an unwritten output shows."""

import os
import sys
import types
from pathlib import Path

import pytest
import torch

from tgo_kernels import allocator, compiler


def interpret_faster() -> None:
    """Triton's interpreter replaces the language's functions anew for each one that a kernel calls: half its time."""
    import triton.language as tl
    from triton.runtime import interpreter

    def unless_replaced(function):
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        anew = not languages or any(tl.core.is_builtin(language.load) for language in languages)
        return replace(function) if anew else interpreter._LangPatchScope()

    replace, interpreter._patch_lang = interpreter._patch_lang, unless_replaced


if os.environ.get("TRITON_INTERPRET") == "1":
    interpret_faster()


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Where neurons of users are kept that the tests have compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiler.CACHE, str(tmp_path_factory.mktemp("own") / "cache"))
        yield Path(os.environ[compiler.CACHE])


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
def one_thread():
    """Small networks on few cores spend their time waiting for threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def torchvision(monkeypatch):
    """SpikingJelly's older models take one function from torchvision, which no test calls."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.models.utils"].load_state_dict_from_url = torch.hub.load_state_dict_from_url
