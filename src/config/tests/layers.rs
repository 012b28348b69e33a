//! Files, variables and flags, and which of them holds.

use super::*;

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
