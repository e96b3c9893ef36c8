from typing import Iterator

import pytest

from harness import Place


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as made:
        yield made
