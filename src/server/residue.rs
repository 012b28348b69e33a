//! Whether hyper's read buffer can hold anything of a next request. hyper does not say, so the bytes that it was given are
//! measured against the requests that it has handed over. Only when both agree to the byte is a connection taken from it;
//! whatever can't be told leaves the connection with hyper, which costs memory and nothing else.
//!
//! hyper hands a request over once its head is complete, and the next one only when it has read the body before it. So when
//! the last request it handed over has no body and the last bytes it was given end a head (`CR LF CR LF`), nothing can
//! follow: what followed would be an unfinished head, and that does not end so. When that request has a `Content-Length`,
//! nothing follows if exactly so many bytes came behind its head. Chunked bodies are left alone: their data could look
//! like anything.

/// What ends a head.
const END: [u8; 4] = *b"\r\n\r\n";

/// Marks in [`Residue::encoded`] that the last bytes ended a head.
const ENDS_HEAD: u64 = 1 << 63;

/// Marks that it is not known how many bytes came behind the head.
const LOST: u64 = 1 << 62;

/// How far the bytes that were read have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Of a head, so many bytes of its end were seen last.
    Head(u8),
    /// So many bytes were read behind the head's end.
    Beyond(u64),
    /// It was not counted, or a head began before all that came earlier was accounted for.
    Lost,
}

/// What was read since hyper's buffer was last known to be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Residue {
    phase: Phase,
    ends_head: bool,
    began: bool,
}

impl Residue {
    /// An empty buffer.
    pub(super) const fn new() -> Self {
        Self { phase: Phase::Head(0), ends_head: false, began: false }
    }

    /// Takes note of bytes that hyper is given. `none`: see [`Residue::is_none`]; `busy`: a request is being answered.
    pub(super) fn read(&mut self, bytes: &[u8], busy: bool, none: bool) {
        if bytes.is_empty() {
            return;
        }
        if !busy && self.phase != Phase::Head(0) {
            self.phase = match (none, self.phase) {
                (true, _) => Phase::Head(0),
                // A head that comes in pieces.
                (false, Phase::Head(seen)) => Phase::Head(seen),
                (false, Phase::Beyond(_) | Phase::Lost) => Phase::Lost,
            };
        }
        self.began = true;
        self.ends_head = bytes.ends_with(&END);
        self.phase = match self.phase {
            // Nearly every request: no body follows, and where its head ends need not be looked for.
            Phase::Head(0) if self.ends_head && matches!(bytes.first(), Some(b'G' | b'H' | b'O')) => Phase::Lost,
            Phase::Head(seen) => scan(seen, bytes),
            Phase::Beyond(count) => Phase::Beyond(count.saturating_add(bytes.len() as u64)),
            Phase::Lost => Phase::Lost,
        };
    }

    /// For an atomic.
    pub(super) fn encoded(&self) -> u64 {
        let ends = if self.ends_head { ENDS_HEAD } else { 0 };
        ends | match self.phase {
            Phase::Beyond(count) => count.min(LOST - 1),
            Phase::Head(_) if !self.began => 0,
            Phase::Head(_) | Phase::Lost => LOST,
        }
    }

    /// Whether nothing can be left, by [`Residue::encoded`] and the length of the last request's body (`u64::MAX`: chunked).
    pub(super) const fn is_none(encoded: u64, body_length: u64) -> bool {
        let ends_head = encoded & ENDS_HEAD != 0;
        (body_length == 0 && ends_head) || encoded & !ENDS_HEAD == body_length
    }
}

