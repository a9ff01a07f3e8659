"""Make a TrainConfig from a recipe's name or a YAML file, and `key=value` changes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from oat_runtime.errors import ConfigError
from training.config import TrainConfig
from training.recipes import RECIPES


def read_recipe(name_or_path: str) -> TrainConfig:
    """Return a named recipe, or read a YAML file: `base: NAME` and the fields that differ, nested as in TrainConfig.

    Raises:
        ConfigError: no such recipe or file, or one that contradicts itself.
    """
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]()
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(f"no recipe {name_or_path!r}: see oat-train --list, or give the path of a YAML file")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML ({error})") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: expected fields of a recipe, got {type(fields).__name__}")
    base = fields.pop("base", None)
    if base is not None and base not in RECIPES:
        raise ConfigError(f"{path}: base must be one of {sorted(RECIPES)}, got {base!r}")
    start = (RECIPES[base]() if base else TrainConfig()).model_dump(mode="json")
    return _validated(_merged(start, fields))


def with_changes(config: TrainConfig, changes: Iterable[str]) -> TrainConfig:
    """Apply `key=value` changes; a key may be nested (`model.depth`), a value is YAML (`[0, 0.5, 1]`, `null`).

    Raises:
        ConfigError: an unknown key, or a value that does not fit.
    """
    fields = config.model_dump(mode="json")
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise ConfigError(f"expected KEY=VALUE, got {change!r}")
        nested: dict[str, Any] = {}
        target = nested
        *parents, last = key.strip().split(".")
        for parent in parents:
            target[parent] = target = {}
        target[last] = yaml.safe_load(value)
        fields = _merged(fields, nested)
    return _validated(fields)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`, which may name parts of nested fields."""
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _validated(fields: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"the recipe cannot be used: {faults}") from error
