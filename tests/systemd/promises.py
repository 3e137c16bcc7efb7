"""What deploy/ and docs/operating/systemd.md promise of wharf.service. Each is a function that raises where the promise is broken, and may
return figures. They are tried in this order, each with what the one before has left: a unit that runs, or does not."""

import os
import re
import socket
import ssl
import time

from clients import PATIENCE, Client, NewClients, Sessions
from unit import CONTROL, ECHO, MORE_SERVER, TLS, WANTED, eventually

# Sessions that stay, and new clients a second.
SESSIONS, PACE = 200, 300


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def tls(port=TLS):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return Client(port, lambda raw: context.wrap_socket(raw))


def the_units_are_sound_and_leave_little_exposed(unit):
    checked = unit.machine.run("systemd-analyze", "verify", "wharf.service", "wharf.socket").stdout
    assert not checked, checked
    # Tenths of what systemd counts up to ten.
    rated = unit.machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", "wharf.service").stdout
    return re.search(r"Overall exposure level.*: ([0-9.]+)", rated)[1] + " of 10 is exposed"


def a_start_returns_when_every_server_serves(unit):
    start = time.monotonic()
    unit.systemctl("start", "wharf.service")
    took = time.monotonic() - start
    Client(ECHO).ask()
    tls().ask()
    assert unit.is_active() and "ready" in unit.ctl("ready")
    return f"{took:.1f} s"


def nothing_that_it_needs_is_forbidden(unit):
    journal = unit.journal()
    # A sandbox that is too narrow shows in warnings.
    wrong = [line for line in journal.splitlines() if " WARN " in line or "ERROR" in line or "not permitted" in line]
    assert not wrong, "\n".join(wrong)
    cache = [name for name in os.listdir(unit.machine.path("/var/cache/wharf")) if name.endswith(".bin")]
    assert cache, "compiled plugins are not kept"
    assert os.stat(unit.machine.path("/run/wharf/control.sock")).st_mode & 0o077 == 0
    lanes = [line for line in journal.splitlines() if "lanes threads" in line]
    return lanes[0].split("lanes ")[1] if lanes else ""


def a_reload_is_followed_and_a_bad_one_changes_nothing(unit):
    unit.configure(unit.config + MORE_SERVER)
    unit.systemctl("reload", "wharf.service")
    Client(WANTED).ask()
    eventually("its socket is stored", lambda: unit.stored() == 3)
    mark = len(unit.journal())
    unit.configure(unit.config.replace("max_clients", "max_customers"))
    unit.systemctl("reload", "wharf.service")
    assert "max_customers" in unit.says("max_customers", mark)
    Client(WANTED).ask()
    unit.configure(unit.config)
    unit.systemctl("reload", "wharf.service")
    unit.sockets_are_stored()
    assert is_refused(WANTED)


