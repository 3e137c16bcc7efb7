//! Grants: the names of all that a plugin may import beyond its own session. A plugin has only the
//! grants that the operator gives.

use std::fmt;
use std::str::FromStr;

/// One thing that an operator can allow a plugin. The enum is exhaustive: configuration names no
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// The other sessions of the plugin's server: `wharf:server/server`.
    Server,
    /// The settings that the configuration has for the plugin: `wasi:config/store`.
    Config,
    /// Standard output and error as log lines, an empty standard input, no arguments and an empty
    /// environment. Standard libraries of languages expect these. `wasi:cli`, `wasi:io`.
    Stdio,
    /// The time, and waits within an event's budget: `wasi:clocks`, `wasi:io`.
    Clocks,
    /// Random numbers: `wasi:random`.
    Random,
    /// Stubs for imports of standard libraries that few plugins call: no files, and sockets and
    /// files whose every call traps. `wasi:filesystem`, `wasi:sockets`.
    Stubs,
}

impl Grant {
    /// Every grant.
    pub const ALL: [Self; 6] =
        [Self::Server, Self::Config, Self::Stdio, Self::Clocks, Self::Random, Self::Stubs];

    /// Name in configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Config => "config",
            Self::Stdio => "stdio",
            Self::Clocks => "clocks",
            Self::Random => "random",
            Self::Stubs => "stubs",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Word that names no [`Grant`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no grant: expected server, config, stdio, clocks, random or stubs")]
pub struct UnknownGrantError {
    /// The word.
    pub found: String,
}

impl FromStr for Grant {
    type Err = UnknownGrantError;

    fn from_str(text: &str) -> Result<Self, UnknownGrantError> {
        let found = Self::ALL.into_iter().find(|grant| grant.name() == text);
        found.ok_or_else(|| UnknownGrantError { found: text.to_owned() })
    }
}

/// A set of grants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Grants(Vec<Grant>);

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        let mut all: Vec<_> = grants.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }
}

impl Grants {
    /// No grant.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Every grant.
    #[must_use]
    pub fn all() -> Self {
        Grant::ALL.into_iter().collect()
    }

    /// Whether the grant is in the set.
    #[must_use]
    pub fn has(&self, grant: Grant) -> bool {
        self.0.contains(&grant)
    }

    /// The grants, each once.
    pub fn iter(&self) -> impl Iterator<Item = Grant> + '_ {
        self.0.iter().copied()
    }

    /// The grants that a plugin with these imports needs, each once. Imports that no grant covers
    /// are left out.
    #[must_use]
    pub fn needed_by(imports: &[String]) -> Self {
        imports.iter().filter_map(|name| Self::none().allow(name).needed()).collect()
    }

    /// Decides whether a plugin with these grants may import `interface`, which includes its
    /// version.
    pub(super) fn allow(&self, interface: &str) -> ImportAccess {
        let name = interface.split('@').next().unwrap_or(interface);
        let needed: &[Grant] = match name {
            "wharf:server/session" | "wharf:server/types" => return ImportAccess::Allowed,
            "wharf:server/server" => &[Grant::Server],
            "wasi:config/store" => &[Grant::Config],
            _ => match name.split('/').next() {
                Some("wasi:cli") => &[Grant::Stdio],
                Some("wasi:clocks") => &[Grant::Clocks],
                Some("wasi:random") => &[Grant::Random],
                Some("wasi:filesystem" | "wasi:sockets") => &[Grant::Stubs],
                Some("wasi:io") => &[Grant::Stdio, Grant::Clocks],
                _ => return ImportAccess::NotOffered,
            },
        };
        if needed.iter().any(|&grant| self.has(grant)) {
            ImportAccess::Allowed
        } else {
            ImportAccess::Needs(needed[0])
        }
    }
}

/// Whether an import is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImportAccess {
    Allowed,
    Needs(Grant),
    NotOffered,
}

impl ImportAccess {
    /// The grant that would allow the import.
    pub(super) fn needed(self) -> Option<Grant> {
        match self {
            Self::Needs(grant) => Some(grant),
            Self::Allowed | Self::NotOffered => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_grants_only_the_session_is_allowed() {
        let none = Grants::none();
        assert_eq!(none.allow("wharf:server/session@0.1.0"), ImportAccess::Allowed);
        assert_eq!(none.allow("wharf:server/server@0.1.0"), ImportAccess::Needs(Grant::Server));
        assert_eq!(none.allow("wasi:config/store@0.2.0-rc.1"), ImportAccess::Needs(Grant::Config));
        assert_eq!(none.allow("wasi:cli/stderr@0.2.6"), ImportAccess::Needs(Grant::Stdio));
        assert_eq!(none.allow("wasi:io/poll@0.2.6"), ImportAccess::Needs(Grant::Stdio));
    }

    #[test]
    fn uncovered_imports_are_not_offered() {
        for interface in ["wasi:http/types@0.2.6", "wasi:keyvalue/store@0.2.0", "env"] {
            assert_eq!(Grants::all().allow(interface), ImportAccess::NotOffered, "{interface}");
        }
    }
}
