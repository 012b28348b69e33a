//! The configuration as operators meet it: files, variables and flags in, a `Config` or a list of problems out.

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

// --- the reference file ---

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
    let loaded = check_text(include_str!("../../config/demo.toml"), &[]).unwrap();
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

// --- places and suggestions ---

#[test]
fn every_problem_is_found_in_one_run_with_its_place() {
    let text = "[server]\nlisten = [\"127.0.0.1:8080\", \"nonsense\"]\nprefx = \"/x\"\nworkers = \"two\"\nhttp2 = { max_streams = 0, max_reset = 1 }\n\
                [tokens]\nttl = 7\nalgorithm = \"EdDSa\"\n\n[[upstreams]]\n  ur = \"http://127.0.0.1:3000\"\n[nonsense]\nx = 1\n";
    let shown = check_text(text, &[]).unwrap_err().to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let expected = [
        ("nullpass.toml:2:29: server.listen[1]: ", "\"nonsense\" is not an address to listen on"),
        ("nullpass.toml:3:1: server.prefx: ", "unknown key; did you mean `prefix`?"),
        ("nullpass.toml:4:1: server.workers: ", "expected a whole number, found text"),
        ("nullpass.toml:5:11: server.http2.max_streams: ", "0 is out of range; accepted: 1 to 65535"),
        ("nullpass.toml:5:28: server.http2.max_reset: ", "unknown key; did you mean `max_resets`?"),
        ("nullpass.toml:7:1: tokens.ttl: ", "expected a duration in quotes"),
        ("nullpass.toml:8:1: tokens.algorithm: ", "did you mean \"EdDSA\"? accepted: \"EdDSA\", \"ES256\""),
        ("nullpass.toml:11:3: upstreams[0].ur: ", "unknown key; did you mean `url`?"),
        ("nullpass.toml:12:2: nonsense: ", "unknown key; known here: default_policy, server"),
    ];
    assert_eq!(lines.len(), expected.len(), "{shown}");
    for (line, (place, message)) in lines.iter().zip(expected) {
        assert!(line.starts_with(place) && line.contains(message), "{line}\n{place}{message}");
    }
}

#[test]
fn syntax_errors_and_duplicates_have_a_line() {
    for (text, place) in [
        ("[server]\nlisten = [\n", "nullpass.toml:2:"),
        ("[server]\nprefix = \"/a\"\nprefix = \"/b\"\n", "nullpass.toml:3:1: "),
        ("a\n", "nullpass.toml:1:"),
        ("[log]\n[ui]\n[log]\n", "nullpass.toml:3:"),
    ] {
        let shown = check_text(text, &[]).unwrap_err().to_string();
        assert!(shown.starts_with(place) && shown.lines().count() == 1, "{text:?}: {shown}");
    }
}

#[test]
fn a_key_in_the_wrong_section_is_sent_home() {
    refused("[server]\nissuer = \"x\"", "server.issuer", "belongs to [tokens]");
    refused("[ui]\ndefault_policy = \"deny\"", "ui.default_policy", "belongs to the top of the file");
}

#[test]
fn types_are_checked_everywhere() {
    refused("[server]\nlisten = \"127.0.0.1:1\"", "server.listen", "expected a list of texts");
    refused("[server]\nallowed_hosts = [1]", "server.allowed_hosts[0]", "expected text in quotes, found integer");
    refused("[server]\nhttp2 = 1", "server.http2", "expected a table, found a number");
    refused("[identity]\nheaders = { \"X-A\" = 1 }", "identity.headers.X-A", "expected text in quotes, found a number");
    refused("[log]\naccess = \"yes\"", "log.access", "expected true or false, found text");
    refused("server = 1", "server", "expected a table");
    refused("rules = 1", "rules", "expected a list of tables");
    refused("rules = [1]", "rules", "expected a list of tables");
    assert!(!problems("[storage]\nmaster_key = [\"hunter2\"]").contains("hunter2"));
}

#[test]
fn header_names_keep_their_spelling_and_their_dots() {
    let config = ok("[identity]\nheaders = { \"X-Tenant\" = \"attr.tenant.id\", \"X.Dotted\" = \"email\" }").config;
    let tenant = (http::HeaderName::from_static("x-tenant"), IdentityField::Attribute("tenant.id".to_owned()));
    assert!(config.identity.headers.contains(&tenant), "{:?}", config.identity.headers);
    assert_eq!(config.identity.headers.len(), 2);
}

// --- layers ---

