"""The notebooks in examples/ are stored without outputs, as nbformat 4."""

import re

import pytest
from notebooks import code_cells, read_notebook
from repository import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def test_there_are_five():
    assert NOTEBOOKS == [
        "log_covariance.ipynb",
        "search_films.ipynb",
        "spherical_feature_transform.ipynb",
        "train_and_evaluate.ipynb",
        "your_own_loss.ipynb",
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_valid_nbformat_4(name):
    """What the schema of nbformat 4.5 requires of notebooks with code and text alone."""
    notebook = read_notebook(EXAMPLES / name)
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"] == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    fields = {
        "code": {"cell_type", "id", "metadata", "source", "execution_count", "outputs"},
        "markdown": {"cell_type", "id", "metadata", "source"},
    }
    for cell in notebook["cells"]:
        assert cell.keys() == fields[cell["cell_type"]]
        assert all(isinstance(line, str) for line in cell["source"])
        assert cell["metadata"] == {}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[\w-]{1,64}", id_) for id_ in ids)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_no_outputs_and_no_images(name):
    for cell in read_notebook(EXAMPLES / name)["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert not re.search(r"image/|base64|data:|<img|!\[", (EXAMPLES / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_says_what_you_can_do_after_it_and_how_to_install(name):
    first = read_notebook(EXAMPLES / name)["cells"][0]
    text = "".join(first["source"])
    assert first["cell_type"] == "markdown"
    assert "\nAfter this notebook you " in text
    assert "pip install 'facereel[" in text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_are_short_plain_python(name):
    """They compile without IPython, so that the test can execute them, and fit on a screen."""
    for number, source in code_cells(EXAMPLES / name):
        compile(source, f"{name}, cell {number}", "exec")
        assert source.count("\n") < 25, f"cell {number}"


def test_the_page_of_the_examples_lists_every_file():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \[`([\w.]+)`\]\(\1\) \|", page, flags=re.MULTILINE))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
