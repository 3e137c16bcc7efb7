//! The check of networks in CIDR notation: see `crate::fuzzing`.

use super::Network;

/// A network is written as it is read, and contains its own address.
pub fn network(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match text.parse::<Network>() {
        Ok(network) => {
            let written = network.to_string();
            assert_eq!(written.parse::<Network>(), Ok(network), "{text:?}");
            let (address, _) = written.split_once('/').expect("a prefix");
            let address = address.parse().expect("an address");
            assert!(network.contains(address), "{text:?} contains {address}");
            true
        }
        Err(why) => {
            assert!(why.to_string().contains("expected"), "{why}");
            false
        }
    }
}
