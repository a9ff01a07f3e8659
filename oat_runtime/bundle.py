"""Read a bundle: a trained network as shipped, with its measured tables; verified before a single weight is read."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import Field, ValidationError, model_validator

from oat_runtime.architecture import InputSpec, ModelConfig, tensor_shapes
from oat_runtime.errors import BundleError
from oat_runtime.files import reason_of
from oat_runtime.operating_point import OperatingPoint, OperatingTable, StrictModel
from oat_runtime.shipped import find_bundle, shipped_bundles

SCHEMA_VERSION = 1
NAME = r"[a-z0-9][a-z0-9._-]*"
MANIFEST, WEIGHTS, PROBE, OUTCOMES = (
    "manifest.json",
    "weights.safetensors",
    "probe.safetensors",
    "outcomes.safetensors",
)

LogitsAt = Callable[[npt.NDArray[np.float32], OperatingPoint], npt.NDArray[np.float32]]
"""Images (N, 3, H, W) float32 in [0, 1] and an operating point, to logits (N, K)."""


def is_plain(name: str) -> bool:
    """Whether a file of this name lies in the bundle's own folder, beside the manifest."""
    return Path(name).name == name and name not in (MANIFEST, "", ".", "..")


class FileEntry(StrictModel):
    """One file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: int = Field(ge=0)


class Provenance(StrictModel):
    """Where a network comes from."""

    dataset: str
    dataset_sha256: str
    recipe: dict[str, Any]
    seed: int
    commit: str
    hardware: str
    train_minutes: float


class Temperature(StrictModel):
    """Softmax temperature at one operating point, fitted on validation images (Guo et al. 2017)."""

    lam: float
    width: float
    temperature: float = Field(gt=0)


class Manifest(StrictModel):
    """`manifest.json`: all that is known of a bundle but its numbers."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=f"^{NAME}$")
    model: ModelConfig
    class_names: tuple[str, ...]
    input: InputSpec
    lambda_range: tuple[float, float]
    """λ that may be asked for. Between 0 and the smallest trained λ > 0 the network runs at that smallest one."""
    temperatures: tuple[Temperature, ...]
    provenance: Provenance
    select: OperatingTable
    report: OperatingTable
    probe_atol: float = Field(default=2e-3, gt=0)
    """Largest logit difference from the probe that float32 may show on another machine."""
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if len(self.class_names) != self.model.num_classes:
            raise ValueError(f"expected {self.model.num_classes} class names, got {len(self.class_names)}")
        if self.select.name != "select" or self.report.name != "report":
            raise ValueError("the tables must be named 'select' and 'report'")
        points = {(lam, width) for lam in self.model.lambdas for width in self.model.widths}
        for name, rows in (
            ("select", self.select.rows),
            ("report", self.report.rows),
            ("temperatures", self.temperatures),
        ):
            if {(row.lam, row.width) for row in rows} != points or len(rows) != len(points):
                raise ValueError(f"{name} must hold each trained lambda at each width once")
        if not all(is_plain(name) for name in self.files):
            raise ValueError("file names must be plain names within the bundle")
        return self


