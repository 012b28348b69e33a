//! `WebSocket`'s opening handshake: over HTTP/1.1 an upgrade (RFC 6455, section 4), over HTTP/2 an extended CONNECT
//! (RFC 8441). Inside it is always the upgrade, so that there is one set of rules for both.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, response};
use hyper::ext::Protocol;

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The bytes of a key (RFC 6455, section 4.1).
pub const KEY_BYTES: usize = 16;

/// What kind of CONNECT a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connect {
    /// None.
    No,
    /// It asks for a tunnel to somewhere (RFC 9110, section 9.3.6): 405, since we are no forward proxy.
    Tunnel,
    /// An extended CONNECT for a protocol that we don't speak: 501 (RFC 9220, section 3, says so for HTTP/3).
    OtherProtocol,
    /// It opens a `WebSocket`. Its head has become the upgrade that it means.
    WebSocket,
}

/// Marks a head that came as an extended CONNECT, where a status of 2xx means that the `WebSocket` is open: the key that
/// was made for it.
#[derive(Clone, Debug)]
pub struct Unfolded(HeaderValue);

/// Turns an extended CONNECT for a `WebSocket` into the GET that asks HTTP/1.1 for the same, with a key of its own
/// (RFC 8441, section 5.1). Everything behind the door then treats it as that.
///
/// `random` makes the key, which has to be new for each handshake (RFC 6455, section 4.1).
pub fn unfold(head: &mut Parts, random: impl FnOnce() -> [u8; KEY_BYTES]) -> Connect {
    if head.method != Method::CONNECT {
        return Connect::No;
    }
    // HTTP/2 has neither `Connection` nor `Upgrade` (RFC 9113, section 8.2.2): what the client wants to become is said by
    // `:protocol` alone, and only our own two lines stand here afterwards.
    let Some(protocol) = head.extensions.remove::<Protocol>().filter(|_| head.version == Version::HTTP_2) else {
        return Connect::Tunnel;
    };
    let is_whole = head.uri.scheme().is_some() && head.uri.authority().is_some() && head.uri.path_and_query().is_some();
    if !is_whole {
        return Connect::Tunnel;
    }
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        return Connect::OtherProtocol;
    }
    // Base64 is always a field value.
    let Ok(key) = HeaderValue::try_from(STANDARD.encode(random())) else {
        return Connect::OtherProtocol;
    };
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    head.extensions.insert(Unfolded(key));
    Connect::WebSocket
}

impl Unfolded {
    /// The mark of a request; `None`: it did not come as an extended CONNECT.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Makes a 101 the 200 that an extended CONNECT is answered with; `false`: it does not answer the key that was sent.
    pub fn fold(&self, answer: &mut response::Parts) -> bool {
        if !is_accepted(&self.0, &answer.headers) {
            return false;
        }
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            answer.headers.remove(name);
        }
        answer.status = StatusCode::OK;
        true
    }
}

/// The `Sec-WebSocket-Accept` for a request's key; `None`: there is not exactly one key of 16 bytes.
pub fn accept(request: &HeaderMap) -> Option<HeaderValue> {
    let mut keys = request.get_all(SEC_WEBSOCKET_KEY).iter();
    let (key, None) = (keys.next()?, keys.next()) else {
        return None;
    };
    let is_key = STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == KEY_BYTES);
    if is_key { accept_for(key) } else { None }
}

/// Whether an upgrade is asked for that is a `WebSocket` and nothing else.
pub fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

fn is_accepted(key: &HeaderValue, answer: &HeaderMap) -> bool {
    let mut given = answer.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let (Some(given), None) = (given.next(), given.next()) else {
        return false;
    };
    accept_for(key).is_some_and(|expected| expected == given)
}

fn accept_for(key: &HeaderValue) -> Option<HeaderValue> {
    let text = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat()));
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn connect(protocol: Option<&'static str>, uri: &str) -> Parts {
        let mut request = Request::builder().method("CONNECT").version(Version::HTTP_2).uri(uri);
        if let Some(protocol) = protocol {
            request = request.extension(Protocol::from_static(protocol));
        }
        request.header("sec-websocket-version", "13").header("sec-websocket-key", "evil").body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_extended_connect_becomes_the_upgrade_that_it_means() {
        let mut head = connect(Some("websocket"), "https://a/chat?x=1");
        assert_eq!(unfold(&mut head, || [7; 16]), Connect::WebSocket);
        assert_eq!((&head.method, head.version, head.uri.path()), (&Method::GET, Version::HTTP_11, "/chat"));
        assert!(head.headers["connection"] == "upgrade" && head.headers["upgrade"] == "websocket");
        assert_eq!(head.headers["sec-websocket-version"], "13");
        let keys: Vec<_> = head.headers.get_all("sec-websocket-key").iter().collect();
        assert_eq!(keys.len(), 1);
        assert_ne!(keys[0], "evil");
        assert!(accept(&head.headers).is_some() && Unfolded::of(&head.extensions).is_some());
        let mut other = connect(Some("websocket"), "https://a/");
        unfold(&mut other, || [8; 16]);
        assert_ne!(other.headers["sec-websocket-key"], head.headers["sec-websocket-key"]);
    }

    #[test]
    fn other_connects_are_told_apart() {
        assert_eq!(unfold(&mut connect(None, "a:443"), || [7; 16]), Connect::Tunnel);
        assert_eq!(unfold(&mut connect(Some("connect-udp"), "https://a/"), || [7; 16]), Connect::OtherProtocol);
        assert_eq!(unfold(&mut connect(Some("websocket"), "a:443"), || [7; 16]), Connect::Tunnel);
        let mut old = connect(Some("websocket"), "https://a/");
        old.version = Version::HTTP_11;
        assert_eq!(unfold(&mut old, || [7; 16]), Connect::Tunnel);
        assert_eq!(unfold(&mut Request::get("/").body(()).unwrap().into_parts().0, || [7; 16]), Connect::No);
    }

    // The example of RFC 6455, section 1.3.
    #[test]
    fn a_key_has_one_answer() {
        let request = Request::get("/").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").body(()).unwrap();
        assert_eq!(accept(request.headers()).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for wrong in ["", "x", "dGhlIHNhbXBsZSBub25jZQ"] {
            let request = Request::get("/").header("sec-websocket-key", wrong).body(()).unwrap();
            assert!(accept(request.headers()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn only_the_right_answer_opens_the_stream() {
        let mut head = connect(Some("websocket"), "https://a/");
        unfold(&mut head, || [7; 16]);
        let right = accept(&head.headers).unwrap();
        let answer = |accept: &[HeaderValue]| {
            let mut answer = Response::builder().status(101).header("connection", "upgrade").header("sec-websocket-protocol", "chat");
            for value in accept {
                answer = answer.header("sec-websocket-accept", value);
            }
            answer.body(()).unwrap().into_parts().0
        };
        let mut good = answer(std::slice::from_ref(&right));
        let mark = Unfolded::of(&head.extensions).unwrap();
        assert!(mark.fold(&mut good));
        assert_eq!((good.status, good.headers.len()), (StatusCode::OK, 1));
        for bad in [&[][..], &[HeaderValue::from_static("x")], &[right.clone(), right]] {
            assert!(!mark.fold(&mut answer(bad)), "{bad:?}");
        }
    }
}
