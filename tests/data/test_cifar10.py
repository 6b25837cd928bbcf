"""Where images are looked for: both published layouts from disk, what is refused and why, and what stands in."""

import hashlib
import io
import os
import pickle
import runpy
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_server import not_as_root, tar_gz, whole

from alexnet_cifar10 import data
from alexnet_cifar10.data import DataError, cifar10, load_images, stratified_split

TRAINING_FILES = [f"data_batch_{number}" for number in range(1, 6)]
PER_FILE = 20
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """The working directory of each test: outside of any project, without a network."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CIFAR10_MIRROR", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # where nobody listens
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder that CIFAR10_ROOT names."""
    folder = tmp_path / "데이터 폴더 1"
    folder.mkdir()
    monkeypatch.setenv("CIFAR10_ROOT", str(folder))
    return folder


@pytest.fixture
def records():
    """Small but whole CIFAR-10: file name -> (labels [N], pixels [N, 3072], red plane first)."""
    numbers = np.random.default_rng(0)
    return {
        name: (numbers.permutation(PER_FILE) % 10, numbers.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8))
        for name in [*TRAINING_FILES, "test_batch"]
    }


def publish(monkeypatch, index, contents, **changes):
    """Let these bytes count as the official ones of a layout's archive or files."""
    layouts = list(cifar10.LAYOUTS)
    digests = {name: hashlib.new(layouts[index].algorithm, content).hexdigest() for name, content in contents.items()}
    layouts[index] = replace(layouts[index], digests=layouts[index].digests | digests, **changes)
    for module in (cifar10, data):
        monkeypatch.setattr(module, "LAYOUTS", layouts)


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
    publish(monkeypatch, 1, contents)
    return partial(write_files, "cifar-10-batches-bin", contents)


@pytest.fixture
def python_version(records, monkeypatch):
    """Write the Python version of `records` into a folder; these files count as the official ones."""
    contents = {
        name: pickle.dumps({"labels": labels.tolist(), "data": pixels, "batch_label": name}, protocol=2)
        for name, (labels, pixels) in records.items()
    }
    publish(monkeypatch, 0, contents)
    contents["batches.meta"] = pickle.dumps({"label_names": list(cifar10.CIFAR10_CLASSES)}, protocol=2)
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


def test_each_layout_gives_the_pixels_and_labels_that_were_written(either_version, records, mine):
    either_version(mine)
    images = load_images("cifar10")
    assert (len(images.train), len(images.test)) == (5 * PER_FILE, PER_FILE)
    for half, names in ((images.train, TRAINING_FILES), (images.test, ["test_batch"])):
        assert half.targets == [label for name in names for label in records[name][0].tolist()]
        planes = np.concatenate([records[name][1] for name in names]).reshape(-1, 3, 32, 32)
        assert half.data.shape == (len(half), 32, 32, 3) and half.data.dtype == np.uint8
        assert half.data.flags.c_contiguous and np.array_equal(half.data.transpose(0, 3, 1, 2), planes)
    assert images.classes[0] == "airplane" and images.classes[9] == "truck"
    assert not images.provenance.caveats and images.provenance.label == "CIFAR-10"
    assert len(images.provenance.digests) == 6


def test_an_image_set_has_the_interface_of_torchvisions(either_version, python_version, tmp_path, mine, monkeypatch):
    from torchvision.datasets import CIFAR10  # here, as each worker would wait two seconds for it
    from torchvision.transforms import ToTensor

    either_version(mine)
    folder = python_version(tmp_path / "its")
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in TRAINING_FILES])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    ours, its = load_images("cifar10").train, CIFAR10(tmp_path / "its", transform=ToTensor())
    assert len(ours) == len(its) and ours.targets == its.targets and list(ours.classes) == its.classes
    assert np.array_equal(ours.data, its.data)
    assert torch.equal(ours[7][0], its[7][0]) and ours[7][1] == its[7][1]


@pytest.mark.parametrize("value", [None, ""])
def test_the_projects_datasets_folder_is_found_without_any_setting(value, either_version, empty_folder, monkeypatch):
    either_version(empty_folder / "datasets")
    if value is not None:
        monkeypatch.setenv("CIFAR10_ROOT", value)
    provenance = load_images("auto").provenance
    assert provenance.dataset == "cifar10" and provenance.source.startswith("datasets/")


@pytest.mark.parametrize("start", [".", "notebooks"])
def test_a_relative_root_is_meant_from_the_project_wherever_the_kernel_runs(
    start, binary_version, empty_folder, monkeypatch
):
    (empty_folder / "src" / "alexnet_cifar10").mkdir(parents=True)
    (empty_folder / "notebooks").mkdir()
    binary_version(empty_folder.parent / "shared" / "cifar10")
    monkeypatch.setenv("CIFAR10_ROOT", "../shared/cifar10")
    monkeypatch.chdir(start)
    assert not load_images("cifar10").provenance.caveats


