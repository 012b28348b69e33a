//! Turns the texts of the pages, `src/web/languages/*.toml`, into Rust: a struct for each table, a constant for each
//! language. So a text that is missing or misspelled in any language ends the build, a template can't ask for one that
//! does not exist or forget a placeholder, and a running process parses nothing and keeps nothing in memory.
//!
//! What may stand in a table: a text; a text with placeholders, `{name}`, which becomes a function of them (`{*name}`
//! is emphasised); `{ one = "…", other = "…" }`, a text that depends on the number `{n}`; a list of texts; a table.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use toml_edit::{DocumentMut, Item, Value};

/// The languages' tags, the names of their files. The first decides which texts there are.
const LANGUAGES: [&str; 7] = ["en", "de", "fr", "es", "pt", "ja", "zh"];

/// Tables whose texts are also looked up by a name that is known only when it is asked for.
const LOOKED_UP: [&str; 2] = ["errors", "actions"];

/// What a key stands for.
#[derive(Debug)]
enum Text {
    /// A text, perhaps with placeholders.
    One(String),
    /// Two forms of a text with a number.
    Plural(String, String),
    /// Several texts.
    List(Vec<String>),
    /// More keys.
    Table(Vec<(String, Self)>),
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("src/web/languages");
    println!("cargo::rerun-if-changed=build.rs");
    let mut read = Vec::new();
    for tag in LANGUAGES {
        let path = folder.join(format!("{tag}.toml"));
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let document: DocumentMut = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
        read.push((tag, table(&path, "", document.as_table().iter())?));
    }
    let mut problems = Vec::new();
    let mut out = String::new();
    if let Some((_, model)) = read.first() {
        for (tag, texts) in &read {
            compare(&format!("{}/{tag}.toml", folder.display()), model, texts, &mut problems);
        }
        declare("Texts", model, &mut out)?;
        for (tag, texts) in &read {
            write!(out, "pub(super) static {}: Texts = ", tag.to_uppercase())?;
            define("Texts", tag, texts, &mut out)?;
            out.push_str(";\n");
        }
    }
    if !problems.is_empty() {
        return Err(problems.join("\n").into());
    }
    fs::write(PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("texts.rs"), out)?;
    Ok(())
}

/// Reads a table; `at` is its name with a dot at the end.
fn table<'a>(path: &Path, at: &str, items: impl Iterator<Item = (&'a str, &'a Item)>) -> Result<Text, String> {
    let mut entries: Vec<(String, Text)> = Vec::new();
    for (key, item) in items {
        let name = format!("{at}{key}");
        if !key.starts_with(|c: char| c.is_ascii_lowercase())
            || !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            return Err(format!("{}: {name}: a key is a word in small letters", path.display()));
        }
        let wrong = || format!("{}: {name}: is neither a text, a list of texts nor a table", path.display());
        let text = match item {
            Item::Value(Value::String(text)) => Text::One(text.value().clone()),
            Item::Value(Value::Array(list)) => {
                Text::List(list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(wrong)?)
            }
            Item::Value(Value::InlineTable(forms)) => {
                let form = |name| forms.get(name).and_then(Value::as_str).map(str::to_owned);
                match (form("one"), form("other"), forms.len()) {
                    (Some(one), Some(other), 2) => Text::Plural(one, other),
                    _ => return Err(format!("{}: {name}: has not exactly the forms \"one\" and \"other\"", path.display())),
                }
            }
            Item::Table(more) => table(path, &format!("{name}."), more.iter())?,
            Item::Value(_) | Item::ArrayOfTables(_) | Item::None => return Err(wrong()),
        };
        entries.push((key.to_owned(), text));
    }
    Ok(Text::Table(entries))
}

/// Notes what `text` has otherwise than `model`, and what no text may be.
fn compare(at: &str, model: &Text, text: &Text, problems: &mut Vec<String>) {
    match (model, text) {
        (Text::Table(model), Text::Table(entries)) => {
            for (key, model) in model {
                match entries.iter().find(|(known, _)| known == key) {
                    Some((_, text)) => compare(&format!("{at}: {key}"), model, text, problems),
                    None => problems.push(format!("{at}: {key} is missing")),
                }
            }
            for (key, _) in entries.iter().filter(|(key, _)| model.iter().all(|(known, _)| known != key)) {
                problems.push(format!("{at}: {key} is not in the first language"));
            }
        }
        (Text::One(model), Text::One(text)) => {
            sound(at, text, problems);
            let (expected, found): (BTreeSet<_>, BTreeSet<_>) =
                (placeholders(model).into_iter().collect(), placeholders(text).into_iter().collect());
            if expected != found {
                problems.push(format!("{at}: has the placeholders {found:?} and not {expected:?}"));
            }
        }
        (Text::Plural(_, model), Text::Plural(one, other)) => {
            sound(at, one, problems);
            sound(at, other, problems);
            let set = |text: &str| placeholders(text).into_iter().filter(|(name, _)| name != "n").collect::<BTreeSet<_>>();
            if set(model) != set(one) || set(model) != set(other) || !other.contains("{n}") {
                problems.push(format!("{at}: does not have the placeholders {:?}", placeholders(model)));
            }
        }
        (Text::List(model), Text::List(texts)) => {
            for text in texts {
                sound(at, text, problems);
            }
            if model.len() != texts.len() {
                problems.push(format!("{at}: has {} texts and not {}", texts.len(), model.len()));
            }
        }
        (Text::One(_) | Text::Plural(..) | Text::List(_) | Text::Table(_), _) => problems.push(format!("{at}: is of another kind")),
    }
}

