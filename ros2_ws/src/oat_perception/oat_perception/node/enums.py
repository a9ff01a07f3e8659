"""Map the policy's enums to the constants of our messages: who chose, by which rule, in which regime. No torch."""

from __future__ import annotations

from oat_msgs.msg import OperatingPoint, Perception

from oat_runtime.operating_point import Regime
from policy.decision import ChosenBy, Rule

SOURCE = {source: getattr(OperatingPoint, f"SOURCE_{source.name}") for source in ChosenBy}
SOURCE_NAMES = {number: source.value for source, number in SOURCE.items()}
RULE = {rule: getattr(OperatingPoint, f"RULE_{rule.name}") for rule in Rule}
REGIMES = sorted(Regime, key=lambda regime: getattr(Perception, f"REGIME_{regime.name}"))
"""In the order of `Perception.regime_posterior`."""
