"""The wheel, installed in a new environment, trains from another directory."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from drawn_faces import make_folder
from repository import REPOSITORY


def call(*command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, REPOSITORY)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_contains_the_configuration_and_the_type_marker(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("configs/train.yaml", "configs/experiment/dhh.yaml", "py.typed", "evaluation/report.html.j2"):
        assert f"facereel/{name}" in names
    assert not any(name.startswith(("tests", "data/")) for name in names)


def test_the_wheel_trains_from_another_directory(wheel, tmp_path):
    environment = tmp_path / "new environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    # The dependencies, which are large, are seen through a path; facereel itself is in the wheel only, since an
    # editable install's own .pth file is not read from there.
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    with open(os.path.join(site, "dependencies.pth"), "w", encoding="utf-8") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python]
    call(*pip, "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", wheel)
    # Of pip's findings only those on facereel count: the environment's own setuptools may be too old for torch.
    checked = subprocess.run([*map(str, pip), "check"], capture_output=True, text=True, check=False).stdout
    assert not [line for line in checked.splitlines() if line.startswith("facereel ")], checked
    elsewhere = tmp_path / "elsewhere"
    faces = make_folder(elsewhere / "faces")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    origin = call(python, "-c", "import facereel; print(facereel.__file__)", cwd=elsewhere, env=clean)
    assert origin.startswith(str(environment))
    command = environment / "bin" / "facereel"
    call(
        command,
        "train",
        "debug=tiny",
        "encoder.width=0.125",
        "data=folder",
        f"data.root={faces}",
        "out=run",
        cwd=elsewhere,
        env=clean,
    )
    assert (elsewhere / "run" / "metrics.json").is_file()
    assert (elsewhere / "run" / "report.html").is_file()
