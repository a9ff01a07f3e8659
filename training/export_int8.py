"""Measure activation ranges of a bundle, count its tables in int8, and put both into it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from oat_runtime.backends import int8_engines, versions
from oat_runtime.backends.torch_net import activation_ranges
from oat_runtime.bundle import Bundle, Figures
from oat_runtime.bundle.writer import attach_quantization, check_changeable
from oat_runtime.data import ImageSet
from oat_runtime.errors import ConfigError
from oat_runtime.files import read_model, write_whole
from oat_runtime.operating_point import AttackSpec, OperatingPoint, OperatingRow, OperatingTable, StrictModel
from oat_runtime.quantization import Quantization, Range
from oat_runtime.report import progress
from oat_runtime.stress.attacks import perturb
from training.evaluation.cache import OutcomeCache
from training.evaluation.counting import batches, predictions_of
from training.evaluation.judged import Judged
from training.evaluation.table import Conditions, fit_temperature, measure_table
from training.network import Rounding, folded

_LOG = logging.getLogger(__name__)
_NUM_CLEAN, _NUM_ATTACKED, _SEED = 256, 128, 0
_NUM_SPOT_CHECK = 200
_ROOM = 2.0
"""How much larger than seen here the difference from the probe may be on another machine."""


class _KeptRanges(StrictModel):
    """Ranges of one point, as a stopped export finds them again."""

    ranges: dict[str, tuple[float, float]]


def export_int8(
    judged: Judged,
    *,
    num_attacked: int | None = None,
    num_corrupted: int | None = None,
    kept: Path | None = None,
    download: bool = False,
) -> Bundle:
    """Measure ranges on training images, count both tables in int8, and replace the bundle whole or not at all.

    Images, attack, corruptions and temperatures are those of the float32 tables. The attack takes its gradients from
    the float32 network and its logits from the int8 one (see `training.network.RoundedNet`).

    Args:
        judged: a bundle.
        num_attacked: images of each table that are attacked; None: as many as in float32. A table that has fewer in
            float32 counts those.
        num_corrupted: images of each table under each corruption; likewise.
        kept: folder where ranges and outcomes are stored, so that a stopped export can go on; None: nowhere.
        download: fetch the data set if it is not there.

    Raises:
        BackendError: no engine runs in int8 here.
        BundleError: the bundle cannot be changed.
        ConfigError: the bundle does not say which images were held out, or neither table has so many in float32.
        DataError: the data set is not at hand, or is not the bundle's.
    """
    bundle = judged.bundle
    if bundle is None:
        raise ConfigError(f"{judged.name} is a checkpoint: export it first, then count it in int8")
    _check_counts(bundle, num_attacked, num_corrupted)
    check_changeable(bundle)
    engines = int8_engines()
    training, validation = judged.parts(download=download)
    test_set = judged.images("test", download=download)
    quantization = measure_ranges(OutcomeCache(kept, judged.model), training, bundle.select.attack)
    input_hw = (bundle.input.height, bundle.input.width)
    caches = [OutcomeCache(kept, judged.model, Rounding(quantization, input_hw, name)) for name in engines]
    cache, largest = caches[0], max(_largest_difference(bundle, one) for one in caches)
    select_rows, _ = measure_table(
        cache, _conditions(bundle.select, validation, num_attacked, num_corrupted), title="select table, int8"
    )
    report_rows, outcomes = measure_table(
        cache, _conditions(bundle.report, test_set, num_attacked, num_corrupted), title="report table, int8"
    )
    float32 = bundle.manifest.figures["float32"]
    figures = Figures(
        temperatures=tuple(fit_temperature(cache, row.point, validation) for row in select_rows),
        select=_with(float32.select, select_rows),
        report=_with(float32.report, report_rows),
    )
    for other in caches[1:]:
        _spot_check(cache, other, test_set)
    measured = f"{quantization.measured}; int8 figures counted on {versions(engines[0])}"
    quantization = quantization.model_copy(update={"measured": measured})
    return attach_quantization(bundle, quantization, probe_atol=_ROOM * largest, figures=figures, outcomes=outcomes)


def measure_ranges(cache: OutcomeCache, training: ImageSet, attack: AttackSpec) -> Quantization:
    """Return the range of every activation at each trained point, on clean and on attacked training images.

    Args:
        cache: of the float32 network; ranges of points that were measured before are read from it.
        training: the images that the network was trained on.
        attack: what attacks some of them, at each point the network of this point.
    """
    model = cache.model
    order = np.random.default_rng(_SEED).permutation(len(training))
    clean = training.subset(np.sort(order[:_NUM_CLEAN]), f"{len(order[:_NUM_CLEAN])} training images")
    attacked = training.subset(np.sort(order[:_NUM_ATTACKED]), f"{len(order[:_NUM_ATTACKED])} attacked images")
    points = [OperatingPoint(lam, width) for lam in model.config.lambdas for width in model.config.widths]
    found = dict[OperatingPoint, dict[str, Range]]()
    for point in progress(points, "activation ranges"):
        file = cache.file(f"ranges {point.lam:g} {point.width:g} {attack.model_dump_json()}", clean, ".json")
        if file is not None and file.is_file():
            found[point] = read_model(_KeptRanges, file, what="activation ranges", remedy="delete it").ranges
            continue
        found[point] = _ranges_of(cache, point, clean, attacked, attack)
        if file is not None:
            write_whole(file, _KeptRanges(ranges=found[point]).model_dump_json())
    measured = f"{len(clean)} training images, and {len(attacked)} of them attacked by {attack.name} at each point"
    return Quantization.of(model.config, found, measured=measured)


def _ranges_of(
    cache: OutcomeCache, point: OperatingPoint, clean: ImageSet, attacked: ImageSet, attack: AttackSpec
) -> dict[str, Range]:
    device = cache.model.code_KD.device
    net, generator = folded(cache.model, lam=point.lam, width=point.width), torch.Generator(device).manual_seed(_SEED)
    images = [x_NCHW for x_NCHW, _ in batches(clean, device=device)]
    images += [
        perturb(net, x_NCHW, y_N, spec=attack, generator=generator) for x_NCHW, y_N in batches(attacked, device=device)
    ]
    return activation_ranges(net, images)


def _check_counts(bundle: Bundle, num_attacked: int | None, num_corrupted: int | None) -> None:
    """Refuse more images than float32 was counted on: int8 is compared with it image by image."""
    counts = {"attacked": set[int](), "corrupted": set[int]()}
    for table in (bundle.select, bundle.report):
        for found in table.rows[0].measurements:
            if found.condition != "clean":
                counts["attacked" if found.condition == table.attack.name else "corrupted"].add(found.num_total)
    for (name, nums), asked in zip(counts.items(), (num_attacked, num_corrupted), strict=True):
        if asked is not None and asked > (most := max(nums, default=0)):
            raise ConfigError(
                f"--{name} {asked} is more than the {most} images that {bundle.manifest.name} was counted on in "
                f"float32, with which int8 is compared: ask for at most {most}, or export again with more"
            )


def _conditions(
    counted: OperatingTable, images: ImageSet, num_attacked: int | None, num_corrupted: int | None
) -> Conditions:
    """Return what the float32 table counted, on no more images than it had."""
    totals = {m.condition: m.num_total for m in counted.rows[0].measurements}
    corruptions = [name for name in totals if name not in ("clean", counted.attack.name)]
    parts = [name.rpartition("-") for name in corruptions]
    attacked = min(num_attacked or totals[counted.attack.name], totals[counted.attack.name])
    most = min((totals[name] for name in corruptions), default=0)
    return Conditions(
        clean=images,
        attacked=images.first(attacked),
        attack=counted.attack,
        corrupted=images.first(min(num_corrupted or most, most)),
        kinds=tuple(dict.fromkeys(kind for kind, _, _ in parts)),
        severities=tuple(dict.fromkeys(int(severity) for _, _, severity in parts)),
    )


def _with(counted: OperatingTable, rows: tuple[OperatingRow, ...]) -> OperatingTable:
    return counted.model_copy(update={"rows": rows})


@torch.no_grad()
def _largest_difference(bundle: Bundle, cache: OutcomeCache) -> float:
    """Return the largest difference of int8 logits from the probe's.

    Raises:
        BundleError: one is larger than a runtime accepts.
    """
    unstated = {name: atol for name, atol in bundle.manifest.probe_atol.items() if name != "int8"}
    unstated_bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"probe_atol": unstated}))

    def logits_at(x_NCHW: npt.NDArray[np.float32], point: OperatingPoint) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = cache.plain(point)(torch.from_numpy(x_NCHW)).numpy()
        return logits

    return unstated_bundle.replay_probe(logits_at, precision="int8")


def _spot_check(counted: OutcomeCache, other: OutcomeCache, test_set: ImageSet) -> None:
    """Say how many test images another engine takes for the same class, at the point with the largest λ and width."""
    config, data = counted.model.config, test_set.first(_NUM_SPOT_CHECK)
    point = OperatingPoint(config.lambdas[-1], config.widths[-1])
    device = counted.model.code_KD.device
    ours_N, theirs_N = (predictions_of(one.plain(point), data, attack=None, device=device) for one in (counted, other))
    agree = f"{int((ours_N == theirs_N).sum())} of {len(data)} test images"
    _LOG.info("%s and %s agree on %s at %s", counted.about, other.about, agree, point)