def a_restart_refuses_no_client_and_sessions_go_on(unit):
    sessions, new_clients = Sessions(ECHO, SESSIONS), NewClients(ECHO, PACE)
    sessions.go_on()
    new_clients.more(PACE)
    before = unit.process()
    mark = len(unit.journal())
    took = []
    for _ in range(2):
        start = time.monotonic()
        unit.systemctl("restart", "wharf.service")
        took.append(time.monotonic() - start)
        sessions.go_on()
        new_clients.more(PACE // 2)
    assert unit.process() != before
    left = re.findall(r"left=(\d+) stayed=(\{.*?\})", unit.journal()[mark:])
    assert len(left) == 2 and all(int(count) >= SESSIONS for count, _ in left), left
    unit.has_no_faults()
    unit.sockets_are_stored()
    said, came = sessions.end(), new_clients.end()
    return (
        f"{SESSIONS} sessions, {said} numbered answers; {came} new clients at {PACE}/s, "
        f"none waited for more than {new_clients.longest:.1f} s; "
        f"restarts took {took[0]:.1f} and {took[1]:.1f} s"
    )


def a_mistake_in_the_configuration_can_be_mended_before_sessions_are_lost(unit):
    sessions = Sessions(ECHO, SESSIONS)
    sessions.go_on()
    unit.configure(unit.config.replace("max_clients", "max_customers"))
    mark = len(unit.journal())
    assert unit.systemctl("restart", "wharf.service", check=False).returncode != 0
    waits = Client(ECHO)
    waits.say()
    # It is tried again by itself, more often than systemd would allow if the unit did not say so.
    eventually("it was tried again", lambda: unit.journal()[mark:].count("max_customers") > 5)
    unit.configure(unit.config)
    waits.hear()
    sessions.go_on()
    unit.has_no_faults()
    sessions.end()


def a_tls_session_finishes_before_a_restart(unit):
    mark = len(unit.journal())
    old = tls()
    old.ask()
    restart = unit.restart_begins()
    assert '"tls": 1' in unit.says("sessions wait for the next process", mark)
    new_client = Client(ECHO)
    new_client.say()
    old.ask()
    old.close()
    unit.machine.finish(restart)
    new_client.hear()


def a_stop_lets_sessions_finish_and_leaves_nothing(unit):
    clients = [Client(ECHO) for _ in range(5)] + [tls()]
    for client in clients:
        client.ask()
    stop = unit.machine.start("systemctl", "stop", "wharf.service")
    eventually("new clients are refused", lambda: is_refused(ECHO))
    for client in clients:
        client.ask()
        client.close()
    unit.machine.finish(stop)
    assert unit.show("ActiveState") == "inactive" and unit.show("Result") == "success", unit.journal()
    assert unit.stored() == 0, f"{unit.stored()} are in the store"


def a_crash_refuses_no_client(unit):
    unit.is_started()
    unit.sockets_are_stored()
    before, new_clients = unit.process(), NewClients(ECHO, 20)
    unit.signal("KILL")
    eventually("it is gone", lambda: unit.process() != before)
    waits = Client(ECHO)
    waits.say()
    waits.hear()
    new_clients.more(1)
    assert unit.process() not in (0, before) and unit.show("NRestarts") == "1"
    # Clients that were not answered before the kill are lost with the process.
    new_clients.over = True
    new_clients.thread.join(PATIENCE)
    refused = [problem for problem in new_clients.problems if "refused" in problem]
    assert not refused, refused
    return f"a new client waited for {new_clients.longest:.1f} s"


def a_process_that_hangs_is_ended_and_comes_back(unit):
    # 30 s in the unit are long to wait for.
    unit.drop_in("[Service]\nWatchdogSec=4\n")
    unit.systemctl("restart", "wharf.service")
    unit.sockets_are_stored()
    before = unit.process()
    start = time.monotonic()
    unit.signal("STOP")
    # The signal counts once the thread that it went to runs, which takes its time on a busy machine.
    eventually("it stands still", lambda: unit.stands_still(before))
    waits = Client(ECHO)
    waits.say()
    waits.hear()
    took = time.monotonic() - start
    assert unit.process() not in (0, before)
    assert "watchdog" in unit.says("watchdog", 0).lower()
    unit.drop_in("")
    unit.systemctl("restart", "wharf.service")
    return f"{took:.1f} s after it hung, with WatchdogSec=4"


def upgraded(unit, *arguments, stays=0):
    """Upgrades; the new main process."""
    before = unit.process()
    done = unit.machine.run("wharf", "upgrade", *CONTROL, *arguments, check=False)
    # 5: some stayed in the old process.
    assert done.returncode == (5 if stays else 0), f"{done.returncode}: {done.stdout}"
    eventually("the new process is the main one", lambda: unit.process() not in (0, before))
    return unit.process()


def an_upgrade_is_followed_and_the_next_restart_too(unit):
    unit.sockets_are_stored()
    sessions, new_clients = Sessions(ECHO, SESSIONS), NewClients(ECHO, PACE)
    sessions.go_on()
    mark = len(unit.journal())
    main = upgraded(unit, "--program", "/usr/local/bin/wharf")
    sessions.go_on()
    new_clients.more(PACE // 2)
    unit.systemctl("reload", "wharf.service")
    assert unit.is_active()
    eventually("the old process ends", lambda: unit.processes() == [main])
    unit.sockets_are_stored()
    unit.systemctl("restart", "wharf.service")
    assert unit.process() != main
    sessions.go_on()
    new_clients.more(PACE // 2)
    unit.has_no_faults()
    said, came = sessions.end(), new_clients.end()
    # systemd would not wait for the end of what is no child of its own.
    wrong = [line for line in unit.journal()[mark:].splitlines() if "not our child" in line or "SIGKILL" in line]
    assert not wrong, "\n".join(wrong)
    return (
        f"{SESSIONS} sessions, {said} numbered answers; {came} new clients, "
        f"none waited for more than {new_clients.longest:.1f} s"
    )


def a_crash_after_an_upgrade_is_noticed_while_the_old_process_drains(unit):
    unit.sockets_are_stored()
    old = tls()
    old.ask()
    main = upgraded(unit, "--drain", "1h", stays=1)
    unit.sockets_are_stored()
    unit.signal("KILL")
    waits = Client(ECHO)
    waits.ask()
    waits.close()
    old.close()
    assert unit.process() not in (0, main)


def a_wrong_command_line_is_not_tried_again(unit):
    unit.systemctl("stop", "wharf.service")
    unit.drop_in("[Service]\nExecStart=\nExecStart=/usr/local/bin/wharf serve --no-such-flag\n")
    assert unit.systemctl("start", "wharf.service", check=False).returncode != 0
    states = [unit.show(name) for name in ("ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")]
    assert states == ["failed", "failed", "exit-code", "2", "0"], states
    unit.drop_in("")


def a_socket_unit_is_taken_and_waits_over_a_restart(unit):
    # systemd starts no socket whose service runs.
    unit.systemctl("stop", "wharf.service")
    unit.systemctl("reset-failed", "wharf.service", check=False)
    unit.systemctl("start", "wharf.socket")
    first = Client(ECHO)
    first.ask()
    assert unit.is_active()
    # systemd has that socket anyway, so that only the other server's is in the store.
    eventually("the other one is stored", lambda: unit.stored() == 1)
    sessions, new_clients = Sessions(ECHO, 20), NewClients(ECHO, 100)
    sessions.go_on()
    unit.systemctl("restart", "wharf.service")
    sessions.go_on()
    new_clients.more(100)
    first.ask()
    eventually("the other one is stored again", lambda: unit.stored() == 1)
    sessions.end()
    new_clients.end()
    unit.signal("KILL")
    waits = Client(ECHO)
    waits.ask()
    for client in (first, waits):
        client.close()
    unit.systemctl("stop", "wharf.socket", "wharf.service")


PROMISES = [
    the_units_are_sound_and_leave_little_exposed,
    a_start_returns_when_every_server_serves,
    nothing_that_it_needs_is_forbidden,
    a_reload_is_followed_and_a_bad_one_changes_nothing,
    a_restart_refuses_no_client_and_sessions_go_on,
    a_mistake_in_the_configuration_can_be_mended_before_sessions_are_lost,
    a_tls_session_finishes_before_a_restart,
    a_stop_lets_sessions_finish_and_leaves_nothing,
    a_crash_refuses_no_client,
    a_process_that_hangs_is_ended_and_comes_back,
    an_upgrade_is_followed_and_the_next_restart_too,
    a_crash_after_an_upgrade_is_noticed_while_the_old_process_drains,
    a_wrong_command_line_is_not_tried_again,
    a_socket_unit_is_taken_and_waits_over_a_restart,
]
