"""Virtual time: emulated engines and sampled workloads around the very machine and policies of the cluster. Floor 3.

Importing a module of this package puts the package where `fm.simulate` is looked for, so the package can be called too.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dask_fmware.simulate.run import simulate

        return simulate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
