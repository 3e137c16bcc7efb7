//! The check of the record of a server's versions: see `crate::fuzzing`.

use std::fs;

use super::{Revision, StateDir};
use crate::files::{own_folder, scratch};
use crate::plugin::digest;

const COMPONENT: &[u8] = b"component";

/// A record is believed if its numbers can be counted on and its digests can name files. The
/// current component lies in the server's own folder.
pub fn version_record(bytes: &[u8]) -> bool {
    scratch::with_folder(|folder| {
        let own = folder.join("echo");
        own_folder(&own).expect("a folder");
        fs::write(own.join("record.json"), bytes).expect("room");
        let kept = own.join(format!("{}.wasm", digest(COMPONENT)));
        fs::write(&kept, COMPONENT).expect("room");
        let configured = digest(b"configured");
        match StateDir::at(folder.to_owned()).read("echo", &configured) {
            Ok(recorded) => {
                let recorded = recorded.expect("there is a record");
                for revision in &recorded.revisions {
                    assert!(revision.number.checked_add(1).is_some(), "{}", revision.number);
                    assert_eq!(revision.digest.len(), configured.len());
                    assert!(!revision.digest.contains(['/', '.']), "{}", revision.digest);
                }
                let written = serde_json::to_vec(&recorded.revisions).expect("JSON");
                let again: Vec<Revision> = serde_json::from_slice(&written).expect("its text");
                assert_eq!(again, recorded.revisions);
                if let Some((_, component)) = recorded.swapped {
                    assert_eq!(component, kept);
                }
                true
            }
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("record.json") && said.contains("Remove the file"), "{said}");
                assert!(said.len() <= 4 << 10, "{} bytes: {said:.100}", said.len());
                false
            }
        }
    })
}
