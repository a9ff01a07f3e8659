"""Read YAML that may come from anybody: plain values, each name once, no references, within bounds (needs PyYAML)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from oat_runtime.errors import quoted


def parse_yaml(text: str, *, max_characters: int, max_depth: int, max_scalar: int) -> Any:
    """Return what YAML says in plain values, without references and within bounds that are checked first.

    Args:
        text: the whole document.
        max_characters: of the document.
        max_depth: how deep lists and fields may lie in each other.
        max_scalar: characters of one value.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    if len(text) > max_characters:
        raise ValueError(f"it has {len(text)} characters, at most {max_characters} are read")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it needs no references: write the value out")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > max_scalar:
                raise ValueError(f"a value has more than {max_scalar} characters")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > max_depth:
                raise ValueError(f"lists and fields lie more than {max_depth} deep in each other")
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise ValueError(f"{error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except (ArithmeticError, AttributeError, TypeError, LookupError) as error:
        raise ValueError("a date or a number in it is none, or is too large") from error


class _Loader(yaml.SafeLoader):
    """Plain values only, and each name once: PyYAML takes the last of two without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(names) != len(node.value):
            raise ValueError("expected names with values")
        if len(set(names)) < len(names):
            raise ValueError(f"the name {quoted(next(name for name in names if names.count(name) > 1))} occurs twice")
        return super().construct_mapping(node, deep=deep)
