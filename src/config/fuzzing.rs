//! What must hold for whatever stands in a configuration's file: for the fuzzer, and for the tests that replay its corpus.

use std::time::Duration;

use super::load::check_text;
use super::{Place, effective};

/// Checks a text as a configuration. Every problem says where in the file it is, in a line of its own, or names what is not
/// there at all; what is good keeps what the types promise, and is good and the same when it is written out and read again.
///
/// # Panics
///
/// If something that must hold does not.
pub fn configuration(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let loaded = match check_text(text, &[]) {
        Ok(loaded) => loaded,
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused, and nobody knows why");
            assert_eq!(problems.to_string().lines().count(), problems.0.len(), "not one line a problem:\n{problems}");
            for problem in &problems.0 {
                assert!(!problem.to_string().chars().any(char::is_control), "{problem:?}");
                assert!(!problem.message.is_empty(), "{problem:?}");
                place(&problem.place, &problem.key, text);
            }
            return;
        }
    };
    let config = &loaded.config;
    assert!(!config.upstreams.is_empty() && config.upstreams.iter().all(|upstream| !upstream.urls.is_empty()));
    assert!(config.tokens.ttl <= config.sessions.max_lifetime && config.tokens.leeway <= Duration::from_secs(60));
    assert!(config.sessions.cookie.name.starts_with("nullpass"), "{}", config.sessions.cookie.name);
    let password = &config.accounts.password;
    assert!(password.min_length >= 8 && password.max_length <= 1024 && password.min_strength <= 4, "{password:?}");
    assert!(config.server.prefix.starts_with('/'), "{}", config.server.prefix);
    assert!(config.rules.iter().all(|rule| rule.path.as_ref().is_none_or(|path| path.starts_with('/'))));

    let written = effective(&loaded.raw);
    // A secret is not written out.
    if !written.contains("<redacted>") {
        let again = check_text(&written, &[]);
        assert_eq!(again.map(|again| again.config).as_ref().map_err(ToString::to_string), Ok(config), "written out:\n{written}");
    }
}

fn place(place: &Place, key: &str, text: &str) {
    assert!(matches!(place, Place::File { .. } | Place::Nowhere), "{place:?}: there is nothing but a file");
    match place {
        Place::File { line, column, file } => {
            assert_eq!(file, "nullpass.toml");
            let lines: Vec<&str> = text.split('\n').collect();
            let written = line.checked_sub(1).and_then(|line| lines.get(line));
            assert!(
                written.is_some_and(|written| (1..=written.chars().count() + 1).contains(column)),
                "{key}: {line}:{column} is not there"
            );
        }
        Place::Nowhere => {
            let section = key.split(['.', '[']).next().unwrap_or_default();
            let document = toml_edit::Document::parse(text.trim_start_matches('\u{feff}'));
            assert!(document.is_ok_and(|document| !document.contains_key(section)), "{key} is there, but nobody says where");
        }
        Place::Variable(_) | Place::Flag(_) | Place::WholeFile(_) => {}
    }
}
