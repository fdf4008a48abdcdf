"""What several test files share: where the repository is, and a place on the import path for its tools."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def root():
    """The folder of the repository."""
    return ROOT
