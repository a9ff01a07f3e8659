"""A bundle is whole or refused: damage of every kind, strict manifests, atomic saving, and what comes back out."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from oat_runtime.bundle import Bundle, LogitsAt, outcome_key
from oat_runtime.bundle_writer import attach_file, check_target, save_bundle
from oat_runtime.errors import BundleError
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.plain_net import fold

FILES = ("manifest.json", "weights.safetensors", "probe.safetensors", "outcomes.safetensors")
LISTED = FILES[1:]


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


def save_again(bundle: Bundle, path: Path, **changes: Any) -> Bundle:
    manifest = bundle.manifest
    arguments: dict[str, Any] = {
        "name": manifest.name,
        "class_names": manifest.class_names,
        "input_spec": manifest.input,
        "provenance": manifest.provenance,
        "temperatures": manifest.temperatures,
        "select": manifest.select,
        "report": manifest.report,
        "outcomes": bundle.outcomes(),
        "probe": safetensors.numpy.load_file(bundle.path / "probe.safetensors"),
        "tensors": bundle.tensors(),
        "config": manifest.model,
    }
    return save_bundle(path, **(arguments | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def truncated(raw: bytes) -> bytes:
    return raw[:-1]


def halved(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def emptied(raw: bytes) -> bytes:
    return b""


def lengthened(raw: bytes) -> bytes:
    return raw + b"x"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncated, halved, emptied, lengthened, None])
def test_a_damaged_file_is_refused(folder: Path, name: str, damage: Callable[[bytes], bytes] | None) -> None:
    path = folder / name
    if damage is None:
        path.unlink()
    elif (damage, name) == (truncated, "manifest.json"):
        path.write_bytes(path.read_bytes().rstrip()[:-1])  # its last byte is a line end
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=name):
        Bundle.load(folder)


@pytest.mark.parametrize("name", LISTED)
def test_a_flipped_bit_anywhere_is_refused(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    for position in [0, len(raw) - 1, *random.Random(0).sample(range(len(raw)), 10)]:
        changed = bytearray(raw)
        changed[position] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(BundleError, match=r"SHA-256.*changed"):
            Bundle.load(folder)


def test_a_changed_manifest_is_refused_or_is_another_bundle(folder: Path) -> None:
    path, before = folder / "manifest.json", Bundle.load(folder).sha256
    raw = path.read_bytes()
    num_loaded = 0
    for position in random.Random(0).sample(range(len(raw)), 40):
        changed = bytearray(raw)
        changed[position] ^= 1
        path.write_bytes(changed)
        try:
            assert Bundle.load(folder).sha256 != before
            num_loaded += 1
        except BundleError:
            pass
    assert num_loaded < 40


@pytest.mark.parametrize("path", ["nowhere", "tiny/weights.safetensors", "."])
def test_no_bundle_there_says_what_was_expected(folder: Path, path: str) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*expected a folder with manifest\.json"):
        Bundle.load(folder.parent / path)


def drop_row(document: dict[str, Any]) -> None:
    rows = document["select"]["rows"]
    document["select"]["rows"] = [row for row in rows if row["lam"] != 1.0]


def swap_tables(document: dict[str, Any]) -> None:
    document["select"], document["report"] = document["report"], document["select"]


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "other schema": lambda d: d.update(schema_version=2),
    "no schema": lambda d: d.pop("schema_version"),
    "unknown key": lambda d: d.update(surprise=1),
    "unknown inner key": lambda d: d["model"].update(surprise=1),
    "nan": lambda d: d["provenance"].update(train_minutes=math.nan),
    "nan temperature": lambda d: d["temperatures"][0].update(temperature=math.nan),
    "infinity": lambda d: d["select"]["attack"].update(epsilon=math.inf),
    "parent folder": lambda d: d["files"].update({"../tiny/weights.safetensors": d["files"]["weights.safetensors"]}),
    "absolute path": lambda d: d["files"].update({"/etc/hostname": d["files"]["weights.safetensors"]}),
    "itself": lambda d: d["files"].update({"manifest.json": d["files"]["weights.safetensors"]}),
    "no weights": lambda d: d["files"].pop("weights.safetensors"),
    "short hash": lambda d: d["files"]["weights.safetensors"].update(sha256="ab"),
    "upper-case name": lambda d: d.update(name="Tiny/.."),
    "one class name less": lambda d: d.update(class_names=d["class_names"][1:]),
    "rows missing": drop_row,
    "tables swapped": swap_tables,
    "temperature missing": lambda d: d["temperatures"].pop(),
    "temperature of zero": lambda d: d["temperatures"][0].update(temperature=0.0),
    "more right than images": lambda d: d["select"]["rows"][0]["measurements"][0].update(num_correct=1001),
    "no rows": lambda d: d["report"].update(rows=[]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_that_says_too_much_or_too_little_is_refused(folder: Path, change: str) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    CHANGES[change](document)
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["[]", "null", "3", "", "{", '"tiny"'])
def test_a_manifest_that_is_no_document_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.load(folder)


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    document["model"]["widen_factor"] = 2
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="does not fit the manifest's architecture"):
        Bundle.load(folder).tensors()


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.int32, np.bool_])
@pytest.mark.parametrize("name", ["classifier.bias", "blocks.0.norm1.film.gamma_KC"])
def test_weights_of_another_type_are_named(tiny_bundle: Path, tmp_path: Path, name: str, dtype: type) -> None:
    """Regression: int8 weights were taken for numbers, and float64 ones ended in an engine's error."""
    bundle = Bundle.load(tiny_bundle)
    tensors = bundle.tensors()
    tensors[name] = tensors[name].astype(dtype)
    with pytest.raises(BundleError, match=rf"expected {name} of float32 or float16, got {np.dtype(dtype).name}"):
        save_again(bundle, tmp_path / "other", tensors=tensors)
    assert not (tmp_path / "other").exists()


