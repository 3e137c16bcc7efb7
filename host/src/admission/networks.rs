//! The networks whose clients may enter.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Bits before the IPv4 address in an IPv6 address that stands for one.
const MAPPED_BITS: u8 = 96;

/// A network in CIDR notation, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Returns whether the network contains the address. An IPv4 address in IPv6 form counts as the
    /// IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The text is neither an address nor a network in CIDR notation.
    #[error(
        "`{}` is no network: expected an address as 192.0.2.7 or a network as 2001:db8::/32",
        .found.escape_debug()
    )]
    NoNetwork {
        /// The text.
        found: String,
    },
    /// The address has bits beyond the prefix.
    #[error("`{found}` has bits beyond its prefix: expected {expected}")]
    BitsBeyondPrefix {
        /// The text.
        found: String,
        /// The network of this prefix that contains the address.
        expected: Network,
    },
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let single = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let network = single.or_else(|_| text.parse::<IpNet>());
        let network = network.map_err(|_| NetworkError::NoNetwork { found: text.to_owned() })?;
        let network = match network {
            IpNet::V6(mapped) if mapped.prefix_len() >= MAPPED_BITS => {
                match mapped.addr().to_ipv4_mapped() {
                    Some(address) => IpNet::new(address.into(), mapped.prefix_len() - MAPPED_BITS)
                        .unwrap_or(network),
                    None => network,
                }
            }
            network => network,
        };
        if network.addr() != network.network() {
            return Err(NetworkError::BitsBeyondPrefix {
                found: text.to_owned(),
                expected: Self(network.trunc()),
            });
        }
        Ok(Self(network))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The allowed and the denied networks. The empty value admits every client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    /// If not empty, only these networks may enter.
    pub allow: Vec<Network>,
    /// These networks may never enter, even if `allow` has them.
    pub deny: Vec<Network>,
}

impl Networks {
    /// Returns whether a client of this address may enter.
    #[must_use]
    pub fn admit(&self, address: IpAddr) -> bool {
        let within =
            |networks: &[Network]| networks.iter().any(|network| network.contains(address));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn deny_wins_and_allow_is_closed() {
        let networks = Networks {
            allow: networks(&["10.0.0.0/8", "2001:db8::/32"]),
            deny: networks(&["10.1.0.0/16"]),
        };
        assert!(networks.admit(ip("10.2.3.4")) && networks.admit(ip("2001:db8::1")));
        assert!(
            !networks.admit(ip("10.1.3.4"))
                && !networks.admit(ip("192.0.2.1"))
                && !networks.admit(ip("::1"))
        );
        assert!(Networks::default().admit(ip("192.0.2.1")));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let networks = Networks { allow: Vec::new(), deny: networks(&["192.0.2.7"]) };
        assert!(!networks.admit(ip("::ffff:192.0.2.7")));
        let networks =
            Networks { allow: Vec::new(), deny: self::networks(&["::ffff:127.0.0.0/104"]) };
        assert!(!networks.admit(ip("127.0.0.1")) && networks.admit(ip("128.0.0.1")));
    }

    #[test]
    fn invalid_networks_are_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "host.example", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
