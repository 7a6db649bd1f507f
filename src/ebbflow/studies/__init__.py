"""What uses runs: evaluation, comparison, likelihood, the search for grids, the claims of the study notes."""
