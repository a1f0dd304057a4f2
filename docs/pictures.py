"""A hook of mkdocs: pictures of ``figures/`` in pages, which name them as a reader of the repository has them."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[1] / "figures"


def on_files(files: Files, config: Any) -> Files:
    for path in sorted(FOLDER.iterdir()):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../figures/", "](figures/")
