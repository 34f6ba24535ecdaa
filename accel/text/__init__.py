"""Prompts: from text to token ids."""