@dataclass(frozen=True, slots=True)
class Probe:
    """Images, and the logits that an engine must give for them at one point.

    Attributes:
        x_NCHW: network inputs, float32 in [0, 1].
        logits_NK: float32, of the network as trained.
    """

    x_NCHW: npt.NDArray[np.float32]
    logits_NK: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk. Weights are read only when they are asked for.

    Attributes:
        path: its folder.
        manifest: what it says of itself.
        sha256: its identity: the hash of `manifest.json`, which holds the hashes of all other files.
    """

    path: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read the manifest and check every file against its size and hash.

        Args:
            path: the bundle's folder, or the name of a shipped bundle.

        Raises:
            BundleError: the folder, the manifest or a file is missing, truncated, changed, or of another schema.
        """
        folder = find_bundle(path)
        manifest_path = folder / MANIFEST
        if not manifest_path.is_file():
            hint = f"; the shipped {folder.name} is hidden by that folder" if folder.name in shipped_bundles() else ""
            raise BundleError(f"no bundle at {folder}: expected a folder with {MANIFEST}{hint}")
        raw = manifest_path.read_bytes()
        try:
            document = json.loads(raw)
            version = document.get("schema_version") if isinstance(document, dict) else None
            if version != SCHEMA_VERSION:
                raise BundleError(
                    f"{manifest_path}: expected schema version {SCHEMA_VERSION}, got {version!r}: update this package"
                )
            manifest = Manifest.model_validate_json(raw)
        except ValidationError as error:
            raise BundleError(f"{manifest_path} is damaged or not a manifest: {reason_of(error)}") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BundleError(f"{manifest_path} is damaged or not a manifest: {error}") from error
        for name, entry in manifest.files.items():
            _verify(folder / name, entry)
        missing = {WEIGHTS, PROBE, OUTCOMES} - set(manifest.files)
        if missing:
            raise BundleError(f"{manifest_path} does not list {sorted(missing)}: the bundle is incomplete")
        return cls(folder, manifest, hashlib.sha256(raw).hexdigest())

    @property
    def select(self) -> OperatingTable:
        """The table that the policy reads, marked as this bundle's."""
        return self.manifest.select.model_copy(update={"bundle_sha256": self.sha256})

    @property
    def report(self) -> OperatingTable:
        """The table that people read, marked as this bundle's."""
        return self.manifest.report.model_copy(update={"bundle_sha256": self.sha256})

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.manifest.class_names

    @property
    def input(self) -> InputSpec:
        """What the network takes."""
        return self.manifest.input

    @property
    def estimator(self) -> dict[str, Any] | None:
        """Constants of the policy's regime estimator; None where the bundle has none."""
        if "estimator.json" not in self.manifest.files:
            return None
        document: dict[str, Any] = json.loads((self.path / "estimator.json").read_bytes())
        return document

    def temperature(self, point: OperatingPoint) -> float:
        """Softmax temperature at `point`, linear in λ between the trained ones."""
        rows = sorted((t.lam, t.temperature) for t in self.manifest.temperatures if t.width == point.width)
        upper = bisect.bisect_left(rows, (point.lam, 0.0))
        if upper == len(rows) or rows[upper][0] == point.lam or upper == 0:
            return rows[min(upper, len(rows) - 1)][1]
        (low, at_low), (high, at_high) = rows[upper - 1], rows[upper]
        return at_low + (at_high - at_low) * (point.lam - low) / (high - low)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Read the weights, by the names of `oat_runtime.architecture.tensor_shapes`; float32.

        Raises:
            BundleError: the weights do not fit the architecture that the manifest names.
        """
        path = self.path / WEIGHTS
        try:
            stored = safetensors.numpy.load_file(path)
        except (safetensors.SafetensorError, TypeError, KeyError) as error:  # the last two: a dtype NumPy lacks
            raise BundleError(f"{path} cannot be read ({error}): fetch the bundle again") from error
        expected, found = tensor_shapes(self.manifest.model), {name: array.shape for name, array in stored.items()}
        if found != expected:
            wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
            raise BundleError(
                f"{path} does not fit the manifest's architecture: expected {wrong[0]} of shape "
                f"{expected.get(wrong[0], 'none')}, got {found.get(wrong[0], 'none')} (and {len(wrong) - 1} more)"
            )
        for name, array in stored.items():
            kinds = (np.int64,) if name.endswith("num_batches_tracked") else (np.float32, np.float16)
            if array.dtype not in kinds:
                wanted = " or ".join(np.dtype(kind).name for kind in kinds)
                raise BundleError(f"{path}: expected {name} of {wanted}, got {array.dtype}: export the bundle again")
        # What float16 holds without a loss is stored in it.
        return {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in stored.items()}

    def outcomes(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Per-image outcomes of `report`: `condition/λ/width` to one bool an image, in the order of the test set."""
        packed = safetensors.numpy.load_file(self.path / OUTCOMES)
        num_images = {
            outcome_key(m.condition, row.point): m.num_total for row in self.report.rows for m in row.measurements
        }
        return {key: np.unpackbits(bits, count=num_images[key]).astype(bool) for key, bits in packed.items()}

    def probe(self, point: OperatingPoint) -> Probe:
        """Read images and the logits that the trained network gave for them at one of the table's points.

        Raises:
            BundleError: the probe cannot be read, or does not hold the point.
        """
        return self._probes([point])[0]

    def _probes(self, points: Sequence[OperatingPoint]) -> list[Probe]:
        """Read the file once, for all of these points."""
        path = self.path / PROBE
        try:
            arrays = safetensors.numpy.load_file(path)
            return [Probe(arrays["x_NCHW"], arrays[outcome_key("logits", point)]) for point in points]
        except (safetensors.SafetensorError, KeyError) as error:
            wanted = points[0] if len(points) == 1 else "every point"
            raise BundleError(f"{path} holds no probe of {wanted} ({error}): export the bundle again") from error

    def replay_probe(self, logits_at: LogitsAt) -> float:
        """Return the largest logit difference between `logits_at` and the logits stored for each point.

        Raises:
            BundleError: it exceeds the manifest's tolerance: this engine does not compute this network.
        """
        points = [row.point for row in self.report.rows]
        differences = [
            np.abs(logits_at(probe.x_NCHW, point) - probe.logits_NK).max()
            for point, probe in zip(points, self._probes(points), strict=True)
        ]
        worst = float(np.max(differences))  # NaN stays NaN, which Python's max would drop
        if not worst <= self.manifest.probe_atol:
            raise BundleError(
                f"probe of {self.path} differs by {worst:.3g}, allowed {self.manifest.probe_atol:g}: "
                "use float32, or another engine"
            )
        return worst


def outcome_key(condition: str, point: OperatingPoint) -> str:
    """Name of a tensor that belongs to one condition at one point."""
    return f"{condition}/{point.lam:g}/{point.width:g}"


def _verify(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing: the bundle is incomplete, fetch it again")
    if path.stat().st_size != entry.num_bytes:
        raise BundleError(f"{path}: expected {entry.num_bytes} bytes, got {path.stat().st_size}: it is truncated")
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
        raise BundleError(f"{path}: its SHA-256 is not the manifest's: it was changed, fetch the bundle again")
