import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdtune.config.cache import CacheOptions
from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.index.building import build_index
from sdtune.data.sources.tars import unpack
from sdtune.errors import DataError, PlatformError
from sdtune.testing.images import draw_picture


def picture(seed=0):
    data = io.BytesIO()
    draw_picture(seed=seed).save(data, "PNG")
    return data.getvalue()


def pack(path, members):
    """Write a tar of names to bytes, or of TarInfo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = b"" if isinstance(data, tarfile.TarInfo) else data
            info.name, info.size = name, len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def read(tmp_path, path, **options):
    return build_index(DataOptions(path=path, cache=CacheOptions(dir=tmp_path / "cache"), **options))


def shard(number):
    return {f"{number:04d}.png": picture(number), f"{number:04d}.txt": f"picture {number}".encode(), "x.cls": b"3"}


def listed(index):
    return [(record.name, record.caption) for record in index.images]


def test_a_tar_is_read_as_the_folder_in_it(tmp_path):
    found = read(tmp_path, pack(tmp_path / "set.tar", shard(1) | shard(2)))
    assert listed(found) == [("0001.png", "picture 1"), ("0002.png", "picture 2")]


def test_a_tar_is_called_by_its_own_name(tmp_path):
    found = read(tmp_path, pack(tmp_path / "10_zwx dog.tar", shard(1)))
    assert [(subset.repeats, subset.class_text) for subset in found.subsets] == [(10, "zwx dog")]


def test_a_folder_of_tars_is_read_as_a_folder_of_folders(tmp_path):
    pack(tmp_path / "set/00000.tar", shard(1))
    pack(tmp_path / "set/00001.tar", shard(2))
    found = read(tmp_path, tmp_path / "set")
    assert listed(found) == [("00000/0001.png", "picture 1"), ("00001/0002.png", "picture 2")]


def test_a_tar_may_be_one_of_several_roots(tmp_path):
    tar = pack(tmp_path / "set.tar", shard(1))
    subsets = (SubsetOptions(path=tar, repeats=2),)
    found = build_index(DataOptions(subsets=subsets, cache=CacheOptions(dir=tmp_path / "cache")))
    assert [(record.name, record.subset.repeats) for record in found.images] == [("set.tar/0001.png", 2)]


def test_a_tar_is_unpacked_once_and_anew_when_it_changes(tmp_path):
    tar = pack(tmp_path / "set.tar", shard(1))
    first = unpack(tar, tmp_path / "cache")
    before = (first / "0001.png").stat().st_mtime_ns
    assert unpack(tar, tmp_path / "cache") == first
    assert (first / "0001.png").stat().st_mtime_ns == before
    assert unpack(pack(tar, shard(2)), tmp_path / "cache") != first


def test_several_processes_may_unpack_one_tar_at_once(tmp_path):
    tar = pack(tmp_path / "set.tar", shard(1) | shard(2))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: unpack(tar, tmp_path / "cache"), range(4)))
    assert len(set(found)) == 1
    assert sorted(path.name for path in found[0].iterdir()) == ["0001.png", "0001.txt", "0002.png", "0002.txt"]
    assert not list((tmp_path / "cache").rglob(".sdtune-*"))


def test_only_images_and_captions_are_unpacked(tmp_path):
    folder = unpack(pack(tmp_path / "set.tar", {**shard(1), "run.sh": b"rm", "a/b/2.jpg": b"2"}), tmp_path / "cache")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["0001.png", "0001.txt", "a/b/2.jpg"]


def kind(letter, link="/etc/passwd", path=None):
    info = tarfile.TarInfo()
    info.type, info.linkname = letter, link
    info.pax_headers = {"path": path} if path else {}
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../1.png": b""}, "leads out of it"),
        ({"a/../../1.png": b""}, "leads out of it"),
        ({"/tmp/1.png": b""}, "leads out of it"),
        ({"a\\..\\1.png": b""}, "leads out of it"),
        ({"1.png": kind(tarfile.REGTYPE, path="1\0.png")}, "leads out of it"),
        ({"1.png": kind(tarfile.SYMTYPE)}, "neither a file nor a folder"),
        ({"1.png": kind(tarfile.LNKTYPE)}, "neither a file nor a folder"),
        ({"1.png": kind(tarfile.CHRTYPE)}, "neither a file nor a folder"),
        ({"1.png": kind(tarfile.FIFOTYPE)}, "neither a file nor a folder"),
        ({"1.png": b"", "./1.png": b""}, "1.png more than once"),
    ],
)
def test_members_that_are_not_plain_files_inside_are_refused(tmp_path, members, message):
    tar = pack(tmp_path / "set.tar", shard(1) | members)
    with pytest.raises(DataError, match=message):
        read(tmp_path, tar)
    assert not list((tmp_path / "cache").rglob("*.png"))


def test_all_bad_members_are_told_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        unpack(pack(tmp_path / "set.tar", {"../1.png": b"", "/2.png": b""}), tmp_path / "cache")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("keep", [0, 100, 1200, 2000])
def test_a_tar_that_is_cut_off_leaves_nothing(tmp_path, keep):
    tar = pack(tmp_path / "set.tar", {"1.png": b"x" * 3000})
    tar.write_bytes(tar.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"is not a whole tar file|no images"):
        read(tmp_path, tar)
    assert not list((tmp_path / "cache").rglob("*.png"))


def test_a_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match="is not a whole tar file"):
        unpack(tmp_path / "set.tar", tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_a_matter_of_the_platform(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(PlatformError):
        unpack(pack(tmp_path / "set.tar", shard(1)), tmp_path / "cache")