#[test]
fn the_environment_holds_over_the_file_and_flags_over_both() {
    let text = with_upstream("[server]\nprefix = \"/file\"\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[log]\naccess = true");
    let config = check_text(
        &text,
        &[
            ("NULLPASS__SERVER__PREFIX", "/variable"),
            ("NULLPASS__SERVER__LISTEN", "127.0.0.1:3, unix:/a.sock"),
            ("NULLPASS__SERVER__WORKERS", "3"),
            ("NULLPASS__SERVER__HTTP2__MAX_STREAMS", "7"),
            ("NULLPASS__LOG__ACCESS", "false"),
            ("NULLPASS__LOG__LEVEL", ""),
            ("NULLPASS__TOKENS__TTL", "1h"),
            ("NULLPASS_SERVICE_PORT", "80"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap()
    .config;
    assert_eq!(config.server.prefix, "/variable");
    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:3".parse().unwrap()), Listen::Unix("/a.sock".into())]);
    assert_eq!((config.server.workers, config.server.http2.max_streams, config.server.http2.max_resets), (3, 7, 100));
    assert!(!config.log.access);
    assert_eq!(config.log.level, tracing::Level::INFO);
    assert_eq!(config.tokens.ttl, Duration::from_hours(1));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nullpass.toml");
    std::fs::write(&file, &text).unwrap();
    let mut options = options(Some(file), &[("NULLPASS__SERVER__LISTEN", "127.0.0.1:3"), ("NULLPASS__UPSTREAM", "http://127.0.0.1:4")]);
    options.overrides.listen = Some("127.0.0.1:5".to_owned());
    let config = load(&options).unwrap().config;
    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:5".parse().unwrap())]);
    assert_eq!(config.upstreams[0].urls, [UpstreamUrl::Tcp { tls: false, host: "127.0.0.1".to_owned(), port: 4 }]);
    options.overrides.upstream = Some("unix:/b.sock".to_owned());
    let config = load(&options).unwrap().config;
    assert_eq!(config.upstreams, [Upstream::new("app", UpstreamUrl::Unix("/b.sock".into()))]);
}

#[test]
fn problems_of_variables_and_flags_name_them() {
    let shown = |environment: &[(&str, &str)]| check_text(&with_upstream(""), environment).unwrap_err().to_string();
    for (name, value, message) in [
        ("NULLPASS__SERVER__PREFX", "/x", "did you mean NULLPASS__SERVER__PREFIX?"),
        ("NULLPASS__SERVER", "x", "is a section; name one of its keys, such as NULLPASS__SERVER__LISTEN"),
        ("NULLPASS__SERVER__PREFIX__X", "x", "has no keys below it"),
        ("NULLPASS__SERVER__PREFIX", "x", "server.prefix: \"x\" must be plain segments"),
        ("NULLPASS__SERVER__WORKERS", "many", "server.workers: expected a whole number"),
        ("NULLPASS__LOG__ACCESS", "1", "log.access: expected true or false"),
        ("NULLPASS__RULES__0__PATH", "/x", "can only be set in the file"),
        ("NULLPASS__UPSTREAMS__0__URL", "x", "set NULLPASS__UPSTREAM"),
        ("NULLPASS__UPSTREAM", "x", "upstreams[0].url: is not a URL"),
        ("NULLPASS__IDENTITY__HEADERS__X", "x", "can only be set in the file"),
        ("NULLPASS__EMAIL__SMTP", "x", "is not built yet in this release"),
        ("NULLPASS__STORAGE__URL", "mysql://u:hunter2@x", "storage.url: must begin with postgres://"),
        ("NULLPASS__UI__NAME", "a\u{fffd}b", "is not valid UTF-8"),
    ] {
        let shown = shown(&[(name, value)]);
        assert!(shown.starts_with(&format!("{name}: ")) && shown.contains(message) && !shown.contains("hunter2"), "{shown}");
    }
    assert!(check_text(&with_upstream(""), &[("NULLPASS__AUDIT__RETENTION", "365d")]).is_ok());

    let options = LoadOptions {
        file: Some(PathBuf::from("config/nullpass.toml")),
        environment: Vec::new(),
        overrides: Overrides { listen: Some("8080".to_owned()), upstream: Some("ftp://x".to_owned()) },
        ..LoadOptions::default()
    };
    let shown = load(&options).unwrap_err().to_string();
    assert!(shown.contains("--listen: server.listen[0]: \"8080\" is not an address"), "{shown}");
    assert!(shown.contains("--upstream: upstreams[0].url: the scheme \"ftp\" is unknown"), "{shown}");
}

#[test]
fn flags_are_enough_without_a_file() {
    let mut options = options(Some(PathBuf::from("config/nullpass.toml")), &[]);
    assert!(load(&options).unwrap_err().to_string().contains("upstreams: none is configured; give --upstream URL"));
    options.overrides.upstream = Some("http://127.0.0.1:3000".to_owned());
    let loaded = load(&options).unwrap();
    assert_eq!(loaded.config, Config { upstreams: vec![upstream()], ..Config::default() });
    assert_eq!(loaded.sources, [PathBuf::from("config/nullpass.toml")]);
}

#[test]
fn commands_that_forward_nothing_need_no_upstream() {
    let mut options = options(Some(PathBuf::from("config/nullpass.toml")), &[]);
    options.without_upstream = true;
    assert_eq!(load(&options).unwrap().config, Config::default());
    // Everything else still counts.
    options.overrides.listen = Some("8080".to_owned());
    assert!(load(&options).unwrap_err().to_string().starts_with("--listen: "));
}

#[test]
fn the_file_is_the_flag_s_or_the_variable_s_before_any_other() {
    let environment = [("NULLPASS_CONFIG".to_owned(), "/variable.toml".to_owned())];
    assert_eq!(find(Some(std::path::Path::new("/flag.toml")), &environment), Some("/flag.toml".into()));
    assert_eq!(find(None, &environment), Some("/variable.toml".into()));
    // The tests run in the crate's folder, where there is at least the reference file.
    let found = find(None, &[("NULLPASS_CONFIG".to_owned(), String::new())]).unwrap();
    assert!(SEARCHED.iter().any(|path| found.as_os_str() == *path), "{found:?}");
}

// CFG-3: a file that is named and can't be read refuses the start.
#[test]
fn a_file_that_is_missing_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    assert!(load(&options(Some(missing.clone()), &[])).unwrap_err().to_string().contains("can't be read"));
    assert!(load(&options(None, &[("NULLPASS_CONFIG", missing.to_str().unwrap())])).is_err());

    let file = folder.path().join("nullpass.toml");
    for (text, key) in [
        ("[server.tls]\ncert = \"/nonexistent/c\"\nkey = \"/nonexistent/k\"\n", "server.tls.cert"),
        ("[server.tls]\ncert = \"/dev/null\"\nkey = \"/dev/null\"\nclient_ca = \"/nonexistent/ca\"\n", "server.tls.client_ca"),
        ("[storage]\nmaster_key_file = \"/nonexistent/k\"\n", "storage.master_key_file"),
        ("[storage]\nprevious_master_key_file = \"/nonexistent/k\"\n", "storage.previous_master_key_file"),
        (
            "[accounts]\nbootstrap_admin = { email = \"a@b.de\", password_file = \"/nonexistent/p\" }\n",
            "accounts.bootstrap_admin.password_file",
        ),
        (
            "[[upstreams]]\nname = \"b\"\nhost = \"b.de\"\nurl = \"https://b.de\"\ntls = { ca = \"/nonexistent/ca\" }\n",
            "upstreams[0].tls.ca",
        ),
    ] {
        std::fs::write(&file, with_upstream(text)).unwrap();
        let shown = load(&options(Some(file.clone()), &[])).unwrap_err().to_string();
        assert!(shown.contains(&format!("{key}: /nonexistent/")) && shown.contains("can't be read"), "{shown}");
    }
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    std::fs::write(&file, with_upstream("")).unwrap();
    let shown = load(&options(Some(file), &[("NULLPASS__STORAGE__MASTER_KEY_FILE", empty.to_str().unwrap())])).unwrap_err().to_string();
    assert!(shown.contains("it is empty"), "{shown}");
}

const KEY: &str = "3q2+7wABAgMEFicYiNqLz1x0vWk5QmGhUbLhjJ0pK3E=";

#[test]
fn secrets_come_from_files_without_the_line_end() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key, password) = (folder.path().join("n.toml"), folder.path().join("key"), folder.path().join("password"));
    std::fs::write(&key, format!("{KEY}\n")).unwrap();
    std::fs::write(&password, "0123456789 \r\n").unwrap();
    let text = format!(
        "[storage]\nmaster_key_file = {key:?}\n[accounts]\nbootstrap_admin = {{ email = \"A@b.de\", password_file = {password:?} }}\n"
    );
    std::fs::write(&file, with_upstream(&text)).unwrap();
    let loaded = load(&options(Some(file.clone()), &[])).unwrap();
    assert_eq!(loaded.config.storage.master_key.as_ref().unwrap().expose().len(), 32);
    let admin = loaded.config.accounts.bootstrap_admin.unwrap();
    assert_eq!((admin.email.as_str(), admin.password.expose().as_str()), ("a@b.de", "0123456789 "));
    assert_eq!(loaded.sources, [file.clone(), key, password]);

    // A variable holds over the other spelling of its key in the file.
    let loaded = load(&options(Some(file), &[("NULLPASS__ACCOUNTS__BOOTSTRAP_ADMIN__PASSWORD", "00000123")])).unwrap();
    assert_eq!(loaded.config.accounts.bootstrap_admin.unwrap().password.expose(), "00000123");
}

