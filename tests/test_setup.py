"""setup.py's switches for CUDA, without building anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tgo_kernels import compiler

ROOT = Path(__file__).parents[1]


def setup(*arguments, command="build_ext", **environment):
    command = [sys.executable, "setup.py", "--quiet", command, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_cuda_without_nvcc_is_an_error(tmp_path):
    result = setup("--build-lib", str(tmp_path), TGO_KERNELS_CUDA="1", CUDA_HOME=str(tmp_path))
    assert result.returncode != 0 and "TGO_KERNELS_CUDA=1 needs nvcc" in result.stderr


@pytest.mark.skipif(not Path("/usr/local/cuda/bin/nvcc").exists(), reason="needs nvcc")
def test_a_wrong_architecture_is_named(tmp_path):
    environment = {"TGO_KERNELS_CUDA": "1", "TGO_KERNELS_NATIVE": "1", "TORCH_CUDA_ARCH_LIST": "hopper"}
    result = setup("--build-lib", str(tmp_path), "--build-temp", str(tmp_path), **environment)
    assert result.returncode != 0 and "TORCH_CUDA_ARCH_LIST must list numbers such as 9.0" in result.stderr


def test_the_headers_for_neurons_of_users_go_with_the_package(tmp_path):
    result = setup("--build-lib", str(tmp_path), command="build_py", TGO_KERNELS_NATIVE="0")
    assert result.returncode == 0, result.stderr
    found = tmp_path / "tgo_kernels" / "csrc"
    assert compiler.headers(found) and compiler.digest(found) == compiler.digest(ROOT / "csrc")
