"""What every run of pytest here loads, of the tests and of the notebooks alike."""

pytest_plugins = ["tests.held"]
