"""Frames with boxes in YOLO's text form: crops by class to train on, and the frames with their boxes to play.

`description` reads class names and settings, `texts` one text file, `index` finds the frames and their splits. `crops`
says which regions of a frame become images, and `reading` puts it together. `robocup` is a set that is known by name.

```python
index = index_boxes(Path("frames"))          # or oat_runtime.data.load_frames("robocup")
for frame in index.frames:                   # session by session, in their order of time
    image_HWC = frame.read()
    boxes_N4 = frame.boxes(*image_HWC.shape[:2])
    labels_N = frame.labels_N                # places in index.class_names
```
"""

from oat_runtime.data.boxes.description import CropRules
from oat_runtime.data.boxes.index import BoxFrame, BoxIndex, index_boxes, is_boxes
from oat_runtime.data.boxes.reading import frames_of_split, load_boxes, read_crops
from oat_runtime.data.boxes.robocup import BOX_SOURCES, BoxSource

__all__ = [
    "BOX_SOURCES",
    "BoxFrame",
    "BoxIndex",
    "BoxSource",
    "CropRules",
    "frames_of_split",
    "index_boxes",
    "is_boxes",
    "load_boxes",
    "read_crops",
]
