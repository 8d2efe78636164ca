"""YAML files that people write, recipes and sources: what YAML would let pass in silence, or break on, is named with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class _UniqueKeys(yaml.SafeLoader):
    """YAML says nothing when a key stands twice; the second would silently win."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.looked_at: set[yaml.Node] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if node not in self.looked_at:  # before `<<` brings in keys that the mapping's own may replace
            self.looked_at.add(node)
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"the key {key.value!r} stands twice", key.start_mark
                        )
                    seen.add(key.value)
        super().flatten_mapping(node)


def read_yaml(file: Path, shown: str, error: type[ValueError]) -> Any:
    """The content of a file that is called `shown` in the `error` raised for what is no YAML."""
    try:
        with file.open(encoding="utf-8") as stream:
            return yaml.load(stream, _UniqueKeys)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        quotes = "\nwithin {…} and […] a name that ends in `?` wants quotes" if "got '?'" in str(problem) else ""
        raise error(f"{shown}: not valid YAML: {problem}{quotes}") from problem
    except RecursionError:
        raise error(f"{shown}: not valid YAML: nested too deeply") from None
