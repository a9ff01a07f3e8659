"""`oat-evaluate`: count a bundle's figures again, or run suites, draw their figures, and write their results."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from oat_runtime.architecture import ModelConfig, effective_lambda
from oat_runtime.bundle import outcome_key
from oat_runtime.commands import Parser, a_count, a_path, command, output_file, output_folder, real
from oat_runtime.data import short_name
from oat_runtime.devices import keep_freed_memory
from oat_runtime.errors import ConfigError, quoted
from oat_runtime.extras import require
from oat_runtime.files import write_whole
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.report import Check, print_json, progress, wide_console
from oat_runtime.text import PlainConsole
from training.distributed import device_argument
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import ATTACKS, LINF_ATTACKS, attack_named, first_of
from training.evaluation.documents import check_documents, run_suite
from training.evaluation.judged import JudgedSplit, load_judged
from training.evaluation.page import write_page
from training.evaluation.results_page import check_publishable, write_results
from training.evaluation.suite import Job, counted
from training.evaluation.suites import SUITES
from training.evaluation.summary import summary
from training.origin import machine

_LOG = logging.getLogger(__name__)
_ATTACK = "pgd-20"
"""What suites that run one attack run, unless --attack names another."""
_SPELT = {"lambdas": "lambda", "widths": "width"}
"""Options whose name is not that of their values."""
_OF_SOME_SUITES = ("attack", "attacks", "steps", "epsilon", "beside")
"""Options that some suites take and others do not."""


@command("oat-evaluate")
def main(argv: Sequence[str] | None = None) -> int:
    """Run `oat-evaluate` from the command line."""
    parser = Parser(prog="oat-evaluate", description=__doc__)
    parser.add_argument("network", type=a_path, help="a bundle, or the checkpoint.pt of a run (validation images only)")
    parser.add_argument("--attack", choices=sorted(ATTACKS), help="without --suite: this one (clean if left out); "
                        f"with it: the one of {_listed('one')} (default: {_ATTACK}). FGSM is one gradient step, "
                        "MI-FGSM ten with momentum, PGD-N is N steps of projected gradient descent, APGD is Auto-PGD "
                        "on the cross-entropy (ce) or on target classes (t); -l2: in an L2 ball")  # fmt: skip
    parser.add_argument("--suite", nargs="+", metavar="NAME", help="parts of a full evaluation, or `all`: "
                        + ", ".join(SUITES))  # fmt: skip
    parser.add_argument(
        "--attacks", choices=sorted(ATTACKS), nargs="+", help=f"those of {_listed('several')} (default: all L∞)"
    )
    parser.add_argument("--count", type=a_count, default=1000, help="images, from the first on (default: %(default)s)")
    parser.add_argument("--steps", type=a_count, help="steps of Auto-PGD (default: 100)")
    parser.add_argument("--epsilon", type=_epsilon, metavar="N/255",
                        help="of a suite's attacks in the L∞ ball, as in 4/255 (default: 8/255)")  # fmt: skip
    parser.add_argument(
        "--lambda",
        dest="lambdas",
        type=real(least=0.0, most=1.0),
        nargs="+",
        help="robustness λ of the operating points to count, in [0, 1] (default: all trained)",
    )
    parser.add_argument(
        "--width",
        dest="widths",
        type=real(above=0.0, most=1.0),
        nargs="+",
        help="shares of the channels to count at (default: all trained)",
    )
    parser.add_argument("--split", choices=["test", "validation"], help="default: test for a bundle")
    parser.add_argument("--dataset", metavar="NAME",
                        help="a suite's images: the test images of another data set with the same classes, as in "
                        "robocup-poor-light@64 (default: the bundle's own)")  # fmt: skip
    parser.add_argument("--precision", choices=["float32", "int8"], default="float32",
                        help="int8: count what a robot runs in int8; attacks take the gradients of the float32 network "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--beside", type=a_path, nargs="+", default=[],
                        help="bundles or checkpoints that `dedicated` and `inside` compare with")  # fmt: skip
    parser.add_argument(
        "--out",
        type=output_folder,
        help="folder for a JSON file a suite (default: out/evaluate/NAME, and in it a folder for int8, for a "
        "bundle's validation images, for images of --dataset and for --epsilon)",
    )
    parser.add_argument(
        "--plots", type=output_folder, help="folder for figures and index.html, drawn from the JSON files"
    )
    parser.add_argument("--publish", type=output_file(), metavar="PAGE",
                        help="keep the JSON files' counts in the bundle, and write them as Markdown")  # fmt: skip
    parser.add_argument("--device", type=device_argument, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--download", action="store_true", help="fetch the data set if it is not there")
    args = parser.parse_args(argv)
    args.command = shlex.join(["oat-evaluate", *(sys.argv[1:] if argv is None else argv)])
    keep_freed_memory()
    if not args.suite:
        _refuse_what_suites_take(args, parser)
    return _run_suites(args) if args.suite or args.plots or args.publish else _check_again(args)


def _refuse_what_suites_take(args: argparse.Namespace, parser: Parser) -> None:
    """Refuse options that only suites look at, where none is named: without a word, they would change nothing."""
    names = {name: name for name in (*_OF_SOME_SUITES, "split", "dataset") if name != "attack"}
    if args.plots or args.publish:
        names |= {name: name for name in ("attack", "count", "precision")} | _SPELT
    else:
        names["out"] = "out"
    given = [f"--{option}" for name, option in names.items() if getattr(args, name) != parser.get_default(name)]
    if given:
        raise ConfigError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} of suites: name some with --suite"
        )


def _refuse_what_suites_do_not_take(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse options that one of the suites cannot take, or of which none takes any notice."""
    suites = [SUITES[name] for name in names]
    fixed = [suite.name for suite in suites if not suite.takes_auto_pgd]
    if fixed and (args.attack or "").startswith("apgd"):
        raise ConfigError(
            f"{fixed[0]} takes a plain attack, such as {_ATTACK}, got {args.attack}: name another, or leave "
            f"{fixed[0]} out"
        )
    chosen = {"one": (args.attack or _ATTACK,), "several": args.attacks or LINF_ATTACKS}
    attacks = {name for s in suites for name in (chosen[s.attacks] if isinstance(s.attacks, str) else s.attacks)}
    is_taken = {
        "attack": any(suite.attacks == "one" for suite in suites),
        "attacks": any(suite.attacks == "several" for suite in suites),
        "steps": any(name.startswith("apgd") for name in attacks),
        "epsilon": bool(attacks),
        "beside": any(suite.beside for suite in suites),
        "lambdas": any("lambdas" in suite.narrowed_by for suite in suites),
        "widths": any("widths" in suite.narrowed_by for suite in suites),
    }
    if idle := [f"--{_SPELT.get(name, name)}" for name, taken in is_taken.items() if getattr(args, name) and not taken]:
        it = "it" if len(idle) == 1 else "them"
        why = ", which run no Auto-PGD then" if idle == ["--steps"] and attacks else ""
        raise ConfigError(
            f"{' and '.join(idle)} would change nothing in {', '.join(names)}{why}: leave {it} out, or name a suite "
            f"that takes {it} (see --help)"
        )


