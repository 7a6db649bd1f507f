"""Pictures, plots and pages of what was made and measured."""
