"""Whatever needs an optional package says so in one line that names the extra."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oat_runtime.data import CIFAR10, fetch_source, open_bag
from oat_runtime.data.svhn import read_svhn
from oat_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("use", "package", "extra"),
    [
        (lambda folder: open_bag(folder).__enter__(), "rosbags", "bags"),
        (lambda folder: read_svhn(folder, "test", None), "scipy", "data"),
        (lambda folder: fetch_source(CIFAR10, folder), "pooch", "data"),
    ],
    ids=["bag", "SVHN", "download"],
)
def test_a_missing_package_is_named_with_its_extra(
    use: Callable[[Path], object], package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'oat-robot\[{extra}\]'"):
        use(tmp_path)
