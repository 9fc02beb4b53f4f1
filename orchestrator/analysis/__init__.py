"""From rows to statistics: summaries, comparisons, critical strengths."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Compared", "attackers", "by_cell", "is_hidden"],
        "intervals": ["FEWEST", "share_interval"],
        "rounds": ["by_round"],
        "strength": ["SUCCESS", "critical_table", "next_cells", "write_critical"],
        "summary": [
            "SUCCESS_DB",
            "by_victim",
            "differs_in_threat_alone",
            "read_studies",
            "records",
            "summarize",
            "test_rows",
            "winners",
            "write_summary",
        ],
    },
)
