//! `[server]` and `[admin]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::super::units::LONGEST;
use super::super::{Acme, Admin, CertificateFiles, ClientCertificates, Http2, Listen, Server, ServerTls, raw};
use super::{Checker, Choice, text};

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);

/// Where certificates come from when `acme` names no other directory.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// `[server]`.
pub(super) fn server(c: &mut Checker<'_>, raw: &raw::Server) -> Server {
    let default = Server::default();
    let listen = listen(c, raw);
    let size = c.size("server.max_header_size", raw.max_header_size.as_ref(), default.max_header_size as u64, 8 << 10..=1 << 20);
    let server = Server {
        listen: listen.iter().map(|(_, address)| address.clone()).collect(),
        public_url: c.optional("server.public_url", raw.public_url.as_ref(), text::public_url),
        prefix: c.text("server.prefix", raw.prefix.as_ref(), &default.prefix, |prefix| text::prefix(prefix, "")),
        workers: c.integer("server.workers", raw.workers, default.workers, 0..=1024),
        trusted_proxies: c.each("server.trusted_proxies", raw.trusted_proxies.as_ref(), trusted),
        proxy_protocol: raw.proxy_protocol.unwrap_or(default.proxy_protocol),
        max_header_size: usize::try_from(size).unwrap_or(default.max_header_size),
        header_timeout: c.duration("server.header_timeout", raw.header_timeout.as_ref(), default.header_timeout, MILLI..=HOUR),
        idle_timeout: c.duration("server.idle_timeout", raw.idle_timeout.as_ref(), default.idle_timeout, MILLI..=24 * HOUR),
        allowed_hosts: c.each("server.allowed_hosts", raw.allowed_hosts.as_ref(), |host| text::host(host, true)),
        shutdown_delay: c.duration("server.shutdown_delay", raw.shutdown_delay.as_ref(), default.shutdown_delay, Duration::ZERO..=HOUR),
        shutdown_grace: c.duration("server.shutdown_grace", raw.shutdown_grace.as_ref(), default.shutdown_grace, Duration::ZERO..=LONGEST),
        max_connections: c.integer("server.max_connections", raw.max_connections, default.max_connections, 1..=1_000_000),
        max_headers: c.integer("server.max_headers", raw.max_headers, default.max_headers, 16..=4096),
        http2: http2(c, raw.http2.as_ref()),
        tls: raw.tls.as_ref().and_then(|tls| server_tls(c, tls)),
        danger_plain_http: raw.danger_plain_http.unwrap_or(default.danger_plain_http),
        hsts: hsts(c, raw.hsts.as_ref(), default.hsts),
    };
    exposure(c, raw, &server, &listen);
    redirect(c, &server);
    let tcp = listen.iter().any(|(_, address)| matches!(address, Listen::Tcp(_)));
    if server.proxy_protocol && server.trusted_proxies.is_empty() && tcp && c.sound(&["server.trusted_proxies"]) {
        c.fail(
            "server.proxy_protocol",
            "is true, but server.trusted_proxies is empty, so that nobody's PROXY line would be believed; name the proxy's address there",
        );
    }
    server
}

/// The addresses with their places in the list.
fn listen(c: &mut Checker<'_>, raw: &raw::Server) -> Vec<(usize, Listen)> {
    let listen = match &raw.listen {
        None => Server::default().listen.into_iter().enumerate().collect(),
        Some(list) if list.is_empty() => {
            c.fail("server.listen", "is empty, so that nobody could come in; give at least one address");
            Vec::new()
        }
        Some(list) => c.each_with_index("server.listen", Some(list), text::listen),
    };
    for (place, (index, address)) in listen.iter().enumerate() {
        let port_0 = matches!(address, Listen::Tcp(address) if address.port() == 0);
        if !port_0 && listen.iter().take(place).any(|(_, earlier)| earlier == address) {
            c.fail(&format!("server.listen[{index}]"), "is given twice");
        }
    }
    listen
}

