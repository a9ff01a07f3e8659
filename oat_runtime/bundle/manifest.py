"""What `manifest.json` may say: schema 2, and how one of schema 1 says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from oat_runtime.architecture import InputSpec, ModelConfig
from oat_runtime.compat import Self
from oat_runtime.operating_point import OperatingPoint, OperatingTable, Precision, StrictModel

SCHEMA_VERSION: Final = 2
NAME = r"[a-z0-9][a-z0-9._-]{0,99}"
MANIFEST, MANIFEST_HASH = "manifest.json", "manifest.sha256"
WEIGHTS, PROBE, OUTCOMES, ESTIMATOR = (
    "weights.safetensors",
    "probe.safetensors",
    "outcomes.safetensors",
    "estimator.json",
)
MAX_ATTACHED_BYTES: Final = 16 * 2**20
"""Size of a file that is neither weights, probe nor outcomes."""
FLOAT32_ATOL: Final = 2e-3
"""Largest logit difference from the probe that float32 may show on another machine: engines showed up to 3e-5."""
_UNSTATED_SHARE, _UNSTATED_SHARE_INT8 = 0.05, 0.1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Tolerance = Annotated[float, Field(gt=0, le=100)]


def unstated_share(precision: Precision) -> float:
    """Return by how much logits may differ from the trained network's where a manifest states no tolerance.

    It is a share of their largest absolute value. bfloat16 keeps 8 bits (1/256), and a network multiplies that by a
    few. int8 rounds every activation to 256 values over all that it may be: the logits of the shipped bundles moved by
    up to 4 %. An engine that computes something else is far beyond both.
    """
    return _UNSTATED_SHARE_INT8 if precision == "int8" else _UNSTATED_SHARE


def is_plain(name: str) -> bool:
    """Whether a file of this name lies in the bundle's own folder, beside the manifest."""
    return Path(name).name == name and name.isprintable() and name not in (MANIFEST, MANIFEST_HASH, "", ".", "..")


def outcome_key(condition: str, point: OperatingPoint, *, precision: Precision = "float32") -> str:
    """Return the name of a tensor that belongs to one condition at one point; float32 goes without saying."""
    key = f"{condition}/{point.lam:g}/{point.width:g}"
    return key if precision == "float32" else f"{precision}/{key}"


class FileEntry(StrictModel):
    """One file of the bundle."""

    sha256: Sha256
    num_bytes: int = Field(ge=0, lt=2**63)


class Provenance(StrictModel):
    """Where a network comes from."""

    dataset: str
    dataset_sha256: str
    """Fingerprint of all labelled training images, validation among them."""
    recipe: dict[str, Any]
    seed: int
    commit: str
    hardware: str
    train_minutes: float


class HeldOut(StrictModel):
    """How the validation images were set apart from the training images."""

    rule: str = Field(pattern=f"^{NAME}$")
    """`random`: each image by itself. `stratified`: in proportion of each class. `groups`: whole groups, at least one
    of each class. `folder`: the images that the data set itself holds out."""
    grouped_by: str = Field(default="", max_length=200)
    """What makes images a group, as in `track`; empty where each stands for itself, or where it is not known."""
    num_images: int = Field(ge=1, lt=2**63)
    """Images that were asked for; whole groups may be more."""
    seed: int


class Fingerprints(StrictModel):
    """`oat_runtime.data.fingerprint` of the images of each part; None where it is not known."""

    train: Sha256 | None = None
    """Those that the network was trained on, without the validation images."""
    validation: Sha256 | None = None
    test: Sha256 | None = None


class DataSummary(StrictModel):
    """The exact images behind a network and its figures, beside `Manifest.class_names` and `Provenance.dataset`."""

    held_out: HeldOut | None = None
    fingerprints: Fingerprints = Fingerprints()


class Temperature(StrictModel):
    """Softmax temperature at one operating point, fitted on validation images (Guo et al. 2017)."""

    lam: float
    width: float
    temperature: float = Field(ge=1e-3, le=1e3)


