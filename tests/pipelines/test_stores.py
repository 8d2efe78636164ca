"""Runs on object stores: real S3 and GCS servers with conditional writes, a real HDFS where there is one, and what a store that lacks
them is told."""

import os
import pickle
import threading
from pathlib import Path

import pytest
from gcs_server import gcs_server
from hdfs_server import hdfs_server
from s3_server import BUCKET, Wire, address, s3_server

from pipelines.durable import Ranges, check_store, create_if_absent, files, folders, more_than, read_table, replace, write_new
from pipelines.stores import Place, StoreError, StoreFailed, place, store_of
from pipelines.stores.s3 import S3Store
from pipelines.stores.through_fsspec import FsspecStore

SERVERS = {"s3": "server", "gs": "gcs", "hdfs": "hdfs"}


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def gcs():
    with gcs_server():
        yield


@pytest.fixture(scope="module")
def hdfs():
    with hdfs_server() as name_node:
        yield name_node


@pytest.fixture(params=["s3", "gs", "hdfs", "memory"])
def folder(request, tmp_path):
    served = request.getfixturevalue(SERVERS[request.param]) if request.param in SERVERS else None
    return place(f"{request.param}://{served if request.param == 'hdfs' else BUCKET}/{tmp_path.name}")


def test_an_address_is_a_place_and_a_folder_stays_a_path(tmp_path):
    assert place(tmp_path) == tmp_path and isinstance(place("runs"), Path)
    assert place("~/runs") == Path.home() / "runs" and place("a~/~") == Path("a~/~")
    here = place("s3://team/finehard/run")
    assert str(here / "ledger") == "s3://team/finehard/run/ledger" and here.key == "finehard/run"
    assert place(Path("s3://team/finehard/run")) == here, "a Path swallows one of the slashes"
    assert str((here / "images" / "1.tar").relative_to(here)) == "images/1.tar"
    assert pickle.loads(pickle.dumps(here)) == here
    with pytest.raises(StoreError, match="unknown kind of store"):
        place("ftp://host/folder")
    with pytest.raises(StoreError, match="or no bucket"):
        place(Path("s3://"))
    with pytest.raises(TypeError, match="no local file"):
        os.fspath(here)


def test_objects_are_written_read_listed_and_removed(folder):
    write_new(folder / "a" / "1.bin", lambda path: path.write_bytes(b"0123456789"))
    replace(folder / "a" / "2.bin", b"")
    assert create_if_absent(folder / "b.json", b"{}") and not create_if_absent(folder / "b.json", b"[]")
    assert (folder / "b.json").read_bytes() == b"{}" and (folder / "a" / "2.bin").read_bytes() == b""
    assert [path.name for path in files(folder, deep=True)] == ["1.bin", "2.bin", "b.json"]
    assert [path.name for path in files(folder)] == ["b.json"] and [path.name for path in folders(folder)] == ["a"]
    assert more_than([folder], 2) and not more_than([folder], 3)
    assert (folder / "a").is_dir() and not (folder / "a").is_file() and (folder / "b.json").is_file()
    assert (folder / "a" / "1.bin").stat().st_size == 10
    with Ranges(folder / "a" / "1.bin") as read:
        assert read(3, 4) == b"3456" and read(0, 0) == b""
        with pytest.raises(OSError, match="ends after 2"):
            read(8, 5)
    with pytest.raises(FileNotFoundError):
        (folder / "none").read_bytes()
    (folder / "b.json").unlink()
    (folder / "b.json").unlink(missing_ok=True)
    assert not (folder / "b.json").exists()


