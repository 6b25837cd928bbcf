"""Image sets: both official layouts from disk, what is refused and why, the sample, and the split."""

import hashlib
import os
import pickle
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10
from torchvision.transforms import ToTensor

from alexnet_cifar10 import data
from alexnet_cifar10.data import DataError, load_images, stratified_split
from alexnet_cifar10.download import ADDRESS_FILE, ARCHIVES, Download, DownloadError

TRAINING_FILES = [f"data_batch_{number}" for number in range(1, 6)]
PER_FILE = 20
PROJECT = Path(__file__).resolve().parent.parent


def no_network(root, *, archives, report):
    raise DownloadError("example.org cannot be found.")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """The working directory of each test: outside of any project, without a network, where "auto" means "auto"."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TUTORIAL_SMOKE", raising=False)
    monkeypatch.setattr(data, "download_cifar10", no_network)
    return folder


@pytest.fixture
def records():
    """Small but whole CIFAR-10: file name -> (labels [N], pixels [N, 3072], red plane first)."""
    numbers = np.random.default_rng(0)
    return {
        name: (numbers.permutation(PER_FILE) % 10, numbers.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8))
        for name in [*TRAINING_FILES, "test_batch"]
    }


def write_files(folder, contents, root):
    folder = root / folder
    folder.mkdir(parents=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    return folder


@pytest.fixture
def binary_version(records, monkeypatch):
    """Write the binary version of `records` into a folder; these files count as the official ones."""
    contents = {
        f"{name}.bin": np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()
        for name, (labels, pixels) in records.items()
    }
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setattr(data, "BINARY_SHA256", digests)

    return partial(write_files, "cifar-10-batches-bin", contents)


@pytest.fixture
def python_version(records, monkeypatch):
    """Write the Python version of `records` into a folder; these files count as the official ones."""
    contents = {
        name: pickle.dumps({"labels": labels.tolist(), "data": pixels, "batch_label": name}, protocol=2)
        for name, (labels, pixels) in records.items()
    }
    contents["batches.meta"] = pickle.dumps({"label_names": list(data.CIFAR10_CLASSES)}, protocol=2)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in TRAINING_FILES])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})

    return partial(write_files, "cifar-10-batches-py", contents)


@pytest.fixture(params=["binary_version", "python_version"])
def either_version(request):
    return request.getfixturevalue(request.param)


def spoil(file):
    """Change one byte in the middle, as a bad disk does."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# --- the official layouts -----------------------------------------------------------------------------------------


def test_each_layout_gives_the_pixels_and_labels_that_were_written(either_version, records, tmp_path, monkeypatch):
    either_version(tmp_path)
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    images = load_images("cifar10")
    assert (len(images.train), len(images.test)) == (5 * PER_FILE, PER_FILE)
    for half, names in ((images.train, TRAINING_FILES), (images.test, ["test_batch"])):
        assert half.targets == [label for name in names for label in records[name][0].tolist()]
        planes = np.concatenate([records[name][1] for name in names]).reshape(-1, 3, 32, 32)
        assert half.data.shape == (len(half), 32, 32, 3) and half.data.dtype == np.uint8
        assert np.array_equal(half.data.transpose(0, 3, 1, 2), planes)
    assert images.classes[0] == "airplane" and images.classes[9] == "truck"
    assert images.provenance.official and images.provenance.label == "CIFAR-10"
    assert len(images.provenance.digests) == 6


def test_an_image_set_has_the_interface_of_torchvisions(either_version, python_version, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "ours"))
    either_version(tmp_path / "ours")
    python_version(tmp_path / "its")
    ours, its = load_images("cifar10").train, CIFAR10(tmp_path / "its", transform=ToTensor())
    assert len(ours) == len(its) and ours.targets == its.targets and list(ours.classes) == its.classes
    assert np.array_equal(ours.data, its.data)
    assert torch.equal(ours[7][0], its[7][0]) and ours[7][1] == its[7][1]


