"""The names that `import facereel` offers."""

import subprocess
import sys

import pytest

import facereel


@pytest.mark.parametrize("name", sorted(set(facereel.__all__) - {"__version__"}))
def test_a_public_name_is_what_its_module_defines(name):
    assert getattr(facereel, name).__name__ == name
    assert name in dir(facereel)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'facereel' has no attribute 'NoSuchName'"):
        _ = facereel.NoSuchName
    with pytest.raises(ImportError, match="NoSuchName"):
        from facereel import NoSuchName  # noqa: F401


def test_the_import_loads_no_large_library():
    code = "import sys, facereel; dir(facereel); print(sorted({'torch', 'faiss', 'numpy', 'cv2'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
