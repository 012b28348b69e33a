//! The small forms that several keys share.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::super::{Listen, UpstreamUrl};

/// A path of the file system.
pub(super) fn path(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains('\0') { Err("is not a path".to_owned()) } else { Ok(text.to_owned()) }
}

/// A name that is shown to people: 1 to 64 characters, no control characters.
pub(super) fn label(text: &str) -> Result<String, String> {
    if text.trim() != text || text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
        return Err(format!("{text:?} must be 1 to 64 characters without control characters"));
    }
    Ok(text.to_owned())
}

/// `"127.0.0.1:8080"`, `"[::]:8080"`, `"unix:/run/app.sock"`.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Listen::Unix);
    }
    match text.parse() {
        Ok(address) => Ok(Listen::Tcp(address)),
        Err(_) => {
            let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
            let port = if port.parse::<u16>().is_ok() { port } else { "8080" };
            let advice = if text.starts_with("localhost") {
                format!("write \"127.0.0.1:{port}\"")
            } else {
                format!(
                    "write an address and a port, such as \"127.0.0.1:{port}\", \"0.0.0.0:{port}\" or \"[::]:{port}\", or \"unix:/path\""
                )
            };
            Err(format!("{text:?} is not an address to listen on; {advice}"))
        }
    }
}

/// What follows `unix:`, an absolute path.
fn unix_path(path: &str) -> Result<PathBuf, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    // A socket's address holds 107 bytes and a zero (unix(7)).
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') || path.len() > 107 {
        return Err(format!(
            "\"unix:{path}\" must name a socket by its absolute path of at most 107 bytes, such as \"unix:/run/app.sock\""
        ));
    }
    Ok(PathBuf::from(path))
}

/// A network in CIDR notation; an address alone is a network of one. IPv4 written as IPv6 becomes IPv4, as addresses do.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let invalid = || format!("{text:?} is not a network; write an address with a prefix length, such as \"10.0.0.0/8\" or \"fd00::/8\"");
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| invalid())?),
    };
    let mapped = match network {
        IpNet::V4(_) => None,
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
    };
    match mapped {
        Some((address, length)) => Ipv4Net::new(address, length).map(|v4| IpNet::V4(v4.trunc())).map_err(|_| invalid()),
        None => Ok(network.trunc()),
    }
}

/// A host, lower case and in ASCII (IDNA), without a port: exact, an IP address, or `*.example.com` where `wildcard`.
pub(super) fn host(text: &str, wildcard: bool) -> Result<String, String> {
    let (star, name) = match text.strip_prefix("*.") {
        Some(name) if wildcard => ("*.", name),
        Some(_) | None => ("", text),
    };
    let example = if wildcard { "\"app.example.com\" or \"*.example.com\"" } else { "\"app.example.com\"" };
    let invalid = |why: &str| format!("{text:?} is not a host ({why}); write it like {example}");
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| invalid("no IPv6 address"))?;
        return if star.is_empty() { Ok(format!("[{address}]")) } else { Err(invalid("an address has no subdomains")) };
    }
    if name.contains("://") {
        return Err(invalid("without a scheme"));
    }
    if name.contains([':', '/']) {
        return Err(invalid("without a port or a path"));
    }
    let ascii = idna::domain_to_ascii(name).map_err(|_| invalid("no domain name"))?;
    if name.contains('*') {
        return Err(invalid("a star stands only for whole labels in front"));
    }
    if !is_domain(&ascii) {
        return Err(invalid("no domain name"));
    }
    if !star.is_empty() && ascii.parse::<IpAddr>().is_ok() {
        return Err(invalid("an address has no subdomains"));
    }
    Ok(format!("{star}{ascii}"))
}

/// RFC 1123, section 2.1, with the underscore that container networks use.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// `/` and plain segments, without a slash at the end: the form of prefixes. `extra` are the bytes a segment may hold
/// besides the unreserved ones (RFC 3986, section 2.3).
pub(super) fn prefix(text: &str, extra: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || extra.as_bytes().contains(&b);
    let segment = |segment: &str| !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain);
    match text.strip_prefix('/') {
        Some(rest) if rest.split('/').all(segment) && text.len() <= 256 => Ok(text.to_owned()),
        Some(_) | None => {
            let advice = match text.strip_suffix('/') {
                Some(cut) if cut.starts_with('/') => format!("; write {cut:?}"),
                Some(_) | None => String::new(),
            };
            Err(format!("{text:?} must be plain segments, each behind a slash, such as \"/app\" or \"/team/app\"{advice}"))
        }
    }
}

