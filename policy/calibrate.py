"""`oat-calibrate`: fit the estimator to your own camera, from clean frames without labels.

For a bundle that was trained on boxes, a frame counts by the mean of its regions. The network does not run. The image
kinds are fitted to the frames and to corrupted copies of them. How an attack changes the statistics, and how often the
network's confidence is low, is taken from the bundle.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np

from oat_runtime.architecture import InputSpec
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_file, check_changeable
from oat_runtime.commands import Parser, a_count, a_path, a_seed, command, output_file
from oat_runtime.data import LEAST_TO_FIT, Skipped, is_bag, load_frames, read_images_npz, recorded_images
from oat_runtime.data.camera_messages import NEARLY_BLACK
from oat_runtime.data.decoding import FULL_BITS
from oat_runtime.errors import DataError, one_line, quoted
from oat_runtime.files import write_whole
from oat_runtime.image import fit_frame
from oat_runtime.operating_point import Regime
from oat_runtime.report import text_table, wide_console
from oat_runtime.stress.corruptions import CORRUPTIONS, FITTING_KINDS, corrupt
from oat_runtime.text import some
from policy.belief.constants import EstimatorConstants, FittedFor, ImageKind, constants_of
from policy.belief.ranks import NormalScores
from policy.fitting.drives import LEAST_TO_JUDGE, count_alarms, fit_drives, promise_of
from policy.fitting.frames import Frames, Statistics, region_frames
from policy.fitting.kinds import MOST_CORRUPTED, MeasuredKinds, fit_kinds, image_kind, measure_kinds
from policy.image import Images

_NUM_BLOCKS = 10
MIN_FRAMES = 2 * LEAST_TO_FIT - 1
"""A trial fit on half of the blocks then has the frames that a fit needs."""
_LEAST_CONTRAST = 1.0
"""Standard deviation of a frame's bytes under which it shows nothing: a covered lens, or one that is not awake yet."""
_MOST_EMPTY, _MOST_EQUAL, _MOST_AGAIN = 0.02, 0.5, 0.1
"""Shares of frames that show nothing, that equal the frame before, and that equal one further back."""


def calibrate(measured: MeasuredKinds, shipped: EstimatorConstants, *, fitted_on: str = "") -> EstimatorConstants:
    """Return the estimator's constants for the camera that took these frames.

    Args:
        measured: what `measure` returns of frames in their order, at least 100, taken while all was well.
        shipped: the bundle's constants.
        fitted_on: provenance, for people.
    """

    def fit(of: MeasuredKinds) -> EstimatorConstants:
        fitted = fit_kinds(of, network=shipped.network, spread=shipped.spread, fitted_on=fitted_on)
        scores_FS = NormalScores(fitted.ranks)(of.clean_FS)
        attacks = tuple(
            _moved(kind, shipped, scores_FS) for kind in shipped.kinds if kind.name.startswith("attack-at-")
        )
        return fitted.model_copy(update={"kinds": fitted.kinds + attacks, "prior": shipped.prior})

    return fit_drives(measured, fit)


def measure(frames: Frames, *, seed: int = 0) -> MeasuredKinds:
    """Measure frames, and corrupted copies of some of them; this takes most of the time."""
    return measure_kinds(
        frames,
        corrupt=corrupt,
        regimes={name: CORRUPTIONS[name].regime for name in FITTING_KINDS},
        rng=np.random.default_rng(seed),
        most_corrupted=MOST_CORRUPTED,
    )


def _moved(attack: ImageKind, shipped: EstimatorConstants, clean_NS: Statistics) -> ImageKind:
    """Shift a kind: an attack is taken to change this camera's scores as much as it changed the bundle's."""
    before = next(kind for kind in shipped.kinds if kind.regime is Regime.CLEAN)
    mean_S = clean_NS.mean(axis=0) + np.array(attack.mean) - np.array(before.mean)
    return image_kind(attack.name, attack.regime, mean_S, np.cov(clean_NS.T))


def read_frames(
    path: Path, spec: InputSpec, *, topic: str, limit: int, bits: int = FULL_BITS, skipped: Skipped | None = None
) -> Images:
    """Read network inputs (N, H, W, 3), uint8, from an image folder, an .npz with `images`, or a rosbag2.

    Args:
        path: the folder, archive or bag.
        spec: of the network's input.
        topic: image topic of a bag; empty: its only one.
        limit: frames to read at most.
        bits: how many bits a value of 16-bit images uses, 8 to 16.
        skipped: takes the images of a folder or bag that the node could not use either, and tells if there are more
            than `limit`; None: they are logged alone.

    Raises:
        DataError: there is nothing of the kind, or no image can be used.
    """
    skipped = skipped or Skipped()
    if path.suffix == ".npz":
        source = iter(read_images_npz(path))
    elif is_bag(path) or path.is_dir():
        source = recorded_images(path, skipped, topic=topic, option="--topic", bits=bits)
    else:
        raise DataError(f"no frames at {path}: expected an image folder, an .npz, a rosbag2 folder or an .mcap file")
    frames = [fit_frame(frame, spec) for frame in itertools.islice(source, limit)]
    if not frames:
        raise DataError(f"{path} holds no image")
    if next(source, None) is not None:
        skipped.tell(_beyond(limit))
    return np.stack(frames)


