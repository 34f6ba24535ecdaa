"""Training of small latent diffusion models, and of LoRAs for those of any size."""
