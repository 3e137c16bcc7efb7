//! Runs one check of `fuzzing` on bytes that proptest makes out of its seeds. Each crate that has
//! checks includes this file in its tests.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Longest input that is made.
const INPUT_MAX_BYTES: usize = 64 << 10;
/// Prefixes that are tried of each seed.
const PREFIXES_MAX: usize = 128;
/// Seeds whose names begin with this are refused by their parser, and all others are taken.
const REFUSED: &str = "bad";

/// What parsers trip over.
const TOKENS: [&[u8]; 26] = [
    b"\0",
    b"\xff",
    b"\x80",
    b"\r\n",
    b"\n",
    b"\r",
    b"\"",
    b"\\",
    b"{",
    b"[",
    b"}",
    b"=",
    b":",
    b"-1",
    b"0",
    b"1e999",
    b"65536",
    b"4294967296",
    b"9223372036854775808",
    b"18446744073709551615",
    b"null",
    b"../../",
    b"\\u0000",
    b"\x1b[31m",
    "\u{202e}".as_bytes(),
    "\u{1f600}".as_bytes(),
];

/// A change of a seed. Places are parts of its length.
#[derive(Debug, Clone)]
enum Change {
    Insert(Index, Vec<u8>),
    Overwrite(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
    /// The rest of another seed follows.
    Splice(Index, Index, Index),
}

/// One test for each check: `check: name_of_the_test`.
macro_rules! properties {
    ($($check:ident: $test:ident,)+) => {
        $(
            #[test]
            fn $test() {
                super::property::holds(stringify!($check), super::$check);
            }
        )+
    };
}

/// Runs the check on its seeds, on what they begin with, and on changes of them.
///
/// # Panics
/// The check does, or does not take a seed that it has to take. The message shows the input.
pub(crate) fn holds(target: &str, check: impl Fn(&[u8]) -> bool) {
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        let taken = !name.starts_with(REFUSED);
        assert_eq!(check(seed), taken, "fuzz/seeds/{target}/{name}: expected it to be taken");
        let step = seed.len() / PREFIXES_MAX + 1;
        for length in (0..seed.len()).step_by(step) {
            check(&seed[..length]);
        }
    }
    let seeds: Vec<_> = seeds.into_iter().map(|(_, seed)| seed).collect();
    let mut config = Config { failure_persistence: None, ..Config::default() };
    // A run of all tests says the same each time. `PROPTEST_RNG_SEED` asks for other inputs.
    if matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(1);
    }
    let outcome = TestRunner::new(config).run(&input(seeds), |bytes| {
        check(&bytes);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{target}: {failure}");
    }
}

/// Names and contents of the files in `fuzz/seeds/TARGET`, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("fuzz/seeds").join(target))
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| panic!("expected seeds in fuzz/seeds/{target}"));
    let entries = fs::read_dir(&folder).expect("a folder");
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a seed"))
        })
        .collect();
    seeds.sort();
    assert!(seeds.iter().any(|(name, _)| !name.starts_with(REFUSED)), "{}", folder.display());
    seeds
}

fn input(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (any::<Index>(), vec(change(), 1..6));
    let repeated = (any::<Index>(), any::<Index>(), piece(), 1..INPUT_MAX_BYTES);
    let (of_changed, of_repeated) = (seeds.clone(), seeds);
    prop_oneof![
        8 => changed.prop_map(move |(seed, changes)| {
            let seed = seed.get(&of_changed).clone();
            let all = changes.iter().fold(seed, |bytes, one| one.of(bytes, &of_changed));
            all.into_iter().take(INPUT_MAX_BYTES).collect()
        }),
        1 => vec(any::<u8>(), 0..256),
        // The beginning of a seed, and then the same again and again.
        1 => repeated.prop_map(move |(seed, at, piece, length)| {
            let seed = seed.get(&of_repeated);
            let start = seed[..at.index(seed.len() + 1)].iter();
            start.chain(piece.iter().cycle()).take(length).copied().collect()
        }),
    ]
}

/// At least one byte.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        select(&TOKENS[..]).prop_map(<[u8]>::to_vec),
        any::<u8>().prop_map(|byte| vec![byte]),
        vec(any::<u8>(), 1..12),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        2 => (at(), piece()).prop_map(|(at, piece)| Change::Insert(at, piece)),
        4 => (at(), piece()).prop_map(|(at, piece)| Change::Overwrite(at, piece)),
        2 => (at(), 1..20_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        2 => (at(), 1..40_usize, 1..200_usize)
            .prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at(), at()).prop_map(|(at, seed, from)| Change::Splice(at, seed, from)),
    ]
}

impl Change {
    fn of(&self, mut bytes: Vec<u8>, seeds: &[Vec<u8>]) -> Vec<u8> {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match self {
            Self::Insert(at, piece) => {
                let at = place(at);
                drop(bytes.splice(at..at, piece.iter().copied()));
            }
            Self::Overwrite(at, piece) => {
                let at = place(at);
                let end = bytes.len().min(at + piece.len());
                drop(bytes.splice(at..end, piece.iter().copied()));
            }
            Self::Remove(at, length) => {
                let at = place(at);
                let end = bytes.len().min(at + length);
                drop(bytes.drain(at..end));
            }
            Self::Repeat(at, length, times) => {
                let at = place(at);
                let end = bytes.len().min(at + length);
                let again = bytes[at..end].repeat(*times);
                drop(bytes.splice(at..at, again));
            }
            Self::Cut(at) => bytes.truncate(place(at)),
            Self::Splice(at, seed, from) => {
                let other = seed.get(seeds);
                bytes.truncate(place(at));
                bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
        }
        bytes
    }
}
