"""Read a bundle: every file is held to its size, hash and shapes before a single number of it is used."""

from __future__ import annotations

import bisect
import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from oat_runtime.architecture import InputSpec, tensor_shapes
from oat_runtime.bundle.manifest import (
    ESTIMATOR,
    MANIFEST,
    MANIFEST_HASH,
    MAX_ATTACHED_BYTES,
    OUTCOMES,
    PROBE,
    SCHEMA_VERSION,
    WEIGHTS,
    DataSummary,
    Fingerprints,
    Manifest,
    of_schema_1,
    outcome_key,
)
from oat_runtime.bundle.shipped import find_bundle, shipped_bundles
from oat_runtime.bundle.tensor_files import Expected, check_header, most_bytes, read_header, read_tensors
from oat_runtime.compat import Self
from oat_runtime.errors import BundleError, one_line, quoted
from oat_runtime.files import MAX_JSON_BYTES, parse_json, read_at_most, read_model, reason_of, sha256_of
from oat_runtime.operating_point import OperatingPoint, OperatingTable, Precision
from oat_runtime.quantization import Quantization

_LOG = logging.getLogger(__name__)
_ARCHITECTURE = "the manifest's architecture"
_MAX_PROBE_IMAGES, _MAX_HASH_BYTES = 16, 1024

LogitsAt = Callable[[npt.NDArray[np.float32], OperatingPoint], npt.NDArray[np.float32]]
"""Images (N, 3, H, W) float32 in [0, 1] and an operating point, to logits (N, K)."""


