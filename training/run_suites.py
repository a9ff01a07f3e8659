"""`oat-evaluate --suite ... --plots ... --publish ...`: run the parts of a full evaluation and show what they found."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from oat_runtime.errors import ConfigError
from oat_runtime.report import wide_console
from training import suites
from training.crosscheck import crosscheck
from training.dedicated import dedicated
from training.evaluate import ATTACKS, first
from training.origin import commit_of_code, machine
from training.results import publish, setting, tables
from training.subject import JudgedOn, load_subject
from training.suites import LINF_ATTACKS, Job, Result, Row

_LOG = logging.getLogger(__name__)

ALONE: dict[str, Callable[[Job], Result]] = {
    "attacks": suites.attacks,
    "unseen": suites.unseen,
    "transfer": suites.transfer,
    "joint": suites.joint,
    "corruptions": suites.corruptions,
    "calibration": suites.calibration,
    "inside": suites.inside,
}
"""What `all` runs: suites that need the network and nothing else."""
SUITES = ALONE | {"crosscheck": crosscheck, "dedicated": dedicated}
"""Every suite, by name; the last two need a third party's package and `--beside` networks."""


def run_suites(args: argparse.Namespace) -> int:
    """`oat-evaluate --suite ... --plots ...`: run, write one JSON file a suite, draw, publish; 1 if a check fails."""
    names = list(ALONE) if args.suite == ["all"] else list(args.suite or ())
    unknown = sorted(set(names) - set(SUITES))
    if unknown:
        raise ConfigError(f"unknown suite {', '.join(unknown)}: expected {', '.join(SUITES)} or all")
    subject = load_subject(args.subject, device=args.device)
    folder = args.out or Path("out") / "evaluate" / subject.name
    documents = []
    if names:
        split: JudgedOn = args.split or ("validation" if subject.bundle is None else "test")
        data = first(subject.images(split, download=args.download), args.count)
        config = subject.model.config
        job = Job(
            subject=subject,
            data=data,
            lambdas=tuple(args.lambdas or config.lambdas),
            widths=tuple(args.widths or config.widths),
            attack=ATTACKS[args.attack or "pgd-20"],
            attacks=tuple(args.attacks or LINF_ATTACKS),
            num_steps=args.steps,
            beside=tuple(load_subject(path, device=args.device) for path in args.beside),
            kept_in=folder / "kept",
        )
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            documents.append(_run(name, job, split) | {"command": args.command})
            (folder / f"{name}.json").write_text(json.dumps(documents[-1]) + "\n")
            wide_console().print(f"\n[bold]{name}[/bold]: {setting(documents[-1])}", *tables(documents[-1]), sep="\n")
            for warning in documents[-1]["warnings"]:
                _LOG.warning("%s: %s", {k: warning[k] for k in ("lambda", "width") if k in warning}, warning["text"])
    if args.plots is not None:
        from training.html import write_page  # matplotlib is heavy

        Console(stderr=True).print(f"wrote {write_page(subject, folder, args.plots)}")
    if args.publish is not None:
        published = publish(subject, folder, args.publish)
        Console(stderr=True).print(f"wrote {args.publish} and {published.path} ({published.sha256[:12]})")
    checks = [check for document in documents for check in document["checks"]]
    rows = [{"suite": d["name"], "num_rows": len(d["rows"]), "minutes": d["minutes"]} for d in documents]
    warnings = sum(len(document["warnings"]) for document in documents)
    about = {"name": "oat-evaluate", "machine": machine(args.device)}
    print(json.dumps(about | {"rows": rows, "checks": checks, "warnings": warnings}))
    return 0 if all(check["ok"] for check in checks) else 1


def _run(name: str, job: Job, split: str) -> Row:
    started, spared_s = time.monotonic(), job.kept.spared_s
    result = SUITES[name](job)
    seconds = time.monotonic() - started + job.kept.spared_s - spared_s  # what it takes to count all of it
    return {
        "name": name,
        "subject": job.subject.name,
        "weights_sha256": job.subject.identity,
        "model": job.subject.model.config.name,
        "dataset": job.subject.dataset,
        "split": split,
        "num_images": len(job.data),
        "attacks": [spec.model_dump() for spec in result.attacks],
        "machine": machine(job.device),
        "commit": commit_of_code(),
        "minutes": round(seconds / 60.0, 2),
        "rows": result.rows,
        "checks": list(result.checks),
        "warnings": list(result.warnings),
    }
