"""How much of the long tests runs."""

import os


def scaled(count: int) -> int:
    """The whole count in CI, and a tenth elsewhere. WG_MONITOR_TEST_SCALE sets another share."""
    default = "1" if os.environ.get("CI") else "0.1"
    return max(1, int(count * float(os.environ.get("WG_MONITOR_TEST_SCALE") or default)))
