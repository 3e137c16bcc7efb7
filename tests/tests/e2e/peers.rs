//! Sessions of one server that reach each other, with the grant `server`.

use std::io::Read;

use wharf_tests::clients::Client;
use wharf_tests::guests::bundled;
use wharf_tests::servers::{ended, start};

fn session_id(client: &mut Client) -> u64 {
    let mut seen = [0; 512];
    let count = client.send("i").0.read(&mut seen).expect("an answer");
    let said = String::from_utf8_lossy(&seen[..count]).into_owned();
    let id = said.split(' ').next().and_then(|word| word.strip_prefix("id="));
    id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no id in {said}"))
}

#[test]
fn names_are_unique_ignoring_case_and_free_again() {
    let server = start(bundled("tests/unruly"));
    let mut one = Client::connect(server.address());
    let mut two = Client::connect(server.address());
    // The server may serve the clients in another order than they connected.
    let id = session_id(&mut one);
    one.send("nTarget").expect("Ok(())");
    two.send("nTARGET").expect("Err(\"taken\")");
    two.send("n").expect("Err(\"empty\")");
    two.send(format!("n{}", "x".repeat(128))).expect("Err(\"too-long\")");
    two.send(format!("n{}", "x".repeat(127))).expect("Ok(())");
    two.send("ftarget").expect(format!("Some({id})"));
    one.send("nother").expect("Ok(())");
    two.send("ftarget").expect("None");
    drop(one);
    ended(&server, "peer-closed", 1);
    two.send("nOther").expect("Ok(())");
}

#[test]
fn broadcast_reaches_all_but_the_sender() {
    let server = start(bundled("tests/unruly"));
    let mut sender = Client::connect(server.address());
    let mut others: Vec<_> = (0..5).map(|_| Client::connect(server.address())).collect();
    for other in &mut others {
        other.send("?").expect("?");
    }
    sender.send("c").expect("6");
    sender.send("bnews").expect("5");
    for other in &mut others {
        other.expect("news");
    }
    sender.send("?").expect("?");
}

#[test]
fn session_may_write_to_or_end_another() {
    let server = start(bundled("tests/unruly"));
    let mut target = Client::connect(server.address());
    target.send("ntarget").expect("Ok(())");
    let mut other = Client::connect(server.address());
    other.send("tpsst").expect("Ok(())");
    target.expect("psst");
    other.send("k").expect("true");
    target.expect_closed();
    ended(&server, "evicted", 1);
    other.send("k").expect("false");
    other.send("tpsst").expect("Err(\"closed\")");
    other.send("c").expect("1");
}

#[test]
fn broadcast_passes_over_deaf_readers() {
    let server = start(bundled("tests/unruly"));
    let mut deaf = Client::connect(server.address());
    deaf.send("ntarget").expect("Ok(())");
    let mut sender = Client::connect(server.address());
    // The plugin takes each piece as a command to send the rest of it to all others, so the split
    // into reads does not matter.
    let news = "b".repeat(60_000);
    let mut passed_over = false;
    for _ in 0..400 {
        sender.send(&news);
        let mut answer = [0];
        sender.0.read_exact(&mut answer).expect("an answer");
        passed_over |= answer == *b"0";
        if passed_over {
            break;
        }
    }
    assert!(passed_over, "24 megabytes were queued for a reader that does not read");
}
