"""The data sets behind dataloader.py."""
