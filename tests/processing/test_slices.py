"""Frames of DICOM files, pages of TIFFs and slices of NIfTI volumes: which one a name means, and what it shows."""

import csv
import gzip
import io
import struct

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from processing.data import load_vqa_dataset
from processing.image_source import ImageBytes
from processing.images import image_facts, open_image, read_image
from processing.nifti import MAX_INFLATED
from processing.tiff_pages import count_pages
from tests.processing.conftest import rows_of
from tests.support.image_files import dicom, encoded, grey, refusal

# The values of a volume say where a voxel is in the patient: 100 left, 10 front, 1 top.
RIGHT_ANTERIOR_SUPERIOR = np.array([[[0, 1], [10, 11]], [[100, 101], [110, 111]]], np.int16)[::-1]


def nifti(values, affine=None, kind=nibabel.Nifti1Image, **header):
    image = kind(values, np.eye(4) if affine is None else affine)
    for field, value in header.items():
        image.header[field] = value
    return image.to_bytes()


def shown(data, number=None, **options):
    return np.asarray(open_image(ImageBytes(data, "scan", number), **options))[..., 0].tolist()


# --- which one


def frames(count=3):
    return np.stack([np.full((2, 3), 50 * frame, np.uint8) for frame in range(1, count + 1)])


def pages(*levels, kind="TIFF", **options):
    images = [Image.new("L", (3, 2), level) for level in levels]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], **options)


FILES = {
    "dicom": dicom(frames(), NumberOfFrames=3, WindowCenter=128, WindowWidth=256),
    "compressed dicom": dicom(
        frames(),
        syntax="1.2.840.10008.1.2.4.90",
        NumberOfFrames=3,
        WindowCenter=128,
        WindowWidth=256,
        PixelData=encapsulate([encoded(Image.fromarray(frame), "JPEG2000") for frame in frames()]),
    ),
    "colour dicom": dicom(
        np.stack([np.full((2, 3), 50 * frame, np.uint8) for frame in (1, 2, 3) for _ in range(3)]),
        NumberOfFrames=3,
        SamplesPerPixel=3,
        PlanarConfiguration=1,
        PhotometricInterpretation="RGB",
    ),
    "tiff": pages(50, 100, 150),
    "compressed tiff": pages(50, 100, 150, compression="tiff_lzw"),
    "nifti": nifti(frames().T, cal_min=0, cal_max=255),
    "nifti.gz": gzip.compress(nifti(frames().T, cal_min=0, cal_max=255)),
    "nifti-2": nifti(frames().T, kind=nibabel.Nifti2Image, cal_min=0, cal_max=255),
}


@pytest.mark.parametrize("name", FILES)
def test_each_slice_by_its_number(name):
    for number in (1, 2, 3):
        found = np.asarray(open_image(ImageBytes(FILES[name], name, number)), int)
        assert found.shape == (2, 3, 3)
        assert np.abs(found - 50 * number).max() <= 1
    assert image_facts(ImageBytes(FILES[name], name, 2)).slices == 3


@pytest.mark.parametrize("name", FILES)
def test_a_slice_that_is_not_there_is_refused(name):
    assert refusal(ImageBytes(FILES[name], "scan", 4)) == (
        "Cannot open 'scan': there is no slice 4 in it; choose another one: it has 3 slices, numbers 1 to 3."
    )


def test_a_single_image_is_number_1(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 4)), "PNG"))
    assert open_image(f"{path}#1").size == (4, 4)
    assert refusal(f"{path}#2").endswith(
        "there is no slice 2 in it; choose another one: it has one image, which is number 1."
    )
    assert refusal(f"{path}#0").endswith("it does not exist; check the path.")


def test_without_a_number_the_first_frame_or_page_and_of_a_volume_none():
    for name, data in FILES.items():
        if "nifti" in name:
            asked = ImageBytes(data, f"folder/{name}")
            assert refusal(asked).endswith(f"it is a volume of 3 slices; name one of them, as in {name}#2.")
        else:
            assert abs(shown(data)[0][0] - 50) <= 1
    assert shown(nifti(frames(1).T, cal_min=0, cal_max=255)) == [[50] * 3] * 2


def test_a_path_names_a_slice_unless_it_is_that_of_a_file(tmp_path):
    (tmp_path / "a.dcm").write_bytes(FILES["dicom"])
    assert grey(open_image(tmp_path / "a.dcm#3"))[0][0] == 150
    assert read_image(tmp_path / "a.dcm#3").slice_number == 3
    (tmp_path / "a.dcm#3").write_bytes(encoded(Image.new("L", (1, 1), 7), "PNG"))
    assert grey(open_image(str(tmp_path / "a.dcm#3"))) == [[7]]


