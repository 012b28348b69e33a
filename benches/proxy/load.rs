//! The load that neither wrk nor h2load makes: WebSocket messages, many tokens in turn, and a fixed rate.
//!
//! ```text
//! load echo  PORT                                           a WebSocket server that sends back what it gets
//! load ws    PORT PATH CONNECTIONS SECONDS TOKENS           one message of 64 bytes at a time on each connection
//! load turn  PORT PATH CONNECTIONS SECONDS TOKENS START       GETs, each with the file's next token, from the START-th on
//! load rate  PORT PATH CONNECTIONS SECONDS TOKENS PER_SECOND  GETs at fixed times, whether or not answers keep up
//! ```
//!
//! One thread and one blocking socket a connection, and nothing but the standard library, so that
//! `rustc -O` builds it in seconds. One line of JSON comes out. With `rate` a latency counts from the moment at which the
//! request was due, so that a stall is seen by all that it delayed.

#![expect(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a load generator without a runtime: it blocks, prints, and stops when it can't go on"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// The key and its answer from RFC 6455, section 1.3: sparing us SHA-1.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Bytes in a WebSocket message; under 126, so that the frame's head has two bytes.
const MESSAGE: usize = 64;

/// No answer takes longer than this unless something is broken.
const STUCK: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", port] => echo(port.parse().expect("a port")),
        [mode @ ("ws" | "turn" | "rate"), port, path, connections, seconds, tokens, rest @ ..] => {
            let last = rest.first().copied().unwrap_or("0");
            let work = Work {
                mode: match *mode {
                    "ws" => Mode::WebSocket,
                    "turn" => Mode::Turn,
                    _ => Mode::Rate(last.parse().expect("a rate")),
                },
                port: port.parse().expect("a port"),
                path: (*path).to_owned(),
                connections: connections.parse().expect("a number of connections"),
                time: Duration::from_secs_f64(seconds.parse().expect("seconds")),
                tokens: std::fs::read_to_string(tokens).expect("a file of tokens").lines().map(str::to_owned).collect(),
                next: AtomicUsize::new(if *mode == "turn" { last.parse().expect("where to start") } else { 0 }),
            };
            run(work);
        }
        // `cargo bench` runs whatever is there.
        _ => eprintln!("usage: load echo PORT | load ws|turn|rate PORT PATH CONNECTIONS SECONDS TOKENS [START|PER_SECOND]"),
    }
}

#[derive(Clone, Copy)]
enum Mode {
    WebSocket,
    Turn,
    /// Requests a second, all connections together.
    Rate(f64),
}

struct Work {
    mode: Mode,
    port: u16,
    path: String,
    connections: usize,
    time: Duration,
    tokens: Vec<String>,
    next: AtomicUsize,
}

impl Work {
    fn token(&self) -> &str {
        &self.tokens[self.next.fetch_add(1, Ordering::Relaxed) % self.tokens.len()]
    }
}

