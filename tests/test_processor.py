"""Which processor a figure of the benchmark is from."""

import pytest

from benchmarks import processor


def cpuinfo(vendor, family, model, name="Processor", flags="avx2"):
    first = (
        f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\nflags\t\t: {flags}"
    )
    return f"processor\t: 0\n{first}\npower management:\n\nprocessor\t: 1\nmodel\t\t: 1\n"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "name"),
    [
        ("GenuineIntel", 6, 106, "Ice Lake"),
        ("GenuineIntel", 6, 143, "Sapphire Rapids"),
        ("GenuineIntel", 6, 255, ""),
        ("AuthenticAMD", 23, 1, "Zen or Zen+"),
        ("AuthenticAMD", 23, 49, "Zen 2"),
        ("AuthenticAMD", 25, 1, "Zen 3"),
        ("AuthenticAMD", 25, 17, "Zen 4"),
        ("AuthenticAMD", 26, 2, "Zen 5"),
        ("AuthenticAMD", 26, 80, ""),
        ("Unknown", 6, 143, ""),
    ],
)
def test_the_microarchitecture_is_that_of_the_numbers(vendor, family, model, name):
    text = cpuinfo(vendor, family, model)
    assert processor.microarchitecture(text) == name
    assert processor.described(text) == f"Processor, family {family} model {model}" + (f" ({name})" if name else "")


def test_instructions_outweigh_the_model():
    assert processor.microarchitecture(cpuinfo("GenuineIntel", 6, 167)) == "Rocket Lake"
    with_amx = [cpuinfo("GenuineIntel", 6, model, flags="avx2 amx_tile") for model in (167, 207)]
    assert [processor.microarchitecture(text) for text in with_amx] == ["Sapphire Rapids or later", "Emerald Rapids"]


def test_other_processors_have_a_name_alone():
    for text in ("", "processor\t: 0\nBogoMIPS\t: 50.00\nCPU part\t: 0xd40\n"):
        assert processor.microarchitecture(text) == "" and "family" not in processor.described(text)


def test_the_frequency_policy_is_what_can_be_read(tmp_path):
    assert processor.frequency(tmp_path) == []
    for path, text in (("cpu0/cpufreq/scaling_governor", "powersave"), ("intel_pstate/no_turbo", "1")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(f"{text}\n")
    assert processor.frequency(tmp_path) == ["governor powersave", "boost off"]
    (tmp_path / "intel_pstate/no_turbo").write_text("0\n")
    (tmp_path / "cpu0/cpufreq/scaling_driver").write_text("intel_pstate\n")
    assert processor.frequency(tmp_path) == ["governor powersave", "driver intel_pstate", "boost on"]
