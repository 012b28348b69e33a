//! The file as a layer: a walk over the spanned TOML tree against the schema, since the `config` crate keeps no lines
//! and serde stops at the first problem. What does not fit is reported and left out, so that the rest can be judged too.

use std::ops::Range;

use ::config::{Map, Value, ValueKind};
use toml_edit::{Document, Item, TableLike};

use super::problem::{Place, Report};
use super::schema::{self, Key, Kind, SCHEMA};

/// Reads `text`, the content of the file called `name`. `None`: it is not TOML, and the report says where.
pub(super) fn read(name: &str, text: &str, report: &mut Report) -> Option<Map<String, Value>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines { name, text };
    match Document::parse(text) {
        Ok(document) => Some(Walk { lines, report }.table(document.as_table(), SCHEMA, "")),
        Err(error) => {
            report.add_at(lines.place(error.span()), "", error.message().replace('\n', " "));
            None
        }
    }
}

/// Turns byte offsets into lines and columns.
struct Lines<'a> {
    name: &'a str,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, span: Option<Range<usize>>) -> Place {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place::File { file: self.name.to_owned(), line, column }
    }
}

/// A table and where it stands.
type Spanned<'a> = (&'a dyn TableLike, Option<Range<usize>>);

struct Walk<'a> {
    lines: Lines<'a>,
    report: &'a mut Report,
}

impl Walk<'_> {
    fn table(&mut self, table: &dyn TableLike, keys: &'static [Key], path: &str) -> Map<String, Value> {
        let mut map = Map::new();
        for (name, _) in table.iter() {
            let Some((written, item)) = table.get_key_value(name) else { continue };
            let place = self.lines.place(written.span().or_else(|| item.span()));
            let full = join(path, name);
            let Some(key) = schema::find(keys, name) else {
                self.unknown(&full, path, name, keys, place);
                continue;
            };
            self.report.set_place(full.clone(), place);
            if !key.built {
                if !is_default(item, key.default) {
                    self.report.add(&full, not_built(key));
                }
                continue;
            }
            if let Some(value) = self.item(item, key, &full) {
                map.insert(name.to_owned(), value);
            }
        }
        map
    }

    fn unknown(&mut self, full: &str, path: &str, name: &str, keys: &'static [Key], place: Place) {
        let message = match schema::nearest(name, keys.iter().map(|key| key.name)) {
            Some(near) => {
                // That the right key is missing follows from this one.
                self.report.mute(join(path, near));
                format!("unknown key; did you mean `{near}`?")
            }
            None => match home_of(name) {
                Some(home) => format!("unknown key; `{name}` belongs to {home}"),
                None => format!("unknown key; known here: {}", names(keys)),
            },
        };
        self.report.add_at(place, full, message);
    }

    /// The value, if it is of the right kind.
    fn item(&mut self, item: &Item, key: &'static Key, path: &str) -> Option<Value> {
        let kind = match &key.kind {
            Kind::Bool => item.as_bool().map(ValueKind::Boolean),
            Kind::Integer => item.as_integer().map(ValueKind::I64),
            Kind::Text | Kind::Secret | Kind::Duration | Kind::Size | Kind::Rate => item.as_str().map(text),
            Kind::List => match item.as_array() {
                Some(array) => return Some(self.list(array, path)),
                None => None,
            },
            Kind::TextMap | Kind::SecretMap => match item.as_table_like() {
                Some(table) => return Some(self.text_map(table, path)),
                None => None,
            },
            Kind::Table(keys) => item.as_table_like().map(|table| ValueKind::Table(self.table(table, keys, path))),
            Kind::Tables(keys) => match tables(item) {
                Some(tables) => return Some(self.tables(&tables, keys, path)),
                None => None,
            },
        };
        if kind.is_none() {
            self.report.add(path, format!("expected {}, found {}", key.kind.expected(), found(item)));
        }
        kind.map(|kind| Value::new(None, kind))
    }

    fn list(&mut self, array: &toml_edit::Array, path: &str) -> Value {
        let mut values = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.report.set_place(path.clone(), self.lines.place(value.span()));
            match value.as_str() {
                Some(value) => values.push(Value::new(None, text(value))),
                None => {
                    self.report.add(&path, format!("expected text in quotes, found {}", value.type_name()));
                    // Keeps the places of those that follow.
                    values.push(Value::new(None, text("")));
                }
            }
        }
        Value::new(None, ValueKind::Array(values))
    }

    fn text_map(&mut self, table: &dyn TableLike, path: &str) -> Value {
        let mut map = Map::new();
        for (name, item) in table.iter() {
            let full = join(path, name);
            let span = table.get_key_value(name).and_then(|(key, _)| key.span()).or_else(|| item.span());
            self.report.set_place(full.clone(), self.lines.place(span));
            match item.as_str() {
                Some(value) => {
                    map.insert(name.to_owned(), Value::new(None, text(value)));
                }
                None => self.report.add(&full, format!("expected text in quotes, found {}", found(item))),
            }
        }
        Value::new(None, ValueKind::Table(map))
    }

    fn tables(&mut self, tables: &[Spanned<'_>], keys: &'static [Key], path: &str) -> Value {
        let mut values = Vec::new();
        for (index, (table, span)) in tables.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.report.set_place(path.clone(), self.lines.place(span.clone()));
            values.push(Value::new(None, ValueKind::Table(self.table(*table, keys, &path))));
        }
        Value::new(None, ValueKind::Array(values))
    }
}

