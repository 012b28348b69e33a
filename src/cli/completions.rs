//! `nullpass completions SHELL`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{CommandLine, Failure, output};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "nullpass", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
