"""The results folder: columns, the one writer, its log and lease, merging."""
