"""The losses of segmentation-models-pytorch, as an oracle."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest


@cache
def load_smp_losses() -> ModuleType:
    """Its `losses` alone, since the whole package takes seconds to import; without it the test is skipped."""
    found = importlib.util.find_spec("segmentation_models_pytorch")
    if found is None or found.origin is None:
        pytest.skip("segmentation-models-pytorch is not installed")
    folder = Path(found.origin).parent / "losses"
    spec = importlib.util.spec_from_file_location(
        "smp_losses", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["smp_losses"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