fn sound(at: &str, text: &str, problems: &mut Vec<String>) {
    if text.trim().is_empty() || text.trim() != text {
        problems.push(format!("{at}: is empty, or begins or ends with a space"));
    }
    if text.contains(['<', '>', '&']) || text.chars().any(char::is_control) {
        problems.push(format!("{at}: has markup or control characters in it"));
    }
    let left = placeholders(text).len();
    if text.matches('{').count() != left || text.matches('}').count() != left {
        problems.push(format!("{at}: has braces that are no placeholder"));
    }
}

/// The names of the placeholders with whether they are emphasised, in their order, each once.
fn placeholders(text: &str) -> Vec<(String, bool)> {
    let mut found: Vec<(String, bool)> = Vec::new();
    for part in text.split('{').skip(1) {
        let Some((name, _)) = part.split_once('}') else { continue };
        let (name, strong) = name.strip_prefix('*').map_or((name, false), |name| (name, true));
        let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if named && !found.iter().any(|(known, _)| known == name) {
            found.push((name.to_owned(), strong));
        }
    }
    found
}

/// The struct for a table: plain texts are fields, the others functions.
fn declare(name: &str, text: &Text, out: &mut String) -> Result<(), Box<dyn Error>> {
    let Text::Table(entries) = text else { return Err("no table".into()) };
    let (mut fields, mut functions, mut looked_up) = (String::new(), String::new(), String::new());
    for (key, text) in entries {
        match text {
            Text::One(text) if placeholders(text).is_empty() => {
                writeln!(fields, "    pub(in crate::web) {key}: &'static str,")?;
                writeln!(looked_up, "            {key:?} => Some(self.{key}),")?;
            }
            Text::One(text) => {
                writeln!(fields, "    {key}: &'static str,")?;
                function(key, "", "", &placeholders(text), &mut functions)?;
            }
            Text::Plural(_, other) => {
                writeln!(fields, "    {key}: Plural,")?;
                let others: Vec<_> = placeholders(other).into_iter().filter(|(name, _)| name != "n").collect();
                function(key, "n: impl Count, ", ".form(n)", &others, &mut functions)?;
            }
            Text::List(texts) => writeln!(fields, "    pub(in crate::web) {key}: [&'static str; {}],", texts.len())?,
            Text::Table(_) => {
                let kind = kind(name, key);
                writeln!(fields, "    pub(in crate::web) {key}: {kind},")?;
                declare(&kind, text, out)?;
            }
        }
    }
    let extra = if name == "Texts" { "    pub(in crate::web) language: Language,\n" } else { "" };
    writeln!(out, "#[derive(Debug)]\npub(in crate::web) struct {name} {{\n{extra}{fields}}}")?;
    if LOOKED_UP.iter().any(|table| name == kind("Texts", table) || name.ends_with(&format!("{}Texts", capital(table)))) {
        writeln!(
            functions,
            "    pub(in crate::web) fn get(&self, key: &str) -> Option<&'static str> {{\n        match key {{\n{looked_up}            _ => None,\n        }}\n    }}"
        )?;
    }
    if !functions.is_empty() {
        writeln!(out, "impl {name} {{\n{functions}}}")?;
    }
    Ok(())
}

/// A function that fills the placeholders of a text; `n`: of the form for a number.
fn function(key: &str, n: &str, form: &str, placeholders: &[(String, bool)], out: &mut String) -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = placeholders.iter().map(|(name, _)| format!("{name}: impl fmt::Display")).collect();
    let values: Vec<_> = placeholders.iter().map(|(name, _)| format!("({name:?}, &{name})")).collect();
    let (number, values) = if n.is_empty() {
        (String::new(), values.join(", "))
    } else {
        (
            format!("        let n = n.count();\n        let number = self.{key}.number(n);\n"),
            [vec!["(\"n\", &number)".to_owned()], values].concat().join(", "),
        )
    };
    writeln!(
        out,
        "    pub(in crate::web) fn {key}(&self, {n}{}) -> Filled {{\n{number}        fill(self.{key}{form}, &[{values}])\n    }}",
        arguments.join(", ")
    )?;
    Ok(())
}

/// The value for a table.
fn define(name: &str, tag: &str, text: &Text, out: &mut String) -> Result<(), Box<dyn Error>> {
    let Text::Table(entries) = text else { return Err("no table".into()) };
    let language = format!("Language::{}", capital(tag));
    write!(out, "{name} {{ ")?;
    if name == "Texts" {
        write!(out, "language: {language}, ")?;
    }
    for (key, text) in entries {
        write!(out, "{key}: ")?;
        match text {
            Text::One(text) => write!(out, "{text:?}")?,
            Text::Plural(one, other) => write!(out, "Plural {{ language: {language}, one: {one:?}, other: {other:?} }}")?,
            Text::List(texts) => write!(out, "{texts:?}")?,
            Text::Table(_) => define(&kind(name, key), tag, text, out)?,
        }
        out.push_str(", ");
    }
    out.push('}');
    Ok(())
}

/// The name of the struct for a table: `AccountSessionsTexts` for `[account.sessions]`.
fn kind(parent: &str, key: &str) -> String {
    let words: String = key.split('_').map(capital).collect();
    format!("{}{words}Texts", parent.strip_suffix("Texts").unwrap_or(parent))
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
