"""Read and write the costs of a bundle's points on one machine; `oat_runtime.profile` measures them."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from oat_runtime.backends import BackendName, Device, Precision
from oat_runtime.devices import EnergySource, device_name, power_mode
from oat_runtime.errors import ConfigError
from oat_runtime.files import read_model, write_whole
from oat_runtime.operating_point import OperatingPoint, OperatingTable, StrictModel
from oat_runtime.plans import PlanForm

PositiveMs = Annotated[float, Field(gt=0)]


class ProfileRow(StrictModel):
    """Cost of `OATRuntime.infer` at one operating point and batch size."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    batch: int = Field(ge=1)
    latency_ms_p50: PositiveMs
    """Median latency of the whole batch."""
    latency_ms_p99: PositiveMs
    num_calls: int = Field(ge=1)
    """Number of timed calls; below a few hundred, the 99th percentile is close to the slowest one."""
    images_per_s: float = Field(gt=0)
    """Throughput of calls one after another: batch over mean latency."""
    energy_j: Annotated[float, Field(gt=0)] | None = None
    """Energy of one image, with all that the machine does meanwhile; None without a counter."""


class DeviceProfile(StrictModel):
    """The measurements on one device, for one bundle, with one engine and its settings."""

    schema_version: Literal[2] = 2
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    device: str = Field(min_length=1)
    """Name of the processor or GPU, see `oat_runtime.devices.device_name`."""
    power_mode: str
    """See `oat_runtime.devices.power_mode`."""
    backend: BackendName
    precision: Precision
    plans: PlanForm
    num_threads: int = Field(ge=1)
    resident_mb: Annotated[float, Field(gt=0)] | None = None
    """Memory of the whole process with every point of the table ready; None if it cannot be read."""
    energy_source: EnergySource | Literal["unavailable"] = "unavailable"
    rows: tuple[ProfileRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_row_a_point_and_batch(self) -> DeviceProfile:
        keys = [(row.lam, row.width, row.batch) for row in self.rows]
        if len(set(keys)) != len(keys):
            raise ValueError(f"each point and batch may occur once, got {keys}")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DeviceProfile:
        """Read a profile file.

        Raises:
            ConfigError: it is missing, damaged, or not a profile.
        """
        return read_model(cls, path, what="a device profile", remedy="measure one with oat-profile")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile whole or not at all; folders are made as needed."""
        write_whole(path, self.model_dump_json(indent=1) + "\n")

    @property
    def label(self) -> str:
        """The device's name in a table that the profile was applied to."""
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        return f"{self.device}, {self.backend} {self.precision}, {threads}, power mode {self.power_mode}"

    def apply(
        self,
        table: OperatingTable,
        *,
        backend: BackendName,
        precision: Precision,
        num_threads: int,
        device: Device = "cpu",
    ) -> OperatingTable:
        """Return a copy of `table` with latency and energy of one image on this machine at every point.

        Args:
            table: a table of the profiled bundle, as `Bundle.select` gives it.
            backend: the engine in use (`OATRuntime.backend`).
            precision: its precision (`OATRuntime.precision`).
            num_threads: its threads (`OATRuntime.num_threads`).
            device: where it runs (`OATRuntime.device`).

        Raises:
            ConfigError: the profile belongs to something else; the message names every difference.
        """
        by_point = {OperatingPoint(row.lam, row.width): row for row in self.rows if row.batch == 1}
        differences = [
            f"{what}: profile {of_profile}, in use {in_use}"
            for what, of_profile, in_use in (
                ("bundle_sha256", self.bundle_sha256, table.bundle_sha256 or "unknown"),
                ("device", self.device, device_name(device)),
                ("power_mode", self.power_mode, power_mode()),
                ("backend", self.backend, backend),
                ("precision", self.precision, precision),
                ("num_threads", self.num_threads, num_threads),
                ("points", sorted(map(str, by_point)), sorted(str(row.point) for row in table.rows)),
            )
            if of_profile != in_use
        ]
        if differences:
            raise ConfigError(
                f"the device profile does not fit ({'; '.join(differences)}): measure this combination with oat-profile"
            )
        fields = ("latency_ms_p50", "latency_ms_p99", "energy_j")
        rows = tuple(
            row.model_copy(update={name: getattr(by_point[row.point], name) for name in fields}) for row in table.rows
        )
        return table.with_rows(rows, device=self.label)
