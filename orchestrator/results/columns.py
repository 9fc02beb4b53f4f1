"""The columns of every table of a results folder: each declared once, with its type, unit, meaning and when it is null.

The Arrow schema (`schema`), the tables of docs/results.md (`scripts/column_tables.py`), the means of the summary and
simple figures of the report follow from here. A column that is added stays null in folders from before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Type = Literal[
    "string",
    "double",
    "int64",
    "bool",
    "timestamp[us, tz=UTC]",
    "list<string>",
    "list<double>",
    "struct<bytes: binary, path: string>",
]
"""Types as Arrow spells them."""


@dataclass(frozen=True)
class Column:
    """A column: what it holds, in which unit, and when it is null.

    In the summary `averaged` says that the column is the mean of that of the trials with its name: over `victims`
    (a victim's images first) or over `trials`. With a `label` the report shows it, with so many `digits`; a `sparse`
    one only where any line has it.
    """

    name: str
    type: Type
    meaning: str
    unit: str = ""
    null_when: str = "never"
    averaged: Literal["", "victims", "trials"] = ""
    label: str = ""
    digits: int = 1
    sparse: bool = False


TRIALS: tuple[Column, ...] = (
    Column("trial_id", "string", "hash of the trial's specification, 20 hexadecimal digits"),
    Column(
        "image_id",
        "string",
        "the true image's file name, with `:flip` where augmentation mirrored it",
        null_when="no scores",
    ),
    Column("sweep", "string", "name of the sweep"),
    Column("cell", "string", "name of the cell"),
    Column("study", "string", "`CELL/ATTACKER`; `CELL/ATTACKER/SEED` at every seed of `seeds` but the first"),
    Column("attacker", "string", "name of the attacker"),
    Column(
        "sweep_seed",
        "int64",
        "the sweep's seed that the row belongs to, of those that `seeds` asks for: it fixes initial weights, the "
        "clients' images, who takes part, noise and suggestions",
        null_when="in rows from before the column existed, which are of `seed`",
    ),
    Column(
        "phase",
        "string",
        "`tune` or `grid` (a grid study) on tuning victims, before them `screen`, the short trials of "
        "`study.halving`, `test` on test victims. `control` is "
        "reserved and not written",
    ),
    Column(
        "suggestion",
        "int64",
        "number of the suggestion in its study, from 0",
        null_when="the attacker searches nothing",
    ),
    Column(
        "victim",
        "int64",
        "position in the cell's list of victims: tuning victims first, then test victims",
    ),
    Column("status", "string", "`ok`, `failed` or `not_observable` (the threat model leaves no signal)"),
    Column("error", "string", "why there are no scores, one line", null_when="`status` is `ok`"),
    Column("data", "string", "`celeba:FINGERPRINT` or `synthetic:FINGERPRINT`"),
    Column("model", "string", "the victims' network, such as `cnn64`"),
    Column(
        "weights",
        "string",
        "whose training the global weights come from that the signal was computed at (`initial`, "
        "`undefended` or `defended`), a colon, their hash",
    ),
    Column("defense", "string", "the chain's mechanisms joined by `+`, or `none`"),
    Column("defense_params", "string", "JSON list of the chain's settings, `[]` for none"),
    Column(
        "differs",
        "string",
        "JSON object: settings, besides the defense, that this cell declares as its own, `{}` for none",
    ),
    Column(
        "threat",
        "string",
        "JSON object of the threat model as configured, with `knows_defense` false for an attacker that "
        "ignores the defense (`uses_facts: false`); its `view` is null where the default holds",
    ),
    Column(
        "view",
        "string",
        "the view in force: `individual`, `aggregate`, `key_holder`, `ciphertext` or `public`",
    ),
    Column("signal", "string", "`gradients`, `one_step_update`, `local_update` or `agg_update`"),
    Column("batch_size", "int64", "the clients' local batch size", unit="images"),
    Column("round", "int64", "the captured round, from 0"),
    Column(
        "watched",
        "int64",
        "consecutive rounds, `round` the first, in which the server saw the same images (`capture.watched`)",
        unit="rounds",
        null_when="in folders from before this column; then it is 1",
    ),
    Column(
        "weights_accuracy",
        "double",
        "accuracy of the attacked global weights on the validation images, 0 to 1",
        null_when="there are fewer validation images than `data.valid` asks for",
    ),
    Column("client", "int64", "the victim's client", null_when="for a signal of several clients"),
    Column(
        "epsilon",
        "double",
        "privacy budget of all planned rounds together",
        null_when="no privacy mechanism in the chain",
    ),
    Column(
        "epsilon_release",
        "double",
        "privacy budget of one release, at the same delta",
        null_when="as `epsilon`",
    ),
    Column(
        "epsilon_watched",
        "double",
        "privacy budget of the `watched` rounds together, at the same delta",
        null_when="as `epsilon`, where the statement does not protect from the server, and for mechanisms of your own",
    ),
    Column("delta", "double", "delta of these budgets", null_when="as `epsilon`"),
    Column(
        "dp_unit",
        "string",
        "whose data is protected: all of a `client`'s, or one `example`",
        null_when="as `epsilon`",
    ),
    Column(
        "dp_against",
        "string",
        "whom it is protected from: the `server`, and then everybody else too, or the `public`, who see "
        "the global models and not the updates",
        null_when="as `epsilon`",
    ),
    Column(
        "adjacency",
        "string",
        "`zero_out` or `replace_one`; see the [threat model](threat-model.md)",
        null_when="as `epsilon`",
    ),
    Column("rounds", "int64", "planned rounds of the federation", unit="rounds"),
    Column(
        "sampling_rate",
        "double",
        "the rate of Poisson sampling that amplification is claimed for (`dp_central`, with "
        "`federation.participation: poisson`); 1: none is claimed",
        null_when="as `epsilon`",
    ),
    Column(
        "psnr_bound",
        "double",
        "what no attacker's mean squared error is better than on average, as PSNR, whatever the network: for "
        "Gaussian images with the public images' mean and covariance, from one release under clipping and "
        "Gaussian noise ([what it assumes](statistics.md#the-corridor))",
        unit="dB",
        null_when="no clipping with Gaussian noise on the client's update or examples in the chain, fewer than "
        "two public images, a folder from before there was this column",
    ),
    Column(
        "clip_factor",
        "double",
        "what clipping scaled the update by, in [0, 1]; 0 where it held NaN or infinity and became "
        "zeros; the mean over the examples where each is clipped by itself, and over the clients of an "
        "aggregate. No attack sees it",
        null_when="no defense clips",
    ),
    Column(
        "noise_to_signal_db",
        "double",
        "energy of the noise in what a client releases over that of the clipped signal that it was added "
        "to; the mean over the clients of an aggregate. Of noise that the server adds, in the view "
        "`public`: over that of the mean. Positive: more noise than signal",
        unit="dB",
        null_when="no defense adds noise to what the attacker sees",
    ),
    Column(
        "bytes_up",
        "int64",
        "size of what one client sends, without buffers: packed where the defense compresses, 32-bit "
        "numbers else; under a secure sum the most that any client really sent, buffers and messages for "
        "keys too",
        unit="bytes",
    ),
    Column(
        "rounding_error",
        "double",
        "largest distance between a number of the opened mean and the mean before updates were rounded "
        "to fixed point, in units of the signal",
        null_when="no secure sum",
    ),
    Column(
        "setup_seconds",
        "double",
        "CPU time of all parties for the capture's keys and their exchange",
        unit="s",
        null_when="as `rounding_error`",
    ),
    Column(
        "protect_seconds",
        "double",
        "CPU time of one client for encrypting or masking its update, the mean",
        unit="s",
        null_when="as `rounding_error`",
    ),
    Column(
        "add_seconds",
        "double",
        "CPU time of the server for adding protected updates",
        unit="s",
        null_when="as `rounding_error`",
    ),
    Column(
        "reveal_seconds", "double", "CPU time for opening the sum", unit="s", null_when="as `rounding_error`"
    ),
    Column("attack", "string", "kind of the attack as it was set, such as `matching`"),
    Column(
        "attack_params",
        "string",
        "JSON object: all settings of the attack, the suggestion's values put in",
    ),
    Column(
        "method",
        "string",
        "what really ran, in the attack's words: an attack that chooses or falls back says here which "
        "way it went",
        null_when="no scores",
    ),
    Column(
        "notes",
        "string",
        "JSON list of sentences: why the attack chose what it did, and what it fell back from; how much "
        "of the signal held NaN or infinity and was clipped to zeros; `[]` for none",
        null_when="no scores",
    ),
    Column(
        "prior",
        "string",
        "the attacker's trained prior: kind and fingerprint of the data whose public pictures it was learned from, how "
        "many they were, and hashes of what it was learned from and of what it came to",
        null_when="the attacker has none",
    ),
    Column(
        "seed",
        "int64",
        "seed of the attack's randomness; the same for one victim in every cell and attacker",
    ),
    Column(
        "preselected",
        "bool",
        "the first image of the signal, which the leading client's first batch begins with: chosen "
        "before any attack",
        null_when="no scores",
    ),
    Column(
        "psnr",
        "double",
        "PSNR with range 1 on pixels clamped to [0, 1]; infinite for an exact reconstruction",
        unit="dB",
        null_when="no scores, unmatched",
    ),
    Column(
        "psnr_oracle",
        "double",
        "best PSNR of this image over all restarts that stayed finite: chosen by the truth, which no "
        "attacker can",
        unit="dB",
        null_when="no scores, unmatched",
    ),
    Column(
        "psnr_prior",
        "double",
        "PSNR of the same attack on noise of the same norm",
        unit="dB",
        null_when=(
            "tuning victims, `execution.controls: false`, the control failed, no scores, unmatched in "
            "the control"
        ),
    ),
    Column(
        "psnr_mean_image",
        "double",
        "PSNR of the mean public image",
        unit="dB",
        null_when="no scores, or fewer reconstructions than images and this image got none",
    ),
    Column(
        "psnr_public",
        "double",
        "PSNR of as many random public images as there are reconstructions, assigned to the images as "
        "those are; the same ones for a victim in every cell",
        unit="dB",
        null_when=(
            "one image behind the signal, no scores, unmatched in the control, a folder from before "
            "there was this column"
        ),
    ),
    Column(
        "psnr_groups",
        "double",
        "the same of the means of groups of public images that are alike (k-means, as many groups as images)",
        unit="dB",
        null_when="as `psnr_public`",
    ),
    Column(
        "psnr_range4",
        "double",
        "PSNR with range 4 on [-1, 1] images: 6.02 dB above `psnr`. For comparison with old tables only",
        unit="dB",
        null_when="no scores, unmatched",
    ),
    Column(
        "ssim",
        "double",
        "structural similarity, Gaussian window of 11 pixels and sigma 1.5, range 1",
        null_when="no scores, unmatched, images smaller than the window (a note says so)",
    ),
    Column(
        "lpips",
        "double",
        "LPIPS distance with an AlexNet backbone",
        null_when=(
            "unless `execution.lpips` is on, the weights are at hand and the victim is a test victim; no "
            "scores, unmatched"
        ),
    ),
    Column("mse", "double", "mean squared error on pixels in [0, 1]", null_when="no scores, unmatched"),
    Column(
        "label_match",
        "bool",
        "whether the label of the reconstruction that stands for this image is the true one",
        null_when="no scores, unmatched",
    ),
    Column(
        "certificate",
        "string",
        "what the attack's equations say of the answer, without the truth: `exact`, `determined` or `open` "
        "([certificates](attacks.md#certificates))",
        null_when="no scores, unmatched, an answer that no equations stand behind",
    ),
    Column(
        "certified",
        "double",
        "1 where `certificate` is `exact`, else 0",
        null_when="no scores, a folder from before there was this column",
    ),
    Column(
        "certified_psnr",
        "double",
        "the least PSNR that the equations leave room for",
        unit="dB",
        null_when="no certificate, or nothing follows from it",
    ),
    Column(
        "certificate_rank",
        "int64",
        "in how many directions the equations determine the image; one for each number of it are all",
        null_when="no certificate",
    ),
    Column(
        "certificate_condition",
        "double",
        "the largest over the smallest singular value of the map from image to equations; infinite where "
        "not all directions are determined",
        null_when="no certificate",
    ),
    Column(
        "certificate_residual",
        "double",
        "the relative L2 distance that the answer leaves of the equations",
        null_when="no certificate",
    ),
    Column(
        "label_accuracy",
        "double",
        "share of the labels behind the signal that the attack found, in any order (the overlap of two "
        "multisets), 0 to 1; the same in all rows of a trial. A mirrored copy of an image counts once",
        null_when="no scores",
    ),
    Column(
        "match_loss",
        "double",
        "matching loss, without the prior, of the selected restart. Its scale depends on the objective",
        null_when="no scores",
    ),
    Column(
        "convergence",
        "string",
        "JSON list of at most 33 pairs: iteration of the attack's last loop, and the loss of what it would answer with "
        "there (with the prior, by which restarts and steps are chosen)",
        null_when="the attack has no loop, the worker was lost, or in rows from before the column existed",
    ),
    Column("iterations", "int64", "iterations that the attack took", null_when="no scores"),
    Column(
        "work",
        "double",
        "how many images the attack differentiated twice, all iterations and restarts together. The same on every "
        "machine, unlike `seconds`: what the objective `work` of a study is",
        unit="images",
        null_when="no scores, or in rows from before the column existed",
    ),
    Column("restarts", "int64", "restarts that the attack's matching loop was set to"),
    Column(
        "packing",
        "int64",
        "how many restarts the matching loop evaluated together: all, the attack's own `packing`, or "
        "half of that as often as memory had run out. It changes rounding",
        unit="restarts",
    ),
    Column(
        "candidates_failed", "int64", "restarts that met a loss that is not finite", null_when="no scores"
    ),
    Column(
        "seconds",
        "double",
        "wall-clock time of the attack until the device is done, without controls and scoring; 0 where "
        "the worker was lost",
        unit="s",
    ),
    Column("cpu_seconds", "double", "CPU time of the same", unit="s"),
    Column(
        "gpu_seconds",
        "double",
        "`seconds` times the share of a GPU that the worker held; 0 on the CPU",
        unit="s",
    ),
    Column("device", "string", "`cpu`, `cuda` or `mps`"),
    Column(
        "peak_memory_mb",
        "double",
        "on CUDA the trial's peak; on MPS what the process held of the GPU after the trial; on the CPU "
        "the peak of the worker process so far",
        unit="MB (10^6 bytes)",
    ),
    Column(
        "accuracy",
        "double",
        "accuracy of the cell's utility run on the validation images, 0 to 1",
        null_when="tuning victims, or no `utility` in the sweep",
    ),
    Column("host", "string", "name of the machine; empty where the worker was lost"),
    Column(
        "git_commit",
        "string",
        "commit of the code",
        null_when="outside a checkout of gradsweep itself, unless the variable `GIT_COMMIT` names one",
    ),
    Column("versions", "string", "JSON object: versions of Python and the packages that decide numbers"),
    Column("started_at", "timestamp[us, tz=UTC]", "when the trial started"),
    Column(
        "cached",
        "bool",
        "whether the trial was taken from a cache (`--cache`): times, host, versions and `started_at` are then those "
        "of the run that measured it",
    ),
)
"""One row for each true image of each trial, in the order of the file."""


STUDIES: tuple[Column, ...] = (
    Column("study", "string", "`CELL/ATTACKER`"),
    Column("suggestion", "int64", "its number, from 0"),
    Column(
        "params",
        "string",
        "JSON object: path of each searched parameter and its value; with families `family`, and the "
        "chosen one's as `FAMILY.PATH`",
    ),
    Column(
        "state",
        "string",
        "`asked` (trials are still out), `ok`, `failed` (at least one of its victims has no PSNR) or "
        "`pruned` (too far behind; see [studies.md](studies.md))",
    ),
    Column(
        "value",
        "double",
        "mean `psnr` over its tuning victims in dB; a victim's images are averaged first",
        null_when="`state` is not `ok`",
    ),
    Column(
        "trial_ids",
        "list<string>",
        "its trials, in the order of the victims; with `study.prune` those that were run, once it has ended; "
        "with `study.halving` those of the phase `screen` first",
    ),
    Column(
        "work",
        "double",
        "mean `work` over its tuning victims: what the objective `work` is",
        unit="images",
        null_when="`state` is not `ok`, or in rows from before the column existed",
    ),
)
"""One row for each suggestion of each study."""


IMAGES: tuple[Column, ...] = (
    Column("trial_id", "string", "the trial"),
    Column("image_id", "string", "the true image"),
    Column("original", "struct<bytes: binary, path: string>", "the true image; `path` is null"),
    Column(
        "reconstruction",
        "struct<bytes: binary, path: string>",
        "what the attack answered for it",
        null_when="unmatched",
    ),
)
"""One row for each picture that was kept."""


SUMMARY: tuple[Column, ...] = (
    Column("cell", "string", "name of the cell"),
    Column("attacker", "string", "name of the attacker"),
    Column("defense", "string", "as in the trials"),
    Column("defense_params", "string", "as in the trials"),
    Column("signal", "string", "as in the trials"),
    Column("view", "string", "as in the trials"),
    Column("round", "int64", "as in the trials"),
    Column("weights_accuracy", "double", "as in the trials", null_when="as in the trials"),
    Column("epsilon", "double", "as in the trials", null_when="as in the trials"),
    Column("epsilon_release", "double", "as in the trials", null_when="as in the trials"),
    Column("watched", "int64", "as in the trials"),
    Column("epsilon_watched", "double", "as in the trials", null_when="as in the trials"),
    Column("delta", "double", "as in the trials", null_when="as in the trials"),
    Column("dp_unit", "string", "as in the trials", null_when="as in the trials"),
    Column("dp_against", "string", "as in the trials", null_when="as in the trials"),
    Column("adjacency", "string", "as in the trials", null_when="as in the trials"),
    Column("differs", "string", "as in the trials"),
    Column(
        "epsilon_replace_one",
        "double",
        "what `epsilon` is for the same noise and delta under `replace_one` adjacency",
        null_when="without a statement, and where amplification by sampling is claimed",
    ),
    Column(
        "labels",
        "string",
        "whether the threat model makes the labels `known` to the attacker or leaves them `unknown`",
    ),
    Column(
        "method",
        "string",
        "what really ran; with counts, the most frequent first, where it was not always the same",
    ),
    Column("notes", "string", "JSON list of the distinct notes of the attacks, the most frequent first"),
    Column("n", "int64", "test victims with a finished attack, those of all seeds together"),
    Column("seeds", "int64", "how many seeds of the sweep they are of; from two on intervals are over seeds"),
    Column("images", "int64", "true images behind them"),
    Column("tests", "int64", "test trials of the winner, whatever their status"),
    Column("tests_failed", "int64", "how many of them failed; they are in no figure"),
    Column("psnr", "double", "mean PSNR", unit="dB", null_when="no finished attack"),
    Column("psnr_low", "double", "its lower bound", unit="dB", null_when="fewer than five victims"),
    Column("psnr_high", "double", "its upper bound", unit="dB", null_when="fewer than five victims"),
    Column(
        "psnr_median",
        "double",
        "median PSNR of the victims; a victim's images are averaged first",
        unit="dB",
        null_when="no finished attack",
    ),
    Column(
        "psnr_preselected",
        "double",
        "mean PSNR of the rows that are `preselected`, dB: what holds for an image that was chosen "
        "before the attack",
        unit="dB",
        null_when="no finished attack",
    ),
    Column(
        "psnr_preselected_low", "double", "its lower bound", unit="dB", null_when="fewer than five victims"
    ),
    Column(
        "psnr_preselected_high", "double", "its upper bound", unit="dB", null_when="fewer than five victims"
    ),
    Column(
        "psnr_worst",
        "double",
        "the greatest PSNR of any image: the most exposed one",
        unit="dB",
        null_when="no finished attack",
    ),
    Column(
        "success",
        "double",
        "share of images with 20 dB or more, a threshold of convenience: [no control reaches "
        "it](statistics.md#batches). Unmatched images count as not reached",
        null_when="no finished attack",
    ),
    Column("success_low", "double", "its lower bound, exact", null_when="no finished attack"),
    Column(
        "success_high",
        "double",
        "its upper bound, exact: above 0 for a share of 0",
        null_when="no finished attack",
    ),
    Column(
        "psnr_mean_image",
        "double",
        "mean PSNR of the mean public image",
        unit="dB",
        null_when="no finished attack",
        averaged="victims",
    ),
    Column(
        "psnr_public",
        "double",
        "mean of the trials' `psnr_public`",
        unit="dB",
        null_when="one image behind a signal",
        averaged="victims",
    ),
    Column(
        "psnr_groups",
        "double",
        "mean of the trials' `psnr_groups`",
        unit="dB",
        null_when="one image behind a signal",
        averaged="victims",
    ),
    Column(
        "control",
        "string",
        "what `gain` compares with: that of `mean public image`, `random public images` and `means of "
        "groups of public images` which comes closest on average, of those that all victims have",
    ),
    Column("psnr_control", "double", "mean PSNR of that", unit="dB", null_when="no finished attack"),
    Column(
        "gain",
        "double",
        "mean of `psnr` minus that of the `control` by victim",
        unit="dB",
        null_when="no finished attack",
    ),
    Column("gain_low", "double", "its lower bound", unit="dB", null_when="fewer than five victims"),
    Column("gain_high", "double", "its upper bound", unit="dB", null_when="fewer than five victims"),
    Column(
        "psnr_prior",
        "double",
        "mean PSNR of the same attack on noise",
        unit="dB",
        null_when="`execution.controls: false`, or no finished attack",
        averaged="victims",
        label="Prior, dB",
        digits=1,
    ),
    Column(
        "over_prior",
        "double",
        "mean of `psnr` minus `psnr_prior` by victim",
        unit="dB",
        null_when="no finished attack",
    ),
    Column("over_prior_low", "double", "its lower bound", unit="dB", null_when="fewer than five victims"),
    Column("over_prior_high", "double", "its upper bound", unit="dB", null_when="fewer than five victims"),
    Column(
        "psnr_oracle",
        "double",
        "mean of the trials' `psnr_oracle`",
        unit="dB",
        null_when="no finished attack",
        averaged="victims",
    ),
    Column(
        "psnr_range4",
        "double",
        "mean of the trials' `psnr_range4`",
        unit="dB",
        null_when="no finished attack",
        averaged="victims",
    ),
    Column(
        "psnr_bound",
        "double",
        "as in the trials; `mse` is what it bounds",
        unit="dB",
        null_when="as in the trials",
        averaged="victims",
        label="Bound, dB",
        digits=1,
        sparse=True,
    ),
    Column("mse", "double", "mean of the trials' `mse`", null_when="no finished attack", averaged="victims"),
    Column(
        "psnr_of_mse",
        "double",
        "`mse` as PSNR, which is what `psnr_bound` bounds: at most the mean PSNR",
        unit="dB",
        null_when="no finished attack",
    ),
    Column(
        "certified",
        "double",
        "share of the images that the attack certifies as exact, from what it sees "
        "([certificates](attacks.md#certificates))",
        null_when="no finished attack, a folder from before there was this column",
        averaged="victims",
        label="Certified",
        digits=2,
        sparse=True,
    ),
    Column("ssim", "double", "mean SSIM", averaged="victims", label="SSIM", digits=2),
    Column(
        "lpips",
        "double",
        "mean LPIPS",
        null_when="it was not measured",
        averaged="victims",
        label="LPIPS",
        digits=3,
        sparse=True,
    ),
    Column(
        "label_match",
        "double",
        "share of reconstructed images with the right label",
        null_when="no finished attack",
    ),
    Column(
        "label_accuracy", "double", "mean of the trials' `label_accuracy`", null_when="no finished attack"
    ),
    Column("label_accuracy_low", "double", "its lower bound, exact", null_when="no finished attack"),
    Column("label_accuracy_high", "double", "its upper bound, exact", null_when="no finished attack"),
    Column(
        "seconds",
        "double",
        "mean wall-clock seconds of an attack",
        unit="s",
        null_when="no finished attack",
        averaged="victims",
    ),
    Column(
        "cpu_seconds",
        "double",
        "mean CPU seconds of an attack",
        unit="s",
        null_when="no finished attack",
        averaged="victims",
    ),
    Column(
        "bytes_up",
        "double",
        "mean of the test trials' `bytes_up`",
        unit="bytes",
        null_when="no test trial",
        averaged="trials",
    ),
    Column(
        "rounding_error",
        "double",
        "mean of the test trials' `rounding_error`",
        null_when="no secure sum",
        averaged="trials",
    ),
    Column(
        "setup_seconds",
        "double",
        "mean of theirs",
        unit="s",
        null_when="no secure sum",
        averaged="trials",
    ),
    Column(
        "protect_seconds",
        "double",
        "mean of theirs",
        unit="s",
        null_when="no secure sum",
        averaged="trials",
    ),
    Column("add_seconds", "double", "mean of theirs", unit="s", null_when="no secure sum", averaged="trials"),
    Column(
        "reveal_seconds",
        "double",
        "mean of theirs",
        unit="s",
        null_when="no secure sum",
        averaged="trials",
    ),
    Column(
        "accuracy",
        "double",
        "accuracy of the utility run, with `utility.seeds` the mean over its trainings",
        null_when="without a run",
    ),
    Column(
        "accuracy_low",
        "double",
        "lower bound of its 95% interval. One training: exact, over the choice of validation images for "
        "this training and no other. Several: over trainings, as for means over victims, with one more "
        "that names the majority class",
        null_when="without a run; fewer than five of several trainings",
    ),
    Column("accuracy_high", "double", "upper bound of it", null_when="as `accuracy_low`"),
    Column(
        "trainings",
        "int64",
        "how many trainings are behind `accuracy`: `utility.seeds`; 0 without a run",
    ),
    Column(
        "majority",
        "double",
        "share of the majority class in the validation images",
        null_when="without a run",
    ),
    Column(
        "diverged",
        "bool",
        "whether the utility run's weights stopped being finite",
        null_when="without a run",
    ),
    Column(
        "not_finite",
        "int64",
        "how many updates, or gradients of single images, held NaN or infinity in the utility run and "
        "were clipped to zeros",
        null_when="without a run",
    ),
    Column("suggestion", "int64", "number of the winning suggestion", null_when="without a winner"),
    Column(
        "tuning_psnr",
        "double",
        "the winner's value on the tuning victims, dB. It is optimistic: the winner was chosen by it",
        unit="dB",
        null_when="without a winner",
    ),
    Column(
        "tuning_work",
        "double",
        "the winner's work for a tuning victim: how many images its attack differentiated twice",
        unit="images",
        null_when="without a winner, or with one from before the column `work` existed",
    ),
    Column(
        "front",
        "string",
        "JSON list of the study's suggestions that no other beats in both PSNR and work, by rising work: `[suggestion, "
        "dB, images]` each; `[]` where work is not known",
    ),
    Column("suggestions", "int64", "recorded suggestions of the study; 0 without a winner"),
    Column("hyperparameters", "string", "JSON object of the winner's parameters, `{}` without a winner"),
    Column("trials", "int64", "trials of this cell and attacker in all phases"),
    Column("trials_failed", "int64", "how many of them failed"),
    Column("not_observable", "int64", "how many of them were not observable"),
    Column(
        "undefended",
        "string",
        "the cell that `drop` compares with: the first without a defense and with the same `differs` but "
        "for the threat model, for the same attacker",
        null_when="for that cell itself, and where no cell compares",
    ),
    Column(
        "drop",
        "double",
        "mean of the undefended PSNR minus this one by victim, dB, over the images that are in both signals",
        unit="dB",
        null_when="no `undefended` cell",
    ),
    Column("drop_low", "double", "its lower bound", unit="dB", null_when="fewer than five victims"),
    Column("drop_high", "double", "its upper bound", unit="dB", null_when="fewer than five victims"),
    Column(
        "beside",
        "string",
        "the attacker that `lead` compares with: the first of the same cell",
        null_when="for that one itself",
    ),
    Column(
        "lead",
        "double",
        "mean of this attacker's PSNR minus that one's by victim",
        unit="dB",
        null_when="no `beside`",
    ),
    Column("lead_low", "double", "its lower bound", unit="dB", null_when="fewer than five victims"),
    Column("lead_high", "double", "its upper bound", unit="dB", null_when="fewer than five victims"),
)
"""One row for each cell and attacker, over the winner's test victims."""


THRESHOLDS: tuple[Column, ...] = (
    Column("threshold", "string", "its name"),
    Column("strength", "string", "path of the number that is searched"),
    Column("attacker", "string", "the attacker"),
    Column(
        "criterion",
        "string",
        "`gain`: the mean gain over the `control` falls to `level` dB. `success`: the share of images "
        "with PSNR >= 20 dB falls to `level`. `none`: no test image has 20 dB",
    ),
    Column("level", "double", "1 dB, 0.05, or 0"),
    Column(
        "side",
        "string",
        "`inside` the measured strengths; `before`: the weakest already suffices, `critical` is an upper "
        "bound; `after`: the strongest does not, `critical` is a lower bound; `refused`: too few images "
        "for the level",
    ),
    Column("critical", "double", "the critical strength", null_when="where it is refused"),
    Column(
        "weaker",
        "double",
        "the interval's weaker end",
        null_when="where it lies beyond the weakest strength, and where there is no interval",
    ),
    Column(
        "stronger",
        "double",
        "the interval's stronger end",
        null_when="where it lies beyond the strongest strength, and where there is no interval",
    ),
    Column("victims", "int64", "test victims behind it; with several seeds, how many seeds"),
    Column("strengths", "int64", "measured strengths behind it"),
    Column(
        "accuracy",
        "double",
        "accuracy of the utility run at the critical strength, between the strengths beside it",
        null_when="without runs",
    ),
    Column(
        "bracket_weaker",
        "double",
        "the measured strength below the critical one",
        null_when="where `side` is `before`",
    ),
    Column(
        "bracket_stronger", "double", "the measured strength above it", null_when="where `side` is `after`"
    ),
    Column("resolved", "bool", "whether victims, and not the gaps between strengths, limit the interval"),
    Column("images", "int64", "test images behind it"),
)
"""One row for each threshold, attacker and criterion."""


UTILITY: tuple[Column, ...] = (
    Column("accuracy", "double", "accuracy on the validation images after the last round, 0 to 1"),
    Column(
        "low",
        "double",
        "lower bound of its exact binomial 95% interval: over the choice of validation images, for this "
        "one training",
    ),
    Column("high", "double", "upper bound of it"),
    Column("majority", "double", "share of the majority class in the validation images"),
    Column("images", "int64", "number of validation images"),
    Column("per_round", "list<double>", "list: accuracy after each round"),
    Column(
        "diverged",
        "bool",
        "whether the weights stopped being finite; the accuracy is then that of the broken model",
    ),
    Column(
        "not_finite",
        "int64",
        "how many updates, or gradients of single images, held NaN or infinity and were clipped to "
        "zeros; files of older versions lack it",
    ),
)
"""The result of one training run, in a JSON file."""


TABLES: dict[str, tuple[Column, ...]] = {
    "Trials": TRIALS,
    "Studies": STUDIES,
    "Images": IMAGES,
    "Summary": SUMMARY,
    "Critical strengths": THRESHOLDS,
    "Utility": UTILITY,
}
"""Every table, by the heading in docs/results.md under which it is described."""


def averaged(over: Literal["victims", "trials"]) -> tuple[str, ...]:
    """The names of the summary's columns that are means over victims, or over trials."""
    return tuple(column.name for column in SUMMARY if column.averaged == over)


def markdown(columns: Sequence[Column]) -> str:
    """A table of the documentation: a line for each column, without units where none has one."""
    units = any(column.unit for column in columns)
    heads = ["column", "type", *(["unit"] if units else []), "meaning", "null"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for column in columns:
        unit = [column.unit] if units else []
        cells = [f"`{column.name}`", column.type, *unit, column.meaning, column.null_when]
        lines.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join(lines)
