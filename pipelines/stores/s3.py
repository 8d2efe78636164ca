"""S3 and what speaks like it, through boto3: publication by `If-None-Match: *`.

Address and credentials are boto3's own: the usual variables (`AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID`, …), files and roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.stores.base import StoreError, StoreFailed

TRIES = 8
"""Of one request, by boto3, with growing pauses."""
CONNECTIONS = 32
REFUSED = (
    *("NoSuchBucket", "AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("ExpiredToken", "InvalidToken", "RequestTimeTooSkewed", "400"),
)
"""Codes of a store that waits for somebody to change something. The answer to a HEAD has no body, and of these tells 400 alone."""


class S3Store:
    def __init__(self, bucket: str) -> None:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise StoreError("a root on s3:// needs the package boto3: pip install boto3") from error
        retries: Any = {"max_attempts": TRIES, "mode": "standard"}
        self.bucket = bucket
        self.client: Any = boto3.client(
            "s3", config=Config(retries=retries, max_pool_connections=CONNECTIONS, connect_timeout=10, read_timeout=60)
        )

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        if size == 0:
            return b""
        extra = {"Range": f"bytes={offset}-{'' if size is None else offset + size - 1}"} if offset or size is not None else {}
        for _ in range(TRIES):  # boto3 does not ask again when the connection is lost in the middle of the body
            with _errors(self.bucket, key) as caught:
                return self.client.get_object(Bucket=self.bucket, Key=key, **extra)["Body"].read()
            if caught.code == "InvalidRange":  # an empty object, or one that ends before
                return b""
            if caught.code:
                break
        raise caught.error

    def put(self, key: str, data: bytes) -> None:
        with _errors(self.bucket, key) as caught:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
            return
        raise caught.error

    def create(self, key: str, data: bytes) -> bool:
        for _ in range(TRIES):
            with _errors(self.bucket, key) as caught:
                self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            if caught.code in ("PreconditionFailed", "412"):
                try:  # a request that was answered but whose answer was lost is sent again by boto3, and then meets its own object
                    return self.read(key) == data
                except FileNotFoundError:  # removed since: the name is free again
                    continue
            if caught.code not in ("ConditionalRequestConflict", "409"):  # that one: another writer is at it just now
                raise caught.error
        raise caught.error

    def upload(self, file: Path, key: str) -> None:
        with _errors(self.bucket, key) as caught:
            self.client.upload_file(str(file), self.bucket, key)
            return
        raise caught.error

    def download(self, key: str, file: Path) -> None:
        with _errors(self.bucket, key) as caught:
            self.client.download_file(self.bucket, key, str(file))
            return
        raise caught.error

    def copy(self, source: str, target: str) -> None:
        with _errors(self.bucket, source) as caught:
            self.client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, target)
            return
        raise caught.error

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for page in self._pages(Prefix=prefix):
            yield from ((found["Key"], found["Size"]) for found in page.get("Contents", ()))

    def below(self, prefix: str) -> Iterator[tuple[str, bool]]:
        for page in self._pages(Prefix=prefix, Delimiter="/"):
            yield from ((found["Key"][len(prefix) :], False) for found in page.get("Contents", ()))
            yield from ((found["Prefix"][len(prefix) :].rstrip("/"), True) for found in page.get("CommonPrefixes", ()))

    def _pages(self, **arguments: str) -> Iterator[dict[str, Any]]:
        with _errors(self.bucket, arguments["Prefix"]) as caught:
            yield from self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **arguments)
            return
        raise caught.error

    def delete(self, key: str) -> None:
        with _errors(self.bucket, key) as caught:
            self.client.delete_object(Bucket=self.bucket, Key=key)
            return
        raise caught.error

    def size(self, key: str) -> int:
        with _errors(self.bucket, key) as caught:
            return int(self.client.head_object(Bucket=self.bucket, Key=key)["ContentLength"])
        raise caught.error

    def unfinished(self, prefix: str, *, delete: bool) -> int:
        with _errors(self.bucket, prefix) as caught:
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
            found = [(upload["Key"], upload["UploadId"]) for page in pages for upload in page.get("Uploads", ())]
            for key, upload in found if delete else ():
                self._give_up(key, upload)
            return len(found)
        if caught.code == "NotImplemented":
            return 0
        raise caught.error

    def _give_up(self, key: str, upload: str) -> None:
        with _errors(self.bucket, key) as caught:
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
            return
        if caught.code != "NoSuchUpload":  # that one has ended meanwhile
            raise caught.error


class _Caught:
    code: str = ""
    error: BaseException = OSError("no error")


@contextmanager
def _errors(bucket: str, key: str) -> Iterator[_Caught]:
    """Swallows what boto3 raises and keeps it as the error that this project speaks of, with S3's code."""
    from botocore.exceptions import BotoCoreError, ClientError

    caught = _Caught()
    try:
        yield caught
    except ClientError as error:
        caught.code = str(error.response.get("Error", {}).get("Code", ""))
        where = f"s3://{bucket}/{key}"
        if caught.code in ("NoSuchKey", "404", "NotFound"):
            caught.error = FileNotFoundError(where)
        elif caught.code in REFUSED:
            caught.error = StoreError(f"{where}: {error}")
        elif caught.code == "NotImplemented":
            caught.error = StoreError(f"{where}: the store does not know a call that is needed: {error}")
        else:
            caught.error = StoreFailed(f"{where}: {error}")
        caught.error.__cause__ = error
    except (BotoCoreError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        caught.error = StoreFailed(f"s3://{bucket}/{key}: {error}")
        caught.error.__cause__ = error
