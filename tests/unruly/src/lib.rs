//! A guest that misbehaves on command: the first byte of each read selects what it does.

use std::time::Duration;

use wharf_plugin::{Action, ClientInfo, EventProc, Session, settings};

#[derive(Default)]
struct Unruly;

impl EventProc for Unruly {
    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        let rest = String::from_utf8_lossy(&data[1..]).into_owned();
        match data[0] {
            b'l' => (0..10_000).for_each(|line| println!("line {line}")),
            b'L' => println!("{}", "x".repeat(100_000)),
            b'e' => eprintln!("\x1b[2J\rforged\u{202e}"),
            b'p' => panic!("a reason to panic"),
            b'm' => hoard(),
            b'h' => hoard_handles(),
            b'x' => std::process::exit(3),
            b's' => std::thread::sleep(Duration::from_secs(3_600)),
            b'i' => return session.write_or_close(describe(&session.info()).as_bytes()),
            b'g' => {
                return session.write_or_close(settings::get(&rest).unwrap_or_default().as_bytes());
            }
            b'n' => {
                return answer(
                    session,
                    session.server().set_name(&rest).map_err(|error| error.name()),
                );
            }
            b'c' => {
                return session
                    .write_or_close(session.server().client_count().to_string().as_bytes());
            }
            b'b' => {
                return session.write_or_close(
                    session.server().broadcast(rest.as_bytes()).to_string().as_bytes(),
                );
            }
            b'f' => {
                return session
                    .write_or_close(format!("{:?}", session.server().find(&rest)).as_bytes());
            }
            b't' => {
                let client = session.server().find("target").unwrap_or(0);
                return answer(
                    session,
                    session.server().send_to(client, rest.as_bytes()).map_err(|error| error.name()),
                );
            }
            b'k' => {
                let client = session.server().find("target").unwrap_or(0);
                return session
                    .write_or_close(session.server().disconnect(client).to_string().as_bytes());
            }
            b'P' => {
                let granted = session.set_priority(wharf_plugin::Priority::Critical);
                return session.write_or_close(format!("{granted:?}").as_bytes());
            }
            _ => return session.write_or_close(&data),
        }
        session.write_or_close(b"done")
    }
}

fn answer(session: &Session, outcome: Result<(), &str>) -> Action {
    session.write_or_close(format!("{outcome:?}").as_bytes())
}

/// Allocates memory until none is left.
fn hoard() {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

/// Takes handles of the standard output until none is left, and never drops one.
#[cfg(target_family = "wasm")]
#[allow(unsafe_code)]
fn hoard_handles() {
    #[link(wasm_import_module = "wasi:cli/stdout@0.2.6")]
    unsafe extern "C" {
        #[link_name = "get-stdout"]
        fn get_stdout() -> i32;
    }
    loop {
        // SAFETY: the import takes nothing and returns a handle, as the interface says.
        std::hint::black_box(unsafe { get_stdout() });
    }
}

#[cfg(not(target_family = "wasm"))]
fn hoard_handles() {}

fn describe(info: &ClientInfo) -> String {
    let tls = info.tls.as_ref().map(|tls| {
        format!(
            "{} {} {:?} {:?} {:?}",
            tls.protocol, tls.cipher_suite, tls.server_name, tls.alpn, tls.client_subject
        )
    });
    format!(
        "id={} server={} peer={} port={} local={} parameter={} priority={:?} tls={}",
        info.id,
        info.server,
        info.peer_address,
        info.peer_port,
        info.local_address,
        info.parameter,
        info.priority,
        tls.unwrap_or_else(|| "none".into())
    )
}

wharf_plugin::export!(Unruly);
