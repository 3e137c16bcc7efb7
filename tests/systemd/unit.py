"""wharf.service in a machine, installed as deploy/ says, with the counter as its plugin."""

import os
import re
import time

from clients import PATIENCE

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# The one for TLS is among those for which the unit grants a capability.
ECHO, TLS, WANTED = 7000, 443, 7001
CONTROL = ("--socket", "/run/wharf/control.sock")
TLS_SERVER = f"""
[[server]]
name = "tls"
port = {TLS}
options = ["secure", "reuse-address"]
plugin = "/etc/wharf/plugins/echo"
[server.credentials]
certificate_chain = "/etc/wharf/certificate.pem"
private_key = "/etc/wharf/key.pem"
"""
MORE_SERVER = f"""
[[server]]
name = "more"
port = {WANTED}
plugin = "/etc/wharf/plugins/echo"
"""


def eventually(what, holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE:.0f} s"
        time.sleep(0.02)


class Unit:
    """wharf.service in the machine."""

    def __init__(self, machine):
        self.machine = machine
        self.config = ""

    def install(self, component, key, certificate):
        """As deploy/wharf.service says, with the counter in the place of the echo plugin."""
        machine, deploy = self.machine, os.path.join(ROOT, "deploy")
        adds = [line for line in open(os.path.join(deploy, "wharf.service")) if "useradd" in line]
        machine.run(*adds[0].strip("# \n").split())
        machine.put(component, "/etc/wharf/plugins/echo/counter.wasm")
        manifest = 'name = "echo"\nversion = "0.1.0"\ncomponent = "counter.wasm"\n'
        machine.write("/etc/wharf/plugins/echo/plugin.toml", manifest)
        machine.put(certificate, "/etc/wharf/certificate.pem")
        machine.put(key, "/etc/wharf/key.pem", 0o600)
        machine.run("chown", "wharf:", "/etc/wharf/key.pem")
        with open(os.path.join(deploy, "wharf.toml")) as text:
            self.config = text.read() + TLS_SERVER
        self.configure(self.config)
        for name in ("wharf.service", "wharf.socket"):
            machine.put(os.path.join(deploy, name), f"/etc/systemd/system/{name}")
        self.systemctl("daemon-reload")

    def configure(self, text):
        self.machine.write("/etc/wharf/wharf.toml", text)

    def drop_in(self, text):
        """Other settings of the unit; none where there is no text."""
        self.machine.write("/etc/systemd/system/wharf.service.d/try.conf", text)
        self.systemctl("daemon-reload")

    def systemctl(self, *arguments, check=True):
        return self.machine.run("systemctl", *arguments, check=check)

    def restart_begins(self):
        return self.machine.start("systemctl", "restart", "wharf.service")

    def show(self, name):
        return self.systemctl("show", "--value", f"--property={name}", "wharf.service").stdout.strip()

    def process(self):
        return int(self.show("MainPID"))

    def signal(self, number, name="main"):
        self.systemctl("kill", f"--kill-whom={name}", f"--signal={number}", "wharf.service")

    def stands_still(self, process):
        """Whether every thread of the process is stopped."""
        listed = self.machine.run("sh", "-c", f"cat /proc/{process}/task/*/stat", check=False).stdout
        threads = [line.rpartition(")")[2].split()[0] for line in listed.splitlines() if ")" in line]
        return bool(threads) and all(state == "T" for state in threads)

    def processes(self):
        """All of the unit, by their numbers in the machine."""
        listed = self.machine.run("cat", "/sys/fs/cgroup/system.slice/wharf.service/cgroup.procs", check=False).stdout
        return [int(number) for number in listed.split() if number.isdigit()]

    def is_active(self):
        return self.show("ActiveState") == "active"

    def is_started(self):
        self.systemctl("reset-failed", "wharf.service", check=False)
        self.systemctl("start", "wharf.service")
        assert self.is_active(), self.journal()

    def journal(self):
        return self.machine.run("journalctl", "--unit=wharf.service", "--no-pager", "--output=cat", check=False).stdout

    def says(self, words, after=0):
        """Waits for a line with these words beyond so many characters of the journal."""
        found = []

        def is_there():
            found[:] = [line for line in self.journal()[after:].splitlines() if words in line]
            return bool(found)

        eventually(f"the journal has `{words}`", is_there)
        return found[-1]

    def stored(self):
        return int(self.show("NFileDescriptorStore"))

    def sockets_are_stored(self):
        eventually("both listening sockets are in the store", lambda: self.stored() == 2)

    def ctl(self, *arguments):
        return self.machine.run("wharf", "ctl", *CONTROL, *arguments).stdout

    def has_no_faults(self):
        metrics = self.ctl("metrics")
        wrong = [line for line in metrics.splitlines() if re.match(r"wharf_faults_total.* [1-9]", line)]
        wrong += [line for line in metrics.splitlines() if "session-not-restored" in line and not line.endswith(" 0")]
        assert not wrong, wrong
