"""Whether an answer is supported by the signal: likelihood ratios, cross-validation on other layers."""