#[test]
fn the_logo_is_read_and_must_be_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (file, logo) = (folder.path().join("n.toml"), folder.path().join("logo"));
    std::fs::write(&file, with_upstream(&format!("[ui]\nlogo = {logo:?}"))).unwrap();
    let load = || load(&options(Some(file.clone()), &[]));
    let refused = |part: &str| {
        let shown = load().unwrap_err().to_string();
        assert!(shown.contains("n.toml:2:1: ui.logo: ") && shown.contains(part), "{shown}");
    };
    refused("can't be read");
    std::fs::write(&logo, "GIF89a").unwrap();
    refused("is no PNG, JPEG, WebP or SVG picture");
    std::fs::write(&logo, vec![b' '; Logo::MAX_BYTES + 2]).unwrap();
    refused("is larger than 64 KiB");
    std::fs::write(&logo, "<svg xmlns=\"http://www.w3.org/2000/svg\"/>").unwrap();
    let loaded = load().unwrap();
    assert_eq!(loaded.config.ui.logo.unwrap().kind, LogoKind::Svg);
    assert_eq!(loaded.sources, [file.clone(), logo], "a changed picture is a changed configuration");
}

#[test]
fn a_secret_is_given_once() {
    refused(&format!("[storage]\nmaster_key = \"{KEY}\"\nmaster_key_file = \"x\""), "storage.master_key", "keep one of them");
    let admin = "[accounts]\nbootstrap_admin = { email = \"a@b.de\", password = \"hunter2hunter2\", password_file = \"x\" }";
    refused(admin, "accounts.bootstrap_admin.password", "keep one of them");
    refused("[accounts]\nbootstrap_admin = { email = \"a@b.de\" }", "accounts.bootstrap_admin.password_file", "is missing");
    refused("[accounts]\nbootstrap_admin = { password = \"hunter2hunter2\" }", "accounts.bootstrap_admin.email", "is missing");
    let short = "[accounts]\nbootstrap_admin = { email = \"a@b.de\", password = \"hunter2\" }";
    refused(short, "accounts.bootstrap_admin.password", "has 7 bytes");
    assert!(!problems(short).contains("hunter2"));
}

// A key that is replaced stands beside the one that replaces it, and nowhere else.
#[test]
fn a_previous_master_key_needs_a_present_one() {
    let other = "3q2+7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs=";
    let with = |more: &str| format!("[storage]\nmaster_key = \"{KEY}\"\n{more}");
    let storage = ok(&with(&format!("previous_master_key = \"{other}\""))).config.storage;
    assert_eq!(storage.previous_master_key.as_ref().unwrap().expose().len(), 32);
    assert_ne!(storage.previous_master_key, storage.master_key);
    assert_eq!(ok(&with("previous_master_key = \"\"")).config.storage.previous_master_key, None);
    refused(&with(&format!("previous_master_key = \"{KEY}\"")), "storage.previous_master_key", "is the same as storage.master_key");
    refused(&format!("[storage]\nprevious_master_key = \"{other}\""), "storage.previous_master_key", "without the key that replaces it");
    refused(&with("previous_master_key = \"AAAA\""), "storage.previous_master_key", "openssl rand -base64 32");
    let both = format!("previous_master_key = \"{other}\"\nprevious_master_key_file = \"x\"");
    refused(&with(&both), "storage.previous_master_key", "keep one of them");
}

// NP-4: a master key that can be guessed does not start, and is not shown.
#[test]
fn a_weak_master_key_is_refused() {
    for weak in ["your-secret-key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "dG9vc2hvcnQ="] {
        refused(&format!("[storage]\nmaster_key = \"{weak}\""), "storage.master_key", "openssl rand -base64 32");
        assert!(!problems(&format!("[storage]\nmaster_key = \"{weak}\"")).contains(weak));
    }
    assert!(ok(&format!("[storage]\nmaster_key = \"{KEY}\"")).config.storage.master_key.is_some());
}

#[test]
fn what_is_shown_holds_no_secret_and_can_be_read_again() {
    let text = format!(
        "[storage]\nmaster_key = \"{KEY}\"\n[accounts]\nbootstrap_admin = {{ email = \"a@b.de\", password = \"hunter2hunter2\" }}\n\
         [[rules]]\npath = \"/a\\\"b\"\npolicy = \"deny\"\n[[upstreams]]\nname = \"b\"\nhost = \"b.de\"\nurl = \"http://b.de\"\n\
         headers = {{ set = {{ Authorization = \"Bearer hunter3\" }} }}\n"
    )
    .replace("/a\\\"b", "/a'b");
    let loaded = ok(&text);
    let shown = effective(&loaded.raw);
    for secret in [KEY, "hunter2", "hunter3"] {
        assert!(!shown.contains(secret) && !format!("{loaded:?}").contains(secret), "{secret}: {shown}");
    }
    assert!(shown.contains("master_key = \"<redacted>\"") && shown.contains("Authorization\" = \"<redacted>\""), "{shown}");

    let plain =
        ok("[server]\nhttp2 = { max_streams = 9 }\n[ui]\nname = \"a \\\"b\\\" \\\\ c\"\n[[rules]]\npath = \"/a\"\npolicy = \"public\"");
    let again = check_text(&effective(&plain.raw), &[]).unwrap_or_else(|problems| panic!("{}\n{problems}", effective(&plain.raw)));
    assert_eq!(again.config, plain.config);
}