def test_the_projects_datasets_folder_is_found_without_any_setting(either_version, empty_folder):
    either_version(empty_folder / "datasets")
    assert load_images("auto").provenance.dataset == "CIFAR-10"


def test_a_folder_with_korean_letters_and_spaces_works(either_version, tmp_path, monkeypatch):
    folder = either_version(tmp_path / "데이터 폴더 1")
    for named in (folder.parent, folder):  # the files' own folder is accepted too
        monkeypatch.setenv("CIFAR10_ROOT", str(named))
        assert load_images("cifar10").provenance.official


@pytest.mark.parametrize("start", [".", "notebooks"])
def test_a_relative_root_is_meant_from_the_project_wherever_the_kernel_runs(
    start, binary_version, empty_folder, monkeypatch
):
    (empty_folder / "src" / "alexnet_cifar10").mkdir(parents=True)
    (empty_folder / "notebooks").mkdir()
    binary_version(empty_folder.parent / "shared" / "cifar10")
    monkeypatch.setenv("CIFAR10_ROOT", "../shared/cifar10")
    monkeypatch.chdir(start)
    assert load_images("cifar10").provenance.dataset == "CIFAR-10"


def test_the_named_root_comes_before_datasets(binary_version, empty_folder, tmp_path, monkeypatch):
    binary_version(empty_folder / "datasets")
    binary_version(tmp_path / "mine")
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "mine"))
    assert load_images("auto").provenance.source.startswith("$CIFAR10_ROOT")


# --- what is not official -----------------------------------------------------------------------------------------


def test_changed_bytes_in_datasets_are_refused(binary_version, empty_folder):
    spoil(binary_version(empty_folder / "datasets") / "data_batch_3.bin")
    with pytest.raises(DataError, match=r"data_batch_3\.bin is not the official file \(its sha256 is [0-9a-f]{64},"):
        load_images("cifar10")


def test_changed_bytes_that_the_user_named_are_used_and_every_label_says_so(binary_version, tmp_path, monkeypatch):
    spoil(binary_version(tmp_path) / "data_batch_3.bin")
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    provenance = load_images("cifar10").provenance
    assert not provenance.official
    assert provenance.label == "CIFAR-10 (data_batch_3.bin is not the official file)"
    assert provenance.label in repr(provenance)


@pytest.mark.parametrize("file", [*TRAINING_FILES, "test_batch"])
def test_a_pickle_that_is_not_official_is_never_opened(file, python_version, trap, tmp_path, monkeypatch):
    folder = python_version(tmp_path)
    (folder / file).write_bytes(pickle.dumps({"labels": [1], "data": trap}, protocol=2))
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))  # where the binary version would be used, with a caveat
    with pytest.raises(DataError, match=f"{file} is not the official file.*not opened"):
        load_images("cifar10")
    assert not os.path.exists(trap.path)


