"""Hold every plan that is made to the bundle's probe: it must compute the network that was exported."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from oat_runtime.backends import Plan, Precision
from oat_runtime.bundle import Bundle, Probe
from oat_runtime.operating_point import OperatingPoint


class ProbeCheck:
    """Runs one image of the probe through a plan and compares the logits, within the tolerance of its precision.

    Each point has another image than the next: the weights that points share meet all of them, and a start waits for
    few. It is a `oat_runtime.plans.CheckPlan`.
    """

    def __init__(self, bundle: Bundle, probes: Mapping[OperatingPoint, Probe], precision: Precision) -> None:
        """Keep one image a point of the bundle's `probes`, for an engine that runs in `precision`."""
        self._bundle, self._precision = bundle, precision
        self._probes, self._largest = dict[OperatingPoint, Probe](), dict[OperatingPoint, float]()
        for index, (point, probe) in enumerate(probes.items()):
            first = index % len(probe.x_NCHW)
            one = slice(first, first + 1)
            self._largest[point] = float(np.abs(probe.logits_NK).max())
            self._probes[point] = Probe(probe.x_NCHW[one].copy(), probe.logits_NK[one].copy())

    def __call__(self, point: OperatingPoint, plan: Plan) -> None:
        """Run the plan of `point`. One between two knots, which has no probe, only has to run.

        Raises:
            BundleError: its logits are not the trained network's.
        """
        probe = self._probes.get(point) or next(iter(self._probes.values()))
        logits_NK = plan(probe.x_NCHW)
        if point in self._probes:
            self._bundle.check_logits(
                logits_NK,
                probe.logits_NK,
                point=point,
                precision=self._precision,
                largest_logit=self._largest[point],
            )