def test_smaller_copies_and_masks_of_a_page_are_no_slices():
    data = pages(50, 100, 150, tiffinfo={254: 0})
    assert image_facts(data).slices == 3
    second = 0
    for _ in range(2):  # from the header to the first directory, and to the second
        place = struct.unpack_from("<I", data, second or 4)[0]
        count = struct.unpack_from("<H", data, place)[0]
        second = place + 2 + 12 * count
    tag = place + 2
    assert struct.unpack_from("<HHI", data, tag) == (254, 4, 1)
    changed = data[: tag + 8] + struct.pack("<I", 1) + data[tag + 12 :]
    assert image_facts(changed).slices == 2
    assert shown(changed, 2)[0][0] == 150


def test_a_circle_of_pages_ends():
    data = pages(50, 100)
    first = struct.unpack_from("<I", data, 4)[0]
    second_link = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    assert image_facts(data[:second_link] + struct.pack("<I", first) + data[second_link + 4 :]).slices == 1


def test_a_directory_of_millions_of_tags_is_not_read(monkeypatch):
    data = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + struct.pack("<Q", 100_000) + bytes(2_100_000))
    struct.pack_into("<Q", data, 16 + 8 + 20 * 100_000, 0)
    read = struct.unpack_from
    calls = []
    monkeypatch.setattr("processing.tiff_pages.struct.unpack_from", lambda *given: calls.append(1) or read(*given))
    assert count_pages(bytes(data)) == 1
    assert len(calls) < 20


# --- what it shows


def test_each_frame_has_its_own_window_and_slope():
    from pydicom import Dataset

    groups = []
    for center, slope in ((50, 1), (100, 2)):
        window, values, group = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 100
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        group.FrameVOILUTSequence, group.PixelValueTransformationSequence = [window], [values]
        groups.append(group)
    stored = np.full((2, 1, 1), 50, np.uint16)
    data = dicom(stored, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups)
    # (x - (center - 0.5)) / (width - 1) + 0.5, times 255, PS3.3 C.11.2.1.2.1: 50 about 50, and 100 about 100
    assert [shown(data, number) for number in (1, 2)] == [[[129]], [[129]]]
    facts = [image_facts(ImageBytes(data, "", number)) for number in (1, 2)]
    assert [one.window for one in facts] == [(50, 100), (100, 100)]
    assert [one.value_range for one in facts] == [(50, 50), (100, 100)]


ORIENTATIONS = {  # axes of the voxels: what the first, second and third lead to
    "RAS": (np.diag([1, 1, 1, 1]), "axial"),
    "LPS": (np.diag([-1, -1, 1, 1]), "axial"),
    "ASR": (np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), "sagittal"),
    "LIP": (np.array([[-1, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]), "coronal"),
}
# right, or in a sagittal slice front, on the left; front, or in the others head, above
WANTED = {
    "axial": {1: [[10, 110], [0, 100]], 2: [[11, 111], [1, 101]]},
    "sagittal": {1: [[111, 101], [110, 100]], 2: [[11, 1], [10, 0]]},
    "coronal": {1: [[11, 111], [10, 110]], 2: [[1, 101], [0, 100]]},
}


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_volumes_lie_as_a_reader_knows_them(axes):
    affine, plane = ORIENTATIONS[axes]
    to_file = nibabel.orientations.io_orientation(np.linalg.inv(affine))
    values = nibabel.orientations.apply_orientation(RIGHT_ANTERIOR_SUPERIOR, to_file)
    data = nifti(values, affine, cal_min=0, cal_max=255)
    assert image_facts(data).details["Plane"] == plane
    assert {number: shown(data, number) for number in (1, 2)} == WANTED[plane]


def test_values_are_scaled_and_windowed():
    stored = nifti(np.array([-512, -262, -12, 238], np.int16).reshape(4, 1, 1))
    data = stored[:112] + struct.pack("<2f", 2, 24) + stored[120:]  # scl_slope and scl_inter
    facts = image_facts(data)
    assert (facts.format, facts.slices, facts.value_range) == ("NIfTI", 1, (-1000, 500))
    # LINEAR_EXACT, PS3.3 C.11.2.1.3.2: (x - (center - width / 2)) / width * 255; 144.5 goes to the even one
    assert shown(data, window=(-600, 1500)) == [[255, 230, 144, 60]]
    assert shown(nifti(np.full((2, 2, 1), np.nan, np.float32))) == [[0, 0], [0, 0]]


