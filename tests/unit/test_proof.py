"""Comparing two trees finds every kind of difference; what is proven is not looked at again."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crfs import marks, proof, trees
from crfs.proof import Copied, Difference, Proven

NODUMP = 0x40

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


def compare(pair: tuple[Path, Path], skip: tuple[bytes, ...] = ()) -> Difference:
    return proof.compare(*pair, lambda name: name in skip, lambda done: None, Proven())


def test_equal_trees(pair: tuple[Path, Path]) -> None:
    told: list[int] = []
    found = proof.compare(*pair, lambda name: False, told.append, Proven())
    assert found.count == 0, found.examples
    assert found.entries == 12
    assert told[-1] == 2 * 7000 + 5 + 3


def test_holes_are_no_progress(pair: tuple[Path, Path]) -> None:
    for root in pair:
        os.truncate(root / "empty", 10**8)
    told: list[int] = []
    proof.compare(*pair, lambda name: False, told.append, Proven())
    assert max(told) < 10**5


def test_a_missing_socket_is_found(pair: tuple[Path, Path]) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(pair[0] / "socket"))
    assert "'socket': is missing" in compare(pair).examples


def keep_time(path: Path, act: Callable[[Path], object]) -> None:
    """Change something without the modification time giving it away."""
    folder = path.parent.stat()
    own = path.lstat() if os.path.lexists(path) else folder
    act(path)
    if os.path.lexists(path):
        os.utime(path, ns=(own.st_atime_ns, own.st_mtime_ns), follow_symlinks=False)
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))


def relink(path: Path) -> None:
    """The same content and count of links, but a file of its own."""
    path.unlink()
    path.write_bytes(b"content" * 1000)
    os.link(path, path.with_name("second"))


def repoint(path: Path) -> None:
    path.unlink()
    path.symlink_to("folder/fine")
    os.setxattr(path, "trusted.link", b"kept", follow_symlinks=False)


def refile(path: Path) -> None:
    path.unlink()
    path.touch()


def set_nodump(path: Path) -> None:
    name = os.fsencode(path)
    trees.set_flags(name, trees.get_flags(name) | NODUMP)


def remake(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o020600, os.makedev(1, 5))


CHANGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "content": ("folder/file", lambda path: path.write_bytes(b"CONTENT" * 1000), "contents"),
    "last byte": ("other", lambda path: path.write_bytes(b"othes"), "contents"),
    "size": ("other", lambda path: path.write_bytes(b"others"), "st_size"),
    "mode": ("other", lambda path: path.chmod(0o600), "st_mode"),
    "setuid": ("folder/file", lambda path: path.chmod(0o4755), "st_mode"),
    "folder mode": ("folder", lambda path: path.chmod(0o700), "st_mode"),
    "owner": ("other", lambda path: os.chown(path, 12345, -1), "st_uid"),
    "group": ("folder/below", lambda path: os.chown(path, -1, 12345), "st_gid"),
    "link's owner": ("link", lambda path: os.lchown(path, 12345, -1), "st_uid"),
    "link's target": ("link", repoint, "target of the link"),
    "link's attribute": (
        "link",
        lambda path: os.setxattr(path, "trusted.link", b"x", follow_symlinks=False),
        "attributes",
    ),
    "attribute": ("other", lambda path: os.setxattr(path, "user.note", b"lost"), "attributes"),
    "attribute gone": ("other", lambda path: os.removexattr(path, "user.note"), "attributes"),
    "new attribute": ("folder", lambda path: os.setxattr(path, "user.new", b""), "attributes"),
    "kind": ("fifo", refile, "st_mode"),
    "device": ("device", remake, "device number"),
    "missing": ("other", lambda path: path.unlink(), "missing"),
    "missing folder": ("folder/below", lambda path: path.rmdir(), "missing"),
    "hard link": ("hard", relink, "no longer a hard link"),
    "flag": ("other", set_nodump, "inode flags"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_each_difference_is_found(pair: tuple[Path, Path], change: str) -> None:
    name, act, words = CHANGES[change]
    keep_time(pair[1] / name, act)
    found = compare(pair)
    assert found.count
    assert any(words in one for one in found.examples), found.examples


def test_a_nanosecond_is_found(pair: tuple[Path, Path]) -> None:
    times = (pair[1] / "other").stat()
    os.utime(pair[1] / "other", ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert "st_mtime_ns" in compare(pair).examples[0]


def test_surplus_is_found(pair: tuple[Path, Path]) -> None:
    keep_time(pair[1] / "folder/new", lambda path: path.touch())
    found = compare(pair)
    assert found.examples == ["'folder/new': is in the copy only"]


def test_odd_names_are_compared_and_told(pair: tuple[Path, Path]) -> None:
    odd = os.fsencode(pair[1]) + b"/na\xffme\n"
    keep_time(Path(os.fsdecode(odd)), lambda path: path.write_bytes(b"ODD"))
    found = compare(pair)
    assert found.count == 1
    assert found.examples[0].isprintable()


def test_what_differs_on_purpose_is_passed_over(pair: tuple[Path, Path]) -> None:
    (pair[1] / "other").write_bytes(b"dressed")
    keep_time(pair[1] / "folder/new", lambda path: path.touch())
    assert compare(pair, skip=(b"other", b"folder/new")).count == 0


def test_many_differences_make_a_short_message(pair: tuple[Path, Path]) -> None:
    for number in range(50):
        keep_time(pair[0] / f"only-{number}", Path.touch)
    found = compare(pair)
    assert found.count == 50
    error = proof.explain(found)
    assert "50 places" in error.what
    assert len(error.what.splitlines()) == 11
    assert error.advice


def let_age(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both trees older than what may still change within one tick of the clock."""
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names of the source's files whose contents are read from here on."""
    read: list[bytes] = []
    real = proof._same_content

    def same_content(left: bytes, right: bytes, size: int) -> bool:
        read.append(os.path.basename(left))
        return real(left, right, size)

    monkeypatch.setattr(proof, "_same_content", same_content)
    return read


