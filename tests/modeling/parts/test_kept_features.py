"""modeling.parts.kept_features: features computed once, kept safely, and the same as without keeping them."""

import inspect
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from modeling.parts import kept_features
from modeling.parts.kept_features import KeptFeatures
from processing.images import ImageError
from processing.storage import cache_dir
from tests.modeling.parts.counting import Counting, Resizer, keep
from tests.support.app_server import ROOT


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(20)]


def shards() -> list[Path]:
    """The files of all kept features."""
    return sorted((cache_dir() / "features").rglob("*.safetensors"))


def test_features_equal_those_of_the_network_in_half_precision(images):
    network = Counting()
    features = keep(network)
    features.fill(images)
    pixels = Resizer()([Image.open(images[3])], return_tensors="pt")["pixel_values"]
    assert features[images[3]].dtype == torch.float16
    torch.testing.assert_close(features[images[3]], network(pixels)[0].half())


def test_features_of_strips_are_those_of_the_processor(tmp_path):
    network, image_processor = Counting(), ViTImageProcessorPil(size={"height": 32, "width": 32})
    features = keep(network, image_processor=image_processor)
    for number, size in enumerate([(3, 900), (900, 1), (2, 2)]):
        path = tmp_path / f"{number}.png"
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
        image.save(path)
        expected = network(image_processor(image, return_tensors="pt")["pixel_values"])[0].half()
        torch.testing.assert_close(features[str(path)], expected, rtol=0, atol=0)


def test_an_image_without_features_is_named(images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"^Cannot open '.*bad\.png': its content is not a known image"):
        keep().fill([*images, str(tmp_path / "bad.png")])
    with pytest.raises(ImageError, match=r"^Cannot open '.*gone\.png': preparing it for the model failed \(FileNotF"):
        keep().fill([*images, str(tmp_path / "gone.png")])
    with pytest.raises(ImageError, match=r"^Cannot open '.*/3\.png': preparing it for the model failed \(TypeError"):
        keep(image_processor=Resizer(None)).fill([images[3]])


def test_second_run_computes_nothing_and_says_so(images, caplog):
    caplog.set_level(logging.INFO)
    keep().fill(images)
    assert "Image features: 20 computed, 0 read" in caplog.text
    network = Counting()
    features = keep(network)
    features.fill(images)
    assert network.computed == 0
    assert "Image features: 0 computed, 20 read" in caplog.text
    assert all(torch.equal(features[image], keep()[image]) for image in images)


def test_an_image_asked_for_many_times_is_computed_once(images):
    network = Counting()
    features = keep(network)
    features.fill(images * 3)
    assert [features[image].shape for image in images * 2] == [(5, 4, 4)] * 40
    assert network.computed == 20


def test_other_facts_have_features_of_their_own(images):
    network = Counting()
    for facts in ({"layer": -1}, {"layer": -2}, {"layer": -1}):
        KeptFeatures(network, Resizer(), 1.0, facts=facts).fill(images)
    assert network.computed == 40


def test_large_features_stand_in_several_files(images, monkeypatch):
    monkeypatch.setattr(kept_features, "BATCH_SIZE", 4)
    monkeypatch.setattr(kept_features, "SHARD_BYTES", 8 * 2 * 5 * 4 * 4)  # those of 8 images
    keep().fill(images)
    assert len(shards()) == 3
    network = Counting()
    keep(network).fill(images)
    assert network.computed == 0


def test_key_is_the_content_not_the_name(images, tmp_path):
    keep().fill(images)
    Path(images[0]).rename(tmp_path / "renamed.png")
    Image.new("RGB", (40, 40)).save(images[1])  # another content under the old name
    network = Counting()
    keep(network).fill([str(tmp_path / "renamed.png"), images[1]])
    assert network.computed == 1


def test_other_weights_and_other_preprocessing_have_features_of_their_own(images):
    keep().fill(images)
    other_weights, other_size = Counting(seed=1), Counting()
    keep(other_weights).fill(images)
    keep(other_size, image_processor=Resizer(64)).fill(images)
    assert (other_weights.computed, other_size.computed) == (20, 20)
    assert len({shard.parent for shard in shards()}) == 3


