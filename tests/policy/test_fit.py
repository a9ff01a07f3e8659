"""`python -m policy.fit` puts usable constants into a bundle and leaves the network alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest

from oat_runtime.architecture import InputSpec, ModelConfig
from oat_runtime.bundle import Bundle, Fingerprints
from oat_runtime.data import LEAST_TO_FIT, ImageSet, fingerprint
from oat_runtime.errors import DataError
from oat_runtime.operating_point import AttackSpec, OperatingTable, Regime
from oat_runtime.untrained import untrained_tensors
from policy import fit as fit_module
from policy.belief.constants import EstimatorConstants, FittedFor
from policy.config import PolicyConfig
from policy.controller import AdaptivePolicy
from policy.fit import fit_network, main
from tests.conftest import make_tiny_bundle

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    coarse = torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear", align_corners=True)
    return (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def test_fitting_a_network_covers_every_lambda_and_leaves_it_as_it_was(images: np.ndarray) -> None:
    config = ModelConfig(depth=10, widen_factor=1, lambdas=(0.0, 1.0), widths=(1.0,))
    tensors = untrained_tensors(config)
    before = {name: value.copy() for name, value in tensors.items()}
    constants = fit_network(
        tensors,
        config,
        width=1.0,
        temperature=lambda lam: 1.5,
        attack=AttackSpec(name="pgd-1", epsilon=8 / 255, step_size=8 / 255, num_steps=1),
        images_NHWC=images,
        labels_N=np.arange(100, dtype=np.int64) % 10,
        seed=0,
    )
    assert [rates.lam for rates in constants.network] == [0.0, 1.0]
    assert {"clean", "attack-without-trace", "attack-at-0", "attack-at-1"} <= {kind.name for kind in constants.kinds}
    assert {kind.regime for kind in constants.kinds} == set(Regime) - {Regime.UNKNOWN}
    assert EstimatorConstants.model_validate(json.loads(constants.model_dump_json())) == constants
    assert all(np.array_equal(value, before[name]) for name, value in tensors.items())


def test_the_command_adds_constants_that_the_policy_takes(
    images: np.ndarray, table: OperatingTable, tiny_bundle: Callable[[], Bundle], tmp_path: Path
) -> None:
    bundle = tiny_bundle()
    assert bundle.estimator is None
    np.savez(tmp_path / "validation.npz", images=images, labels=np.arange(100) % 10)
    assert main([str(bundle.path), "--images", str(tmp_path / "validation.npz"), "--num-steps", "1"]) == 0
    fitted = Bundle.load(bundle.path)
    policy = AdaptivePolicy(fitted.select, PolicyConfig(), EstimatorConstants.model_validate(fitted.estimator))
    assert [rates.lam for rates in policy.constants.network] == list(table.lambdas)
    assert policy.constants.fitted_for == FittedFor.of(bundle) == FittedFor.of(fitted)


def test_a_box_trained_network_is_fitted_to_the_frames_and_drives_of_its_data_set(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: densities of single crops were held against means over a frame's regions."""
    root, rng = tmp_path / "frames", np.random.default_rng(0)
    root.mkdir()
    (root / "data.yaml").write_text("names: [a, b]\ncrops: {backgrounds_per_frame: 0}\n")
    for part, session, num in (
        ("train", "monday", 3),
        ("train", "tuesday", 2),
        ("val", "friday", 2),
        ("test", "may", 2),
    ):
        folder = root / part / session
        folder.mkdir(parents=True)
        for at in range(num):
            cv2.imwrite(str(folder / f"{at}.png"), rng.integers(0, 256, (80, 120, 3), np.uint8))
            (folder / f"{at}.txt").write_text("0 0.3 0.5 0.4 0.5\n1 0.7 0.4 0.3 0.6\n")
    bundle = Bundle.load(make_tiny_bundle(tmp_path / "boxes", InputSpec(region_margin=0.1)))
    np.savez(tmp_path / "validation.npz", images=images, labels=np.arange(100) % 10)
    given: dict[str, Any] = {}

    def fit(*_: object, **arguments: Any) -> NoReturn:
        given.update(arguments)
        raise DataError("far enough")

    monkeypatch.setattr(fit_module, "fit_network", fit)
    arguments = [str(bundle.path), "--images", str(tmp_path / "validation.npz"), "--frames", str(root)]
    assert main(arguments) == 2
    assert "7 training frames with regions are too few" in capsys.readouterr().err and given["frames"] is None
    monkeypatch.setattr(fit_module, "LEAST_TO_FIT", 7)
    assert main(arguments) == 2
    frames = given["frames"]
    assert np.bincount(frames.session_F).tolist() == [3, 2, 2] and frames.num_inputs_F.tolist() == [2] * 7
    assert given["fitted_on"].startswith("7 frames of 3 drives, and 100 images")
    assert main([*arguments[:3], "--frames", str(tmp_path / "none")]) == 2
    assert "name the frames that the bundle was trained on by --frames" in capsys.readouterr().err