/// Looks for the end of a head of which `seen` bytes have come.
fn scan(seen: u8, bytes: &[u8]) -> Phase {
    let mut seen = usize::from(seen);
    for (at, byte) in bytes.iter().enumerate() {
        seen = match END.get(seen) {
            Some(expected) if expected == byte => seen + 1,
            Some(_) | None => usize::from(*byte == b'\r'),
        };
        if seen == END.len() {
            return Phase::Beyond((bytes.len() - at - 1) as u64);
        }
    }
    Phase::Head(u8::try_from(seen).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// hyper, as far as it matters: it takes whole heads, and the next one when the body before it was read.
    #[derive(Default)]
    struct Reader {
        buffer: Vec<u8>,
        body: Option<u64>,
        waiting: u64,
        handed_over: usize,
    }

    impl Reader {
        /// Goes on as far as it can; whether a request was handed over.
        fn go_on(&mut self) -> bool {
            let taken = (self.buffer.len() as u64).min(self.waiting);
            self.buffer.drain(..usize::try_from(taken).unwrap());
            self.waiting -= taken;
            if self.waiting > 0 {
                return false;
            }
            let Some(end) = self.buffer.windows(4).position(|window| window == END) else { return false };
            let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
            let head = String::from_utf8(head).unwrap();
            let length = head.split("Length: ").nth(1).map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
            (self.body, self.waiting) = (Some(length), length);
            self.handed_over += 1;
            true
        }
    }

    fn request() -> impl Strategy<Value = Vec<u8>> {
        let body = prop::collection::vec(prop::sample::select(b"\r\nG x".to_vec()), 0..12);
        (prop::option::of(body), 0..4_usize).prop_map(|(body, fields)| {
            let mut text = b"GET /a HTTP/1.1\r\n".to_vec();
            for _ in 0..fields {
                text.extend_from_slice(b"X: y\r\n");
            }
            if let Some(body) = &body {
                text.extend_from_slice(format!("Length: {}\r\n", body.len()).as_bytes());
            }
            text.extend_from_slice(b"\r\n");
            text.extend_from_slice(&body.unwrap_or_default());
            text
        })
    }

    proptest! {
        // Nothing that was read may be lost: "nothing left" is only said when that is so.
        #[test]
        fn nothing_left_means_nothing_left(
            requests in prop::collection::vec(request(), 1..6),
            cuts in prop::collection::vec(1..40_usize, 1..60),
            pauses in prop::collection::vec(any::<bool>(), 60),
        ) {
            let all: Vec<u8> = requests.concat();
            let (mut residue, mut reader, mut rest) = (Residue::new(), Reader::default(), &all[..]);
            let (mut busy, mut cuts, mut pauses) = (false, cuts.iter().cycle(), pauses.iter().cycle());
            let body = |reader: &Reader| reader.body.unwrap_or(0);
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = later;
                residue.read(now, busy, Residue::is_none(residue.encoded(), body(&reader)));
                reader.buffer.extend_from_slice(now);
                busy |= reader.go_on();
                // Now and then the answer is through, and hyper looks for the next request in what it has.
                if *pauses.next().unwrap() {
                    busy = false;
                    while reader.waiting == 0 && reader.go_on() {}
                    if reader.waiting == 0 && Residue::is_none(residue.encoded(), body(&reader)) {
                        prop_assert!(reader.buffer.is_empty(), "{:?}", String::from_utf8_lossy(&reader.buffer));
                    }
                }
            }
        }
    }

    fn after(reads: &[(&[u8], bool)], length: u64) -> bool {
        let mut residue = Residue::new();
        for (bytes, busy) in reads {
            let none = Residue::is_none(residue.encoded(), length);
            residue.read(bytes, *busy, none);
        }
        Residue::is_none(residue.encoded(), length)
    }

    #[test]
    fn ordinary_requests_leave_nothing() {
        assert!(after(&[], 0));
        assert!(after(&[(b"GET / HTTP/1.1\r\n\r\n", false)], 0));
        assert!(after(&[(b"GET / HTTP/1.1\r\n", false), (b"A: b\r\n\r", false), (b"\n", false)], 0));
        assert!(after(&[(b"POST / HTTP/1.1\r\nLength: 3\r\n\r\nabc", false)], 3));
        assert!(after(&[(b"POST / HTTP/1.1\r\nLength: 3\r\n\r\n", false), (b"ab", true), (b"c", true)], 3));
        assert!(after(&[(b"POST / HTTP/1.1\r\nLength: 3\r\n\r\nabc", false), (b"POST / HTTP/1.1\r\nLength: 3\r\n\r\nabc", false)], 3));
    }

    #[test]
    fn what_may_be_left_is_said() {
        assert!(!after(&[(b"GET / HTTP/1.1\r\n\r\nGET", false)], 0));
        assert!(!after(&[(b"GET / HTTP/1.1\r\n\r\n", false), (b"GE", true)], 0));
        assert!(!after(&[(b"POST / HTTP/1.1\r\nLength: 3\r\n\r\nabcGET", false)], 3));
        assert!(!after(&[(b"POST / HTTP/1.1\r\nLength: 3\r\n\r\nab", false)], 3));
        // The body's last bytes look like the end of a head, and more of it is to come.
        assert!(!after(&[(b"POST / HTTP/1.1\r\nLength: 9\r\n\r\n\r\n\r\n", false)], 9));
        assert!(!after(&[(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false)], u64::MAX));
    }
}
