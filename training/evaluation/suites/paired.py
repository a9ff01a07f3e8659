"""Suite `paired`: what int8 gains or loses against float32 on the same images, at every point."""

from __future__ import annotations

from rich.table import Table

from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Row, progress
from training.evaluation.attack_checks import worst_case
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import Bools
from training.evaluation.paired import Difference, differences_checks
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import new_table


def run(job: Job) -> Result:
    """Count SA, and RA under the worst of the job's attacks, in both precisions."""
    specs = job.several_attacks()

    def outcomes(cache: OutcomeCache, point: OperatingPoint) -> tuple[Bools, Bools]:
        clean_N = cache.outcomes(point, job.data)
        attacked = {spec.name: cache.outcomes(point, job.data, attack=spec) for spec in specs}
        return clean_N, worst_case({"clean": clean_N} | attacked)

    rows, found = list[Row](), dict[OperatingPoint, tuple[Difference, Difference]]()
    for point in progress(job.points(), "paired"):
        after, before = outcomes(job.cache, point), outcomes(job.float32, point)
        clean, attacked = (Difference.of(*pair) for pair in zip(after, before, strict=True))
        found[point] = (clean, attacked)
        for condition, correct_N, difference in zip(("clean", "worst-case"), after, (clean, attacked), strict=True):
            gained = {"gained": difference.mean, "gained_low": difference.low, "gained_high": difference.high}
            rows.append(counted(point, condition, correct_N) | gained)
    return Result(rows, differences_checks(found), attacks=specs)


def gains(rows: list[Row]) -> Table:
    """Return a line for each point: int8 less float32, in points, with 95 % intervals."""
    table, cells = new_table("width", "λ", "clean", "worst-case"), dict[tuple[float, float], dict[str, str]]()
    for row in rows:
        difference = Difference(row["gained"], row["gained_low"], row["gained_high"], row["num_total"])
        cells.setdefault((row["width"], row["lambda"]), {})[row["condition"]] = str(difference)
    for (width, lam), by_condition in cells.items():
        table.add_row(f"{width:g}", f"{lam:g}", by_condition["clean"], by_condition["worst-case"])
    return table


SUITE = Suite(
    name="paired",
    about="int8 less float32 on the same images, in points, with 95 % intervals (Agresti and Min 2005): clean, and "
    "under the worst of all attacks. Outcomes that the suite `attacks` counted in either precision are used again.",
    run=run,
    tables=(gains,),
    attacks="several",
    needs_more=True,
    precisions=("int8",),
)
