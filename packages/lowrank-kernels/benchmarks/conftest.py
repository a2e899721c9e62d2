"""Let the benchmarks find the module that they share, as they do when run as scripts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
