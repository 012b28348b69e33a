//! The house as `ARCHITECTURE.md` and `docs/security.md` describe it, held against the code.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that can't go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path from the top, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The text without the tests at its foot.
    fn code(&self) -> &str {
        self.text.split("\n#[cfg(test)]\n").next().unwrap()
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/") || self.path.starts_with("tests/")
    }
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&top().join(folder), &mut found);
    assert!(found.len() > 5, "{folder}");
    found
}

fn walk(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source { path: path.strip_prefix(top()).unwrap().to_str().unwrap().to_owned(), text });
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of a Markdown table's rows.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Everything after `crate::` in a text that is no comment, one path a time, groups taken apart at their first level.
fn imports(code: &str) -> Vec<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        let path: String = part.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
        match part.get(path.len()..).and_then(|rest| rest.strip_prefix('{')) {
            Some(group) => {
                let group = group.split("};").next().unwrap();
                found.extend(group.split(',').map(|member| format!("{path}{}", member.trim())));
            }
            None => found.push(path),
        }
    }
    found
}

/// The table of `ARCHITECTURE.md`: for each module what it may import.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("ARCHITECTURE.md");
    let section = text.split("## Layers").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows(section).iter().skip(1) {
        let (modules, may) = (&row[row.len() - 2], &row[row.len() - 1]);
        let may: BTreeSet<String> = match may.as_str() {
            "nothing" => BTreeSet::new(),
            "all of the above" => table.keys().cloned().collect(),
            list => list.split(", ").map(|name| name.trim_start_matches("and ").trim_matches('`').to_owned()).collect(),
        };
        for module in modules.split(", ") {
            table.insert(module.to_owned(), may.clone());
        }
    }
    assert!(table.len() >= 15, "{table:?}");
    table
}

