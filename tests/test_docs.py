"""Every code block of the README and of docs/ runs, and what their shell lines call is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(page.read_text()) if language in languages]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(page, monkeypatch, tmp_path):
    pytest.importorskip("spikingjelly")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, code in enumerate(blocks(page, "python", "py", "")):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


def test_shell_lines_call_what_is_there():
    lines = [
        line for page in PAGES for code in blocks(page, "sh", "bash") for line in code.splitlines() if line.strip()
    ]
    assert lines
    for line in lines:
        command = line.split("#")[0].split()
        assert command[0] == "make", line
        subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, check=True, capture_output=True)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    assert all(f" {page.name}" in menu for page in PAGES if page.parent.name == "docs")
