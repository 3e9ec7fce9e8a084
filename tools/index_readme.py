"""README as a package index shows it: with absolute addresses, since nothing lies beside it there.

hatchling calls the hook on each build. The addresses begin with `Repository` of ``[project.urls]`` in pyproject.toml;
without one, README is taken as it is. In the repository its links stay relative, so that they work in every clone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

IMAGE = re.compile(r'(\bsrc(?:set)?=")(?!https?:)([^"]+)')
LINK = re.compile(r"(\]\()(?!https?:|#)([^)]+)")


def with_addresses(text: str, repository: str, branch: str = "main") -> str:
    """Text in Markdown, with its relative images and links made absolute.

    Arguments:
        text: What README says.
        repository: The address of the repository, as ``https://github.com/OWNER/NAME``.
        branch: The branch or tag that is shown.
    """
    home = repository.rstrip("/")
    raw = home.replace("https://github.com/", "https://raw.githubusercontent.com/") + f"/{branch}/"
    return LINK.sub(rf"\g<1>{home}/blob/{branch}/\g<2>", IMAGE.sub(rf"\g<1>{raw}\g<2>", text))


class IndexReadme(MetadataHookInterface):
    """Gives the long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds `readme` to the metadata of the project."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if repository := metadata.get("urls", {}).get("Repository"):
            text = with_addresses(text, repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
