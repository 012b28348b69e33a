//! `Strict-Transport-Security` (RFC 6797): browsers come by https only from now on.

use http::HeaderValue;

use crate::config;

/// The header for every answer of an https site. Only `public_url` says that it is one for good: without it the host may
/// be `localhost`, where the promise would hold for every other port too.
pub fn header(server: &config::Server) -> Option<HeaderValue> {
    let https = server.public_url.as_ref().is_some_and(|url| url.scheme() == "https");
    let age = server.hsts.filter(|_| https)?;
    HeaderValue::from_str(&format!("max-age={}", age.as_secs())).ok()
}
