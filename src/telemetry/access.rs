//! One line a request, on standard output: text for people or JSON for programs.
//!
//! Lines are collected in memory and written by a thread of their own, so that a slow pipe never holds up a request.
//! Never in a line: a token, a password, a code, a cookie, or a query.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Log, LogFormat};
use crate::model::UserId;
use crate::model::text::{push_address, push_number};

/// What waits to be written at most; lines beyond it are dropped and counted.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// How long a line waits at most.
const WRITE_EVERY: Duration = Duration::from_millis(200);

/// A finished request.
#[derive(Debug)]
pub struct Line<'a> {
    /// When it came.
    pub at: Timestamp,
    /// Its id.
    pub request_id: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// From the request's head to the answer's last byte.
    pub duration: Duration,
    /// The upstream's name.
    pub upstream: Option<&'a str>,
    /// From sending the request to the upstream to its answer's head.
    pub upstream_time: Option<Duration>,
    /// Who.
    pub user: Option<UserId>,
    /// What was decided.
    pub decision: &'a str,
}

/// The access log.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    format: LogFormat,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    closed: bool,
    done: bool,
}

impl AccessLog {
    /// Starts the writer, unless `log.access` is off.
    pub fn start(config: &Log) -> std::io::Result<Self> {
        if !config.access {
            return Ok(Self(None));
        }
        let shared =
            Arc::new(Shared { format: config.format, waiting: Mutex::default(), wake: Condvar::new(), dropped: AtomicU64::new(0) });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.write())?;
        Ok(Self(Some(shared)))
    }

    /// Takes a line.
    pub fn line(&self, line: &Line<'_>) {
        let Some(shared) = &self.0 else { return };
        let mut text = String::with_capacity(384);
        match shared.format {
            LogFormat::Text => write_text(&mut text, line),
            LogFormat::Json => write_json(&mut text, line),
        }
        text.push('\n');
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes.len() + text.len() > MAX_WAITING {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes.extend_from_slice(text.as_bytes());
        if waiting.bytes.len() > MAX_WAITING / 4 {
            shared.wake.notify_one();
        }
    }

    /// Lines that were dropped because standard output did not take them.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.dropped.load(Ordering::Relaxed))
    }

    /// Writes what waits, and stops the writer. Blocks for two seconds at most.
    pub fn close(&self) {
        let Some(shared) = &self.0 else { return };
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        shared.wake.notify_all();
        let _done = shared.wake.wait_timeout_while(waiting, Duration::from_secs(2), |waiting| !waiting.done);
    }
}

impl Shared {
    fn write(&self) {
        let mut out = std::io::stdout();
        // Two buffers take turns, so that neither has to grow again.
        let mut bytes = Vec::new();
        loop {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |waiting: &mut Waiting| waiting.bytes.len() <= MAX_WAITING / 4 && !waiting.closed;
            let (mut waiting, _) = self.wake.wait_timeout_while(waiting, WRITE_EVERY, idle).unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut waiting.bytes, &mut bytes);
            let closed = waiting.closed;
            drop(waiting);
            if !bytes.is_empty() && out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            bytes.clear();
            bytes.shrink_to(MAX_WAITING / 2);
            if closed {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).done = true;
                self.wake.notify_all();
                return;
            }
        }
    }
}

fn write_text(text: &mut String, line: &Line<'_>) {
    line.at.push_to(text);
    text.push(' ');
    match line.client {
        Some(client) => push_address(text, client),
        None => text.push('-'),
    }
    text.push_str(" \"");
    text.push_str(line.method);
    text.push(' ');
    push_escaped(text, line.path);
    text.push_str("\" ");
    push_number(text, line.status.into());
    text.push(' ');
    push_number(text, line.bytes);
    text.push_str("B ");
    push_tenths(text, line.duration);
    if let Some(upstream) = line.upstream {
        text.push_str(" upstream=");
        text.push_str(upstream);
    }
    if let Some(time) = line.upstream_time {
        text.push_str(" upstream_time=");
        push_tenths(text, time);
    }
    if let Some(user) = line.user {
        text.push_str(" user=");
        user.push_to(text);
    }
    text.push_str(" decision=");
    text.push_str(line.decision);
    text.push_str(" id=");
    text.push_str(line.request_id);
}

