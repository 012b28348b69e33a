//! What is wrong with a configuration, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

/// Where a value comes from. Sorts as an operator reads: the file from top to bottom, then the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file.
    File {
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
        /// The file as it was named.
        file: String,
    },
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// A file as a whole.
    WholeFile(String),
    /// Nowhere: something is missing.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, column, file } => write!(f, "{file}:{line}:{column}: "),
            Self::Variable(name) => write!(f, "{name}: "),
            Self::Flag(name) => write!(f, "{name}: "),
            Self::WholeFile(file) => write!(f, "{file}: "),
            Self::Nowhere => Ok(()),
        }
    }
}

/// One thing that is wrong: where, which key, what, and what to do about it. Never repeats a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The dotted key, `upstreams[1].url`; empty when the trouble is not with one.
    pub key: String,
    /// What is wrong, and a suggestion.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        let name = if self.key.is_empty() { "" } else { ": " };
        // A key in quotes can hold anything. A problem is one line, and turns nothing in a terminal.
        for c in self.key.chars().chain(name.chars()).chain(self.message.chars()) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// Everything that is wrong; shown as one problem a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems while a configuration is read, and knows where each key was set.
#[derive(Debug, Default)]
pub(super) struct Report {
    places: BTreeMap<String, Place>,
    reported: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Report {
    /// Remembers where `key` is set.
    pub(super) fn set_place(&mut self, key: String, place: Place) {
        self.places.insert(key, place);
    }

    /// Remembers that a later layer sets `key`, with all that is below it.
    pub(super) fn replace_place(&mut self, key: String, place: Place) {
        self.places.retain(|other, _| !is_below(other, &key));
        self.places.insert(key, place);
    }

    /// Notes a problem with `key`, once: what follows from a problem that is already noted would only confuse.
    pub(super) fn add(&mut self, key: &str, message: impl Into<String>) {
        let place = self.place(key);
        self.add_at(place, key, message);
    }

    /// The same, for a place that is known better.
    pub(super) fn add_at(&mut self, place: Place, key: &str, message: impl Into<String>) {
        if self.reported.insert(key.to_owned()) || key.is_empty() {
            self.problems.push(Problem { place, key: key.to_owned(), message: message.into() });
        }
    }

    /// Keeps later problems with `key` quiet, since another one explains them.
    pub(super) fn mute(&mut self, key: String) {
        self.reported.insert(key);
    }

    /// Whether nothing was found wrong with `key` and what is below it, so that it can be compared with others.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        !self.reported.range(key.to_owned()..).take_while(|other| other.starts_with(key)).any(|other| other == key || is_below(other, key))
    }

    /// Whether something was found wrong.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// All problems in the order of their places.
    pub(super) fn into_problems(mut self) -> Problems {
        self.problems.sort();
        Problems(self.problems)
    }

    /// Where `key` was set, or else the nearest thing around it that was.
    fn place(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return place.clone();
            }
            match key.rfind(['.', '[']).and_then(|end| key.get(..end)) {
                Some(parent) => key = parent,
                None => return Place::Nowhere,
            }
        }
    }
}

/// Whether `key` is an element or a member of `parent`.
fn is_below(key: &str, parent: &str) -> bool {
    key.strip_prefix(parent).is_some_and(|rest| rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let problem = Problem { place: Place::Nowhere, key: "a\nb".to_owned(), message: "unknown\u{1b}[2J key".to_owned() };
        assert_eq!(problem.to_string(), "a\\nb: unknown\\u{1b}[2J key");
    }

    #[test]
    fn a_problem_says_where_and_what() {
        let mut report = Report::default();
        report.set_place("upstreams[0]".to_owned(), Place::File { file: "nullpass.toml".to_owned(), line: 12, column: 5 });
        report.add("upstreams[0].url", "is missing");
        report.add("upstreams[0].url", "is missing, still");
        report.add_at(Place::Variable("NULLPASS__LOG__LEVEL".to_owned()), "log.level", "is wrong");
        let problems = report.into_problems();
        assert_eq!(problems.to_string(), "nullpass.toml:12:5: upstreams[0].url: is missing\nNULLPASS__LOG__LEVEL: log.level: is wrong");
    }
}
