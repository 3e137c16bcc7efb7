//! TLS: real clients, credentials that must be refused, and peers that misbehave.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use wharf::net::{ClientCertificate, Credentials, ProtocolMin};
use wharf::server::{ServerHandle, StartError};
use wharf_tests::certificates::Certificates;
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, polite};
use wharf_tests::servers::{describe, ended, eventually};

fn secure(
    certificates: &Certificates,
    change: impl Fn(&mut Credentials),
) -> Result<ServerHandle, StartError> {
    let mut credentials = certificates.credentials();
    change(&mut credentials);
    describe(bundled("tests/unruly"))
        .credentials(credentials)
        .timeout(Duration::from_secs(5))
        .start()
}

/// Runs `openssl s_client`, sends `input`, and returns the output.
pub(super) fn openssl(
    address: SocketAddr,
    certificates: &Certificates,
    extra: &[&str],
    input: &str,
) -> Output {
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-verify_return_error",
            "-servername",
            "localhost",
            "-connect",
            &address.to_string(),
        ])
        .arg("-CAfile")
        .arg(certificates.path("ca.pem"))
        .args(extra)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let mut stdin = client.stdin.take().expect("its input");
    // A refused client may be gone before it reads this.
    let _ = stdin.write_all(input.as_bytes());
    let mut seen = vec![0; 4_096];
    let mut stdout = client.stdout.take().expect("its output");
    let count = stdout.read(&mut seen).unwrap_or(0);
    seen.truncate(count);
    drop(stdin);
    let mut output = client.wait_with_output().expect("it ends");
    output.stdout = seen;
    output
}

pub(super) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn plugin_sees_what_the_handshake_negotiated() {
    let certificates = Certificates::new();
    let server = secure(&certificates, |credentials| credentials.alpn = vec!["wharf/1".into()])
        .expect("it starts");
    let said = text(&openssl(server.address(), &certificates, &["-alpn", "wharf/1"], "i"));
    assert!(said.contains("tls=TLSv1.3 TLS_"), "{said}");
    assert!(said.contains("Some(\"localhost\") Some(\"wharf/1\") None"), "{said}");
    let said = text(&openssl(server.address(), &certificates, &["-tls1_2"], "i"));
    assert!(said.contains("tls=TLSv1.2 TLS_ECDHE_"), "{said}");
}

#[test]
fn protocol_below_the_minimum_is_refused() {
    let certificates = Certificates::new();
    let server = secure(&certificates, |credentials| credentials.protocol_min = ProtocolMin::Tls13)
        .expect("it starts");
    assert_eq!(text(&openssl(server.address(), &certificates, &["-tls1_2"], "i")), "");
    eventually("it is counted", || {
        server.counters().handshakes_failed.contains_key("handshake-tls")
    });
    assert!(text(&openssl(server.address(), &certificates, &["-tls1_3"], "i")).contains("TLSv1.3"));
}

#[test]
fn clients_are_known_by_their_certificate() {
    let certificates = Certificates::new();
    let start = |kind| {
        let with = |credentials: &mut Credentials| {
            credentials.client_authority = Some(certificates.path("ca.pem"));
            credentials.client_certificate = kind;
        };
        secure(&certificates, with).expect("it starts")
    };
    let show = |name: &str| {
        let path =
            |suffix: &str| certificates.path(&format!("{name}.{suffix}")).display().to_string();
        [String::from("-cert"), path("pem"), String::from("-key"), path("key")]
    };
    let as_client = |server: &ServerHandle, name: &str| {
        let arguments = show(name);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        text(&openssl(server.address(), &certificates, &arguments, "i"))
    };
    let required = start(ClientCertificate::Required);
    assert!(as_client(&required, "client").contains("CN=a client"));
    assert!(!as_client(&required, "stranger").contains("id="));
    assert!(!text(&openssl(required.address(), &certificates, &[], "i")).contains("id="));
    let optional = start(ClientCertificate::Optional);
    assert!(text(&openssl(optional.address(), &certificates, &[], "i")).contains("None"));
    assert!(!as_client(&optional, "stranger").contains("id="));
}

