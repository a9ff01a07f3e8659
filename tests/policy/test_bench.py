"""The benchmark runs from nothing to its JSON, its cache is used again, and its statistics are right."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from oat_runtime.bundle import Bundle
from oat_runtime.bundle.writer import attach_file
from oat_runtime.data import ImageSet
from oat_runtime.errors import DataError
from policy.belief.constants import EstimatorConstants
from policy.bench import __main__ as bench_module
from policy.bench import hazards, stage
from policy.bench import streams as make
from policy.bench.__main__ import main
from policy.bench.attacks import ATTACKS, EPSILON, attack
from policy.bench.recorded_network import RecordedNetwork
from policy.bench.statistics import accuracy, delay_frames, difference, runs


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Callable[[], Bundle], constants: EstimatorConstants) -> Bundle:
    return attach_file(tiny_bundle(), "estimator.json", constants.model_dump_json().encode())


@pytest.mark.slow
def test_the_quick_benchmark_decides_only_what_it_can_and_resumes_and_outlives_a_part_that_fails(
    bundle: Bundle,
    scenes: Callable[..., np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    np.savez(tmp_path / "test.npz", images=scenes(20, seed=3), labels=np.arange(20) % 10)
    arguments = ["--bundle", str(bundle.path), "--images", str(tmp_path / "test.npz"), "--cache", str(tmp_path / "c")]
    arguments += ["--quick", "--threads", "1", "--count", "6"]
    assert main(arguments) in (0, 1)
    *_, left_out, line = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["name"] == "policy.bench"
    assert report["machine"]["bundle_sha256"] == bundle.sha256
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["replayed decisions that are equal"]["ok"]
    assert checks["battery spoofing: frames whose λ changes with the battery"]["ok"]
    assert checks["attacked by pgd-10, floor 1: attacked segments, policy over fixed floor, low end"]["value"] == 0.0
    for part in ("deadline", "energy", "decision p99", "thrash"):
        assert any(part in name for name in checks), part
    sampled = ("mixture", "detection", "false alarms", "floor 0.1", "floor 0.4")
    assert not any(part in name for name in checks for part in sampled)
    assert not any("oracle dynamic" in row["player"] for row in report["rows"])
    files = sorted(tmp_path.glob("c/*/*.npz"))
    stamps = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 16 + 1 + 6

    def broken(*args: object) -> None:
        raise DataError("no battery here")

    monkeypatch.setattr(hazards, "budgets", broken)
    monkeypatch.setattr(stage, "_MIN_IMAGES", 0)
    monkeypatch.setattr(stage, "_MIN_SEGMENTS", 0)
    assert main(arguments) == 2
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [file.stat().st_mtime_ns for file in files] == stamps
    found = {check["name"]: check for check in again["checks"]}
    assert (found["budgets"]["value"], found["budgets"]["ok"]) == (None, False)
    measured = ("decision", "deadline", "energy", "battery")
    assert all(checks[name] == found[name] for name in checks if not any(word in name for word in measured))
    more = [name for name in found if any(part in name for part in sampled)]
    assert {"mixture all", "mixture held-out", "false alarms"} <= {name.split(":")[0].split(" in ")[0] for name in more}
    assert any("oracle dynamic" in row.get("player", "") for row in again["rows"])
    assert len(more) <= int(left_out.split()[0])


def test_a_bundle_without_estimator_or_images_that_are_not_there_are_named(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(tmp_path)]) == 2
    assert "no bundle at" in capsys.readouterr().err
    assert main(["--bundle", str(bundle.path), "--images", str(tmp_path)]) == 2
    assert "unknown data set 'synthetic'" in capsys.readouterr().err


def test_a_bundle_s_own_images_are_read_as_its_run_read_them(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of a folder with broken pictures, trained with --skip-broken, could not be played."""
    provenance = bundle.manifest.provenance.model_copy(update={"recipe": {"skip_broken": True}})
    skipping = dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": provenance}))
    asked: list[bool] = []

    def load(*_: object, skip_broken: bool, **__: object) -> ImageSet:
        asked.append(skip_broken)
        raise DataError("that is enough")

    monkeypatch.setattr(bench_module, "load_dataset", load)
    for one in (bundle, skipping):
        monkeypatch.setattr(Bundle, "load", lambda path, one=one: one)
        assert main(["--bundle", str(bundle.path)]) == 2
    assert asked == [False, True]


