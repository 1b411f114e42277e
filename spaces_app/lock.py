"""Writes requirements.lock: every package of a Docker Space, each with the SHA-256 of the one file that is installed.

    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make lock

pip chooses the files as it would in the Dockerfile's base image, Python 3.11 on x86-64 Linux, in the versions of
constraints.txt. What only the starters with a language model need stands below
`STARTER`.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from modeling.parts.packages import INSTALL_LANGUAGE_MODEL
from processing.errors import UserError, run_command
from processing.storage import write_atomically
from spaces_app.requirements import CPU_TORCH, LOCK, ROOT, STARTER, needed_packages


def locked(*requirements: str) -> set[str]:
    """What pip would install into an empty environment, a line for each file.

    Args:
        requirements: packages and options, as for `pip install`.

    Raises:
        UserError: pip can't find them.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        done = subprocess.run([*command, "--report", str(report), *requirements])
        if done.returncode:
            raise UserError("pip can't find what a Space needs (see above); check constraints.txt and the connection.")
        installs = json.loads(report.read_text())["install"]
    return {
        f"{one['metadata']['name']}=={one['metadata']['version']} "
        f"--hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}"
        for one in installs
    }


def main(argv: list[str]) -> None:
    """The command line, which takes nothing."""
    if (sys.version_info[:2], sys.platform, platform.machine()) != ((3, 11), "linux", "x86_64"):
        raise UserError("The lock is for Python 3.11 on x86-64 Linux; write it there.")
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    base = locked(*constraints, *sorted(needed_packages("docker", needs_starter=False)))
    if not any(line.startswith("torch==") and "+cpu" in line for line in base):
        raise UserError("pip chose a torch for GPUs; set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.")
    starter = locked(*constraints, *sorted(needed_packages("docker", needs_starter=True)))
    starter |= locked(*INSTALL_LANGUAGE_MODEL.split()[2:])
    lines = [CPU_TORCH, *sorted(base, key=str.lower), STARTER, *sorted(starter - base, key=str.lower)]
    write_atomically(LOCK, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    run_command(main)
