"""The results folder: columns, the one writer, its log and lease, merging."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "columns": ["Column", "SUMMARY", "averaged"],
        "folder": [
            "CLAIM",
            "Claim",
            "check_folder",
            "claim_folder",
            "claimed",
            "first_difference",
            "read_claim",
        ],
        "pictures": ["decode"],
        "schema": ["SUM_COSTS", "hp_column", "trials_schema", "trials_table"],
        "store": [
            "FinishedTrial",
            "ResultStore",
            "Row",
            "StudyRow",
            "data_by_cell",
            "picture_rows",
            "read_images",
            "read_rows",
            "read_studies",
            "warn_of_strays",
        ],
        "utility_files": [
            "UTILITY",
            "UtilityFile",
            "UtilityResult",
            "read_utility",
            "utilities",
            "utility_paths",
            "write_utility",
        ],
    },
)
