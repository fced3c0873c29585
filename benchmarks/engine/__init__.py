"""Speed and exactness of the engine beside the dense path: ``python -m benchmarks.engine``."""
