"""By what the files of a trace are known, whoever looks: their first bytes and the ends of their names."""

HDF5 = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file."""
JOURNAL = b"MRLJ"
"""First bytes of a journal, and of each of its records."""
HDF5_ENDING, JOURNAL_ENDING = ".h5", ".journal"
DIGEST_ENDING = ".sha256"
"""Of a trace's digest, behind the name of the trace."""