// --- what several values may not say together ---

#[test]
fn upstreams() {
    assert!(check_text("", &[]).unwrap_err().to_string().starts_with("upstreams: none is configured"));
    let second = |text: &str| format!("[[upstreams]]\nname = \"b\"\nhost = \"b.de\"\nurl = \"http://b.de\"\n{text}");
    assert_eq!(ok(&second("path = \"/x\"\nstrip_path = true")).config.upstreams.len(), 2);
    refused(&second("").replace("\"b\"", "\"app\""), "upstreams[1].name", "is taken by another upstream");
    refused(&second("").replace("host = \"b.de\"\n", ""), "upstreams[1].path", "served by \"b\" already");
    refused(&second("path = \"/x/\""), "upstreams[0].path", "write \"/x\"");
    refused(&second("path = \"/_auth/x\""), "upstreams[0].path", "which nullpass serves itself");
    refused(&second("strip_path = true"), "upstreams[0].strip_path", "nothing to cut off");
    refused(&second("urls = [\"http://c.de\"]"), "upstreams[0].urls", "is given beside url");
    let urls = |urls: &str| second("").replace("url = \"http://b.de\"", &format!("urls = {urls}"));
    let two = ok(&urls("[\"http://c.de\", \"https://d.de\", \"unix:/a.sock\"]"));
    assert_eq!(two.config.upstreams[0].urls.len(), 3);
    refused(&urls("[]"), "upstreams[0].urls", "is empty");
    refused(&urls("[\"http://c.de\", \"http://C.de:80/\"]"), "upstreams[0].urls[1]", "named twice");
    refused(&urls("[\"http://c.de\", \"ftp://d.de\"]"), "upstreams[0].urls[1]", "is unknown");
    refused(&urls("[\"http://c.de\", \"http://127.0.0.1:8080\"]"), "upstreams[0].urls[1]", "is an address of server.listen");
    let tls = "\ntls = { insecure = true }";
    refused(&(urls("[\"http://c.de\", \"unix:/a.sock\"]") + tls), "upstreams[0].tls", "none of the urls is https");
    ok(&(urls("[\"http://c.de\", \"https://d.de\"]") + tls));
    assert!(check_text("[[upstreams]]\nurls = [\"http://c.de\"]", &[]).is_ok());
    let plain = ok(&second("").replace("http://b.de", "h2c://b.de:50051"));
    assert_eq!(plain.config.upstreams[0].urls, [UpstreamUrl::H2c { host: "b.de".to_owned(), port: 50051 }]);
    refused(&second("tls = { server_name = \"x\" }").replace("http://b.de", "h2c://b.de"), "upstreams[0].tls", "has no effect");
    refused(&second("").replace("http://b.de", "h2://b.de"), "upstreams[0].url", "h2c://");
    refused(&second("").replace("http://b.de", "http://u:hunter2@b.de"), "upstreams[0].url", "a user or a password");
    refused(&second("health = { path = \"/h\", interval = \"10ms\" }"), "upstreams[0].health.interval", "out of range");
    let probed = ok(&second("health = { path = \"/h\", interval = \"10s\" }"));
    assert_eq!(probed.config.upstreams[0].health_interval, Some(Duration::from_secs(10)));
    assert_eq!(ok(&second("health = { path = \"/h?x=1\" }")).config.upstreams[0].health_path.as_deref(), Some("/h?x=1"));
    refused(&second("health = { path = \"h\" }"), "upstreams[0].health.path", "is not a path");
    refused(&second("tls = { insecure = true }"), "upstreams[0].tls", "is https");
    let https = second("tls = { insecure = true }").replace("http:", "https:");
    assert_eq!(ok(&https).dangers, ["upstreams[0].tls.insecure = true: any certificate is taken for the upstream's"]);
    refused(&https.replace("true", "true, server_name = \"x.de\""), "upstreams[0].tls.insecure", "keep one or the other");
    refused(&https.replace("insecure = true", "cert = \"x\""), "upstreams[0].tls.key", "needs both cert and key");
    refused(&second("preset = \"remotes\""), "upstreams[0].preset", "did you mean \"remote\"?");
    for name in ["Host", "Connection", "Transfer-Encoding", "X_Forwarded_User", "Remote-Groups", "x y"] {
        refused(&second(&format!("headers = {{ set = {{ \"{name}\" = \"x\" }} }}")), &format!("upstreams[0].headers.set.{name}"), "");
    }
    refused(&second("headers = { set = { \"X-A\" = \"hunter2\\r\\nX: y\" } }"), "upstreams[0].headers.set.X-A", "control characters");
    refused(&second("headers = { set = { \"X-A\" = \"x\" }, remove = [\"x-a\"] }"), "upstreams[0].headers", "both set and removed");
    refused(&second("headers = { remove = [\"Host\"] }"), "upstreams[0].headers.remove[0]", "frames the message");
    let tenant = "[identity]\nheaders = { X-Tenant = \"attr.t\" }\n";
    refused(&format!("{tenant}{}", second("headers = { set = { X_Tenant = \"x\" } }")), "upstreams[0].headers", "who the person is");
}

#[test]
fn an_upstream_is_not_nullpass_itself() {
    for url in ["http://127.0.0.1:8080", "http://localhost:8080", "https://127.0.0.1:8080"] {
        let shown = check_text(&format!("[[upstreams]]\nurl = \"{url}\""), &[]).unwrap_err().to_string();
        assert!(shown.contains("upstreams[0].url: is an address of server.listen"), "{shown}");
    }
    for url in ["http://127.0.0.1:8081", "http://127.0.0.2:8080", "http://app:8080", "unix:/a.sock"] {
        check_text(&format!("[[upstreams]]\nurl = \"{url}\""), &[]).unwrap();
    }
}

