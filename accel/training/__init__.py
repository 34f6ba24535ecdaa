"""Loops that fit weights: samples, optimisers, saved states, trainers."""
