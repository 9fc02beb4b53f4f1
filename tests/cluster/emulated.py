"""A real Slurm on hosts that this machine emulates: each has a network, process ids, a name and mounts of its own.

Nothing of it touches the machine's network: the controller, too, has a network namespace, which holds the
bridge between the hosts. File systems are shared, /dev/shm and /tmp/ray aside. Needs root, slurmd, slurmctld,
munged and ip.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

PROGRAMS = ("slurmd", "slurmctld", "munged", "ip", "sbatch", "unshare", "nsenter")
SUBNET = "10.77.0"
CPUS = 2

_CONFIG = """
ClusterName=emulated
SlurmctldHost=controller({subnet}.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it may start again.
AuthInfo=cred_expire=10,socket={folder}/munge/sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=600
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=10
KillWait=30
MailProg=/bin/true
GresTypes=gpu
NodeName=node[1-{nodes}] CPUs={cpus} RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=node[1-{nodes}] Default=YES MaxTime=INFINITE State=UP
"""

# Process 1 of a host: dying, it takes the whole host along.
_HOST = """
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray
slurmd -D -f "$2/slurm.conf" -N "$1" & wait
"""


def missing() -> str | None:
    """Why this machine cannot emulate a cluster; None where it can."""
    if os.geteuid() != 0:
        return "emulated hosts need root"
    absent = [name for name in PROGRAMS if _find(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge iproute2)"
    attempt = [
        "unshare",
        "--net",
        "--pid",
        "--uts",
        "--mount",
        "--fork",
        "--mount-proc",
        "mount",
        "--bind",
        "/tmp",
        "/tmp",
    ]
    done = subprocess.run(attempt, capture_output=True, text=True)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else None


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def until(holds: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Wait until it holds; `TimeoutError` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.2)


def command_line(pid: int) -> str:
    """A process's command line; empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class Cluster:
    """Use as a context manager: the hosts node1, node2, ... are up inside it and gone after it."""

    def __init__(self, nodes: int) -> None:
        # Below /tmp for the sake of sockets, whose paths are short.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.nodes = nodes
        self._name = f"gs{secrets.token_hex(3)}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._connect()
            self._start_controller()
            for number in range(1, self.nodes + 1):
                self.start_node(number)
            until(lambda: self.idle() == self.nodes, f"{self.nodes} idle nodes")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process by its id, and remove networks and files."""
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            process.send_signal(signal.SIGKILL if name.startswith("node") else signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for network in ("controller", *self._hosts()):
            subprocess.run(["ip", "netns", "del", self._network(network)], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def slurm(self, *command: str, cwd: Path | None = None, **environment: str) -> str:
        """Run a Slurm command on the controller's host; what it printed."""
        there = f"--target={self._processes['slurmctld'].pid}"
        here = f"--wd={cwd or Path.cwd()}"
        done = subprocess.run(
            ["nsenter", there, "--net", "--mount", "--uts", here, *command],
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def idle(self) -> int:
        """How many nodes could take a job now."""
        try:
            return sum(int(count) for count in self.slurm("sinfo", "-h", "-t", "idle", "-o", "%D").split())
        except (KeyError, RuntimeError):
            return 0  # The controller is not up yet.

    def job(self, job: str, key: str) -> str:
        """One value of `scontrol show job`."""
        words = self.slurm("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{key}="))

    def start_node(self, number: int) -> None:
        """Boot a host."""
        host = f"node{number}"
        command = [
            f"--net=/run/netns/{self._network(host)}",
            "unshare",
            "--pid",
            "--uts",
            "--mount",
            "--fork",
        ]
        command += ["--kill-child=KILL", "--mount-proc", "bash", "-c", _HOST, "host", host, str(self.folder)]
        self._start(host, "nsenter", *command)

    def kill_node(self, number: int) -> None:
        """Pull a host's plug."""
        process = self._processes.pop(f"node{number}")
        process.kill()
        process.wait()

    @contextmanager
    def paused(self, number: int, title: str) -> Iterator[None]:
        """Processes of a host whose command line begins so stand still inside; they go on after it."""
        held = [pid for pid in self._processes_of(number) if command_line(pid).startswith(title)]
        if not held:
            raise ValueError(f"no process of node{number} is called {title}...")
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in held:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _processes_of(self, number: int) -> list[int]:
        """A host's processes: those in its network."""
        network = (Path("/run/netns") / self._network(f"node{number}")).stat().st_ino
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "ns" / "net").stat().st_ino == network:
                    found.append(int(folder.name))
        return found

    def _hosts(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    def _network(self, host: str) -> str:
        return f"{self._name}-{host}"

    @property
    def _environment(self) -> dict[str, str]:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def _configure(self) -> None:
        for name in ("state", "spool", "munge", "log", "dev"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o711)
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        config = _CONFIG.format(subnet=SUBNET, folder=self.folder, nodes=self.nodes, cpus=CPUS)
        (self.folder / "slurm.conf").write_text(config)
        # Two GPUs a node that only Slurm believes in: /dev/null under other names.
        for number in (0, 1):
            os.mknod(self.folder / "dev" / f"nvidia{number}", 0o020666, os.makedev(1, 3))
        devices = f"NodeName=node[1-{self.nodes}] Name=gpu File={self.folder}/dev/nvidia[0-1]\n"
        (self.folder / "gres.conf").write_text(devices)
        hosts = [f"{SUBNET}.{number} node{number}" for number in range(1, self.nodes + 1)]
        lines = ["127.0.0.1 localhost", f"{SUBNET}.254 controller", *hosts]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")

    def _connect(self) -> None:
        controller = self._network("controller")
        self._ip("netns", "add", controller)
        self._ip("-n", controller, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", controller, "addr", "add", f"{SUBNET}.254/24", "dev", "bridge")
        for device in ("bridge", "lo"):
            self._ip("-n", controller, "link", "set", device, "up")
        for number, host in enumerate(self._hosts(), start=1):
            mine = self._network(host)
            self._ip("netns", "add", mine)
            self._ip(
                *(
                    "-n",
                    controller,
                    "link",
                    "add",
                    host,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    mine,
                )
            )
            self._ip("-n", controller, "link", "set", host, "master", "bridge", "up")
            self._ip("-n", mine, "addr", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                self._ip("-n", mine, "link", "set", device, "up")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, env=self._environment)

    def _start_controller(self) -> None:
        munge = self.folder / "munge"
        files = {
            "socket": "sock",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        self._start(
            "munged", "munged", "-F", "--force", *(f"--{key}={munge / name}" for key, name in files.items())
        )
        until((munge / "sock").exists, "munge's socket")
        # The controller asks for its host by name.
        script = 'hostname controller && mount --bind "$1/hosts" /etc/hosts && exec slurmctld -D -f "$1/slurm.conf"'
        net = f"--net=/run/netns/{self._network('controller')}"
        inside = ["unshare", "--uts", "--mount", "bash", "-c", script, "controller", str(self.folder)]
        self._start("slurmctld", "nsenter", net, *inside)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