def test_saving_what_was_loaded_gives_the_same_bytes(tiny_bundle: Path, tmp_path: Path) -> None:
    again = save_again(Bundle.load(tiny_bundle), tmp_path / "again")
    assert contents(again.path) == contents(tiny_bundle)
    assert again.sha256 == Bundle.load(tiny_bundle).sha256


def test_weights_take_half_the_bytes_where_nothing_is_lost(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    tensors = bundle.tensors()
    weights = [name for name in tensors if name.endswith(".weight") and "norms" not in name]
    for name in weights:
        tensors[name] = tensors[name].astype(np.float16).astype(np.float32)
    rounded = save_again(bundle, tmp_path / "rounded", tensors=tensors)
    saved = [one.manifest.files["weights.safetensors"].num_bytes for one in (bundle, rounded)]
    assert saved[0] - saved[1] == pytest.approx(2 * sum(tensors[name].size for name in weights), rel=0.01)
    again = rounded.tensors()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        np.testing.assert_array_equal(again[name], tensor)


def test_a_weight_too_large_for_half_the_bytes_keeps_them_all(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    tensors = bundle.tensors()
    tensors["stem.weight"] = np.full_like(tensors["stem.weight"], 1e6)
    again = save_again(bundle, tmp_path / "large", tensors=tensors).tensors()
    np.testing.assert_array_equal(again["stem.weight"], tensors["stem.weight"])


@pytest.mark.parametrize("failing", ["write_bytes", "write_text", "chmod"])
def test_a_failing_save_leaves_the_old_bundle_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    bundle, before = Bundle.load(folder), contents(folder.parent)

    def fail(self: Path, *_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            save_again(bundle, folder, name="other")
    assert contents(folder.parent) == before


def test_a_failing_rename_brings_the_old_bundle_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, before, rename = Bundle.load(folder), contents(folder.parent), os.replace

    def fail_on_the_new_one(source: Path, target: Path) -> None:
        if Path(target) == folder and (Path(source) / "manifest.json").is_file() and "older" not in Path(source).name:
            raise OSError("no rename")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_on_the_new_one)
        with pytest.raises(OSError, match="no rename"):
            save_again(bundle, folder, name="other")
    assert contents(folder.parent) == before


def test_a_save_that_would_not_load_leaves_the_old_bundle_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, before = Bundle.load(folder), contents(folder.parent)

    def refuse(self: Bundle) -> dict[str, Any]:
        raise BundleError("does not fit")

    tensors = bundle.tensors()
    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "tensors", refuse)
        with pytest.raises(BundleError, match="does not fit"):
            save_bundle(
                folder,
                tensors,
                bundle.manifest.model,
                probe={},
                name="other",
                class_names=bundle.class_names,
                input_spec=bundle.input,
                provenance=bundle.manifest.provenance,
                temperatures=bundle.manifest.temperatures,
                select=bundle.manifest.select,
                report=bundle.manifest.report,
                outcomes=bundle.outcomes(),
            )
    assert contents(folder.parent) == before


def test_a_save_replaces_the_old_bundle_and_leaves_nothing_beside_it(folder: Path) -> None:
    old = Bundle.load(folder)
    new = save_again(old, folder, name="other")
    assert (new.path, new.manifest.name) == (folder, "other")
    assert new.sha256 != old.sha256
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_an_attached_file_is_listed_verified_and_changes_the_identity(folder: Path) -> None:
    before = Bundle.load(folder)
    assert before.estimator is None
    after = attach_file(before, "estimator.json", b'{"threshold": 0.5}')
    assert after.estimator == {"threshold": 0.5}
    assert after.sha256 != before.sha256
    assert after.select.bundle_sha256 == after.sha256
    assert {name for name in after.manifest.files} == {*LISTED, "estimator.json"}
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, "estimator.json"))
    (folder / "estimator.json").write_bytes(b'{"threshold": 0.6}')
    with pytest.raises(BundleError, match=r"estimator\.json"):
        Bundle.load(folder)


