"""A stand-in for conda-build, which is no package of PyPI: it only has the shape of its API."""