#[test]
fn one_mistake_is_one_problem() {
    for text in [
        "[tokens]\nttl = \"60d\"\n[sessions]\nmax_lifetime = \"9Od\"",
        "[accounts]\nargon2 = { memory = \"64M\", iterations = 1 }",
        "[accounts]\npassword = { min_length = 100, max_length = 2000 }",
        "[limits]\naccount_backoff = { base = \"1h\", max = \"1 h\" }",
        "[server]\nlisten = [\"0.0.0.0:1\"]\npublic_url = \"app.example\"",
        "[server]\nlisten = [\"0.0.0.0:1\"]\ntls = { certs = \"c\", key = \"k\" }",
        "[[rules]]\nmethods = [\"get\"]\npolicy = \"deny\"\n[[rules]]\npath = \"/a\"\npolicy = \"public\"",
        "[[rules]]\npath = \"a\"\npolicy = \"deny\"\n[[rules]]\npath = \"/a\"\npolicy = \"public\"",
        "[[upstreams]]\nname = \"b\"\npath = \"b\"\nurl = \"http://b.de\"",
        "[[upstreams]]\nname = \"b c\"\nhost = \"b.de\"\npath = \"/b\"\nurl = \"http://b.de\"",
        "[[upstreams]]\nname = \"b\"\npath = \"/b\"\nurl = \"b.de\"\ntls = { server_name = \"b\" }",
    ] {
        let shown = problems(text);
        assert_eq!(shown.lines().count(), 1, "{text}\n{shown}");
    }
}

#[test]
fn listeners_that_others_can_reach_speak_tls() {
    for address in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80"] {
        let listen = format!("[server]\nlisten = [\"127.0.0.1:1\", \"{address}\"]\n");
        refused(&listen, "server.listen[1]", "plain HTTP");
        refused(&format!("{listen}public_url = \"http://app.example\""), "server.listen[1]", "plain HTTP");
        assert!(ok(&format!("{listen}public_url = \"https://app.example\"")).dangers.is_empty());
        assert!(ok(&format!("{listen}tls = {{ cert = \"c\", key = \"k\" }}")).dangers.is_empty());
        assert_eq!(ok(&format!("{listen}danger_plain_http = true")).dangers.len(), 1);
    }
    for address in ["127.0.0.2:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080", "unix:/run/a.sock"] {
        ok(&format!("[server]\nlisten = [\"{address}\"]\n"));
    }
    refused("[server]\nlisten = []", "server.listen", "is empty");
    refused("[server]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "server.listen[1]", "given twice");
    refused("[server]\nlisten = [\"127.0.0.1:9090\"]", "admin.listen", "is taken by server.listen");
    refused("[server.tls]\ncert = \"x\"", "server.tls.key", "needs both cert and key");
    refused("[server.tls]", "server.tls.cert", "needs both cert and key");
    refused("[server]\npublic_url = \"http://a.de\"\ntls = { cert = \"c\", key = \"k\" }", "server.public_url", "write https");
    let more = ok("[server.tls]\ncert = \"a\"\nkey = \"b\"\nmore = [{ cert = \"c\", key = \"d\" }]").config.server.tls.unwrap();
    assert_eq!(more.certificates.len(), 2);
    assert_eq!(more.certificates[1], CertificateFiles { cert: "c".into(), key: "d".into() });
    assert_eq!(ok("[admin]\nlisten = \"\"").config.admin.listen, None);
}

#[test]
fn tls_takes_acme_client_certificates_and_a_redirect() {
    let tls = |text: &str| ok(&format!("[server]\npublic_url = \"https://a.de\"\n[server.tls]\n{text}")).config.server.tls.unwrap();
    let files = "cert = \"c\"\nkey = \"k\"\n";
    let acme = tls("acme = { domains = [\"A.de\"] }");
    assert!(acme.certificates.is_empty());
    let acme = acme.acme.unwrap();
    assert_eq!((acme.domains, acme.cache, acme.contact, acme.directory_ca), (vec!["a.de".to_owned()], "acme".into(), None, None));
    assert_eq!(acme.directory.as_str(), "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!(tls(&format!("{files}acme = {{ domains = [\"a.de\"], contact = \"mailto:a@b.de\" }}")).certificates.len(), 1);
    for (acme, key) in [
        ("{}", "server.tls.acme.domains"),
        ("{ domains = [\"*.a.de\"] }", "server.tls.acme.domains[0]"),
        ("{ domains = [\"192.0.2.1\"] }", "server.tls.acme.domains[0]"),
        ("{ domains = [\"a.de\"], contact = \"ops@a.de\" }", "server.tls.acme.contact"),
        ("{ domains = [\"a.de\"], directory = \"http://ca.de/\" }", "server.tls.acme.directory"),
    ] {
        refused(&format!("[server.tls]\nacme = {acme}"), key, "");
    }

    assert!(tls(&format!("{files}client_ca = \"ca\"")).client.unwrap().required);
    assert!(!tls(&format!("{files}client_ca = \"ca\"\nclient_cert = \"optional\"")).client.unwrap().required);
    refused(&format!("[server.tls]\n{files}client_cert = \"required\""), "server.tls.client_cert", "without client_ca");
    refused(&format!("[server.tls]\n{files}client_ca = \"c\"\nclient_cert = \"no\""), "server.tls.client_cert", "is unknown");

    let redirect = format!("[server.tls]\n{files}http_redirect = \"0.0.0.0:80\"");
    assert_eq!(tls(&redirect.replace("[server.tls]\n", "")).http_redirect, Some("0.0.0.0:80".parse().unwrap()));
    let listen = "[server]\nallowed_hosts = [\"a.de\"]\nlisten = [\"0.0.0.0:80\"]\n";
    refused(&format!("{listen}{redirect}"), "server.tls.http_redirect", "taken by server.listen");
    refused(
        &format!("[server]\nallowed_hosts = [\"a.de\"]\n{}", redirect.replace("0.0.0.0:80", "80")),
        "server.tls.http_redirect",
        "not an address",
    );
    let admin = "[admin]\nlisten = \"127.0.0.1:80\"\n[server]\nallowed_hosts = [\"a.de\"]\n";
    refused(&format!("{admin}{redirect}"), "admin.listen", "taken by server.tls.http_redirect");
}

#[test]
fn hsts_is_a_duration_or_off() {
    assert_eq!(ok("").config.server.hsts, Some(Duration::from_hours(365 * 24)));
    assert_eq!(ok("[server]\nhsts = \"\"").config.server.hsts, None);
    assert_eq!(ok("[server]\nhsts = \"30d\"").config.server.hsts, Some(Duration::from_hours(30 * 24)));
    refused("[server]\nhsts = \"1h\"", "server.hsts", "out of range");
}

#[test]
fn public_urls_and_prefixes() {
    for bad in ["app.example", "ftp://a.de", "https://a.de/x", "https://a.de/?x", "https://u:hunter2@a.de", "https://a.de/#x"] {
        refused(&format!("[server]\npublic_url = \"{bad}\""), "server.public_url", "");
    }
    for bad in ["", "/", "_auth", "/_auth/", "/a//b", "/a/..", "/a b", "/a%20b"] {
        refused(&format!("[server]\nprefix = \"{bad}\""), "server.prefix", "plain segments");
    }
    assert!(ok("[server]\npublic_url = \"https://App.Example:8443/\"").config.server.is_https());
}

// FWD-1: nobody is trusted by default, and nobody can trust everybody.
#[test]
fn trusting_everybody_is_refused() {
    assert!(Config::default().server.trusted_proxies.is_empty());
    for bad in ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "8000::/1", "::ffff:0:0/96", "10.0.0.0/7"] {
        refused(&format!("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"{bad}\"]"), "server.trusted_proxies[1]", "nearly everybody");
    }
    let trusted = ok("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"fc00::/7\", \"192.0.2.1\", \"::1\"]").config.server.trusted_proxies;
    assert_eq!(trusted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "fc00::/7", "192.0.2.1/32", "::1/128"]);
}