# --- the folder that the user named -------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "cifar10"])
def test_the_named_root_is_used_and_not_datasets(source, binary_version, empty_folder, mine):
    binary_version(empty_folder / "datasets")
    spoil(binary_version(mine) / "test_batch.bin")
    provenance = load_images(source).provenance
    assert provenance.source.startswith("$CIFAR10_ROOT") and provenance.caveats


@pytest.mark.parametrize("ending", ["", "/", "//", "/.", "/../{name}", "/cifar-10-batches-bin/"])
def test_a_root_may_be_written_in_many_ways(ending, binary_version, mine, monkeypatch):
    binary_version(mine)
    monkeypatch.setenv("HOME", str(mine.parent))
    monkeypatch.setenv("USERPROFILE", str(mine.parent))
    for start in (mine.parent, "..", "~"):
        monkeypatch.setenv("CIFAR10_ROOT", f"{start}/{mine.name}{ending.format(name=mine.name)}")
        assert not load_images("cifar10").provenance.caveats


needs_posix = pytest.mark.skipif(os.name != "posix", reason="on Windows a mode locks no folder")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("nothing/here", "No such file or directory: .*nothing.here"),
        ("datasets/cifar-10-batches-py", "No such file or directory: .*cifar-10-batches-py"),
        ("file", "Not a directory: .*file"),
        ("'{here}/datasets'", "set it without the quotes"),
        ('"{here}/datasets"', "set it without the quotes"),
        ("{here}/datasets ", "No such file or directory: .*datasets '"),
        ("~nobody-of-this-name/x", "= ~nobody-of-this-name/x: set it without the ~"),
        pytest.param("locked", "Permission denied: .*locked", marks=needs_posix),
        pytest.param("locked/inner", "Permission denied: .*inner", marks=needs_posix),
    ],
)
@pytest.mark.parametrize("source", ["auto", "cifar10"])
def test_a_named_folder_that_cannot_be_opened_is_an_error_and_is_not_made(
    source, value, why, binary_version, empty_folder, monkeypatch
):
    """Neither another place nor the digits are taken instead: the user would not notice."""
    binary_version(empty_folder / "datasets")
    (empty_folder / "file").write_text("mine")
    (empty_folder / "locked").mkdir(0o000)
    before = sorted(empty_folder.rglob("*"))
    monkeypatch.setenv("CIFAR10_ROOT", value.format(here=empty_folder))
    with not_as_root(empty_folder), pytest.raises(DataError, match=why if os.name == "posix" else "") as refusal:
        load_images(source)
    assert "Set CIFAR10_ROOT to a folder that is there" in str(refusal.value)
    assert sorted(empty_folder.rglob("*")) == before
    assert load_images("digits"), "which nobody looks for in a folder"


# --- what is not official -----------------------------------------------------------------------------------------


def test_changed_bytes_in_datasets_are_refused(binary_version, empty_folder):
    spoil(binary_version(empty_folder / "datasets") / "data_batch_3.bin")
    with pytest.raises(DataError, match=r"data_batch_3\.bin is not the official file \(its sha256 is [0-9a-f]{64},"):
        load_images("cifar10")
    provenance = load_images("auto").provenance
    assert provenance.dataset == "digits" and "data_batch_3.bin is not the official file" in provenance.tried[0]


def test_changed_bytes_that_the_user_named_are_used_and_the_labels_say_so_where_it_matters(binary_version, mine):
    spoil((folder := binary_version(mine)) / "test_batch.bin")
    provenance = load_images("cifar10").provenance
    assert provenance.label == "CIFAR-10" and not provenance.as_record()["official"]
    assert provenance.label_test == "CIFAR-10 (test_batch.bin is not the official file)"
    spoil(folder / "data_batch_3.bin")
    provenance = load_images("cifar10").provenance
    assert provenance.label == "CIFAR-10 (data_batch_3.bin is not the official file)"
    assert provenance.label_test in repr(provenance) and "; test_batch.bin" in provenance.label_test


@pytest.mark.parametrize("file", [*TRAINING_FILES, "test_batch"])
def test_a_pickle_that_is_not_official_is_never_opened(file, python_version, trap, mine):
    """Not even where the binary version would be used, with a caveat."""
    (python_version(mine) / file).write_bytes(pickle.dumps({"labels": [1], "data": trap}, protocol=2))
    with pytest.raises(DataError, match=f"{file} is not the official file.*not opened"):
        load_images("cifar10")
    assert not os.path.exists(trap.path)


def test_the_names_of_the_classes_are_ours_and_their_pickle_is_not_opened(python_version, trap, mine):
    (python_version(mine) / "batches.meta").write_bytes(pickle.dumps({"label_names": trap}, protocol=2))
    assert load_images("cifar10").classes[6] == "frog"
    assert not os.path.exists(trap.path)


