"""What libraries look up again for every training, and no test changes, looked up once a process.

Without it a training of three steps on a tiny model spends a fifth of its time on versions of installed packages, of
which each is parsed from all that its package says of itself, and on the template of peft's model card.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import Distribution
from types import ModuleType, SimpleNamespace
from typing import Any


def remember_lookups() -> None:
    """Have packages' metadata, Jinja's templates and signatures read once a process, with the same results."""
    remember_metadata()
    remember_templates()
    remember_signatures()


def remember_signatures() -> None:
    """A function with a gradient of its own has its arguments' names looked up at each call: under ZeRO-3 thousands."""
    from torch.autograd import function

    if isinstance(function.inspect, ModuleType):
        signature: Any = lru_cache(maxsize=1000)(inspect.signature)
        function.inspect = SimpleNamespace(signature=signature)  # type: ignore[attr-defined]


def remember_metadata() -> None:
    """`importlib.metadata` parses METADATA at each question, for one version too."""
    parse: Callable[[Distribution], Any] = Distribution.metadata.fget  # type: ignore[attr-defined]
    if parse.__module__ == __name__:
        return
    known: dict[str, Any] = {}

    def metadata(self: Distribution) -> Any:
        path = str(getattr(self, "_path", ""))
        if not path:  # of another finder
            return parse(self)
        if path not in known:
            known[path] = parse(self)
        return known[path]

    Distribution.metadata = property(metadata)  # type: ignore[assignment, method-assign]


def remember_templates() -> None:
    """An environment of Jinja compiles a text again whenever it is asked for a template of it."""
    from jinja2 import Environment

    compile_anew = Environment.compile
    if compile_anew.__module__ == __name__:
        return
    known: dict[tuple[Any, ...], Any] = {}

    def compile_once(self: Environment, source: Any, *arguments: Any, **more: Any) -> Any:
        if not isinstance(source, str) or more:
            return compile_anew(self, source, *arguments, **more)
        key = (self, source, *arguments)  # an environment is equal to itself alone
        if key not in known:
            known[key] = compile_anew(self, source, *arguments)
        return known[key]

    Environment.compile = compile_once  # type: ignore[method-assign]
