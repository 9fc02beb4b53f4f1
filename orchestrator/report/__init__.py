"""What people read: conclusions, tables, figures, the page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "reader": ["Results"],
        "remaining": ["progress"],
        "report": ["write_report"],
        "run_outputs": ["write_outputs"],
        "terminal": [
            "WIDTH",
            "comparison_table",
            "critical_strengths_table",
            "figure_table",
            "rounds_table",
            "sum_costs_table",
            "summary_table",
            "summed_cells",
        ],
    },
)
