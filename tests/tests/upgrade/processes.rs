//! The processes of an upgrade: a launcher, a program that ends too early, and one that is killed.

use super::*;

/// A program that writes its process number, runs `before`, and then waits for ever.
fn waiting(site: &ControlSite, before: &str) -> String {
    let text = format!(
        "#!/bin/sh\necho $$ >{0}.part\nmv {0}.part {0}\n{before}\nexec sleep 600\n",
        site.path("pid").display()
    );
    program(site.folder.path(), &text)
}

/// The program that waits, and its launcher.
fn program_and_launcher(site: &ControlSite) -> [NewProcess; 2] {
    let file = site.path("pid");
    eventually("the program runs", || file.exists());
    let number = std::fs::read_to_string(&file).expect("its number");
    let program =
        NewProcess(number.trim().parse().ok().and_then(Pid::from_raw).expect("a process"));
    let launcher = NewProcess(parent(&program));
    [program, launcher]
}

fn parent(process: &NewProcess) -> Pid {
    let status = format!("/proc/{}/status", process.0.as_raw_nonzero());
    let status = std::fs::read_to_string(status).expect("it runs");
    let number = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    number.trim().parse().ok().and_then(Pid::from_raw).expect("a process")
}

fn is_gone(process: &NewProcess) -> bool {
    rustix::process::test_kill_process(process.0).is_err()
}

fn begin_upgrade(site: &ControlSite, program: &str) -> Child {
    let mut command = Command::new(wharf_binary());
    command.args(["upgrade", "--program", program, "--socket"]).arg(site.socket());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

#[test]
fn dying_old_process_takes_the_new_one_along() {
    for signal in [Signal::TERM, Signal::KILL] {
        let mut site = ControlSite::default();
        let asks = begin_upgrade(&site, &waiting(&site, ""));
        let [program, launcher] = program_and_launcher(&site);
        site.wharf.signal(signal);
        site.wharf.child.wait().expect("it ends");
        eventually("the program is gone", || is_gone(&program));
        eventually("its launcher is gone", || is_gone(&launcher));
        assert_eq!(
            TcpStream::connect(site.address()).expect_err("no process listens").kind(),
            ErrorKind::ConnectionRefused
        );
        let output = asks.wait_with_output().expect("it ends");
        assert!(!output.status.success(), "{}", said(&output));
    }
}

#[test]
fn program_without_launcher_ends_with_its_upgrade() {
    let site = ControlSite::default();
    let gate = site.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().expect("it runs").success());
    let odd = format!(
        "read word <{}\nprintf '\\002\\000\\000\\000\\000\\000\\000\\000{{}}' >&0",
        gate.display()
    );
    let asks = begin_upgrade(&site, &waiting(&site, &odd));
    let [program, launcher] = program_and_launcher(&site);
    kill_process(launcher.0, Signal::KILL).expect("it runs");
    eventually("the program is another's", || parent(&program) != launcher.0);
    std::fs::write(&gate, "go\n").expect("it waits at the gate");
    let output = asks.wait_with_output().expect("it ends");
    assert!(said(&output).contains("sent a message that this program"), "{}", said(&output));
    eventually("the program is gone", || is_gone(&program));
    echoes(&site);
}

#[test]
fn program_that_ends_after_ready_changes_nothing() {
    let site = ControlSite::default();
    let mut old = Client::connect(site.address());
    old.send("one").expect("one");
    let text = "#!/bin/sh\n\
        while heard=$(dd bs=4096 count=1 2>/dev/null | tr -d '\\000'); [ -n \"$heard\" ]; do\n\
        case \"$heard\" in *start*)\n\
        printf '\\032\\000\\000\\000\\000\\000\\000\\000{\"is\":\"serves\",\"doors\":[]}' >&0\n\
        exit 3;; esac; done\n";
    let output = upgrade(&site, &["--program", &program(site.folder.path(), text)]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in
        ["the new process said that it serves, and ended", "exit status: 3", "nothing was changed"]
    {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    old.send("two").expect("two");
    assert_eq!(status(&site)["status"], "listening");
    echoes(&site);
    let _new_process = upgraded(&site, &["--drain", "1h"]);
}
