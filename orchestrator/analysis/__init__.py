"""From rows to statistics: summaries, comparisons, critical strengths."""
