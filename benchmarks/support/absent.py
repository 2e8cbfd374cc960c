"""Stand-ins for modules that ComfyUI imports and training never calls, on a machine that lacks them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

UNUSED = ("av", "torchsde")  # video, and a solver of stochastic differential equations

PLACEHOLDER = '''"""Made by benchmarks/gpu.py: has every name that anybody imports, and none of them works."""

import importlib.abc
import importlib.machinery
import sys
import types


class _Anything(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith(PREFIX) else None

    def create_module(self, spec):
        return _Anything(spec.name)

    def exec_module(self, module):
        pass


PREFIX = __name__ + "."
sys.meta_path.append(_Finder())
sys.modules[__name__].__class__ = _Anything
'''


def write_placeholders(folder: Path) -> list[str]:
    """Make `folder` hold a package for each of `UNUSED` that cannot be imported; their names."""
    missing = [name for name in UNUSED if importlib.util.find_spec(name) is None]
    for name in missing:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(PLACEHOLDER, encoding="utf-8")
    return missing
