//! A request's head for HTTP/2, from the one that HTTP/1.1 would get.

use http::header::{CONNECTION, HOST, HeaderName, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Uri, Version, uri};

use super::super::Error;

/// The value of `:scheme`: how the upstream is reached, as RFC 9110, section 4.2, means it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy) enum Scheme {
    Http,
    Https,
}

/// What concerns one connection (RFC 9113, section 8.2.2); `TE` is left, which says `trailers` or is not there.
const CONNECTION_SPECIFIC: [HeaderName; 5] =
    [CONNECTION, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// The head with its pseudo-header fields: `:authority` is what `Host` said, which is ours (RFC 9113, section 8.3.1).
pub(super) fn fold(method: Method, uri: &Uri, mut headers: HeaderMap, scheme: Scheme) -> Result<Request<()>, Error> {
    let authority = headers.remove(HOST).ok_or(Error::BadRequest)?;
    for name in CONNECTION_SPECIFIC {
        headers.remove(name);
    }
    let uri = Uri::builder()
        .scheme(match scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        })
        .authority(authority.as_bytes())
        .path_and_query(uri.path_and_query().map_or("/", uri::PathAndQuery::as_str))
        .build()
        .map_err(|_| Error::BadRequest)?;
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    *request.version_mut() = Version::HTTP_2;
    Ok(request)
}

/// The extended CONNECT that asks for a `WebSocket` (RFC 8441, section 4), which has no key.
pub(super) fn fold_websocket(uri: &Uri, mut headers: HeaderMap, scheme: Scheme) -> Result<Request<()>, Error> {
    headers.remove(SEC_WEBSOCKET_KEY);
    let mut request = fold(Method::CONNECT, uri, headers, scheme)?;
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn host_becomes_the_authority_and_nothing_of_the_connection_is_left() {
        let fields = headers(&[
            ("host", "app.example.com:81"),
            ("connection", "te"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("keep-alive", "1"),
            ("x-a", "b"),
        ]);
        let request = fold(Method::POST, &"/a%2Fb?c=d".parse().unwrap(), fields, Scheme::Https).unwrap();
        assert_eq!(request.uri().to_string(), "https://app.example.com:81/a%2Fb?c=d");
        assert_eq!(request.method(), Method::POST);
        assert_eq!(*request.headers(), headers(&[("te", "trailers"), ("x-a", "b")]));
    }

    // What is no authority can't become a pseudo-header field.
    #[test]
    fn a_host_that_is_none_is_refused() {
        for wrong in ["a b", "a/b", "a\tb", "a,b/:c"] {
            let fields = headers(&[("host", wrong)]);
            assert_eq!(fold(Method::GET, &"/".parse().unwrap(), fields, Scheme::Http).unwrap_err(), Error::BadRequest, "{wrong}");
        }
        assert!(fold(Method::GET, &"/".parse().unwrap(), HeaderMap::new(), Scheme::Http).is_err());
    }

    #[test]
    fn a_websocket_is_an_extended_connect() {
        let fields = headers(&[
            ("host", "a"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-version", "13"),
        ]);
        let request = fold_websocket(&"/ws".parse().unwrap(), fields, Scheme::Http).unwrap();
        assert_eq!((request.method(), request.uri().to_string()), (&Method::CONNECT, "http://a/ws".to_owned()));
        assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
        assert_eq!(*request.headers(), headers(&[("sec-websocket-version", "13")]));
    }
}
