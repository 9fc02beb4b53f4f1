"""Files and identities: whole writes, retries, content hashes, provenance."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "files": [
            "CHECKSUM",
            "Damaged",
            "RESTORE",
            "append_line",
            "clearly",
            "persistently",
            "read_bytes",
            "read_json",
            "sealed",
            "typed",
            "unsealed",
            "write_atomically",
            "write_json",
        ],
        "guard": ["refuse_links"],
        "identity": ["canonical", "content_hash", "tensor_hash"],
        "parquet": ["parquet_bytes", "read_parquet"],
        "retries": ["TRIES", "patiently"],
    },
)