/// `http://host[:port]`, `https://host[:port]`, `h2c://host[:port]`, `unix:/path` or `unix+h2c:/path`.
pub(super) fn upstream_url(text: &str) -> Result<UpstreamUrl, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(UpstreamUrl::Unix);
    }
    if let Some(path) = text.strip_prefix("unix+h2c:") {
        return unix_path(path).map(UpstreamUrl::UnixH2c);
    }
    // `url` reads hosts as the web does (IDNA, IPv4 in every form) only under the schemes that it knows.
    let as_http = text.strip_prefix("h2c://").map(|rest| format!("http://{rest}"));
    // The text is not repeated from here on: it may hold a password.
    let url = url::Url::parse(as_http.as_deref().unwrap_or(text))
        .map_err(|_| "is not a URL; write it like \"http://127.0.0.1:3000\"".to_owned())?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => {
            return Err(format!("the scheme {other:?} is unknown; accepted: http://, https://, h2c://, unix:/path and unix+h2c:/path"));
        }
    };
    bare(&url, "the request's own path and query are forwarded")?;
    let host = url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
    match (host, url.port_or_known_default()) {
        (Some(host), Some(port)) if port != 0 && as_http.is_some() => Ok(UpstreamUrl::H2c { host, port }),
        (Some(host), Some(port)) if port != 0 => Ok(UpstreamUrl::Tcp { tls, host, port }),
        (_, _) => Err("needs a host and a port other than 0".to_owned()),
    }
}

/// What browsers see.
pub(super) fn public_url(text: &str) -> Result<url::Url, String> {
    let url = url::Url::parse(text).map_err(|_| "is not a URL; write it like \"https://app.example.com\"".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the scheme {:?} is unknown; accepted: http:// and https://", url.scheme()));
    }
    bare(&url, "nullpass serves a whole origin")?;
    Ok(url)
}

/// Nothing but scheme, host and port.
fn bare(url: &url::Url, reason: &str) -> Result<(), String> {
    let extra = if !url.username().is_empty() || url.password().is_some() {
        "a user or a password"
    } else if !matches!(url.path(), "" | "/") {
        "a path"
    } else if url.query().is_some() {
        "a query"
    } else if url.fragment().is_some() {
        "a fragment"
    } else {
        return Ok(());
    };
    Err(format!("must not hold {extra}, since {reason}; write scheme, host and port only"))
}

/// A header field's name as a comparison sees it that does not tell `_`, `.` and `-` apart (requirement HDR-1).
pub(super) fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("::ffff:10.0.0.0/104").unwrap().to_string(), "10.0.0.0/8");
        for bad in ["", "10.0.0.0/33", "10.0.0", "localhost", "10.0.0.0/8 "] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts() {
        assert_eq!(host("App.Example.COM", true).as_deref(), Ok("app.example.com"));
        assert_eq!(host("*.bücher.example", true).as_deref(), Ok("*.xn--bcher-kva.example"));
        assert_eq!(host("[::1]", true).as_deref(), Ok("[::1]"));
        for bad in
            ["", "*", "*.", "a.*.b", "*a.b", "https://a.b", "a.b:80", "a.b/c", "a b", "-a.b", "a..b", "*.[::1]", "*.127.0.0.1", "*.*.b"]
        {
            assert!(host(bad, true).is_err(), "{bad:?}");
        }
        assert!(host("*.a.b", false).is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!(listen("unix:/run/a.sock"), Ok(Listen::Unix("/run/a.sock".into())));
        assert!(listen("[::]:8080").is_ok());
        assert!(listen("localhost:80").unwrap_err().contains("127.0.0.1:80"));
        assert!(listen(":9000").unwrap_err().contains("0.0.0.0:9000"));
        for bad in ["", "8080", "unix:", "unix:a.sock", "unix:/", "1.2.3.4", "1.2.3.4:99999", "http://1.2.3.4:80"] {
            assert!(listen(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn upstream_urls() {
        assert_eq!(upstream_url("http://[::1]:3000"), Ok(UpstreamUrl::Tcp { tls: false, host: "::1".to_owned(), port: 3000 }));
        assert_eq!(upstream_url("https://App.example/"), Ok(UpstreamUrl::Tcp { tls: true, host: "app.example".to_owned(), port: 443 }));
        assert_eq!(upstream_url("unix:/a.sock"), Ok(UpstreamUrl::Unix("/a.sock".into())));
        for bad in
            ["", "app", "app:3000", "ftp://a", "http://", "http://a/b", "http://a?b", "http://a/#b", "http://a:0", "http://u:hunter2@a"]
        {
            let message = upstream_url(bad).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert_eq!(upstream_url("h2c://A.example:1"), Ok(UpstreamUrl::H2c { host: "a.example".to_owned(), port: 1 }));
        assert_eq!(upstream_url("h2c://[::1]"), Ok(UpstreamUrl::H2c { host: "::1".to_owned(), port: 80 }));
        assert_eq!(upstream_url("unix+h2c:/a.sock"), Ok(UpstreamUrl::UnixH2c("/a.sock".into())));
        for wrong in ["h2c:a:1", "h2c://", "h2c://a:0", "h2c://a/b", "h2c://u:p@a", "unix+h2c:a.sock", "h2://a"] {
            assert!(upstream_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes() {
        for good in ["/_auth", "/a/b", "/a.b~c"] {
            assert!(prefix(good, "").is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "/a/", "//a", "/a//b", "/.", "/a/..", "/a b", "/a%20", "/a;b", "/a?b", "/ä", "/a\\b"] {
            assert!(prefix(bad, "").is_err(), "{bad:?}");
        }
        assert!(prefix("/app/", "").unwrap_err().contains("write \"/app\""));
    }
}
