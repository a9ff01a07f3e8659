"""A trained network as shipped: a folder with its manifest, weights, probe and outcomes, verified before it is used."""

from __future__ import annotations

from oat_runtime.bundle.loss import LossBound
from oat_runtime.bundle.manifest import (
    DataSummary,
    Figures,
    Fingerprints,
    HeldOut,
    Manifest,
    Provenance,
    Temperature,
    outcome_key,
)
from oat_runtime.bundle.reader import Bundle, LogitsAt, Probe

__all__ = [
    "Bundle",
    "DataSummary",
    "Figures",
    "Fingerprints",
    "HeldOut",
    "LogitsAt",
    "LossBound",
    "Manifest",
    "Probe",
    "Provenance",
    "Temperature",
    "outcome_key",
]
