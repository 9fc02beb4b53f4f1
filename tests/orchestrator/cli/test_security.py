"""What nobody may do with a sweep file or a results folder that he sends, and what must not leak."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summary_lines
from orchestrator.cli.main import execute
from orchestrator.config.parse import load_sweep
from orchestrator.config.plain import build
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.sweep import run_sweep
from orchestrator.report.report import write_report
from orchestrator.runtime.progress import Silent
from tests.support.paths import ROOT
from tests.support.results_folder import failed_row, row, trial, write_folder
from tests.support.small import sweep, tree

CODE = ("fl_core", "attack_core", "defenses", "orchestrator", "scripts")

# Modules that run code when they read, and calls that do or that hand a string to a shell.
MODULES = {
    *(
        "pickle",
        "cPickle",
        "_pickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
        "yaml",
        "jsonpickle",
    ),
    *("code", "codeop", "imp", "runpy"),
}
CALLS = {
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "torch.load",
        "torch.jit.load",
        "torch.hub.load",
        "torch.package",
    ),
    *(
        "np.load",
        "numpy.load",
        "pd.read_pickle",
        "pandas.read_pickle",
        "os.system",
        "os.popen",
        "tempfile.mktemp",
    ),
    *(
        "torch.serialization.load",
        "importlib.import_module",
        "torch.save",
        "torch.hub.load_state_dict_from_url",
    ),
}
NAMES = {(name.rpartition(".")[0], name.rpartition(".")[2]) for name in CALLS if "." in name}


def offences(source: str) -> list[str]:
    """Every place in `source` that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if node.module.split(".")[0] in MODULES else []
            found += [f"{node.module}.{a.name}" for a in node.names if (node.module, a.name) in NAMES]
        elif isinstance(node, ast.Call):
            name, given_ = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
            found += [name] if name in CALLS else []
            found += [
                f"{name}({word})"
                for word in ("shell", "allow_pickle")
                if word in given_ and ast.unparse(given_[word]) != "False"
            ]
            if name == "YAML" and not ("typ" in given_ and ast.unparse(given_["typ"]) == "'safe'"):
                found.append("YAML without typ='safe'")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.memory",
        "torch.load(path)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "reader(path, allow_pickle=flag)",
        "import yaml",
        "YAML(typ='unsafe')",
        "YAML()",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "import marshal",
        "import shelve",
    ],
)
def test_the_walk_finds_what_it_looks_for(source: str) -> None:
    assert offences(source)


def test_the_walk_lets_through_what_is_harmless() -> None:
    assert not offences(
        "model.eval()\nYAML(typ='safe')\nsubprocess.run(['git'], shell=False)\nre.compile('x')"
    )


