"""Files that an exported folder carries; they need torch and diffusers, and nothing of ebbflow."""
