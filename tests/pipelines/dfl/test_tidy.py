"""Sorting, packing and clearing a workspace: order, round trips, and nothing of others touched."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import cv2
import pytest

from accel.core import ConfigError, InputError
from accel.faces.faceset import faces_in, read_face, with_face
from accel.faces.faceset_pak import open_pak
from accel.faces.find import FaceModels
from accel.faces.sort import MODES, arrange, aside_of
from accel.pipelines.dfl.alone import alone
from accel.pipelines.dfl.clear import clear_workspace, list_made
from accel.pipelines.dfl.extract import ExtractConfig, extract_faces
from accel.pipelines.dfl.made import LIST_NAME, made_in
from accel.pipelines.dfl.pack import pack_faces, unpack_faces
from accel.pipelines.dfl.save_frames import save_frames
from accel.pipelines.dfl.sort import sort_faces
from accel.pipelines.dfl.workspace import Workspace
from tests.pipelines.dfl.clips import FRAMES, full_disk, workspace


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    folder = workspace(tmp_path_factory.mktemp("made"), sides=("src",))
    extract_faces(folder, "src", ExtractConfig(size=96, debug=True), models=FaceModels())
    return folder


@pytest.fixture
def faces(extracted, tmp_path):
    """A workspace of its own with nine small faces of the source."""
    shutil.copytree(extracted, tmp_path / "w")
    return tmp_path / "w"


def aligned(folder: Path) -> Path:
    return folder / "data_src" / "aligned"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in faces_in(aligned(folder))}


# --- sort ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", sorted(MODES))
def test_every_way_of_sorting_keeps_every_byte(faces, by):
    before = sorted(contents(faces).values())
    report = sort_faces(faces, "src", by, target=5)
    trash = faces / "data_src" / "aligned_trash"
    gone = [p.read_bytes() for p in trash.glob("*.jpg")] if trash.exists() else []
    assert sorted([*contents(faces).values(), *gone]) == before
    assert report["faces"] + report["trashed"] == FRAMES
    assert report["trashed"] == len(gone) == (FRAMES - 5 if by.startswith("final") else 0)
    assert list(contents(faces)) == [f"{i:05d}.jpg" for i in range(report["faces"])]


def test_origname_puts_faces_back_in_the_films_order(faces):
    sort_faces(faces, "src", "brightness")
    sort_faces(faces, "src", "origname")
    names = [read_face(p).source_filename for p in faces_in(aligned(faces))]
    assert names == sorted(names)


def test_an_extraction_takes_back_what_a_killed_sort_left_aside(faces):
    before, aside = contents(faces), aside_of(aligned(faces))
    aside.mkdir()
    for path in faces_in(aligned(faces)):
        path.rename(aside / path.name)
    report = extract_faces(faces, "src", ExtractConfig(size=96, debug=True))
    assert report["frames_now"] == 0  # all of it was done once more, and there twice in the end
    assert contents(faces) == before
    with alone(aligned(faces)), pytest.raises(ConfigError, match="another run is at work there"):
        extract_faces(faces, "src", ExtractConfig(size=96, debug=True, overwrite=True))
    assert contents(faces) == before


def test_the_contact_sheet_is_a_picture_of_all(faces):
    report = sort_faces(faces, "src", "hist")
    sheet = cv2.imread(report["sheet"])
    assert Path(report["sheet"]) == faces / "aligned_src_sheet.png"
    assert sheet.shape == (80, FRAMES * 80, 3)
    assert sheet[:, -80:].std() > 10
    mine = sort_faces(faces, "src", "hist", sheet=faces / "other.png")
    assert mine["sheet"] == str(faces / "other.png")


def test_damaged_pictures_go_to_the_trash_with_a_reason(faces):
    folder = aligned(faces)
    whole = (folder / "00001_0.jpg").read_bytes()
    (folder / "00002_0.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    picture = cv2.imread(str(folder / "00003_0.jpg"))
    (folder / "plain.jpg").write_bytes(cv2.imencode(".jpg", picture)[1])
    (folder / "text.jpg").write_text("no picture")
    report = sort_faces(faces, "src", "blur")
    reasons = {bad["file"]: bad["reason"] for bad in report["bad"]}
    assert set(reasons) == {"00002_0.jpg", "plain.jpg", "text.jpg"}
    assert "cut short" in reasons["00002_0.jpg"]
    assert "without face metadata" in reasons["plain.jpg"]
    trash = {p.name for p in (faces / "data_src" / "aligned_trash").iterdir()}
    assert trash >= set(reasons)
    assert report["faces"] == FRAMES - 1


def test_when_no_face_stays_it_is_no_error(faces):
    """Two people in every frame, sorted by `oneface`."""
    for path in sorted(aligned(faces).glob("*_0.jpg")):
        record = read_face(path)
        other = path.with_name(path.name.replace("_0.jpg", "_1.jpg"))
        other.write_bytes(with_face(path.read_bytes(), record))
    count = len(faces_in(aligned(faces)))
    report = sort_faces(faces, "src", "oneface")
    assert (report["faces"], report["trashed"], report["sheet"]) == (0, count, None)
    assert any("all are in the trash folder" in note for note in report["notes"])
    assert not (faces / "aligned_src_sheet.png").exists()


def test_faces_of_other_sizes_and_types_are_sorted_too(faces):
    path = aligned(faces) / "00001_0.jpg"
    record = read_face(path)
    larger = cv2.resize(cv2.imread(str(path)), (200, 200))
    record.landmarks = record.landmarks * 200 / 96
    path.write_bytes(with_face(cv2.imencode(".jpg", larger)[1].tobytes(), record))
    assert sort_faces(faces, "src", "final", target=9)["faces"] == FRAMES


def test_a_sheet_that_cannot_be_written_is_said_before_a_face_is_moved(faces):
    before = contents(faces)
    with pytest.raises(ConfigError, match="the folder must exist"):
        sort_faces(faces, "src", "hue", sheet=faces / "nowhere" / "sheet.png")
    for no_picture in (faces, faces / "sheet.jpg"):
        with pytest.raises(ConfigError, match=r"must have a name that ends in \.png"):
            sort_faces(faces, "src", "hue", sheet=no_picture)
    assert contents(faces) == before


def test_nothing_to_sort_is_said_in_one_line(faces):
    with pytest.raises(ConfigError, match="must be by one of blur"):
        sort_faces(faces, "src", "beauty")
    with pytest.raises(InputError, match=r"found none;.*extract"):
        sort_faces(faces, "dst", "blur")
    pack_faces(faces, "src")
    with pytest.raises(InputError, match="unpack"):
        sort_faces(faces, "src", "blur")
    aligned(faces).joinpath("faceset.pak").unlink()
    (aligned(faces) / "a.jpg").write_text("text")
    with pytest.raises(InputError, match="found 1 other pictures"):
        sort_faces(faces, "src", "blur")
    assert (aligned(faces) / "a.jpg").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_killed_sort_the_next_step_finds_every_face(faces):
    before = sorted(contents(faces).values())
    child = os.fork()
    if not child:
        Path.rename = dying(Path.rename, FRAMES)  # all are aside then, none is back
        arrange(aligned(faces), faces_in(aligned(faces)), [])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert contents(faces) == {}
    assert Workspace(faces).need_faces("src") == aligned(faces)
    assert sorted(contents(faces).values()) == before
    assert not aside_of(aligned(faces)).exists()


@pytest.mark.parametrize("brought", [False, True])
def test_clearing_after_a_killed_sort_takes_what_was_made_and_no_more(faces, brought, monkeypatch):
    if brought:
        one = next(aligned(faces).glob("*.jpg"))
        (aligned(faces) / "mine.jpg").write_bytes(one.read_bytes())

    def killed(*args):
        arrange(*args)
        raise SystemExit  # and nothing that comes after it

    monkeypatch.setattr("accel.pipelines.dfl.sort.arrange", killed)
    monkeypatch.setattr("accel.pipelines.dfl.sort.renamed", lambda *args: None)
    with pytest.raises(SystemExit):
        sort_faces(faces, "src", "hue")
    clear_workspace(faces, really=True)
    # Where the names say no longer whose a face is, all stay.
    assert len(list(faces.rglob("*.jpg"))) == (FRAMES + 1 if brought else 0)


def dying(call, left):
    """The function, which kills its process once it was called `left` times."""
    calls = iter(range(left))

    def run(*args):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)

    return run


# --- pack ----------------------------------------------------------------------------------------


def test_packed_and_unpacked_faces_are_the_same_bytes(faces):
    before = contents(faces)
    report = pack_faces(faces, "src")
    assert report["faces"] == FRAMES
    assert contents(faces) == {}
    first = Path(report["pak"]).read_bytes()
    unpack_faces(faces, "src")
    assert contents(faces) == before
    assert not Path(report["pak"]).exists()
    pack_faces(faces, "src", keep=True)
    assert contents(faces) == before
    assert Path(report["pak"]).read_bytes() == first


def test_faces_that_only_a_pak_holds_are_not_packed_away(faces):
    one = next(aligned(faces).glob("*.jpg"))
    content = one.read_bytes()
    pak = Path(pack_faces(faces, "src")["pak"])
    before = pak.read_bytes()
    again = pack_faces(faces, "src")  # as a script does after a kill that came late
    assert again["faces"] == FRAMES
    assert "holds the faces already" in again["notes"][0]
    (aligned(faces) / "new.jpg").write_bytes(content)
    with pytest.raises(ConfigError, match=f"holds {FRAMES} faces that no picture.*unpack it first"):
        pack_faces(faces, "src")
    assert pak.read_bytes() == before
    unpack_faces(faces, "src")
    assert pack_faces(faces, "src")["faces"] == FRAMES + 1


def test_a_pak_with_torn_faces_is_unpacked_and_kept(faces):
    pack_faces(faces, "src")
    pak = aligned(faces) / "faceset.pak"
    pak.write_bytes(pak.read_bytes()[:-200])  # a download that broke off
    report = unpack_faces(faces, "src")
    assert report["faces"] == FRAMES
    last = max(contents(faces))
    assert f"1 faces in it are cut short, such as {last}; it is kept" in report["notes"][0]
    assert pak.exists()


def test_a_pak_that_breaks_off_halfway_gives_the_faces_before_that(faces):
    before = contents(faces)
    pack_faces(faces, "src")
    pak = aligned(faces) / "faceset.pak"
    last = open_pak(pak).faces[-1]
    pak.write_bytes(pak.read_bytes()[: open_pak(pak).faces[-2].begin + 300])
    report = unpack_faces(faces, "src")
    assert report["faces"] == FRAMES - 1
    assert "2 faces in it are cut short, such as" in report["notes"][0]
    assert pak.exists()
    there = contents(faces)
    assert last.name not in there
    whole = sorted(before)[: FRAMES - 2]
    assert {name: there[name] for name in whole} == {name: before[name] for name in whole}
    for name in set(there) - set(whole) - {pak.name}:
        (aligned(faces) / name).write_bytes(before[name])  # found again elsewhere
    assert pack_faces(faces, "src")["faces"] == FRAMES - 1


def test_a_pak_that_breaks_off_before_its_first_face_is_refused(faces):
    pack_faces(faces, "src")
    pak = aligned(faces) / "faceset.pak"
    pak.write_bytes(pak.read_bytes()[: open_pak(pak).faces[0].begin])
    with pytest.raises(InputError, match="cut short before its first face"):
        unpack_faces(faces, "src")


def test_unpacking_overwrites_nothing(faces):
    pack_faces(faces, "src", keep=True)
    one = next(aligned(faces).glob("*.jpg"))
    one.write_bytes(one.read_bytes() + b"edited")
    before = contents(faces)
    with pytest.raises(InputError, match="exists; remove it before unpacking"):
        unpack_faces(faces, "src")
    assert contents(faces) == before
    assert (aligned(faces) / "faceset.pak").exists()


def test_unpacking_goes_on_after_a_killed_pack_or_unpack(faces):
    before = contents(faces)
    pack_faces(faces, "src", keep=True)
    for path in list(aligned(faces).glob("*.jpg"))[:4]:
        path.unlink()  # all of them go, so far as a killed `pack` comes
    with pytest.raises(ConfigError, match=r"holds 4 faces that no picture.*unpack it first"):
        pack_faces(faces, "src")
    unpack_faces(faces, "src")
    assert contents(faces) == before
    assert not (aligned(faces) / "faceset.pak").exists()


def test_pictures_that_were_there_stay_when_unpacking_fails(faces, monkeypatch):
    pack_faces(faces, "src", keep=True)
    for path in list(aligned(faces).glob("*.jpg"))[:4]:
        path.unlink()
    left = contents(faces)
    full_disk(monkeypatch, after=2)
    with pytest.raises(OSError, match="No space left"):
        unpack_faces(faces, "src")
    assert contents(faces) == left


@pytest.mark.parametrize("where", ["table", "offsets", "version", "end"])
def test_a_pak_that_lies_leaves_everything_as_it_was(faces, where):
    pak = Path(pack_faces(faces, "src")["pak"])
    data = bytearray(pak.read_bytes())
    table = int.from_bytes(data[8:16], "little")
    if where == "table":
        data[8:16] = (1 << 60).to_bytes(8, "little")
    elif where == "offsets":
        data[16 + table + 16 : 16 + table + 24] = (1 << 50).to_bytes(8, "little")
    elif where == "version":
        data[0] = 7
    else:
        del data[16 + table + 40 :]
    pak.write_bytes(data)
    with pytest.raises(InputError, match=r"faceset\.pak") as caught:
        unpack_faces(faces, "src")
    assert "\n" not in str(caught.value)
    assert pak.read_bytes() == bytes(data)
    assert contents(faces) == {}


def test_pictures_stay_when_one_is_no_face(faces):
    (aligned(faces) / "zz.jpg").write_bytes(b"\xff\xd8 no jpeg")
    before = contents(faces)
    with pytest.raises(InputError, match=r"zz\.jpg"):
        pack_faces(faces, "src")
    assert contents(faces) == before
    assert not (aligned(faces) / "faceset.pak").exists()


def test_nothing_to_pack_or_unpack(faces):
    with pytest.raises(InputError, match="must hold aligned faces"):
        pack_faces(faces, "dst")
    with pytest.raises(InputError, match="must be there to be unpacked"):
        unpack_faces(faces, "src")
    assert len(open_pak(Path(pack_faces(faces, "src")["pak"])).faces) == FRAMES


def test_a_full_disk_is_told_with_its_place_and_costs_no_face(faces, monkeypatch):
    before = sorted(contents(faces).values())
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left") as caught:
        sort_faces(faces, "src", "hue")
    assert caught.value.filename == str(aligned(faces) / LIST_NAME)
    assert sorted(contents(faces).values()) == before
    monkeypatch.undo()
    sort_faces(faces, "src", "hue")
    pack_faces(faces, "src")
    full_disk(monkeypatch, after=3)
    with pytest.raises(OSError, match="No space left") as caught:
        unpack_faces(faces, "src")
    assert Path(caught.value.filename).parent == aligned(faces)
    assert contents(faces) == {}
    monkeypatch.undo()
    unpack_faces(faces, "src")
    assert sorted(contents(faces).values()) == before
    assert not list(faces.rglob("*.partial"))


# --- clear ---------------------------------------------------------------------------------------


def test_clear_lists_first_and_takes_only_what_was_made(faces):
    save_frames(faces, "src")
    sort_faces(faces, "src", "final", target=5)
    folder = aligned(faces)
    mine = {folder / "mine.jpg", faces / "data_src" / "mine.png", faces / "notes.txt"}
    for path in mine:
        path.write_bytes(b"mine")
    before = {p for p in faces.rglob("*") if p.is_file()}
    listed = clear_workspace(faces)
    assert not listed["is_done"]
    assert {p for p in faces.rglob("*") if p.is_file()} == before
    assert len(listed["going"][str(folder)]) == 5 + 1  # faces and journal
    report = clear_workspace(faces, really=True)
    left = {p for p in faces.rglob("*") if p.is_file()}
    assert left == mine | {faces / "data_src.mp4"}
    assert report["removed"] == len(before) - len(left) - 5  # the five lists are not counted
    assert not (faces / "data_src" / "aligned_trash").exists()
    assert clear_workspace(faces, really=True)["removed"] == 0


def test_clear_takes_only_the_parts_asked_for(faces):
    save_frames(faces, "src")
    clear_workspace(faces, parts=("frames",), really=True)
    assert not list((faces / "data_src").glob("*.png"))
    assert len(contents(faces)) == FRAMES
    clear_workspace(faces, parts=("aligned",), really=True)
    assert not aligned(faces).exists()
    with pytest.raises(ConfigError, match="parts must be some of"):
        clear_workspace(faces, parts=("films",))


def test_faces_brought_from_elsewhere_stay_even_after_a_round_of_steps(faces):
    face = (aligned(faces) / "00001_0.jpg").read_bytes()
    shutil.rmtree(aligned(faces))
    aligned(faces).mkdir()
    (aligned(faces) / "a.jpg").write_bytes(face)
    sort_faces(faces, "src", "blur")
    pack_faces(faces, "src")
    unpack_faces(faces, "src")
    clear_workspace(faces, really=True)
    assert contents(faces) == {"00000.jpg": face}


def test_a_list_with_paths_in_it_reaches_no_other_folder(faces):
    outside = faces / "precious.txt"
    outside.write_text("keep")
    with (aligned(faces) / LIST_NAME).open("a") as file:
        file.write("../../precious.txt\n/etc/hostname\n..\n")
    assert all(path.parent == aligned(faces) for path in made_in(aligned(faces)))
    clear_workspace(faces, really=True)
    assert outside.read_text() == "keep"


def test_the_list_follows_faces_into_the_trash(faces):
    sort_faces(faces, "src", "final", target=4)
    made = list_made(Workspace(faces), ("aligned",))
    assert sum(p.parent.name == "aligned_trash" and p.suffix == ".jpg" for p in made.files) == 5
