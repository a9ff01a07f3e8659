"""Whatever is read from disk or from the wire: data sets, image files, camera messages, bags. Start here.

```python
from oat_runtime.data import load_dataset

test_set = load_dataset("cifar10", "test", limit=1000)   # or "photos@64", a folder
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
from oat_runtime.data.catalog import SOURCES, lasting_name, load_dataset, load_frames, parse_name, short_name
from oat_runtime.data.cifar import CIFAR10, CIFAR10_CLASSES
from oat_runtime.data.image_files import frame_files, in_frame_order, is_image, read_image
from oat_runtime.data.image_set import (
    LEAST_TO_FIT,
    ImageSet,
    Split,
    check_fingerprint,
    fingerprint,
    mixed,
    split_validation,
)
from oat_runtime.data.npz import read_images_npz, read_labelled_npz, write_labelled_npz
from oat_runtime.data.picked_images import PickedImages
from oat_runtime.data.recordings import Skipped, recorded_images
from oat_runtime.data.roots import data_roots
from oat_runtime.data.sources import fetch_source, find_source

__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "ENCODINGS",
    "LEAST_TO_FIT",
    "SOURCES",
    "ImageSet",
    "PickedImages",
    "Skipped",
    "Split",
    "camera_images",
    "check_compressed",
    "check_fingerprint",
    "check_image",
    "data_roots",
    "fetch_source",
    "find_source",
    "fingerprint",
    "frame_files",
    "in_frame_order",
    "is_bag",
    "is_image",
    "lasting_name",
    "load_dataset",
    "load_frames",
    "mixed",
    "open_bag",
    "parse_name",
    "read_image",
    "read_images_npz",
    "read_labelled_npz",
    "recorded_images",
    "rgb_compressed",
    "rgb_image",
    "short_name",
    "split_validation",
    "write_labelled_npz",
]
