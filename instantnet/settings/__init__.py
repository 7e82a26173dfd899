"""Settings: what is legal, what a config module and a command line say, and how the three stages are set."""
