//! `nullpass serve`, and `nullpass` alone.

use std::path::PathBuf;

use clap::Args;

use super::{CONFIG_HELP, Failure, output};
use crate::app;
use crate::config::{LoadOptions, Overrides, load, process_environment};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    /// Where to listen, such as 127.0.0.1:8080, instead of what the configuration says
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    #[arg(
        long,
        value_name = "URL",
        help = "The application behind, such as http://127.0.0.1:3000, instead of the configuration's upstreams"
    )]
    upstream: Option<String>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let options = LoadOptions {
        file: arguments.config,
        environment: process_environment(),
        overrides: Overrides { listen: arguments.listen, upstream: arguments.upstream },
        ..LoadOptions::default()
    };
    // Before anything is opened or bound: a wrong configuration never takes a port.
    let loaded = load(&options).map_err(|problems| Failure::Usage(problems.to_string()))?;
    if loaded.sources.is_empty() {
        output::note("no configuration file was found: going by the flags, the environment and the defaults");
    }
    let origin = app::Origin { options, sources: loaded.sources };
    app::serve(loaded.config, loaded.dangers, Some(origin)).map_err(|error| Failure::failed(&error))
}
