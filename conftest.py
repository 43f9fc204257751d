"""Settings of the test suite that pytest wants at the top."""

pytest_plugins = ["pytester"]
