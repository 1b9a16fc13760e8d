"""Damaged files of every kind end in one line, or are read; none is written but in the output, and none takes 10 s.

    FACEREEL_FUZZ_INPUTS=10000 FACEREEL_FUZZ_SEED=1 python -m pytest -n0 tests/integration/test_fuzz.py -k checkpoints

reads so many of each kind instead of few. Of an input that takes too long, or ends the process, the damaged file stays
in pytest's temporary folder, and hang.txt beside it holds the stack.
"""

import faulthandler
import logging
import os
import resource
import shutil

import fuzz_changes
import fuzz_targets
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from facereel.errors import UserError

LONGEST_S = 10
MOST_MEMORY = 12 * 2**30
N_INPUTS = int(os.environ.get("FACEREEL_FUZZ_INPUTS", "40"))
SEED = int(os.environ.get("FACEREEL_FUZZ_SEED", "1"))
SETTINGS = settings(
    max_examples=N_INPUTS,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


class Playground:
    """A target's valid files, in which one is changed at a time; deep in a folder where nothing else is."""

    def __init__(self, target, root):
        self.target, self.root = target, root
        self.folder, self.out = root / "a" / "b" / "files", root / "a" / "b" / "out"
        self.folder.mkdir(parents=True)
        self.out.mkdir()
        self.files = target.make(self.folder)
        self.whole = self.found()
        target.read(self.folder, self.out, None)  # what is valid is read
        self.check_others()
        self.n_read = 0

    def found(self):
        files = {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}
        return {path: content for path, content in files.items() if not path.is_relative_to(self.out)}

    def check_others(self):
        """See that no file changed but in the output."""
        found = self.found()
        assert found.keys() == self.whole.keys()
        assert [path for path, content in found.items() if content != self.whole[path]] == []

    def check(self, path, content):
        """Read with one file changed; raises what is no answer to it."""
        shutil.rmtree(self.out)
        self.out.mkdir()
        path.write_bytes(content)
        with (self.root.parent / "hang.txt").open("w") as stack:
            faulthandler.dump_traceback_later(LONGEST_S, exit=True, file=stack)
            try:
                self.target.read(self.folder, self.out, path)
            except UserError as error:
                fuzz_targets.one_line(error)
            finally:
                faulthandler.cancel_dump_traceback_later()
        path.write_bytes(self.whole[path])
        self.n_read += 1
        if self.n_read % 20 == 0:
            self.check_others()


@pytest.fixture
def limits():
    """A file that asks for all memory is refused it; and FFmpeg and others are not heard."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, before[1]))
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_damaged_files_are_read_or_give_one_line_errors(name, tmp_path, monkeypatch, limits):
    playground = Playground(fuzz_targets.TARGETS[name], tmp_path / "root")
    monkeypatch.chdir(playground.folder)

    @seed(SEED)
    @SETTINGS
    @given(st.one_of([fuzz_changes.changed(path) for path in playground.files]))
    def read(given):
        playground.check(*given)

    read()
    playground.check_others()
    assert playground.n_read >= N_INPUTS


def raising(folder, out, changed):
    raise KeyError("what a reader did not expect")


def writing(folder, out, changed):
    (folder.parent.parent / "outside").write_text("x")


@pytest.mark.parametrize(("read", "error"), [(raising, KeyError), (writing, AssertionError)])
def test_fuzzer_detects_planted_failures(read, error, tmp_path):
    target = fuzz_targets.Target(fuzz_targets.make_labels, lambda folder, out, changed: None)
    playground = Playground(target, tmp_path / "root")
    target.read = read
    with pytest.raises(error):  # noqa: PT012
        playground.check(playground.files[0], b"changed")
        playground.check_others()
