//! The environment as a layer: `NULLPASS__SECTION__KEY` for every scalar and every list of texts. Values are read as
//! the schema says, never guessed, so that a secret like `0123` keeps its zero.

use std::collections::BTreeSet;

use ::config::{Map, Value, ValueKind};

use super::file_layer::{join, names, not_built};
use super::problem::{Place, Report};
use super::schema::{self, Key, Kind, SCHEMA};

/// What every variable begins with.
const PREFIX: &str = "NULLPASS__";

/// The variable that means the same as `--upstream`.
pub(super) const UPSTREAM: &str = "NULLPASS__UPSTREAM";

/// Keys of which one is enough: whichever comes from the later layer holds.
const PAIRS: [(&str, &str); 4] = [
    ("storage.master_key", "storage.master_key_file"),
    ("storage.previous_master_key", "storage.previous_master_key_file"),
    ("storage.url", "storage.url_file"),
    ("accounts.bootstrap_admin.password", "accounts.bootstrap_admin.password_file"),
];

/// Reads the variables that are ours; empty ones count as not set. The keys of the map are dotted paths.
pub(super) fn read(environment: &[(String, String)], report: &mut Report) -> Map<String, Value> {
    let mut map = Map::new();
    let mut seen = BTreeSet::new();
    for (variable, value) in environment {
        let upper = variable.to_ascii_uppercase();
        let Some(rest) = upper.strip_prefix(PREFIX) else { continue };
        if value.is_empty() || upper == UPSTREAM {
            continue;
        }
        let place = Place::Variable(variable.clone());
        if !seen.insert(upper.clone()) {
            report.add_at(place, "", "is set twice, in different capitals");
            continue;
        }
        match find(&rest.to_ascii_lowercase()) {
            Err(message) => report.add_at(place, "", message),
            Ok((path, key)) => {
                report.replace_place(path.clone(), place);
                if !key.built {
                    if value != key.default.trim_matches('"') {
                        report.add(&path, not_built(key));
                    }
                    continue;
                }
                match parse(value, &key.kind) {
                    Ok(kind) => {
                        map.insert(path, Value::new(None, kind));
                    }
                    Err(message) => report.add(&path, message),
                }
            }
        }
    }
    for (one, other) in PAIRS {
        let empty = || Value::new(None, ValueKind::String(String::new()));
        match (map.contains_key(one), map.contains_key(other)) {
            (true, false) => _ = map.insert(other.to_owned(), empty()),
            (false, true) => _ = map.insert(one.to_owned(), empty()),
            (true, true) | (false, false) => {}
        }
    }
    map
}

/// The value of `NULLPASS__UPSTREAM`, if it is set.
pub(super) fn upstream(environment: &[(String, String)]) -> Option<&str> {
    environment.iter().find(|(name, value)| name.eq_ignore_ascii_case(UPSTREAM) && !value.is_empty()).map(|(_, value)| value.as_str())
}

/// The key that `server__prefix` names, with its dotted path.
fn find(rest: &str) -> Result<(String, &'static Key), String> {
    let mut keys = SCHEMA;
    let mut path = String::new();
    let mut parts = rest.split("__").peekable();
    while let Some(part) = parts.next() {
        let Some(key) = schema::find(keys, part) else { return Err(unknown(&path, part, keys)) };
        path = join(&path, part);
        match &key.kind {
            Kind::Table(below) if parts.peek().is_some() => {
                if !key.built {
                    return Err(format!("{path}: {}", not_built(key)));
                }
                keys = below;
            }
            Kind::Table(below) => {
                return Err(format!("{path} is a section; name one of its keys, such as {}", variable(&path, below.first())));
            }
            Kind::Tables(_) => return Err(format!("{path} can only be set in the file; for one upstream, set {UPSTREAM}")),
            Kind::TextMap | Kind::SecretMap => return Err(format!("{path} can only be set in the file")),
            Kind::Bool | Kind::Integer | Kind::Text | Kind::Secret | Kind::Duration | Kind::Size | Kind::Rate | Kind::List => {
                return match parts.next() {
                    None => Ok((path, key)),
                    Some(_) => Err(format!("{path} has no keys below it")),
                };
            }
        }
    }
    Err("names no key".to_owned())
}

fn unknown(path: &str, part: &str, keys: &'static [Key]) -> String {
    match schema::nearest(part, keys.iter().map(|key| key.name)) {
        Some(near) => format!("unknown key `{}`; did you mean {}?", join(path, part), variable(path, schema::find(keys, near))),
        None => format!("unknown key `{}`; known here: {}", join(path, part), names(keys)),
    }
}

fn variable(path: &str, key: Option<&Key>) -> String {
    let path = join(path, key.map_or("", |key| key.name));
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

fn parse(value: &str, kind: &Kind) -> Result<ValueKind, String> {
    if value.contains('\u{fffd}') {
        return Err("is not valid UTF-8".to_owned());
    }
    match kind {
        Kind::Bool => match value.trim().to_ascii_lowercase().as_str() {
            "true" => Ok(ValueKind::Boolean(true)),
            "false" => Ok(ValueKind::Boolean(false)),
            _ => Err("expected true or false".to_owned()),
        },
        Kind::Integer => value.trim().parse().map(ValueKind::I64).map_err(|_| "expected a whole number".to_owned()),
        Kind::List => {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(ValueKind::Array(items.map(|item| Value::new(None, ValueKind::String(item.to_owned()))).collect()))
        }
        Kind::Text | Kind::Secret | Kind::Duration | Kind::Size | Kind::Rate => Ok(ValueKind::String(value.to_owned())),
        Kind::TextMap | Kind::SecretMap | Kind::Table(_) | Kind::Tables(_) => Err("can only be set in the file".to_owned()),
    }
}
