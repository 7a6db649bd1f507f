"""What is done with a path and a net: denoising, objectives, samplers, guidance, exact oracles."""
