//! One request in is at most one request out: random mixtures of honest and hostile requests on one connection, cut anywhere,
//! with applications behind that keep what they were sent, over HTTP/1.1 and HTTP/2 on either side.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nullpass::tasks::Tasks;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, Server};

const PUBLIC: &str = "[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n";

/// What must never be a request of its own.
const SMUGGLED: &str = "GET /public/smuggled HTTP/1.1\r\nHost: a\r\nX-Forwarded-User: evil\r\n\r\n";

/// One request as an application got it, to its end.
#[derive(Clone, Debug, PartialEq)]
struct Got {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// An application that speaks HTTP/2 alone.
#[derive(Clone)]
struct Http2Upstream {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Http2Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), got: Arc::default() };
        let (tasks, got) = (Tasks::new(), Arc::clone(&upstream.got));
        let spawner = tasks.clone();
        drop(tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (got, requests) = (Arc::clone(&got), spawner.clone());
                drop(spawner.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                    while let Some(Ok((request, answer))) = connection.accept().await {
                        drop(requests.spawn(take(request, answer, Arc::clone(&got))));
                    }
                }));
            }
        }));
        upstream
    }
}

async fn take(request: http::Request<h2::RecvStream>, mut answer: h2::server::SendResponse<Bytes>, got: Arc<Mutex<Vec<Got>>>) {
    let (head, mut stream) = request.into_parts();
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    assert!(!head.headers.contains_key("x-forwarded-user"), "{head:?}");
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        // Broken off: no request.
        let Ok(data) = data else { return };
        body.extend_from_slice(&data);
        let _ended = stream.flow_control().release_capacity(data.len());
    }
    if stream.trailers().await.is_err() {
        return;
    }
    got.lock().unwrap().push(Got { method: head.method.to_string(), target, body });
    let response = http::Response::builder().header("content-length", "2").body(()).unwrap();
    if let Ok(mut sending) = answer.send_response(response, false) {
        let _ended = sending.send_data(Bytes::from_static(b"ok"), true);
    }
}

/// A server with an application of either kind.
struct Behind {
    server: Server,
    http2: Option<Http2Upstream>,
}

impl Behind {
    async fn http1() -> Self {
        Self { server: Server::start(PUBLIC).await, http2: None }
    }

    async fn http2() -> Self {
        let upstream = Http2Upstream::start().await;
        let toml = format!("[[upstreams]]\nname = \"app\"\nurl = \"h2c://{}\"\n{PUBLIC}", upstream.address);
        Self { server: Server::start(&toml).await, http2: Some(upstream) }
    }

    fn take(&self) -> Vec<Got> {
        if let Some(upstream) = &self.http2 {
            return std::mem::take(&mut *upstream.got.lock().unwrap());
        }
        let all = self.server.upstream.take().into_iter();
        all.map(|request| {
            assert!(request.all("content-length").len() + request.all("transfer-encoding").len() <= 1, "{}", request.head);
            assert!(request.one("x-forwarded-user").is_none(), "{}", request.head);
            assert!(!request.head.replace("\r\n", "").contains(['\r', '\n', '\0']), "{}", request.head);
            let method = request.head.split(' ').next().unwrap().to_owned();
            Got { method, target: request.target().to_owned(), body: request.body }
        })
        .collect()
    }
}

// --- What clients say ------------------------------------------------------------------------------------------------

/// One request of a client.
#[derive(Clone, Debug)]
enum Said {
    Honest {
        method: &'static str,
        body: Vec<u8>,
        framing: Framing,
    },
    /// By its place in [`HOSTILE`] or [`MALFORMED`].
    Hostile(usize),
}

#[derive(Clone, Debug)]
enum Framing {
    Length,
    /// Chunks that end at these places, with what may stand beside their sizes, and whether a trailer follows.
    Chunks(Vec<Index>, &'static str, bool),
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let texts = ["", "x", "0\r\n\r\n", "\r\n\r\n", SMUGGLED, "0\r\n\r\nGET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"];
    prop_oneof![3 => prop::sample::select(texts.to_vec()).prop_map(|text| text.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..60)]
}

fn said() -> impl Strategy<Value = Vec<Said>> {
    let extension = prop::sample::select(vec!["", ";a", ";a=b", ";a=\"b\"", "  "]);
    let chunks = (prop::collection::vec(any::<Index>(), 0..4), extension, any::<bool>());
    let framing = prop_oneof![Just(Framing::Length), chunks.prop_map(|(at, extension, trailer)| Framing::Chunks(at, extension, trailer))];
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE"]);
    let honest = (method, bodies(), framing).prop_map(|(method, body, framing)| Said::Honest { method, body, framing });
    prop::collection::vec(prop_oneof![3 => honest, 1 => (0..1000_usize).prop_map(Said::Hostile)], 1..6)
}

/// Where what is written is cut: anywhere, or behind every byte.
fn cuts() -> impl Strategy<Value = Option<Vec<Index>>> {
    prop_oneof![4 => prop::collection::vec(any::<Index>(), 0..6).prop_map(Some), 1 => Just(None)]
}

fn pieces<'a>(bytes: &'a [u8], cuts: Option<&[Index]>) -> Vec<&'a [u8]> {
    let Some(cuts) = cuts else { return bytes.chunks(1).collect() };
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