#[test]
fn curl_speaks_http_plain_and_over_tls() {
    let certificates = Certificates::new();
    let describe = || {
        describe(bundled("plugins/http"))
            .setting("body", "from the plugin\n")
            .setting("path", "/it")
    };
    let plain = describe().start().expect("it starts");
    let mut credentials = certificates.credentials();
    credentials.alpn = vec!["http/1.1".into()];
    let tls = describe().credentials(credentials).start().expect("it starts");
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--http1.1", "--cacert"])
            .arg(certificates.path("ca.pem"))
            .args(arguments)
            .output()
            .expect("curl runs");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text(&output)
    };
    for base in [
        format!("http://127.0.0.1:{}", plain.address().port()),
        format!("https://localhost:{}", tls.address().port()),
    ] {
        let (it, other) = (format!("{base}/it"), format!("{base}/other"));
        assert_eq!(curl(&[&it, &it]), "from the plugin\nfrom the plugin\n");
        assert!(curl(&["--head", &it]).starts_with("HTTP/1.1 200 OK\r\n"));
        let status = ["--output", "/dev/null", "--write-out", "%{http_code} %{num_connects} "];
        assert_eq!(curl(&[&status[..], &[&other, "--request", "DELETE"]].concat()), "405 1 ");
        assert_eq!(
            curl(&[&status[..], &[&it, "--output", "/dev/null", &other]].concat()),
            "200 1 404 0 "
        );
        assert_eq!(curl(&[&status[..], &[&it, "--data", "some=thing"]].concat()), "405 1 ");
    }
}

#[test]
fn bad_credentials_are_refused_with_their_file() {
    let certificates = Certificates::new();
    std::fs::write(certificates.path("garbage.pem"), "not a certificate").expect("it is kept");
    type Change = fn(&mut Credentials, &Certificates);
    let cases: [(Change, &str, &str); 7] = [
        (
            |credentials, at| credentials.certificate_chain = at.path("missing.pem"),
            "missing.pem",
            "cannot read",
        ),
        (
            |credentials, at| credentials.private_key = at.path("missing.key"),
            "missing.key",
            "cannot read",
        ),
        (
            |credentials, at| credentials.certificate_chain = at.path("garbage.pem"),
            "garbage.pem",
            "certificate",
        ),
        (
            |credentials, at| credentials.private_key = at.path("garbage.pem"),
            "garbage.pem",
            "private key",
        ),
        (
            |credentials, at| credentials.private_key = at.path("client.key"),
            "client.key",
            "does not belong",
        ),
        (
            |credentials, at| {
                credentials.certificate_chain = at.path("expired.pem");
                credentials.private_key = at.path("expired.key");
            },
            "expired.pem",
            "valid from",
        ),
        (
            |credentials, at| credentials.client_authority = Some(at.path("garbage.pem")),
            "garbage.pem",
            "certificate",
        ),
    ];
    for (change, file, words) in cases {
        let said = secure(&certificates, |credentials| change(credentials, &certificates))
            .err()
            .expect("refused")
            .to_string();
        assert!(
            said.contains(file) && said.contains(words),
            "expected {file} and {words:?} in: {said}"
        );
    }
}

#[test]
fn unfinished_handshake_times_out_and_delays_none() {
    let certificates = Certificates::new();
    let credentials = certificates.credentials();
    let server = describe(polite())
        .credentials(credentials)
        .timeout(Duration::from_millis(300))
        .start()
        .expect("it starts");
    let mut silent = Client::connect(server.address());
    let mut slow = Client::connect(server.address());
    slow.send([0x16, 0x03, 0x01, 0x02]);
    let said = text(&openssl(server.address(), &certificates, &[], "beside"));
    assert_eq!(said, "beside");
    silent.expect_gone();
    slow.expect_gone();
    eventually("both are counted", || {
        server.counters().handshakes_failed.get("handshake-timeout") == Some(&2)
    });
    eventually("their places are free", || server.clients() == 0);
}

#[test]
fn bytes_that_are_no_tls_end_one_connection() {
    let certificates = Certificates::new();
    let server = secure(&certificates, |_| {}).expect("it starts");
    for noise in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        &[0xff; 600],
        &[0x16, 0x03, 0x01, 0x00, 0x01, 0x00],
        &[0; 64],
    ] {
        let mut client = Client::connect(server.address());
        client.send(noise);
        let _ = client.0.shutdown(Shutdown::Write);
        client.expect_gone();
    }
    assert!(text(&openssl(server.address(), &certificates, &[], "i")).contains("tls="));
}

#[test]
fn vanished_tls_peer_differs_from_closed_one() {
    let certificates = Certificates::new();
    let server = secure(&certificates, |_| {}).expect("it starts");
    // `s_client` sends `close_notify` when its input ends.
    openssl(server.address(), &certificates, &[], "i");
    ended(&server, "peer-closed", 1);
    let mut killed = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &server.address().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    killed.stdin.as_mut().expect("its input").write_all(b"i").expect("it takes it");
    let mut seen = [0; 1];
    killed.stdout.as_mut().expect("its output").read_exact(&mut seen).expect("an answer");
    killed.kill().expect("it is killed");
    killed.wait().expect("it is gone");
    eventually("its end is told", || {
        let ended = server.counters().ended;
        ended.contains_key("peer-truncated") || ended.contains_key("peer-reset")
    });
}
