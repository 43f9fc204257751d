"""Test hand-built conda packages on every host, and publish only what was proven.

The package follows one road, and imports go down it only: recipe and package,
plan, hosts, environment, execution, evidence, gate, upload. Importing this
package loads nothing else, since pytest imports it in every run.
"""

__version__ = "0.1.0"
