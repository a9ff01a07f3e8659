"""A bundle: a trained network as shipped, with its measured tables; verified before a single weight is read."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from oat_runtime.errors import BundleError
from oat_runtime.image import InputSpec
from oat_runtime.layers import LambdaBatch
from oat_runtime.model import ModelConfig, OATNet
from oat_runtime.norm import FiLMTable
from oat_runtime.operating_point import OperatingPoint, OperatingTable, StrictModel

SCHEMA_VERSION = 1
_NAME = r"[a-z0-9][a-z0-9._-]*"
_MANIFEST, _WEIGHTS, _PROBE, _OUTCOMES = (
    "manifest.json",
    "weights.safetensors",
    "probe.safetensors",
    "outcomes.safetensors",
)

LogitsAt = Callable[[npt.NDArray[np.float32], OperatingPoint], npt.NDArray[np.float32]]
"""Images (N, 3, H, W) float32 in [0, 1] and an operating point, to logits (N, K)."""


def _is_plain(name: str) -> bool:
    """Whether a file of this name lies in the bundle's own folder, beside the manifest."""
    return Path(name).name == name and name not in (_MANIFEST, "", ".", "..")


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
    name: str = Field(pattern=f"^{_NAME}$")
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
        if not all(_is_plain(name) for name in self.files):
            raise ValueError("file names must be plain names within the bundle")
        return self


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk. Weights are read only when the model is asked for.

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

        Raises:
            BundleError: the folder, the manifest or a file is missing, truncated, changed, or of another schema.
        """
        folder = Path(path)
        manifest_path = folder / _MANIFEST
        if not manifest_path.is_file():
            raise BundleError(f"no bundle at {folder}: expected a folder with {_MANIFEST}")
        raw = manifest_path.read_bytes()
        try:
            document = json.loads(raw)
            version = document.get("schema_version") if isinstance(document, dict) else None
            if version != SCHEMA_VERSION:
                raise BundleError(
                    f"{manifest_path}: expected schema version {SCHEMA_VERSION}, got {version!r}: update this package"
                )
            manifest = Manifest.model_validate_json(raw)
        except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
            raise BundleError(f"{manifest_path} is damaged or not a manifest: {error}") from error
        for name, entry in manifest.files.items():
            _verify(folder / name, entry)
        missing = {_WEIGHTS, _PROBE, _OUTCOMES} - set(manifest.files)
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

    def model(self) -> OATNet:
        """The network in evaluation mode, float32, on the CPU.

        Raises:
            BundleError: the weights do not fit the architecture that the manifest names.
        """
        model = _table_form(OATNet(self.manifest.model))
        try:
            model.load_state_dict(safetensors.torch.load_file(self.path / _WEIGHTS), strict=True)
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise BundleError(f"{self.path / _WEIGHTS} does not fit the manifest's architecture: {error}") from error
        return model.eval().requires_grad_(False)

    def outcomes(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Per-image outcomes of `report`: `condition/λ/width` to one bool an image, in the order of the test set."""
        packed = safetensors.numpy.load_file(self.path / _OUTCOMES)
        num_images = {
            outcome_key(m.condition, row.point): m.num_total for row in self.report.rows for m in row.measurements
        }
        return {key: np.unpackbits(bits, count=num_images[key]).astype(bool) for key, bits in packed.items()}

    def replay_probe(self, logits_at: LogitsAt) -> float:
        """Largest logit difference between `logits_at` and the logits stored for each point.

        Raises:
            BundleError: it exceeds the manifest's tolerance: this engine does not compute this network.
        """
        probe = safetensors.numpy.load_file(self.path / _PROBE)
        differences = []
        for row in self.report.rows:
            expected = probe[outcome_key("logits", row.point)]
            differences.append(np.abs(logits_at(probe["x_NCHW"], row.point) - expected).max())
        worst = float(np.max(differences))  # NaN stays NaN, which Python's max would drop
        if not worst <= self.manifest.probe_atol:
            raise BundleError(
                f"probe of {self.path} differs by {worst:.3g}, allowed {self.manifest.probe_atol:g}: "
                "use float32, or another back end"
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


def _table_form(model: OATNet) -> OATNet:
    """Give every site an empty γ and β table to load into."""
    for site in model.norms():
        site.film = FiLMTable(site.film(model.code_KD)[0].shape[1], len(model.config.lambdas))
    return model


def _compact(tensor: Tensor) -> Tensor:
    """In half the bytes where float16 holds every value exactly; `Bundle.model` makes float32 of it again."""
    half = tensor.half()
    lossless = tensor.dtype == torch.float32 and torch.equal(half.float(), tensor)
    return (half if lossless else tensor).contiguous()


def save_bundle(
    path: Path,
    model: OATNet,
    *,
    name: str,
    class_names: tuple[str, ...],
    input_spec: InputSpec,
    provenance: Provenance,
    temperatures: tuple[Temperature, ...],
    select: OperatingTable,
    report: OperatingTable,
    outcomes: Mapping[str, npt.NDArray[np.bool_]],
) -> Bundle:
    """Write a bundle beside `path` and move it there whole, in place of an older one.

    Args:
        path: the folder to make.
        model: a trained network; its FiLM MLPs are stored as γ and β at the knots, and in float16 what that holds
            exactly.
        name: its name, lower case.
        class_names: one a class.
        input_spec: what camera frames are turned into.
        provenance: where it comes from.
        temperatures: one for each trained point.
        select: the policy's table.
        report: the people's table.
        outcomes: per-image outcomes of `report`, by `outcome_key`.

    Raises:
        BundleError: `path` holds something that is not a bundle; nothing was written.
    """
    check_target(path)
    shipped = model.with_film_tables().cpu().eval()
    shipped.compute_dtype = torch.float32
    files = {
        _WEIGHTS: safetensors.torch.save({k: _compact(v) for k, v in shipped.state_dict().items()}),
        _PROBE: safetensors.numpy.save(_make_probe(shipped, input_spec)),
        _OUTCOMES: safetensors.numpy.save({key: np.packbits(value) for key, value in outcomes.items()}),
    }
    manifest = Manifest(
        name=name,
        model=model.config,
        class_names=class_names,
        input=input_spec,
        lambda_range=(model.config.lambdas[0], model.config.lambdas[-1]),
        temperatures=temperatures,
        provenance=provenance,
        select=select,
        report=report,
        files={file: _entry(content) for file, content in files.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for file, content in files.items():
            (partial / file).write_bytes(content)
        (partial / _MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        partial.chmod(0o755)
        Bundle.load(partial).model()
        older = path.with_name(f".{path.name}-older")
        if path.exists():
            os.replace(path, older)
        try:
            os.replace(partial, path)
        except OSError:
            if older.exists():
                os.replace(older, path)
            raise
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.load(path)


def check_target(path: Path) -> None:
    """Refuse to replace what is not a bundle, or to make one whose name would not do.

    Raises:
        BundleError: with what to do instead.
    """
    if path.exists() and not (path / _MANIFEST).is_file():
        raise BundleError(f"{path} exists and is not a bundle: name a new folder, as in bundles/my-net")
    if re.fullmatch(_NAME, path.name) is None:
        raise BundleError(f"a bundle's name must be lower case letters, digits, '.', '_' or '-', got {path.name!r}")


def attach_file(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """Put one more file (say, the policy's constants) into a bundle and list it in the manifest.

    Raises:
        BundleError: the name is not a plain file name, or one of the bundle's own.
    """
    if not _is_plain(name) or name in (_WEIGHTS, _PROBE, _OUTCOMES):
        raise BundleError(f"an attached file needs a plain name of its own, got {name!r}")
    files = dict(bundle.manifest.files) | {name: _entry(content)}
    manifest = Manifest.model_validate(bundle.manifest.model_dump() | {"files": {k: dict(v) for k, v in files.items()}})
    for file, data in ((name, content), (_MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())):
        partial = bundle.path / f".{file}.partial"
        partial.write_bytes(data)
        os.replace(partial, bundle.path / file)
    return Bundle.load(bundle.path)


def _entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))


@torch.no_grad()
def _make_probe(model: OATNet, spec: InputSpec) -> dict[str, npt.NDArray[np.float32]]:
    """A few smooth random images and the float32 logits expected of each point. No picture of any data set."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    x_NCHW = torch.nn.functional.interpolate(coarse, (spec.height, spec.width), mode="bilinear", align_corners=True)
    probe = {"x_NCHW": x_NCHW.numpy()}
    for lam in model.config.lambdas:
        for width in model.config.widths:
            batch = LambdaBatch.constant(lam, len(x_NCHW), model.config.lambdas)
            probe[outcome_key("logits", OperatingPoint(lam, width))] = model(x_NCHW, batch, width=width).numpy()
    return probe
