"""The mathematics of a path: scales, predictions, times, weights, noise. Pure functions of tensors; nothing here knows
a net."""
