"""Training: the loop as a generator, the optimiser's schedule, the moving average, precision, exact resume."""
