//! The reference file, and what there is where nothing is written.

use super::*;

#[test]
fn the_reference_file_says_the_defaults() {
    let loaded = ok(DEFAULT_FILE);
    assert_eq!(loaded.config, Config { upstreams: vec![upstream()], ..Config::default() });
    assert_eq!(loaded.dangers, [""; 0]);
}

/// The reference file with its examples: a `#` that no space follows.
fn uncommented() -> String {
    let example = |line: &str| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).map(str::to_owned);
    let text = DEFAULT_FILE.lines().map(|line| example(line).unwrap_or_else(|| line.to_owned())).collect::<Vec<_>>().join("\n");
    // The examples of one upstream show both a plain address and what goes with TLS.
    text.replace("\nurl = \"http:", "\nurl = \"https:")
}

#[test]
fn every_example_of_the_reference_file_holds() {
    let shown = check_text(&uncommented(), &[]).unwrap_err().to_string();
    for line in shown.lines() {
        assert!(line.contains("is not built yet in this release") || line.contains("upstreams[0].urls: is given beside url"), "{line}");
    }
    // And each of those is marked.
    for problem in check_text(&uncommented(), &[]).unwrap_err().0 {
        let Place::File { line, .. } = problem.place else { panic!("{problem}") };
        let above = uncommented().lines().take(line).collect::<Vec<_>>().join("\n");
        let comment = above.lines().rev().find(|line| line.starts_with("# ")).unwrap().to_owned();
        let mark = if problem.to_string().contains("is given beside url") { "instead of url" } else { "not in this release" };
        assert!(comment.contains(mark), "{problem}\n{comment}");
    }
}

#[test]
fn the_reference_file_names_every_key() {
    fn walk(table: &dyn toml_edit::TableLike, keys: &'static [Key], path: &str, missing: &mut Vec<String>) {
        for key in keys {
            let path = format!("{path}.{}", key.name);
            match (table.get(key.name), key.children()) {
                (None, _) if DEFAULT_FILE.contains(&format!("`{}`", key.name)) => {}
                (None, _) => missing.push(path),
                (Some(_), None) => {}
                (Some(item), Some(children)) => {
                    let first = item.as_array_of_tables().and_then(|tables| tables.get(0)).map(|table| table as &dyn toml_edit::TableLike);
                    let inline = || item.as_array()?.get(0)?.as_inline_table().map(|table| table as &dyn toml_edit::TableLike);
                    walk(item.as_table_like().or(first).or_else(inline).unwrap(), children, &path, missing);
                }
            }
        }
    }
    let text = uncommented();
    let document = toml_edit::Document::parse(text.as_str()).unwrap();
    let mut missing = Vec::new();
    walk(document.as_table(), SCHEMA, "", &mut missing);
    assert_eq!(missing, [""; 0]);
}

#[test]
fn the_demo_file_holds() {
    let loaded = check_text(include_str!("../../../config/demo.toml"), &[]).unwrap();
    assert_eq!(loaded.config.accounts.registration, Registration::Open);
    assert_eq!(loaded.config.rules.len(), 2);
    assert!(loaded.dangers[0].contains("everybody who reaches the port can let themselves in under any address"), "{:?}", loaded.dangers);
}

#[test]
fn the_schema_s_defaults_are_those_of_the_types() {
    fn section(heading: &str, keys: &[Key], text: &mut String) {
        text.extend([heading, "\n"]);
        for key in keys.iter().filter(|key| !key.default.is_empty()) {
            text.extend([key.name, " = ", key.default, "\n"]);
        }
        for key in keys {
            if let Kind::Table(below) = &key.kind
                && below.iter().any(|key| !key.default.is_empty())
                && key.name != "tls"
            {
                section(&format!("{}.{}]", heading.trim_end_matches(']'), key.name), below, text);
            }
        }
    }
    let mut text = String::from("default_policy = \"authenticated\"\n");
    for key in SCHEMA {
        match (key.children(), key.name) {
            (Some(keys), "upstreams") => {
                text.push_str("[[upstreams]]\nurl = \"http://127.0.0.1:3000\"\n");
                for key in keys.iter().filter(|key| !key.default.is_empty()) {
                    text.extend([key.name, " = ", key.default, "\n"]);
                }
            }
            (_, "rules") | (None, _) => {}
            (Some(keys), _) if key.built => section(&format!("[{}]", key.name), keys, &mut text),
            (Some(_), _) => {}
        }
    }
    let loaded = check_text(&text, &[]).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
    assert_eq!(loaded.config, Config { upstreams: vec![upstream()], ..Config::default() });
}

// DEF-1: what an empty configuration means is the secure choice.
#[test]
fn an_empty_configuration_is_secure() {
    let config = ok("").config;
    assert_eq!(config, Config { upstreams: vec![upstream()], ..Config::default() });
    assert_eq!(config.default_policy, Access::Authenticated);
    assert_eq!(config.accounts.registration, Registration::Closed);
    assert!(config.server.listen.iter().all(|listen| matches!(listen, Listen::Tcp(address) if address.ip().is_loopback())));
    assert!(config.admin.listen.is_some_and(|address| address.ip().is_loopback()));
    assert!(config.server.trusted_proxies.is_empty());
    assert!(config.limits.auth_per_ip.is_some() && config.limits.register_per_ip.is_some());
    assert!(!config.server.danger_plain_http && !config.accounts.danger_unverified_addresses && !config.identity.forward_token);
    assert!(config.upstreams.iter().all(|upstream| !upstream.tls.insecure));
    assert_eq!(config.accounts.argon2, Argon2 { memory_kib: 19_456, iterations: 2, parallelism: 1, max_concurrent: 0 });
    assert!(ok("").dangers.is_empty());
}
