import pytest

from facereel.errors import UserError
from facereel.storage.signature import sign, verify


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "facereel" / "key"


def test_only_text_signed_by_this_user_is_verified(key, tmp_path, monkeypatch):
    assert not verify("text", "0" * 64)
    assert not key.exists()  # nobody looked for makes none
    ours = sign("text")
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    assert ours == sign("text")
    assert verify("text", ours)
    for text, its_seal in (("other", ours), ("text", ours[:-1]), ("text", None), ("text", [ours]), ("text", "\u00e4")):
        assert not verify(text, its_seal)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of another"))
    assert not verify("text", ours)
    assert sign("text") != ours


def test_the_key_is_in_the_home_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert verify("text", sign("text"))
    assert (tmp_path / "home" / ".config" / "facereel" / "key").is_file()


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_key_that_is_easy_to_guess_is_refused(key, content):
    key.parent.mkdir()
    key.write_bytes(content)
    assert not verify("text", "0" * 64)
    with pytest.raises(UserError, match=r"facereel/key has \d bytes, not 32; XDG_CONFIG_HOME sets its folder$"):
        sign("text")


def test_a_missing_home_folder_is_reported(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # of a user whom the system does not know
    assert not verify("text", "0" * 64)
    with pytest.raises(UserError, match="home directory"):
        sign("text")


def test_an_unwritable_key_folder_is_reported(key):
    key.parent.write_text("a file in its place")
    assert not verify("text", "0" * 64)
    with pytest.raises(UserError, match="cannot use the key"):
        sign("text")
