"""No module imports itself by way of others, not even for its types."""

import pytest

grimp = pytest.importorskip("grimp", reason="comes with import-linter")

PACKAGES = ("oat_runtime", "policy", "training", "oat_perception")


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that import each other: take off what imports nothing that is left, again and again,
    and then what nothing that is left imports."""
    left = {name: set(found) for name, found in imports.items()}
    while ends := {name for name, found in left.items() if not found & left.keys()}:
        left = {name: found for name, found in left.items() if name not in ends}
    while starts := left.keys() - set().union(*left.values()):
        left = {name: found & left.keys() for name, found in left.items() if name not in starts}
    return [set(left)] if left else []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_module_imports_itself_by_way_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("ros2_ws/src/oat_perception")
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    assert circles({name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}) == []
