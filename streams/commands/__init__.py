"""The commands that are groups of their own: `demur policy` and `demur calibrator`."""
