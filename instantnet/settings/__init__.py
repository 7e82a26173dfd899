"""Settings: the schema, the command line, the config modules and the presets of the three stages."""