/// Why a key that is known is refused.
pub(super) fn not_built(key: &Key) -> String {
    if key.default.is_empty() || key.default == r#""""# {
        "is not built yet in this release; leave it out".to_owned()
    } else {
        format!("is not built yet in this release; leave it out or at {}", key.default)
    }
}

/// `a.b`, or `b` at the top.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The names of `keys`, for people.
pub(super) fn names(keys: &[Key]) -> String {
    keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// Where a key that stands in the wrong section belongs.
fn home_of(name: &str) -> Option<String> {
    if schema::find(SCHEMA, name).is_some() {
        return Some("the top of the file, before the first [section]".to_owned());
    }
    SCHEMA.iter().find(|section| section.children().is_some_and(|keys| schema::find(keys, name).is_some())).map(|section| {
        if matches!(section.kind, Kind::Tables(_)) { format!("[[{}]]", section.name) } else { format!("[{}]", section.name) }
    })
}

/// The tables of `[[a]]` or `a = [{…}]`; `None` when it is anything else.
fn tables(item: &Item) -> Option<Vec<Spanned<'_>>> {
    if let Some(tables) = item.as_array_of_tables() {
        return Some(tables.iter().map(|table| (table as &dyn TableLike, table.span())).collect());
    }
    item.as_array()?.iter().map(|value| Some((value.as_inline_table()? as &dyn TableLike, value.span()))).collect()
}

/// Whether `item` says what `default` says. A feature that is not built may be set to that alone.
fn is_default(item: &Item, default: &str) -> bool {
    let Ok(document) = Document::parse(format!("x = {default}")) else { return false };
    let Some(default) = document.get("x") else { return false };
    (item.as_str().is_some() && item.as_str() == default.as_str())
        || (item.as_bool().is_some() && item.as_bool() == default.as_bool())
        || (item.as_integer().is_some() && item.as_integer() == default.as_integer())
}

fn found(item: &Item) -> String {
    match item.as_str() {
        // The text itself is not shown, since it may be a secret that was put in the wrong place.
        Some(_) => "text".to_owned(),
        None => match item.type_name() {
            "integer" => "a number".to_owned(),
            "float" => "a number with a point".to_owned(),
            "boolean" => "true or false".to_owned(),
            "array" => "a list".to_owned(),
            "array of tables" => "a list of tables".to_owned(),
            "datetime" => "a date".to_owned(),
            other => format!("a {other}"),
        },
    }
}

fn text(value: &str) -> ValueKind {
    ValueKind::String(value.to_owned())
}
