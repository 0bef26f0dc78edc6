"""YAML that somebody else may have written: it holds values, names no code, and is as large as it looks."""

import math
import re
from typing import Any

import yaml

from nlp_ssl.core.errors import UserError

MOST_REPEATED = 10_000  # values that aliases may add; nine lines of them can stand for a billion


class _OptionsLoader(yaml.SafeLoader):
    """YAML 1.2 in what people write in options: `no` and `2020-01-01` are texts, and `1e-3` is a number."""


_TAGS = {name: f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "timestamp")}
_OptionsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TAGS.values()]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_OptionsLoader.add_implicit_resolver(_TAGS["bool"], re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_OptionsLoader.add_implicit_resolver(
    _TAGS["float"],
    re.compile(r"([-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+|[-+]?(\d+\.\d*|\.\d+)|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+0123456789."),
)


def load_yaml(text: str, path: Any = "") -> Any:
    """The values of a YAML text, as options are written: `1e-3` is a number, `no` is a text.

    Args:
        text: of a file, or of an option's value.
        path: of the file, for the sentence.

    Raises:
        UserError: see `check_yaml`.
        yaml.YAMLError: it is not valid YAML, or has tags of its own.
    """
    check_yaml(text, path)
    loader = _OptionsLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def check_yaml(text: str, path: Any = "") -> None:
    """Refuse YAML that would run code or fill the memory, before anything is made of it.

    Raises:
        UserError: there is a key `class_path`, by which jsonargparse would import a class; or aliases stand for more
            than `MOST_REPEATED` values, or for what they are part of.
    """
    where = f"{path}: " if path else ""
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:  # whoever reads it says what is wrong with it
        return
    except RecursionError:
        raise UserError(f"{where}lists in lists in lists are nested too deeply in it") from None
    sizes: dict[int, float] = {}  # with what aliases stand for; infinite while the node's own parts are looked at
    waiting = [(root, False)] if root is not None else []
    while waiting:
        node, seen = waiting.pop()
        if seen:
            sizes[id(node)] = 1 + sum(sizes[id(part)] for part in _parts(node))
        elif id(node) not in sizes:
            sizes[id(node)] = math.inf
            waiting += [(node, True), *((part, False) for part in _parts(node))]
        if isinstance(node, yaml.MappingNode) and any(key.value == "class_path" for key, _ in node.value):
            raise UserError(
                f"{where}line {node.start_mark.line + 1} has a key class_path, which names Python code to import; "
                "options are values: write the section's own keys there (see --help)"
            )
    size = sizes[id(root)] if root is not None else 0
    if size > len(sizes) + MOST_REPEATED:
        stand_for = "what they are part of" if math.isinf(size) else f"{size:,.0f} values"
        raise UserError(f"{where}its aliases (*name) stand for {stand_for}; write out the values that you need")


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


class _OptionsDumper(yaml.SafeDumper):
    """Quotes a text that either reader would take for something else: `no` by YAML 1.1, `1e-3` by ours."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out."""
        return True


_both = (yaml.SafeDumper.yaml_implicit_resolvers, _OptionsLoader.yaml_implicit_resolvers)
_OptionsDumper.yaml_implicit_resolvers = {
    first: [resolver for resolvers in _both for resolver in resolvers.get(first, [])]
    for first in {first for resolvers in _both for first in resolvers}
}


def dump_yaml(values: Any, one_line: bool = False) -> str:
    """Values as YAML that `load_yaml` reads back as they are.

    Args:
        values: of plain types.
        one_line: as it is typed on a command line, without an end of line.
    """
    text = yaml.dump(
        values,
        Dumper=_OptionsDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=one_line,
        width=math.inf if one_line else 100,
    )
    return text.removesuffix("...\n").removesuffix("\n") if one_line else text
