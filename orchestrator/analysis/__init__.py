"""From rows to statistics: summaries, comparisons, critical strengths."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Compared", "attackers", "by_cell"],
        "crossing": ["Ends"],
        "intervals": ["FEWEST", "FEWEST_SEEDS", "Interval", "clustered_share_interval", "share_interval"],
        "lines": ["Line", "Privacy", "Utility", "Winner"],
        "rounds": ["Series", "by_round"],
        "strength": ["CriticalLine", "NONE", "SUCCESS", "critical_lines", "next_cells", "write_critical"],
        "summary": [
            "SUCCESS_DB",
            "by_victim",
            "read_studies",
            "read_trials",
            "records",
            "summary_lines",
            "test_rows",
            "tested_rows",
            "winners",
            "write_summary",
        ],
    },
)
