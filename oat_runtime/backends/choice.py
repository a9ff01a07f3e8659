"""Find the fastest engine and precision for `auto`: measure once on this machine, then remember the choice.

The stored choice affects only speed: the engine still has to load, compile and compute this network correctly.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from oat_runtime.backends import INT8_ENGINES, BackendName, Plan, Precision, available, get_backend, versions
from oat_runtime.backends.plan import Floats, MakeNet, Settings
from oat_runtime.backends.trials import bfloat16_works, shows
from oat_runtime.bundle import Probe
from oat_runtime.bundle.manifest import unstated_share
from oat_runtime.devices import device_name
from oat_runtime.errors import BackendError, one_line
from oat_runtime.files import MAX_JSON_BYTES, parse_json, read_at_most, user_cache, write_whole
from oat_runtime.timing import interleave

_LOG = logging.getLogger(__name__)
_SECONDS = 0.5
"""Measuring time of all candidates together; each gets at least `_MIN_ROUNDS` turns."""
_MIN_ROUNDS = 5
_MOST_OF_INT8 = 0.9
"""Share of the fastest other candidate's time that int8 may take to be chosen: for less, nobody gives up accuracy."""

Candidate = tuple[BackendName, Precision]
_PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def choose(
    make_net: MakeNet,
    probe: Probe,
    settings: Settings,
    *,
    backend: BackendName | None,
    precision: Precision | None,
    bundle_sha256: str,
    no_int8: str = "nobody asked for it",
    cache: Path | None = None,
) -> Candidate:
    """Return the fastest engine and precision for one image at a time, and log which and why.

    Args:
        make_net: a folded network of the bundle at full width.
        probe: reference images, with the logits that the network must give for them.
        settings: settings of the engine; the precision in them is ignored.
        backend: take this one; None compares all that are installed.
        precision: take this one; None compares float32 with bfloat16 where the device computes in it, and with int8
            where that may be chosen; it is float32 if the engine was named.
        bundle_sha256: the network's identity.
        no_int8: why int8 may not be chosen unless it is named, for people; empty if it may. The networks of `make_net`
            hold ranges then.
        cache: file of stored choices; `cache_path()` by default.

    Raises:
        BackendError: no engine takes this network on this device and in this precision.
    """
    if backend is not None:
        return backend, precision or "float32"
    names = available(settings.device)
    if not names:
        raise BackendError(
            f"no engine for {settings.device} is installed: pip install 'oat-robot[onnxruntime]' (or openvino, torch)"
        )
    if len(names) == 1 and precision is not None:
        return names[0], precision
    with_int8 = precision is None and not no_int8
    if precision is None and no_int8:
        _LOG.info("int8 is left out of the choice: %s", no_int8)
    cache = cache or cache_path()
    key = _key(names, "any precision, int8" if with_int8 else precision or "any precision", settings, bundle_sha256)
    known = None if cache is None else _read(cache).get(key)
    possible = {f"{name} {kind}": (name, kind) for name in names for kind in _PRECISIONS}
    if isinstance(known, str) and known in possible:
        remembered = possible[known]
        if _offers(*remembered, settings, precision, with_int8=with_int8):
            _LOG.info("engine for one image on %d threads: %s, measured before", settings.num_threads, known)
            return remembered
    candidates = [
        (name, kind) for name in names for kind in _precisions(name, settings, precision, with_int8=with_int8)
    ]
    if len(candidates) == 1:
        return candidates[0]
    times = measure(make_net, probe, settings, candidates)
    best = _best(times)
    found = ", ".join(f"{name} {kind} {times[name, kind]:.2f} ms" for name, kind in times)
    _LOG.info("engine for one image on %d threads: %s %s of %s", settings.num_threads, *best, found)
    if best[1] != "int8" and any(kind == "int8" for _, kind in times):
        _LOG.info("int8 is not chosen: it must take at most %g of the time of another precision", _MOST_OF_INT8)
    if cache is not None:
        _remember(cache, key, best)
    return best


def _best(times: Mapping[Candidate, float]) -> Candidate:
    """Return the fastest candidate; one in int8 if it is faster by enough than all others."""
    fastest = sorted(times, key=lambda candidate: times[candidate])
    others = [candidate for candidate in fastest if candidate[1] != "int8"]
    if others and times[fastest[0]] > _MOST_OF_INT8 * times[others[0]]:
        return others[0]
    return fastest[0]


