"""A machine of its own: a small Debian whose first process is systemd, in namespaces, with nothing outside that is touched.

Its root is made once and kept; what is changed while it runs goes to memory and is gone afterwards."""

import ctypes
import fcntl
import os
import shutil
import subprocess
import time

CLONE_NEWNET = 0x40000000
BOOT_MAX, COMMAND_MAX = 60.0, 120.0
TOOLS = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
# All processes of the machine are in a control group. This ends the group once no process holds
# the other end of its input.
# systemd-nspawn itself ends after the machine, and cleans up.
GUARD = """
read -r _
echo 1 >"$1/payload/cgroup.kill"
left=100
while grep -q 'populated 1' "$1/cgroup.events"; do
    [ $((left -= 1)) -gt 0 ] || echo 1 >"$1/cgroup.kill"
    [ "$left" -gt -100 ] || exit 1
    sleep 0.05
done
find "$1" -depth -type d -exec rmdir {} +
rm -rf "$2"
"""


class Broken(Exception):
    """The machine itself cannot be had."""


def make_root(folder, suite):
    """Makes the root where it is not there. One that was not finished is made anew. Returns a lock on it."""
    lacking = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if lacking:
        raise Broken(f"this needs Debian's {', '.join(lacking)}: apt-get install {' '.join(lacking)}")
    if os.geteuid() != 0:
        raise Broken("this has to run as root: it boots a machine in namespaces")
    os.makedirs(folder, exist_ok=True)
    # Two machines on one root do not start, so the second waits.
    lock = open(os.path.join(folder, f"{suite}.lock"), "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    root = os.path.join(folder, suite)
    if not os.path.isdir(root):
        print(f"making a root of {suite} in {root}", flush=True)
        half = root + ".half"
        shutil.rmtree(half, ignore_errors=True)
        # What it mounts and starts goes with it.
        command = ["setpriv", "--pdeathsig", "KILL"]
        command += ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command += ["mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv", suite, half]
        made = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if made.returncode:
            shutil.rmtree(half, ignore_errors=True)
            raise Broken(f"{' '.join(command)}:\n{made.stdout.decode(errors='replace')}")
        os.rename(half, root)
    return root, lock


class Machine:
    def __init__(self, root, lock, scratch, files):
        """On this root, with files of the host at these places. `scratch` is a folder that is removed with the machine."""
        self.lock, self.log, self.leader = lock, os.path.join(scratch, "console"), None
        with open("/proc/self/mounts") as mounts:
            groups = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
        if not groups:
            raise Broken("this needs control groups of version 2, mounted anywhere")
        self.group = os.path.join(groups[0], f"wharf-systemd-{os.getpid()}")
        os.mkdir(self.group)
        reader, self.held = os.pipe()
        guard = ["sh", "-c", GUARD, "guard", self.group, scratch]
        self.guard = subprocess.Popen(guard, stdin=reader, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(reader)
        command = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', os.path.join(self.group, "cgroup.procs")]
        command += ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine=wharf-{os.getpid()}"]
        command += [f"--directory={root}", "--volatile=overlay", "--private-network", "--console=pipe", "--boot"]
        command += [f"--bind-ro={source}:{place}" for source, place in files.items()]
        environment = dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1")
        with open(self.log, "wb") as output:
            # Out of the terminal's group: what interrupts this program has to leave the machine to it.
            self.nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )

    def boots(self):
        end = time.monotonic() + BOOT_MAX
        state = "no first process yet"
        while True:
            if self.nspawn.poll() is not None or time.monotonic() > end:
                with open(self.log, errors="replace") as text:
                    raise Broken(f"the machine does not boot ({state}):\n{text.read()[-4000:]}")
            with open(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children") as children:
                found = children.read().split()
            if found:
                self.leader = int(found[-1])
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    break
            time.sleep(0.05)
        # From now on the clients of this program are on the machine's network, and no others.
        with open(f"/proc/{self.leader}/ns/net") as network:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(network.fileno(), CLONE_NEWNET):
                raise Broken(f"cannot enter the machine's network: {os.strerror(ctypes.get_errno())}")

    def path(self, path):
        return f"/proc/{self.leader}/root{path}"

    def put(self, source, path, mode=0o644):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        shutil.copyfile(source, self.path(path))
        os.chmod(self.path(path), mode)

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w") as file:
            file.write(text)

    def read(self, path):
        with open(self.path(path)) as file:
            return file.read()

    def start(self, *command):
        """A command in the machine that is not waited for."""
        enter = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]
        return subprocess.Popen(
            enter + list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *command, check=True):
        process = self.start(*command)
        return self.finish(process, check)

    def finish(self, process, check=True):
        try:
            said, _ = process.communicate(timeout=COMMAND_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{' '.join(process.args)} took more than {COMMAND_MAX:.0f} s")
        done = subprocess.CompletedProcess(process.args[process.args.index("--") + 1 :], process.returncode, said)
        assert not check or done.returncode == 0, f"{' '.join(done.args)}: {done.returncode}\n{done.stdout}"
        return done

    def ends(self):
        """At once, and everything in it."""
        os.close(self.held)
        self.nspawn.wait()
        self.guard.wait()
        self.lock.close()
