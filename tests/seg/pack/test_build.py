import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from seg.data.images import ImageFiles
from seg.errors import DamagedFile, DataWarning, RequestError
from seg.pack import pack as pack_rows
from seg.pack.build import digest_file, ensure_pack, is_sealed, seal_file
from seg.pack.pack import Pack, PackPlan, rows_by_threads
from tests.conftest import WriteArchive
from tests.seg.pack.test_pack import plan_of
from tests.small import wait_until

Rows = Generator[pa.RecordBatch, None, None]


def refuse_to_build(plan: PackPlan) -> Rows:
    raise AssertionError(f"{plan.path} is built")
    yield


@pytest.fixture
def plan(write_archive: WriteArchive) -> PackPlan:
    return plan_of(write_archive())


def cut(share: float, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


def overwrite(share: float, path: Path) -> None:
    """Four bytes become others; the footer, and so the number of rows, stays where it was."""
    with path.open("r+b") as file:
        file.seek(int(share * path.stat().st_size))
        before = file.read(4)
        file.seek(-4, os.SEEK_CUR)
        file.write(bytes(255 - byte for byte in before))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(64))


def forget_seal(path: Path) -> None:
    seal_file(path).unlink()


def spoil_seal(content: bytes, path: Path) -> None:
    seal_file(path).write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        *(partial(cut, share) for share in (0, 0.3, 0.99)),
        *(partial(overwrite, share) for share in (0.001, 0.3, 0.6, 0.97)),
        lengthen,
        forget_seal,
        *(partial(spoil_seal, content) for content in (b"", b'{"bytes": 12', b"5", b"{}", b"\xff\xfe")),
    ],
)
def test_a_pack_that_is_not_what_was_written_is_built_again(
    plan: PackPlan, damage: Callable[[Path], None]
) -> None:
    path = ensure_pack(plan)
    whole = path.read_bytes()
    damage(path)
    os.utime(path, ns=(0, 0))  # two writes of a test may fall into one tick of the disk's clock
    with pytest.warns(DataWarning, match=rf"{path} is not the pack that was written: built again"):
        assert ensure_pack(plan) == path
    assert path.read_bytes() == whole  # and two builds write the same bytes
    assert is_sealed(path)


def flip(path: Path, bit: int) -> None:
    """As a disk loses a bit: nobody wrote, so the file's time stays."""
    was = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))
    os.utime(path, ns=(was, was))