def older_of(folder: Path) -> Path:
    """Return where a bundle is kept while another one takes its place."""
    return folder.with_name(f".{folder.name}-older")


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
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the manifest and check every file against its size and hash, and the weights' head for their shapes.

        Args:
            path: the bundle's folder, or the name of a shipped bundle.

        Raises:
            BundleError: the folder, the manifest or a file is missing, truncated, changed, too large, or of a later
                schema.
        """
        folder = find_bundle(path)
        try:
            raw = _read_manifest(folder)
            manifest = _manifest_of(folder / MANIFEST, raw)
            bundle = cls(folder, manifest, hashlib.sha256(raw).hexdigest())
            bundle._verify()
        except OSError as error:
            raise BundleError(f"the bundle at {one_line(folder)} cannot be read: {one_line(error)}") from None
        return bundle

    @property
    def select(self) -> OperatingTable:
        """The table that the policy reads, marked as this bundle's; counted in float32."""
        return self.table("select")

    @property
    def report(self) -> OperatingTable:
        """The table that people read, marked as this bundle's; counted in float32."""
        return self.table("report")

    def counted_in(self, precision: Precision) -> Precision:
        """Return the precision whose figures hold where `precision` runs: its own if it was counted, else float32."""
        return precision if precision in self.manifest.figures else "float32"

    def table(self, name: Literal["select", "report"], precision: Precision = "float32") -> OperatingTable:
        """Return `select` or `report`, counted in the precision that `counted_in` gives, marked as this bundle's."""
        figures = self.manifest.figures[self.counted_in(precision)]
        table = figures.select if name == "select" else figures.report
        return table.model_copy(update={"bundle_sha256": self.sha256})

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.manifest.class_names

    @property
    def fingerprints(self) -> Fingerprints:
        """Which images the network was trained and counted on, as far as the bundle says it."""
        return (self.manifest.data or DataSummary()).fingerprints

    @property
    def weights_sha256(self) -> str:
        """The network's identity: the hash of its weights, which stays when a file is attached."""
        return self.manifest.files[WEIGHTS].sha256

    @property
    def input(self) -> InputSpec:
        """What the network takes."""
        return self.manifest.input

    @property
    def estimator(self) -> dict[str, Any] | None:
        """Constants of the policy's regime estimator; None where the bundle has none.

        Raises:
            BundleError: the file cannot be read, or is no JSON object.
        """
        if ESTIMATOR not in self.manifest.files:
            return None
        path = self.path / ESTIMATOR
        try:
            document = parse_json(self._content(ESTIMATOR))
        except ValueError as error:
            raise BundleError(f"{one_line(path)} cannot be read ({one_line(error)}): fit it again") from None
        if not isinstance(document, dict):
            raise BundleError(f"{one_line(path)}: expected an object, got {quoted(document)}: fit it again")
        return document

    def quantization(self) -> Quantization | None:
        """Read what int8 needs beside the weights; None where the bundle has none.

        Raises:
            BundleError: the file cannot be read, or does not fit the architecture.
        """
        if self.manifest.quantization is None:
            return None
        path, what, remedy = self.path / self.manifest.quantization, "activation ranges", "measure them again"
        content = self._content(self.manifest.quantization)
        found = read_model(Quantization, path, what=what, remedy=remedy, error=BundleError, content=content)
        try:
            found.check(self.manifest.model)
        except ValueError as error:
            raise BundleError(f"{one_line(path)} does not fit {_ARCHITECTURE} ({error}): {remedy}") from None
        return found

    def temperature(self, point: OperatingPoint, precision: Precision = "float32") -> float:
        """Softmax temperature at `point`, linear in λ between the trained ones."""
        fitted = self.manifest.figures[self.counted_in(precision)].temperatures
        rows = sorted((t.lam, t.temperature) for t in fitted if t.width == point.width)
        upper = bisect.bisect_left(rows, (point.lam, 0.0))
        if upper == len(rows) or rows[upper][0] == point.lam or upper == 0:
            return rows[min(upper, len(rows) - 1)][1]
        (low, at_low), (high, at_high) = rows[upper - 1], rows[upper]
        return at_low + (at_high - at_low) * (point.lam - low) / (high - low)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Read the weights, by the names of `oat_runtime.architecture.tensor_shapes`; float32.

        Raises:
            BundleError: the weights do not fit the architecture that the manifest names, or are not finite.
        """
        stored = self._tensors(WEIGHTS, self._weights(), what=_ARCHITECTURE)
        # What float16 holds without a loss is stored in it.
        return {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in stored.items()}

    def outcomes(self, precision: Precision = "float32") -> dict[str, npt.NDArray[np.bool_]]:
        """Per-image outcomes of `report`: `condition/λ/width` to one bool an image, in the order of the test set.

        They were counted in the precision that `counted_in` gives, as those of `table`.

        Raises:
            BundleError: the file does not hold one bit for each image that `report` counts.
        """
        precision = self.counted_in(precision)
        packed = self._tensors(OUTCOMES, self._outcomes(), what="the table 'report'")
        return {
            outcome_key(m.condition, row.point): np.unpackbits(
                packed[outcome_key(m.condition, row.point, precision=precision)], count=m.num_total
            ).astype(bool)
            for row in self.table("report", precision).rows
            for m in row.measurements
        }

    def probes(self) -> dict[OperatingPoint, Probe]:
        """Read images and the logits that the trained network gave for them at each point of the tables.

        Raises:
            BundleError: the file holds something else, or numbers that are not finite.
        """
        path, content = self.path / PROBE, self._content(PROBE)
        images = read_header(path, io.BytesIO(content)).get("x_NCHW")
        num_images = min(max(images.shape[0], 1), _MAX_PROBE_IMAGES) if images is not None and images.shape else 1
        arrays = read_tensors(content, self._probe(num_images), path=path, what="the manifest's points")
        x_NCHW = arrays["x_NCHW"]
        if not (x_NCHW.min() >= 0.0 and x_NCHW.max() <= 1.0):
            raise BundleError(f"{one_line(path)}: expected images in [0, 1]: export the bundle again")
        points = (row.point for row in self.report.rows)
        return {point: Probe(x_NCHW, arrays[outcome_key("logits", point)]) for point in points}

    def replay_probe(self, logits_at: LogitsAt, *, precision: Precision = "float32") -> float:
        """Return the largest logit difference between `logits_at` and the logits stored for each point.

        Args:
            logits_at: the engine.
            precision: what it computes in, which decides how much may differ.

        Raises:
            BundleError: it exceeds the tolerance of the precision: this engine does not compute this network.
        """
        return max(
            self.check_logits(logits_at(probe.x_NCHW, point), probe.logits_NK, point=point, precision=precision)
            for point, probe in self.probes().items()
        )

    def check_logits(
        self,
        logits_NK: npt.NDArray[np.float32],
        expected_NK: npt.NDArray[np.float32],
        *,
        point: OperatingPoint,
        precision: Precision,
        largest_logit: float | None = None,
    ) -> float:
        """Return the largest difference of an engine's logits from the probe's at one point.

        Args:
            logits_NK: the engine's, of some images of the probe.
            expected_NK: the probe's, of the same images.
            point: where.
            precision: what the engine computes in.
            largest_logit: the largest absolute value of all the probe's logits at this point; of `expected_NK` by
                default.

        Raises:
            BundleError: it exceeds the tolerance of the precision, or a logit is not finite.
        """
        difference = float(np.abs(logits_NK - expected_NK).max())
        largest = float(np.abs(expected_NK).max()) if largest_logit is None else largest_logit
        allowed = self.manifest.tolerance(precision, largest)
        if not difference <= allowed:  # also where it is NaN
            raise BundleError(
                f"probe of {one_line(self.path)} differs by {difference:.3g} at {point}, allowed {allowed:g} in "
                f"{precision}: the weights are not those that were exported (fetch the bundle again), or this engine "
                "computes something else (use float32, or another engine)"
            )
        return difference

    def _verify(self) -> None:
        """Hold the size of every file to its bound and to the manifest, then its hash, then the weights' head."""
        largest = {
            WEIGHTS: most_bytes(self._weights().values()),
            PROBE: most_bytes(self._probe(_MAX_PROBE_IMAGES).values()),
            OUTCOMES: most_bytes(self._outcomes().values()),
        }
        for name, entry in self.manifest.files.items():
            path, limit = self.path / name, largest.get(name, MAX_ATTACHED_BYTES)
            if entry.num_bytes > limit:
                raise BundleError(f"{one_line(path)} may have {limit} bytes at most, got {entry.num_bytes}")
            if not path.is_file():
                raise BundleError(f"{one_line(path)} is missing: the bundle is incomplete, fetch it again")
            if (size := path.stat().st_size) != entry.num_bytes:
                wrong = "truncated" if size < entry.num_bytes else "too long"
                raise BundleError(
                    f"{one_line(path)}: expected {entry.num_bytes} bytes, got {size}: it is {wrong}, fetch the bundle "
                    "again"
                )
        for name, entry in self.manifest.files.items():
            if sha256_of(self.path / name) != entry.sha256:
                raise BundleError(
                    f"{one_line(self.path / name)}: its SHA-256 is not the manifest's: it was changed, fetch the "
                    "bundle again"
                )
        with (path := self.path / WEIGHTS).open("rb") as file:
            check_header(read_header(path, file), self._weights(), path=path, what=_ARCHITECTURE)

    def _content(self, name: str) -> bytes:
        """Read a file whose hash was checked, and hold what was read to it: another bundle may be in its place by now.

        Raises:
            BundleError: it is not there, or is another one.
        """
        entry, path = self.manifest.files[name], self.path / name
        try:
            content = read_at_most(path, entry.num_bytes)
        except OSError as error:
            raise BundleError(f"{one_line(path)} cannot be read ({one_line(error)}): load the bundle again") from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(
                f"{one_line(path)}: expected the file that was checked when the bundle was loaded, got another one: "
                "the bundle was replaced or changed meanwhile, load it again"
            )
        return content

    def _tensors(self, name: str, expected: Mapping[str, Expected], *, what: str) -> dict[str, npt.NDArray[Any]]:
        return read_tensors(self._content(name), expected, path=self.path / name, what=what)

    def _weights(self) -> dict[str, Expected]:
        floats, counts = (np.float32, np.float16), (np.int64,)
        return {
            name: Expected(shape, counts if name.endswith("num_batches_tracked") else floats)
            for name, shape in tensor_shapes(self.manifest.model).items()
        }

    def _probe(self, num_images: int) -> dict[str, Expected]:
        logits = Expected((num_images, self.manifest.model.num_classes))
        expected = {outcome_key("logits", row.point): logits for row in self.report.rows}
        return expected | {"x_NCHW": Expected((num_images, 3, self.input.height, self.input.width))}

    def _outcomes(self) -> dict[str, Expected]:
        """Eight images a byte, of each precision that was counted."""
        return {
            outcome_key(m.condition, row.point, precision=precision): Expected(((m.num_total + 7) // 8,), (np.uint8,))
            for precision, figures in self.manifest.figures.items()
            for row in figures.report.rows
            for m in row.measurements
        }


def _read_manifest(folder: Path) -> bytes:
    """Return the bytes of the manifest, held to the hash beside it where there is one."""
    path, beside = folder / MANIFEST, folder / MANIFEST_HASH
    if not path.is_file():
        hint = f"; the shipped {folder.name} is hidden by that folder" if folder.name in shipped_bundles() else ""
        if not folder.exists() and (older := older_of(folder)).is_dir():
            hint = f"; its replacement was interrupted, and {one_line(older)} holds it as it was: move that back"
        raise BundleError(f"no bundle at {one_line(folder)}: expected a folder with {MANIFEST}{hint}")
    raw = read_at_most(path, MAX_JSON_BYTES)
    if beside.is_file():
        hashes = read_at_most(beside, _MAX_HASH_BYTES).split()[::2]
        if hashlib.sha256(raw).hexdigest().encode() not in hashes:
            raise BundleError(
                f"{one_line(path)}: its SHA-256 is not the one in {MANIFEST_HASH}: it was changed, fetch the bundle "
                "again"
            )
    return raw


def _manifest_of(path: Path, raw: bytes) -> Manifest:
    """Return what a manifest of any schema that is known says."""
    damaged = f"{one_line(path)} is damaged or not a manifest"
    try:
        document = parse_json(raw)
        version = document.get("schema_version") if isinstance(document, dict) else None
        if type(version) is not int or version < 1:
            got = "names no schema_version" if version is None else f"names the schema_version {quoted(version)}"
            raise BundleError(f"{damaged}: it {got}: fetch the bundle again")
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"{one_line(path)}: expected schema version 1 to {SCHEMA_VERSION}, got {quoted(version)}: "
                "update this package"
            )
        if version == 1:
            document = of_schema_1(document)
            if not (path.parent / MANIFEST_HASH).is_file():
                _LOG.warning("%s is of schema 1: no hash beside it would tell a changed figure", one_line(path))
        elif not (path.parent / MANIFEST_HASH).is_file():
            raise BundleError(
                f"{one_line(path.parent / MANIFEST_HASH)} is missing: the bundle is incomplete, fetch it again"
            )
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise BundleError(f"{damaged}: {reason_of(error)}") from None
    except ValueError as error:  # a ValidationError is one too
        raise BundleError(f"{damaged}: {one_line(error)}") from None
