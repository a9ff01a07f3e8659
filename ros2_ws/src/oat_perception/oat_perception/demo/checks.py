"""Check that a demo run was a success. Needs no rclpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oat_perception.demo.day_record import Day
from oat_runtime.bundle import Bundle
from oat_runtime.errors import OATError
from policy.replay import replay

_LEAST_ANSWERED = 0.8


@dataclass(frozen=True, slots=True)
class DayCheck:
    """One condition, whether it held, and what was found."""

    name: str
    ok: bool
    detail: str


def check_day(day: Day, decision_log: Path, *, bundle: Path) -> tuple[DayCheck, ...]:
    """Check all conditions on a finished day.

    Args:
        day: the joined run.
        decision_log: the node's log.
        bundle: tells which widths exist, and whether the policy can estimate regimes at all.
    """
    loaded = Bundle.load(bundle)
    checks = [_answered(day), _replays(decision_log), _reasons(day)]
    if loaded.estimator is not None:
        checks.append(_adapts(day))
    if len(loaded.select.widths) > 1:
        checks.append(_narrows(day))
    return (*checks, *_operator(day))


def _answered(day: Day) -> DayCheck:
    counts = [day.counts(phase) for phase in day.scenario.phases]
    worst = min(counts, key=lambda c: c.num_answered / c.num_published if c.num_published else 0.0)
    ok = worst.num_published > 0 and worst.num_answered >= _LEAST_ANSWERED * worst.num_published
    total = day.counts()
    detail = f"{total.num_answered} of {total.num_published}; fewest in {worst.title}: {worst.num_answered} of "
    return DayCheck("images answered", ok, f"{detail}{worst.num_published}, at least {_LEAST_ANSWERED:.0%} wanted")


def _replays(decision_log: Path) -> DayCheck:
    try:
        steps = replay(decision_log)
    except OATError as error:
        return DayCheck("decision log replays", False, str(error))
    num_equal = sum(step.equal for step in steps)
    return DayCheck(
        "decision log replays", bool(steps) and num_equal == len(steps), f"{num_equal} of {len(steps)} decisions equal"
    )


def _reasons(day: Day) -> DayCheck:
    num_given = sum(bool(switch.reason) for switch in day.switches)
    ok = bool(day.switches) and num_given == len(day.switches)
    return DayCheck("switches with a reason", ok, f"{num_given} of {len(day.switches)}")


def _adapts(day: Day) -> DayCheck:
    lambdas = sorted({f.point.lam for f in day.answered if f.answer["lambda_source"] == "adaptive"})
    return DayCheck("the policy moved λ by itself", len(lambdas) > 1, "λ " + ", ".join(f"{lam:g}" for lam in lambdas))


def _narrows(day: Day) -> DayCheck:
    before, after = (_last_width(day, name) for name in ("attack", "low_battery"))
    ok = before is not None and after is not None and after < before
    return DayCheck("low battery narrowed the network", ok, f"width {before} before, {after} at the end of the phase")


def _last_width(day: Day, name: str) -> float | None:
    frames = [frame for frame in day.of(day.scenario.phase(name)) if frame.result is not None]
    return frames[-1].point.width if frames else None


def _operator(day: Day) -> Iterator[DayCheck]:
    """Check that the operator's setting ran at the end of each manual phase, and no longer at the end of the next."""
    given_back = False
    for phase in day.scenario.phases:
        frames = [frame for frame in day.of(phase) if frame.result is not None]
        last = frames[-1] if frames else None
        sources = {last.answer["lambda_source"], last.answer["width_source"]} if last else set()
        if phase.manual is not None:
            wanted = (phase.manual.lam, phase.manual.width)
            ok = last is not None and (last.point.lam, last.point.width) == wanted and sources == {"operator"}
            detail = f"{last.point if last else 'nothing'} by {', '.join(sorted(sources))}"
            yield DayCheck("the operator's setting was obeyed", ok, detail)
            given_back = True
        elif given_back:
            ok = last is not None and sources == {"adaptive"}
            yield DayCheck("and given back", ok, f"{last.point if last else 'nothing'} by {', '.join(sorted(sources))}")
            given_back = False