def test_the_names_of_the_classes_are_ours_and_their_pickle_is_not_opened(python_version, trap, tmp_path, monkeypatch):
    folder = python_version(tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": trap}, protocol=2))
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    assert load_images("cifar10").classes[6] == "frog"
    assert not os.path.exists(trap.path)


@pytest.mark.parametrize("file", ["data_batch_5", "test_batch"])
def test_a_missing_file_is_named(file, either_version, tmp_path, monkeypatch):
    folder = either_version(tmp_path)
    (missing,) = folder.glob(f"{file}*")
    missing.unlink()
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    with pytest.raises(DataError, match=f"{folder.name}/{missing.name} cannot be read"):
        load_images("cifar10")


@pytest.mark.parametrize("kept", [0, 3073 * PER_FILE - 1, 3073 * PER_FILE + 5], ids=["empty", "cut short", "too long"])
def test_a_file_that_is_no_whole_number_of_records_is_refused_even_where_the_user_named_it(
    kept, binary_version, tmp_path, monkeypatch
):
    file = binary_version(tmp_path) / "data_batch_2.bin"
    file.write_bytes((file.read_bytes() + b"12345")[:kept])
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    with pytest.raises(DataError, match=rf"data_batch_2\.bin has {kept} bytes, not a whole number of 3073-byte"):
        load_images("cifar10")


def test_a_label_that_does_not_exist_is_refused(binary_version, tmp_path, monkeypatch):
    file = binary_version(tmp_path) / "test_batch.bin"
    file.write_bytes(b"\x0b" + file.read_bytes()[1:])
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    with pytest.raises(DataError, match=r"test_batch\.bin has the label 11; CIFAR-10's are 0 to 9"):
        load_images("cifar10")


# --- where there is no CIFAR-10 -----------------------------------------------------------------------------------

ADVICE = ("unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz into the folder datasets/", "CIFAR10_ROOT")


def test_auto_takes_the_digits_and_a_box_says_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "nothing-here"))
    provenance = load_images("auto").provenance
    assert provenance.dataset == "handwritten digits"
    in_plain_text = " ".join(repr(provenance).replace("║", " ").split())
    for shown in (in_plain_text, provenance._repr_html_()):
        assert "This is not CIFAR-10" in shown
        assert "datasets/ holds neither" in shown and "nothing-here holds neither" in shown
        assert "example.org cannot be found" in shown
        assert all(advice in shown for advice in ADVICE)
    assert repr(provenance).startswith("╔") and repr(provenance).endswith("╝")
    assert len({len(line) for line in repr(provenance).splitlines()}) == 1, "the box has straight edges"


def test_auto_takes_the_digits_where_the_files_are_damaged_and_says_so(binary_version, empty_folder):
    spoil(binary_version(empty_folder / "datasets") / "data_batch_1.bin")
    provenance = load_images("auto").provenance
    assert provenance.dataset == "handwritten digits"
    assert "data_batch_1.bin is not the official file" in provenance.tried[0]


def test_the_other_layout_is_taken_where_the_first_is_damaged(binary_version, python_version, empty_folder):
    spoil(python_version(empty_folder / "datasets") / "data_batch_1")
    binary_version(empty_folder / "datasets")
    assert load_images("cifar10").provenance.source == "datasets/, binary version"


@pytest.mark.parametrize("named", [False, True])
def test_what_is_not_there_is_downloaded_into_the_first_folder(
    named, python_version, empty_folder, tmp_path, monkeypatch
):
    root = tmp_path / "mine" if named else empty_folder.resolve() / "datasets"
    if named:
        monkeypatch.setenv("CIFAR10_ROOT", str(root))
    asked = []

    def download(root, *, archives, report):
        asked.append((root, list(archives)))
        folder = python_version(root)
        (folder / ADDRESS_FILE).write_text("https://example.org/cifar\n")
        return Download(folder, "https://example.org/cifar", archives[0].name, archives[0].digest)

    monkeypatch.setattr(data, "download_cifar10", download)
    for _ in range(2):
        provenance = load_images("auto").provenance
        assert provenance.official
        assert provenance.source.endswith("Python version, downloaded from https://example.org/cifar")
    assert asked == [(root, list(ARCHIVES))], "the second time it is there"