def test_predictions_outlive_a_new_estimator_and_neither_other_weights_nor_other_temperatures(
    bundle: Bundle, scenes: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    def folder(of: Bundle, images_NHWC: np.ndarray) -> Path:
        data = ImageSet(images_NHWC, np.arange(len(images_NHWC)), (), "scenes")
        return RecordedNetwork(tmp_path, of, data, count=2, num_attacked=2, num_clean=2, num_threads=1).folder

    def with_weights(sha256: str) -> Bundle:
        files = dict(bundle.manifest.files)
        files["weights.safetensors"] = files["weights.safetensors"].model_copy(update={"sha256": sha256})
        return dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files}))

    def with_temperatures(factor: float) -> Bundle:
        """Regression: confidences that were divided by other temperatures were replayed."""
        figures = bundle.manifest.figures["float32"]
        fitted = [one.model_copy(update={"temperature": factor * one.temperature}) for one in figures.temperatures]
        changed = {"float32": figures.model_copy(update={"temperatures": tuple(fitted)})}
        return dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"figures": changed}))

    images = scenes(4, seed=3)
    files = {**bundle.manifest.files, "estimator.json": bundle.manifest.files["weights.safetensors"]}
    refitted = dataclasses.replace(
        bundle, manifest=bundle.manifest.model_copy(update={"files": files}), sha256="0" * 64
    )
    assert folder(refitted, images) == folder(bundle, images)
    assert folder(with_weights("0" * 64), images) != folder(bundle, images)
    assert folder(with_temperatures(1.0), images) == folder(bundle, images)
    assert folder(with_temperatures(2.0), images) != folder(bundle, images)
    assert folder(bundle, images[::-1]) != folder(bundle, images)


def test_no_more_images_are_counted_than_there_are(
    bundle: Bundle, scenes: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    data = ImageSet(scenes(4, seed=3), np.arange(4), (), "scenes")
    network = RecordedNetwork(tmp_path, bundle, data, count=250, num_attacked=200, num_clean=300, num_threads=1)
    assert (network.count, network.num_attacked, network.num_clean) == (4, 4, 4)


def _stream(images: list[int]) -> make.Stream:
    stream = make.stream_of([("clean", len(images))], num_images=1, rng=np.random.default_rng(0))
    return dataclasses.replace(stream, image_T=np.array(images))


def test_intervals_count_images_and_not_frames() -> None:
    """A hundred repeats of two images are two observations."""
    many = _stream([0, 1] * 100)
    right_T = np.array([True, False] * 100)
    found = accuracy([many], [right_T])
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    paired = difference([many], [right_T], [right_T])
    assert (paired.value, paired.low, paired.high) == (0.0, 0.0, 0.0)


def test_delays_count_the_alarming_frame_and_misses_are_infinite() -> None:
    alarm_T = np.array([False, True, False, False, True, True])
    assert delay_frames(alarm_T, onset=2) == 3
    assert delay_frames(alarm_T[:4], onset=2) == float("inf")
    assert runs(alarm_T) == [slice(1, 2), slice(4, 6)]
    assert runs(~alarm_T) == [slice(0, 1), slice(2, 4)]
    assert runs(alarm_T[:0]) == []


def test_mixtures_hold_what_they_say() -> None:
    assert len(make.conditions_of("all", (1, 2, 3, 4, 5))) == 76
    held_out = make.conditions_of("held-out", (1, 2, 3, 4, 5))
    assert len(held_out) == 36
    assert not any(condition.startswith(("fog", "gaussian_noise")) for condition in held_out)
    stream = make.mixed(held_out, num_segments=40, num_images=7, seed=0, attack="pgd-10", attack_share=0.5)
    assert set(stream.condition_T) <= {*held_out, "attack:pgd-10"}
    assert 10 < stream.attacked_T.sum() < len(stream)
    assert stream.image_T.max() == 6


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_fools_its_network_within_the_ball(name: str) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x_NCHW, y_N = torch.rand(16, 3, 16, 16, generator=generator), torch.arange(16) % 4
    weights = [torch.randn(4, 768, generator=generator) / 30 for _ in range(2)]
    net, other = (lambda images, w=w: images.flatten(1) @ w.T for w in weights)
    found = attack(ATTACKS[name], net, other, x_NCHW, y_N, generator=generator)
    assert (found - x_NCHW).abs().max() <= EPSILON + 1e-6
    assert 0.0 <= found.min() <= found.max() <= 1.0
    right_before, right_after = ((net(images).argmax(1) == y_N).sum() for images in (x_NCHW, found))
    assert right_after < right_before


def test_the_monitor_aware_attack_leaves_less_noise_and_less_disagreement_than_the_plain_one() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(16, 3, 4, 4, generator=generator)
    x_NCHW = torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear", align_corners=True)
    y_N = torch.arange(16) % 4
    weights = [torch.randn(4, 768, generator=generator) / 30 for _ in range(2)]
    net, other = (lambda images, w=w: images.flatten(1) @ w.T for w in weights)
    noise, agreement = {}, {}
    for name in ("pgd-10", "monitor-aware-pgd-10"):
        found = attack(ATTACKS[name], net, other, x_NCHW, y_N, generator=torch.Generator().manual_seed(1))
        noise[name] = (found[..., 1:] - found[..., :-1]).abs().mean()
        agreement[name] = (net(found).argmax(1) == other(found).argmax(1)).float().mean()
    assert noise["monitor-aware-pgd-10"] < noise["pgd-10"]
    assert agreement["monitor-aware-pgd-10"] >= agreement["pgd-10"]