class Figures(StrictModel):
    """What was counted while the network ran in one precision."""

    temperatures: tuple[Temperature, ...]
    select: OperatingTable
    report: OperatingTable


class Manifest(StrictModel):
    """`manifest.json`: all that is known of a bundle but its numbers."""

    schema_version: Literal[2] = 2
    name: str = Field(pattern=f"^{NAME}$")
    model: ModelConfig
    class_names: tuple[Annotated[str, Field(max_length=200)], ...]
    input: InputSpec
    lambda_range: tuple[float, float]
    """λ that may be asked for. Between 0 and the smallest trained λ > 0 the network runs at that smallest one."""
    provenance: Provenance
    data: DataSummary | None = None
    """None where the bundle was written before it was recorded."""
    figures: dict[Precision, Figures]
    """By precision; float32 always."""
    probe_atol: dict[Precision, Tolerance]
    """Largest logit difference from the probe that a precision may show on any machine; float32 always. For others see
    `tolerance`."""
    quantization: str | None = None
    """Name of the file with what int8 needs beside the weights, activation ranges above all; None without int8. That
    file says by itself which form it has."""
    files: dict[str, FileEntry] = Field(max_length=64)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if len(self.class_names) != self.model.num_classes:
            raise ValueError(f"expected {self.model.num_classes} class names, got {len(self.class_names)}")
        if "float32" not in self.figures or "float32" not in self.probe_atol:
            raise ValueError("figures and probe_atol must hold float32")
        if self.lambda_range != (self.model.lambdas[0], self.model.lambdas[-1]):
            raise ValueError("lambda_range must be the first and the last of the model's lambdas")
        points = {(lam, width) for lam in self.model.lambdas for width in self.model.widths}
        if len({outcome_key("", OperatingPoint(*point)) for point in points}) != len(points):
            raise ValueError("lambdas and widths must differ in their first six digits")
        for precision, figures in self.figures.items():
            if figures.select.name != "select" or figures.report.name != "report":
                raise ValueError(f"figures.{precision}: the tables must be named 'select' and 'report'")
            for name, rows in (
                ("select", figures.select.rows),
                ("report", figures.report.rows),
                ("temperatures", figures.temperatures),
            ):
                if {(row.lam, row.width) for row in rows} != points or len(rows) != len(points):
                    raise ValueError(f"figures.{precision}.{name} must hold each trained lambda at each width once")
        if not all(is_plain(name) for name in self.files):
            raise ValueError("file names must be plain names within the bundle")
        if missing := {WEIGHTS, PROBE, OUTCOMES} - set(self.files):
            raise ValueError(f"it does not list {sorted(missing)}: the bundle is incomplete")
        if self.quantization is not None and self.quantization not in self.files:
            raise ValueError("quantization must name one of the files")
        return self

    def tolerance(self, precision: Precision, largest_logit: float) -> float:
        """Return by how much logits may differ from the probe's, whose largest absolute value is given.

        What the manifest states counts up to the share that holds without a statement. So nobody who exchanges the
        weights can state that they need not fit.
        """
        most = unstated_share(precision) * largest_logit
        return min(self.probe_atol.get(precision, most), max(most, FLOAT32_ATOL))


def of_schema_1(document: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of schema 1 as one of schema 2: one table for all precisions, and no record of the data."""
    figures = {name: document[name] for name in ("temperatures", "select", "report") if name in document}
    atol = {"float32": document.get("probe_atol", FLOAT32_ATOL)}
    moved = {"figures": {"float32": figures}, "probe_atol": atol, "schema_version": SCHEMA_VERSION}
    later = {"data", "figures", "quantization"}
    kept = {name: value for name, value in document.items() if name not in (*figures, "probe_atol")}
    if strange := sorted(later & set(kept)):
        raise ValueError(f"a manifest of schema 1 has no {strange[0]}")
    return kept | moved
