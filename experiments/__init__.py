"""The paper's claims, each a command that measures one and keeps what it found: `python -m experiments`."""