def _listed(attacks: str) -> str:
    return ", ".join(f"`{suite.name}`" for suite in SUITES.values() if suite.attacks == attacks)


def _epsilon(text: str) -> float:
    """Return ε on the [0, 1] pixel scale."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)/255", text)
    epsilon = float(match[1]) / 255 if match else 0.0
    if not 0.0 < epsilon <= 1.0:
        raise argparse.ArgumentTypeError(f"expected N/255 with N in (0, 255], as in 4/255, got {quoted(text)}")
    return epsilon


def _asked(args: argparse.Namespace, config: ModelConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the λ that run, ascending, and the widths, each once; what the network does not take is refused."""
    for width in args.widths or ():
        config.width_index(width)
    runs_at = {lam: effective_lambda(lam, config.lambdas) for lam in args.lambdas or config.lambdas}
    for lam, effective in runs_at.items():
        if effective != lam:
            PlainConsole(stderr=True).print(
                f"--lambda {lam:g} counts at λ={effective:g}, the smallest trained one above 0: it runs there"
            )
    return tuple(sorted(set(runs_at.values()))), tuple(dict.fromkeys(args.widths or config.widths))


def _check_again(args: argparse.Namespace) -> int:
    """Evaluate a bundle's points under one condition, and compare with the outcomes that it holds."""
    if args.network.is_file():
        raise ConfigError(
            "without --suite, a bundle is compared with the outcomes that it keeps, got a checkpoint: name "
            "suites with --suite, or export a bundle first"
        )
    judged = load_judged(args.network, device=args.device)
    bundle = judged.bundle
    assert bundle is not None  # a folder is one
    lambdas, widths = _asked(args, bundle.manifest.model)
    points = [OperatingPoint(lam, width) for width in widths for lam in lambdas]
    rounding = judged.rounding() if args.precision == "int8" else None
    data = first_of(judged.images("test", download=args.download), args.count, "--count")
    cache = OutcomeCache(None, judged.model, rounding)
    condition, attack = (args.attack, ATTACKS[args.attack]) if args.attack else ("clean", None)
    stored = bundle.outcomes(args.precision) if args.precision in bundle.manifest.figures else {}
    rows = []
    for point in progress(points, "evaluating"):
        correct_N = cache.outcomes(point, data, attack=attack)
        before_N = stored.get(outcome_key(condition, point), np.zeros(0, np.bool_))[: len(data)]
        agreement = float((before_N == correct_N[: len(before_N)]).mean()) if len(before_N) else None
        rows.append(counted(point, condition, correct_N) | {"num_compared": len(before_N), "agreement": agreement})
    table = Table("λ", "width", "condition", "correct", "of", "accuracy", "95 % interval", "agrees with manifest")
    for row in rows:
        agrees = "–" if row["agreement"] is None else f"{100 * row['agreement']:.2f} % of {row['num_compared']}"
        table.add_row(
            f"{row['lambda']:g}", f"{row['width']:g}", row["condition"], str(row["num_correct"]), str(row["num_total"]),
            f"{100 * row['accuracy']:.2f} %", f"{100 * row['low_95']:.1f} – {100 * row['high_95']:.1f}", agrees,
        )  # fmt: skip
    wide_console().print(table)
    agreements = [row["agreement"] for row in rows if row["agreement"] is not None]
    checks = [Check.at_least("agreement", agreements, 0.99, "share of images")] if agreements else []
    if args.precision != "float32":
        how = "" if attack is None else "; attacks take the gradients of the float32 network"
        wide_console().print(f"Counted in {cache.about}{how}.")
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "bundle_sha256": bundle.sha256}
    print_json("oat-evaluate", machine=about, rows=rows, checks=checks)
    return 0 if all(check.ok for check in checks) else 1


