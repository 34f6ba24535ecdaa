"""The DeepFaceLab workflow: a workspace folder, and one module for each step on it."""