/// Whether passwords would cross a network in the clear.
fn exposure(c: &mut Checker<'_>, raw: &raw::Server, server: &Server, listen: &[(usize, Listen)]) {
    let public_scheme = server.public_url.as_ref().map(url::Url::scheme);
    // A `[server.tls]` that is broken was meant: what would follow from its absence is no second problem.
    let tls = raw.tls.is_some();
    if tls && public_scheme == Some("http") {
        c.fail("server.public_url", "is http although [server.tls] is set, so that cookies would not be Secure; write https");
    }
    if server.danger_plain_http {
        c.danger("server.danger_plain_http = true: passwords and sessions may cross the network in the clear");
        return;
    }
    // The same goes for a public URL that is broken.
    if tls || public_scheme == Some("https") || !c.sound(&["server.public_url"]) {
        return;
    }
    for (index, address) in listen {
        match address {
            Listen::Tcp(address) if !address.ip().to_canonical().is_loopback() => c.fail(
                &format!("server.listen[{index}]"),
                format!(
                    "{address} can be reached by others over plain HTTP; configure [server.tls], or set server.public_url to the https \
                     address of the proxy in front, or listen on 127.0.0.1 (server.danger_plain_http = true allows it)"
                ),
            ),
            Listen::Tcp(_) | Listen::Unix(_) => {}
        }
    }
}

/// Headers of a trusted proxy decide who a client is, so nobody may trust everybody (requirement FWD-1). Networks wider
/// than the widest private ones, `10.0.0.0/8` and `fc00::/7`, are everybody in pieces.
fn trusted(text: &str) -> Result<IpNet, String> {
    let network = text::network(text)?;
    let widest = match network {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 7,
    };
    if network.prefix_len() < widest {
        return Err(format!("{text:?} would trust the forwarding headers of nearly everybody; name the proxy's own address or network"));
    }
    Ok(network)
}

fn http2(c: &mut Checker<'_>, raw: Option<&raw::Http2>) -> Http2 {
    let default = Http2::default();
    let Some(raw) = raw else { return default };
    Http2 {
        max_streams: c.integer("server.http2.max_streams", raw.max_streams, default.max_streams, 1..=65_535),
        max_resets: c.integer("server.http2.max_resets", raw.max_resets, default.max_resets, 1..=1_000_000),
    }
}

/// `""` turns it off; anything below a day would be forgotten before it helps.
fn hsts(c: &mut Checker<'_>, raw: Option<&String>, default: Option<Duration>) -> Option<Duration> {
    match raw {
        None => default,
        Some(_) => c.optional_duration("server.hsts", raw, 24 * HOUR..=LONGEST),
    }
}

fn server_tls(c: &mut Checker<'_>, raw: &raw::ServerTls) -> Option<ServerTls> {
    let acme = raw.acme.as_ref().and_then(|raw| acme(c, raw));
    // With ACME alone no file is needed.
    let pair = raw.acme.is_none() || raw.cert.is_some() || raw.key.is_some();
    let first = if pair { certificate(c, "server.tls", raw.cert.as_ref(), raw.key.as_ref()) } else { None };
    let mut certificates: Vec<_> = first.into_iter().collect();
    for (index, more) in raw.more.iter().flatten().enumerate() {
        certificates.extend(certificate(c, &format!("server.tls.more[{index}]"), more.cert.as_ref(), more.key.as_ref()));
    }
    let tls = ServerTls {
        client: client_certificates(c, raw),
        http_redirect: c.optional("server.tls.http_redirect", raw.http_redirect.as_ref(), |text| {
            text.parse::<SocketAddr>().map_err(|_| format!("{text:?} is not an address; write it like \"0.0.0.0:80\""))
        }),
        certificates,
        acme,
    };
    (!tls.certificates.is_empty() || tls.acme.is_some()).then_some(tls)
}

fn client_certificates(c: &mut Checker<'_>, raw: &raw::ServerTls) -> Option<ClientCertificates> {
    let required = [("required", Choice::Is(true)), ("optional", Choice::Is(false))];
    let required = c.choice("server.tls.client_cert", raw.client_cert.as_ref(), true, &required);
    let ca = c.file("server.tls.client_ca", raw.client_ca.as_ref());
    if ca.is_none() && raw.client_cert.is_some() {
        c.fail("server.tls.client_cert", "has no effect without client_ca; name the authority of the client certificates");
    }
    Some(ClientCertificates { ca: ca?, required })
}

