"""Change a bundle as somebody would who means harm: every hash fits."""

import hashlib
import json
from pathlib import Path
from typing import Any


def write_manifest(folder: Path, document: Any) -> None:
    """Write a manifest with the hash that belongs to it."""
    content = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  manifest.json\n")


def plant(folder: Path, name: str, content: bytes) -> None:
    """Put a file into a bundle, as the manifest then says."""
    (folder / name).write_bytes(content)
    document = json.loads((folder / "manifest.json").read_bytes())
    document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
    write_manifest(folder, document)
