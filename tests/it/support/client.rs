//! A client that writes bytes, and one that keeps cookies like a browser.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The first value of a field, or nothing.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The `code` of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Fails unless it is this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.fields);
        self
    }

    /// The value that it sets a cookie to.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        let pairs = self.all("set-cookie").into_iter().filter_map(|line| line.split(';').next()?.split_once('='));
        pairs.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned()).next_back()
    }
}

/// One connection, written to by hand.
pub(crate) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self { socket: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // What is refused early may be refused while it is still being written.
        let _refused = self.socket.write_all(bytes).await;
    }

    /// Writes a request and reads its answer.
    pub(crate) async fn send(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: app.example.com\r\n");
        }
        for (name, value) in fields {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if !body.is_empty() {
            head.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
        }
        head.push_str("\r\n");
        self.write(&[head.as_bytes(), body].concat()).await;
        self.answer(method == "HEAD").await.unwrap_or_else(|| panic!("no answer to {head}"))
    }

    /// Reads an answer; `None`: the connection ended.
    pub(crate) async fn answer(&mut self, to_head: bool) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer(to_head)).await.expect("an answer in time")
    }

    async fn read_answer(&mut self, to_head: bool) -> Option<Answer> {
        loop {
            let end = loop {
                if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                self.more().await?;
            };
            let head = String::from_utf8_lossy(&self.buffer.drain(..end).collect::<Vec<_>>()).into_owned();
            let mut lines = head.split("\r\n");
            let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
            let fields = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
            let mut answer = Answer { status, fields: fields.collect(), body: Vec::new() };
            if status == 100 {
                continue;
            }
            if to_head || status < 200 || status == 204 || status == 304 {
                return Some(answer);
            }
            if answer.field("transfer-encoding").eq_ignore_ascii_case("chunked") {
                loop {
                    let line = self.line().await?;
                    let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
                    while self.buffer.len() < size + 2 && size > 0 {
                        self.more().await?;
                    }
                    if size == 0 {
                        while self.line().await?.trim() != "" {}
                        return Some(answer);
                    }
                    let chunk: Vec<u8> = self.buffer.drain(..size + 2).collect();
                    answer.body.extend_from_slice(&chunk[..size]);
                }
            }
            match answer.field("content-length").parse::<usize>() {
                Ok(length) => {
                    while self.buffer.len() < length {
                        self.more().await?;
                    }
                    answer.body = self.buffer.drain(..length).collect();
                }
                Err(_) => {
                    while self.more().await.is_some() {}
                    answer.body = std::mem::take(&mut self.buffer);
                }
            }
            return Some(answer);
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                return Some(String::from_utf8_lossy(&self.buffer.drain(..at + 2).collect::<Vec<_>>()).into_owned());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut bytes = vec![0; 16384];
        let count = self.socket.read(&mut bytes).await.ok()?;
        self.buffer.extend_from_slice(&bytes[..count]);
        (count > 0).then_some(())
    }

    /// Reads at least one byte; none: the connection ended.
    pub(crate) async fn read(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.more().await;
        }
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the other side ends the connection; how long it took.
    pub(crate) async fn ended(&mut self) -> Duration {
        let began = tokio::time::Instant::now();
        tokio::time::timeout(PATIENCE, async { while self.more().await.is_some() {} }).await.expect("the end of the connection");
        began.elapsed()
    }
}
