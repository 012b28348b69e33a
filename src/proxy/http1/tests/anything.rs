//! What must hold for any bytes, held against hyper's client too.

use http_body_util::BodyExt as _;
use proptest::prelude::*;

use super::*;

/// What hyper makes of the same bytes.
fn hypers(method: &str, bytes: &[u8]) -> Result<Seen, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(hyper_util::rt::TokioIo::new(ours)).await.unwrap();
        let request = http::Request::builder().method(method).uri("/").header("host", "a").body(Full::default()).unwrap();
        let ask = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            let trailers = body.trailers().map(fields).unwrap_or_default();
            Ok(Seen { status: head.status.as_u16(), fields: fields(&head.headers), body: body.to_bytes().to_vec(), trailers })
        };
        let say = async {
            let mut request = [0; 1024];
            let _asked = theirs.read(&mut request).await;
            let _said = tokio::io::AsyncWriteExt::write_all(&mut theirs, bytes).await;
            drop(theirs);
        };
        tokio::select! {
            biased;
            (seen, ()) = async { tokio::join!(ask, say) } => seen,
            () = async { let _ended = connection.await; std::future::pending::<()>().await } => unreachable!(),
        }
    })
}

/// Something like an answer: right, nearly right, and cut up.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => Just("HTTP/1.1 200 OK\r\n".to_owned()),
        1 => Just("HTTP/1.0 200 OK\r\n".to_owned()),
        1 => (100_u16..600).prop_map(|status| format!("HTTP/1.1 {status} x\r\n")),
        1 => Just("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n".to_owned()),
    ];
    let field = prop_oneof![
        2 => (0_usize..8).prop_map(|length| format!("Content-Length: {length}\r\n")),
        2 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => Just("Connection: keep-alive\r\n".to_owned()),
        1 => Just("Connection: close\r\n".to_owned()),
        1 => "[a-zA-Z-]{1,5}: ?[ -~]{0,6} ?\r\n",
        1 => Just("A: b\n".to_owned()),
        1 => Just(" folded\r\n".to_owned()),
    ];
    let body = prop_oneof![
        "[a-z]{0,8}",
        proptest::collection::vec("[a-f]{1,12}", 0..3).prop_map(|chunks| {
            let chunks: Vec<String> = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
            format!("{}0\r\n\r\n", chunks.concat())
        }),
        "[0-3a][ ;x]{0,2}\r?\n[a-d]{0,3}\r?\n0\r?\n(X: y\r\n)?\r?\n",
    ];
    let spoil = proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (line, proptest::collection::vec(field, 0..3), body, spoil).prop_map(|(line, fields, body, spoil)| {
        let mut bytes = format!("{line}{}\r\n{body}", fields.concat()).into_bytes();
        if let Some((at, byte)) = spoil {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_must_hold_for_any_bytes_holds_for_nearly_right_ones(bytes in answers(), seed in any::<u8>()) {
        fuzzing::answer(&[&[seed], bytes.as_slice()].concat());
    }

    #[test]
    fn what_we_take_for_an_answer_hyper_does_too(bytes in answers(), method in prop_oneof![Just("GET"), Just("HEAD")]) {
        let ours = answer(&mut client(&[&bytes], true), method);
        if let Ok(Some(seen)) = ours
            && seen.status != 101
        {
            prop_assert_eq!(hypers(method, &bytes), Ok(seen));
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(bytes in answers(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            if cut > from {
                pieces.push(&bytes[from..cut]);
            }
            from = cut;
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let whole = answer(&mut client(&[&bytes], true), "GET");
        for pieces in [pieces, single] {
            let mut client = client(&pieces, true);
            let cut = answer(&mut client, "GET");
            prop_assert_eq!(&cut, &whole);
            if whole.is_err() {
                prop_assert!(!client.is_idle());
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), chunked in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), Just(b';')], 0..60)) {
        let _any = answer(&mut client(&[&bytes], true), "GET");
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _any = answer(&mut client(&[head, &chunked], true), "GET");
    }
}
