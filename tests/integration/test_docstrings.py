"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import facereel

MODULES = sorted(module.name for module in pkgutil.walk_packages(facereel.__path__, "facereel."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name.startswith("facereel.web."):
        pytest.importorskip("nicegui", reason="the search page needs the extra web: pip install 'facereel[web]'")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