def test_of_many_writers_exactly_one_publishes(folder):
    won, barrier = [], threading.Barrier(6)

    def publish(me):
        barrier.wait()
        if create_if_absent(folder / "entry.json", f"writer {me}".encode()):
            won.append(me)

    threads = [threading.Thread(target=publish, args=(me,)) for me in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1 and (folder / "entry.json").read_bytes() == f"writer {won[0]}".encode()


def test_a_large_object_is_read_piece_by_piece(folder, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("pipelines.stores.remote.WHOLE", 1000)
    table = pa.table({"uid": [f"{i:032x}" for i in range(5000)], "row": list(range(5000))})
    write_new(folder / "big.parquet", lambda path: pq.write_table(table, path))
    assert read_table(folder / "big.parquet", columns=["row"]) == table.select(["row"])


def test_a_store_with_conditional_writes_is_taken_and_leaves_no_trace(folder):
    check_store(folder)
    assert list(files(folder, deep=True)) == []


def test_a_store_that_lets_a_second_writer_replace_is_refused_with_the_reason(monkeypatch):
    class Replaces(FsspecStore):
        def create(self, key, data):
            self.put(key, data)
            return True

    store = Replaces.memory("data")
    monkeypatch.setattr(Place, "store", property(lambda self: store))
    with pytest.raises(StoreError, match=r"s3://data/x: this store let a second writer replace.*If-None-Match"):
        check_store(place("s3://data/x"))


def test_a_bucket_that_is_not_there_is_told(server):
    with pytest.raises(StoreError, match="NoSuchBucket"):
        check_store(place("s3://nothing/x"))


def test_a_bucket_that_is_not_there_is_told_of_gcs_too(gcs):
    with pytest.raises(StoreError, match="nothing: there is no such bucket"):
        check_store(place("gs://nothing/x"))


def test_a_gcs_that_is_not_reached_is_an_error_of_the_machine_and_one_that_lets_nobody_in_is_told(gcs, monkeypatch):
    from gcsfs.retry import HttpError

    store = FsspecStore.gcs(BUCKET)
    for answer, expected in (({"code": 503, "message": "busy"}, OSError), ({"code": 401, "message": "who?"}, StoreError)):

        def failing(*_, answer=answer, **__):
            raise HttpError(answer)

        monkeypatch.setattr(store.fs, "cat_file", failing)
        with pytest.raises(expected, match=answer["message"]):
            store.read("x")


def test_a_name_that_is_given_up_while_it_is_asked_for_is_taken(folder, monkeypatch):
    """The ledger's compaction removes small files: who finds one in the way and then gone is the one who writes it."""
    store, key = folder.store, f"{folder.key}/entry.json"
    assert store.create(key, b"first")
    real = type(store).read
    monkeypatch.setattr(type(store), "read", lambda self, *what: (self.delete(key), real(self, *what))[1])
    assert store.create(key, b"second")
    monkeypatch.setattr(type(store), "read", real)
    assert store.read(key) == b"second" and [name for name, _ in store.list(f"{folder.key}/")] == [key]


def test_an_hdfs_that_is_not_reached_and_a_name_service_that_nobody_knows_are_told_at_once(monkeypatch):
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    with pytest.raises(StoreFailed, match=r"hdfs://127\.0\.0\.1:1: Connection refused"):
        store_of("hdfs", "127.0.0.1:1")
    with pytest.raises(StoreError, match=r"hdfs://nobody: .*No NameNode"):
        store_of("hdfs", "nobody")


def test_a_folder_of_hdfs_that_holds_no_file_any_more_is_none(hdfs, tmp_path):
    here = place(f"hdfs://{hdfs}/{tmp_path.name}")
    replace(here / "a" / "b" / "1.bin", b"1")
    assert [path.name for path in folders(here)] == ["a"]
    (here / "a" / "b" / "1.bin").unlink()
    assert list(folders(here)) == [] and not (here / "a").is_dir()


def test_what_fsspec_calls_create_is_what_is_asked_for():
    store = FsspecStore.memory("fsspec")
    assert store.create("x", b"1") and not store.create("x", b"2") and store.read("x") == b"1"


@pytest.fixture
def wire(server):
    between = Wire(int(server.rpartition(":")[2]))
    yield between
    between.close()


def test_a_connection_cut_within_an_upload_leaves_nothing_half_visible(wire, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.stores.s3.TRIES", 2)
    with address(wire.url):
        store = S3Store(BUCKET)
        big = tmp_path / "big.tar"
        big.write_bytes(bytes(20_000_000))  # uploaded in parts
        wire.cut_requests_after = 3_000_000
        with pytest.raises(OSError):
            store.upload(big, "cut/big.tar")
        with pytest.raises(OSError):
            store.create("cut/entry.json", bytes(4_000_000))
        assert wire.cuts
        wire.cut_requests_after = None
        assert list(store.list("cut/")) == []
        store.upload(big, "cut/big.tar")
        assert store.size("cut/big.tar") == 20_000_000


def test_an_answer_that_was_lost_does_not_make_the_winner_believe_that_he_lost(wire):
    with address(wire.url):
        store = S3Store(BUCKET)
        wire.swallow_answers = 1
        assert store.create("lost/entry.json", b"mine")
        assert wire.cuts == 1
        assert not store.create("lost/entry.json", b"another's")


def test_stores_are_made_once_a_process(server):
    assert store_of("s3", BUCKET) is store_of("s3", BUCKET)
