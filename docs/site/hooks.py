"""Make CONTRIBUTING.md and CHANGELOG.md pages of the site, and keep the site free of requests to other places.

Links between those two files and docs/ work in the repository and on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File in the root of the repository -> its page."""
WORKER = re.compile(r'<script src="https://[^"]*iframe-worker/shim"></script>')
"""Script that the theme takes from the network, so that a page opened from a folder can be searched."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages."""
    root = Path(config["config_file_path"]).parent
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to files of the repository into links to pages.

    Elsewhere a tilde needs a backslash, so that two of them strike nothing out; here the backslash would be shown.
    """
    markdown = markdown.replace("\\~", "~")
    for name, page in OUTSIDE.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}", f"]({page}", markdown)
    return markdown.replace("](docs/", "](")


def on_post_page(output: str, **_: Any) -> str:
    """Put our script in the place of the theme's."""
    return WORKER.sub('<script src="site/worker.js"></script>', output)


def on_post_template(output: str, **_: Any) -> str:
    """Leave the theme's script out of the page for what is not found, which a folder does not show."""
    return WORKER.sub("", output)