def read_regions(
    name: str, spec: InputSpec, *, sessions: tuple[str, ...] = (), limit: int, skipped: Skipped | None = None
) -> Frames:
    """Read frames with boxes as a box-trained network sees them, session by session.

    Args:
        name: of a data set of frames with boxes, or the path of a folder of them.
        spec: of the network's input.
        sessions: beginnings of the names of the sessions to read; empty: all.
        limit: frames to read at most.
        skipped: takes frames without regions, and images that cannot be read, and tells if there are more than `limit`;
            None: they are logged alone.

    Raises:
        DataError: no such frames, or none of one of these sessions.
    """
    index, skipped = load_frames(name, skip_broken=True), skipped or Skipped()
    known = sorted({frame.session for frame in index.frames})
    for beginning in sessions:
        if not beginning or not any(session.startswith(beginning) for session in known):
            raise DataError(f"{name}: no session begins with {quoted(beginning)}: expected one of {some(known)}")
    wanted = [frame for frame in index.frames if not sessions or frame.session.startswith(sessions)]
    if len(wanted) > limit:
        skipped.tell(_beyond(limit))
    return region_frames(wanted[:limit], index, spec, skipped)


def _beyond(limit: int) -> str:
    return f"only the first {limit} frames are read, and there are more: --limit takes another number"


def alarm_shares(constants: EstimatorConstants, measured: MeasuredKinds) -> tuple[float, int]:
    """Return the share of frames in alarm, and the number of sessions with an alarm. All of them are false."""
    counts = [count_alarms(constants, stats_FS, frame_s=measured.frame_s) for stats_FS in measured.streams]
    return sum(counts) / len(measured.clean_FS), sum(count > 0 for count in counts)


def check_frames(frames_NHWC: Images, source: Path, *, what: str = "frame") -> None:
    """Refuse frames from which nothing can be learned about a camera.

    Args:
        frames_NHWC: frames, or regions of frames.
        source: where they are from.
        what: what one of them is called.

    Raises:
        DataError: there are too few different ones, some show nothing, most equal the one before, or many come again.
    """
    num = len(frames_NHWC)
    if num < MIN_FRAMES:
        raise DataError(
            f"expected at least {MIN_FRAMES} {what}s, got {num} of {one_line(source)}: "
            f"a fit needs {LEAST_TO_FIT}, and half of the {what}s are left out to count false alarms: record more"
        )
    empty_N = np.array([frame.std() < _LEAST_CONTRAST for frame in frames_NHWC])
    if empty_N.mean() > _MOST_EMPTY:
        raise DataError(
            f"{empty_N.sum()} of {num} {what}s of {one_line(source)} show nothing, the first is number "
            f"{int(empty_N.argmax())}: remove frames of a covered or waking camera"
        )
    if (brightest := int(frames_NHWC.max())) < NEARLY_BLACK:
        raise DataError(
            f"every {what} of {one_line(source)} is nearly black, up to {brightest} of 255: record in the light, or "
            "set --image-bits where a camera of 10 to 14 bits sends 16-bit images"
        )
    digests = [hashlib.blake2b(np.ascontiguousarray(frame).data).digest() for frame in frames_NHWC]
    equal = sum(now == before for now, before in itertools.pairwise(digests))
    if equal > _MOST_EQUAL * num:
        raise DataError(
            f"{equal} of {num} {what}s of {one_line(source)} equal the {what} before: record a camera that moves, "
            "or check that its driver does not repeat one image"
        )
    different = len(set(digests))
    if (again := num - equal - different) > _MOST_AGAIN * num:
        raise DataError(
            f"{again} of {num} {what}s of {one_line(source)} equal an earlier one, so false alarms would be counted "
            "on what the fit saw: record a camera, or a source that does not start over (loop:=false)"
        )
    if different < MIN_FRAMES:
        raise DataError(
            f"expected at least {MIN_FRAMES} different {what}s, got {different}, and {equal + again} that equal an "
            f"earlier one, of {one_line(source)}: record more"
        )