def prove(pair: tuple[Path, Path]) -> tuple[Proven, int]:
    return proof.prove(*pair, lambda name: False, lambda done: None)


def test_what_is_proven_is_not_read_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_age(pair, monkeypatch)
    proven, differing = prove(pair)
    assert (len(proven), differing) == (12, 0)
    read = read_files(monkeypatch)
    found = proof.compare(*pair, lambda name: False, lambda done: None, proven)
    assert (found.count, read) == (0, [])


@pytest.mark.parametrize("side", [0, 1])
def test_what_has_changed_since_is_read_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """Also if size and modification time are as before."""
    let_age(pair, monkeypatch)
    proven, _ = prove(pair)
    keep_time(pair[side] / "other", lambda path: path.write_bytes(b"OTHER"))
    read = read_files(monkeypatch)
    found = proof.compare(*pair, lambda name: False, lambda done: None, proven)
    assert read == [b"other"]
    assert found.examples == ["'other': has other contents"]


def test_what_has_just_changed_is_not_proven(pair: tuple[Path, Path]) -> None:
    """A second change in the same tick of the kernel's clock would leave no trace."""
    assert [len(prove(pair)[0]), prove(pair)[1]] == [0, 0]


def test_a_copy_that_differs_is_emptied_and_so_copied_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_age(pair, monkeypatch)
    keep_time(pair[1] / "other", lambda path: path.write_bytes(b"OTHER"))
    proven, differing = prove(pair)
    assert (len(proven), differing) == (11, 1)
    assert (pair[1] / "other").stat().st_size == 0
    assert (pair[0] / "other").read_bytes() == b"other"


