//! `nullpass config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CONFIG_HELP, Failure, output};
use crate::config::{DEFAULT_FILE, LoadOptions, effective, load, process_environment};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the effective configuration without its secrets, or every problem of it
    Check {
        #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
        config: Option<PathBuf>,
    },
    /// Print a complete commented configuration with every default
    Default,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.action {
        Action::Default => output::text(DEFAULT_FILE),
        Action::Check { config: file } => {
            let options = LoadOptions { file, environment: process_environment(), ..LoadOptions::default() };
            let loaded = load(&options).map_err(|problems| Failure::Usage(problems.to_string()))?;
            for danger in &loaded.dangers {
                output::note(&format!("warning: {danger}"));
            }
            output::text(&effective(&loaded.raw))
        }
    }
}
