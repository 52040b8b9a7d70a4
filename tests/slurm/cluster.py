"""A SLURM cluster of one node, this machine, for tests: of Debian's packages, in a folder and on ports of its own.

    python -m tests.slurm.cluster start FOLDER     then `export SLURM_CONF=FOLDER/slurm.conf`, sbatch, squeue, ...
    python -m tests.slurm.cluster stop FOLDER

Installs slurm-wlm and munge where they are missing, as root. A cluster that this machine belongs to is not touched:
munge's key and socket, all ports and folders are its own, and only what it started is stopped.
"""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.debian import Unavailable, install_packages

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
DAEMONS = ("munged", "slurmctld", "slurmd")  # in the order of their start
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where Debian puts daemons
STARTING = 30.0  # seconds

# cred_expire is also what a requeued job waits before it starts again; SLURM's default is 120 s.
# The node is called localhost because Lightning takes the first node's name for an address.
# config_overrides: more processors than there are, so that jobs do not wait for each other.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={hold}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobRequeue=1
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=8 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Return which of SLURM's programs are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


def install() -> None:
    """Install SLURM from Debian's packages where it is missing.

    Raises:
        Unavailable: where that can't be done.
    """
    if missing := missing_programs():
        install_packages(PACKAGES, f"SLURM is not installed (no {', '.join(missing)})")
    if missing := missing_programs():
        raise Unavailable(f"its packages are installed, but not all of SLURM is there (no {', '.join(missing)})")


class Cluster:
    """The cluster that lives in a folder.

    Args:
        folder: Configuration, logs and state; a short path, for it holds a socket.
        hold: Seconds that a requeued job waits.
    """

    def __init__(self, folder: Path, hold: int = 5) -> None:
        self.folder, self.hold = folder, hold
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start the three daemons, and wait until the node takes jobs.

        Raises:
            RuntimeError: if they do not run after half a minute.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munge insists that everybody can reach its socket
        for name in ("state", "spool"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "slurm.conf").write_text(self._config())
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        munge = {"key-file": "key", "socket": "socket", "log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={self.folder}/munge.{name}" for option, name in munge.items()]
        try:
            self._run("munged", *files, f"--pid-file={self.folder}/munged.pid")
            self._run("slurmctld", "-f", str(self.folder / "slurm.conf"))
            self._run("slurmd", "-f", str(self.folder / "slurm.conf"))
            self._wait_for_the_node()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel all jobs of the cluster, then end its daemons."""
        if self._pid("slurmctld") is not None:
            self.output("scancel", "--user", getpass.getuser(), check=False)
            self._until(lambda: not self.output("squeue", "--noheader", check=False).strip(), 15)
        for name in reversed(DAEMONS):
            for number in (signal.SIGTERM, signal.SIGKILL):
                if (pid := self._pid(name)) is not None:
                    os.kill(pid, number)
                    self._until(lambda name=name: self._pid(name) is None, 10)

    def output(self, *command: str, check: bool = True) -> str:
        """Return what one of SLURM's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def _config(self) -> str:
        with socket.socket() as first, socket.socket() as second:
            for probe in (first, second):
                probe.bind(("127.0.0.1", 0))
            ports = {"controller_port": first.getsockname()[1], "node_port": second.getsockname()[1]}
        host = socket.gethostname().split(".")[0]
        return CONFIG.format(folder=self.folder, host=host, user=getpass.getuser(), hold=self.hold, **ports)

    def _run(self, program: str, *arguments: str) -> None:
        # Inherited files of a test's would keep its reader waiting for the daemon's end.
        with open(self.folder / f"{program}.out", "w") as log:
            done = subprocess.run(
                [program, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=30,
                start_new_session=True,
            )
        if done.returncode:
            raise RuntimeError(f"{program} does not start: {Path(log.name).read_text().strip()}")

    def _wait_for_the_node(self) -> None:
        if not self._until(lambda: "idle" in self.output("sinfo", "--noheader", "-o", "%t", check=False), STARTING):
            raise RuntimeError(f"the node takes no jobs after {STARTING:.0f} s: see {self.folder}/slurmd.log")

    def _pid(self, name: str) -> int | None:
        """Return the process of a daemon of this folder, None if it does not run."""
        try:
            pid = int((self.folder / f"{name}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        # A number may have gone to another process since.
        ours = Path(command[0].decode()).name == name and str(self.folder) in b" ".join(command).decode()
        return pid if ours else None

    @staticmethod
    def _until(condition, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < end:
            time.sleep(0.1)
        return met


def main() -> None:
    """Start or stop the cluster of a folder."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        raise SystemExit("usage: python -m tests.slurm.cluster start|stop FOLDER")
    cluster = Cluster(Path(sys.argv[2]).resolve())
    if sys.argv[1] == "stop":
        cluster.stop()
        return
    try:
        install()
    except Unavailable as error:
        raise SystemExit(f"error: {error}") from None
    cluster.start()
    print(f"export SLURM_CONF={cluster.folder}/slurm.conf")


if __name__ == "__main__":
    main()
