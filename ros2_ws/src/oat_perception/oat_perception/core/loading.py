"""Load what the node runs, as its parameters say: network, policy and decision log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oat_perception.core.decision_log import DecisionLog
from oat_perception.core.parameters import ADAPTIVE, SPECS, policy_config
from oat_perception.core.perception import PerceptionCore
from oat_runtime.device_profile import DeviceProfile
from oat_runtime.errors import ConfigError, one_line
from oat_runtime.files import expanded
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.runtime import OATRuntime
from policy.belief.constants import EstimatorConstants, FittedFor, read_estimator
from policy.config import PolicyConfig


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the node holds from configure to cleanup; `log` is None if no log is written."""

    runtime: OATRuntime
    config: PolicyConfig
    core: PerceptionCore
    log: DecisionLog | None

    def close(self) -> None:
        """Close the network and the log."""
        self.runtime.close()
        if self.log is not None:
            self.log.close()


def load(values: Mapping[str, Any], *, check: Callable[[OATRuntime, PolicyConfig], None]) -> Loaded:
    """Load the network, prepare and warm every point of its table and the operator's, and build the policy.

    Args:
        values: of all parameters, by name.
        check: raises if the operator's λ or width does not fit the network and the policy's limits.

    Raises:
        OATError: a file, the bundle or a combination of parameters cannot be used; nothing stays loaded.
    """
    if not values["bundle"]:
        raise ConfigError(
            "parameter bundle is empty: set it to the folder of a trained network, or to the name of a shipped one"
        )
    named = [spec.name for spec in SPECS if spec.is_path and values[spec.name]]
    values = {**values, **{name: expanded(values[name]) for name in named}}
    config = policy_config(values)
    runtime = OATRuntime.load(
        values["bundle"],
        backend=values["backend"],
        precision=values["precision"],
        num_threads=values["num_threads"] or None,
        memory_budget_mb=values["memory_budget_mb"],
    )
    try:
        table, constants = _profiled(runtime, values["profile"]), _estimator(runtime, values["estimator"])
        core = PerceptionCore(runtime, config, table=table, constants=constants)
        check(runtime, config)
        runtime.prepare(max_batch=1 + values["max_regions"])  # the whole image, and its regions
        if values["lambda"] != ADAPTIVE:
            widths = runtime.table.widths if values["width"] == ADAPTIVE else (values["width"],)
            runtime.prepare(OperatingPoint(float(values["lambda"]), float(width)) for width in widths)
        core.warm()
        log = None
        if values["decision_log"]:
            max_bytes, max_files = 10**6 * values["decision_log_size_mb"], values["decision_log_files"]
            log = DecisionLog(values["decision_log"], core.policy, max_bytes=max_bytes, max_files=max_files)
    except BaseException:
        runtime.close()
        raise
    return Loaded(runtime, config, core, log)


def about(loaded: Loaded, values: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Say what was loaded, and which of it people may not have meant, as lines (whether it is a warning, words)."""
    runtime, policy = loaded.runtime, loaded.core.policy
    yield False, f"loaded {one_line(runtime.bundle.manifest.name)} on {runtime.backend} in {runtime.precision}"
    if loaded.log is not None:
        yield False, f"every decision goes to {one_line(expanded(values['decision_log']).absolute())}"
    if runtime.bundle.input.region_margin is not None and not values["max_regions"]:
        yield (
            True,
            "this bundle was trained on boxes and max_regions is 0, so it answers for whole images, of which it knows "
            "nothing: set max_regions, and publish the boxes of a detector on `regions`",
        )
    if policy.constants is None:
        yield (
            True,
            "this bundle has no estimator, so the policy recognizes no environment and stays at the safest point: run "
            "`python -m policy.fit` on it, or set the parameter estimator",
        )
        return
    if policy.constants.fitted_on:
        yield False, f"the estimator was fitted on {one_line(policy.constants.fitted_on)}"
    if policy.promise:
        yield False, f"the alarm's promise: {policy.promise}"
    else:
        yield False, "the alarm promises nothing, since this estimator was fitted by an earlier version"


def _profiled(runtime: OATRuntime, profile: str) -> OperatingTable | None:
    """Return the table with this device's latencies; None without a profile."""
    if not profile:
        return None
    return DeviceProfile.load(profile).apply(
        runtime.table, backend=runtime.backend, precision=runtime.precision, num_threads=runtime.num_threads
    )


def _estimator(runtime: OATRuntime, file: str) -> EstimatorConstants | None:
    """Return the constants that `oat-calibrate` fitted to this camera and network; None without a file."""
    return read_estimator(file, network=FittedFor.of(runtime.bundle)) if file else None
