//! An answer, read off the wire by hand: a library's client would refuse half of what this one has to look at.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes of an answer that are looked at.
const MOST_BYTES: usize = 256 << 10;

/// What came back. Nothing at all has status 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status of the final answer; 0: the connection ended without one.
    pub status: u16,
    /// `Location`.
    pub location: Option<String>,
    /// The beginning of the body, as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads until the answer is whole, the other side ends it, or there is more of it than anybody looks at.
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), to_head: bool) -> Self {
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = parse(&bytes, to_head, false) {
                return answer;
            }
            let mut part = [0; 8192];
            let more = match stream.read(&mut part).await {
                Ok(count) => part.get(..count).unwrap_or_default(),
                Err(_) => &[],
            };
            if more.is_empty() || bytes.len() > MOST_BYTES {
                return parse(&bytes, to_head, true).unwrap_or_default();
            }
            bytes.extend_from_slice(more);
        }
    }
}

/// The final answer in `bytes`, if it is whole, or as much of it as there is when nothing follows.
fn parse(bytes: &[u8], to_head: bool, ended: bool) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(bytes).ok()? else { return None };
    let (status, body) = (response.code?, bytes.get(length..).unwrap_or_default());
    if (100..200).contains(&status) && status != 101 {
        return parse(body, to_head, ended);
    }
    let field = |name: &str| response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value);
    let is_whole = match field("content-length").and_then(|length| str::from_utf8(length).ok()?.trim().parse::<usize>().ok()) {
        _ if to_head || matches!(status, 101 | 204 | 304) => true,
        Some(length) => body.len() >= length,
        None => field("transfer-encoding").is_some() && body.ends_with(b"0\r\n\r\n"),
    };
    (is_whole || ended).then(|| Answer {
        status,
        location: field("location").map(|to| String::from_utf8_lossy(to).into_owned()),
        body: body.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut bytes: &[u8], to_head: bool) -> Answer {
        Answer::read(&mut bytes, to_head).await
    }

    #[tokio::test]
    async fn answers_are_read_as_far_as_they_come() {
        let answer =
            read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nokmore", false).await;
        assert_eq!((answer.status, answer.location.as_deref()), (302, Some("/x")));
        assert_eq!(
            read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false).await.text(),
            "2\r\nok\r\n0\r\n\r\n"
        );
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", false).await.text(), "cut");
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true).await.status, 200);
        for nothing in [&b""[..], b"HTTP/1.1 20", b"nonsense\r\n\r\n"] {
            assert_eq!(read(nothing, false).await, Answer::default());
        }
    }
}
