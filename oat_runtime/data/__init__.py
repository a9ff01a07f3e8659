"""Whatever is read from disk or from the wire: data sets, image files, camera messages, bags. Start here.

```python
from oat_runtime.data import load_dataset

test_set = load_dataset("cifar10", "test", limit=1000)   # or "photos@64", a folder of images by class
```

NumPy and OpenCV are enough, so a robot can read whatever a training machine can. What only some files need (Pillow,
pooch, scipy, rosbags) is imported when such a file is read.
"""

from oat_runtime.data.bags import camera_images, is_bag, open_bag
from oat_runtime.data.camera_messages import (
    ENCODINGS,
    check_compressed,
    check_image,
    rgb_compressed,
    rgb_image,
)
from oat_runtime.data.catalog import SOURCES, load_dataset
from oat_runtime.data.cifar import CIFAR10, CIFAR10_CLASSES
from oat_runtime.data.image_files import frame_files, in_frame_order, is_image, read_image
from oat_runtime.data.image_set import ImageSet, Split, fingerprint, mixed, resized, split_validation
from oat_runtime.data.npz import read_images_npz, read_labelled_npz
from oat_runtime.data.recordings import Skipped, recorded_images
from oat_runtime.data.roots import data_roots
from oat_runtime.data.sources import fetch_source, find_source

__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "ENCODINGS",
    "SOURCES",
    "ImageSet",
    "Skipped",
    "Split",
    "camera_images",
    "check_compressed",
    "check_image",
    "data_roots",
    "fetch_source",
    "find_source",
    "fingerprint",
    "frame_files",
    "in_frame_order",
    "is_bag",
    "is_image",
    "load_dataset",
    "mixed",
    "open_bag",
    "read_image",
    "read_images_npz",
    "read_labelled_npz",
    "recorded_images",
    "resized",
    "rgb_compressed",
    "rgb_image",
    "split_validation",
]
