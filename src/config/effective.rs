//! The configuration that holds, as text for people: what was given over the defaults, without secrets.

use serde_json::Value;

use super::raw::Raw;
use super::schema::{Key, Kind, SCHEMA};

/// What stands for a secret.
const REDACTED: &str = "\"<redacted>\"";

/// The whole of `raw` as TOML, defaults filled in, secrets shown as `<redacted>`. For `nullpass config check`.
pub fn effective(raw: &Raw) -> String {
    // A mirror of plain values can always be written; if it could not, the defaults alone would be shown.
    let values = serde_json::to_value(raw).unwrap_or(Value::Null);
    let mut text = String::new();
    for key in SCHEMA.iter().filter(|key| key.children().is_none()) {
        line(&mut text, key, values.get(key.name));
    }
    for key in SCHEMA.iter().filter(|key| key.built) {
        let Some(keys) = key.children() else { continue };
        match values.get(key.name) {
            Some(Value::Array(tables)) => {
                for table in tables {
                    section(&mut text, &format!("[[{}]]", key.name), keys, Some(table));
                }
            }
            value => section(&mut text, &format!("[{}]", key.name), keys, value),
        }
    }
    text
}

fn section(text: &mut String, heading: &str, keys: &[Key], values: Option<&Value>) {
    let mut lines = String::new();
    for key in keys {
        line(&mut lines, key, values.and_then(|values| values.get(key.name)));
    }
    if !lines.is_empty() {
        text.push('\n');
        text.push_str(heading);
        text.push('\n');
        text.push_str(&lines);
    }
}

fn line(text: &mut String, key: &Key, value: Option<&Value>) {
    if let Some(shown) = shown(key, value) {
        text.push_str(key.name);
        text.push_str(" = ");
        text.push_str(&shown);
        text.push('\n');
    }
}

/// The value as TOML on one line; `None`: neither given nor defaulted, or of a feature that is not there.
fn shown(key: &Key, value: Option<&Value>) -> Option<String> {
    if !key.built {
        return None;
    }
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return match &key.kind {
            // Its keys may have defaults of their own.
            Kind::Table(keys) => inline(keys, None),
            Kind::Tables(_)
            | Kind::Bool
            | Kind::Integer
            | Kind::Text
            | Kind::Secret
            | Kind::Duration
            | Kind::Size
            | Kind::Rate
            | Kind::List
            | Kind::TextMap
            | Kind::SecretMap => (!key.default.is_empty()).then(|| key.default.to_owned()),
        };
    };
    Some(match &key.kind {
        Kind::Table(keys) => return inline(keys, Some(value)).or_else(|| Some("{}".to_owned())),
        Kind::Tables(keys) => {
            let tables = value.as_array().into_iter().flatten().map(|value| inline(keys, Some(value)).unwrap_or_default());
            format!("[{}]", tables.collect::<Vec<_>>().join(", "))
        }
        Kind::Secret if value.as_str() == Some("") => r#""""#.to_owned(),
        Kind::Secret => REDACTED.to_owned(),
        Kind::SecretMap => map(value, |_| REDACTED.to_owned()),
        Kind::TextMap => map(value, plain),
        Kind::Bool | Kind::Integer | Kind::Text | Kind::Duration | Kind::Size | Kind::Rate | Kind::List => plain(value),
    })
}

fn inline(keys: &[Key], values: Option<&Value>) -> Option<String> {
    let parts: Vec<String> = keys
        .iter()
        .filter_map(|key| shown(key, values.and_then(|values| values.get(key.name))).map(|shown| format!("{} = {shown}", key.name)))
        .collect();
    (!parts.is_empty()).then(|| format!("{{ {} }}", parts.join(", ")))
}

fn map(value: &Value, show: impl Fn(&Value) -> String) -> String {
    let parts: Vec<String> =
        value.as_object().into_iter().flatten().map(|(name, value)| format!("{} = {}", quoted(name), show(value))).collect();
    if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Bool(_) | Value::Number(_) | Value::Null | Value::Object(_) => value.to_string(),
    }
}

/// A basic string (TOML 1.0).
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.extend(format!("\\u{:04X}", u32::from(c)).chars()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