@pytest.mark.parametrize("file", ["data_batch_5", "test_batch"])
def test_a_missing_file_is_named(file, either_version, mine):
    (missing,) = (folder := either_version(mine)).glob(f"{file}*")
    missing.unlink()
    with pytest.raises(DataError, match=f"{folder.name}/{missing.name} cannot be read"):
        load_images("cifar10")


@pytest.mark.parametrize("kept", [0, 3073 * PER_FILE - 1, 3073 * PER_FILE + 5], ids=["empty", "cut short", "too long"])
def test_a_file_that_is_no_whole_number_of_records_is_refused_even_where_the_user_named_it(kept, binary_version, mine):
    file = binary_version(mine) / "data_batch_2.bin"
    file.write_bytes((file.read_bytes() + b"12345")[:kept])
    with pytest.raises(DataError, match=rf"data_batch_2\.bin has {kept} bytes, not a whole number of 3073-byte"):
        load_images("cifar10")


def test_a_label_that_does_not_exist_is_refused(binary_version, mine):
    file = binary_version(mine) / "test_batch.bin"
    file.write_bytes(b"\x0b" + file.read_bytes()[1:])
    with pytest.raises(DataError, match=r"test_batch\.bin has the label 11; CIFAR-10's are 0 to 9"):
        load_images("cifar10")


def test_the_other_layout_is_taken_where_the_first_is_damaged(binary_version, python_version, empty_folder):
    spoil(python_version(empty_folder / "datasets") / "data_batch_1")
    folder = binary_version(empty_folder / "datasets")
    assert load_images("cifar10").provenance.source == "datasets/, binary version"
    spoil(folder / "data_batch_1.bin")
    with pytest.raises(DataError) as refusal:  # which names each once
        load_images("cifar10")
    reasons = [line for line in refusal.value.args if line.startswith("- datasets/: ")]
    assert [reason.split("/")[1] for reason in reasons] == [": cifar-10-batches-py", ": cifar-10-batches-bin"]
    assert "proxy" not in str(refusal.value), "nothing is asked for where both are there"


# --- where there is no CIFAR-10 -----------------------------------------------------------------------------------

ADVICE = ("put cifar-10-python.tar.gz or cifar-10-binary.tar.gz", "into datasets/", "CIFAR10_ROOT", "CIFAR10_MIRROR")
NEITHER = "holds neither cifar-10-batches-py/ nor cifar-10-batches-bin/"


def test_auto_takes_the_digits_and_a_box_says_what_was_tried(mine):
    provenance = load_images("auto").provenance
    assert provenance.dataset == "digits"
    for shown in (repr(provenance), provenance._repr_html_()):
        words = "".join(shown.replace("#", "").split())  # a line may break anywhere
        for text in (
            "This is not CIFAR-10",
            f"{mine.name}) {NEITHER}",
            "proxy 127.0.0.1:1: " + ("Connection refused" if os.name == "posix" else ""),  # Windows has other words
            *ADVICE,
        ):
            assert text.replace(" ", "") in words
    assert repr(provenance).startswith("###") and repr(provenance).endswith("###")
    assert len({len(line) for line in repr(provenance).splitlines()}) == 1, "the box has straight edges"


def test_cifar10_fails_with_the_same_advice():
    with pytest.raises(DataError) as refusal:
        load_images("cifar10")
    assert all(text in str(refusal.value) for text in (f"datasets) {NEITHER}", *ADVICE))


@pytest.fixture
def serve(mirrors, monkeypatch):
    """Serve the archive of a folder; it counts as the official one."""

    def start(folder):
        content = tar_gz({f"{folder.name}/{file.name}": file.read_bytes() for file in folder.iterdir()})
        index = [layout.folder for layout in cifar10.LAYOUTS].index(folder.name)
        publish(monkeypatch, index, {cifar10.LAYOUTS[index].archive: content}, size=len(content))
        mirror = mirrors(whole(content))
        monkeypatch.setenv("CIFAR10_MIRROR", mirror.base)
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        return mirror

    return start


@pytest.mark.parametrize("named", [False, True])
def test_what_is_not_there_is_downloaded_to_where_it_was_looked_for(
    named, python_version, serve, empty_folder, tmp_path, request
):
    mirror = serve(python_version(tmp_path / "elsewhere"))
    root = request.getfixturevalue("mine") if named else empty_folder / "datasets"
    for _ in range(2):
        provenance = load_images("auto").provenance
        assert not provenance.caveats
        assert provenance.source.endswith(f"Python version, downloaded from {mirror.base}/cifar-10-python.tar.gz")
    assert len(mirror.paths) == 1, "the second time it is there"
    assert (root / "cifar-10-batches-py").is_dir()