@pytest.fixture
def other_source(monkeypatch):
    """A function that gives a module of ours another source."""
    getsource = inspect.getsource

    def change(name: str) -> None:
        monkeypatch.setattr(
            inspect, "getsource", lambda code: getsource(code) + "#" * (getattr(code, "__name__", "") == name)
        )
        kept_features._code_that_opens_images.cache_clear()

    yield change
    kept_features._code_that_opens_images.cache_clear()


OPENING = ("images", "dicom", "dicom_grey", "dicom_header", "tiff", "pixels", "file_kinds", "image_source")


@pytest.mark.parametrize("module", [*(f"processing.{name}" for name in OPENING), "tests.modeling.parts.counting"])
def test_another_version_of_the_code_has_features_of_its_own(images, other_source, module):
    keep().fill(images)
    other_source(module)
    network = Counting()
    keep(network).fill(images)
    assert network.computed == 20


def test_code_that_opens_no_image_leaves_the_features_as_they_are(images, other_source):
    keep().fill(images)
    other_source("processing.answers")
    network = Counting()
    keep(network).fill(images)
    assert network.computed == 0


@pytest.mark.parametrize("package", ["pillow", "pydicom", "numpy", "transformers"])
def test_another_version_of_a_package_has_features_of_its_own(images, other_source, monkeypatch, package):
    keep().fill(images)
    monkeypatch.setattr(kept_features, "version", lambda name: "0" if name == package else version(name))
    other_source("nothing")
    network = Counting()
    keep(network).fill(images)
    assert network.computed == 20


@pytest.mark.parametrize("fault", ["truncated", "flipped", "garbage", "empty"])
def test_damaged_file_is_noticed_and_rebuilt(images, fault, caplog):
    first = keep()
    first.fill(images)
    expected = first[images[0]].clone()
    [shard] = shards()
    content = bytearray(shard.read_bytes())
    if fault == "truncated":
        content = content[: len(content) // 2]
    elif fault == "flipped":
        content[-200] ^= 1
    else:
        content = bytearray(b"no safetensors" if fault == "garbage" else b"")
    shard.unlink()
    shard.write_bytes(content)
    network = Counting()
    again = keep(network)
    again.fill(images)
    assert f"{shard} is damaged" in caplog.text
    assert network.computed == 20
    assert torch.equal(again[images[0]], expected)
    assert shard not in shards()
    untouched = Counting()
    keep(untouched).fill(images)
    assert untouched.computed == 0


def test_full_disk_is_a_warning_and_features_are_still_right(images, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    expected = keep(Counting())[images[0]]
    monkeypatch.setattr("modeling.parts.kept_features.write_atomically", full)
    features = keep()
    features.fill(images)
    assert "the disk is full" in caplog.text
    torch.testing.assert_close(features[images[0]], expected)


def test_limit_evicts_the_oldest_other_network_first(images):
    keep(Counting(seed=1)).fill(images)
    keep(Counting(seed=2)).fill(images)
    oldest, newer = sorted({shard.parent for shard in shards()}, key=lambda folder: folder.stat().st_mtime_ns)
    os.utime(oldest, (1, 1))
    size = sum(shard.stat().st_size for shard in shards()) / 2
    keep(Counting(seed=3), max_gb=2.5 * size / 1e9).fill(images)
    folders = {shard.parent for shard in shards()}
    assert oldest not in folders
    assert newer in folders
    assert len(folders) == 2


def test_what_does_not_fit_is_computed_at_use(images, caplog):
    network = Counting()
    features = keep(network, max_gb=1e-9)
    features.fill(images)
    assert "need more than --feature_cache_gb 1e-09" in caplog.text
    assert not shards()
    torch.testing.assert_close(features[images[0]], keep(Counting())[images[0]])


def test_two_processes_may_fill_at_the_same_time(images):
    command = [sys.executable, "-m", "tests.modeling.parts.counting", *images]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sums[0] == sums[1] != ""
    network = Counting()
    keep(network).fill(images)
    assert network.computed == 0


def test_another_kind_of_processor_or_precision_has_features_of_its_own(images, monkeypatch):
    assert keep()[images[0]].dtype == torch.float16
    exact = kept_features.KeptFeatures(Counting(), Resizer(), 1, torch.float32)
    assert torch.equal(exact[images[0]].half(), keep()[images[0]])
    folders = {keep().folder, exact.folder}
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "ANOTHER")
    assert len(folders | {keep().folder}) == 3
