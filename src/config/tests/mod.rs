//! The configuration as operators meet it: files, variables and flags in, a `Config` or a list of problems out.

mod anything;
mod layers;
mod places;
mod reference;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::load::check_text;
use super::schema::{Key, Kind, SCHEMA};
use super::*;

const UPSTREAM: &str = "[[upstreams]]\nurl = \"http://127.0.0.1:3000\"\n";

/// `text` with an upstream at its end.
fn with_upstream(text: &str) -> String {
    format!("{text}\n{UPSTREAM}")
}

fn ok(text: &str) -> Loaded {
    check_text(&with_upstream(text), &[]).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

/// The problems of `text` with an upstream at its end.
fn problems(text: &str) -> String {
    match check_text(&with_upstream(text), &[]) {
        Err(problems) => problems.to_string(),
        Ok(_) => panic!("accepted: {text}"),
    }
}

#[track_caller]
fn refused(text: &str, key: &str, part: &str) {
    let shown = problems(text);
    assert!(shown.lines().any(|line| line.contains(&format!("{key}: ")) && line.contains(part)), "{text}\n{shown}");
}

fn upstream() -> Upstream {
    Upstream::new("app", UpstreamUrl::Tcp { tls: false, host: "127.0.0.1".to_owned(), port: 3000 })
}

fn options(file: Option<PathBuf>, environment: &[(&str, &str)]) -> LoadOptions {
    LoadOptions {
        file,
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..LoadOptions::default()
    }
}