def test_a_damaged_folder_is_left_alone_and_the_other_archive_is_asked_for(
    python_version, binary_version, serve, empty_folder, tmp_path
):
    mirror = serve(binary_version(tmp_path / "elsewhere"))
    spoil((folder := python_version(empty_folder / "datasets")) / "data_batch_1")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert load_images("auto").provenance.source.startswith("datasets/, binary version")
    assert mirror.paths == ["/cifar/cifar-10-binary.tar.gz"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("content", ["\x1b[2Jhttp://example.org", "\x1b[2J" * 1000 + "\n2", "\udcff", ""])
def test_the_address_beside_the_files_is_foreign_text(content, binary_version, empty_folder):
    folder = binary_version(empty_folder / "datasets")
    (folder / cifar10.ADDRESS_FILE).write_bytes(content.encode(errors="surrogateescape"))
    source = load_images("cifar10").provenance.source
    assert source.isprintable() and source.isascii() and len(source) < 400


def test_a_source_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="data = 'cifar100': it can be one of auto, cifar10, digits"):
        load_images("cifar100")


# --- as a program -------------------------------------------------------------------------------------------------


def command(*options):
    """What `python -m alexnet_cifar10.data` prints to a Korean Windows, whose code page 949 has no "é"; why it failed."""
    console, failure = io.TextIOWrapper(io.BytesIO(), encoding="cp949"), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", console)
        patch.setattr(sys, "argv", ["data", *options])
        try:
            runpy.run_module("alexnet_cifar10.data", run_name="__main__")
        except SystemExit as exit:
            failure = exit.code
    console.flush()
    return console.buffer.getvalue().decode("cp949").splitlines(), failure


@pytest.mark.parametrize("name", ["données", "데이터"])
def test_the_command_says_what_is_there_on_every_console(name, either_version, empty_folder, monkeypatch):
    spoil(next(either_version(empty_folder / name).glob("test_batch*")))
    monkeypatch.setenv("CIFAR10_ROOT", name)
    (root, *answer), failure = command()
    assert root == f"$CIFAR10_ROOT ({empty_folder / name})".replace("é", r"\xe9")
    if failure:
        assert "test_batch is not the official file (its md5" in failure
    else:
        label = "CIFAR-10 (test_batch.bin is not the official file)"
        assert answer == [f"  {label}, from $CIFAR10_ROOT, binary version: NOT the official files"]


def test_the_command_downloads_what_is_not_there(python_version, serve, tmp_path):
    assert f"datasets) {NEITHER}" in command()[1]
    serve(python_version(tmp_path / "elsewhere"))
    for options in (["--download"], []):
        lines, failure = command(*options)
        assert "  CIFAR-10, from datasets/, Python version" in lines[-1] and "every file verified" in lines[-1]
        assert failure is None


def test_the_command_refuses_a_folder_or_an_option_that_is_not_there(empty_folder, monkeypatch):
    assert "[--download]" in command("--downlaod")[1]
    monkeypatch.setenv("CIFAR10_ROOT", "nowhere")
    lines, failure = command()
    assert lines == [] and "Set CIFAR10_ROOT to a folder" in failure
    assert os.name == "nt" or "No such file or directory" in failure
    assert not list(empty_folder.iterdir())


# --- CIFAR-10 itself, where it is at hand -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(outer_cifar10_root):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        for root in (outer_cifar10_root, "../shared/cifar10", "datasets"):
            if root:
                patch.setenv("CIFAR10_ROOT", root)
                try:
                    return cifar10.read_cifar10(*cifar10.find_root())
                except DataError:
                    continue
    pytest.skip("CIFAR-10 is not on this machine; CIFAR10_ROOT can name a folder that holds it")


def test_cifar10s_training_images_have_the_published_facts(real):
    train = real.train
    assert len(train) == 50_000 and len(real.test) == 10_000
    assert train.targets[:5] == [6, 9, 9, 4, 1]
    assert set(Counter(train.targets).values()) == {5000}
    assert train.data[0, 0, 0].tolist() == [59, 62, 63]
    levels = np.stack([np.bincount(train.data[..., channel].ravel(), minlength=256) for channel in range(3)])
    shares, values = levels / levels.sum(axis=1, keepdims=True), np.arange(256) / 255
    means = shares @ values
    assert means.round(5).tolist() == [0.49140, 0.48216, 0.44653]
    assert np.sqrt(shares @ values**2 - means**2).round(5).tolist() == [0.24703, 0.24349, 0.26159]


def test_cifar10s_split_is_the_original_tutorials(real):
    train, valid = stratified_split(real.train.targets)
    assert (len(train), len(valid)) == (40_000, 10_000)
    assert (valid[0], real.train[valid[0]][1]) == (9597, 2)
    assert (train[0], real.train[train[0]][1]) == (3106, 6)
    assert set(Counter(real.train.targets[i] for i in valid).values()) == {1000}
