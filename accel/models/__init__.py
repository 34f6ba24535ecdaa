"""Families of generative models, one file each: configurations, names, how to tell a file."""
