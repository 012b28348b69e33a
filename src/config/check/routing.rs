//! `[[upstreams]]` and `[[rules]]`: where requests go and who may send them. A rule that can never matter, or a key that
//! changes nothing in its rule, is an error: whoever wrote it believes in a protection that is not there (CFG-1).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::units::LONGEST;
use super::super::{Access, Listen, Preset, Rule, Server, Upstream, UpstreamTls, UpstreamUrl, raw};
use super::identity::PRESETS;
use super::server::{certificate, clash};
use super::{Checker, Choice, text};
use crate::model::{Email, Group};

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);

/// What a plain path's segment may hold besides the unreserved characters, without the `;` of path parameters.
const PATH_EXTRA: &str = "!$&'()*+,=:@";

/// `[[upstreams]]`.
pub(super) fn upstreams(c: &mut Checker<'_>, raw: &[raw::Upstream], server: &Server) -> Vec<Upstream> {
    if raw.is_empty() {
        c.fail(
            "upstreams",
            "none is configured; give --upstream URL, set NULLPASS__UPSTREAM, or add [[upstreams]] with a url such as \"http://127.0.0.1:3000\"",
        );
    }
    let mut upstreams: Vec<Upstream> = Vec::new();
    // What can be compared: a default that stands in for something wrong is not.
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut routes: Vec<usize> = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let at = |name: &str| format!("upstreams[{index}].{name}");
        let upstream = upstream(c, raw, &format!("upstreams[{index}]"), server);
        if c.sound(&[&at("name")]) && !names.insert(upstream.name.clone()) {
            c.fail(&at("name"), format!("{:?} is taken by another upstream; each needs a name of its own", upstream.name));
        }
        if c.sound(&[&at("path"), &at("host")]) {
            if let Some(earlier) = routes.iter().filter_map(|index| upstreams.get(*index)).find(|earlier| same_route(earlier, &upstream)) {
                let name = &earlier.name;
                c.fail(
                    &at("path"),
                    format!("the same host and path are served by {name:?} already; give one of them another host or path"),
                );
            }
            routes.push(index);
        }
        upstreams.push(upstream);
    }
    upstreams
}

fn same_route(a: &Upstream, b: &Upstream) -> bool {
    a.host == b.host && a.path == b.path
}

fn upstream(c: &mut Checker<'_>, raw: &raw::Upstream, key: &str, server: &Server) -> Upstream {
    let at = |name: &str| format!("{key}.{name}");
    let default = Upstream::new("app", UpstreamUrl::Unix("/".into()));
    let urls = upstream_urls(c, raw, key, server);
    let path =
        c.text(&at("path"), raw.path.as_ref(), "/", |path| if path == "/" { Ok("/".to_owned()) } else { text::prefix(path, PATH_EXTRA) });
    if is_within(&path, &server.prefix) {
        c.fail(&at("path"), format!("lies below server.prefix, {:?}, which nullpass serves itself", server.prefix));
    }
    let strip_path = raw.strip_path.unwrap_or(default.strip_path);
    if strip_path && path == "/" && c.sound(&[&at("path")]) {
        c.fail(&at("strip_path"), "has nothing to cut off, since path is \"/\"; set path or leave it out");
    }
    let set = raw.headers.as_ref().and_then(|headers| headers.set.as_ref());
    let remove = raw.headers.as_ref().and_then(|headers| headers.remove.as_ref());
    Upstream {
        name: c.text(&at("name"), raw.name.as_ref(), &default.name, |name| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            let fits = (1..=64).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != "..";
            if fits { Ok(name.to_owned()) } else { Err(format!("{name:?} must be 1 to 64 letters, digits, -, _ and .")) }
        }),
        tls: upstream_tls(c, raw.tls.as_ref(), &at("tls"), &urls),
        urls: if urls.is_empty() { default.urls } else { urls },
        host: c.optional(&at("host"), raw.host.as_ref(), |host| text::host(host, true)),
        path,
        strip_path,
        rewrite: raw.rewrite.unwrap_or(default.rewrite),
        max_connections: c.integer(&at("max_connections"), raw.max_connections, default.max_connections, 1..=100_000),
        pass_host: raw.pass_host.unwrap_or(default.pass_host),
        connect_timeout: c.duration(&at("connect_timeout"), raw.connect_timeout.as_ref(), default.connect_timeout, MILLI..=HOUR),
        response_timeout: c.duration(&at("response_timeout"), raw.response_timeout.as_ref(), default.response_timeout, MILLI..=24 * HOUR),
        stream_idle_timeout: c.duration(
            &at("stream_idle_timeout"),
            raw.stream_idle_timeout.as_ref(),
            default.stream_idle_timeout,
            MILLI..=LONGEST,
        ),
        retries: c.integer(&at("retries"), raw.retries, default.retries, 0..=10),
        health_path: c.optional(&at("health.path"), raw.health.as_ref().and_then(|health| health.path.as_ref()), health_path),
        health_interval: c.optional_duration(
            &at("health.interval"),
            raw.health.as_ref().and_then(|health| health.interval.as_ref()),
            1000 * MILLI..=HOUR,
        ),
        preset: preset(c, &at("preset"), raw.preset.as_ref()),
        set_headers: super::identity::set_headers(c, &at("headers.set"), set),
        remove_headers: c.each(&at("headers.remove"), remove, super::identity::removable),
    }
}

