"""Laws of pictures of any size: a large set never lies in memory, and training, bundle and engines take any shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from oat_runtime import OATRuntime
from oat_runtime.architecture import InputSpec, ModelConfig, Resize, Stem
from oat_runtime.backends import available
from oat_runtime.data import ImageSet, PickedImages, fingerprint, load_dataset, picked_images, read_labelled_npz
from oat_runtime.data.folders import decode_cache
from oat_runtime.image import fit_frame
from oat_runtime.operating_point import OperatingPoint
from oat_runtime.stress.corruptions import CORRUPTIONS, corrupt_batch
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.export import export
from training.split import DataRecord, divided, keep_division
from training.train import fit_model, load_data
from training.trainer import Trainer
from training.validation import quick_validation

NUM = 80


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("shapes") / "photos"
    for number in range(NUM):
        patches = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(patches, (48 + number % 3, 40)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_cache, "user_cache", lambda: root.parent / "cache")
        yield root


def config_of(photos: Path, size: str, resize: Resize = "center_crop", stem: Stem = "3x3") -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(depth=10, widen_factor=1, widths=(0.5, 1.0), lambdas=(0.0, 1.0), stem=stem),
        dataset=f"{photos}@{size}",
        fit_to_data=True,
        resize=resize,
        num_validation=8,
        split="stratified",
        batch_size=8,
        steps=2,
        num_recalibration=1,
    )


def test_images_in_a_file_are_an_array_for_all_that_reads_them(photos: Path) -> None:
    data = load_dataset(f"{photos}@32x24", "train")
    assert isinstance(data.images_NHWC, PickedImages)
    array = data.images_NHWC[:]
    inside = ImageSet(array, data.labels_N, data.class_names, data.name, names=data.names, mirrors=False)
    assert (data.images_NHWC.shape, data.images_NHWC.ndim) == (array.shape, 4)
    assert data.statistics() == inside.statistics()
    assert fingerprint(data) == fingerprint(inside)
    config = config_of(photos, "32x24")
    assert DataRecord.of(config, *divided(data, config)) == DataRecord.of(config, *divided(inside, config))
    some = np.array([3, 1, 1])
    for one, other in ((data.first(5), inside.first(5)), (data.subset(some, "some"), inside.subset(some, "some"))):
        np.testing.assert_array_equal(one.images_NHWC, other.images_NHWC)
    model = fit_model(config.model, inside)
    lazy, eager = (Trainer(config.model_copy(update={"model": model}), each) for each in (data, inside))
    assert [lazy.run_step() for _ in range(2)] == [eager.run_step() for _ in range(2)]


def test_a_set_in_a_file_is_never_in_memory_as_a_whole(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photos, "32x24").model_copy(update={"num_validation": 30})
    image_bytes = 32 * 24 * 3
    monkeypatch.setattr(picked_images, "_AT_A_TIME", 5 * image_bytes)
    read = []
    getitem = PickedImages.__getitem__

    def noted(images: PickedImages, where: int | slice | np.ndarray) -> np.ndarray:
        read.append(getitem(images, where).nbytes)
        return getitem(images, where)

    monkeypatch.setattr(PickedImages, "__getitem__", noted)
    config, training, validation = load_data(config, download=False)
    keep_division(tmp_path, DataRecord.of(config, training, validation), validation)
    trainer = Trainer(config, training)
    for _ in trainer.run():
        pass
    assert sum(read) > 2 * len(training) * image_bytes  # statistics, fingerprints
    assert max(read) == config.batch_size * image_bytes < len(validation) * image_bytes
    kept = read_labelled_npz(tmp_path / "validation.npz")
    np.testing.assert_array_equal(kept.images_NHWC, validation.images_NHWC)
    np.testing.assert_array_equal(kept.labels_N, validation.labels_N)


def test_a_run_at_32x24_is_a_bundle_in_which_all_engines_agree_and_frames_are_fitted_alike(
    photos: Path, tmp_path: Path
) -> None:
    resize: Resize = "letterbox"
    config, training, validation = load_data(config_of(photos, "32x24", resize), download=False)
    trainer = Trainer(config, training)
    for _ in trainer.run():
        pass
    quick_validation(trainer.model, validation, config)
    trainer.save(tmp_path / "checkpoint.pt")
    sets = [load_dataset(config.dataset, split, resize=resize) for split in ("train", "test")]
    bundle = export(
        load_checkpoint(tmp_path / "checkpoint.pt"), tmp_path / "bundle",
        training_set=sets[0], test_set=sets[1], num_attacked=2, num_corrupted=2, device="cpu",
    )  # fmt: skip
    assert bundle.input == InputSpec(height=24, width=32, resize=resize)
    test_set = sets[1]
    assert test_set.names is not None
    name = test_set.names[0]
    frame_HWC = np.ascontiguousarray(cv2.imread(str(photos / name))[..., ::-1])
    np.testing.assert_array_equal(fit_frame(frame_HWC, bundle.input), test_set.images_NHWC[0])
    logits: dict[OperatingPoint, list[np.ndarray]] = {}
    engines = [engine for engine in ("torch", "onnxruntime", "openvino") if engine in available()]
    for engine in engines:
        runtime = OATRuntime.load(bundle.path, backend=engine, num_threads=1)  # holds it to the probe
        runtime.prepare()
        for point in (OperatingPoint(0.0, 1.0), OperatingPoint(0.4, 0.5), OperatingPoint(1.0, 1.0)):
            whole = runtime.predict(frame_HWC, at=point)
            (region,) = runtime.predict_regions(frame_HWC, [(0, 0, frame_HWC.shape[1], 40)], at=point)
            np.testing.assert_allclose(region.logits_K, whole.logits_K, atol=1e-4)
            logits.setdefault(point, []).append(whole.logits_K)
    for found in logits.values():
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], atol=1e-3)


@pytest.mark.parametrize("stem", ["3x3", "3x3-stride2", "7x7-stride2-pool"])
@pytest.mark.parametrize("size", ["40x17", "9x30"])
def test_every_stem_trains_on_sides_that_differ_and_are_odd(stem: Stem, size: str, photos: Path) -> None:
    config, training, _ = load_data(config_of(photos, size, stem=stem), download=False)
    metrics = Trainer(config, training).run_step()
    assert np.isfinite(metrics.loss)


@pytest.mark.parametrize("kind", sorted(CORRUPTIONS))
def test_every_corruption_takes_images_that_are_not_square(kind: str) -> None:
    images_NHWC = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    assert corrupt_batch(images_NHWC, kind, 3, rng=rng).shape == images_NHWC.shape
