"""Suite `attacks`: every operating point under every attack, and warnings of suspect figures."""

from __future__ import annotations

from dataclasses import asdict

from oat_runtime.report import Check, Row
from oat_runtime.text import plain
from training.evaluation import plot_style as style
from training.evaluation.attack_checks import inspect_lambdas, inspect_network, inspect_outcomes, worst_case
from training.evaluation.counting import ATTACKS, progress
from training.evaluation.suite import Job, Result, Suite, counted
from training.evaluation.text_table import by_condition


def run(job: Job) -> Result:
    """Count SA and RA at every point under every attack, and `worst-case`: correct under all of them."""
    rows, warnings = [], []
    rates: dict[float, dict[float, tuple[float, float]]] = {}
    gaps: list[float] = []
    specs = [job.attack_named(name) for name in ATTACKS if name in job.attacks]
    if len(job.data.class_names) < 4:
        specs = [spec for spec in specs if not spec.name.startswith("apgd-t")]
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
            gaps.append(float(outcomes["apgd-ce"].mean() - outcomes["pgd-20"].mean()))
    for width, by_lambda in rates.items():
        warnings += [{"width": width} | asdict(doubt) for doubt in inspect_lambdas(by_lambda)]
    name = "accuracy under apgd-ce above that under pgd-20"
    checks = [Check.at_most(name, gaps, 0.0, "share of images")] if gaps else []
    return Result(rows, checks, warnings, specs)


def frontier(rows: list[Row]) -> style.Figure:
    """Draw SA against RA over λ: a line for each width, a panel for each attack (as in the paper's Figs. 4 to 7)."""
    from matplotlib.ticker import MaxNLocator

    names = [name for name in dict.fromkeys(row["condition"] for row in rows) if name != "clean"]
    widths = style.widths_of(rows)
    columns = min(4, len(names))
    with style.new_figure(3.4 * columns, 3.3 * -(-len(names) // columns)) as figure:
        panels = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, name in zip(panels, names, strict=False):
            for index, width in enumerate(widths):
                clean, attacked = (style.over_lambda(rows, condition, width) for condition in ("clean", name))
                x, y = ([100 * row["accuracy"] for row in curve] for curve in (clean, attacked))
                colour, marker = style.COLOURS[index % 5], style.MARKERS[index % 5]
                style.join_over_lambda(axes, [row["lambda"] for row in clean], x, y, colour=colour)
                axes.plot(x, y, marker, color=colour, ms=5, label=f"width {width:g}")
                if index == 0:
                    for row, at_x, at_y in zip(clean, x, y, strict=True):
                        axes.annotate(
                            f"{row['lambda']:g}", (at_x, at_y), (4, 5), textcoords="offset points", fontsize=8.5,
                            color=style.COLOURS[0],
                        )  # fmt: skip
            style.title(axes, name.upper() if name != "worst-case" else "Worst case of all")
            axes.margins(0.1)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(names) - columns) : len(names)]:
            axes.tick_params(labelbottom=True)  # nothing is drawn below these
        figure.supxlabel("Clean accuracy, %   (numbers: λ)")
        figure.supylabel("Accuracy under the attack, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return figure


def accuracy_by_lambda(rows: list[Row]) -> style.Figure:
    """Draw the accuracy under each attack over λ, at the widest and the narrowest width."""
    names = list(dict.fromkeys(row["condition"] for row in rows))
    widths = style.widths_of(rows)
    shown = widths if len(widths) == 1 else [widths[0], widths[-1]]
    with style.new_figure(5.2 * len(shown), 4.0) as figure:
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        colours = style.lambda_colours([float(index) for index in range(len(names))]) | {0.0: style.INK}
        for axes, width in zip(panels, shown, strict=True):
            for index, name in enumerate(names):
                curve = style.over_lambda(rows, name, width)
                x = [row["lambda"] for row in curve]
                axes.plot(
                    x, [100 * row["accuracy"] for row in curve], "o-", color=colours[index], label=plain(name), ms=4
                )
                low, high = ([100 * row[key] for row in curve] for key in ("low_95", "high_95"))
                axes.fill_between(x, low, high, color=colours[index], alpha=0.12, lw=0)
            style.title(axes, f"Width {width:g}")
            axes.set_xlabel("λ")
        panels[0].set_ylabel("Accuracy, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


SUITE = Suite(
    name="attacks",
    title="Attacks",
    about="Clean and robust accuracy of every operating point. An image counts as broken if any iterate of the attack "
    "is misclassified; “worst-case” counts it as right only if no attack broke it.",
    run=run,
    tables=(by_condition,),
    figures={"attack-frontier": frontier, "attacks-by-lambda": accuracy_by_lambda},
)