// CFG-1: a rule's key that is unknown, or that changes nothing, refuses the start.
#[test]
fn rules_without_effect_are_refused() {
    let rule = |text: &str| format!("[[rules]]\npath = \"/a/**\"\n{text}\n");
    refused(&rule("policy = \"authenticated\"\ngroup = [\"x\"]"), "rules[0].group", "did you mean `groups`?");
    for policy in ["public", "deny"] {
        for (key, value) in [
            ("groups", "[\"x\"]"),
            ("users", "[\"a@b.de\"]"),
            ("max_auth_age", "\"1m\""),
            ("basic", "true"),
            ("danger_shared_cache", "true"),
        ] {
            refused(&rule(&format!("policy = \"{policy}\"\n{key} = {value}")), &format!("rules[0].{key}"), "has no effect");
            ok(&rule(&format!("policy = \"two_factor\"\n{key} = {value}")));
        }
    }
    refused(&rule("policy = \"deny\"\ncross_site = true"), "rules[0].cross_site", "has no effect");
    ok(&rule("policy = \"public\"\ncross_site = true\nbasic = false\nmax_auth_age = \"\""));
    refused(&rule(""), "rules[0].policy", "says nothing else");
    refused("[[rules]]\npath = \"/_auth/admin/**\"\npolicy = \"deny\"", "rules[0].path", "own routes");
    refused("[[rules]]\npath = \"admin\"\npolicy = \"deny\"", "rules[0].path", "must begin with");
    refused("[[rules]]\npath = \"/a?b\"\npolicy = \"deny\"", "rules[0].path", "never the query");
    refused(&rule("policy = \"pubic\""), "rules[0].policy", "did you mean \"public\"?");
    refused(&rule("policy = \"deny\"\nmethods = [\"get\"]"), "rules[0].methods[0]", "write \"GET\"");
    refused(&rule("policy = \"deny\"\nnetworks = [\"10\"]"), "rules[0].networks[0]", "is not a network");
    refused(&rule("groups = [\"a,b\"]"), "rules[0].groups[0]", "must be 1 to 64 bytes");
    refused(&rule("users = [\"root\"]"), "rules[0].users[0]", "is not a valid e-mail address");
}

// CFG-1: a rule that an earlier one always forestalls refuses the start.
#[test]
fn shadowed_rules_are_refused() {
    let rules = |first: &str, second: &str| format!("[[rules]]\n{first}\n[[rules]]\n{second}\n");
    for first in ["policy = \"public\"", "path = \"/**\"\npolicy = \"authenticated\""] {
        refused(&rules(first, "path = \"/admin\"\npolicy = \"deny\""), "rules[1]", "is never reached, since rules[0]");
        ok(&rules(&format!("{first}\nmethods = [\"GET\"]"), "path = \"/admin\"\npolicy = \"deny\""));
        ok(&rules(&format!("{first}\nnetworks = [\"10.0.0.0/8\"]"), "path = \"/admin\"\npolicy = \"deny\""));
        ok(&rules(&format!("{first}\nhost = \"a.de\""), "path = \"/admin\"\npolicy = \"deny\""));
        ok(&rules("path = \"/admin\"\npolicy = \"deny\"", first));
    }
    refused(&rules("path = \"/a\"\ngroups = [\"x\"]", "path = \"/a\"\ngroups = [\"y\"]"), "rules[1]", "is never reached");
    // A public rule takes the exact case alone.
    ok(&rules("path = \"/a\"\npolicy = \"public\"", "path = \"/a\"\npolicy = \"deny\""));
}

// CFG-2: there is no form of a rule whose miss means "open".
#[test]
fn no_rule_opens_by_missing() {
    for key in ["methods", "networks", "groups", "users"] {
        refused(&format!("[[rules]]\npath = \"/a\"\npolicy = \"authenticated\"\n{key} = []"), &format!("rules[0].{key}"), "is empty");
    }
    refused("default_policy = \"public\"", "default_policy", "would leave open whatever no rule names");
    let access = |text: &str| ok(text).config.rules[0].access;
    assert_eq!(access("[[rules]]\ngroups = [\"x\"]"), Access::Authenticated);
    assert_eq!(access("default_policy = \"two_factor\"\n[[rules]]\ngroups = [\"x\"]"), Access::TwoFactor);
    assert_eq!(access("default_policy = \"deny\"\n[[rules]]\ngroups = [\"x\"]"), Access::Authenticated);
}

#[test]
fn identity() {
    for name in
        ["Host", "host", "Connection", "Cookie", "Authorization", "X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-User", "Te", "Sec-X"]
    {
        refused(&format!("[identity]\nheaders = {{ \"{name}\" = \"email\" }}"), &format!("identity.headers.{name}"), "");
        refused(&format!("[identity]\nassertion = {{ header = \"{name}\" }}"), "identity.assertion.header", "");
    }
    refused("[identity]\nheaders = { \"X A\" = \"email\" }", "identity.headers.X A", "not a header's name");
    refused("[identity]\nheaders = { \"X-A\" = \"emial\" }", "identity.headers.X-A", "did you mean \"email\"?");
    refused("[identity]\nheaders = { \"X-A\" = \"attr.\" }", "identity.headers.X-A", "must name an attribute");
    refused("[identity]\nheaders = { \"X-A\" = \"id\", \"x_a\" = \"id\" }", "identity.headers.x_a", "the same header");
    refused("[identity]\nheaders = { \"X-A\" = \"assertion\" }", "identity.headers.X-A", "which is off");
    assert_eq!(ok("[identity]\nassertion = {}").config.identity.assertion, Some(Assertion::default()));
    for good in [",", ";", "|"] {
        ok(&format!("[identity]\ngroups_separator = \"{good}\""));
    }
    for bad in ["", "a", ", ", " ", "-", ":", "/", "%", "\\n", "ä"] {
        refused(&format!("[identity]\ngroups_separator = \"{bad}\""), "identity.groups_separator", "one character");
    }
}

