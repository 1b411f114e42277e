"""spaces_app.lock: the hashes of what a Docker Space installs."""

import hashlib
import sys
import zipfile

import pytest

from processing.errors import UserError
from spaces_app import lock
from spaces_app.requirements import CPU_TORCH, STARTER


def test_lines_have_the_hash_of_the_file_that_pip_chooses(tmp_path):
    wheel = tmp_path / "tiny_part-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "tiny_part-1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-part\nVersion: 1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    here = ("--no-index", "--find-links", str(tmp_path))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert lock.locked(*here, "tiny-part") == {f"tiny-part==1.2 --hash=sha256:{digest}"}
    with pytest.raises(UserError, match="pip can't find what a Space needs"):
        lock.locked(*here, "nothing-of-the-kind")


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """What pip is asked for, and what it answers, without asking it."""
    asked, base = [], {"Zed==1 --hash=sha256:a", "torch==2.0+cpu --hash=sha256:b"}

    def locked(*requirements: str) -> set[str]:
        asked.append(requirements)
        return base | {f"part-{len(asked)}==1 --hash=sha256:c" for _ in asked[1:2]}

    monkeypatch.setattr(lock, "locked", locked)
    monkeypatch.setattr(lock, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(lock.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "version_info", (3, 11, 9, "final", 0))
    return asked, base


def test_what_only_the_starter_needs_stands_apart(pip, tmp_path):
    lock.main([])
    lines = (tmp_path / "requirements.lock").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == [CPU_TORCH, "torch", "Zed", STARTER, "part-2", "part-3"]
    asked, _ = pip
    assert "streamlit" in asked[0]
    assert "gguf" not in asked[0]
    assert "gguf" in asked[1]
    assert asked[2][0] == "--no-deps"


def test_torch_for_gpus_or_another_machine_is_refused(pip, monkeypatch, tmp_path):
    _, base = pip
    base.remove("torch==2.0+cpu --hash=sha256:b")
    with pytest.raises(UserError, match=r"set PIP_EXTRA_INDEX_URL=https://download\.pytorch\.org/whl/cpu"):
        lock.main([])
    monkeypatch.setattr(lock.platform, "machine", lambda: "arm64")
    with pytest.raises(UserError, match=r"The lock is for Python 3\.11 on x86-64 Linux"):
        lock.main([])
    assert not (tmp_path / "requirements.lock").exists()
