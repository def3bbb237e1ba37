"""Hooks of mkdocs: the pages that lie outside of docs/, and links to files of the repository.

README.md becomes the first page. A link to a page of the site stays a link, which mkdocs checks. A
link to another file of the repository is checked here and becomes plain text, because the site
does not contain that file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside of docs/."""
    for source, page in OUTSIDE.items():
        content = with_links_of_the_site(source, (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces the links of a page of docs/."""
    if page.file.src_uri in OUTSIDE.values():
        return markdown
    return with_links_of_the_site(f"docs/{page.file.src_uri}", markdown)


def with_links_of_the_site(source: str, markdown: str) -> str:
    """Replaces the links of a file to other files of the repository.

    Args:
        source: The file's path in the repository.
        markdown: What it holds.

    Raises:
        PluginError: A link names a file that does not exist.
    """

    def replaced(match: re.Match[str]) -> str:
        text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        name, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), name))
        if not (ROOT / path).exists():
            raise PluginError(f"{source}: the link {target} leads to no file of the repository")
        page = OUTSIDE.get(path)
        if page is None and path.startswith("docs/") and path.endswith(".md"):
            page = path.removeprefix("docs/")
        if page is None:
            return text
        return f"[{text}]({page}{'#' if anchor else ''}{anchor})"

    parts = _FENCED.split(markdown)
    return "".join(p if p.startswith("```") else _LINK.sub(replaced, p) for p in parts)
