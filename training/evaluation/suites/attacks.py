"""Suite `attacks`: every operating point under every attack, and warnings of suspect figures."""

from __future__ import annotations

from dataclasses import asdict

from oat_runtime import style
from oat_runtime.report import Check, Row, progress
from oat_runtime.text import plain
from training.evaluation.attack_checks import inspect_lambdas, inspect_network, inspect_outcomes, worst_case
from training.evaluation.counting import surely_above
from training.evaluation.suite import Job, Result, Suite, counted, over_lambda, widths_of
from training.evaluation.text_table import by_condition


def run(job: Job) -> Result:
    """Count SA and RA at every point under every attack, and `worst-case`: correct under all of them."""
    rows, warnings = [], []
    rates: dict[float, dict[float, tuple[float, float]]] = {}
    gaps: list[float] = []
    specs = job.several_attacks()
    for point in progress(job.points(), "attacks"):
        outcomes = {"clean": job.outcomes(point)}
        for spec in specs:
            outcomes[spec.name] = job.outcomes(point, attack=spec)
        x_NCHW, y_N = next(job.batches())
        doubts = inspect_network(job.plain(point), x_NCHW, y_N) + inspect_outcomes(outcomes)
        warnings += [{"lambda": point.lam, "width": point.width} | asdict(doubt) for doubt in doubts]
        outcomes["worst-case"] = worst_case(outcomes)
        rows += [counted(point, name, correct_N) for name, correct_N in outcomes.items()]
        if specs:
            rate = (float(outcomes["clean"].mean()), float(outcomes[specs[-1].name].mean()))
            rates.setdefault(point.width, {})[point.lam] = rate
        if {"pgd-20", "apgd-ce"} <= set(outcomes):
            gaps.append(surely_above(outcomes["apgd-ce"], outcomes["pgd-20"]))
    for width, by_lambda in rates.items():
        warnings += [{"width": width} | asdict(doubt) for doubt in inspect_lambdas(by_lambda, num_images=len(job.data))]
    name = "accuracy under apgd-ce above that under pgd-20"
    checks = [Check.at_most(name, gaps, 0.0, "share of images")] if gaps else []
    return Result(rows, checks, warnings, specs)


def frontier(rows: list[Row]) -> style.Figure:
    """Draw SA against RA over λ: a line for each width, a panel for each attack (as in the paper's Figs. 4 to 7)."""
    names = [name for name in dict.fromkeys(row["condition"] for row in rows) if name != "clean"]
    looks = style.width_looks(widths_of(rows))
    lines = -(-len(names) // 4)
    columns = -(-len(names) // lines)
    with style.new_figure(3.6 * columns, 3.4 * lines) as figure:
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        drawn = []
        for axes, name in zip(panels, names, strict=False):
            for width, look in looks.items():
                clean, attacked = (over_lambda(rows, condition, width) for condition in ("clean", name))
                lambdas = [row["lambda"] for row in clean]
                x, y = ([100 * row["accuracy"] for row in curve] for curve in (clean, attacked))
                style.join_over_lambda(axes, lambdas, x, y, **look, label=f"width {width:g}")
                drawn.append(style.Named(axes, lambdas, x, y, **look))
            style.title(axes, _shown(name))
            axes.margins(x=0.22, y=0.12)
            axes.tick_params(labelbottom=True)
            style.whole_ticks(axes.xaxis)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        figure.supxlabel("Clean accuracy, %")
        figure.supylabel("Accuracy under the attack, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=5)
        style.show_covered(figure, drawn)
        style.name_points(figure, drawn[:: len(looks)])  # the widest of each panel
    return figure


def accuracy_by_lambda(rows: list[Row]) -> style.Figure:
    """Draw the accuracy under each attack over λ, at the widest and the narrowest width."""
    names = list(dict.fromkeys(row["condition"] for row in rows))
    widths = widths_of(rows)
    shown = widths if len(widths) == 1 else [widths[0], widths[-1]]
    with style.new_figure(5.4 * len(shown), 4.9) as figure:
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        of_attacks = style.many_looks(len(names) - 1)
        looks = dict(zip(names, [{"color": style.INK, "marker": "o"}, *of_attacks], strict=True))
        for axes, width in zip(panels, shown, strict=True):
            for name, look in looks.items():
                curve = over_lambda(rows, name, width)
                x = [row["lambda"] for row in curve]
                y, low, high = ([100 * row[key] for row in curve] for key in ("accuracy", "low_95", "high_95"))
                line = "--" if name == "worst-case" else "-"  # it covers that of the strongest attack
                style.join_over_lambda(axes, x, x, y, **look, label=plain(_shown(name)), line=line)
                axes.fill_between(x, low, high, color=look["color"], alpha=0.08, lw=0)
            style.title(axes, f"Width {width:g}")
            style.lambda_axis(axes)
        panels[0].set_ylabel("Accuracy, %")
        # On a phone, what stands at the right is out of sight.
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def _shown(name: str) -> str:
    """Return the name of a condition as figures write it."""
    return {"clean": "Clean", "worst-case": "Worst case of all"}.get(name, name.upper())


SUITE = Suite(
    name="attacks",
    about="Clean and robust accuracy of every operating point. An image counts as broken if any iterate of the attack "
    "is misclassified; “worst-case” counts it as right only if no attack broke it.",
    run=run,
    tables=(by_condition,),
    figures={"attack-frontier": frontier, "attacks-by-lambda": accuracy_by_lambda},
    attacks="several",
    precisions=("float32", "int8"),
)