/// Whether the upstream would be nullpass itself.
fn is_same(url: &UpstreamUrl, listen: &Listen) -> bool {
    match (url, listen) {
        (UpstreamUrl::Unix(path) | UpstreamUrl::UnixH2c(path), Listen::Unix(other)) => path == other,
        (UpstreamUrl::Tcp { host, port, .. } | UpstreamUrl::H2c { host, port }, Listen::Tcp(listen)) => {
            let host = if host == "localhost" { "127.0.0.1" } else { host.as_str() };
            host.parse::<IpAddr>().is_ok_and(|ip| clash(SocketAddr::new(ip, *port), *listen))
        }
        (UpstreamUrl::Unix(_) | UpstreamUrl::UnixH2c(_), Listen::Tcp(_))
        | (UpstreamUrl::Tcp { .. } | UpstreamUrl::H2c { .. }, Listen::Unix(_)) => false,
    }
}

/// Where it listens; empty: nothing right was said, and that has been reported.
fn upstream_urls(c: &mut Checker<'_>, raw: &raw::Upstream, key: &str, server: &Server) -> Vec<UpstreamUrl> {
    let (url_key, urls_key) = (format!("{key}.url"), format!("{key}.urls"));
    let given: Vec<(String, &String)> = match (&raw.url, &raw.urls) {
        (Some(url), None) => vec![(url_key, url)],
        (Some(_), Some(_)) => {
            c.fail(&urls_key, "is given beside url; keep one of them");
            return Vec::new();
        }
        (None, Some(urls)) => urls.iter().enumerate().map(|(index, url)| (format!("{urls_key}[{index}]"), url)).collect(),
        (None, None) => {
            c.fail(&url_key, "is missing; say where the application listens, such as \"http://127.0.0.1:3000\"");
            return Vec::new();
        }
    };
    if given.is_empty() {
        c.fail(&urls_key, "is empty; name at least one, such as \"http://127.0.0.1:3000\"");
    }
    let mut urls = Vec::new();
    for (at, text) in given {
        let Some(url) = c.parsed(&at, Some(text), None, |text| text::upstream_url(text).map(Some)) else { continue };
        if server.listen.iter().any(|listen| is_same(&url, listen)) {
            c.fail(&at, "is an address of server.listen, so that requests would go round in circles; name the application's own");
        }
        if urls.contains(&url) {
            c.fail(&at, "is named twice; each address gets its share, so name it once");
        }
        urls.push(url);
    }
    urls
}

fn upstream_tls(c: &mut Checker<'_>, raw: Option<&raw::UpstreamTls>, key: &str, urls: &[UpstreamUrl]) -> UpstreamTls {
    let at = |name: &str| format!("{key}.{name}");
    let Some(raw) = raw else { return UpstreamTls::default() };
    let given = |path: &Option<String>| path.as_ref().is_some_and(|path| !path.is_empty());
    let insecure = raw.insecure.unwrap_or(false);
    let tls = UpstreamTls {
        ca: c.file(&at("ca"), raw.ca.as_ref()),
        client: if given(&raw.cert) || given(&raw.key) { certificate(c, key, raw.cert.as_ref(), raw.key.as_ref()) } else { None },
        server_name: c.optional(&at("server_name"), raw.server_name.as_ref(), |name| text::host(name, false)),
        insecure,
    };
    if tls != UpstreamTls::default() && !urls.is_empty() && !urls.iter().any(UpstreamUrl::is_tls) {
        c.fail(key, "has no effect, since none of the urls is https; write https:// or leave tls out");
    }
    if insecure && (tls.ca.is_some() || tls.server_name.is_some()) {
        c.fail(&at("insecure"), "makes ca and server_name void, since any certificate is taken; keep one or the other");
    }
    if insecure {
        c.danger(format!("{key}.insecure = true: any certificate is taken for the upstream's"));
    }
    tls
}

fn health_path(text: &str) -> Result<String, String> {
    let plain = text.starts_with('/') && !text.contains('#') && text.len() <= 1024;
    match text.parse::<http::uri::PathAndQuery>() {
        Ok(_) if plain => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a path; write it like \"/healthz\"")),
    }
}

