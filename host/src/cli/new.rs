//! `wharf new`: makes a project for a plugin.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::authoring::{self, Language};

#[derive(Args)]
pub(super) struct NewArgs {
    /// Language of the plugin.
    #[arg(long, default_value = "rust", value_parser = language())]
    lang: Language,
    /// Folder to make. Its name is the plugin's name.
    folder: PathBuf,
}

fn language() -> impl TypedValueParser<Value = Language> {
    let find = |name: String| {
        Language::ALL.into_iter().find(|language| language.name() == name).ok_or("no such language")
    };
    PossibleValuesParser::new(Language::ALL.map(Language::name)).try_map(find)
}

pub(super) fn run(arguments: &NewArgs) -> Result<()> {
    let NewArgs { lang, folder } = arguments;
    authoring::create(folder, *lang)?;
    say!(
        "{}: a plugin in {}; what it does is in {}",
        folder.display(),
        lang.name(),
        folder.join(lang.source()).display()
    );
    say!("serve it:  wharf dev {}", folder.display());
    say!("test it:   wharf test {}", folder.display());
    Ok(())
}
