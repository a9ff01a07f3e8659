"""One rule of where data lies: a named folder alone, else $OAT_DATA alone, else beside the project, then the cache."""

from pathlib import Path

import numpy as np
import pytest

from oat_runtime.data import CIFAR10, data_roots, fetch_source, find_source, load_dataset, roots
from oat_runtime.errors import DataError


class Places:
    """The four folders that may hold data, none of which does yet."""

    def __init__(self, tmp_path: Path) -> None:
        self.named, self.variable = tmp_path / "named", tmp_path / "variable"
        self.beside, self.cache = tmp_path / "beside", tmp_path / "home" / ".cache" / "oat" / "data"
        for place in (self.named, self.variable, self.beside, self.cache):
            place.mkdir(parents=True)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(roots, "BESIDE_PROJECT", tmp_path / "beside")
    monkeypatch.delenv("OAT_DATA", raising=False)
    return Places(tmp_path)


def put_cifar10(root: Path) -> None:
    (root / "cifar10").mkdir()
    np.savez(root / "cifar10" / "labels.npz")


def held_by(root: Path | None = None) -> Path | None:
    found = find_source(CIFAR10, root)
    return found and found.root


def test_of_the_usual_folders_the_first_that_holds_the_set_is_read(places: Places) -> None:
    assert held_by() is None
    put_cifar10(places.cache)
    assert held_by() == places.cache
    put_cifar10(places.beside)
    assert held_by() == places.beside


def test_a_named_folder_and_then_the_variable_are_looked_at_alone(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_cifar10(places.beside)
    put_cifar10(places.cache)
    monkeypatch.setenv("OAT_DATA", str(places.variable))
    for root, name in ((places.named, "named"), (None, "variable")):
        with pytest.raises(DataError, match=rf"no CIFAR-10 under \S*/{name}: expected .*OAT_DATA.*--download"):
            held_by(root)
        with pytest.raises(DataError, match=rf"no CIFAR-10 under \S*/{name}: "):
            load_dataset("cifar10", "test", root=root)
    put_cifar10(places.variable)
    assert held_by() == places.variable
    put_cifar10(places.named)
    assert held_by(places.named) == places.named


def test_an_empty_variable_is_an_unset_one(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAT_DATA", "")
    assert data_roots() == (places.beside, places.cache)


def test_an_error_names_every_folder_that_was_looked_at(places: Places) -> None:
    with pytest.raises(DataError, match=f"no CIFAR-10 under {places.beside} or {places.cache}: expected"):
        load_dataset("cifar10", "test")
    with pytest.raises(DataError, match=f"here or under {places.beside} or {places.cache}"):
        load_dataset("photos", "test")


def test_folders_of_images_are_looked_for_by_the_same_rule(places: Places) -> None:
    (places.cache / "photos").mkdir()
    with pytest.raises(DataError, match=f"{places.cache / 'photos'}: expected a folder for each"):
        load_dataset("photos", "test")


def test_downloads_go_to_the_named_folder_or_to_the_cache(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "retrieve", lambda url, *, path, **_: put_cifar10(path))
    assert fetch_source(CIFAR10).root == places.cache
    assert fetch_source(CIFAR10, places.named).root == places.named
    monkeypatch.setenv("OAT_DATA", str(places.variable))
    assert fetch_source(CIFAR10).root == places.variable