def test_proving_a_tree_that_changes_meanwhile(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_age(pair, monkeypatch)

    def vanish(left: bytes, right: bytes, size: int) -> bool:
        raise FileNotFoundError(left)

    monkeypatch.setattr(proof, "_same_content", vanish)
    assert prove(pair)[1] == 0
    assert (pair[1] / "other").read_bytes() == b"other"


def test_a_link_in_the_copy_is_never_followed(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link of the source became a folder: in the copy it may lead into the system in use."""
    let_age(pair, monkeypatch)
    live = pair[0].with_name("live")
    live.mkdir()
    (live / "file").write_bytes(b"precious")
    (pair[0] / "data/below").mkdir(parents=True)
    (pair[0] / "data/file").write_bytes(b"changed!")
    (pair[1] / "data").symlink_to(live)
    proven, emptied = prove(pair)
    assert emptied == 0
    names = proof.unproven(*pair, lambda name: False, proven)
    assert (live / "file").read_bytes() == b"precious"
    assert {b"data", b"data/file", b"data/below"} <= set(names)
    found = compare(pair).examples
    assert "'data/file': is missing" in found
    assert "'data/below': is missing" in found


def test_names_that_the_copy_has_linked_otherwise_are_looked_for_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many names a file, in other pairs: each by itself is like its source."""
    for root, links in zip(pair, (("one two", "x y"), ("one x", "two y")), strict=True):
        for first, second in map(str.split, links):
            (root / first).write_text("same")
            os.utime(root / first, ns=(0, 0))
            os.link(root / first, root / second)
    let_age(pair, monkeypatch)
    proven, _ = prove(pair)
    names = proof.unproven(*pair, lambda name: False, proven)
    assert {b"one", b"two", b"x", b"y"} <= set(names)
    assert {path.name for path in pair[1].iterdir()} >= {"one", "two"}
    assert not {"x", "y"} & {path.name for path in pair[1].iterdir()}


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_file(path: Path) -> None:
    path.unlink() if path.is_symlink() else path.rmdir()
    path.write_text("x")


def to_link(path: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("other", Path.unlink),
        ("other", to_fifo),
        ("other", to_folder),
        ("other", to_link),
        ("folder/below", Path.rmdir),
        ("folder/below", to_file),
        ("folder/below", to_link),
        ("link", Path.unlink),
        ("link", to_file),
    ],
)
def test_what_changes_while_it_is_compared_is_not_proven(
    pair: tuple[Path, Path], name: str, act: Callable[[Path], object]
) -> None:
    """Between the look at it and the comparison; before the look; nothing waits or fails."""
    one = next(one for one in proof._pairs(*pair) if os.fsdecode(one.name) == name)
    act(pair[0] / name)
    assert proof._judge(one, lambda name: False, None)
    one = next((one for one in proof._pairs(*pair) if os.fsdecode(one.name) == name), one)
    assert proof._judge(one, lambda name: False, None)


def test_a_medium_that_fails_is_no_change(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(left: bytes, right: bytes, size: int) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(proof, "_same_content", fail)
    with pytest.raises(OSError, match="Input/output error"):
        prove(pair)


@pytest.mark.parametrize("year", [1901, 1969, 2300])
def test_times_far_away(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    let_age(pair, monkeypatch)
    seconds = (year - 1970) * 31556952
    for root in pair:
        os.utime(root / "other", (seconds, seconds))
    assert len(prove(pair)[0]) == 12


def test_what_only_contents_tell_apart_is_emptied_before_the_last_copy(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """rsync would take it for equal by size and time."""
    let_age(pair, monkeypatch)
    proven, _ = prove(pair)
    keep_time(pair[0] / "other", lambda path: path.write_bytes(b"OTHER"))
    assert proof.unproven(*pair, lambda name: False, proven) == [b".", b"other"]
    assert (pair[1] / "other").stat().st_size == 0
    assert (pair[0] / "other").read_bytes() == b"OTHER"


def test_marks_are_found_however_many_there_are(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_SORTED_AT_ONCE", 5)
    let_age(pair, monkeypatch)
    proven, _ = prove(pair)
    assert len(proven) == 12
    assert all(one in proven for one in proof._pairs(*pair))
    keep_time(pair[1] / "folder/file", lambda path: path.write_bytes(b"CONTENT" * 1000))
    changed = {one.name for one in proof._pairs(*pair) if one not in proven}
    assert changed == {b"folder", b"folder/file", b"hard"}


def copied_now(
    source: Path, monkeypatch: pytest.MonkeyPatch, only: tuple[bytes, ...] = ()
) -> Copied:
    """What rsync would have told of a copy, all or `only` these, made in this moment."""
    monkeypatch.setattr(proof, "_RECENT_NS", 10**7)
    time.sleep(0.05)
    copied = Copied()
    for name, path, facts in trees.walk(source):
        if stat.S_ISREG(facts.st_mode) and (not only or name in only):
            copied.add(name, hashlib.md5(Path(os.fsdecode(path)).read_bytes()).digest())
    time.sleep(0.02)  # the next tick of the clock behind ctime
    return copied


def prove_copied(pair: tuple[Path, Path], copied: Copied) -> tuple[Proven, int]:
    return proof.prove(*pair, lambda name: False, lambda done: None, copied)


def test_what_rsync_has_read_is_not_read_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = copied_now(pair[0], monkeypatch)
    read = read_files(monkeypatch)
    proven, emptied = prove_copied(pair, copied)
    assert (len(proven), emptied, read) == (12, 0, [])


def test_a_copy_that_is_not_what_rsync_has_read_is_emptied(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the stick may give back other bytes than it was given."""
    copied = copied_now(pair[0], monkeypatch)
    keep_time(pair[1] / "other", lambda path: path.write_bytes(b"OTHER"))
    read = read_files(monkeypatch)
    proven, emptied = prove_copied(pair, copied)
    assert (len(proven), emptied, read) == (11, 1, [b"other"])
    assert (pair[1] / "other").stat().st_size == 0


def test_a_source_that_has_changed_since_rsync_began_is_read(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is what rsync has read, and size and modification time tell nothing."""
    copied = copied_now(pair[0], monkeypatch)
    change_in_place(pair[0] / "other", b"OTHER")
    let_age(pair, monkeypatch)
    read = read_files(monkeypatch)
    proven, emptied = prove_copied(pair, copied)
    assert (len(proven), emptied, read) == (11, 1, [b"other"])


def change_in_place(path: Path, content: bytes) -> None:
    """Nothing but the contents and the kernel's own time; not of the folder either."""
    own = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(own.st_atime_ns, own.st_mtime_ns))


def test_a_clock_set_back_while_rsync_copies(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes then has a time before rsync began."""
    copied = copied_now(pair[0], monkeypatch)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    copied.add(b"last", bytes(16))
    let_age(pair, monkeypatch)
    read = read_files(monkeypatch)
    prove_copied(pair, copied)
    files = {name for name, _, facts in trees.walk(pair[0]) if stat.S_ISREG(facts.st_mode)}
    assert set(read) == {os.path.basename(name) for name in files}


def test_a_clock_set_back_after_rsync_is_done(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looked while it was: the change has a time before rsync began by the old clock."""
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda real=time.time_ns: real() + 3600 * 10**9)
        copied = copied_now(pair[0], monkeypatch)
    change_in_place(pair[0] / "other", b"OTHER")
    time.sleep(0.05)
    read = read_files(monkeypatch)
    assert prove_copied(pair, copied)[1] == 1
    assert read == [b"other"]


def test_a_folder_that_took_the_place_of_another_is_read(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times of what is in it stay as they are when it is moved."""
    for root in pair:
        for name, content in (("app/bin", b"old"), ("fresh/bin", b"new")):
            folder = root / "folder" / name
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(content)
            os.utime(folder / "file", (10**9, 10**9))
    copied = copied_now(pair[0], monkeypatch)
    (pair[0] / "folder/app").rename(pair[0] / "folder/gone")
    (pair[0] / "folder/fresh").rename(pair[0] / "folder/app")
    read = read_files(monkeypatch)
    assert prove_copied(pair, copied)[1] == 1
    # The one that was there before is read for its neighbour's sake.
    assert set(read) == {b"file"}
    assert (pair[1] / "folder/app/bin/file").stat().st_size == 0


@pytest.mark.parametrize("gone", ["folder/below", "folder"])
def test_a_file_whose_folder_has_gone_is_not_known(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Nor is it a failure: on a system in use that is ordinary."""
    (pair[0] / "folder/below").mkdir(exist_ok=True)
    (pair[0] / "folder/below/file").write_bytes(b"file")
    copied = copied_now(pair[0], monkeypatch)
    one = next(one for one in proof._pairs(*pair) if one.name == b"folder/below/file")
    assert copied.knows(one, {})
    (pair[0] / gone).rename(pair[0] / "moved")
    assert not copied.knows(one, {})
    (pair[0] / gone).write_bytes(b"a file now")
    assert not copied.knows(one, {})


def test_what_rsync_has_not_read_is_not_summed_up(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interruption most is there already; to read it twice would help nobody."""
    copied = copied_now(pair[0], monkeypatch, only=(b"other",))
    summed: list[bytes] = []
    real = proof._md5

    def md5(path: bytes, size: int) -> bytes:
        summed.append(os.path.basename(path))
        return real(path, size)

    monkeypatch.setattr(proof, "_md5", md5)
    read = read_files(monkeypatch)
    prove_copied(pair, copied)
    assert summed == [b"other"]
    assert {b"file", b"hard"} <= set(read)


def test_contents_count_under_their_own_name_only(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files that have changed places in the copy are both what rsync has read somewhere."""
    for root in pair:
        (root / "third").write_bytes(b"third")
        os.utime(root / "third", (10**9, 10**9))
        os.utime(root, (10**9, 10**9))
    copied = copied_now(pair[0], monkeypatch)
    for name, content in (("other", b"third"), ("third", b"other")):
        keep_time(pair[1] / name, lambda path, text=content: path.write_bytes(text))  # type: ignore[misc]
    assert prove_copied(pair, copied)[1] == 2


def fetched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths of the files that the kernel is asked to fetch from here on."""
    paths: set[str] = set()

    def fadvise(descriptor: int, offset: int, size: int, advice: int) -> None:
        assert (offset, size, advice) == (0, 0, os.POSIX_FADV_WILLNEED)
        paths.add(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    return paths


@pytest.mark.parametrize("known", [False, True])
def test_small_files_are_fetched_before_they_are_read(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """On the card only what is going to be read there."""
    for root in pair:
        (root / "large").write_bytes(bytes(proof._SMALL_BYTES + 1))
    copied = copied_now(pair[0], monkeypatch) if known else Copied()
    paths = fetched(monkeypatch)
    prove_copied(pair, copied)
    sides = [pair[1]] if known else pair
    assert paths >= {str(side / name) for side in sides for name in ("other", "folder/file")}
    assert not [path for path in paths if path.endswith(("large", "empty", "link"))]
    if known:
        assert not [path for path in paths if path.startswith(f"{pair[0]}/")]


@pytest.mark.parametrize(("batch", "large_ahead"), [(1, 0), (2, 1), (256, 4)])
def test_every_file_is_compared_however_little_is_looked_ahead(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, batch: int, large_ahead: int
) -> None:
    """Each second file is large."""
    monkeypatch.setattr(proof, "_BATCH", batch)
    monkeypatch.setattr(proof, "_LARGE_AHEAD", large_ahead)
    wrong = []
    for number in range(40):
        name = f"{number:02}"
        for root in pair:
            content = bytes(proof._SMALL_BYTES + number) if number % 2 else b"small"
            (root / name).write_bytes(content)
            os.utime(root / name, (10**9, 10**9))
        if number % 3 == 0:
            wrong.append(name)
            keep_time(pair[1] / name, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"))
    for root in pair:
        os.utime(root, (10**9, 10**9))
    let_age(pair, monkeypatch)
    proven, emptied = prove(pair)
    assert emptied == len(wrong)
    for number in range(40):
        name = f"{number:02}"
        assert bool((pair[1] / name).stat().st_size) is (name not in wrong)
    assert len(proven) == 12 + 40 - len(wrong)


def test_the_next_piece_is_fetched_while_one_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = proof._READ_BYTES
    content = os.urandom(2 * piece + 3)
    (tmp_path / "one").write_bytes(content)
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *what: told.append(what))
    pieces = proof._content(os.fsencode(tmp_path / "one"), len(content))
    assert next(pieces) == content[:piece]
    assert told == [(piece, 2 * piece, os.POSIX_FADV_WILLNEED)]
    assert b"".join(pieces) == content[piece:]
    assert len(told) == 2
    # What has become shorter meanwhile ends there.
    assert b"".join(proof._content(os.fsencode(tmp_path / "one"), 5 * piece)) == content


@pytest.mark.parametrize("place", [0, proof._READ_BYTES, 2 * proof._READ_BYTES + 2])
def test_a_difference_is_found_wherever_it_is(tmp_path: Path, place: int) -> None:
    content = bytearray(2 * proof._READ_BYTES + 3)
    (tmp_path / "one").write_bytes(content)
    content[place] = 1
    (tmp_path / "two").write_bytes(content)
    one, two = (os.fsencode(tmp_path / name) for name in ("one", "two"))
    assert not proof._same_content(one, two, len(content))
    assert proof._same_content(one, one, len(content))
    (tmp_path / "two").write_bytes(content[:place])
    assert not proof._same_content(one, two, len(content))


def test_what_is_read_in_bits_is_compared_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel may give less than it is asked for; where a medium fails, the error comes next."""
    for name, last in (("one", b"1"), ("two", b"2")):
        (tmp_path / name).write_bytes(bytes(5000) + last)
    one, two = (os.fsencode(tmp_path / name) for name in ("one", "two"))
    real = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: real(descriptor, min(size, 1000)))
    assert b"".join(proof._content(one, 9999)) == bytes(5000) + b"1"
    assert proof._same_content(one, one, 5001)
    assert not proof._same_content(one, two, 5001)

    def fail(descriptor: int, size: int) -> bytes:
        if size == 5001:
            return real(descriptor, 4096)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(OSError, match="Input/output"):
        proof._same_content(one, two, 5001)
    with pytest.raises(OSError, match="Input/output"):
        proof._md5(one, 5001)


def test_nothing_stays_open_where_a_medium_fails(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open keeps the stick from being unmounted."""
    for root in pair:
        (root / "large").write_bytes(bytes(3 * proof._READ_BYTES))
        os.utime(root / "large", (10**9, 10**9))
        os.utime(root, (10**9, 10**9))
    real, reads = proof._read, 0

    def fail(descriptor: int, size: int) -> bytes:
        nonlocal reads
        reads += size == proof._READ_BYTES
        if reads == 3:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, size)

    monkeypatch.setattr(proof, "_read", fail)
    before = set(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        with pytest.raises(OSError, match="Input/output") as caught:
            prove(pair)
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
    assert caught.value.errno == errno.EIO
