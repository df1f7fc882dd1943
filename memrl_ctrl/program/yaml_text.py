"""Writing YAML that reads back to the last bit and character."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def dump(fields: Mapping[str, Any]) -> str:
    """Return fields as YAML text, in their order."""
    return yaml.dump(dict(fields), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes text with control characters and odd line ends escaped: unquoted it would change."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_numbers(self, data: list[Any]) -> yaml.SequenceNode:
        flow = all(isinstance(value, int | float) for value in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)

    def ignore_aliases(self, data: Any) -> bool:
        """Write what stands twice twice."""
        return True


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_representer(list, _Dumper.represent_numbers)