@command("oat-calibrate")
def main(argv: list[str] | None = None) -> int:
    """Run from the command line: fit, print the false alarms before and after, and write the constants."""
    parser = Parser(prog="oat-calibrate", description=__doc__)
    parser.add_argument("bundle", type=a_path, help="bundle whose constants are refitted; it is left as it is")
    parser.add_argument("frames", type=a_path, help="image folder, .npz with `images`, rosbag2 folder or .mcap file; "
                        "for a bundle that was trained on boxes, frames with boxes, or an .npz of regions")  # fmt: skip
    parser.add_argument("--sessions", default="", metavar="NAME,NAME",
                        help="of frames with boxes: how the names of the sessions begin (default: all)")  # fmt: skip
    parser.add_argument("--topic", default="", help="image topic of the bag (default: its only one)")
    parser.add_argument(
        "--image-bits",
        type=int,
        choices=range(8, FULL_BITS + 1),
        default=FULL_BITS,
        metavar="BITS",
        help="bits that a value of 16-bit images uses, as the node's image_bits (default: %(default)s)",
    )
    parser.add_argument("--limit", type=a_count, default=5000, help="frames to read at most (default: %(default)s)")
    parser.add_argument("--seed", type=a_seed, default=0)
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--output", type=output_file(), default=Path("estimator.json"), help="file (default: %(default)s)"
    )
    target.add_argument("--attach", action="store_true", help="put them into the bundle, which gets another hash")
    options = parser.parse_args(argv)
    bundle = Bundle.load(options.bundle)
    if options.attach:
        check_changeable(bundle)
    if bundle.estimator is None:
        raise DataError(f"{bundle.path} has no estimator: run `python -m policy.fit` first")
    shipped = constants_of(bundle.estimator, where=bundle.path)
    if not shipped.ranks:
        raise DataError(f"the estimator of {bundle.path} is of an earlier version: run `python -m policy.fit` again")
    skipped = Skipped(lambda line: print(f"oat-calibrate: {line}", file=sys.stderr))
    if bundle.input.region_margin is not None and options.frames.suffix != ".npz":
        # Whole frames say nothing of what such a network sees.
        if options.topic or options.image_bits != FULL_BITS:
            raise DataError(f"--topic and --image-bits are of bags: {options.frames} is taken for frames with boxes")
        sessions = tuple(name.strip() for name in options.sessions.split(",")) if options.sessions else ()
        frames = read_regions(
            str(options.frames), bundle.input, sessions=sessions, limit=options.limit, skipped=skipped
        )
        check_frames(frames.images_NHWC, options.frames, what="region")
    elif options.sessions:
        what = "frames with boxes, and an .npz has no sessions"
        if bundle.input.region_margin is None:
            what = f"bundles that were trained on boxes, and {bundle.path.name} was not"
        raise DataError(f"--sessions is for {what}: leave it out")
    else:
        images_NHWC = read_frames(
            options.frames,
            bundle.input,
            topic=options.topic,
            limit=options.limit,
            bits=options.image_bits,
            skipped=skipped,
        )
        check_frames(images_NHWC, options.frames)
        frames = Frames.of_images(images_NHWC)
    if skipped.num:
        print(f"oat-calibrate: images left out: {skipped.num}", file=sys.stderr)
    if len(frames) < LEAST_TO_FIT:
        raise DataError(
            f"expected at least {LEAST_TO_FIT} frames with regions, got {len(frames)} of {options.frames}: name more "
            "sessions, or record more frames"
        )
    fitted_on = f"{len(frames)} frames of {options.frames.name}, seed {options.seed}"
    measured = measure(frames, seed=options.seed)
    # A trial fit leaves alternate drives out, so that its alarms are counted on frames that it never saw. If there is
    # only one, or if the other drives have too few corrupted frames for a fit, it leaves alternate blocks out.
    num_seen = int((measured.session_F[measured.at_G] % 2 == 0).sum())
    by_drives = LEAST_TO_JUDGE <= num_seen < len(measured.at_G)
    blocks = measured if by_drives else measured.in_blocks(_NUM_BLOCKS)
    seen, held_out = (blocks.of_sessions(np.unique(blocks.session_F)[first::2]) for first in (0, 1))
    trial = calibrate(seen if by_drives else seen.in_blocks(1), shipped)
    before, after = (alarm_shares(constants, held_out) for constants in (shipped, trial))
    constants = calibrate(measured, shipped, fitted_on=fitted_on)
    constants = constants.model_copy(update={"fitted_for": FittedFor.of(bundle)})
    promise = promise_of(constants)
    content = constants.model_dump_json() + "\n"
    if options.attach:
        attach_file(bundle, "estimator.json", content.encode())
    else:
        write_whole(options.output, content)
    parts = "drives" if by_drives else "blocks"
    rows = [
        (f"frames in alarm, of {len(held_out.clean_FS)}", *(f"{100 * share:.1f} %" for share, _ in (before, after))),
        (f"{parts} with an alarm, of {len(held_out.streams)}", *(str(num) for _, num in (before, after))),
    ]
    title = f"False alarms on frames that the fit did not see, taken for {1 / measured.frame_s:g} a second"
    wide_console().print(text_table(title, ("", "before", "after"), rows))
    print(f"the alarm's promise: {promise}")
    if not options.attach:
        print(f"next: give the node the parameter estimator:={options.output}")
    summary = {"name": "oat-calibrate", "num_frames": len(frames), "num_left_out": skipped.num,
               "num_drives": len(constants.drives), "promised_drives": promise.num_drives,
               "false_alarm_share_before": before[0], "false_alarm_share_after": after[0],
               "independence": constants.independence, "drift_noise": constants.drift_noise,
               "written": "bundle" if options.attach else str(options.output)}  # fmt: skip
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