#[test]
fn registration() {
    let open = ok("[accounts]\nregistration = \"open\"");
    assert_eq!(open.dangers.len(), 1);
    refused("[accounts]\nregistration = \"open\"\nallowed_domains = [\"a.de\"]", "accounts.allowed_domains", "has no effect");
    let domains = "[accounts]\nregistration = \"domains\"\nallowed_domains = [\"A.de\"]\n";
    refused(domains, "accounts.registration", "danger_unverified_addresses = true");
    let accepted = ok(&format!("{domains}danger_unverified_addresses = true"));
    assert_eq!(accepted.config.accounts.allowed_domains, ["a.de"]);
    assert_eq!(accepted.dangers.len(), 1);
    refused("[accounts]\nregistration = \"domains\"\ndanger_unverified_addresses = true", "accounts.allowed_domains", "is empty");
    refused("[accounts]\nallowed_domains = [\"@a.de\"]", "accounts.allowed_domains[0]", "write \"a.de\"");
}

#[test]
fn argon2_has_a_floor() {
    let argon2 = |memory: &str, iterations: u32| format!("[accounts]\nargon2 = {{ memory = \"{memory}\", iterations = {iterations} }}");
    for (memory, iterations) in [("46MiB", 1), ("19MiB", 2), ("12MiB", 3), ("9MiB", 4), ("7MiB", 5), ("64MiB", 3)] {
        ok(&argon2(memory, iterations));
    }
    for (memory, iterations) in [("45MiB", 1), ("18MiB", 2), ("11MiB", 3), ("8MiB", 4), ("6MiB", 50), ("19MB", 2)] {
        refused(&argon2(memory, iterations), "accounts.argon2", "cheaper");
    }
    refused(&argon2("8GiB", 2), "accounts.argon2.memory", "out of range");
    refused(&argon2("19MiB", 0), "accounts.argon2.iterations", "out of range");
}

#[test]
fn sessions_tokens_and_limits() {
    refused("[tokens]\nttl = \"31d\"", "tokens.ttl", "longer than sessions.max_lifetime, 30d");
    refused("[tokens]\nleeway = \"61s\"", "tokens.leeway", "accepted: 0s to 1m");
    refused("[tokens]\nalgorithm = \"none\"", "tokens.algorithm", "would let everybody in");
    refused("[sessions]\ncookie = { name = \"sid\" }", "sessions.cookie.name", "must begin with \"nullpass\"");
    refused("[sessions]\ncookie = { name = \"nullpass;x\" }", "sessions.cookie.name", "letters, digits");
    refused("[sessions]\ncookie = { same_site = \"None\" }", "sessions.cookie.same_site", "needs https");
    let public = "[server]\npublic_url = \"https://app.example.com\"\n";
    ok(&format!("{public}[sessions]\ncookie = {{ same_site = \"None\", domain = \"example.com\", name = \"nullpass-x\" }}"));
    for bad in ["com", "ample.com", "other.com", "x.app.example.com"] {
        refused(&format!("{public}[sessions]\ncookie = {{ domain = \"{bad}\" }}"), "sessions.cookie.domain", "");
    }
    refused("[sessions]\ncookie = { domain = \"example.com\" }", "sessions.cookie.domain", "needs server.public_url");
    refused("[sessions]\nidle_timeout = \"0s\"", "sessions.idle_timeout", "out of range");
    assert_eq!(ok("[sessions]\nstale_ttl = \"0s\"\nmax_per_user = 3").config.sessions.max_per_user, Some(3));
    refused("[two_factor]\nskew = 3", "two_factor.skew", "accepted: 0 to 2");
    refused("[two_factor]\nissuer = \"a:b\"", "two_factor.issuer", "colon");
    refused("[accounts]\npassword = { min_length = 7 }", "accounts.password.min_length", "accepted: 8 to 1024");
    refused("[accounts]\npassword = { min_length = 100, max_length = 64 }", "accounts.password.min_length", "no password would do");
    refused("[limits]\naccount_backoff = { base = \"1h\" }", "limits.account_backoff.base", "longer than max");
    let limits = ok("[limits]\nauth_per_ip = \"\"\nrequests_per_ip = \"100/s\"\nmax_body = \"1MiB\"");
    assert_eq!(limits.config.limits.requests_per_ip, Some(Rate { count: 100, per: Duration::from_secs(1) }));
    assert_eq!(limits.config.limits.max_body, Some(1 << 20));
    assert_eq!(limits.dangers.len(), 1);
    refused("[ui]\naccent = \"red\"", "ui.accent", "is not a colour");
    refused("[ui]\ndefault_locale = \"de-AT\"", "ui.default_locale", "accepted: \"en\", \"de\", \"fr\"");
    assert_eq!(ok("[ui]\ndefault_locale = \"ja\"").config.ui.default_locale, "ja");
    refused("[log]\nlevel = \"warning\"", "log.level", "did you mean \"warn\"?");
}

#[test]
fn proxy_lines_need_somebody_to_believe() {
    refused("[server]\nproxy_protocol = true", "server.proxy_protocol", "trusted_proxies is empty");
    assert!(ok("[server]\nproxy_protocol = true\ntrusted_proxies = [\"10.0.0.1\"]").config.server.proxy_protocol);
    assert!(ok("[server]\nproxy_protocol = true\nlisten = [\"unix:/run/a.sock\"]").config.server.proxy_protocol);
    assert!(!ok("").config.server.proxy_protocol);
}

