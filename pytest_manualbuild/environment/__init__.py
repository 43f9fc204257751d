"""The environment in which a package is tested."""
