"""Classify a webcam or a video file with a bundle, and set λ and width while it runs.

python examples/camera.py bundles/NAME                webcam 0
python examples/camera.py bundles/NAME --video FILE   a video file

Type a line while it runs: `lambda 0.3`, `width 0.5`, or `quit`.
"""

from __future__ import annotations

import argparse
import sys
import threading

import cv2

from oat_runtime import DataError, OATError, OATRuntime
from oat_runtime.commands import Parser, a_path, command
from oat_runtime.text import plain


def obey(runtime: OATRuntime, stop: threading.Event) -> None:
    """Set what is typed, from a thread of its own: the runtime allows that during inference."""
    for line in sys.stdin:
        try:
            match line.split():
                case ["lambda", value]:
                    runtime.set_lambda(float(value))
                case ["width", value]:
                    runtime.set_width(float(value))
                case ["quit"]:
                    stop.set()
                    return
                case _:
                    print("type: lambda 0.3, width 0.5, or quit")
        except (OATError, ValueError) as error:
            print(error)


@command("camera")
def main() -> int:
    """Run until the video ends or somebody types quit. A webcam never ends by itself."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=a_path)
    parser.add_argument("--video", type=a_path, help="default: the first webcam")
    args = parser.parse_args()
    source = cv2.VideoCapture(0 if args.video is None else str(args.video))
    name = args.video or "webcam 0"
    if not source.isOpened():
        raise DataError(f"cannot open {name}")
    runtime, stop = OATRuntime.load(args.bundle), threading.Event()
    runtime.prepare()
    threading.Thread(target=obey, args=(runtime, stop), daemon=True).start()
    number = 0
    while not stop.is_set():
        found, frame_bgr_HWC = source.read()
        if not found:
            if args.video is None or not number:
                raise DataError(f"{name} gave {number} images and no more: see whether it is connected, or damaged")
            break
        answer = runtime.predict(cv2.cvtColor(frame_bgr_HWC, cv2.COLOR_BGR2RGB))
        if number % 15 == 0:
            print(f"{plain(answer.class_name)} {answer.confidence:.0%}, {answer.point}, {answer.latency_ms:.2f} ms")
        number += 1
    source.release()
    runtime.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
