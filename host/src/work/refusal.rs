//! Refusals by the operating system, in words that say which limit was reached.

use std::io;

use rustix::io::Errno;

/// A resource that the system did not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedResource {
    /// `EAGAIN` of a thread or a process.
    #[error(
        "the system refused a thread or a process (EAGAIN): a limit on their number is reached, \
         `pids.max` of the cgroup or RLIMIT_NPROC, or one on memory for a stack, RLIMIT_AS or \
         RLIMIT_DATA"
    )]
    Threads,
    /// `ENOMEM`.
    #[error(
        "the system refused memory or a mapping (ENOMEM): a limit is reached, `memory.max` of the \
         cgroup, RLIMIT_AS, RLIMIT_DATA or vm.max_map_count"
    )]
    Memory,
    /// `EMFILE`.
    #[error(
        "the system refused a file descriptor (EMFILE): the process has as many as it may, \
         RLIMIT_NOFILE"
    )]
    Descriptors,
    /// `ENFILE`.
    #[error(
        "the system refused a file descriptor (ENFILE): the machine has as many as it may, \
         fs.file-max"
    )]
    MachineDescriptors,
    /// `EFBIG`.
    #[error(
        "the system refused a file of this size (EFBIG): a limit on the size of files is reached, \
         RLIMIT_FSIZE"
    )]
    FileSize,
}

/// A step to which the system refused a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}: {what}")]
pub struct SystemRefused {
    /// The resource that was refused.
    pub refusal: RefusedResource,
    /// The step, and the system's error.
    pub what: String,
}

impl RefusedResource {
    const NUMBERS: [(Errno, Self); 5] = [
        (Errno::AGAIN, Self::Threads),
        (Errno::NOMEM, Self::Memory),
        (Errno::MFILE, Self::Descriptors),
        (Errno::NFILE, Self::MachineDescriptors),
        (Errno::FBIG, Self::FileSize),
    ];

    fn numbered(number: i32) -> Option<Self> {
        let found = Self::NUMBERS.iter().find(|(errno, _)| errno.raw_os_error() == number);
        found.map(|(_, refusal)| *refusal)
    }

    /// Returns the resource that an error of the system says was refused, if the error says that.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error() {
            Some(number) => Self::numbered(number),
            None => (error.kind() == io::ErrorKind::OutOfMemory).then_some(Self::Memory),
        }
    }

    /// Returns the resource that an error or one of its causes says was refused.
    #[must_use]
    pub fn in_causes(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let of_io = || error.downcast_ref::<io::Error>().and_then(Self::of);
            let of_number = || {
                error.downcast_ref::<Errno>().and_then(|errno| Self::numbered(errno.raw_os_error()))
            };
            let known = || error.downcast_ref::<SystemRefused>().map(|refused| refused.refusal);
            if let Some(refusal) = known().or_else(of_io).or_else(of_number) {
                return Some(refusal);
            }
            next = error.source();
        }
        None
    }

    /// Returns the resource that the text of an error says was refused.
    ///
    /// For text of this program and of the system only: a peer or a plugin can write any text.
    #[must_use]
    pub fn in_text(text: &str) -> Option<Self> {
        let after = |mark: &str| {
            text.match_indices(mark).find_map(|(at, _)| {
                let digits = text[at + mark.len()..].bytes().take_while(u8::is_ascii_digit).take(4);
                Self::numbered(
                    digits.fold(0, |number, digit| number * 10 + i32::from(digit - b'0')),
                )
            })
        };
        // The two forms of an error: for people, and for programmers.
        after("os error ").or_else(|| after("Os { code: "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_told_from_its_words() {
        for number in 1..134 {
            let error = io::Error::from_raw_os_error(number);
            let expected = match number {
                11 => Some(RefusedResource::Threads),
                12 => Some(RefusedResource::Memory),
                23 => Some(RefusedResource::MachineDescriptors),
                24 => Some(RefusedResource::Descriptors),
                27 => Some(RefusedResource::FileSize),
                _ => None,
            };
            assert_eq!(RefusedResource::of(&error), expected, "{error}");
            assert_eq!(RefusedResource::in_causes(&error), expected, "{error}");
            assert_eq!(
                RefusedResource::in_text(&format!("while reading: {error}; so it stays")),
                expected,
                "{error}"
            );
            assert_eq!(
                RefusedResource::in_text(&format!("called `unwrap()`: {error:?}")),
                expected,
                "{error:?}"
            );
        }
        assert_eq!(RefusedResource::in_text("os error "), None);
        assert_eq!(
            RefusedResource::of(&io::ErrorKind::OutOfMemory.into()),
            Some(RefusedResource::Memory)
        );
    }
}
