"""What engines and policies promise, as tests for pytest that a package of either inherits: `engine` and `policy`.

Ours are held to the same ones.
"""

from __future__ import annotations

from importlib.util import find_spec

if missing := [name for name in ("pytest", "pytest_asyncio", "hypothesis") if find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"{__name__} needs {' and '.join(missing)}: pip install 'dask-fmware[conformance]'", name=missing[0]
    )

import pytest

pytest.register_assert_rewrite(f"{__name__}.engine", f"{__name__}.policy")  # so that a failure shows what was found
