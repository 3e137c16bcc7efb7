//! Why a plan was not put in force, with the cause.

use crate::net::BindError;
use crate::rollout::SwapError;
use crate::server::{StartError, VersionsBusyError};
use crate::work::{RefusedResource, WorkError};

/// Why nothing was started or changed, with one line for each mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .mistakes.join("\n"))]
pub struct PlanError {
    /// One line for each mistake; at least one.
    pub mistakes: Vec<String>,
    /// The cause. The lines may have text of plugins in them, so they do not decide it.
    pub cause: PlanCause,
}

/// The cause for which a plan was not put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanCause {
    /// The operator: at least one line names a value to correct.
    Configuration,
    /// The system alone. The same plan works once there is room.
    System(RefusedResource),
    /// A step of the plan was not done.
    Work(WorkError),
    /// Servers are swapped one after the other. The same plan works once that is done.
    Swapping,
    /// The host is stopping.
    Stopping,
}

impl PlanError {
    /// Makes an error of the operator's, with this line.
    #[must_use]
    pub fn mistake(line: impl Into<String>) -> Self {
        Self { mistakes: vec![line.into()], cause: PlanCause::Configuration }
    }

    /// Returns the same error with all of its lines changed.
    #[must_use]
    pub fn map_lines(mut self, change: impl Fn(&str) -> String) -> Self {
        self.mistakes.iter_mut().for_each(|line| *line = change(line));
        self
    }

    pub(super) fn stopping() -> Self {
        Self { mistakes: vec!["the host is stopping".into()], cause: PlanCause::Stopping }
    }

    /// Makes an error of at least one mistake.
    pub(super) fn of(mistakes: Vec<Mistake>) -> Self {
        let refused: Option<Vec<RefusedResource>> =
            mistakes.iter().map(|mistake| mistake.refusal).collect();
        let cause = match refused.as_deref() {
            Some([first, ..]) => PlanCause::System(*first),
            _ => PlanCause::Configuration,
        };
        Self { mistakes: mistakes.into_iter().map(|mistake| mistake.line).collect(), cause }
    }
}

impl From<VersionsBusyError> for PlanError {
    fn from(error: VersionsBusyError) -> Self {
        Self { mistakes: vec![error.to_string()], cause: PlanCause::Swapping }
    }
}

impl From<WorkError> for PlanError {
    fn from(error: WorkError) -> Self {
        Self { mistakes: vec![error.to_string()], cause: PlanCause::Work(error) }
    }
}

/// One line of a [`PlanError`], and what the system refused, if that caused it.
#[derive(Debug)]
pub(super) struct Mistake {
    line: String,
    refusal: Option<RefusedResource>,
}

impl Mistake {
    /// Adds the mistake's place in the file to the line.
    pub(super) fn at(self, place: &str) -> Self {
        Self { line: format!("{place}: {}", self.line), ..self }
    }
}

impl From<String> for Mistake {
    fn from(line: String) -> Self {
        Self { line, refusal: None }
    }
}

impl From<&str> for Mistake {
    fn from(line: &str) -> Self {
        line.to_owned().into()
    }
}

impl From<StartError> for Mistake {
    fn from(error: StartError) -> Self {
        Self { line: error.to_string(), refusal: error.refusal() }
    }
}

impl From<SwapError> for Mistake {
    fn from(error: SwapError) -> Self {
        Self { line: error.to_string(), refusal: error.refusal() }
    }
}

impl From<BindError> for Mistake {
    fn from(error: BindError) -> Self {
        StartError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::plugin::{LoadError, SourceError};

    const WORDS: [&str; 4] = ["os error 11", "(os error 12)", "(os error 24)", "Os { code: 23 }"];

    #[test]
    fn words_of_plugins_blame_no_system() {
        for cause in WORDS {
            let (file, cause) = (PathBuf::from("plugin"), cause.to_owned());
            let errors = [
                LoadError::Trial { file: file.clone(), cause: cause.clone() },
                LoadError::Invalid { file: file.clone(), cause: cause.clone() },
                LoadError::OtherWorld { file, found: cause },
            ];
            for error in errors.map(StartError::from) {
                assert_eq!(PlanError::of(vec![error.into()]).cause, PlanCause::Configuration);
            }
        }
    }

    #[test]
    fn mistake_beside_a_refusal_stays_the_operators() {
        let refused = || {
            let source = io::Error::from_raw_os_error(24);
            let error = SourceError::Unreadable { file: "it".into(), source, hint: String::new() };
            Mistake::from(StartError::from(LoadError::from(error))).at("`echo`")
        };
        assert_eq!(
            PlanError::of(vec![refused(), refused()]).cause,
            PlanCause::System(RefusedResource::Descriptors)
        );
        let both = PlanError::of(vec![refused(), "`port`: expected a number".into()]);
        assert_eq!((both.cause, both.mistakes.len()), (PlanCause::Configuration, 2));
    }
}