fn write_json(text: &mut String, line: &Line<'_>) {
    let millis = |time: Duration| (time.as_secs_f64() * 1_000_000.0).round() / 1000.0;
    let value = serde_json::json!({
        "time": line.at.to_string(),
        "type": "access",
        "client": line.client.map(|ip| ip.to_string()),
        "method": line.method,
        "path": line.path,
        "status": line.status,
        "bytes": line.bytes,
        "durationMs": millis(line.duration),
        "upstream": line.upstream,
        "upstreamMs": line.upstream_time.map(millis),
        "user": line.user.map(|user| user.to_string()),
        "decision": line.decision,
        "requestId": line.request_id,
    });
    let _infallible = write!(text, "{value}");
}

/// Milliseconds to a tenth. In whole numbers: to write a fraction takes as long as the rest of a line.
fn push_tenths(text: &mut String, time: Duration) {
    let tenths = u64::try_from((time.as_micros() + 50) / 100).unwrap_or(u64::MAX);
    push_number(text, tenths / 10);
    text.push('.');
    push_number(text, tenths % 10);
    text.push_str("ms");
}

/// Control bytes, quotes and backslashes can't end the field they stand in.
fn push_escaped(text: &mut String, value: &str) {
    // Nearly every path is printable ASCII.
    if value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\') {
        text.push_str(value);
        return;
    }
    for c in value.chars() {
        if c.is_control() || matches!(c, '"' | '\\') {
            let _infallible = write!(text, "{}", c.escape_default());
        } else {
            text.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> Line<'_> {
        Line {
            at: Timestamp::from_secs(0),
            request_id: "r1",
            client: None,
            method: "GET",
            path,
            status: 200,
            bytes: 3,
            duration: Duration::from_micros(1500),
            upstream: Some("app"),
            upstream_time: None,
            user: None,
            decision: "allow",
        }
    }

    #[test]
    fn text_lines_can_not_be_broken() {
        let mut text = String::new();
        write_text(&mut text, &line("/a\"\r\nfaked line\u{1b}[0m"));
        assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains(r#"\"\r\nfaked"#), "{text}");
    }

    #[test]
    fn a_text_line_says_it_all_in_order() {
        let mut text = String::new();
        let user = UserId::from_bytes([7; 16]);
        let full = Line {
            client: Some(IpAddr::from([192, 0, 2, 1])),
            upstream_time: Some(Duration::from_millis(1)),
            user: Some(user),
            ..line("/a/b")
        };
        write_text(&mut text, &full);
        let expected = format!(
            "1970-01-01T00:00:00.000Z 192.0.2.1 \"GET /a/b\" 200 3B 1.5ms upstream=app upstream_time=1.0ms user={user} decision=allow id=r1"
        );
        assert_eq!(text, expected);
        text.clear();
        write_text(&mut text, &line("/"));
        assert_eq!(text, "1970-01-01T00:00:00.000Z - \"GET /\" 200 3B 1.5ms upstream=app decision=allow id=r1");
    }

    #[test]
    fn times_are_rounded_to_a_tenth() {
        for (micros, shown) in [(0, "0.0ms"), (49, "0.0ms"), (50, "0.1ms"), (1449, "1.4ms"), (1450, "1.5ms"), (59_999_960, "60000.0ms")] {
            let mut text = String::new();
            push_tenths(&mut text, Duration::from_micros(micros));
            assert_eq!(text, shown, "{micros}");
        }
    }

    #[test]
    fn json_lines_are_json() {
        let mut text = String::new();
        write_json(&mut text, &line("/a\"\n"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], "/a\"\n");
        assert_eq!(value["durationMs"], 1.5);
    }
}
