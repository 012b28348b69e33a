//! Everything that can go wrong between us and an upstream, and when: the client gets the right status or a clean cut,
//! nothing is sent twice, and nothing is left open.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nullpass::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::support::*;

/// What an upstream does next with a connection.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Reads a head.
    Head,
    /// Reads until the request's body has come, if it has one.
    Body,
    Say(&'static str),
    /// Says `X-Long: aaa…` of so many bytes, as far as somebody takes it.
    Long(usize),
    /// Closes with a reset instead of an end.
    Reset,
    /// Does nothing until the other side closes.
    Hang,
}

use Step::{Body, Hang, Head, Long, Reset, Say};

/// What the client must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// A whole answer of ours.
    Ours(u16),
    /// The upstream's answer with this body, whole.
    Whole(&'static str),
    /// The upstream's answer up to here, and then a visible end.
    Cut(&'static str),
}

use Gets::{Cut, Ours, Whole};

const FAULTS: &[(&str, &[Step], Gets)] = &[
    ("closes at once", &[], Ours(502)),
    ("resets at once", &[Reset], Ours(502)),
    ("closes after the head", &[Head], Ours(502)),
    ("closes after the request", &[Head, Body], Ours(502)),
    ("resets after the request", &[Head, Body, Reset], Ours(502)),
    ("closes in the status line", &[Head, Body, Say("HTTP/1.")], Ours(502)),
    ("closes in the answer's head", &[Head, Body, Say("HTTP/1.1 200 OK\r\nContent-Le")], Ours(502)),
    ("resets in the answer's head", &[Head, Body, Say("HTTP/1.1 200 OK\r\nX: 1\r\n"), Reset], Ours(502)),
    ("closes after a 100", &[Head, Body, Say("HTTP/1.1 100 Continue\r\n\r\n")], Ours(502)),
    ("another protocol", &[Head, Body, Say("SSH-2.0-OpenSSH_9.6\r\n"), Hang], Ours(502)),
    ("garbage", &[Head, Body, Say("\u{1}\u{2}\u{3}\r\n\r\n\r\n"), Hang], Ours(502)),
    ("bad length", &[Head, Body, Say("HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello"), Hang], Ours(502)),
    ("two lengths", &[Head, Body, Say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), Hang], Ours(502)),
    ("a header of 20 MiB", &[Head, Body, Say("HTTP/1.1 200 OK\r\n"), Long(20 << 20), Say("\r\n\r\n"), Hang], Ours(502)),
    (
        "a hundred KiB of header",
        &[Head, Body, Say("HTTP/1.1 200 OK\r\n"), Long(100 << 10), Say("\r\nContent-Length: 2\r\n\r\nok")],
        Whole("ok"),
    ),
    ("nothing at all", &[Head, Body, Hang], Ours(504)),
    ("half a head and then nothing", &[Head, Body, Say("HTTP/1.1 200 OK\r\nX"), Hang], Ours(504)),
    ("less than its length", &[Head, Body, Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")], Cut("half")),
    ("less than its length, reset", &[Head, Body, Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), Reset], Cut("half")),
    ("less than its length, silent", &[Head, Body, Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), Hang], Cut("half")),
    ("chunks without an end", &[Head, Body, Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")], Cut("half")),
    ("a chunk cut short", &[Head, Body, Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf")], Cut("half")),
    ("a bad chunk", &[Head, Body, Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"), Hang], Cut("half")),
    ("an end is an end", &[Head, Body, Say("HTTP/1.1 200 OK\r\n\r\nall")], Whole("all")),
    (
        "more than its length",
        &[Head, Body, Say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), Hang],
        Whole("ok"),
    ),
    ("early, whole", &[Head, Say("HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")], Whole("big")),
    ("early, chunked", &[Head, Say("HTTP/1.1 413 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n"), Hang], Whole("big")),
];

async fn act(socket: &mut TcpStream, steps: &[Step], requests: &Count) {
    let mut told = String::new();
    for step in steps {
        match *step {
            Head => {
                told = head(socket).await;
                if told.is_empty() {
                    return;
                }
                requests.add(1);
            }
            Body => {
                if told.contains("content-length: ") {
                    drop(until(socket, b"end").await);
                }
            }
            Say(text) => {
                if socket.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Long(size) => {
                let _begun = socket.write_all(b"X-Long: ").await;
                for _ in 0..size / 1024 {
                    if socket.write_all(&[b'a'; 1024]).await.is_err() {
                        return;
                    }
                }
            }
            Reset => {
                socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Hang => {
                let mut rest = Vec::new();
                let _closed = socket.read_to_end(&mut rest).await;
            }
        }
    }
}

/// A front before an upstream that does this with its first connection, answers "next" on all others, and counts requests.
async fn faulty(steps: &'static [Step], patience: Duration) -> (Front, Count) {
    let requests = Count::default();
    let count = requests.clone();
    let address = upstream(move |mut socket, number| {
        let count = count.clone();
        async move {
            if number == 0 {
                act(&mut socket, steps, &count).await;
                return;
            }
            while !head(&mut socket).await.is_empty() {
                count.add(1);
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await.unwrap();
            }
        }
    })
    .await;
    let mut config = upstream_at(address);
    config.retries = 3;
    config.response_timeout = patience;
    config.stream_idle_timeout = patience;
    (front(config, How::default()).await, requests)
}

/// Waits until nothing is left of what went on: no request, no connection that is not idle, no task but the listener's.
async fn all_is_quiet(front: &Front, open: u64, name: &str) {
    let counters = &front.proxy.counters().upstreams()[0];
    let quiet = async {
        // One that sweeps while there is an idle connection.
        while counters.in_flight.load(Ordering::Relaxed) > 0
            || counters.open.load(Ordering::Relaxed) > open
            || front.tasks.len() > 1 + usize::try_from(open).unwrap()
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let what = || format!("{name}: {counters:?}, {} tasks", front.tasks.len());
    tokio::time::timeout(Duration::from_secs(10), quiet).await.unwrap_or_else(|_| panic!("{}", what()));
}

/// What came, from an answer up to the end of the stream.
fn gets(answer: &str) -> Gets {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    let head = head.to_lowercase();
    let ours = ["Unreachable", "BrokenOff", "BadResponse", "TooSlow"].contains(&body);
    if ours {
        return Ours(head.split(' ').nth(1).unwrap().parse().unwrap());
    }
    let (text, whole) = if head.contains("transfer-encoding: chunked") {
        let text: String = body.split("\r\n").skip(1).step_by(2).collect();
        (text, body.ends_with("0\r\n\r\n"))
    } else {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|length| length.parse::<usize>().unwrap());
        (body.to_owned(), length.is_none_or(|length| length == body.len()))
    };
    let text: &'static str = ["half", "big", "all", "ok", "next", ""].into_iter().find(|known| *known == text).unwrap_or("something else");
    if whole { Whole(text) } else { Cut(text) }
}

fn requests() -> [(&'static str, String); 3] {
    let body = "Content-Length: 6\r\n\r\nbodend";
    [
        ("GET", get("/")),
        ("POST", get("/").replace("GET", "POST").replace("\r\n\r\n", &format!("\r\n{body}"))),
        ("DELETE", get("/").replace("GET", "DELETE")),
    ]
}

#[tokio::test]
async fn each_fault_has_its_answer_and_leaves_nothing_behind() {
    let mut all = Vec::new();
    for (fault, steps, expected) in FAULTS {
        for (method, request) in requests() {
            all.push(async move {
                let name = format!("{fault} ({method})");
                let (front, count) = faulty(steps, Duration::from_millis(700)).await;
                let answer = ask(&front, &request).await;
                assert_eq!(gets(&answer), *expected, "{name}: {answer:?}");
                // A connection that was new when it broke may have brought its request; one that broke before was not
                // told anything, as far as we know.
                assert!(count.get() <= 1, "{name}: sent {} times", count.get());
                // "more than its length": closed before, or when, the next one comes.
                let open = u64::from(*fault == "more than its length");
                all_is_quiet(&front, open, &name).await;
                // Whatever was left over answers nobody else's request.
                assert_eq!(gets(&ask(&front, get("/")).await), Whole("next"), "{name}");
                drop(front);
            });
        }
    }
    // Some at a time: most of it is waiting.
    let tasks = Tasks::new();
    while !all.is_empty() {
        let some: Vec<_> = all.drain(..all.len().min(9)).map(|one| tasks.spawn(one)).collect();
        for one in some {
            within(one).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    for (fault, steps, expected) in FAULTS.iter().filter(|(name, ..)| name.starts_with("early")) {
        let (front, count) = faulty(steps, Duration::from_secs(5)).await;
        // The rest of the body never comes, so the connection can't go on: the answer, whole, and then its end.
        let mut socket = send(&front, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await;
        let mut got = Vec::new();
        within(socket.read_to_end(&mut got)).await.unwrap();
        assert_eq!(gets(&String::from_utf8(got).unwrap()), *expected, "{fault}");
        assert_eq!(count.get(), 1, "{fault}");
        all_is_quiet(&front, 0, fault).await;
    }
}

/// Where a client vanishes: what it sends before, what it waits for, and what the upstream does meanwhile.
const VANISHINGS: &[(&str, &str, &str, &[Step])] = &[
    ("in its head", "GET / HTTP/1.1\r\nHo", "", &[Hang]),
    ("before the answer", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", &[Head, Hang]),
    ("in its body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nha", "", &[Head, Hang]),
    ("in a chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nha", "", &[Head, Hang]),
    ("after its body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nend", "", &[Head, Body, Hang]),
    ("in the answer's head", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", &[Head, Say("HTTP/1.1 200 OK\r\nX: "), Hang]),
    (
        "after the answer's head",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\n",
        &[Head, Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), Hang],
    ),
    (
        "in the answer's body",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "half",
        &[Head, Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), Hang],
    ),
    (
        "in an early answer, still sending",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nha",
        "half",
        &[Head, Say("HTTP/1.1 413 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"), Hang],
    ),
];

#[tokio::test]
async fn a_client_that_vanishes_takes_everything_along() {
    for reset in [false, true] {
        for (name, sent, awaited, steps) in VANISHINGS {
            let name = format!("{name}, reset: {reset}");
            let (front, count) = faulty(steps, Duration::from_secs(60)).await;
            let mut socket = send(&front, sent).await;
            if awaited.is_empty() {
                let arrives = usize::from(matches!(steps[0], Head));
                eventually(|| count.get() == arrives).await;
            } else {
                let mut got = String::new();
                within(async {
                    while !got.ends_with(awaited) && !got.contains(&format!("{awaited}\r\n")) {
                        let byte = socket.read_u8().await.unwrap();
                        let _always = got.write_char(char::from(byte));
                    }
                })
                .await;
            }
            if reset {
                socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(socket);
            all_is_quiet(&front, 0, &name).await;
            assert!(count.get() <= 1, "{name}");
            // In the first case nothing has come to the upstream yet, whose first connection waits.
            if matches!(steps[0], Head) {
                assert_eq!(gets(&ask(&front, get("/")).await), Whole("next"), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_left_on_a_connection_answers_nobody() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for wait in [0, 50] {
        let address = upstream(move |mut socket, number| async move {
            let mut first = number == 0;
            while !head(&mut socket).await.is_empty() {
                let text = if first {
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
                };
                if wait == 0 && first {
                    let _sent = socket.write_all(format!("{text}{EVIL}").as_bytes()).await;
                } else {
                    let _sent = socket.write_all(text.as_bytes()).await;
                    if first {
                        sleep(Duration::from_millis(wait)).await;
                        let _sent = socket.write_all(EVIL.as_bytes()).await;
                    }
                }
                first = false;
            }
        })
        .await;
        let front = front(upstream_at(address), How::default()).await;
        assert_eq!(gets(&ask(&front, get("/")).await), Whole("ok"));
        sleep(Duration::from_millis(2 * wait)).await;
        for _ in 0..3 {
            assert_eq!(gets(&ask(&front, get("/")).await), Whole("next"), "after {wait} ms");
        }
    }
}

#[tokio::test]
async fn what_a_204_announces_is_not_waited_for_on_a_connection_that_goes_on() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for fields in [format!("Content-Length: {}\r\n", EVIL.len()), "Transfer-Encoding: chunked\r\n".to_owned()] {
        let address = upstream(move |mut socket, number| {
            let first = format!("HTTP/1.1 204 No Content\r\n{fields}\r\n");
            async move {
                let _head = head(&mut socket).await;
                if number == 0 {
                    socket.write_all(first.as_bytes()).await.unwrap();
                    // Until the next request has come on this connection, if it does.
                    let _head = head(&mut socket).await;
                    let _sent = socket.write_all(EVIL.as_bytes()).await;
                } else {
                    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await.unwrap();
                }
            }
        })
        .await;
        let front = front(upstream_at(address), How::default()).await;
        assert!(ask(&front, get("/")).await.starts_with("HTTP/1.1 204 "));
        assert_eq!(gets(&ask(&front, get("/")).await), Whole("next"));
    }
}

#[tokio::test]
async fn interim_answers_buy_an_upstream_no_time() {
    let address = upstream(|mut socket, _| async move {
        let _head = head(&mut socket).await;
        // Fewer than are taken at all, each sooner than the time is up.
        for _ in 0..10 {
            if socket.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_err() {
                return;
            }
            sleep(Duration::from_millis(150)).await;
        }
        let _late = socket.write_all(OK).await;
    })
    .await;
    let mut config = upstream_at(address);
    config.response_timeout = Duration::from_millis(400);
    let front = front(config, How::default()).await;
    assert_eq!(gets(&ask(&front, get("/")).await), Ours(504));
    all_is_quiet(&front, 0, "interim answers").await;
}
