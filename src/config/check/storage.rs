//! `[storage]`: which backend, where it is, and the key that protects what is in it.

use super::super::raw::Raw;
use super::super::{Backend, Postgres, Storage};
use super::{Checker, Choice, SecretFiles, keys, text};
use crate::model::Secret;

pub(super) fn storage(c: &mut Checker<'_>, raw: &Raw, secrets: &SecretFiles) -> Storage {
    let choices = [("sled", Choice::Is(Backend::Sled)), ("postgres", Choice::Is(Backend::Postgres))];
    let backend = c.choice("storage.backend", raw.storage.backend.as_ref(), Backend::Sled, &choices);
    let path = c.text("storage.path", raw.storage.path.as_ref(), "data", text::path).into();
    let given_key = written("storage.master_key", raw.storage.master_key.as_ref(), "storage.master_key_file", secrets.master_key.as_ref());
    let master_key = match one_of(c, given_key, raw.storage.master_key_file.as_ref()) {
        Given::Value(key, given) => match keys::master_key(given.expose()) {
            Ok(bytes) => Some(Secret::new(bytes)),
            Err(message) => {
                c.fail(key, message);
                None
            }
        },
        Given::Nothing => {
            if backend == Backend::Postgres && c.sound(&["storage.master_key", "storage.master_key_file"]) {
                c.fail(
                    "storage.master_key",
                    "is missing: what is in a database must be readable for every process that shares it and for nobody else; write the same \
                     `openssl rand -base64 32` for all of them, or name a file with storage.master_key_file",
                );
            }
            None
        }
        Given::Twice => None,
    };
    let previous_master_key = previous(c, raw, secrets, master_key.as_ref());
    Storage { backend, path, postgres: postgres(c, raw, secrets, backend), master_key, previous_master_key }
}

/// The key that `master` replaces.
fn previous(c: &mut Checker<'_>, raw: &Raw, secrets: &SecretFiles, master: Option<&Secret<Vec<u8>>>) -> Option<Secret<Vec<u8>>> {
    let (key, file_key) = ("storage.previous_master_key", "storage.previous_master_key_file");
    let given = written(key, raw.storage.previous_master_key.as_ref(), file_key, secrets.previous_master_key.as_ref());
    let Given::Value(key, given) = one_of(c, given, raw.storage.previous_master_key_file.as_ref()) else { return None };
    let previous = match keys::master_key(given.expose()) {
        Ok(bytes) => Secret::new(bytes),
        Err(message) => {
            c.fail(key, message);
            return None;
        }
    };
    match master {
        Some(master) if *master == previous => {
            c.fail(key, "is the same as storage.master_key: give the key that it replaces, or remove this");
            None
        }
        None if c.sound(&["storage.master_key", "storage.master_key_file"]) => {
            c.fail(key, "is given without the key that replaces it: set storage.master_key or master_key_file, or remove this");
            None
        }
        Some(_) | None => Some(previous),
    }
}

fn postgres(c: &mut Checker<'_>, raw: &Raw, secrets: &SecretFiles, backend: Backend) -> Option<Postgres> {
    let pool = c.integer("storage.pool", raw.storage.pool, Postgres::POOL, 1..=1000);
    let schema = c.text("storage.schema", raw.storage.schema.as_ref(), Postgres::SCHEMA, schema);
    let given_url = written("storage.url", raw.storage.url.as_ref(), "storage.url_file", secrets.database_url.as_ref());
    let (key, url) = match one_of(c, given_url, raw.storage.url_file.as_ref()) {
        Given::Value(key, url) => (key, url),
        Given::Nothing => {
            if backend == Backend::Postgres && c.sound(&["storage.url", "storage.url_file"]) {
                c.fail(
                    "storage.url",
                    "is missing: write postgres://USER:PASSWORD@HOST/DATABASE, or name a file that holds it with storage.url_file",
                );
            }
            return None;
        }
        Given::Twice => return None,
    };
    let settings = match Postgres::parse(url.expose()) {
        Ok(settings) => Postgres { pool, schema, ..settings },
        Err(wrong) => {
            c.fail(key, wrong);
            return None;
        }
    };
    if backend == Backend::Postgres {
        if let Some(danger) = settings.danger() {
            c.danger(danger);
        }
        let client = settings.tls.client.iter().flat_map(|files| [&files.cert, &files.key]);
        for path in settings.tls.roots.iter().chain(client).chain(&settings.passfile) {
            c.files.push((key.to_owned(), path.clone()));
        }
    }
    Some(settings)
}

/// A value that may stand in the configuration or in a file.
enum Given<'a> {
    Value(&'static str, &'a Secret<String>),
    Nothing,
    Twice,
}

type Written<'a> = (&'static str, Option<&'a Secret<String>>, &'static str, Option<&'a Secret<String>>);

fn written<'a>(
    key: &'static str,
    value: Option<&'a Secret<String>>,
    file_key: &'static str,
    content: Option<&'a Secret<String>>,
) -> Written<'a> {
    (key, value.filter(|value| !value.expose().is_empty()), file_key, content)
}

fn one_of<'a>(c: &mut Checker<'_>, (key, value, file_key, content): Written<'a>, file: Option<&String>) -> Given<'a> {
    let has_file = file.is_some_and(|path| !path.is_empty());
    match (value, content) {
        (Some(_), _) if has_file => {
            c.fail(key, format!("is given beside {file_key}; keep one of them"));
            Given::Twice
        }
        (Some(value), _) => Given::Value(key, value),
        (None, Some(value)) => Given::Value(file_key, value),
        (None, None) if has_file => Given::Twice,
        (None, None) => Given::Nothing,
    }
}

/// A plain identifier that needs no quotes, short enough to be part of a notification channel's name.
fn schema(name: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    if !begins || !name.bytes().all(plain) || name.len() > 48 {
        return Err(format!("{name:?} must be 1 to 48 lower-case letters, digits and underscores, and not begin with a digit"));
    }
    if name.starts_with("pg_") || name == "information_schema" {
        return Err(format!("{name:?} is a name that PostgreSQL keeps for itself"));
    }
    Ok(name.to_owned())
}
