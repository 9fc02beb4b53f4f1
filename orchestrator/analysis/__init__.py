"""From rows to statistics: summaries, comparisons, critical strengths."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Compared", "attackers", "by_cell"],
        "intervals": ["FEWEST", "Interval", "share_interval"],
        "lines": ["Control", "Line", "Privacy", "Utility", "Winner", "frame"],
        "rounds": ["Series", "by_round"],
        "strength": ["SUCCESS", "CriticalLine", "critical_lines", "next_cells", "write_critical"],
        "summary": [
            "SUCCESS_DB",
            "by_victim",
            "read_studies",
            "records",
            "summarize",
            "summary_lines",
            "test_rows",
            "winners",
            "write_summary",
        ],
    },
)
