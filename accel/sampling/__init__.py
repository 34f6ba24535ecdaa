"""Turns a prediction function into a sample; knows no network."""