@pytest.mark.parametrize("package", CODE)
def test_nothing_that_is_read_is_run(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = {str(path.relative_to(ROOT)): offences(path.read_text(encoding="utf-8")) for path in paths}
    # It imports optional libraries by names that stand in the code, so that a missing one is a sentence.
    found["fl_core/base/libraries.py"] = found.get("fl_core/base/libraries.py", [])[1:]
    # It imports the package's own modules.
    loading = "attack_core/attacks/loading.py"
    found[loading] = found.get(loading, [])[1:]
    # The user's own code, which a sweep file or --model names, is run on purpose, and nowhere else.
    for path in ("fl_core/base/own_code.py", "fl_core/base/own_object.py"):
        found.pop(path, None)
    # State dicts are read with weights_only, after a check of what the archive holds.
    text = (ROOT / "fl_core/models/tensor_files.py").read_text(encoding="utf-8")
    assert text.count("torch.load(") == text.count("weights_only=True)") == 1
    found.pop("fl_core/models/tensor_files.py", None)
    assert not {path: what for path, what in found.items() if what}


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    file = tmp_path / "sweep.yaml"
    file.write_text(f"name: !!python/object/apply:os.system ['touch {ran}']\n")
    with pytest.raises(InputError):
        load_sweep(file)
    assert not ran.exists()


def below(folder: Path) -> set[str]:
    """Everything in a folder, links not followed."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@settings(max_examples=60, deadline=None)
@given(
    name=st.one_of(
        st.text(max_size=12),
        st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "~", "\0", "C:"]), max_size=6).map("".join),
    ),
    place=st.sampled_from(["name", "cell", "attacker", "family"]),
)
def test_a_name_that_is_taken_is_one_plain_file_name(name: str, place: str) -> None:
    """Property: names that become parts of paths are refused, or are a single name that stays where it is put."""
    plain = tree(Path("faces"))
    if place == "name":
        plain["name"] = name
    elif place == "cell":
        plain["cells"][0]["name"] = name
    elif place == "attacker":
        plain["attackers"][0]["name"] = name
    else:
        attacker = plain["attackers"][0]
        own = {"attack": attacker.pop("attack"), "search": attacker.pop("search")}
        attacker["families"] = {name: own}
    try:
        build(SweepConfig, plain, where="test")
    except InputError:
        return
    folder = Path("/results")
    assert Path(os.path.normpath(folder / name)) == folder / name
    assert (folder / name).parent == folder


def test_a_sweep_without_out_stays_under_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    Path("sweep.yaml").write_text("name: ../../escaped\n")
    assert execute(["sweep", "sweep.yaml", "--address", "serial"]) == 2
    assert below(tmp_path) == {"inside", "inside/sweep.yaml"}


def test_a_sweep_writes_only_into_its_folder(faces_root: Path, tmp_path: Path) -> None:
    before = below(faces_root)
    out = tmp_path / "place" / "out"
    config = sweep(faces_root, victims__test=1, study__suggestions=1, execution__keep_captures=False)
    run_sweep(config, out, address="serial", reporter=Silent())
    write_report(out, summary_lines(out))
    assert {path.name for path in tmp_path.iterdir()} == {"place"}
    assert {path.name for path in (tmp_path / "place").iterdir()} == {"out"}
    assert below(faces_root) == before


@pytest.mark.parametrize(
    "name", ["trials", "captures", "report.html", "_report.html", "pending.jsonl", "figures/x.png"]
)
def test_a_results_folder_with_a_link_is_refused(name: str, faces_root: Path, tmp_path: Path) -> None:
    """A link in a folder that somebody sent would lead writes, or the removal of captures, elsewhere."""
    victim = tmp_path / "precious"
    victim.mkdir()
    (victim / "file").write_text("kept")
    out = tmp_path / "out"
    write_folder(out, [trial(row())])
    link = out / name
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        link.rename(out / "moved")
    link.unlink(missing_ok=True)
    link.symlink_to(victim / "file" if "." in name else victim)
    with pytest.raises(InputError, match=f"{link.name} is a link to"):
        run_sweep(sweep(faces_root), out, address="serial", reporter=Silent())
    with pytest.raises(InputError, match="is a link to"):
        write_report(out, [])
    assert below(victim) == {"file"}
    assert (victim / "file").read_text() == "kept"


def test_a_results_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    real = write_folder(tmp_path / "real", [trial(row())])
    (tmp_path / "named").symlink_to(real)
    assert execute(["report", str(tmp_path / "named")]) == 0
    assert (real / "report.html").exists()


def test_a_compaction_plan_removes_nothing_outside(tmp_path: Path) -> None:
    precious = tmp_path / "precious.parquet"
    precious.write_text("kept")
    out = write_folder(tmp_path / "out", [trial(row())])
    merged = next((out / "trials").glob("part-*.parquet")).name
    names = ["../../precious.parquet", str(precious)]
    (out / "trials" / "_compaction.json").write_text(json.dumps({"merged": merged, "replaces": names}))
    write_folder(out, [])
    assert precious.read_text() == "kept"


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&$\\frac{x$[/bold]"


def test_the_report_shows_hostile_names_as_text(tmp_path: Path) -> None:
    """Whoever sends a results folder chooses its texts; a browser must run none, and the terminal must show them."""
    changes = {
        "attacker": HOSTILE,
        "method": HOSTILE,
        "notes": json.dumps([HOSTILE]),
        "image_id": f"{HOSTILE}.jpg",
    }
    trials = [
        trial(row(HOSTILE, 2, **changes), pictures=True),
        trial(failed_row(HOSTILE, 3, HOSTILE, attacker=HOSTILE)),
    ]
    out = write_folder(tmp_path / "out", trials, utility={"none": {}})
    assert execute(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<script") == 1, "the page's own, which its policy allows by hash"
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "Content-Security-Policy" in page


SECRET = "hunter2-6f1d8e1f0c2b"


def test_no_environment_value_reaches_results_or_terminal(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RAY_AUTH_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "SOME_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    out = tmp_path / "out"
    config = sweep(faces_root, victims__test=1, study__suggestions=1, attackers__0__attack__iterations=2)
    run_sweep(config, out, address="serial", reporter=Silent())
    assert execute(["report", str(out)]) == 0
    assert execute(["doctor"]) == 0
    written = capsys.readouterr()
    assert SECRET not in written.out + written.err
    for path in out.rglob("*"):
        if path.suffix == ".parquet":
            assert SECRET not in pd.read_parquet(path).to_csv()
        elif path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


LISTENING = """
import json, os
from orchestrator.execute.execute import make_executor
executor = make_executor("local", workers=1, threads=1)
import ray, psutil
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
sockets = [
    (process.name(), connection.laddr.ip, connection.laddr.port)
    for process in family
    for connection in process.net_connections("inet")
    if connection.status == "LISTEN"
]
node = ray._private.worker._global_node
print("FOUND", json.dumps({"dashboard": node.webui_url or "", "mode": os.environ.get("RAY_AUTH_MODE", ""),
    "sockets": sockets, "arguments": [process.cmdline() for process in family]}))
executor.close()
"""


@pytest.mark.slow
def test_a_local_ray_shows_no_dashboard_and_asks_for_a_token(tmp_path: Path) -> None:
    """`--address local` serves no dashboard and no Jobs API, authenticates, and names no token in any argv."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(SECRET * 2)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line, done.stderr
    found = json.loads(line.removeprefix("FOUND "))
    assert found["dashboard"] == ""
    assert found["mode"] == "token"
    assert 8265 not in {port for _, _, port in found["sockets"]}
    assert found["sockets"]
    assert SECRET not in json.dumps(found["arguments"])
    assert SECRET not in done.stdout + done.stderr