def _parts_of_home(args: argparse.Namespace, split: JudgedSplit, own: JudgedSplit) -> list[str]:
    """Return the folders, one in another, of results that are not the network's own: they never replace those."""
    parts = ["int8"] if args.precision == "int8" else []
    if split != own:
        parts.append(split)
    if args.dataset is not None:
        parts.append(short_name(args.dataset))
    if args.epsilon is not None:
        parts.append(f"epsilon-{255 * args.epsilon:.6g}")
    return parts


def _run_suites(args: argparse.Namespace) -> int:
    """Run suites, write one JSON file for each, draw them and write their results; return 1 if a check fails."""
    names = [s.name for s in SUITES.values() if not s.needs_more] if args.suite == ["all"] else list(args.suite or ())
    unknown = sorted(set(names) - set(SUITES))
    if "all" in unknown:
        raise ConfigError("--suite all stands alone: leave out the other names, or name every suite in its place")
    if unknown:
        raise ConfigError(f"unknown suite {', '.join(unknown)}: expected {', '.join(SUITES)} or all")
    if others := [name for name in names if args.precision not in SUITES[name].precisions]:
        text = f"{', '.join(others)}: counted in {' and '.join(SUITES[others[0]].precisions)} only"
        if args.suite != ["all"]:
            raise ConfigError(f"{text}, not in {args.precision}: leave out the suite, or choose another --precision")
        PlainConsole(stderr=True).print(f"left out: {text}")
        names = [name for name in names if name not in others]
    if names:
        _refuse_what_suites_do_not_take(args, names)
    if args.plots:
        require("matplotlib", extra="plots", by="--plots")
    judged = load_judged(args.network, device=args.device)
    if args.publish:
        check_publishable(judged)
    rounding = judged.rounding() if args.precision == "int8" else None
    home = args.out or Path("out") / "evaluate" / judged.name
    own: JudgedSplit = "validation" if judged.bundle is None else "test"
    split: JudgedSplit = args.split or own
    folder = args.out or home.joinpath(*_parts_of_home(args, split, own))
    documents = []
    if names:
        lambdas, widths = _asked(args, judged.model.config)
        if args.dataset is None:
            data = judged.images(split, download=args.download)
        else:
            if args.split == "validation":
                raise ConfigError(f"--dataset {args.dataset} is judged on its test images: leave --split out")
            data = judged.images_of(args.dataset, download=args.download)
        job = Job(
            judged=judged,
            data=first_of(data, args.count, "--count"),
            lambdas=lambdas,
            widths=widths,
            attack=attack_named(args.attack or _ATTACK, num_steps=args.steps, epsilon=args.epsilon),
            attacks=None if args.attacks is None else tuple(args.attacks),
            num_steps=args.steps,
            epsilon=args.epsilon,
            beside=tuple(load_judged(path, device=args.device) for path in args.beside),
            cache_folder=home / "kept",
            rounding=rounding,
        )
        for name in names:
            SUITES[name].check(job)
        if args.plots or args.publish:
            check_documents(judged, home, but=[folder / f"{name}.json" for name in names])
        folder.mkdir(parents=True, exist_ok=True)  # before the work, and not after it
        for name in names:
            suite = SUITES[name]
            document = run_suite(suite, job, split=split, command=args.command, images=args.dataset or "")
            documents.append(document)
            write_whole(folder / f"{name}.json", json.dumps(document.model_dump()) + "\n")
            tables = [table(document.rows) for table in suite.tables]
            wide_console().print(f"\n{name}: {document.setting()}", *tables, sep="\n")
            for warning in document.warnings:
                _LOG.warning("%s: %s", {k: warning[k] for k in ("lambda", "width") if k in warning}, warning["text"])
    if args.epsilon is not None and (without := [document.name for document in documents if not document.attacks]):
        PlainConsole(stderr=True).print(f"--epsilon changed nothing in {', '.join(without)}, which attack no image")
    if documents:
        sentences = summary({document.name: document for document in documents})
        wide_console().print(
            "\nIn short", *(f"- {sentence}" for sentence in sentences), f"JSON files: {folder}", sep="\n"
        )
    if args.plots is not None:
        PlainConsole(stderr=True).print(f"wrote {write_page(judged, home, args.plots)}")
    if args.publish is not None:
        updated = write_results(judged, home, args.publish)
        PlainConsole(stderr=True).print(f"wrote {args.publish} and {updated.path} ({updated.sha256[:12]})")
    checks = [check for document in documents for check in document.checks]
    rows = [{"suite": d.name, "num_rows": len(d.rows), "minutes": d.minutes} for d in documents]
    warnings = sum(len(document.warnings) for document in documents)
    print_json("oat-evaluate", machine=machine(args.device), rows=rows, checks=checks, warnings=warnings)
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
