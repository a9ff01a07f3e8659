"""Make a TrainConfig from a recipe's name or a YAML file, and `key=value` changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oat_runtime.data.yaml_text import parse_yaml
from oat_runtime.errors import ConfigError, one_line, quoted
from oat_runtime.files import expanded, read_at_most, reason_of
from training.config import TrainConfig
from training.recipes import RECIPES

_MOST_BYTES, _MOST_DEPTH, _MOST_SCALAR = 2**14, 8, 1000
"""Of a recipe, or of one value: the longest recipe has 2,000 bytes, and fields lie 3 deep in it."""


def read_recipe(name_or_path: str) -> TrainConfig:
    """Return a named recipe, or read a YAML file: `base: NAME` and the fields that differ, nested as in TrainConfig.

    A file that holds every setting, as the `config.json` of a run does, needs no `base`.

    Raises:
        ConfigError: no such recipe or file, or one that contradicts itself.
    """
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]()
    path = expanded(name_or_path)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            raise ConfigError(f"no such file {quoted(name_or_path)}: check the path, or name a recipe (see --list)")
        raise ConfigError(f"no recipe {quoted(name_or_path)}: see oat-train --list, or give the path of a YAML file")
    try:
        fields = _parse_yaml(read_at_most(path, _MOST_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"{one_line(path)} cannot be read as a recipe ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{one_line(path)} is not YAML of a recipe (it is not UTF-8 text)") from error
    except ValueError as error:
        raise ConfigError(f"{one_line(path)} is not YAML of a recipe ({one_line(error)})") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{one_line(path)}: expected fields of a recipe, got {type(fields).__name__}")
    base = fields.pop("base", None)
    is_whole = TrainConfig.model_fields.keys() <= fields.keys()  # as the config.json of a run is
    if not (base is None and is_whole) and (not isinstance(base, str) or base not in RECIPES):
        wrong = "`base: NAME` is missing" if base is None else f"there is no recipe {quoted(base)} for its base"
        raise ConfigError(f"{one_line(path)}: {wrong}: name one of {', '.join(sorted(RECIPES))}")
    start = (TrainConfig() if base is None else RECIPES[base]()).model_dump(mode="json")
    return _validated(_merged(start, fields), given=() if is_whole else fields)


def run_name(name_or_path: str) -> str:
    """Return the name of a run's folder: the recipe's own, dots included, or a YAML file's without its ending."""
    return name_or_path if name_or_path in RECIPES else Path(name_or_path).stem


def with_changes(config: TrainConfig, changes: Iterable[str]) -> TrainConfig:
    """Apply `key=value` changes; a key may be nested (`model.depth`), a value is YAML (`[0, 0.5, 1]`, `null`).

    Raises:
        ConfigError: an unknown key, a value that does not fit, or `epochs` for a run whose `steps` are set.
    """
    fields, given = config.model_dump(mode="json"), set[str]()
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise ConfigError(f"expected KEY=VALUE, got {quoted(change)}")
        nested: dict[str, Any] = {}
        target = nested
        *parents, last = key.strip().split(".")
        for parent in parents:
            target[parent] = target = {}
        try:
            target[last] = _parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"{one_line(key)}: expected a value in YAML ({one_line(error)})") from error
        fields = _merged(fields, nested)
        given |= nested.keys()
    return _validated(fields, given=given)


def _parse_yaml(text: str) -> Any:
    return parse_yaml(text, max_characters=_MOST_BYTES, max_depth=_MOST_DEPTH, max_scalar=_MOST_SCALAR)


def _merged(base: dict[str, Any], changes: dict[str, Any], *, inside: str = "") -> dict[str, Any]:
    """Return `base`, which holds every setting, with `changes`, which may name parts of nested fields.

    Raises:
        ConfigError: there is no such setting; it names the one that looks most like it.
    """
    merged = dict(base)
    for key, value in changes.items():
        if key not in base:
            close = get_close_matches(str(key), base, n=1)
            what = f"did you mean {inside}{close[0]}?" if close else "docs/training-settings.md lists all settings"
            raise ConfigError(f"there is no setting {quoted(f'{inside}{key}')}: {what}")
        old = base[key]
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value, inside=f"{inside}{key}.") if both else value
    return merged


def _validated(fields: dict[str, Any], *, given: Collection[str]) -> TrainConfig:
    """Return the settings, of which `given` names those that were asked for."""
    if "epochs" in given and fields["steps"] is not None:
        raise ConfigError(
            f"epochs and steps both say how long to train, got {quoted(fields['epochs'])} and "
            f"{quoted(fields['steps'])}: give one of them (steps=null takes the steps of a recipe away)"
        )
    try:
        return TrainConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"the recipe cannot be used: {reason_of(error)}") from error
