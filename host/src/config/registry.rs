//! From the `[registry]` table to the configuration of registries.

use std::path::Path;

use super::default_store_dir;
use super::file::{RegistryTable, TrustTable};
use crate::files;
use crate::oci::{PublicKey, RegistryConfig, RegistryCredentials, SCHEME, SignatureRule, Trust};
use crate::plugin::COMPONENT_MAX_BYTES;

/// Shortest and longest time for a plugin to arrive, in seconds.
const TIMEOUT_RANGE_SECONDS: (u64, u64) = (1, 3_600);
/// Smallest store, in bytes: one plugin of the largest size and its accompanying files.
const STORE_MIN_BYTES: u64 = 2 * COMPONENT_MAX_BYTES;
/// Most entries of each list.
const ENTRIES_MAX: usize = 64;
/// Largest file of authorities, in bytes.
const AUTHORITY_MAX_BYTES: u64 = 4 << 20;

/// Makes the configuration of registries and reads the files that the table names. Adds every
/// mistake to `mistakes`.
pub(super) fn describe(
    table: &RegistryTable,
    folder: &Path,
    mistakes: &mut Vec<String>,
) -> RegistryConfig {
    let mut wrong =
        |key: &str, problem: String| mistakes.push(format!("`registry.{key}`: {problem}"));
    let mut registry_config = RegistryConfig::default();
    if let Some(text) = &table.pull {
        match text.parse() {
            Ok(pull) => registry_config.pull = pull,
            Err(error) => wrong("pull", error.to_string()),
        }
    }
    registry_config.store_dir =
        table.store_dir.as_ref().map_or_else(default_store_dir, |dir| Some(folder.join(dir)));
    if let Some(bytes) = table.store_max_bytes {
        registry_config.store_max_bytes = bytes;
        if bytes < STORE_MIN_BYTES {
            wrong("store_max_bytes", format!("expected at least {STORE_MIN_BYTES}, found {bytes}"));
        }
    }
    if let Some(bytes) = table.component_max_bytes {
        registry_config.component_max_bytes = bytes;
        if !(1..=COMPONENT_MAX_BYTES).contains(&bytes) {
            wrong(
                "component_max_bytes",
                format!("expected 1 to {COMPONENT_MAX_BYTES}, found {bytes}"),
            );
        }
    }
    if let Some(span) = &table.timeout {
        registry_config.timeout = span.0;
        let (least, greatest) = TIMEOUT_RANGE_SECONDS;
        if !(least..=greatest).contains(&span.0.as_secs()) {
            wrong(
                "timeout",
                format!("expected 1s to 1h, found {}", humantime::format_duration(span.0)),
            );
        }
    }
    if let Some(file) = &table.credentials_file {
        match RegistryCredentials::read(&folder.join(file)) {
            Ok(credentials) => registry_config.credentials = credentials,
            Err(error) => wrong("credentials_file", error.to_string()),
        }
    }
    if let Some(hosts) = &table.plain_http {
        let bad = hosts.iter().find(|host| host.is_empty() || host.contains('/'));
        if let Some(host) = bad {
            wrong(
                "plain_http",
                format!("`{}`: expected a host, or a host and a port", host.escape_debug()),
            );
        }
        if hosts.len() > ENTRIES_MAX {
            wrong("plain_http", format!("expected at most {ENTRIES_MAX}, found {}", hosts.len()));
        }
        registry_config.plain_http.clone_from(hosts);
    }
    if let Some(file) = &table.authority {
        let file = folder.join(file);
        match files::read(&file, AUTHORITY_MAX_BYTES) {
            Ok(pem) if pem.windows(BEGIN.len()).any(|window| window == BEGIN) => {
                registry_config.authority = Some(pem);
            }
            Ok(_) => wrong(
                "authority",
                format!("{}: there is no certificate in PEM in it", file.display()),
            ),
            Err(error) => wrong("authority", format!("{}: {error}", file.display())),
        }
    }
    if let Some(text) = &table.signature {
        match text.parse() {
            Ok(rule) => registry_config.signature = rule,
            Err(error) => wrong("signature", error.to_string()),
        }
    }
    if registry_config.signature == SignatureRule::Required && table.trust.is_empty() {
        wrong(
            "signature",
            "no key is trusted; expected a `[[registry.trust]]` table with `prefix` and `keys`"
                .into(),
        );
    }
    if table.trust.len() > ENTRIES_MAX {
        wrong(
            "trust",
            format!("expected at most {ENTRIES_MAX} tables, found {}", table.trust.len()),
        );
    }
    registry_config.trust = trusted(&table.trust, folder, mistakes);
    registry_config
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn trusted(tables: &[TrustTable], folder: &Path, mistakes: &mut Vec<String>) -> Vec<Trust> {
    let mut all: Vec<Trust> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let place = format!("registry trust {} (`{}`)", index + 1, table.prefix.escape_debug());
        let bare = table.prefix.strip_prefix(SCHEME).unwrap_or(&table.prefix);
        let prefix = bare.trim_end_matches('/');
        if prefix.is_empty() {
            mistakes.push(format!(
                "{place}: `prefix`: missing; expected a registry, as registry.example.com/team"
            ));
        } else if all.iter().any(|other| other.prefix == prefix) {
            mistakes.push(format!("{place}: `prefix`: another table is for the same"));
        }
        if !(1..=ENTRIES_MAX).contains(&table.keys.len()) {
            let found = table.keys.len();
            mistakes.push(format!(
                "{place}: `keys`: expected 1 to {ENTRIES_MAX} files of public keys, found {found}"
            ));
        }
        let mut keys = Vec::new();
        for file in &table.keys {
            match PublicKey::read(&folder.join(file)) {
                Ok(key) => keys.push(key),
                Err(error) => mistakes.push(format!("{place}: `keys`: {error}")),
            }
        }
        all.push(Trust { prefix: prefix.into(), keys });
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    #[test]
    fn every_mistake_about_registries_is_named_at_once() {
        let text = "[registry]\npull = 'sometimes'\nstore_max_bytes = 1\ncomponent_max_bytes = \
            0\ntimeout = '0s'\n\
                    credentials_file = 'no.json'\nplain_http = ['http://x']\nauthority = \
                    'no.pem'\nsignature = 'maybe'\n\
                    [[registry.trust]]\nprefix = 'a.b/'\n[[registry.trust]]\nprefix = \
                    'oci://a.b'\nkeys = ['no.pub']\n\
                    [[server]]\nport = 7000\nplugin = 'oci://echo'\n";
        let said = Config::parse(text, Path::new("/etc/wharf")).err().expect("mistakes").join("\n");
        for words in [
            "`registry.pull`: expected \"always\"",
            "`registry.store_max_bytes`: expected at least",
            "`registry.component_max_bytes`: expected 1 to",
            "`registry.timeout`: expected 1s to 1h",
            "`registry.credentials_file`: /etc/wharf/no.json",
            "`registry.plain_http`: `http://x`",
            "`registry.authority`: /etc/wharf/no.pem",
            "`registry.signature`: expected \"optional\"",
            "trust 1 (`a.b/`): `keys`: expected 1 to 64",
            "trust 2 (`oci://a.b`): `prefix`: another table",
            "trust 2 (`oci://a.b`): `keys`: /etc/wharf/no.pub",
            "server 1: `plugin`: oci://echo: no reference",
        ] {
            assert!(said.contains(words), "no {words:?} in:\n{said}");
        }
    }

    #[test]
    fn required_signatures_without_trust_are_refused() {
        let text = "[registry]\nsignature = 'required'\n[[server]]\nport = 7000\nplugin = 'x'\n";
        let said = Config::parse(text, Path::new(".")).err().expect("a mistake").join("\n");
        assert!(said.contains("no key is trusted"), "{said}");
    }
}
