"""Folders of a person's own pictures: read right, or refused with the reason.

`layout` tells splits, classes and groups by names alone, from what `listing` finds. `left_out` keeps account of the
rest. `pictures` decodes one file, and `decode_cache` all of them, once. `near_copies` finds the frames of one clip,
`doubts` warns of what is hardly meant, and `reading` puts it together.
"""

from oat_runtime.data.folders.layout import Entry, FolderIndex, index_folder
from oat_runtime.data.folders.reading import load_folder

__all__ = ["Entry", "FolderIndex", "index_folder", "load_folder"]
