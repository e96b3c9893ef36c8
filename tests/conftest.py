from typing import Iterator

import pytest

from harness import Place, need


@pytest.fixture
def place() -> Iterator[Place]:
    need("unshare", "wg")
    with Place() as made:
        yield made
