//! What values may be, alone and together.

use super::*;

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

#[test]
fn a_rule_made_by_hand_has_the_defaults() {
    let loaded = ok("[[rules]]\npath = \"/a/**\"\npolicy = \"deny\"");
    assert_eq!(loaded.config.rules, [Rule::new("rules[0] \"/a/**\"", "/a/**", Access::Deny)]);
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
