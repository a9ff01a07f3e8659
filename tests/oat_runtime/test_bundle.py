"""A bundle is whole or refused: damage of every kind, strict manifests, atomic saving, and what comes back out."""

import errno
import functools
import hashlib
import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from oat_runtime.bundle import Bundle, DataSummary, Fingerprints, HeldOut, LogitsAt, outcome_key, writer
from oat_runtime.bundle.writer import attach_file, check_changeable, check_target, save_bundle, upgrade
from oat_runtime.errors import BundleError
from oat_runtime.files import write_whole
from oat_runtime.operating_point import OperatingPoint, OperatingTable
from oat_runtime.plain_net import fold
from tests.little_work import little_work
from tests.oat_runtime.forged import plant, write_manifest

LISTED = ("weights.safetensors", "probe.safetensors", "outcomes.safetensors")
FILES = ("manifest.json", "manifest.sha256", *LISTED)


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
        "data": manifest.data,
        **dict(manifest.figures["float32"]),
        "outcomes": bundle.outcomes(),
        "probe": safetensors.numpy.load_file(bundle.path / "probe.safetensors"),
        "tensors": bundle.tensors(),
        "config": manifest.model,
    }
    return save_bundle(path, **(arguments | changes))


def as_schema_1(folder: Path) -> Path:
    """Turn a bundle into what version 0.2 wrote."""
    document = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.sha256").unlink()
    del document["data"], document["quantization"]
    document |= document.pop("figures")["float32"]
    document |= {"schema_version": 1, "probe_atol": document["probe_atol"]["float32"]}
    del document["model"]["classifier_per_width"]
    (folder / "manifest.json").write_text(json.dumps(document, indent=1))
    return folder


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
    elif (damage, name) in ((truncated, "manifest.sha256"), (lengthened, "manifest.sha256")):
        pytest.skip("the hash is whole without the line end, and one more letter is no part of it")
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=name) as caught:
        Bundle.load(folder)
    if damage is not None and not name.startswith("manifest"):
        assert f"it is {'too long' if damage is lengthened else 'truncated'}, fetch" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_refused(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    for position in [0, len(raw) // 2, *random.Random(0).sample(range(min(len(raw), 64)), 10)]:
        changed = bytearray(raw)
        changed[position] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(BundleError, match=r"SHA-256.*changed"):
            Bundle.load(folder)


@pytest.mark.parametrize("path", ["nowhere", "tiny/weights.safetensors", "."])
def test_no_bundle_there_says_what_was_expected(folder: Path, path: str) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*expected a folder with manifest\.json"):
        Bundle.load(folder.parent / path)


def figures(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["figures"]["float32"]
    return found


def drop_row(document: dict[str, Any]) -> None:
    rows = figures(document)["select"]["rows"]
    figures(document)["select"]["rows"] = [row for row in rows if row["lam"] != 1.0]


def swap_tables(document: dict[str, Any]) -> None:
    both = figures(document)
    both["select"], both["report"] = both["report"], both["select"]


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "later schema": lambda d: d.update(schema_version=3),
    "schema true": lambda d: d.update(schema_version=True),
    "schema 1 with what came later": lambda d: d.update(schema_version=1),
    "no schema": lambda d: d.pop("schema_version"),
    "unknown key": lambda d: d.update(surprise=1),
    "unknown inner key": lambda d: d["model"].update(surprise=1),
    "nan": lambda d: d["provenance"].update(train_minutes=math.nan),
    "nan temperature": lambda d: figures(d)["temperatures"][0].update(temperature=math.nan),
    "infinity": lambda d: figures(d)["select"]["attack"].update(epsilon=math.inf),
    "parent folder": lambda d: d["files"].update({"../tiny/weights.safetensors": d["files"]["weights.safetensors"]}),
    "absolute path": lambda d: d["files"].update({"/etc/hostname": d["files"]["weights.safetensors"]}),
    "itself": lambda d: d["files"].update({"manifest.json": d["files"]["weights.safetensors"]}),
    "no weights": lambda d: d["files"].pop("weights.safetensors"),
    "short hash": lambda d: d["files"]["weights.safetensors"].update(sha256="ab"),
    "upper-case name": lambda d: d.update(name="Tiny/.."),
    "one class name less": lambda d: d.update(class_names=d["class_names"][1:]),
    "rows missing": drop_row,
    "tables swapped": swap_tables,
    "temperature missing": lambda d: figures(d)["temperatures"].pop(),
    "temperature of zero": lambda d: figures(d)["temperatures"][0].update(temperature=0.0),
    "temperature that ends in infinity": lambda d: figures(d)["temperatures"][0].update(temperature=1e-39),
    "figures of an unknown precision": lambda d: d["figures"].update(int3=figures(d)),
    "no figures in float32": lambda d: d["figures"].update(int8=d["figures"].pop("float32")),
    "no tolerance in float32": lambda d: d["probe_atol"].pop("float32"),
    "a tolerance for everything": lambda d: d["probe_atol"].update(float32=1e9),
    "ranges that are not there": lambda d: d.update(quantization="quantization.json"),
    "another range of lambda": lambda d: d.update(lambda_range=[0.0, 0.5]),
    "deviation of zero": lambda d: d["model"].update(std=[0.0, 0.2, 0.2]),
    "depth": lambda d: d["model"].update(depth=4096),
    "widths": lambda d: d["model"].update(widths=[w / 1000 for w in range(1, 1001)]),
    "knots": lambda d: d["model"].update(lambdas=[lam / 1000 for lam in range(1001)]),
    "classes": lambda d: d["model"].update(num_classes=10**9),
    "image size": lambda d: d["input"].update(height=10**6),
    "images without end": lambda d: figures(d)["report"]["rows"][0]["measurements"][0].update(num_total=10**18),
    "a file without end": lambda d: d["files"].update(x={"sha256": "0" * 64, "num_bytes": 10**18}),
    "a long name": lambda d: d.update(name="n" * 1_000_000),
    "a long text": lambda d: d["provenance"].update(commit="c" * 1_000_000),
    "a long class": lambda d: d["class_names"].append("c" * 1_000_000),
    "a long key": lambda d: d.update({"k" * 1_000_000: 1}),
    "a long number": lambda d: d["provenance"].update(seed=10**4000),
    "many files": lambda d: d["files"].update({f"f{n}": d["files"]["weights.safetensors"] for n in range(1000)}),
    "more right than images": lambda d: figures(d)["select"]["rows"][0]["measurements"][0].update(num_correct=1001),
    "no rows": lambda d: figures(d)["report"].update(rows=[]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_that_says_too_much_or_too_little_is_refused(folder: Path, change: str) -> None:
    document = json.loads((folder / "manifest.json").read_bytes())
    CHANGES[change](document)
    write_manifest(folder, document)
    with little_work(), pytest.raises(BundleError, match=r"manifest\.json|/x may have") as caught:
        Bundle.load(folder)  # a depth of 4096 never ended
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
    assert ("update this package" in str(caught.value)) == (change == "later schema")
    assert ("it names no schema_version" in str(caught.value)) == (change == "no schema")


@pytest.mark.parametrize("text", ["[]", "null", "3", "", "{", '"tiny"'])
def test_a_manifest_that_is_no_document_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    (folder / "manifest.sha256").unlink()
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.load(folder)


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_bytes())
    document["model"]["widen_factor"] = 2
    write_manifest(folder, document)
    with pytest.raises(BundleError, match="does not fit the manifest's architecture"):
        Bundle.load(folder)


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


@pytest.mark.parametrize(("place", "failing"), [(os, "fsync"), (Path, "chmod")])
def test_a_failing_save_leaves_the_old_bundle_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: object, failing: str
) -> None:
    bundle, before = Bundle.load(folder), contents(folder.parent)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(place, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            save_again(bundle, folder, name="other")
    assert contents(folder.parent) == before


def test_a_full_disk_names_a_file_of_the_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, before = Bundle.load(folder), contents(folder.parent)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"No space left on device: '.*\.safetensors'"):
            save_again(bundle, folder, name="other")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", functools.partial(shutil.copytree, copy_function=fail))
        with pytest.raises(BundleError, match=r"stays as it was, .*No space left on device.*: make room"):
            attach_file(bundle, "estimator.json", b"{}")
    assert contents(folder.parent) == before


def test_a_kill_between_both_renames_of_a_replacement_names_the_bundle_as_it_was(folder: Path) -> None:
    class Killed(BaseException):
        """Nothing of ours catches it, as no code runs after SIGKILL."""

    bundle, rename = Bundle.load(folder), os.replace

    def die_at_the_second(source: Path, target: Path) -> None:
        if Path(target) == folder:
            raise Killed
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", die_at_the_second)
        with pytest.raises(Killed):
            save_again(bundle, folder)
    older = folder.with_name(".tiny-older")
    with pytest.raises(BundleError, match=re.escape(f"interrupted, and {older} holds it as it was: move that back")):
        Bundle.load(folder)
    rename(older, folder)
    assert Bundle.load(folder).sha256 == bundle.sha256


def test_what_a_kill_left_beside_a_bundle_stops_no_save(folder: Path) -> None:
    """Regression: a folder that was left of an earlier replacement ended each later one in `Directory not empty`."""
    left = folder.with_name(f".{folder.name}-older")
    left.mkdir()
    (left / "weights.safetensors").touch()
    assert save_again(Bundle.load(folder), folder, name="other").manifest.name == "other"
    assert not left.exists()


def test_a_bundle_that_cannot_be_changed_is_refused_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.load(folder)
    check_changeable(bundle)
    for closed in (folder, folder.parent):
        monkeypatch.setattr(os, "access", lambda path, _, closed=closed: Path(path) != closed)  # root may write all
        with pytest.raises(BundleError, match=r"cannot be changed: no permission to write in .*: copy the bundle"):
            check_changeable(bundle)


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
                **dict(bundle.manifest.figures["float32"]),
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


def test_nothing_is_attached_to_a_bundle_that_changed_since_it_was_loaded(folder: Path) -> None:
    """Regression: what was attached while an export counted for hours was dropped without a word."""
    loaded = Bundle.load(folder)
    attach_file(Bundle.load(folder), "estimator.json", b'{"a": 1}')
    before = contents(folder)
    with pytest.raises(BundleError, match=r"changed meanwhile: expected sha256 \w+, got \w+: run the command again"):
        attach_file(loaded, "evaluation.json", b"{}")
    assert contents(folder) == before
    assert attach_file(Bundle.load(folder), "evaluation.json", b"{}").estimator == {"a": 1}


@pytest.mark.parametrize("name", [*LISTED, "estimator.json"])
def test_no_file_of_another_bundle_is_read_where_it_took_the_place_of_the_one_that_was_loaded(
    folder: Path, name: str
) -> None:
    """Regression: the tables and the identity stayed those of the old bundle, and the weights were the new one's."""
    loaded = attach_file(Bundle.load(folder), "estimator.json", b'{"a": 1}')
    readers: dict[str, Callable[[], object]] = {
        "weights.safetensors": loaded.tensors, "probe.safetensors": loaded.probes,
        "outcomes.safetensors": loaded.outcomes, "estimator.json": lambda: loaded.estimator,
    }  # fmt: skip
    for read in readers.values():
        read()
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1  # as valid as before
    plant(folder, name, bytes(content))
    Bundle.load(folder)
    with pytest.raises(BundleError, match=rf"{re.escape(name)}: expected the file that was checked .* load it again"):
        readers[name]()
    for other in readers.keys() - {name}:
        readers[other]()


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


def test_a_bundle_beside_which_nothing_can_be_written_is_no_target(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: an export said so after an hour of measuring."""
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != folder.parent)  # root may write all
    with pytest.raises(BundleError, match=r"cannot be replaced: no permission to write in .*: name a new folder"):
        check_target(folder)


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
    report = counted(bundle.manifest.figures["float32"].report, num_total, outcomes)
    back = save_again(bundle, tmp_path / "b", report=report, outcomes=outcomes)
    assert back.outcomes().keys() == outcomes.keys()
    for row in back.report.rows:
        for measurement in row.measurements:
            got = back.outcomes()[outcome_key(measurement.condition, row.point)]
            assert got.dtype == np.bool_
            assert got.tolist() == outcomes[outcome_key(measurement.condition, row.point)].tolist()
            assert got.sum() == measurement.num_correct


def test_outcomes_are_those_of_the_table_of_the_same_precision(tiny_bundle: Path) -> None:
    """Regression: a precision that was not counted ended in a KeyError, where `table` gives what float32 counted."""
    bundle = Bundle.load(tiny_bundle)
    found = bundle.outcomes("bfloat16")
    for row in bundle.table("report", "bfloat16").rows:
        for m in row.measurements:
            assert found[outcome_key(m.condition, row.point)].sum() == m.num_correct


def test_temperature_is_linear_between_trained_lambdas(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    bent = tuple(
        t.model_copy(update={"temperature": 1.0 + 10 * t.lam**2 + t.width})
        for t in bundle.manifest.figures["float32"].temperatures
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


def test_a_bundle_of_schema_1_says_the_same(folder: Path) -> None:
    today = Bundle.load(folder)
    older = Bundle.load(as_schema_1(folder))
    assert older.manifest == today.manifest
    assert older.sha256 != today.sha256
    assert older.replay_probe(lambda x_NCHW, point: today.probes()[point].logits_NK) == 0.0


@pytest.mark.parametrize("name", ["estimator.json", None])
def test_an_older_bundle_moves_to_todays_schema_and_keeps_every_other_file(folder: Path, name: str | None) -> None:
    today = contents(folder)
    older = Bundle.load(as_schema_1(folder))
    again = upgrade(older) if name is None else attach_file(older, name, b"{}")
    assert again.manifest.files.keys() - {name} == set(LISTED)
    after = contents(folder)
    assert {file: after[file] for file in LISTED} == {file: today[file] for file in LISTED}
    if name is None:
        assert after == today


@pytest.mark.parametrize("num_written", range(3))
def test_a_failure_between_two_writes_leaves_the_old_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, num_written: int
) -> None:
    """Regression: a file that the bundle held already was changed before the manifest, so nothing could be loaded."""
    attach_file(Bundle.load(folder), "estimator.json", b"{}")
    before, done = contents(folder.parent), list[Path]()

    def write_some(path: Path, content: bytes) -> None:
        if len(done) == num_written:
            raise OSError("disk full")
        done.append(path)
        write_whole(path, content)

    monkeypatch.setattr(writer, "write_whole", write_some)
    with pytest.raises(OSError, match="disk full"):
        attach_file(Bundle.load(folder), "estimator.json", b'{"a": 1}')
    assert contents(folder.parent) == before


def test_a_link_to_a_bundle_names_the_changed_one(folder: Path) -> None:
    link = folder.with_name("current")
    link.symlink_to(folder.name)
    after = attach_file(Bundle.load(link), "estimator.json", b"{}")
    assert link.is_symlink() and after.path == link
    assert Bundle.load(folder).sha256 == after.sha256


@pytest.mark.parametrize("name", ["weights.safetensors", "probe.safetensors", "outcomes.safetensors"])
@pytest.mark.parametrize("damage", ["nan", "shape", "name", "head", "deep", "huge"])
def test_a_file_whose_numbers_or_head_are_wrong_raises_the_projects_error(folder: Path, name: str, damage: str) -> None:
    arrays = safetensors.numpy.load_file(folder / name)
    first = sorted(arrays)[-1]
    if damage == "nan":
        arrays[first] = np.full_like(arrays[first], math.nan) if arrays[first].dtype.kind == "f" else arrays[first][:-1]
    elif damage == "shape":
        arrays[first] = arrays[first][..., None]
    else:
        arrays["surprise"] = arrays.pop(first)
    content = safetensors.numpy.save(arrays)
    hostile = {"head": b"{", "deep": b"[" * 100_000, "huge": b'{"a":{"dtype":"F32","shape":[%d]}}' % 10**99}
    if damage in hostile:
        content = len(hostile[damage]).to_bytes(8, "little") + hostile[damage]
    plant(folder, name, content)
    with pytest.raises(BundleError, match=name) as caught:
        bundle = Bundle.load(folder)
        bundle.tensors(), bundle.probes(), bundle.outcomes()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"[" * 100_000, b'{"a": NaN}', b"\xff", b"1" * 5000])
def test_an_estimator_that_is_no_document_raises_the_projects_error(folder: Path, content: bytes) -> None:
    bundle = attach_file(Bundle.load(folder), "estimator.json", content)
    with pytest.raises(BundleError, match=r"estimator\.json"):
        _ = bundle.estimator


def test_figures_of_another_precision_are_read_where_it_runs(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_bytes())
    document["figures"]["int8"] = json.loads(json.dumps(figures(document)))
    document["figures"]["int8"]["select"]["split"] = "validation, in int8"
    document["figures"]["int8"]["report"]["rows"] = [
        row | {"measurements": []} for row in document["figures"]["int8"]["report"]["rows"]
    ]
    document["probe_atol"]["int8"] = 0.5
    document["quantization"] = "quantization.json"
    (folder / "quantization.json").write_bytes(b"{}")
    document["files"]["quantization.json"] = {"sha256": hashlib.sha256(b"{}").hexdigest(), "num_bytes": 2}
    write_manifest(folder, document)
    bundle = Bundle.load(folder)
    assert bundle.table("select", "int8").split == "validation, in int8"
    assert bundle.table("select", "bfloat16") == bundle.select == bundle.table("select", "float32")
    assert (bundle.counted_in("int8"), bundle.counted_in("bfloat16")) == ("int8", "float32")
    tolerances = [bundle.manifest.tolerance(name, 10.0) for name in ("float32", "int8", "bfloat16")]
    assert tolerances == [2e-3, 0.5, 0.5]
    document["probe_atol"] = {"float32": 100.0, "int8": 0.5}
    write_manifest(folder, document)
    lying = Bundle.load(folder).manifest
    assert lying.tolerance("float32", 10.0) == 0.5, "a stated tolerance cannot wave exchanged weights through"
    assert bundle.outcomes("int8") == {}


def test_what_is_known_of_the_data_comes_back(tiny_bundle: Path, tmp_path: Path) -> None:
    data = DataSummary(
        held_out=HeldOut(rule="groups", grouped_by="track", num_images=2000, seed=0),
        fingerprints=Fingerprints(train="a" * 64, test="b" * 64),
    )
    assert Bundle.load(tiny_bundle).manifest.data is None
    assert save_again(Bundle.load(tiny_bundle), tmp_path / "b", data=data).manifest.data == data
