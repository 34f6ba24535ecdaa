"""Layers and whole networks, written for reading; parameter names are the single-file layout's."""
