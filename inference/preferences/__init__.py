"""What comparisons say: rewards, win probabilities, calibration, networks, diagnostics."""
