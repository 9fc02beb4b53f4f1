"""Certificates of a sweep's rows: of the answers that are reported, and of no others, since they cost as much again."""

from __future__ import annotations

from pathlib import Path

from tests.support.small import run_quietly, sweep


def test_what_is_reported_has_certificates_and_what_is_tuned_has_none(
    faces_root: Path, tmp_path: Path
) -> None:
    config = sweep(
        faces_root,
        attackers__0__attack={"kind": "analytic", "inversion": {"evaluations": 90}},
        attackers__0__search={"inversion.prior_end": {"kind": "float", "low": 1e-10, "high": 1e-8}},
        cells=[{"name": "none"}],
        model__kind="cnn64",
    )
    rows = run_quietly(config, tmp_path)
    tuned, reported = rows[rows["phase"] == "tune"], rows[rows["phase"] == "test"]
    assert (len(tuned), len(reported)) == (10, 3)
    assert tuned["certificate"].isna().all()
    assert set(reported["certificate"]) == {"exact"}
    assert (reported["psnr"] >= reported["certified_psnr"]).all()
