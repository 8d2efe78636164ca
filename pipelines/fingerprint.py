"""Content hashes: of columns, and of everything that decides what a stage makes of a shard.

A stage is redone when, and only when, its fingerprint changes. Columns are hashed by content, so an input that was made
another way but came out the same redoes nothing. Addresses, paths, concurrency and resources are no part of it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.durable import canonical_json


def digest(value: Any) -> str:
    """32 hex digits of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:32]


def column_hash(column: pa.ChunkedArray | pa.Array) -> str:
    """Hash of a column's values and type; the layout in memory (chunks, offsets, spare bits) does not matter."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    state = hashlib.sha256(f"{array.type}|{len(array)}|".encode())
    _feed(state, array)
    return state.hexdigest()[:32]


def _feed(state: Any, array: pa.Array) -> None:
    """Add the values of `array`, recursively: validity, then lengths, then the child values that are in use."""
    state.update(np.packbits(pc.is_valid(array).to_numpy(zero_copy_only=False)).tobytes() if array.null_count else b"+")
    kind = array.type
    if pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            _feed(state, pc.struct_field(array, [i]))
    elif pa.types.is_fixed_size_list(kind):
        _feed(state, pc.list_flatten(array))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        state.update(pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64()).to_numpy().tobytes())
        _feed(state, pc.list_flatten(array))
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        values = pc.fill_null(array, "" if not pa.types.is_binary(kind) else b"").cast(pa.large_binary())
        state.update(pc.binary_length(values).to_numpy(zero_copy_only=False).tobytes())
        offsets = np.frombuffer(values.buffers()[1], dtype=np.int64)[values.offset : values.offset + len(values) + 1]
        if len(offsets) and values.buffers()[2] is not None:
            state.update(memoryview(values.buffers()[2])[offsets[0] : offsets[-1]])
    elif pa.types.is_boolean(kind):
        state.update(np.packbits(pc.fill_null(array, False).to_numpy(zero_copy_only=False)).tobytes())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        state.update(np.ascontiguousarray(pc.fill_null(array, 0).to_numpy(zero_copy_only=False)).tobytes())
    elif pa.types.is_null(kind):
        pass
    else:
        raise TypeError(f"no content hash for columns of type {kind}")
