"""Writes chunks of a dataset compressed as deflate does it best for numbers that are mostly noise.

The streams are those of HDF5's own gzip filter (RFC 1950) and are read by it. Only the strategy is another
where that is shorter: noise is coded symbol by symbol (Huffman), which HDF5 cannot be asked for. A chunk
without any value is not written at all: HDF5 gives the fill value for it, and it takes no room.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEMORY_LEVEL = 8
"""zlib's own default of its memory (`memLevel`)."""


def write_chunks(
    dataset: Any, start: int, block: NDArray[Any], held: NDArray[np.bool_], level: int
) -> None:
    """Write rows of a chunked, gzipped dataset, which is long enough for them already.

    Args:
        dataset: `h5py.Dataset`; each chunk of it holds whole rows.
        start: first row; it begins a chunk.
        block: the rows; what is missing of the last chunk is filled.
        held: which rows have a value [rows]; the others are the fill value.
        level: of deflate, where it looks for matches.
    """
    rows = dataset.chunks[0]
    for at in range(0, len(block), rows):
        if not held[at : at + rows].any():
            continue
        chunk = block[at : at + rows]
        missing = rows - len(chunk)
        if missing:
            fill = np.full((missing, *chunk.shape[1:]), dataset.fillvalue, dtype=chunk.dtype)
            chunk = np.concatenate([chunk, fill])
        data = np.ascontiguousarray(chunk, dtype=dataset.dtype)
        octets = data.view(np.uint8).reshape(-1, data.itemsize)
        stream = octets.T.tobytes() if dataset.shuffle else data.tobytes()
        place = (start + at, *(0,) * (chunk.ndim - 1))
        dataset.id.write_direct_chunk(place, _deflated(stream, level))


def _deflated(data: bytes, level: int) -> bytes:
    """Return the shorter of two deflate streams: with matches, and of single symbols."""
    streams = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        squeeze = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, MEMORY_LEVEL, strategy)
        streams.append(squeeze.compress(data) + squeeze.flush())
    return min(streams, key=len)
