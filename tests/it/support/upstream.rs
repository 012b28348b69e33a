//! An application that keeps every byte it was sent, and answers as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use nullpass::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The answer when nobody says otherwise.
pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Captured {
    /// The head, with the empty line.
    pub(crate) head: String,
    /// The body, decoded.
    pub(crate) body: Vec<u8>,
    /// Everything, as it was sent.
    pub(crate) raw: Vec<u8>,
}

impl Captured {
    /// The request line's target.
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Names, as sent but in lower case, and values.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
    }

    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.fields().into_iter().filter(|(found, _)| found == name).map(|(_, value)| value).collect()
    }

    /// The only value of a field.
    pub(crate) fn one(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "{name} is there {} times", all.len());
        all.pop()
    }
}

type Answer = Arc<dyn Fn(&Captured) -> Vec<u8> + Send + Sync>;

#[derive(Default)]
struct State {
    captured: Vec<Captured>,
    answer: Option<Answer>,
}

/// The application.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let (tasks, state) = (Tasks::new(), Arc::clone(&upstream.state));
        let spawner = tasks.clone();
        drop(tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                drop(spawner.spawn(serve(socket, Arc::clone(&state))));
            }
        }));
        upstream
    }

    /// Answers so from now on: the raw bytes of an answer. None at all: the connection closes.
    pub(crate) fn answer(&self, answer: impl Fn(&Captured) -> Vec<u8> + Send + Sync + 'static) {
        self.state.lock().unwrap().answer = Some(Arc::new(answer));
    }

    /// What arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Captured> {
        std::mem::take(&mut self.state.lock().unwrap().captured)
    }

    /// The only request that arrived since the last time.
    pub(crate) fn only(&self) -> Captured {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.pop().unwrap()
    }
}

async fn serve(mut socket: TcpStream, state: Arc<Mutex<State>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut buffer).await {
        let answer = {
            let mut state = state.lock().unwrap();
            state.captured.push(request.clone());
            state.answer.as_ref().map(Arc::clone)
        };
        let answer = answer.map_or_else(|| OK.to_vec(), |answer| answer(&request));
        if request.target().contains("slow") {
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        }
        if answer.is_empty() || socket.write_all(&answer).await.is_err() {
            return;
        }
        if answer.starts_with(b"HTTP/1.1 101") {
            // From here on it says back whatever it hears.
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                if socket.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
            return;
        }
        if answer.windows(17).any(|window| window.eq_ignore_ascii_case(b"connection: close")) {
            return;
        }
        if answer.windows(12).any(|window| window.eq_ignore_ascii_case(b"x-endless: 1")) {
            // An answer without end: a byte now and then.
            while socket.write_all(b"1\r\n.\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            return;
        }
    }
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Captured> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        more(socket, buffer).await?;
    };
    let mut raw: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8_lossy(&raw).into_owned();
    let mut request = Captured { head, ..Captured::default() };
    if request.all("transfer-encoding").iter().any(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = line(socket, buffer).await?;
            raw.extend_from_slice(&line);
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.trim().split(';').next().unwrap_or_default(), 16).ok()?;
            if size == 0 {
                break;
            }
            while buffer.len() < size + 2 {
                more(socket, buffer).await?;
            }
            let chunk: Vec<u8> = buffer.drain(..size + 2).collect();
            request.body.extend_from_slice(&chunk[..size]);
            raw.extend_from_slice(&chunk);
        }
        loop {
            let trailer = line(socket, buffer).await?;
            raw.extend_from_slice(&trailer);
            if trailer == b"\r\n" {
                break;
            }
        }
    } else if let Some(length) = request.all("content-length").first().and_then(|length| length.parse::<usize>().ok()) {
        while buffer.len() < length {
            more(socket, buffer).await?;
        }
        request.body = buffer.drain(..length).collect();
        raw.extend_from_slice(&request.body);
    }
    request.raw = raw;
    Some(request)
}

async fn line(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") {
            return Some(buffer.drain(..at + 2).collect());
        }
        more(socket, buffer).await?;
    }
}

async fn more(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut bytes = vec![0; 16384];
    let count = socket.read(&mut bytes).await.ok()?;
    buffer.extend_from_slice(&bytes[..count]);
    (count > 0).then_some(())
}