fn preset(c: &mut Checker<'_>, key: &str, raw: Option<&String>) -> Option<Preset> {
    let raw = raw.filter(|raw| !raw.is_empty())?;
    Some(c.choice(key, Some(raw), Preset::Forwarded, &PRESETS))
}

/// `[[rules]]`.
pub(super) fn rules(c: &mut Checker<'_>, raw: &[raw::Rule], default_policy: Access, server: &Server) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    // Those that can be compared: a part that was left out since it is wrong would make a rule select more than it says.
    let mut sound: Vec<usize> = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let key = format!("rules[{index}]");
        let rule = rule(c, raw, &key, default_policy, server);
        if c.sound(&[&key]) {
            let earlier = sound.iter().filter_map(|index| rules.get(*index)).find(|earlier| covers(earlier, &rule));
            if let Some(earlier) = earlier {
                c.fail(
                    &key,
                    format!("is never reached, since {} takes every request that it would; move it up or remove it", earlier.name),
                );
            }
            sound.push(index);
        }
        rules.push(rule);
    }
    rules
}

fn rule(c: &mut Checker<'_>, raw: &raw::Rule, key: &str, default_policy: Access, server: &Server) -> Rule {
    let at = |name: &str| format!("{key}.{name}");
    // An empty list would mean "any", which is seldom what somebody means who writes one.
    for (name, list) in [("methods", &raw.methods), ("networks", &raw.networks), ("groups", &raw.groups), ("users", &raw.users)] {
        if list.as_ref().is_some_and(Vec::is_empty) {
            c.fail(&at(name), "is empty, which selects nothing; name at least one or leave it out");
        }
    }
    let path = raw.path.as_ref().and_then(|path| c.parsed(&at("path"), Some(path), None, |path| glob(path).map(Some)));
    if let Some(path) = &path
        && is_within(path, &server.prefix)
    {
        c.fail(&at("path"), format!("has no effect, since rules are not asked about nullpass's own routes below {:?}", server.prefix));
    }
    // Without `policy` a rule that narrows down who may must not ask for less than the rest of the site does.
    let fallback = if default_policy == Access::TwoFactor { Access::TwoFactor } else { Access::Authenticated };
    let access = c.choice(
        &at("policy"),
        raw.policy.as_ref(),
        fallback,
        &[
            ("public", Choice::Is(Access::Public)),
            ("authenticated", Choice::Is(Access::Authenticated)),
            ("two_factor", Choice::Is(Access::TwoFactor)),
            ("deny", Choice::Is(Access::Deny)),
        ],
    );
    effect(c, raw, key, access);
    let shared_cache = raw.danger_shared_cache.unwrap_or(false);
    let name = raw.path.as_ref().map_or_else(|| key.to_owned(), |path| format!("{key} {path:?}"));
    if shared_cache {
        c.danger(format!("{name}: danger_shared_cache = true: shared caches may hand answers for one person to another"));
    }
    Rule {
        name,
        path,
        host: raw.host.as_ref().and_then(|host| c.parsed(&at("host"), Some(host), None, |host| text::host(host, true).map(Some))),
        methods: c.each(&at("methods"), raw.methods.as_ref(), method),
        networks: c.each(&at("networks"), raw.networks.as_ref(), text::network),
        access,
        groups: c.each(&at("groups"), raw.groups.as_ref(), |group| Group::parse(group).map_err(|error| format!("{group:?} {error}"))),
        users: c.each(&at("users"), raw.users.as_ref(), |user| Email::parse(user).map_err(|error| format!("{user:?} {error}"))),
        max_auth_age: c.optional_duration(&at("max_auth_age"), raw.max_auth_age.as_ref(), MILLI..=LONGEST),
        basic: raw.basic.unwrap_or(false),
        cross_site: raw.cross_site.unwrap_or(false),
        danger_shared_cache: shared_cache,
    }
}

/// Refuses keys that change nothing beside the rule's policy, and a rule that says nothing at all.
fn effect(c: &mut Checker<'_>, raw: &raw::Rule, key: &str, access: Access) {
    let given = |list: &Option<Vec<String>>| list.is_some();
    let age = raw.max_auth_age.as_ref().is_some_and(|age| !age.is_empty());
    let (basic, cross_site, shared) = (raw.basic == Some(true), raw.cross_site == Some(true), raw.danger_shared_cache == Some(true));
    let (policy, void): (&str, &[(&str, bool)]) = match access {
        Access::Public => (
            "public",
            &[
                ("groups", given(&raw.groups)),
                ("users", given(&raw.users)),
                ("max_auth_age", age),
                ("basic", basic),
                ("danger_shared_cache", shared),
            ],
        ),
        Access::Deny => (
            "deny",
            &[
                ("groups", given(&raw.groups)),
                ("users", given(&raw.users)),
                ("max_auth_age", age),
                ("basic", basic),
                ("cross_site", cross_site),
                ("danger_shared_cache", shared),
            ],
        ),
        Access::Authenticated | Access::TwoFactor => ("", &[]),
    };
    for (name, _) in void.iter().filter(|(_, given)| *given) {
        c.fail(
            &format!("{key}.{name}"),
            format!("has no effect with policy = {policy:?}; remove it, or write policy = \"authenticated\" or \"two_factor\""),
        );
    }
    let says_nothing = raw.policy.is_none() && !given(&raw.groups) && !given(&raw.users) && !age && !basic && !cross_site && !shared;
    if says_nothing {
        c.fail(
            &format!("{key}.policy"),
            "is missing, and the rule says nothing else; accepted: \"public\", \"authenticated\", \"two_factor\", \"deny\"",
        );
    }
}

