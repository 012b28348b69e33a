//! Which backend the tests run on: `NULLPASS_TEST_BACKEND` is `sled` (the default) or `postgres`. `tests/run` runs them
//! once for each; what only sled has is in `tests/sled_only.txt`.
//!
//! For several test crates: `#[path = "../support/backend.rs"] mod backend;`

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use nullpass::config::{self, Backend, LoadOptions, Overrides, Storage};

#[path = "postgres.rs"]
pub(crate) mod postgres;

/// The key that all tests share; they share nothing that it seals.
const MASTER_KEY: &str = "pSXI5LGF0uvf3Jnzyt4bwMXGlbujKlOQrRZ3UUqXAwE=";

/// `[storage]` for a new and empty state: a folder, or a schema of its own in the run's database.
pub(crate) fn storage(folder: &Path) -> Storage {
    let path = folder.join("data");
    let mut text = format!("[[upstreams]]\nname = \"app\"\nurl = \"http://127.0.0.1:1\"\n\n[storage]\npath = '{}'\n", path.display());
    match std::env::var_os("NULLPASS_TEST_BACKEND").as_deref().and_then(OsStr::to_str) {
        Some("postgres") => {
            let (url, schema) = (postgres::url(), postgres::schema());
            text.push_str("backend = \"postgres\"\n");
            for (key, value) in [("url", url.as_str()), ("schema", schema.as_str()), ("master_key", MASTER_KEY)] {
                writeln!(text, "{key} = \"{value}\"").unwrap();
            }
        }
        Some("sled") | None => {}
        Some(other) => panic!("NULLPASS_TEST_BACKEND is sled or postgres, not {other:?}"),
    }
    let file = folder.join("storage.toml");
    std::fs::write(&file, &text).unwrap();
    let options = LoadOptions { file: Some(file.clone()), overrides: Overrides::default(), ..LoadOptions::default() };
    let loaded = config::load(&options).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    std::fs::remove_file(file).unwrap();
    loaded.config.storage
}

/// Every byte that is kept: all files of the data folder, and all rows of the schema.
pub(crate) fn kept(storage: &Storage) -> Vec<u8> {
    let mut bytes = Vec::new();
    read(&storage.path, &mut bytes);
    match storage.backend {
        Backend::Sled => {}
        Backend::Postgres => {
            let schema = &storage.postgres.as_ref().unwrap().schema;
            let tables = psql(&format!("SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'"));
            for table in String::from_utf8(tables).unwrap().lines() {
                bytes.extend(psql(&format!("COPY \"{schema}\".\"{table}\" TO STDOUT (FORMAT binary)")));
            }
        }
    }
    bytes
}

/// What it prints.
fn psql(sql: &str) -> Vec<u8> {
    let url = postgres::url();
    let done = Command::new("psql").args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql]).output().unwrap();
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn read(folder: &Path, into: &mut Vec<u8>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            read(&entry.path(), into);
        } else if kind.is_file() {
            into.extend(std::fs::read(entry.path()).unwrap());
        }
    }
}