def measure(
    make_net: MakeNet, probe: Probe, settings: Settings, candidates: Sequence[Candidate]
) -> dict[Candidate, float]:
    """Return the median milliseconds of one image, for each candidate that computes this network correctly.

    Raises:
        BackendError: none does.
    """
    plans: dict[Candidate, Plan] = {}
    x_NCHW, expected = probe.x_NCHW[:1], probe.logits_NK[:1]
    largest = max(float(np.abs(probe.logits_NK).max()), 1e-6)
    refusals = []
    for candidate in candidates:
        try:
            plan = _plan(make_net, settings, candidate)
            error = float(np.abs(plan(x_NCHW) - expected).max()) / largest
        except BackendError as refusal:
            refusals.append(str(refusal))
            continue
        if error <= unstated_share(candidate[1]):
            plans[candidate] = plan
        else:
            refusals.append(f"{candidate[0]} {candidate[1]} computes something else: logits off by {error:.0%}")
    if not plans:
        raise BackendError(f"no engine takes this network on {settings.device}: {'; '.join(refusals)}")
    for refusal_text in refusals:
        _LOG.info("left out of the choice: %s", refusal_text)
    calls: dict[Candidate, Callable[[], Floats]] = {
        candidate: functools.partial(plan, x_NCHW) for candidate, plan in plans.items()
    }
    times = interleave(calls, seconds=_SECONDS, min_rounds=_MIN_ROUNDS)
    return {candidate: float(np.median(values)) for candidate, values in times.items()}


def _plan(make_net: MakeNet, settings: Settings, candidate: Candidate) -> Plan:
    name, precision = candidate
    chosen = Settings(settings.input_hw, precision, settings.num_threads, settings.device)
    return get_backend(name)(make_net, chosen).plan()


def _precisions(
    name: BackendName, settings: Settings, precision: Precision | None, *, with_int8: bool
) -> tuple[Precision, ...]:
    """What to compare."""
    return tuple(kind for kind in _PRECISIONS if _offers(name, kind, settings, precision, with_int8=with_int8))


def _offers(
    name: BackendName, kind: Precision, settings: Settings, precision: Precision | None, *, with_int8: bool
) -> bool:
    """Whether to compare a precision.

    On a CPU only OpenVINO's bfloat16: torch's took longer than OpenVINO's float32 (8.6, 8.1 ms).
    """
    if precision is not None:
        return kind == precision
    if kind == "bfloat16":
        if settings.device == "cuda":
            return name in ("torch", "tensorrt")
        return name == "openvino" and shows("amx_bf16") and _works_in_bfloat16(name)
    if kind == "int8":
        return with_int8 and settings.device == "cpu" and name in INT8_ENGINES
    return kind == "float32"


def _works_in_bfloat16(name: Literal["openvino"]) -> bool:
    """Return whether a trial ran. If none could be made, log that, and leave bfloat16 out."""
    try:
        return bfloat16_works(name)
    except BackendError as error:
        _LOG.warning("bfloat16 is left out of the choice: %s", error)
        return False


def cache_path() -> Path | None:
    """Return the file of stored choices, in the user's cache folder; None where there is none."""
    folder = user_cache()
    return None if folder is None else folder / "backends.json"


def _key(names: Sequence[BackendName], precision: str, settings: Settings, bundle_sha256: str) -> str:
    """Return all that a choice depends on, as one text."""
    engines = ", ".join(versions(name) for name in names)
    threads = f"{settings.num_threads} threads"
    return " | ".join([bundle_sha256, device_name(settings.device), threads, precision, engines])


def _read(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_at_most(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOG.warning("ignoring the remembered engines in %s: %s", path, one_line(error))
        return {}
    if not isinstance(document, dict):
        _LOG.warning("ignoring the remembered engines in %s: expected an object", path)
        return {}
    return document


def _remember(path: Path, key: str, best: Candidate) -> None:
    document = _read(path) | {key: " ".join(best)}
    try:
        write_whole(path, json.dumps(document, indent=1))
    except OSError as error:
        _LOG.warning("cannot remember the choice of engine in %s: %s", path, error)