/// Whether every request that selects `later` selects `earlier` first. Says no when in doubt.
fn covers(earlier: &Rule, later: &Rule) -> bool {
    let path = match (earlier.path.as_deref(), later.path.as_deref()) {
        (None | Some("/**"), _) => true,
        // A public rule matches the exact case only, so that it leaves the other cases to a later rule.
        (Some(a), Some(b)) => a == b && (earlier.access != Access::Public || later.access == Access::Public),
        (Some(_), None) => false,
    };
    let host = earlier.host.is_none() || earlier.host == later.host;
    let methods = earlier.methods.is_empty() || (!later.methods.is_empty() && later.methods.iter().all(|m| earlier.methods.contains(m)));
    let inside = |b: &ipnet::IpNet| earlier.networks.iter().any(|a| a.contains(b));
    let networks = earlier.networks.is_empty() || (!later.networks.is_empty() && later.networks.iter().all(inside));
    path && host && methods && networks
}

/// Whether `path` is `prefix` or lies below it.
fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path with `*` within segments and `**` as a whole segment. What could never match, or looks like another language
/// of patterns, is refused, since a pattern that misses leaves its path to the rules below.
fn glob(text: &str) -> Result<String, String> {
    let refuse = |why: &str| Err(format!("{text:?} {why}"));
    let Some(rest) = text.strip_prefix('/') else { return refuse("must begin with \"/\"") };
    if text.len() > 1024 {
        return Err("is longer than 1024 bytes".to_owned());
    }
    if let Some(odd) = text.chars().find(|c| "?#;\\%{}[]^|\"<>`".contains(*c) || c.is_control() || c.is_whitespace()) {
        return match odd {
            '?' | '#' => refuse("must not hold ? or #; rules see the path alone, never the query"),
            '%' => refuse("must not hold %; write the character itself, since paths are compared decoded"),
            _ => Err(format!(
                "{text:?} must not hold {odd:?}; a pattern is a path with * within a segment and ** for any number of segments"
            )),
        };
    }
    if rest.is_empty() {
        return Ok(text.to_owned());
    }
    for segment in rest.split('/') {
        match segment {
            "" if text.ends_with('/') && !text.contains("//") => {
                return Err(format!("{text:?} must not end with a slash; write \"{0}\" or \"{0}/**\"", text.trim_end_matches('/')));
            }
            "" => return refuse("must not hold an empty segment (//)"),
            "." | ".." => return refuse("must not hold the segments . or .."),
            ".*" | ".+" => {
                return refuse("looks like a regular expression; write * for a part of a segment, ** for any number of segments");
            }
            "**" => {}
            other if other.contains("**") => return refuse("must hold ** only as a whole segment, like \"/admin/**\""),
            _ => {}
        }
    }
    Ok(text.to_owned())
}

fn method(text: &str) -> Result<http::Method, String> {
    let upper = text.to_ascii_uppercase();
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(method) if upper == text => Ok(method),
        Ok(_) => Err(format!("{text:?} is in small letters, which no client sends; write {upper:?}")),
        Err(_) => Err(format!("{text:?} is not a method; write it like \"GET\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CFG-1: a pattern that could never match is an error.
    #[test]
    fn globs() {
        for good in ["/", "/**", "/a", "/a/*", "/a*b/**", "/**/x.png", "/file.*", "/grüße", "/a:b@c", "/.well-known/**"] {
            assert!(glob(good).is_ok(), "{good}");
        }
        for bad in [
            "", "a", "*", "**", "/a/", "//", "/a//b", "/a/./b", "/..", "/a**", "/**a", "/***", "/a?x=1", "/a#b", "/a%2fb", "/a;b", "/a\\b",
            "/{a,b}", "/[ab]", "^/a", "/a|b", "/a/.*", "/a b", "/a\nb",
        ] {
            assert!(glob(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_end_at_segments() {
        assert!(is_within("/_auth", "/_auth"));
        assert!(is_within("/_auth/**", "/_auth"));
        assert!(!is_within("/_author", "/_auth"));
        assert!(!is_within("/**", "/_auth"));
    }
}