def test_frames_that_training_left_out_are_left_out_of_the_fit_and_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a bundle of a run with --skip-broken could not be fitted at all."""
    root, rng = tmp_path / "frames", np.random.default_rng(0)
    root.mkdir()
    (root / "data.yaml").write_text("names: [a, b]\ncrops: {backgrounds_per_frame: 0}\n")
    texts = {
        "empty": "",
        "outside": "0 0.9 0.5 0.4 0.5\n",
        "broken": "0 0.5 0.5 0.4 0.5\n",
        "good": "0 0.5 0.5 0.4 0.5\n",
    }
    for name, text in texts.items():
        for session in ("monday", "tuesday"):
            (root / "train" / session).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "train" / session / f"{name}.png"), rng.integers(0, 256, (80, 120, 3), np.uint8))
            (root / "train" / session / f"{name}.txt").write_text(text)
    (root / "train" / "monday" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "test" / "may").mkdir(parents=True)
    shutil.copy(root / "train" / "monday" / "good.png", root / "test" / "may" / "good.png")
    (root / "test" / "may" / "good.txt").write_text("")
    bundle = Bundle.load(make_tiny_bundle(tmp_path / "boxes", InputSpec(region_margin=0.1)))
    with pytest.raises(DataError, match="2 text files of boxes are wrong"):
        fit_module._frames_of(bundle, str(root))
    provenance = bundle.manifest.provenance.model_copy(update={"recipe": {"skip_broken": True}})
    skipping = replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": provenance}))
    assert fit_module._frames_of(skipping, str(root)) is None
    said = capsys.readouterr().err
    assert "left out: wrong text file (train/monday/outside.txt, train/tuesday/outside.txt)" in said
    assert "empty.png has no region" in said and "broken.png cannot be decoded" in said
    assert "frames left out: 3 of 6" in said and "3 training frames with regions are too few" in said
    with pytest.raises(DataError, match=r"cifar10 holds images without boxes: .*--frames"):
        fit_module._frames_of(bundle, "cifar10")


def test_frames_are_refused_for_a_network_of_whole_images(
    images: np.ndarray, tiny_bundle: Callable[[], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "validation.npz", images=images, labels=np.arange(100) % 10)
    arguments = ["--images", str(tmp_path / "validation.npz"), "--frames", "robocup"]
    assert main([str(tiny_bundle().path), *arguments]) == 2
    assert "--frames is for bundles that were trained on boxes" in capsys.readouterr().err


def test_attacked_frames_are_as_far_from_clean_ones_as_the_mean_of_attacked_regions() -> None:
    rng = np.random.default_rng(0)
    clean_FS, shift_NS = rng.normal(size=(3000, 12)), rng.normal(size=(500, 12)) + 1.0
    moved_FS = fit_module._moved(clean_FS, shift_NS, 4, seed=0) - clean_FS
    np.testing.assert_allclose(moved_FS.mean(axis=0), shift_NS.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(moved_FS.std(axis=0), shift_NS.std(axis=0) / 2, atol=0.05)


@pytest.mark.parametrize(
    ("num", "side", "told"),
    [
        (LEAST_TO_FIT - 1, 32, "expected at least 100 validation images, got 99"),
        (LEAST_TO_FIT, 16, "expected images of 32x32 pixels, got 16x16"),
    ],
)
def test_images_that_no_fit_can_use_are_refused_before_the_network_is_measured(
    num: int, side: int, told: str, tiny_bundle: Callable[[], Bundle], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The fit itself refused them, after minutes of attacks."""
    monkeypatch.setattr(fit_module, "fit_network", lambda *_, **__: pytest.fail("it was measured"))
    file = tmp_path / "validation.npz"
    np.savez(file, images=np.zeros((num, side, side, 3), np.uint8), labels=np.zeros(num, np.int64))
    assert main([str(tiny_bundle().path), "--images", str(file)]) == 2
    assert told in capsys.readouterr().err


def test_images_of_another_run_are_refused(
    images: np.ndarray, tiny_bundle: Callable[[], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Regression: any images of the right size were fitted to, and the bundle did not say that they were others."""
    bundle, labels_N = tiny_bundle(), np.arange(100) % 10
    own = ImageSet(images, labels_N, (), "own")
    monkeypatch.setattr(Bundle, "fingerprints", Fingerprints(validation=fingerprint(own)))
    monkeypatch.setattr(fit_module, "fit_network", lambda *_, **__: pytest.fail("it was measured"))
    file = tmp_path / "validation.npz"
    np.savez(file, images=images, labels=labels_N[::-1])
    assert main([str(bundle.path), "--images", str(file)]) == 2
    assert f"expected the very images of {bundle.path.name}, held out for validation" in capsys.readouterr().err
    np.savez(file, images=images, labels=labels_N)
    with pytest.raises(pytest.fail.Exception, match="it was measured"):
        main([str(bundle.path), "--images", str(file), "--count", "100"])


def test_a_missing_bundle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--images", str(tmp_path / "none.npz")]) == 2
    assert "no bundle at" in capsys.readouterr().err
