"""How much of the long tests runs."""

import os
import random
from typing import Iterable


def scaled(count: int) -> int:
    """The whole count in CI, and a tenth elsewhere. WG_MONITOR_TEST_SCALE sets another share."""
    default = "1" if os.environ.get("CI") else "0.1"
    return max(1, int(count * float(os.environ.get("WG_MONITOR_TEST_SCALE") or default)))


def characters() -> Iterable[int]:
    """The code points of all characters. A shortened run has those of the first 4,096 and of some others."""
    return [*range(4096), *random.Random(1).sample(range(4096, 0x110000), scaled(0x110000 - 4096))]
