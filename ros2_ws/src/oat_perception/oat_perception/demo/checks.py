"""Check that a demo run was a success. Needs no rclpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oat_perception.demo.run_record import Run
from oat_runtime.bundle import Bundle
from oat_runtime.errors import OATError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from policy.config import PolicyConfig
from policy.replay import replay

_LEAST_ANSWERED = 0.8


@dataclass(frozen=True, slots=True)
class DayCheck:
    """One condition, whether it held, and what was found."""

    name: str
    ok: bool
    detail: str


def check_day(run: Run, decision_log: Path, *, bundle: Path, config: PolicyConfig) -> tuple[DayCheck, ...]:
    """Check all conditions on a finished day. They hold for any network: whether λ gains anything is not among them.

    Args:
        run: the joined run.
        decision_log: the node's log.
        bundle: what the policy chose among.
        config: of the policy.
    """
    table = Bundle.load(bundle).select
    return (
        _answered(run),
        _replays(decision_log),
        _reasons(run),
        _cautious(run, table, config),
        _narrows(run, table, config),
        *_operator(run),
    )


def _answered(run: Run) -> DayCheck:
    counts = [run.counts(phase) for phase in run.scenario.phases]
    worst = min(counts, key=lambda c: c.num_answered / c.num_published if c.num_published else 0.0)
    ok = worst.num_published > 0 and worst.num_answered >= _LEAST_ANSWERED * worst.num_published
    total = run.counts()
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


def _reasons(run: Run) -> DayCheck:
    num_given = sum(bool(switch.reason) for switch in run.switches)
    ok = bool(run.switches) and num_given == len(run.switches)
    return DayCheck("switches with a reason", ok, f"{num_given} of {len(run.switches)}")


def _cautious(run: Run, table: OperatingTable, config: PolicyConfig) -> DayCheck:
    """Check that the less the surroundings are trusted, the nearer λ is to the best worst case.

    A score is trust · (accuracy in what is believed) + (1 − trust) · (worst case), and trust is at most the confidence
    c. So what is chosen has a worst case within c / (1 − c) of the best one, and two costs of moving that are as small.
    """
    phase = min(run.scenario.phases, key=lambda phase: phase.confidence)
    frames = [frame for frame in run.of(phase) if frame.result is not None]
    if not frames or not phase.confidence < 1:
        return DayCheck("doubt makes it cautious", False, f"nothing answered, or no doubt, in {phase.title}")
    last, widest = frames[-1], table.widths[-1]
    worst = {lam: table.row(OperatingPoint(lam, widest)).minimax() for lam in table.lambdas}
    allowed = max(worst.values()) - phase.confidence / (1 - phase.confidence) - config.switch_cost - config.margin
    lam = last.point.lam
    return DayCheck(
        "doubt makes it cautious",
        last.answer["lambda_source"] == "adaptive" and worst[lam] >= allowed,
        f"at confidence {phase.confidence:g} λ={lam:g}, right on at least {worst[lam]:.0%} in its worst regime; "
        f"the best λ on {max(worst.values()):.0%}",
    )


def _narrows(run: Run, table: OperatingTable, config: PolicyConfig) -> DayCheck:
    """Check that at the end of each phase the width is what the battery's step allows."""
    wrong: list[str] = []
    least = (1.0, "")
    for phase in run.scenario.phases:
        frames = [frame for frame in run.of(phase) if frame.result is not None]
        if not frames or phase.manual is not None:
            continue
        step = config.battery_step(phase.battery)
        limit = 1.0 if step is None else step.max_width
        allowed = [width for width in table.widths if width <= limit] or [table.widths[0]]
        width = frames[-1].point.width
        least = min(least, (width, phase.title))
        if width > allowed[-1]:
            wrong.append(f"{phase.title}: width {width:g}, {limit:g} allowed")
    detail = "; ".join(wrong) or f"narrowest at the end of {least[1] or 'no phase'}: width {least[0]:g}"
    return DayCheck("the battery bounds the width", not wrong, detail)


def _operator(run: Run) -> Iterator[DayCheck]:
    """Check that the operator's setting ran at the end of each manual phase, and no longer at the end of the next."""
    given_back = False
    for phase in run.scenario.phases:
        frames = [frame for frame in run.of(phase) if frame.result is not None]
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
