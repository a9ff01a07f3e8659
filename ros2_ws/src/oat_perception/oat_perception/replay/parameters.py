"""Define every parameter of the camera replay; `make settings` writes its parameter file and docs/parameters.md."""

from __future__ import annotations

from oat_perception.core.parameters import Change, Spec
from oat_runtime.data.decoding import FULL_BITS
from oat_runtime.stress.corruptions import CORRUPTIONS

CAMERA_SPECS: tuple[Spec, ...] = (
    Spec("source", "cifar10", "Images to show: cifar10, foolbox, frames with boxes (robocup/20260502_r5), a webcam's "
         "number, or the path of a folder of images, a video file, a rosbag2 folder or an .mcap file.",
         change=Change.AT_START, is_path=True),
    Spec("data_root", "", "Folder that holds CIFAR-10 or robocup; empty: `$OAT_DATA`, else ../shared/data, else for "
         "CIFAR-10 a download.", change=Change.AT_START, is_path=True),
    Spec("bag_topic", "", "Topic of a bag's images; empty: its only one.", change=Change.AT_START),
    Spec("image_bits", FULL_BITS, "Bits that a value of 16-bit images in a folder or bag uses, as the node's "
         "parameter of this name.", 8, FULL_BITS, change=Change.AT_START),
    Spec("frame_side_px", 0, "Side of the square to which the centre of each image is scaled. 0: images stay as they "
         "are.", 0, 4096, unit="px", change=Change.AT_START),
    Spec("frame_id", "camera", "`frame_id` of the images.", change=Change.AT_START),
    Spec("wait_for_subscriber", True, "Publish nothing, and let no scenario begin, before somebody subscribes to the "
         "images.", change=Change.AT_START),
    Spec("loop", True, "Start over at the end of the source. False: the node ends there.", change=Change.AT_START),
    Spec("rate_hz", 10.0, "Rate of images.", 0.1, 1000.0, unit="Hz", change=Change.AT_START),
    Spec("seed", 0, "Seed of the order of labelled images, of noise, and of random starts of attacks.", 0, 2**31 - 1,
         change=Change.AT_START),
    Spec("bundle", "", "Bundle of the attacked node; only attacks need it.", change=Change.AT_START, is_path=True),
    Spec("perception_node", "oat_perception", "Node whose `~/operating_point` is attacked.", change=Change.AT_START),
    Spec("scenario", "", "Scripted day: `day`, `robot`, or a JSON file; empty: none. A scenario sets corruption, "
         "severity, attack, confidence and battery itself, and may name sessions in place of `source`.",
         change=Change.AT_START, is_path=True),
    Spec("seconds_per_phase", 0.0, "Length of each phase of the scenario. 0: as the scenario says.", 0.0, 3600.0,
         unit="s", change=Change.AT_START),
    Spec("truth_file", "", "File for stamp, true label and treatment of each image, as JSON lines; empty: none.",
         change=Change.AT_START, is_path=True),
    Spec("frames_dir", "", "Folder for a PNG of each published image; empty: none.", change=Change.AT_START,
         is_path=True),
    Spec("playing", True, "Publish images and signals. False: everything pauses, the scenario's clock included.",
         change=Change.ANY_TIME),
    Spec("corruption", "none", "Kind of corruption, as in CIFAR-10-C.", choices=("none", *CORRUPTIONS),
         change=Change.ANY_TIME),
    Spec("severity", 3, "Severity of the corruption.", 1, 5, change=Change.ANY_TIME),
    Spec("attack", "none", "Attack on the network. pgd-10: white-box at the operating point in force, in L-infinity, "
         "with an epsilon of 8/255, on the whole image, or on the regions of a frame with boxes.",
         choices=("none", "pgd-10"), change=Change.ANY_TIME),
    Spec("confidence", 1.0, "Environment confidence to publish. -1: silence.", -1.0, 1.0, change=Change.ANY_TIME,
         none=-1.0),
    Spec("battery", 1.0, "State of charge to publish. -1: silence.", -1.0, 1.0, change=Change.ANY_TIME, none=-1.0),
)  # fmt: skip
