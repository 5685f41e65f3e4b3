"""The benchmark: the pace of its devices, what it reads out of what was said, what it reckons."""

from __future__ import annotations

import json
import socket
import struct
import threading
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import figures, nbd, page, peer_flow
from benchmarks.devices import MB, PROFILES, Profile, Speed
from benchmarks.figures import limit, longest_silence, row, seconds_of
from benchmarks.memory import PeakMemory
from benchmarks.payload import Source
from benchmarks.slowdisk import SlowDisk
from crfs import steps
from crfs.errors import RehearsalError
from crfs.rehearsal.workbench import run_in_uml
from crfs.steps import base

SLOW = Speed(100.0, 10.0, 50.0, 5.0)
FAST = Speed(1e12, 1e12, 1e9, 1e9)


def test_a_pace_keeps_to_bytes_and_to_operations() -> None:
    pace = nbd.Pace(SLOW)
    assert pace.done_at(nbd.READ, 0, 1000, 100.0) == pytest.approx(110.0, abs=0.01)
    # The next one waits for the first, and one operation takes its time however small it is.
    assert pace.done_at(nbd.WRITE, 0, 1, 100.0) == pytest.approx(110.2, abs=0.01)
    assert pace.done_at(nbd.TRIM, 0, 1 << 30, 120.0) == pytest.approx(120.2, abs=0.01)
    assert pace.busy_s == pytest.approx(10.4)


def test_a_slept_over_moment_is_not_lost_but_idleness_is() -> None:
    pace = nbd.Pace(SLOW)
    first = pace.done_at(nbd.READ, 0, 1000, 0.0)
    assert pace.done_at(nbd.READ, 0, 1000, first + 0.001) == pytest.approx(first + 10.0)
    later = first + 1000
    assert pace.done_at(nbd.READ, 0, 1000, later) == pytest.approx(later + 10.0 - nbd.CREDIT_S)


def test_writes_that_go_on_are_one_operation() -> None:
    speed = Speed(100.0, 10.0, 50.0, 2.0)
    pace = nbd.Pace(speed)
    ends = [pace.done_at(nbd.WRITE, offset, 1, 0.0) for offset in range(8)]
    assert ends == pytest.approx([0.5] * 5 + [0.6, 0.7, 0.8], abs=0.01)
    # Elsewhere, after something else, and after a pause it is an operation of its own.
    assert pace.done_at(nbd.WRITE, 100, 1, 0.0) == pytest.approx(1.3, abs=0.01)
    pace.done_at(nbd.FLUSH, 0, 0, 0.0)
    assert pace.done_at(nbd.WRITE, 101, 1, 0.0) == pytest.approx(2.3, abs=0.01)
    assert pace.done_at(nbd.WRITE, 102, 1, 10.0) == pytest.approx(10.5, abs=0.01)


def test_reads_that_go_on_and_were_waiting_are_one_operation() -> None:
    pace = nbd.Pace(Speed(10.0, 100.0, 2.0, 50.0))
    waiting = [pace.done_at(nbd.READ, offset, 1, 0.0, queued=offset > 0) for offset in range(8)]
    assert waiting == pytest.approx([0.5] * 5 + [0.6, 0.7, 0.8], abs=0.01)
    # One that was asked for only when the last was taken up is an operation of its own.
    assert pace.done_at(nbd.READ, 8, 1, 0.8) == pytest.approx(1.3, abs=0.01)
    assert pace.done_at(nbd.READ, 100, 1, 0.0, queued=True) == pytest.approx(1.8, abs=0.01)
    assert pace.done_at(nbd.WRITE, 101, 1, 0.0, queued=True) == pytest.approx(1.82, abs=0.01)


def test_what_lies_side_by_side_and_waits_is_taken_up_together() -> None:
    """In its order on the disk, whatever the order in which it was asked for."""
    read, write = nbd.READ, nbd.WRITE
    asked = [(read, 30, 5), (read, 10, 10), (write, 35, 1), (read, 20, 10), (read, 40, 1)]
    waiting = [nbd.Request(kind, 7, offset, size, b"") for kind, offset, size in asked]
    offsets = []
    while waiting:
        offsets.append([one.offset for one in nbd.side_by_side(waiting)])
    assert offsets == [[10, 20, 30], [35], [40]]


def test_requests_that_were_sent_before_the_end_are_carried_out(tmp_path: Path) -> None:
    """Those that lie side by side as one operation, whatever the order they were asked in."""
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    disk = nbd.Disk(image, Speed(1e9, 1e9, 1e6, 20.0))
    here, there = socket.socketpair()
    with here, there:
        for offset in (1, 2, 3, 0):
            here.sendall(_ask(nbd.WRITE, offset, 1, b"x"))
        here.sendall(_ask(nbd.DISCONNECT, 0, 0))
        nbd.transmit(there, disk)
    assert image.read_bytes()[:5] == b"xxxx\0"
    assert disk.counters.busy_s == pytest.approx(1 / 20)


