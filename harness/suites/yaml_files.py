"""Strict reading of YAML: safe types only, and duplicate keys are an error.

A file stands for no more than it seems to: depth, size, and the number of values behind aliases are bounded before any
value is made.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from arvbench.errors import UserError, shown
from arvbench.paths import printable, regular_file

_MOST_BYTES = 2**22
_MOST_DEPTH = 50
_MOST_VALUES = 200_000
_MERGE = "tag:yaml.org,2002:merge"
"""Tag of the key "<<", which may be written several times."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, of which its parent would silently keep the last, and whatever its own
    constructors trip over, at the line where it stands.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise _fault(f"more than {_MOST_DEPTH} levels", parent.start_mark if parent is not None else None)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count_values(node, {})
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, KeyError, AttributeError, IndexError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise _fault(f"{shown(node.value)} is not of the kind {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # the parent refuses other keys, naming the line
                if key in seen:
                    raise _fault(f"key {shown(key)} is written twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """Read an integer; YAML 1.1 would read 010 as the octal number 8."""
        return int(self.construct_scalar(node), 10)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_decimal)

# YAML 1.1 reads 1_2_4_8 as the number 1248; here it stays text, since it is a list of scales.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, re.compile(r"[-+]?[0-9]+$") if tag.endswith(":int") else pattern) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file. UserError names the file and the line that cannot be read or parsed."""
    regular_file(path, most_bytes=_MOST_BYTES)
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {printable(path)}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{printable(path)}: {_one_line(error)}") from error


def parse_value(text: str) -> Any:
    """Parse the value of KEY=VALUE on a command line as YAML: numbers, true, null, [lists]."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read the value {shown(text)}: {_one_line(error)}") from error


def _fault(problem: str, place: yaml.Mark | None) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, place)


def _one_line(error: yaml.YAMLError) -> str:
    """Return where and what, without the excerpt of the text."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = " ".join(filter(None, [error.context, error.problem]))
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return " ".join(str(error).split())[:300]


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Count the values of a node, those behind aliases at each use.

    Raises a YAMLError for too many, and for an alias to what contains it.
    """
    if id(node) in counts:
        if counts[id(node)] == 0:
            raise _fault("an alias stands for a list or mapping that contains it", node.start_mark)
        return counts[id(node)]
    counts[id(node)] = 0
    parts = node.value if isinstance(node, yaml.CollectionNode) else ()
    children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
    total = 1 + sum(_count_values(child, counts) for child in children)
    if total > _MOST_VALUES:
        raise _fault(f"stands for more than {_MOST_VALUES:,} values", node.start_mark)
    counts[id(node)] = total
    return total
