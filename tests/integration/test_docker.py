"""The Dockerfile, .dockerignore and compose.yaml agree with the project; no container engine is needed."""

import importlib.util
import re
import tomllib
from itertools import chain
from typing import cast

import pytest
import typer
import yaml
from repository import REPOSITORY
from typer.core import TyperGroup

from facereel.cli.main import app

INSTRUCTIONS = [
    line.strip()
    for line in re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (REPOSITORY / "Dockerfile").read_text())).splitlines()
    if line.strip()
]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMMANDS = cast(TyperGroup, typer.main.get_command(app)).commands
COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())


def name_of(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_dockerfile_has_no_heredoc_and_drops_root():
    assert not [line for line in INSTRUCTIONS if line.startswith("RUN") and "<<" in line]
    users = [line.split()[1] for line in INSTRUCTIONS if line.startswith("USER ")]
    assert users
    assert users[-1].split(":")[0] not in ("root", "0")


def test_copied_paths_exist_and_are_not_ignored():
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    admitted = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for line in INSTRUCTIONS
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == admitted
    assert all((REPOSITORY / source).exists() for source in copied)


def test_extras_match_the_project():
    (asked,) = re.findall(r"\.\[(.*?)\]", "\n".join(INSTRUCTIONS))
    extras = set(asked.split(",")) - {"${ACCELERATOR}"}
    assert len(extras) >= 3
    assert extras | {"cpu", "gpu"} <= set(PROJECT["optional-dependencies"])


def test_version_matches_the_project():
    assert f'ARG VERSION="{PROJECT["version"]}"' in INSTRUCTIONS


def test_constraints_cover_the_requirements_of_the_project():
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "==" not in line or "://" in line]
    asked = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    assert {name_of(requirement) for requirement in asked} <= {name_of(line) for line in lines}


@pytest.mark.parametrize("service", ["demo", "reproduce", "serve"])
def test_services_run_commands_without_privileges(service):
    settings = COMPOSE["services"][service]
    assert settings["read_only"]
    assert settings["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in settings["security_opt"]
    if service == "serve":
        assert all(port.startswith("127.0.0.1:") for port in settings["ports"])
    else:
        assert settings["network_mode"] == "none"
    name, *arguments = settings["command"]
    COMMANDS[name].make_context(name, list(arguments))  # raises on what the command does not know


def test_volumes_match_the_folders_of_the_image():
    workdir = [line.split()[1] for line in INSTRUCTIONS if line.startswith("WORKDIR ")][-1]
    targets = [volume.removesuffix(":ro").rpartition(":")[2] for volume in COMPOSE["services"]["serve"]["volumes"]]
    assert targets == ["/data", workdir]


def test_no_address_of_a_registry():
    for name in ("Dockerfile", "compose.yaml", ".dockerignore", "constraints.txt"):
        assert "://" not in (REPOSITORY / name).read_text(), name
    assert not any("/" in service["image"] for service in COMPOSE["services"].values())


def test_only_serve_has_a_health_check():
    spec = importlib.util.spec_from_file_location("healthcheck", REPOSITORY / "docker" / "healthcheck.py")
    healthcheck = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(healthcheck)
    python = ["/opt/facereel/bin/python", "/opt/facereel/bin/facereel"]
    assert healthcheck.served_port([*python, "serve", "--index", "i", ""]) == 7860
    assert healthcheck.served_port(["/sbin/docker-init", "--", "facereel", "serve", "--port", "80", ""]) == 80
    assert healthcheck.served_port([*python, "serve", "--port=81"]) == 81
    assert healthcheck.served_port([*python, "demo", "--out", "serve"]) is None
    assert healthcheck.served_port([""]) is None


def test_the_token_comes_from_the_environment(monkeypatch):
    for given, token in (("an-example-token", "an-example-token"), ("", None)):
        monkeypatch.setenv("FACEREEL_TOKEN", given)
        assert COMMANDS["serve"].make_context("serve", ["--index", "i"]).params["token"] == token
