//! Writing to the terminal. `println!` would panic when a pipe is closed.

use std::io::{self, Write as _};

use serde::Serialize;

use super::Failure;

/// A line on standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Text on standard output, as it is.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A value as JSON on standard output.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(&error))?;
    line(&text)
}

/// A line on standard error, for people, beside what a program may read from standard output.
pub(super) fn note(text: &str) {
    // There is nowhere left to complain.
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Why a command was not done, on standard error: every line of it.
pub(super) fn problem(failure: &Failure) {
    match failure {
        Failure::OutputClosed => {}
        Failure::Usage(text) | Failure::Failed(text) => {
            for line in text.lines() {
                note(&format!("error: {line}"));
            }
        }
    }
}