#[test]
fn what_is_not_built_is_refused_unless_it_is_the_default() {
    for (text, key) in [
        ("[accounts]\nregistration = \"invite\"", "accounts.registration"),
        ("[accounts]\nregistration = \"approval\"", "accounts.registration"),
        ("[accounts]\nverify_email = true", "accounts.verify_email"),
        ("[email]\nsmtp = \"smtps://x\"", "email"),
        ("[telemetry]\notlp = \"http://x\"", "telemetry.otlp"),
    ] {
        refused(text, key, "not built yet in this release");
    }
    ok("[server]\nproxy_protocol = false\n[accounts]\nverify_email = false\n\
        [audit]\nrequired = false\nretention = \"365d\"\n[ui]\nlogo = \"\"\ndefault_locale = \"en\"\n[telemetry]\notlp = \"\"");
}

#[test]
fn a_database_is_named_and_its_key_is_given() {
    const KEY: &str = "gYn0PJrNnJm7Gk3mOqY0rTtC7m5C1q2rJ8bXzv3wQxE=";
    let with = |more: &str| format!("[storage]\nbackend = \"postgres\"\nmaster_key = \"{KEY}\"\n{more}");
    let loaded = ok(&with("url = \"postgres://u:hunter2@localhost/db\"\nschema = \"app_1\"\npool = 3"));
    let settings = loaded.config.storage.postgres.as_ref().unwrap();
    assert_eq!(loaded.config.storage.backend, Backend::Postgres);
    assert_eq!((settings.database.as_str(), settings.schema.as_str(), settings.pool), ("db", "app_1", 3));
    assert!(loaded.dangers.is_empty());
    assert!(!effective(&loaded.raw).contains("hunter2") && !format!("{:?}", loaded.config).contains("hunter2"));

    refused(&with(""), "storage.url", "is missing: write postgres://");
    refused("[storage]\nbackend = \"postgres\"\nurl = \"postgres://u@localhost\"", "storage.master_key", "every process that shares it");
    refused(&with("url = \"postgres://localhost/db\""), "storage.url", "names no user");
    refused(&with("url = \"postgres://u@h\"\nurl_file = \"x\""), "storage.url", "keep one of them");
    refused(&with("url = \"postgres://u@h\"\npool = 0"), "storage.pool", "accepted: 1 to 1000");
    for schema in ["", "Nullpass", "a-b", "1a", "a\\\"b", "pg_x", "information_schema", &"x".repeat(49)] {
        refused(&with(&format!("url = \"postgres://u@h\"\nschema = \"{schema}\"")), "storage.schema", "");
    }
    assert!(!problems(&with("url = \"postgres://u:hunter2@h:x/d\"")).contains("hunter2"));
    let weak = ok(&with("url = \"postgres://u:hunter2@db.example/d?sslmode=require\""));
    assert_eq!(weak.dangers.len(), 1);
    assert!(weak.dangers[0].contains("sslmode=require") && !weak.dangers[0].contains("hunter2"));

    // A state can be carried to a database that is named and not used yet.
    let both = ok("[storage]\nurl = \"postgres://u@db.example?sslmode=disable\"");
    assert_eq!(both.config.storage.backend, Backend::Sled);
    assert!(both.config.storage.postgres.is_some() && both.dangers.is_empty());
}

// --- anything at all ---

/// A value of any kind, or one that looks nearly right, as TOML.
fn value() -> impl Strategy<Value = String> {
    let texts = prop::sample::select(vec![
        "",
        "/",
        "/a",
        "/**",
        "*",
        "7d",
        "0s",
        "1MiB",
        "30/m",
        "0.0.0.0:1",
        "[::]:1",
        "unix:/a",
        "http://a",
        "https://[::1]:0",
        "10.0.0.0/8",
        "::/0",
        "open",
        "domains",
        "public",
        "deny",
        "None",
        "a@b.de",
        "attr.x",
        "X-A",
        "é",
        "\u{202e}",
        "*.a.de",
        "nullpass",
    ]);
    let text = prop_oneof![texts.prop_map(str::to_owned), "[ -~é\\n]{0,12}"].prop_map(|text| effective::quoted(&text));
    let scalar = prop_oneof![
        4 => text.clone(),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<bool>().prop_map(|value| value.to_string()),
        1 => Just("1.5".to_owned()),
    ];
    prop_oneof![
        4 => scalar.clone(),
        2 => prop::collection::vec(scalar.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(", "))),
        1 => scalar.prop_map(|value| format!("{{ \"X-A\" = {value}, name = \"x\" }}")),
    ]
}

/// Assignments to keys of `keys`, some of them misspelt.
fn table(keys: &'static [Key], depth: usize) -> BoxedStrategy<Vec<(String, String)>> {
    let one = prop::sample::select(keys.iter().collect::<Vec<_>>()).prop_flat_map(move |key| {
        let name = key.name.to_owned();
        match key.children() {
            Some(children) if depth > 0 => {
                let tables = matches!(key.kind, Kind::Tables(_));
                table(children, depth - 1)
                    .prop_map(move |pairs| {
                        let inner = pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ");
                        (name.clone(), if tables { format!("[{{ {inner} }}]") } else { format!("{{ {inner} }}") })
                    })
                    .boxed()
            }
            _ => value().prop_map(move |value| (name.clone(), value)).boxed(),
        }
    });
    prop::collection::vec(one, 0..6)
        .prop_map(|mut pairs| {
            pairs.sort();
            pairs.dedup_by(|a, b| a.0 == b.0);
            pairs
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_panics_and_every_problem_has_a_place(pairs in table(SCHEMA, 3)) {
        let text = pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join("\n");
        prop_assert!(toml_edit::Document::parse(text.as_str()).is_ok(), "{}", text);
        if let Err(problems) = check_text(&text, &[]) {
            for problem in problems.0 {
                let missing = matches!(problem.key.as_str(), "upstreams" | "admin.listen");
                prop_assert!(missing || matches!(problem.place, Place::File { .. }), "{}\n{}", text, problem);
            }
        } else {
            let raw = check_text(&text, &[]).unwrap().raw;
            prop_assert!(toml_edit::Document::parse(effective(&raw).as_str()).is_ok());
        }
    }

    #[test]
    fn no_text_and_no_variable_panics(text in "[\\[\\]a-z_=\"# \n{}.,0-9]{0,80}", name in "[A-Z_]{0,20}", value in ".{0,20}") {
        // No such text has an upstream, so that there is always something to say.
        let problems = check_text(&text, &[(&format!("NULLPASS__{name}"), &value)]).unwrap_err();
        prop_assert!(problems.0.iter().all(|problem| !problem.message.is_empty()) && !problems.0.is_empty());
    }
}
