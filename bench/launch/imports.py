"""What a worker imports, done once: workers on a CPU are forked from a server that has imported this."""

import bench.run.runner  # noqa: F401
from bench.model.base import load_libraries

load_libraries()
