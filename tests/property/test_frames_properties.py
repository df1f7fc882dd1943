"""Frames against arbitrary bytes."""

import google_crc32c
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, floating_dtypes

from memrl_ctrl.frames import MAGIC, PREFIX, FrameError, Message, pack, unpack


class Count(Message, tag="count"):
    value: int


DECODER = msgspec.msgpack.Decoder(Count)


@given(st.binary(max_size=200))
def test_junk_is_refused_and_nothing_else_is_raised(junk):
    """Arbitrary bytes give FrameError and never another exception."""
    with pytest.raises(FrameError):
        unpack(junk, DECODER)


@given(st.binary(max_size=200), st.integers(0, 250))
def test_junk_behind_a_valid_prefix_is_refused(junk, header_size):
    """Bytes with a right magic, version and checksum, but no right header, give FrameError."""
    crc = int(google_crc32c.value(junk))
    with pytest.raises(FrameError):
        unpack(PREFIX.pack(MAGIC, 1, 0, header_size, crc) + junk, DECODER)


@given(st.lists(st.one_of(st.integers(0, 4), st.integers(-(2**63), 2**64 - 1)), max_size=6))
def test_any_shape_in_a_header_is_read_or_refused(shape):
    """Whatever lengths a header claims, also 0 beside an enormous one, nothing but FrameError."""
    header = msgspec.msgpack.encode(
        {"message": {"type": "count", "value": 1}, "arrays": [["a", "<f8", shape]]}
    )
    body = header.ljust((PREFIX.size + len(header) + 7) // 8 * 8 - PREFIX.size, b"\0")
    frame = PREFIX.pack(MAGIC, 1, 0, len(header), int(google_crc32c.value(body))) + body
    try:
        _, back = unpack(frame, DECODER)
    except FrameError:
        return
    assert back["a"].size == 0


@given(arrays(floating_dtypes(sizes=(32, 64)), array_shapes(max_dims=3, max_side=5)))
def test_any_float_array_comes_back_to_the_bit(array):
    """Arrays of any shape and byte order come back with the same values."""
    _, back = unpack(pack(Count(value=0), {"a": array}), DECODER)
    assert back["a"].shape == array.shape
    assert np.array_equal(back["a"], array, equal_nan=True)
