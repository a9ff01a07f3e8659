"""A run is held to the images that it trains on and those that it sets aside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from oat_runtime.bundle import Bundle
from oat_runtime.data import ImageSet, load_dataset, split_validation
from oat_runtime.errors import DataError
from training import split
from training.config import TrainConfig
from training.split import (
    HELD_OUT,
    RECORD,
    DataRecord,
    TrainedOn,
    check_division,
    divided,
    keep_division,
    seen_before,
    summary,
)

Patches = Callable[..., ImageSet]


def named(data: ImageSet, classes: tuple[str, ...] = ("ant", "bee")) -> ImageSet:
    labels_N = data.labels_N % 2
    names = tuple(f"{'ab'[label]}/{index}.png" for index, label in enumerate(labels_N))
    return replace(data, labels_N=labels_N, class_names=classes, names=names)


def halves(data: ImageSet) -> tuple[ImageSet, ImageSet]:
    return split_validation(data, 8, seed=0, stratified=True)


CONFIG = TrainConfig(dataset="photos", num_validation=8, split="stratified")


def kept(run: Path, data: ImageSet) -> None:
    training, validation = halves(data)
    keep_division(run, DataRecord.of(CONFIG, training, validation), validation)


def check(run: Path, training: ImageSet, validation: ImageSet) -> None:
    check_division(run, DataRecord.of(CONFIG, training, validation), validation)


def test_a_data_set_as_it_was_passes(patches: Patches, tmp_path: Path) -> None:
    check(tmp_path, *halves(patches(30)))  # no run began here
    for number, data in enumerate((patches(30), named(patches(30)))):
        kept(tmp_path / str(number), data)
        check(tmp_path / str(number), *halves(data))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: replace(data, class_names=("bee", "wasp")), r"classes: ant became wasp"),
        (lambda data: replace(data, class_names=("bee", "ant")), r"classes: another order"),
        (lambda data: replace(data, images_NHWC=data.images_NHWC ^ 1), r"changed among the training images \(a/"),
        (lambda data: data.first(29), r"missing among the (training|validation) images \("),
        (
            lambda data: replace(data, names=None, images_NHWC=data.images_NHWC ^ 1),
            r"expected the \d+ training images that it had, got",
        ),
    ],
)
def test_a_data_set_that_changed_is_refused_with_what_differs(
    change: Callable[[ImageSet], ImageSet], said: str, patches: Patches, tmp_path: Path
) -> None:
    """Regression: a class that was renamed after training shipped with all labels swapped."""
    data = named(patches(30))
    kept(tmp_path, data)
    with pytest.raises(DataError, match=f"the data set changed since the run in .* began: .*{said}"):
        check(tmp_path, *halves(change(data)))


@pytest.mark.parametrize(
    ("bound", "said"), [("_MOST_BYTES", "larger than 50 bytes"), ("_MOST_VALUES", "more texts than 50 values")]
)
def test_a_record_beyond_its_bounds_is_refused(
    bound: str, said: str, patches: Patches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = named(patches(70))
    kept(tmp_path, data)
    monkeypatch.setattr(split, bound, 50)
    with pytest.raises(DataError, match=f"the record of a run's images .*{said}"):
        check(tmp_path, *halves(data))


def test_more_images_are_named_and_nothing_changes_sides(patches: Patches, tmp_path: Path) -> None:
    """Regression: with 40 images more, images that were trained on became validation images."""
    data = named(patches(70))
    kept(tmp_path, data.first(30))
    with pytest.raises(DataError, match=r"new among the training images \(a/.* and \d+ more\)"):
        check(tmp_path, *halves(data))


def test_other_images_that_have_no_names_are_refused(patches: Patches, tmp_path: Path) -> None:
    data = patches(30)
    kept(tmp_path, data)
    with pytest.raises(DataError, match="expected the 8 validation images that it had, got 8 others"):
        check(tmp_path, *halves(replace(data, labels_N=data.labels_N[::-1].copy())))


def test_a_run_that_kept_validation_images_alone_is_held_to_them(patches: Patches, tmp_path: Path) -> None:
    data = patches(30)
    kept(tmp_path, data)
    (tmp_path / RECORD).unlink()
    check(tmp_path, *halves(data))
    training, validation = halves(data)
    with pytest.raises(DataError, match=rf"expected the 8 validation images in .*{HELD_OUT}, got others"):
        check(tmp_path, training, replace(validation, images_NHWC=validation.images_NHWC[::-1].copy()))


def test_a_checkpoint_alone_does_not_say_which_pictures_its_classes_were(patches: Patches, tmp_path: Path) -> None:
    """Regression: a checkpoint copied without its run shipped with swapped labels after two classes swapped."""
    check(tmp_path, *halves(patches(30)))  # images without files are those of an official set
    with pytest.raises(DataError, match=rf"holds no {RECORD}, which says .* classes: copy the whole folder of the run"):
        check(tmp_path, *halves(named(patches(30))))


@pytest.mark.parametrize("lost", [False, True], ids=["with its record", "a checkpoint alone"])
@pytest.mark.parametrize(("seed", "seen"), [(0, False), (1, True)])
def test_weights_that_saw_validation_images_are_found_out_by_the_division(
    seed: int, seen: bool, lost: bool, patches: Patches, tmp_path: Path
) -> None:
    """Regression: a run with another seed started from finished weights and reached 2 points more on what they knew."""
    data = patches(30)
    kept(tmp_path, data)
    if lost:
        (tmp_path / RECORD).unlink()
    ours = CONFIG.model_copy(update={"seed": seed})
    warning = seen_before(DataRecord.of(ours, *divided(data, ours)), TrainedOn.of_run(tmp_path, CONFIG))
    assert (warning is not None) == seen
    assert warning is None or "come from another division of the same data" in warning
    other = ours.model_copy(update={"dataset": "elsewhere"})
    assert seen_before(DataRecord.of(other, *divided(data, ours)), TrainedOn.of_run(tmp_path, CONFIG)) is None


def test_weights_that_saw_validation_pictures_are_found_out_by_name_and_by_what_they_show(
    patches: Patches, tmp_path: Path
) -> None:
    """More pictures in the folder change sides; a copy of the folder has the same pictures under another name."""
    data = named(patches(70))
    kept(tmp_path, data.first(30))
    before = TrainedOn.of_run(tmp_path, CONFIG)
    assert before.files is not None
    training, validation = halves(data)
    assert validation.names is not None
    seen = sum(name in before.files for name in validation.names)
    assert seen > 0
    shown = f"were trained on {seen} of the {len(validation)} validation images"
    for dataset, changed in (
        ("photos", validation),
        ("copy", validation),
        ("photos@16", replace(validation, images_NHWC=validation.images_NHWC ^ 1)),  # fitted to another size
    ):
        config = CONFIG.model_copy(update={"dataset": dataset})
        warning = seen_before(DataRecord.of(config, training, changed), before)
        assert warning is not None and shown in warning
    new = data.subset(np.arange(30, 70), "new ones")
    assert seen_before(DataRecord.of(CONFIG, training, new), before) is None


def test_a_bundle_says_which_images_it_was_trained_on(patches: Patches) -> None:
    bundle = Bundle.load("gtsrb-wrn-16-2")
    assert bundle.manifest.data is not None
    made, held_out = bundle.manifest.provenance, bundle.manifest.data.fingerprints.validation
    config = TrainConfig.model_validate(made.recipe)
    record = DataRecord.of(config, *halves(patches(30)))
    assert seen_before(record, TrainedOn.of_bundle(bundle)) is not None
    same = record.model_copy(update={"validation": record.validation.model_copy(update={"sha256": held_out})})
    assert seen_before(same, TrainedOn.of_bundle(bundle)) is None


@pytest.mark.parametrize("num_validation", [2, 7, 12])
def test_a_stratified_division_takes_of_each_class_in_proportion(num_validation: int) -> None:
    labels_N = np.array([0] * 60 + [1] * 30 + [2] * 3)
    images = np.arange(len(labels_N), dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    data = ImageSet(images, labels_N, ("a", "b", "c"), "numbers")
    training, validation = split_validation(data, num_validation, seed=1, stratified=True)
    both = np.concatenate([training.images_NHWC, validation.images_NHWC])[:, 0, 0, 0]
    assert sorted(both.tolist()) == list(range(len(data))) and len(validation) == num_validation
    taken = np.bincount(validation.labels_N, minlength=3)
    if num_validation >= 3:
        assert taken.min() >= 1
        np.testing.assert_array_less(np.abs(taken - num_validation * np.array([60, 30, 3]) / 93), 1.5)


def test_the_record_of_many_pictures_is_read_again(patches: Patches, tmp_path: Path) -> None:
    """Regression: a run on 200,000 pictures wrote a record that was too long for its reader."""
    record = DataRecord.of(CONFIG, *halves(named(patches(30))))
    many = {f"{number}.png": f"{number:064x}" for number in range(250_000)}
    training = record.training.model_copy(update={"files": many})
    (tmp_path / RECORD).write_text(record.model_copy(update={"training": training}).model_dump_json())
    assert TrainedOn.of_run(tmp_path, CONFIG).files == many


def test_a_validation_folder_is_what_a_run_holds_out_and_what_its_bundle_says(patches: Patches) -> None:
    validation_N = np.arange(30) % 4 == 0
    data = replace(named(patches(30)), validation_N=validation_N, groups_N=np.arange(30) // 2)
    for number in (1, 29, 5000):
        training, validation = divided(data, CONFIG.model_copy(update={"num_validation": number}))
        assert data.names is not None
        assert validation.names == tuple(np.array(data.names)[validation_N])
        assert training.names == tuple(np.array(data.names)[~validation_N])
    held_out = summary(CONFIG, training, validation, patches(4)).held_out
    assert held_out is not None and (held_out.rule, held_out.num_images) == ("folder", 8)


def test_a_box_that_moved_since_a_run_began_is_named_by_frame_and_line(tmp_path: Path) -> None:
    root = tmp_path / "frames"
    root.mkdir()
    (root / "classes.txt").write_text("ball\nrobot\n")
    rng = np.random.default_rng(0)
    for number in range(12):
        frame = np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
        cv2.imwrite(str(root / f"{number}.png"), frame)
        (root / f"{number}.txt").write_text("0 0.3 0.5 0.3 0.4\n1 0.7 0.5 0.3 0.4\n")
    config = TrainConfig(dataset=f"{root}@16", num_validation=8)
    training, validation = divided(load_dataset(config.dataset, "train"), config)
    run = tmp_path / "run"
    run.mkdir()
    keep_division(run, DataRecord.of(config, training, validation), validation)
    assert validation.names is not None
    moved = next(name.split("#")[0] for name in validation.names)
    (root / moved).with_suffix(".txt").write_text("0 0.35 0.5 0.3 0.4\n1 0.7 0.5 0.3 0.4\n")
    training, validation = divided(load_dataset(config.dataset, "train"), config)
    with pytest.raises(DataError, match=rf"changed among the validation images \({moved}#"):
        check_division(run, DataRecord.of(config, training, validation), validation)
