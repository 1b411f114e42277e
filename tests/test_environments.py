"""The versions of packages that are allowed."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pins(file: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / file).read_text(), re.MULTILINE))


def test_lowest_versions_are_those_of_the_setup():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    least = dict(re.findall(r"^([\w-]+) >= ([\w.]+)$", setup["options"]["install_requires"], re.MULTILINE))
    lowest = pins("tests/constraints-lowest.txt")
    assert {"accelerate", "datasets", "huggingface_hub", "peft", "transformers"} < lowest.keys()
    for package, version in lowest.items():
        assert version in (least[package], f"{least[package]}.0"), package


def test_demo_and_tests_run_with_versions_that_are_allowed():
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    pinned = pins("constraints.txt")
    for package, version in pins("tests/constraints-lowest.txt").items():
        assert numbers(pinned[package]) >= numbers(version), package


@pytest.mark.xdist_group("groups")
def test_tests_of_a_group_share_a_worker(request):
    """With a pytest for which pytest-xdist does not know how, what a group shares is made once a worker."""
    if not getattr(request.config.option, "loadgroup", False):  # which pytest-xdist sets in its workers
        pytest.skip("needs --dist loadgroup")
    assert request.node.nodeid.endswith("@groups")