def _ask(kind: int, offset: int, size: int, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, kind, 7, offset, size) + data


def test_a_disk_speaks_nbd_and_counts(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    disk = nbd.Disk(image, FAST)
    here, there = socket.socketpair()

    def serve() -> None:
        with there:
            nbd.negotiate(there, disk.size)
            nbd.transmit(there, disk)

    server = threading.Thread(target=serve)
    server.start()
    with here:
        assert nbd.receive(here, 18)[:16] == b"NBDMAGICIHAVEOPT"
        here.sendall(struct.pack(">I", 3))
        here.sendall(struct.pack(">8sII", nbd.OPTION_MAGIC, 99, 2) + b"xx")
        assert struct.unpack(">QIII", nbd.receive(here, 20))[2] == nbd.UNSUPPORTED
        here.sendall(struct.pack(">8sII", nbd.OPTION_MAGIC, nbd.GO, 6) + bytes(6))
        _, _, kind, length = struct.unpack(">QIII", nbd.receive(here, 20))
        assert kind == nbd.INFO
        assert struct.unpack(">HQH", nbd.receive(here, length))[1] == 1 << 20
        nbd.receive(here, 20 + 14 + 20)
        here.sendall(_ask(nbd.WRITE, 4096, 5, b"hello"))
        assert struct.unpack(">IIQ", nbd.receive(here, 16)) == (nbd.REPLY_MAGIC, 0, 7)
        here.sendall(_ask(nbd.READ, 4095, 7))
        assert nbd.receive(here, 16 + 7)[16:] == b"\0hello\0"
        here.sendall(_ask(nbd.FLUSH, 0, 0) + _ask(nbd.TRIM, 0, 8192) + _ask(77, 0, 0))
        errors = [struct.unpack(">IIQ", nbd.receive(here, 16))[1] for _ in range(3)]
        assert errors == [0, 0, nbd.INVALID]
        here.sendall(_ask(nbd.DISCONNECT, 0, 0))
    server.join(10)
    assert not server.is_alive()
    assert image.read_bytes() == bytes(1 << 20)
    counters = disk.counters
    assert (counters.bytes_read, counters.bytes_written, counters.bytes_discarded) == (7, 5, 8192)
    assert (counters.reads, counters.writes) == (1, 1)


@pytest.mark.integration
def test_a_slow_disk_is_slow_in_a_real_kernel(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * (8 << 20))
    script = """
    read -r before _ </proc/uptime
    dd if=/dev/zero of=/dev/vda bs=1M count=2 conv=fsync 2>/dev/null
    read -r after _ </proc/uptime
    echo "$before $after"
    blkdiscard --offset 4194304 --length 4194304 /dev/vda
    """
    with SlowDisk(image, Speed(100 * MB, 1 * MB, 1e4, 1e4)) as disk:
        for number in (1, 2):  # as over a reboot
            output = run_in_uml(script, disks=[disk.socket], check=True).output
            before, after = map(float, output.split())
            assert 2.0 < after - before < 20
            assert disk.counters().bytes_written == number * (2 << 20)
            assert disk.counters().bytes_discarded == number * (4 << 20)
    assert image.read_bytes() == bytes(2 << 20) + b"x" * (2 << 20) + bytes(4 << 20)


def test_payload_compresses_by_half_and_is_the_same_each_time() -> None:
    once, twice = (b"".join(Source().pieces(1 << 20)) for _ in range(2))
    assert once == twice
    assert len(once) == 1 << 20
    assert 0.45 < len(zlib.compress(once)) / len(once) < 0.6


def test_limit_is_the_slower_end_of_each_way() -> None:
    profile = Profile("test", Speed(40, 10, 1, 1), Speed(30, 20, 1, 1))
    assert limit(1200, profile) == (60, 120)
    assert limit(1200, profile.times(2)) == (30, 60)
    slow_stick = Profile("test", Speed(40, 100, 1, 1), Speed(30, 60, 1, 1))
    assert limit(1200, slow_stick) == (30, 40)


def test_longest_silence_begins_before_or_after() -> None:
    assert longest_silence([0, 50, 51, 52, 90, 91], since=51.5) == 38
    assert longest_silence([0, 50], since=10) == 50
    assert longest_silence([], since=0) == 0


def test_memory_is_heard_between_other_words() -> None:
    memory = PeakMemory()
    for line in (
        "%M crfs 1236 28896 17104",
        " 5 % in all | Copy%M crfs 1236 28900 16000",
        "%M mkfs.ext4 99 5000 400",
        "%M mkfs.ext4 98 4000 400",
        "%G 2097152",
        "a line with %M crfs in it",
    ):
        memory.hear(line)
    assert (memory.worker_kib, memory.worker_anonymous_kib) == (28900, 17104)
    assert memory.children_kib == {"mkfs.ext4": 5000}
    assert memory.group_kib == 2048


def test_phases_last_until_the_next_one() -> None:
    output = "noise\n@phase out 10.5\nmore\n@phase back 20.75\n@phase end 21.00\n"
    assert peer_flow.phases_of(output) == {"out": 10.25, "back": 0.25}
    with pytest.raises(RehearsalError, match="did not come to its end"):
        peer_flow.phases_of("@phase out 10.5\nkilled\n")


def test_essential_differences_are_contents_owners_and_modes() -> None:
    entry = {"type": "file", "size": 1, "sha256": "a", "mode": "0644", "uid": 0, "gid": 0}
    socket_entry = {"type": "socket", "mode": "0644", "uid": 0, "gid": 0}
    truth = {"/a": {**entry, "mtime": 1, "flags": 16}, "/s": socket_entry}
    assert peer_flow.essential_differences(truth, {"/a": {**entry, "mtime": 2}}) == []
    assert peer_flow.essential_differences(truth, {"/a": {**entry, "uid": 1}}) != []
    assert peer_flow.essential_differences(truth, {}) != []


def _report() -> dict[str, Any]:
    steps = [
        {"id": "copy", "seconds": 30.0},
        {"id": "discard-root", "seconds": 2.0},
        {"id": "restore", "seconds": 50.0},
        {"id": "grow", "seconds": 1.0},
    ]
    crfs = {
        "case": "one",
        "flow": "crfs",
        "steps": steps,
        "used_bytes": 400 * MB,
        "total_s": 120.0,
        "service_gap_s": 70.0,
        "reboots_s": 37.0,
        "differences": 0,
        "written": {"card": 410 * MB, "stick": 420 * MB},
        "unlock_adds_s": 1.5,
        "status_cost": 3.9,
        "memory": {"worker_kib": 28 * 1024, "group_kib": 900 * 1024},
    }
    rsync = {
        "case": "one",
        "flow": "rsync",
        "phases": {"copy-out": 40.0, "copy-back": 60.0},
        "total_s": 100.0,
        "written": {"card": 1, "stick": 2},
        "differences": 12,
    }
    return {
        "date": "2025-01-31",
        "machine": "a <machine>",
        "factor": 1.0,
        "profile": page.profile_as_json(PROFILES["sdr104"]),
        "cases": {"one": "25 % & full", "two": "not measured"},
        "results": [crfs, rsync],
    }


def test_rows_tell_copying_from_the_rest() -> None:
    crfs, rsync = (row(one) for one in _report()["results"])
    assert (crfs.copying_s, crfs.back_s, crfs.wiping_s, crfs.down_s) == (80, 50, 2, 70)
    assert (rsync.copying_s, rsync.back_s, rsync.wiping_s, rsync.down_s) == (100, 60, 0, 100)
    assert seconds_of(_report()["results"][0]["steps"], ("grow", "none")) == 1


def test_the_page_has_a_table_a_case_and_keeps_the_prose(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(f"# Before\n\n{page.BEGIN}\nold\n{page.END}\n\nAfter.\n")
    page.write(_report(), tmp_path)
    text = path.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    # 400 MB at 20 MB/s out and at 10 MB/s back.
    assert "The limit is 60 s, of which the way back takes 40 s." in text
    expected = "| crfs | 120 s | 80 s | 1.33 | 50 s | 2 s | 70 s | 410 MB | 420 MB | 0 |"
    assert expected in text
    assert "| 25 % & full | 37 s | 1.5 s | 3.9 | 28 MiB | 900 MiB |" in text
    assert "| `restore` | 50.0 s |" in text
    assert "not measured" not in text
    page.write(json.loads(json.dumps(_report())), tmp_path)
    assert path.read_text() == text


def test_marks_have_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not found"):
        page.between("no marks", "figures")


def test_the_picture_is_to_scale() -> None:
    picture = ElementTree.fromstring(page.picture(_report()))
    namespace = {"svg": "http://www.w3.org/2000/svg"}
    widths = {
        kind: [
            float(one.attrib["width"])
            for one in picture.findall(f"svg:rect[@class='{kind}']", namespace)
            if float(one.attrib["y"]) > 20
        ]
        for kind in ("copy", "wipe", "rest")
    }
    scale = page.BAR_WIDTH / 120
    assert widths["copy"] == pytest.approx([80 * scale, 100 * scale], abs=0.1)
    assert widths["rest"] == pytest.approx([38 * scale, 0], abs=0.1)
    texts = [one.text for one in picture.findall("svg:text", namespace)]
    assert "25 % & full" in texts
    assert "120 s" in texts


def test_steps_that_are_added_up_are_steps_of_crfs() -> None:
    named = {*figures.COPYING, *figures.WIPING, *figures.BACK}
    assert named <= {step.id for step in steps.ALL}
    # All that reads or writes everything is in one of the sums, or runs while services do.
    weighty = {step.id for step in steps.ALL if step.bytes is base.used or "read" in step.id}
    assert weighty <= named
