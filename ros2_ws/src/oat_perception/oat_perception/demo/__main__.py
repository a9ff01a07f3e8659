"""Run the real ROS graph through a scripted day, with a live table and a report. `make demo` ends by itself."""

from __future__ import annotations

import sys
from pathlib import Path

from oat_perception.demo.days import DAYS, Day
from oat_perception.demo.run import Options, run
from oat_runtime.bundle.shipped import find_bundle, shipped_bundles
from oat_runtime.commands import Parser, a_path, a_seed, command, output_folder, real
from oat_runtime.errors import BundleError, ConfigError
from oat_runtime.text import PlainConsole, plain

_LEAST_SECONDS_PER_PHASE = 4.0  # two dwell times of λ, or nothing could be seen to change


@command("demo")
def main(argv: list[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0 if the day went as it should; 1 if not, with the reason on stderr.
    """
    checks = run(_parse(argv), PlainConsole(highlight=False))
    failed = [check for check in checks if not check.ok]
    for check in failed:
        print(f"demo: not as it should be: {plain(check.name)}: {plain(check.detail)}", file=sys.stderr)
    return 1 if failed else 0


def _parse(argv: list[str] | None) -> Options:
    parser = Parser(prog="demo", description=__doc__)
    parser.add_argument("--robot", action="store_true", help="play what robots saw, with boxes as regions")
    parser.add_argument("--bundle", type=a_path, default=None, help="default: the shipped one for these images")
    parser.add_argument("--output", type=output_folder, default=Path("out/demo"), help="folder for report and logs")
    parser.add_argument(
        "--seconds-per-phase", type=real(least=0.0), default=0.0, help="length of each phase; 0: as scripted"
    )
    parser.add_argument(
        "--rate", type=real(least=1.0, most=100.0), default=None, metavar="HZ", help="images a second: 10, of robots 4"
    )
    parser.add_argument("--seed", type=a_seed, default=0, help="order of images, noise, and starts of attacks")
    arguments = parser.parse_args(argv)
    day = DAYS["robot" if arguments.robot else "day"]
    seconds = arguments.seconds_per_phase
    if seconds and not seconds >= _LEAST_SECONDS_PER_PHASE:
        raise ConfigError(f"--seconds-per-phase must be at least {_LEAST_SECONDS_PER_PHASE:g}, got {seconds:g}")
    return Options(
        day=day,
        bundle=_bundle(day, arguments.bundle).resolve(),
        output=arguments.output.resolve(),
        scenario=day.scenario.with_seconds_per_phase(seconds) if seconds else day.scenario,
        seconds_per_phase=seconds,
        rate_hz=arguments.rate or day.rate_hz,
        seed=arguments.seed,
        arguments=tuple(sys.argv[1:] if argv is None else argv),
    )


def _bundle(day: Day, named: Path | None) -> Path:
    if named is not None:
        return find_bundle(named)
    if day.bundle not in shipped_bundles():
        raise BundleError(
            f"{day.bundle}, the bundle that plays {day.title.lower()}, is not here: train it (docs/training.md), or "
            "name another one with --bundle"
        )
    return find_bundle(day.bundle)


if __name__ == "__main__":
    sys.exit(main())