def test_a_damaged_folder_is_left_alone_and_the_other_archive_is_asked_for(python_version, empty_folder, monkeypatch):
    folder = python_version(empty_folder / "datasets")
    spoil(folder / "data_batch_1")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    asked = []

    def download(root, *, archives, report):
        asked.extend(archive.folder for archive in archives)
        raise DownloadError("example.org cannot be found.")

    monkeypatch.setattr(data, "download_cifar10", download)
    assert load_images("auto").provenance.dataset == "handwritten digits"
    assert asked == ["cifar-10-batches-bin"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_cifar10_fails_with_the_same_advice():
    with pytest.raises(DataError) as refusal:
        load_images("cifar10")
    assert "datasets/ holds neither cifar-10-batches-py/ nor cifar-10-batches-bin/" in str(refusal.value)
    assert all(advice in str(refusal.value) for advice in ADVICE)


def test_a_box_is_safe_html_whatever_the_folder_is_called(monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", "<script>alert(1)</script>")
    assert "<script>" not in load_images("auto").provenance._repr_html_()


def test_a_smoke_run_takes_the_digits_although_cifar10_is_there(binary_version, empty_folder, monkeypatch):
    binary_version(empty_folder / "datasets")
    monkeypatch.setenv("TUTORIAL_SMOKE", "1")
    assert load_images("auto").provenance.dataset == "handwritten digits"
    assert load_images("cifar10").provenance.dataset == "CIFAR-10", "named, it is taken"


def test_a_source_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="data = 'cifar100': it can be one of auto, cifar10, digits"):
        load_images("cifar100")


# --- the sample ---------------------------------------------------------------------------------------------------


def test_the_digits_are_scikit_learns_each_once_enlarged(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.data.shape == (1437, 32, 32, 3) and digits.train.data.dtype == np.uint8
    assert Counter(digits.train.targets + digits.test.targets) == Counter(load_digits().target.tolist())
    assert (digits.train.data[..., 0] == digits.train.data[..., 2]).all(), "grey"
    small = digits.train.data[:, :, :, 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))  # back to 8x8
    scans = load_digits().images * (255 / 16)
    nearest = np.abs(small[:50, None] - scans[None]).mean(axis=(2, 3)).argmin(axis=1)
    assert load_digits().target[nearest].tolist() == digits.train.targets[:50]


def test_the_digits_are_the_same_every_time(digits):
    again = load_images("digits")
    assert again.provenance == digits.provenance
    assert np.array_equal(again.train.data, digits.train.data)


# --- the split ----------------------------------------------------------------------------------------------------


def test_the_split_takes_every_index_once_and_the_same_share_of_each_class():
    targets = [0] * 50 + [1] * 100 + [2] * 30
    train, valid = stratified_split(targets)
    assert sorted([*train, *valid]) == list(range(180))
    assert Counter(targets[i] for i in valid) == {0: 10, 1: 20, 2: 6}


def test_the_split_is_the_same_each_time_and_another_with_another_seed():
    targets = [0, 1] * 50
    assert stratified_split(targets) == stratified_split(targets)
    assert stratified_split(targets) != stratified_split(targets, seed=43)


# --- CIFAR-10 itself, where it is at hand -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar10(outer_cifar10_root):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        patch.setattr(data, "download_cifar10", no_network)
        for root in (outer_cifar10_root, "../shared/cifar10", "datasets"):
            if root:
                patch.setenv("CIFAR10_ROOT", root)
                try:
                    return load_images("cifar10")
                except DataError:
                    continue
    pytest.skip("CIFAR-10 is not on this machine; CIFAR10_ROOT can name a folder that holds it")


def test_cifar10s_training_images_have_the_published_facts(cifar10):
    train = cifar10.train
    assert len(train) == 50_000 and len(cifar10.test) == 10_000
    assert train.targets[:5] == [6, 9, 9, 4, 1]
    assert set(Counter(train.targets).values()) == {5000}
    assert train.data[0, 0, 0].tolist() == [59, 62, 63]
    levels = np.stack([np.bincount(train.data[..., channel].ravel(), minlength=256) for channel in range(3)])
    shares, values = levels / levels.sum(axis=1, keepdims=True), np.arange(256) / 255
    means = shares @ values
    assert means.round(5).tolist() == [0.49140, 0.48216, 0.44653]
    assert np.sqrt(shares @ values**2 - means**2).round(5).tolist() == [0.24703, 0.24349, 0.26159]


def test_cifar10s_split_is_the_original_tutorials(cifar10):
    train, valid = stratified_split(cifar10.train.targets)
    assert (len(train), len(valid)) == (40_000, 10_000)
    assert (valid[0], cifar10.train[valid[0]][1]) == (9597, 2)
    assert (train[0], cifar10.train[train[0]][1]) == (3106, 6)
    assert set(Counter(cifar10.train.targets[i] for i in valid).values()) == {1000}