#[test]
fn imports_point_down() {
    let table = table();
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        let module = source.path.trim_start_matches("src/").split('/').next().unwrap().trim_end_matches(".rs");
        if ["app", "main", "lib", "cli"].contains(&module) {
            continue;
        }
        let Some(may) = table.get(module) else {
            wrong.push(format!("{module} is not in the table"));
            continue;
        };
        for import in imports(source.code()) {
            let allowed = import.split("::").next() == Some(module)
                || may.iter().any(|may| import == *may || import.starts_with(&format!("{may}::")));
            if !allowed {
                wrong.push(format!("{}: crate::{import}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md does not allow:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let table = table();
    let lib = read("src/lib.rs");
    let modules: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter(|name| !["app", "cli"].contains(name))
        .collect();
    let known: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    assert_eq!(modules, known);
}

/// What only some files may name.
#[test]
fn fenced_crates_stay_fenced() {
    let fences: [(&str, &[&str]); 9] = [
        ("jsonwebtoken::", &["src/crypto/token/"]),
        ("argon2::", &["src/crypto/password.rs", "src/crypto/phc.rs"]),
        ("aes_gcm::", &["src/crypto/seal/"]),
        ("totp_rs::", &["src/crypto/totp.rs"]),
        ("SledStore", &["src/store/sled/", "src/app/"]),
        ("PostgresStore", &["src/store/postgres/", "src/app/"]),
        ("tokio_postgres", &["src/store/postgres/"]),
        ("crossbeam_epoch::", &["src/store/sled/replaced.rs"]),
        ("SystemTime::now", &["src/clock.rs"]),
    ];
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        let code: String = source.code().lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for (name, places) in fences {
            assert!(!code.contains(name) || places.iter().any(|place| source.path.starts_with(place)), "{}: {name}", source.path);
        }
        let sled = code.contains("::sled::") || code.contains("use sled") || code.contains(" sled::Tree") || code.contains(" sled::Db");
        let fenced = source.path.starts_with("src/store/sled/") || source.path.starts_with("src/app/") || code.contains("store::sled::");
        assert!(!sled || fenced, "{}: sled", source.path);
    }
}

// `store/sled/replaced.rs` hands over what sled has replaced: with another copy of the crate than sled's that would do nothing.
#[test]
fn sled_and_the_store_share_one_crossbeam_epoch() {
    let copies = read("Cargo.lock").lines().filter(|line| *line == "name = \"crossbeam-epoch\"").count();
    assert_eq!(copies, 1);
}

// RND-1: every secret comes from the operating system, by one door; only key pairs come from the library that they are used
// with, whose generator the operating system seeds. No other source of randomness is in the house.
#[test]
fn randomness_has_one_door() {
    for source in sources("src") {
        let names = |word: &str| source.text.contains(word);
        assert!(!names("getrandom::") || source.path == "src/crypto/random.rs", "{}", source.path);
        for word in ["use rand", "rand::", "fastrand", "thread_rng", "SmallRng", "StdRng", "SystemRandom", "new_v4"] {
            let is_key_pair = source.path == "src/crypto/token/key.rs" && ["rand::", "SystemRandom"].contains(&word);
            assert!(!names(word) || is_key_pair, "{}: {word}", source.path);
        }
        assert_eq!(source.text.matches("rand::").count(), source.text.matches("aws_lc_rs::rand::").count(), "{}", source.path);
    }
    let manifest = read("Cargo.toml");
    for name in ["rand", "fastrand", "rand_core", "oorandom"] {
        assert!(!manifest.lines().any(|line| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}="))), "{name}");
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        // What stands behind a declaration `mod tests;` is no test.
        let lines = source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap().lines().count();
        if lines > 500 {
            long.push(format!("{}: {lines}", source.path));
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// Names of requirements in a text.
fn ids(text: &str) -> BTreeSet<String> {
    const KINDS: [&str; 26] = [
        "NP", "HDR", "FWD", "BYP", "PATH", "HOST", "RL", "FAIL", "ENUM", "SES", "JWT", "ENR", "RND", "RTE", "XSS", "RED", "EML", "TOK",
        "CACHE", "CFG", "DEF", "H2", "ENV", "ADM", "RACE", "DOC",
    ];
    let mut found = BTreeSet::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        if let Some((kind, number)) = word.split_once('-')
            && KINDS.contains(&kind)
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            found.insert(word.to_owned());
        }
    }
    for rest in text.to_ascii_lowercase().split("cross-cutting ").skip(1) {
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !number.is_empty() {
            found.insert(format!("CC-{number}"));
        }
    }
    found
}

/// The requirements named in the comment above a test.
fn named_above(text: &str, test: &str) -> Option<BTreeSet<String>> {
    let at = text.find(&format!("fn {test}("))?;
    let above = text.get(..at)?.lines().rev().skip(1);
    let comment: Vec<&str> = above.map(str::trim).take_while(|line| line.starts_with("//") || line.starts_with('#')).collect();
    Some(ids(&comment.join("\n")))
}

// The table of `docs/security.md` and the tests name each other.
#[test]
fn every_promise_names_its_tests() {
    let text = read("docs/security.md");
    let mut promised = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in rows(&text) {
        let id = row[0].clone();
        if ids(&id).is_empty() && !id.starts_with("CC-") {
            continue;
        }
        assert!(promised.insert(id.clone()), "{id} is there twice");
        let tests: Vec<&str> = row[2].split('`').skip(1).step_by(2).collect();
        if tests.is_empty() && !row[2].starts_with("not built") {
            wrong.push(format!("{id} names no test"));
        }
        for test in tests {
            let (path, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test}"));
            match named_above(&read(path), name) {
                None => wrong.push(format!("{id}: there is no {test}")),
                Some(named) if !named.contains(&id) => wrong.push(format!("{id} is not in the comment above {test}")),
                Some(_) => {}
            }
        }
    }
    for source in sources("src").into_iter().chain(sources("tests")).filter(|source| source.path != "tests/architecture.rs") {
        let comments: Vec<&str> = source.text.lines().map(str::trim).filter(|line| line.starts_with("//")).collect();
        for id in ids(&comments.join("\n")).difference(&promised) {
            wrong.push(format!("{} names {id}, which docs/security.md does not", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
