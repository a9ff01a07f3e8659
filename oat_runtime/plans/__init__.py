"""Plans of a bundle: made when they are asked for, held within a memory budget, and compared with the probe."""

from oat_runtime.plans.int8_offer import no_int8
from oat_runtime.plans.probe_check import ProbeCheck
from oat_runtime.plans.store import CLOSED, DEFAULT_BUDGET_MB, CheckPlan, PlanForm, PlanStore, ReadyPlan

__all__ = ["CLOSED", "DEFAULT_BUDGET_MB", "CheckPlan", "PlanForm", "PlanStore", "ProbeCheck", "ReadyPlan", "no_int8"]
