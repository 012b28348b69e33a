//! Where a problem is, and what to write instead.

use super::*;

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