def test_attaching_again_replaces(folder: Path) -> None:
    first = attach_file(Bundle.load(folder), "estimator.json", b"{}")
    assert attach_file(first, "estimator.json", b'{"a": 1}').estimator == {"a": 1}


@pytest.mark.parametrize("name", ["../outside.json", "manifest.json", "weights.safetensors", "a/b", ""])
def test_attaching_under_a_bad_name_changes_nothing(folder: Path, name: str) -> None:
    before = contents(folder.parent)
    with pytest.raises(BundleError, match="a plain name of its own"):
        attach_file(Bundle.load(folder), name, b"x")
    assert contents(folder.parent) == before


def test_a_folder_that_is_no_bundle_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "bundles" / "notes.txt"
    precious.parent.mkdir()
    precious.write_text("keep me")
    with pytest.raises(BundleError, match="is not a bundle"):
        check_target(precious.parent)
    check_target(folder)
    assert precious.read_text() == "keep me"


def counted(table: OperatingTable, num_total: int, outcomes: dict[str, npt.NDArray[np.bool_]]) -> OperatingTable:
    """`table` with counts of `num_total` random outcomes, which are put into `outcomes`."""
    rng, rows = np.random.default_rng(0), []
    for row in table.rows:
        measurements = []
        for measurement in row.measurements:
            hits = rng.random(num_total) < 0.5
            outcomes[outcome_key(measurement.condition, row.point)] = hits
            update = {"num_correct": int(hits.sum()), "num_total": num_total}
            measurements.append(measurement.model_copy(update=update))
        rows.append(row.model_copy(update={"measurements": tuple(measurements)}))
    return table.model_copy(update={"rows": tuple(rows)})


@pytest.mark.parametrize("num_total", [1, 8, 13])
def test_outcomes_come_back_image_by_image(tiny_bundle: Path, tmp_path: Path, num_total: int) -> None:
    bundle = Bundle.load(tiny_bundle)
    outcomes: dict[str, npt.NDArray[np.bool_]] = {}
    report = counted(bundle.manifest.report, num_total, outcomes)
    back = save_again(bundle, tmp_path / "b", report=report, outcomes=outcomes)
    assert back.outcomes().keys() == outcomes.keys()
    for row in back.report.rows:
        for measurement in row.measurements:
            got = back.outcomes()[outcome_key(measurement.condition, row.point)]
            assert got.dtype == np.bool_
            assert got.tolist() == outcomes[outcome_key(measurement.condition, row.point)].tolist()
            assert got.sum() == measurement.num_correct


def test_temperature_is_linear_between_trained_lambdas(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    bent = tuple(
        t.model_copy(update={"temperature": 1.0 + 10 * t.lam**2 + t.width}) for t in bundle.manifest.temperatures
    )
    bundle = save_again(bundle, tmp_path / "b", temperatures=bent)
    for t in bent:
        assert bundle.temperature(OperatingPoint(t.lam, t.width)) == t.temperature
    at_04, at_1 = (bundle.temperature(OperatingPoint(lam, 0.5)) for lam in (0.4, 1.0))
    assert bundle.temperature(OperatingPoint(0.55, 0.5)) == pytest.approx(0.75 * at_04 + 0.25 * at_1)


def test_tables_name_their_bundle(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert bundle.select.bundle_sha256 == bundle.report.bundle_sha256 == bundle.sha256
    assert (bundle.select.name, bundle.report.name) == ("select", "report")


@pytest.fixture
def logits_at(tiny_bundle: Path, plain_logits: Callable[..., npt.NDArray[np.float32]]) -> Callable[..., LogitsAt]:
    """An engine without an engine: makes one of weights."""
    config = Bundle.load(tiny_bundle).manifest.model
    return lambda tensors: (
        lambda x_NCHW, point: plain_logits(fold(tensors, config, lam=point.lam, width=point.width), x_NCHW)
    )


def test_the_probe_passes_for_this_network(tiny_bundle: Path, logits_at: Callable[..., LogitsAt]) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert bundle.replay_probe(logits_at(bundle.tensors())) < 1e-5


@pytest.mark.parametrize("value", [1.5, math.nan])
@pytest.mark.parametrize("part", ["stem.weight", "blocks.2.norm2.film.gamma_KC", "blocks.1.norm1.norms.0.1.bias"])
def test_the_probe_fails_for_a_changed_weight(
    tiny_bundle: Path, logits_at: Callable[..., LogitsAt], part: str, value: float
) -> None:
    """Regression: a NaN among the logits once passed, because max() drops NaN."""
    bundle = Bundle.load(tiny_bundle)
    tensors = bundle.tensors()
    tensors[part] = np.float32(value) * tensors[part]
    with pytest.raises(BundleError, match=r"probe of .* differs by .*, allowed 0\.002"):
        bundle.replay_probe(logits_at(tensors))


def test_a_point_without_a_probe_is_named(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no probe of λ=0.15 width=1"):
        Bundle.load(tiny_bundle).probe(OperatingPoint(0.15, 1.0))
