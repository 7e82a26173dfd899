"""The claims by name, in the order of docs/results.md."""

from experiments import cdt, search

CLAIMS = {"cdt": cdt, "search": search}
