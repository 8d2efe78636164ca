"""Where a run lives: a folder, or a prefix of an object store. `place` turns what a user writes into something that acts like a `Path`.

A store has to offer what `base.Store` lists, above all `create`, which publishes under a name unless the name is taken. Which call
does that differs: `If-None-Match: *` on S3, `if_generation_match=0` on GCS, a rename that does not overwrite on HDFS.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import cast

from pipelines.stores.base import Store, StoreError, StoreFailed
from pipelines.stores.remote import Place

URL = re.compile(r"^(s3|gs|hdfs|memory):/+([^/]+)(?:/(.*))?$")


def place(root: str | Path) -> Path:
    """A local path, with `~` filled in; a place in a store for `s3://bucket/prefix`, `gs://…` and `hdfs://host:port/…`.

    A `Place` is given out as a `Path`: it has the methods of one that this project uses, and is refused where a local file is needed.
    """
    if isinstance(root, Place):
        return cast(Path, root)
    found = URL.match(str(root))
    if found is None:
        if re.match(r"^[a-z][a-z0-9]+:(/|$)", str(root)):
            raise StoreError(
                f"{root}: unknown kind of store, or no bucket. Known are a local folder, s3://BUCKET/…, gs://BUCKET/… and hdfs://HOST:PORT/…"
            )
        return Path(os.path.expanduser(root))  # the shell leaves `--root=~/runs` as it is, and Arrow would fill it in alone
    scheme, bucket, key = found.groups()
    return cast(Path, Place(f"{scheme}:", bucket, *filter(None, (key or "").split("/"))))


@lru_cache(maxsize=16)
def store_of(scheme: str, bucket: str) -> Store:
    """The store that holds a bucket; one client for all that a process does there."""
    if scheme == "s3":
        from pipelines.stores.s3 import S3Store

        return S3Store(bucket)
    if scheme == "hdfs":
        from pipelines.stores.hdfs import HdfsStore

        return HdfsStore(bucket)
    from pipelines.stores.through_fsspec import FsspecStore

    return FsspecStore.gcs(bucket) if scheme == "gs" else FsspecStore.memory(bucket)


__all__ = ["Place", "Store", "StoreError", "StoreFailed", "place", "store_of"]
