"""A shipped bundle is found by its name, a path is taken as it is, and an unknown name is told the known ones."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import oat_runtime
from oat_runtime import Bundle
from oat_runtime.bundle import shipped
from oat_runtime.bundle.shipped import bundles_folder, find_bundle, shipped_bundles
from oat_runtime.errors import BundleError


def test_each_bundle_of_the_checkout_is_found_by_its_name() -> None:
    assert oat_runtime.SHIPPED_BUNDLE.name in shipped_bundles()
    assert find_bundle(oat_runtime.SHIPPED_BUNDLE.name) == oat_runtime.SHIPPED_BUNDLE
    for name in shipped_bundles():
        assert find_bundle(name) == bundles_folder() / name
        assert (find_bundle(name) / "manifest.json").is_file()


def test_a_path_that_exists_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_bundle(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    name = shipped_bundles()[0]
    Path(name).mkdir()
    assert find_bundle(name) == Path(name), "a folder here goes before a shipped bundle of its name"


@pytest.mark.parametrize("path", ["bundles/none", "/none", "./none", "../none"])
def test_any_other_path_is_left_to_whoever_reads_it(path: str) -> None:
    assert find_bundle(path) == Path(path)


def test_an_unknown_name_is_told_the_shipped_ones() -> None:
    with pytest.raises(BundleError, match=r"no bundle 'cifar10'.*cifar10-wrn-16-4, gtsrb-wrn-16-2, robocup-wrn-16-2"):
        find_bundle("cifar10")


def test_an_installed_package_reads_its_own_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "oat_runtime" / "bundles" / "net").mkdir(parents=True)
    (tmp_path / "oat_runtime" / "bundles" / "net" / "manifest.json").touch()
    (tmp_path / "bundles" / "other").mkdir(parents=True)
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "oat_runtime" / "bundle" / "shipped.py"))
    assert shipped_bundles() == ("net",)
    assert find_bundle("net") == tmp_path / "oat_runtime" / "bundles" / "net"


def test_a_package_without_bundles_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "oat_runtime" / "bundle" / "shipped.py"))
    with pytest.raises(BundleError, match=f"there is none in {tmp_path / 'bundles'}"):
        find_bundle("net")


def test_the_wheel_carries_every_bundle(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel")
    root = Path(oat_runtime.__file__).parents[1]
    (wheel,) = builder.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    files = set(zipfile.ZipFile(wheel).namelist())
    for path in (path for path in bundles_folder().rglob("*") if path.is_file()):
        assert f"oat_runtime/bundles/{path.relative_to(bundles_folder())}" in files


def test_a_name_that_a_shell_completed_is_still_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_bundle("cifar10-wrn-16-4/") == find_bundle("cifar10-wrn-16-4")
    with pytest.raises(BundleError, match="no bundle"):
        find_bundle("a" * 300)
    (tmp_path / "cifar10-wrn-16-4").mkdir()
    with pytest.raises(BundleError, match="the shipped cifar10-wrn-16-4 is hidden by that folder"):
        Bundle.load("cifar10-wrn-16-4")
