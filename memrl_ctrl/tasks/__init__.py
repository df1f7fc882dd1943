"""Tasks beside the beam: benchmarks and probes."""
