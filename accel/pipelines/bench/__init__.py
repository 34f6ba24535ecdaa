"""`accel bench`: what this machine can do, and what the engine makes of it."""