fn run(work: Work) {
    let work = Arc::new(work);
    let ready = Arc::new(Barrier::new(work.connections + 1));
    let threads: Vec<_> = (0..work.connections)
        .map(|nth| {
            let (work, ready) = (Arc::clone(&work), Arc::clone(&ready));
            thread::Builder::new().stack_size(256 * 1024).spawn(move || client(&work, nth, &ready)).expect("a thread")
        })
        .collect();
    ready.wait();
    let began = Instant::now();
    let mut latencies: Vec<u32> = Vec::new();
    for thread in threads {
        match thread.join().expect("a thread that ends") {
            Ok(mut own) => latencies.append(&mut own),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let quantile = |thousandths: usize| latencies.get((latencies.len() * thousandths / 1000).min(latencies.len().saturating_sub(1)));
    let (median, late) = (quantile(500).copied().unwrap_or(0), quantile(990).copied().unwrap_or(0));
    println!(r#"{{"count": {}, "seconds": {seconds:.6}, "p50_us": {median}, "p99_us": {late}}}"#, latencies.len());
}

/// Latencies in µs.
fn client(work: &Work, nth: usize, ready: &Barrier) -> Result<Vec<u32>, String> {
    // Everybody must come to the barrier, also who could not connect.
    let opened = Connection::open(work);
    ready.wait();
    let mut connection = opened?;
    let began = Instant::now();
    let mut latencies = Vec::with_capacity(1 << 14);
    for count in 0_u32.. {
        let from = match work.mode {
            Mode::Rate(rate) => {
                #[expect(clippy::cast_precision_loss, reason = "there are some dozens of connections")]
                let due = Duration::from_secs_f64((nth as f64 + f64::from(count) * work.connections as f64) / rate);
                if due >= work.time {
                    break;
                }
                thread::sleep(due.saturating_sub(began.elapsed()));
                began + due
            }
            Mode::WebSocket | Mode::Turn => Instant::now(),
        };
        if began.elapsed() >= work.time + STUCK || (!matches!(work.mode, Mode::Rate(_)) && began.elapsed() >= work.time) {
            break;
        }
        match work.mode {
            Mode::WebSocket => connection.message()?,
            Mode::Turn | Mode::Rate(_) => connection.get(work)?,
        }
        latencies.push(u32::try_from(from.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}

struct Connection {
    stream: TcpStream,
    /// What was read and not used.
    buffer: Vec<u8>,
    request: Vec<u8>,
}

impl Connection {
    fn open(work: &Work) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", work.port)).map_err(|error| format!("connecting: {error}"))?;
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(STUCK))).map_err(|error| error.to_string())?;
        let mut connection = Self { stream, buffer: Vec::with_capacity(1 << 16), request: Vec::with_capacity(4096) };
        if matches!(work.mode, Mode::WebSocket) {
            let upgrade = format!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n");
            let head = connection.ask(work, &upgrade)?;
            if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
                return Err(format!("no upgrade: {head}"));
            }
        }
        Ok(connection)
    }

    /// Sends a GET and gives the answer's head, whose end is where the buffer begins.
    fn ask(&mut self, work: &Work, more: &str) -> Result<String, String> {
        self.request.clear();
        let token = work.token();
        write!(self.request, "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {token}\r\n{more}\r\n", work.path, work.port)
            .expect("a vector takes everything");
        self.stream.write_all(&self.request).map_err(|error| format!("sending: {error}"))?;
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return Ok(head);
            }
            self.read()?;
        }
    }

    fn get(&mut self, work: &Work) -> Result<(), String> {
        let head = self.ask(work, "")?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(format!("not 200: {head}"));
        }
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .ok_or_else(|| format!("no length: {head}"))?;
        self.skip(length)
    }

    /// Sends a masked message (RFC 6455, section 5.3) and takes what comes back.
    fn message(&mut self) -> Result<(), String> {
        let mut frame = [0_u8; 6 + MESSAGE];
        frame[0] = 0x82;
        frame[1] = 0x80 | u8::try_from(MESSAGE).expect("a short message");
        self.stream.write_all(&frame).map_err(|error| format!("sending: {error}"))?;
        while self.buffer.len() < 2 + MESSAGE {
            self.read()?;
        }
        if self.buffer[..2] != [0x82, u8::try_from(MESSAGE).expect("a short message")] {
            return Err(format!("not the message: {:?}", &self.buffer[..2]));
        }
        self.skip(2 + MESSAGE)
    }

    fn skip(&mut self, count: usize) -> Result<(), String> {
        while self.buffer.len() < count {
            self.read()?;
        }
        self.buffer.drain(..count);
        Ok(())
    }

    fn read(&mut self) -> Result<(), String> {
        let mut piece = [0_u8; 1 << 14];
        match self.stream.read(&mut piece) {
            Ok(0) => Err("the connection was closed".to_owned()),
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(error) => Err(format!("receiving: {error}")),
        }
    }
}

/// Until it is ended from outside.
fn echo(port: u16) {
    for stream in TcpListener::bind(("127.0.0.1", port)).expect("a free port").incoming().flatten() {
        thread::spawn(move || serve(stream));
    }
}

/// One WebSocket whose messages are all short; whatever else it is ends the connection.
fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut waiting, mut piece) = (Vec::new(), [0_u8; 1 << 14]);
    let head = loop {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        waiting.extend_from_slice(&piece[..count]);
        if let Some(end) = waiting.windows(4).position(|four| four == b"\r\n\r\n") {
            break waiting.drain(..end + 4).collect::<Vec<u8>>();
        }
    };
    if !String::from_utf8_lossy(&head).contains(KEY) {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").ok()?;
        return None;
    }
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
    stream.write_all(answer.as_bytes()).ok()?;
    loop {
        while let Some((length, frame)) =
            waiting.get(1).map(|second| usize::from(second & 0x7f)).and_then(|length| Some((length, waiting.get(..6 + length)?)))
        {
            // A close, or a length that takes more than two bytes to write.
            if frame[0] != 0x82 || length > 125 {
                return None;
            }
            let mut back = vec![0x82, frame[1] & 0x7f];
            back.extend(frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask));
            stream.write_all(&back).ok()?;
            waiting.drain(..6 + length);
        }
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        waiting.extend_from_slice(&piece[..count]);
    }
}
