"""Which processor a figure is from: its name, family and model, the microarchitecture, and how its clock is governed.

Virtual machines often hide the name ("AMD EPYC"), and the numbers are then all that tells processors apart. The
numbers are those of Linux (arch/x86/include/asm/intel-family.h, arch/x86/kernel/cpu/amd.c).
"""

import platform
from collections.abc import Collection
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
SYSTEM = Path("/sys/devices/system/cpu")
AMX = ("Sapphire Rapids", "Emerald Rapids", "Granite Rapids")
MODELS: dict[tuple[str, str], dict[str, Collection[int]]] = {  # by vendor and family
    ("GenuineIntel", "6"): {
        "Haswell": (60, 63, 69, 70),
        "Broadwell": (61, 71, 79, 86),
        "Skylake": (78, 94),
        "Skylake, Cascade Lake or Cooper Lake": (85,),
        "Ice Lake": (106, 108, 125, 126),
        "Tiger Lake": (140, 141),
        "Sapphire Rapids": (143,),
        "Alder Lake": (151, 154),
        "Rocket Lake": (167,),
        "Granite Rapids": (173, 174),
        "Raptor Lake": (183, 186, 191),
        "Emerald Rapids": (207,),
    },
    ("AuthenticAMD", "23"): {
        "Zen or Zen+": (*range(0x30), *range(0x50, 0x60)),
        "Zen 2": (*range(0x30, 0x50), *range(0x60, 0x80), 0x90, 0x91, *range(0xA0, 0xB0)),
    },
    ("AuthenticAMD", "25"): {
        "Zen 3": (*range(0x10), *range(0x20, 0x60)),
        "Zen 4": (*range(0x10, 0x20), *range(0x60, 0xB0)),
    },
    ("AuthenticAMD", "26"): {"Zen 5": (*range(0x30), *range(0x40, 0x50), *range(0x60, 0x80))},
}


def text_of(path: Path) -> str:
    """The text of a file, or nothing where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def fields(cpuinfo: str) -> dict[str, str]:
    """What /proc/cpuinfo says about the first processor."""
    lines = [line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line]
    return {name.strip(): value.strip() for name, value in lines}


def microarchitecture(cpuinfo: str) -> str:
    """Its name, or nothing where the numbers are not known."""
    about = fields(cpuinfo)
    models = MODELS.get((about.get("vendor_id", ""), about.get("cpu family", "")), {})
    known = next((one for one, numbers in models.items() if int(about["model"]) in numbers), "")
    if known and known not in AMX and "amx_tile" in about.get("flags", "").split():
        return "Sapphire Rapids or later"  # a virtual machine can claim an older model, but not have its instructions
    return known


def name(cpuinfo: str) -> str:
    """As it calls itself, or as the platform does."""
    return fields(cpuinfo).get("model name") or platform.processor() or platform.machine()


def described(cpuinfo: str) -> str:
    """Name, family and model, and the microarchitecture where it is known."""
    about = fields(cpuinfo)
    if "cpu family" not in about:
        return name(cpuinfo)
    known = microarchitecture(cpuinfo)
    return f"{name(cpuinfo)}, family {about['cpu family']} model {about['model']}" + (f" ({known})" if known else "")


def frequency(system: Path = SYSTEM) -> list[str]:
    """The governor of the clock, its driver, and whether boost is on: what of it can be read."""
    governor, driver = (text_of(system / "cpu0/cpufreq" / f"scaling_{what}") for what in ("governor", "driver"))
    boost = text_of(system / "cpufreq/boost") or {"0": "1", "1": "0"}.get(text_of(system / "intel_pstate/no_turbo"))
    found = [f"governor {governor}"] if governor else []
    found += [f"driver {driver}"] if driver else []
    return found + ([f"boost {'off' if boost == '0' else 'on'}"] if boost else [])