def test_a_bit_that_the_disk_lost_is_noticed_wherever_it_is(write_archive: WriteArchive) -> None:
    plan = plan_of(write_archive(size=(16, 24)))
    path = ensure_pack(plan)
    spans = list(Pack(path).array_spans())
    bits, seen = range(0, 8 * path.stat().st_size, 37), set()
    for bit in bits:
        flip(path, bit)
        is_in_array = any(start <= bit // 8 < start + length for start, length in spans)
        seen.add(is_in_array)
        assert is_sealed(path) == is_in_array  # what Arrow believes is looked at before Arrow is
        if is_in_array:
            pack = Pack(path)
            with pytest.raises(DamagedFile, match=rf"^pack {path}: the \w+ of \S+ are not what was"):
                list(map(pack.__getitem__, range(len(pack))))
            assert not is_sealed(path)  # the next command reads all of it
        flip(path, bit)
        assert ensure_pack(plan, refuse_to_build) == path
    assert seen == {False, True}


def test_a_pack_whose_damage_a_training_met_is_built_again_by_the_next_command(plan: PackPlan) -> None:
    path = ensure_pack(plan)
    whole = path.read_bytes()
    (first, _), *_ = Pack(path).array_spans()
    flip(path, 8 * first)
    with pytest.raises(DamagedFile, match=r"pixels of .*; run the command again"):
        Pack(ensure_pack(plan, refuse_to_build))[0]
    with pytest.warns(DataWarning, match=rf"{path} is not the pack that was written: built again"):
        ensure_pack(plan)
    assert path.read_bytes() == whole


def test_a_whole_pack_is_not_built_again_though_its_data_is_gone(plan: PackPlan) -> None:
    path = ensure_pack(plan)
    for sample in plan.samples:
        sample.image.unlink()
    assert ensure_pack(plan, refuse_to_build) == path


def test_what_another_reader_or_format_packed_and_measured_is_not_used(
    plan: PackPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, kept = {plan.path}, {plan.frame_reader(ImageFiles()).backgrounds.folder.uri}
    with monkeypatch.context() as patch:
        patch.setattr(pack_rows, "READER", 1)
        paths.add(plan.path)
        kept.add(plan.frame_reader(ImageFiles()).backgrounds.folder.uri)
    monkeypatch.setattr(pack_rows, "FORMAT_VERSION", 5)
    assert len(paths | {plan.path}) == 3
    assert len(kept) == 2


def test_a_pack_that_was_copied_or_touched_is_checked_and_used(plan: PackPlan) -> None:
    path = ensure_pack(plan)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert not is_sealed(path)
    assert ensure_pack(plan, refuse_to_build) == path
    assert is_sealed(path)


def test_the_digest_tells_blocks_that_changed_places_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg.pack.build.BLOCK_BYTES", 1000)
    contents = [
        b"a" * 1000 + b"b" * 1000 + b"c",
        b"b" * 1000 + b"a" * 1000 + b"c",
        b"a" * 1000 + b"b" * 1000,
        b"",
    ]
    digests = set()
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
        digests.add(digest_file(tmp_path / str(number)))
    assert len(digests) == 4


def test_one_process_builds_while_the_others_wait_for_it(
    plan: PackPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go = threading.Event(), threading.Event()

    def build_when_told(plan: PackPlan) -> Rows:
        begun.set()
        assert go.wait(60)
        yield from rows_by_threads(plan)

    said = ""

    def is_waiting() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return f"waiting for another process, which builds {plan.path}" in said

    with ThreadPoolExecutor(2) as pool:  # locks of two open files shut each other out as two processes do
        first = pool.submit(ensure_pack, plan, build_when_told)
        assert begun.wait(60)
        second = pool.submit(ensure_pack, plan, refuse_to_build)
        try:
            wait_until(is_waiting, "the second waits")
        finally:
            go.set()
        assert first.result() == second.result() == plan.path


DIE_HALF_WAY = """
import os, pickle, signal, sys
from seg.pack.build import ensure_pack
from seg.pack.pack import rows_by_threads

def prepare(plan):
    yield next(rows_by_threads(plan))
    os.kill(os.getpid(), signal.SIGKILL)

ensure_pack(pickle.load(sys.stdin.buffer), prepare)
"""


def test_a_killed_builder_leaves_no_pack_and_its_leftovers_go_with_the_next(plan: PackPlan) -> None:
    killed = subprocess.run([sys.executable, "-c", DIE_HALF_WAY], input=pickle.dumps(plan), check=False)
    assert killed.returncode == -signal.SIGKILL
    path = plan.path
    assert len(list(path.parent.glob("*.part"))) == len(list(path.parent.glob(f".{path.name}.*.part"))) == 1
    assert not path.exists()
    assert len(Pack(ensure_pack(plan))) == len(plan.samples)
    assert list(path.parent.glob(".*.part")) == []


def test_what_another_packs_builder_is_writing_is_left_alone(plan: PackPlan) -> None:
    other = replace(plan, fingerprint="another")
    begun, go = threading.Event(), threading.Event()

    def build_when_told(plan: PackPlan) -> Rows:
        rows = rows_by_threads(plan)
        yield next(rows)
        begun.set()
        assert go.wait(60)
        yield from rows

    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(ensure_pack, other, build_when_told)
        assert begun.wait(60)
        (plan.path.parent / f".{'0' * 24}.arrow.abcd1234.part").write_bytes(b"of a builder that was killed")
        try:
            ensure_pack(plan)
            (part,) = plan.path.parent.glob(".*.part")
            assert part.name.startswith(f".{other.path.name}.")
        finally:
            go.set()
        assert len(Pack(building.result())) == len(plan.samples)


def test_a_disk_that_fills_up_is_said_with_folder_and_bytes_and_nothing_stays(plan: PackPlan) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (10_000, before[1])
    )  # the kernel refuses to write on, as if full
    try:
        with pytest.raises(
            RequestError, match=rf"packs {plan.path.parent}: no room for a pack of about [0-9,]+"
        ):
            ensure_pack(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in plan.path.parent.iterdir()] == [seal_file(plan.path).name]
    assert len(Pack(ensure_pack(plan))) == len(plan.samples)


def test_a_pack_that_cannot_fit_is_refused_before_anything_is_decoded(plan: PackPlan) -> None:
    side = 1 << 14  # the largest that is decoded; of 4,096 such images
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    forged = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    plan.samples[0].image.write_bytes(forged + struct.pack(">I", 0) + b"IEND" + b"\xaeB`\x82")
    many = replace(plan, samples=plan.samples[:1] * 4096)
    with pytest.raises(RequestError, match=r"no room for a pack of about \d,\d{3},\d{3},\d{3},\d{3} by"):
        ensure_pack(many, refuse_to_build)


def test_a_folder_that_cannot_be_written_is_named(plan: PackPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / "packs"
    with pytest.raises(RequestError, match=rf"packs {folder}: Not a directory; set FRINGE_CACHE to a folder"):
        ensure_pack(replace(plan, folder=folder))


def test_a_bad_image_or_label_is_refused_by_name(plan: PackPlan) -> None:
    bad = plan.samples[1]
    whole = bad.image.read_bytes()
    bad.image.write_bytes(whole[:-40])
    with pytest.raises(RequestError, match=r"images/s0/1.png: the file ends after .*; mend or remove it"):
        ensure_pack(plan)
    bad.image.write_bytes(whole)
    assert bad.label is not None
    bad.label.write_bytes(whole)
    with pytest.raises(RequestError, match=r"data: .*images/s0/1.png: label .*masks/s0/1.png holds class id"):
        ensure_pack(plan)
    assert [file.name for file in plan.path.parent.iterdir()] == [seal_file(plan.path).name]
