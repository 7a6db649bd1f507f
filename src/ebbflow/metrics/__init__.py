"""Numbers from samples: features, distances, and their floors and errors."""