def test_of_several_volumes_the_first_is_shown_and_no_text_of_the_header():
    values = np.stack([np.full((2, 2, 2), level, np.uint8) for level in (10, 20)], axis=-1)
    data = nifti(values, cal_min=0, cal_max=255, descrip=b"Secret^Patient", db_name=b"Secret^Patient")
    facts = image_facts(data)
    assert facts.details == {
        "Plane": "axial",
        "Voxels": "1 x 1 x 1 mm",
        "Volumes": "2, of which the first is shown",
    }
    assert shown(data, 2) == [[10, 10], [10, 10]]
    assert "Secret" not in repr(facts)


def test_colours_of_a_volume():
    values = np.zeros((2, 1, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    values[0] = (1, 2, 3)
    assert np.asarray(open_image(nifti(values))).tolist() == [[[0, 0, 0], [1, 2, 3]]]


# --- what is refused


def test_volumes_that_are_damaged_too_large_or_of_complex_numbers():
    whole = FILES["nifti"]
    cut = whole[:-1]
    assert refusal(ImageBytes(cut, "v.nii", 3)).endswith("it is cut off or damaged; export or download it again.")
    assert open_image(ImageBytes(cut, "v.nii", 2)).size == (3, 2)  # a slice that is there
    short = gzip.compress(nifti(np.random.default_rng(0).integers(0, 9, (40, 40, 3)).astype(np.int16)))[:-40]
    assert "cut off or damaged" in refusal(ImageBytes(short, "v.nii.gz", 3))
    assert "it holds complex numbers; export their magnitude." in refusal(nifti(np.zeros((2, 2, 1), np.complex64)))
    assert "above the limit max_pixels = 5" in refusal(ImageBytes(whole, "v.nii", 1), max_pixels=5)
    wide = bytearray(nifti(np.zeros((1, 1, 1), np.int16)))
    wide[42:48] = struct.pack("<3h", 32767, 32767, 1)
    assert "32767 x 32767 = 1,073,676,289 pixels, above" in refusal(bytes(wide))


def test_a_bomb_is_not_inflated():
    small = bytearray(nifti(np.zeros((1, 1, 1), np.int16)))
    small[42:48] = struct.pack("<3h", 7000, 7000, 20)  # 49 million pixels a slice
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as file:
        file.write(small)
        file.write(bytes(2**20))
    message = refusal(ImageBytes(bomb.getvalue(), "v.nii.gz", 1))
    assert f"a volume of it has 1,960,000,000 bytes, above {MAX_INFLATED:,}; crop it or resample it." in message


# --- rows


def test_rows_name_slices_and_those_of_a_file_stay_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    for body in range(10):
        values = rng.integers(0, 255, (8, 8, 4)).astype(np.uint8)
        (tmp_path / f"body{body}.nii.gz").write_bytes(gzip.compress(nifti(values)))
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "question", "answer"])
        for body in range(10):
            for number in range(1, 5):
                writer.writerow([f"body{body}.nii.gz#{number}", f"What is {number}?", "lung"])
    dataset = load_vqa_dataset(str(tmp_path / "rows.csv"))
    rows = rows_of(dataset)
    assert len(rows) == 40
    assert {row["image_id"] for row in rows} >= {"body0.nii.gz#1", "body9.nii.gz#4"}
    assert all(open_image(row["image"]).size == (8, 8) for row in rows[:3])
    bodies = [{row["image_id"].partition("#")[0] for row in split} for split in dataset.values()]
    assert sum(map(len, bodies)) == 10
    assert {row["group"] for row in rows} == {f"body{body}.nii.gz" for body in range(10)}


def test_a_row_that_names_no_slice_or_none_that_is_there_is_skipped_with_a_sentence(tmp_path, capsys, caplog):
    (tmp_path / "v.nii.gz").write_bytes(FILES["nifti.gz"])
    (tmp_path / "a.tif").write_bytes(pages(10, 20))
    (tmp_path / "b.tif").write_bytes(pages(30, 40))
    good = [f"v.nii.gz#{1 + i % 3}" for i in range(30)]
    train = [f"{name},What is it?,lung,train" for name in ("v.nii.gz", "v.nii.gz#9", "w.nii.gz#1", *good)]
    others = ["a.tif#2,What is it?,lung,validation", "b.tif#1,What is it?,lung,test"]
    (tmp_path / "rows.csv").write_text("\n".join(["image,question,answer,split", *train, *others]))
    dataset = load_vqa_dataset(str(tmp_path / "rows.csv"))
    assert [len(dataset[split]) for split in ("train", "validation", "test")] == [30, 1, 1]
    assert "it is a volume of 3 slices; name one of them, as in v.nii.gz#2" in caplog.text
    assert "there is no slice 9 in it" in caplog.text