fn acme(c: &mut Checker<'_>, raw: &raw::Acme) -> Option<Acme> {
    let domains = c.each("server.tls.acme.domains", raw.domains.as_ref(), |domain| {
        let domain = text::host(domain, false)?;
        // TLS-ALPN-01 proves neither wildcards (RFC 8737, section 3) nor, with the usual authorities, addresses.
        if domain.starts_with('[') || domain.parse::<IpAddr>().is_ok() {
            Err(format!("{domain:?} is an address, not a name"))
        } else {
            Ok(domain)
        }
    });
    if raw.domains.as_ref().is_none_or(Vec::is_empty) {
        c.fail("server.tls.acme.domains", "is missing; name at least one domain that leads here");
    }
    let contact = c.optional("server.tls.acme.contact", raw.contact.as_ref(), |text| {
        let address = text.strip_prefix("mailto:").filter(|address| address.contains('@') && !address.contains(char::is_whitespace));
        address.map(|_| text.to_owned()).ok_or_else(|| format!("{text:?} is not a contact; write it like \"mailto:ops@example.com\""))
    });
    let directory = c.optional("server.tls.acme.directory", raw.directory.as_ref(), |text| {
        let url = url::Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.has_host());
        url.ok_or_else(|| format!("{text:?} is not an https URL such as {LETS_ENCRYPT:?}"))
    });
    let cache = c.text("server.tls.acme.cache", raw.cache.as_ref(), "acme", text::path).into();
    let directory_ca = c.file("server.tls.acme.directory_ca", raw.directory_ca.as_ref());
    let directory = directory.or_else(|| url::Url::parse(LETS_ENCRYPT).ok())?;
    (!domains.is_empty()).then_some(Acme { domains, contact, cache, directory, directory_ca })
}

/// Whether the plain listener has its port to itself.
fn redirect(c: &mut Checker<'_>, server: &Server) {
    let Some(address) = server.tls.as_ref().and_then(|tls| tls.http_redirect) else { return };
    if server.listen.iter().any(|other| matches!(other, Listen::Tcp(other) if clash(*other, address))) {
        c.fail("server.tls.http_redirect", format!("{address} is taken by server.listen; give it a port of its own"));
    }
}

/// A pair of `cert` and `key`, both of which are needed.
pub(super) fn certificate(
    c: &mut Checker<'_>,
    key: &str,
    cert_path: Option<&String>,
    key_path: Option<&String>,
) -> Option<CertificateFiles> {
    let mut file = |name: &str, path: Option<&String>| {
        let key = format!("{key}.{name}");
        let path = c.file(&key, path);
        if path.is_none() {
            c.fail(&key, "is missing; a certificate needs both cert and key");
        }
        path
    };
    let (cert, private) = (file("cert", cert_path), file("key", key_path));
    Some(CertificateFiles { cert: cert?, key: private? })
}

/// `[admin]`.
pub(super) fn admin(c: &mut Checker<'_>, raw: &raw::Admin, server: &Server) -> Admin {
    let default = Admin::default();
    let listen = c.parsed("admin.listen", raw.listen.as_ref(), default.listen, |text| {
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = || format!("{text:?} is not an address; write it like \"127.0.0.1:9090\", or \"\" to turn the listener off");
        text.parse::<SocketAddr>().map(Some).map_err(|_| invalid())
    });
    if let Some(address) = listen
        && server.listen.iter().any(|other| matches!(other, Listen::Tcp(other) if clash(*other, address)))
    {
        c.fail("admin.listen", format!("{address} is taken by server.listen; give it a port of its own"));
    }
    if let Some(address) = listen
        && server.tls.as_ref().and_then(|tls| tls.http_redirect).is_some_and(|other| clash(other, address))
    {
        c.fail("admin.listen", format!("{address} is taken by server.tls.http_redirect; give it a port of its own"));
    }
    Admin { listen, socket: PathBuf::from(c.text("admin.socket", raw.socket.as_ref(), "admin.sock", text::path)) }
}

/// Whether both can't be bound at once, and whoever connects to one may reach the other.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same = |a: IpAddr, b: IpAddr| a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()));
    a.port() != 0 && a.port() == b.port() && same(a.ip(), b.ip())
}