async fn write(socket: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8], cuts: Option<&[Index]>) {
    for piece in pieces(bytes, cuts) {
        // Who is refused early may be refused while they still write.
        if socket.write_all(piece).await.is_err() {
            return;
        }
        if cuts.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

// --- HTTP/1.1 --------------------------------------------------------------------------------------------------------

/// Requests that two servers could frame differently, and behind which no request is answered any more: their fields and what
/// follows them. `{zero}` is a last chunk with a request behind it, `{smuggled}` that request.
const HOSTILE: &[(&str, &str)] = &[
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", "{zero}"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5", "{zero}"),
    ("Content-Length: 0\r\nContent-Length: 70", "{smuggled}"),
    ("Content-Length: 70\r\nContent-Length: 0", "{smuggled}"),
    ("Content-Length: 0, 70", "{smuggled}"),
    ("Content-Length: +0", "{smuggled}"),
    ("Content-Length: -1", "{smuggled}"),
    ("Content-Length: 0x0", "{smuggled}"),
    ("Content-Length: 18446744073709551616", "{smuggled}"),
    ("Content-Length: ", "{smuggled}"),
    ("Content-Length: 0 0", "{smuggled}"),
    ("Transfer-Encoding: xchunked", "{zero}"),
    ("Transfer-Encoding: chunkedx", "{zero}"),
    ("Transfer-Encoding: identity", "{smuggled}"),
    ("Transfer-Encoding: ", "{smuggled}"),
    ("Transfer-Encoding: chunked, identity", "{zero}"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "{zero}"),
    ("Transfer-Encoding: \u{b}chunked\r\nContent-Length: 5", "{zero}"),
    ("Transfer-Encoding : chunked\r\nContent-Length: 5", "{zero}"),
    (" Transfer-Encoding: chunked\r\nContent-Length: 5", "{zero}"),
    ("Content-Length : 0", "{smuggled}"),
    ("X: y\rTransfer-Encoding: chunked", "{zero}"),
    ("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5", "{zero}"),
    ("X: y\r\n\tTransfer-Encoding: chunked", "{zero}"),
    ("X: y\0", "{smuggled}"),
    ("X\0: y", "{smuggled}"),
    (": y", "{smuggled}"),
    ("X y", "{smuggled}"),
    ("Transfer-Encoding: chunked", "+1\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "-1\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "0x1\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "g\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "fffffffffffffffff\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "10000000000000001\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "1\r\naXX{zero}"),
    ("Transfer-Encoding: chunked", "1\r\nab\r\n{zero}"),
    ("Transfer-Encoding: chunked", "1\n\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "1;a\nb\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "1 1\r\na\r\n{zero}"),
    ("Transfer-Encoding: chunked", "0\r\nX : y\r\n\r\n{smuggled}"),
    ("Transfer-Encoding: chunked", "0\r\n X: y\r\n\r\n{smuggled}"),
    ("Transfer-Encoding: chunked", "0\r\nX: y\0\r\n\r\n{smuggled}"),
];

fn http1(id: usize, said: &Said) -> Vec<u8> {
    match said {
        Said::Hostile(which) => {
            let (fields, rest) = HOSTILE[which % HOSTILE.len()];
            let rest = rest.replace("{zero}", "0\r\n\r\n{smuggled}").replace("{smuggled}", SMUGGLED);
            format!("POST /public/hostile/{id} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{rest}").into_bytes()
        }
        Said::Honest { method, body, framing } => {
            let head = format!("{method} /public/{id} HTTP/1.1\r\nHost: a\r\nX-Forwarded-User: evil\r\n");
            let mut bytes = head.into_bytes();
            match framing {
                Framing::Length if body.is_empty() && *method == "GET" => bytes.extend(b"\r\n"),
                Framing::Length => {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                    bytes.extend(body);
                }
                Framing::Chunks(at, extension, trailer) => {
                    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for chunk in pieces(body, Some(at)).into_iter().filter(|chunk| !chunk.is_empty()) {
                        bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(if *trailer { &b"0\r\nContent-Length: 70\r\nX-Sum: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
                }
            }
            bytes
        }
    }
}

/// What the application must have got of these, in this order, if every one of them was decided.
fn honest(all: &[Said]) -> Vec<Got> {
    let numbered = all.iter().enumerate().filter_map(|(id, said)| match said {
        Said::Honest { method, body, .. } => {
            Some(Got { method: (*method).to_owned(), target: format!("/public/{id}"), body: body.clone() })
        }
        Said::Hostile(_) => None,
    });
    numbered.collect()
}

// Cross-cutting 2: whatever stands behind whatever, and however it is cut.
#[test]
fn a_mixture_of_requests_is_never_more_than_they_are() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let behind = runtime.block_on(async { [Behind::http1().await, Behind::http2().await] });
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(said(), cuts(), any::<bool>()), |(all, cuts, over_http2)| {
        let behind = &behind[usize::from(over_http2)];
        runtime.block_on(async {
            let mut bytes: Vec<u8> = all.iter().enumerate().flat_map(|(id, said)| http1(id, said)).collect();
            bytes.extend(b"GET /public/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let mut socket = TcpStream::connect(behind.server.address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let (mut reader, mut writer) = socket.split();
            // What is refused is refused while there is still something to say.
            let written = write(&mut writer, &bytes, cuts.as_deref());
            let read = async {
                let mut said = Vec::new();
                tokio::time::timeout(PATIENCE, reader.read_to_end(&mut said)).await.expect("the end of the connection").ok();
                said
            };
            let (said, ()) = tokio::join!(read, written);
            let answers = String::from_utf8_lossy(&said).matches("HTTP/1.1 ").count();
            let got = behind.take();

            let end = all.iter().position(|said| matches!(said, Said::Hostile(_)));
            let before = end.unwrap_or(all.len());
            let mut expected = honest(&all[..before]);
            if end.is_none() {
                expected.push(Got { method: "GET".to_owned(), target: "/public/last".to_owned(), body: Vec::new() });
            }
            let hostile = got.iter().filter(|one| one.target.starts_with("/public/hostile/")).count();
            let others: Vec<Got> = got.iter().filter(|one| !one.target.starts_with("/public/hostile/")).cloned().collect();
            prop_assert_eq!(&others, &expected, "{}", String::from_utf8_lossy(&said));
            prop_assert!(hostile <= usize::from(end.is_some()), "{:?}", got);
            prop_assert!(answers <= before + 1, "{}", String::from_utf8_lossy(&said));
            prop_assert!(answers >= before, "{}", String::from_utf8_lossy(&said));
            Ok(())
        })
    });
    runtime.block_on(async { drop(behind) });
    result.unwrap();
}

// --- HTTP/2 ----------------------------------------------------------------------------------------------------------

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RESET: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HPACK without its tables: a client that writes what it likes (RFC 7541, sections 5 and 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = Vec::new();
        match text.len() {
            size @ 0..127 => bytes.push(u8::try_from(size).unwrap()),
            size => {
                bytes.push(127);
                let mut rest = size - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128 + 128).unwrap());
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        bytes.extend(text.bytes());
        bytes
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What a client puts in the place of the usual head, and behind it.
struct Malformed {
    method: &'static str,
    path: &'static str,
    more: &'static [(&'static str, &'static str)],
    body: &'static str,
}

const fn malformed(
    method: &'static str,
    path: &'static str,
    more: &'static [(&'static str, &'static str)],
    body: &'static str,
) -> Malformed {
    Malformed { method, path, more, body }
}

/// What RFC 9113, sections 8.1.1 to 8.3, calls malformed, and what would be something else once it is written as HTTP/1.1.
const MALFORMED: &[Malformed] = &[
    malformed("POST", "/public/h HTTP/1.1\r\nHost: a\r\n\r\nGET /public/smuggled", &[], ""),
    malformed("POST", "/public/h HTTP/1.1", &[], ""),
    malformed("POST", "/public/h\r\nx: y", &[], ""),
    malformed("POST", "/public/h\0", &[], ""),
    malformed("POST", "", &[], ""),
    malformed("POST", "public/h", &[], ""),
    malformed("GET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\nPOST", "/public/h", &[], ""),
    malformed("GET /public/smuggled", "/public/h", &[], ""),
    malformed("", "/public/h", &[], ""),
    malformed("POST", "/public/h", &[(":path", "/public/smuggled")], ""),
    malformed("POST", "/public/h", &[(":method", "GET")], ""),
    malformed("POST", "/public/h", &[("x", "y"), (":path", "/public/smuggled")], ""),
    malformed("POST", "/public/h", &[("x", "y"), (":authority", "b")], ""),
    malformed("POST", "/public/h", &[(":authority", "b")], ""),
    malformed("POST", "/public/h", &[(":status", "200")], ""),
    malformed("POST", "/public/h", &[(":x", "y")], ""),
    malformed("POST", "/public/h", &[(":protocol", "websocket")], ""),
    malformed("POST", "/public/h", &[("X-Upper", "y")], ""),
    malformed("POST", "/public/h", &[("x: y\r\nz", "1")], ""),
    malformed("POST", "/public/h", &[("x y", "1")], ""),
    malformed("POST", "/public/h", &[("x:", "1")], ""),
    malformed("POST", "/public/h", &[("", "1")], ""),
    malformed("POST", "/public/h", &[("x", "y\r\nx-forwarded-user: evil")], ""),
    malformed("POST", "/public/h", &[("x", "y\r\n\r\nGET /public/smuggled HTTP/1.1\r\nhost: a\r\n\r\n")], ""),
    malformed("POST", "/public/h", &[("x", "y\nz: 1")], ""),
    malformed("POST", "/public/h", &[("x", "y\rz: 1")], ""),
    malformed("POST", "/public/h", &[("x", "y\0")], ""),
    malformed("POST", "/public/h", &[("transfer-encoding", "chunked")], "0\r\n\r\nGET /public/smuggled HTTP/1.1\r\n\r\n"),
    malformed("POST", "/public/h", &[("connection", "close")], ""),
    malformed("POST", "/public/h", &[("connection", "x-forwarded-user")], ""),
    malformed("POST", "/public/h", &[("keep-alive", "1")], ""),
    malformed("POST", "/public/h", &[("proxy-connection", "1")], ""),
    malformed("POST", "/public/h", &[("upgrade", "websocket")], ""),
    malformed("POST", "/public/h", &[("te", "gzip")], ""),
    malformed("POST", "/public/h", &[("host", "b")], ""),
    malformed("POST", "/public/h", &[("content-length", "1")], "GET /public/smuggled HTTP/1.1\r\n\r\n"),
    malformed("POST", "/public/h", &[("content-length", "100")], "x"),
    malformed("POST", "/public/h", &[("content-length", "1"), ("content-length", "2")], "x"),
    malformed("POST", "/public/h", &[("content-length", "+1")], "x"),
    malformed("POST", "/public/h", &[("content-length", "1, 1")], "x"),
    malformed("POST", "/public/h", &[("content-length", "")], "x"),
];

/// The frames of a request, in the order in which they must come.
fn http2(id: usize, stream: u32, said: &Said) -> Vec<Vec<u8>> {
    let target = format!("/public/{id}");
    let usual = |method, path| [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")];
    let (head, data, trailer): (Vec<u8>, Vec<Vec<u8>>, bool) = match said {
        Said::Hostile(which) => {
            let Malformed { method, path, more, body } = &MALFORMED[which % MALFORMED.len()];
            let data = if body.is_empty() { Vec::new() } else { vec![body.as_bytes().to_vec()] };
            (block(&[&usual(method, path)[..], *more].concat()), data, false)
        }
        Said::Honest { method, body, framing } => {
            let length = body.len().to_string();
            let forged = ("x-forwarded-user", "evil");
            let with_length = [("content-length", length.as_str()), forged];
            let (more, data, trailer) = match framing {
                Framing::Length if body.is_empty() => (&with_length[1..], Vec::new(), false),
                Framing::Length => (&with_length[..], vec![body.clone()], false),
                Framing::Chunks(at, _, trailer) => {
                    (&with_length[1..], pieces(body, Some(at)).iter().map(|piece| piece.to_vec()).collect(), *trailer)
                }
            };
            (block(&[&usual(method, &target)[..], more].concat()), data, trailer)
        }
    };
    // A head may come in any number of frames.
    let (first, rest) = head.split_at(head.len() / 2);
    let last = data.is_empty() && !trailer;
    let mut frames = vec![[frame(HEADERS, u8::from(last), stream, first), frame(CONTINUATION, END_HEADERS, stream, rest)].concat()];
    let count = data.len();
    frames.extend(data.iter().enumerate().map(|(at, piece)| frame(DATA, u8::from(at + 1 == count && !trailer), stream, piece)));
    if trailer {
        frames.push(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[("x-sum", "1"), ("x-forwarded-user", "evil")])));
    }
    frames
}

/// Reads frames until these streams have ended, or the connection; whether it goes on.
async fn all_ended(reader: &mut (impl tokio::io::AsyncRead + Unpin), mut open: Vec<u32>) -> bool {
    let (mut bytes, mut more) = (Vec::new(), vec![0; 16_384]);
    while !open.is_empty() {
        let step = next_frame(&mut bytes);
        match step {
            ControlFlow::Break((kind, flags, stream)) => {
                if kind == GOAWAY {
                    return false;
                }
                if kind == RESET || (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0) {
                    open.retain(|open| *open != stream);
                }
            }
            ControlFlow::Continue(()) => match reader.read(&mut more).await {
                Ok(count @ 1..) => bytes.extend_from_slice(&more[..count]),
                _ => return false,
            },
        }
    }
    true
}

/// Takes a frame off what was read: its kind, flags and stream.
fn next_frame(bytes: &mut Vec<u8>) -> ControlFlow<(u8, u8, u32)> {
    let Some((head, rest)) = bytes.split_first_chunk::<9>() else { return ControlFlow::Continue(()) };
    let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
    if rest.len() < length {
        return ControlFlow::Continue(());
    }
    let found = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff);
    bytes.drain(..9 + length);
    ControlFlow::Break(found)
}

/// Says all of these on a connection of its own, a frame of each in turn: what the application got, and whether the
/// connection went on.
async fn say(behind: &Behind, all: &[Said], cuts: Option<&[Index]>) -> (Vec<Got>, bool) {
    let streams: Vec<u32> = (0..u32::try_from(all.len()).unwrap()).map(|number| number * 2 + 1).collect();
    let mut frames: Vec<_> =
        all.iter().zip(&streams).enumerate().map(|(id, (said, stream))| http2(id, *stream, said).into_iter()).collect();
    let mut bytes = PREFACE.to_vec();
    while frames.iter().any(|frames| frames.len() > 0) {
        bytes.extend(frames.iter_mut().filter_map(Iterator::next).flatten());
    }
    let mut socket = TcpStream::connect(behind.server.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = socket.split();
    let read = async { tokio::time::timeout(PATIENCE, all_ended(&mut reader, streams.clone())).await.expect("an end of every stream") };
    let (goes_on, ()) = tokio::join!(read, write(&mut writer, &bytes, cuts));
    (behind.take(), goes_on)
}

// Cross-cutting 2, H2-1: what is malformed is no request, and no other stream's matter.
#[tokio::test]
async fn malformed_streams_reach_nobody() {
    let honest_one = Said::Honest { method: "POST", body: SMUGGLED.into(), framing: Framing::Length };
    for behind in [Behind::http1().await, Behind::http2().await] {
        for (at, malformed) in MALFORMED.iter().enumerate() {
            let all = [honest_one.clone(), Said::Hostile(at), honest_one.clone()];
            let (got, goes_on) = say(&behind, &all, Some(&[])).await;
            let what = format!("{:?} {:?} {:?}", malformed.method, malformed.path, malformed.more);
            let (others, hostile): (Vec<Got>, Vec<Got>) =
                got.into_iter().partition(|one| one.target == "/public/0" || one.target == "/public/2");
            assert!(hostile.is_empty(), "{what}: {hostile:?}");
            assert!(!goes_on || others.len() == 2, "{what}: {others:?}");
            assert!(others.iter().all(|one| one.body == SMUGGLED.as_bytes()), "{what}: {others:?}");
        }
    }
}

// Cross-cutting 2, H2-1: the same in any mixture, cut anywhere, a frame of each stream in turn.
#[test]
fn a_mixture_of_streams_is_never_more_than_they_are() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let behind = runtime.block_on(async { [Behind::http1().await, Behind::http2().await] });
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(said(), cuts(), any::<bool>()), |(all, cuts, over_http2)| {
        let (got, goes_on) = runtime.block_on(say(&behind[usize::from(over_http2)], &all, cuts.as_deref()));
        let expected = honest(&all);
        // Streams have no order among each other.
        let mut left = expected.clone();
        for one in &got {
            let at = left.iter().position(|expected| expected == one);
            prop_assert!(at.is_some(), "{:?} of {:?}", one, expected);
            left.remove(at.unwrap());
        }
        prop_assert!(left.is_empty() || !goes_on, "{:?} are missing", left);
        Ok(())
    });
    runtime.block_on(async { drop(behind) });
    result.unwrap();
}
