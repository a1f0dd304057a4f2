"""``python -m tgo_kernels info``: versions, devices, and which engines serve them or why not."""

import argparse
import importlib.metadata
import platform

import torch

import tgo_kernels
from tgo_kernels import native, ops


def info() -> str:
    lines = [
        f"tgo_kernels {tgo_kernels.__version__}, torch {torch.__version__}, triton {_triton_version()}, "
        f"Python {platform.python_version()}, {platform.machine()}",
        f"compiled extension: {native.description()}",
    ]
    devices = [torch.device("cpu")]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator:
        devices += [torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())]
    for device in devices:
        lines.append(f"\n{device}: {_device_name(device)}")
        available = ops.available_impls(device)
        for engine in ops.ENGINES:
            reason = ops.why_not(engine, device)
            status = f"no: {reason}" if reason else 'yes, taken by impl="auto"' if engine == available[0] else "yes"
            lines.append(f"  {engine:<9} {status}")
    return "\n".join(lines)


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tgo_kernels")
    parser.add_argument("command", choices=["info"], help="what is installed, and which engines can run here")
    parser.parse_args()
    print(info())


if __name__ == "__main__":
    main()
