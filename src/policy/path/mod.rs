//! The one place that says what a path means. Servers disagree about `%2f`, `%3f`, `\`, `;`, `//` and double encoding, so a
//! path that holds any of these is not brought to *one* form: it is read in *every* way a server is known to read it,
//! and the caller lets it through only when its decision is the same for all of them ([`Readings::agree`]). The
//! bytes that are forwarded are always those that were received (requirements PATH-1 to PATH-6).
//!
//! A reading is decoded text. A `/` that came from an escape and is not taken for a separator stands in it as `%2F`.

use thiserror::Error;

/// Longest path that is looked at, in bytes: about what nginx and Apache take for a whole request line.
pub const MAX_BYTES: usize = 8192;

/// Most ways to read a path before it counts as ambiguous by itself: bounds the work that one request can ask for.
/// What honest clients send has one to four.
pub const MAX_READINGS: usize = 32;

/// Everything that a path can mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readings<'a> {
    /// The path means what it says.
    Plain(&'a str),
    /// Each distinct reading, that of a server that decodes once and takes nothing but a raw `/` for a separator first.
    Many(Vec<String>),
}

impl Readings<'_> {
    /// What `decide` says, when it says the same for every reading; otherwise [`PathError::Ambiguous`].
    pub fn agree<T: PartialEq>(&self, mut decide: impl FnMut(&str) -> T) -> Result<T, PathError> {
        match self {
            Self::Plain(path) => Ok(decide(path)),
            Self::Many(readings) => {
                let mut readings = readings.iter();
                let first = decide(readings.next().ok_or(PathError::Ambiguous)?);
                if readings.all(|reading| decide(reading) == first) { Ok(first) } else { Err(PathError::Ambiguous) }
            }
        }
    }

    /// The first reading: the one to show to people. Never decide by it.
    pub fn shown(&self) -> &str {
        match self {
            Self::Plain(path) => path,
            Self::Many(readings) => readings.first().map_or("", String::as_str),
        }
    }
}

/// Why a path is refused. The answer is always 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// It does not begin with `/`. (`*`, for OPTIONS, is the caller's business.)
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// It is longer than [`MAX_BYTES`].
    #[error("the path is too long")]
    TooLong,
    /// A raw `#`, `?` or space: whoever calls has not split the request target.
    #[error("the path holds a character that can't be in a path")]
    Illegal,
    /// A `%` without two hexadecimal digits.
    #[error("the path holds a malformed percent escape")]
    MalformedPercent,
    /// A control character: raw, escaped or escaped twice.
    #[error("the path holds a control character")]
    Control,
    /// Overlong UTF-8 or an encoded surrogate: one more spelling of a character that has one (RFC 3629, section 10).
    #[error("the path holds overlong or surrogate UTF-8")]
    Encoding,
    /// A `.` or `..` segment in at least one reading.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// Two readings lead to different decisions, or there are more than [`MAX_READINGS`].
    #[error("the path can be read in different ways")]
    Ambiguous,
}

/// Reads the path of a request target, without its query.
///
/// Bytes that are not UTF-8 after decoding (`%E9`) are let through, since applications older than UTF-8 depend on
/// them; two readings stand for them, one in which they are opaque and one in Latin-1, so that such an application
/// can't find a name in them that a rule protects. What no honest client sends (overlong forms, surrogates, `C0`,
/// `C1`, and the C1 controls) is refused.
pub fn read(raw: &str) -> Result<Readings<'_>, PathError> {
    if raw.len() > MAX_BYTES {
        return Err(PathError::TooLong);
    }
    if is_plain(raw) {
        return Ok(Readings::Plain(raw));
    }
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if raw.bytes().any(|byte| matches!(byte, b'#' | b'?' | b' ')) {
        return Err(PathError::Illegal);
    }
    let raw: Vec<Octet> = raw.bytes().map(|byte| Octet { byte, level: 0 }).collect();
    let once = decode(&raw, 1, Malformed::Refuse)?;
    // A `%` that was itself escaped may stand alone ("100%25"); a server that decodes again keeps it as it is.
    let twice = decode(&once, 2, Malformed::Keep)?;
    refuse_always(&twice)?;

    let mut readings = Vec::new();
    let mut ways = 0;
    for (depth, octets) in [(1, &once), (2, &twice)] {
        // A second decoding that finds nothing still comes between cutting parameters and parsing once more.
        let again = depth == 2 && once == twice;
        for limits in Limits::all(octets, depth).filter(|limits| !again || limits.is_cut_and_parsed_again()) {
            ways += 1;
            if ways > MAX_READINGS {
                return Err(PathError::Ambiguous);
            }
            for text in texts(render(octets, limits)) {
                let behind = behind_authority(&text);
                for text in [Some(text), behind].into_iter().flatten() {
                    let merged = merge_slashes(&text);
                    add(&mut readings, text);
                    add(&mut readings, merged);
                }
            }
        }
    }
    if readings.len() > MAX_READINGS { Err(PathError::Ambiguous) } else { Ok(Readings::Many(readings)) }
}

/// One byte of a path and how often it had to be decoded to appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Octet {
    byte: u8,
    level: u8,
}

/// Which bytes a reading takes for syntax: those that appear after fewer decodings than the limit; 0: none.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// `/` separates.
    slash: u8,
    /// `\` separates.
    backslash: u8,
    /// `;` begins a parameter, which is cut off up to the next byte that separates at that moment.
    cut: u8,
    /// An escaped `?` or `#` ends the path, as where what was decoded is passed on and parsed once more; other than above
    /// this is the highest level itself.
    end: u8,
}

impl Limits {
    /// Parameters are cut after the first decoding, and what is left is parsed after the second.
    const fn is_cut_and_parsed_again(self) -> bool {
        self.cut == 2 && self.end == 2
    }

    /// Every combination that can make a difference to `octets`, which were decoded `depth` times.
    fn all(octets: &[Octet], depth: u8) -> impl Iterator<Item = Self> {
        let occurs = |byte: u8, level: u8| octets.iter().any(|octet| octet.byte == byte && octet.level == level);
        let slashes: Vec<u8> = (1..=depth + 1).filter(|&limit| limit == 1 || occurs(b'/', limit - 1)).collect();
        let backslashes: Vec<u8> = (0..=depth + 1).filter(|&limit| limit == 0 || occurs(b'\\', limit - 1)).collect();
        // When parameters are cut also decides which separators end them, hence every limit as soon as there are any.
        let cuts = if octets.iter().any(|octet| octet.byte == b';') { 0..=depth + 1 } else { 0..=0 };
        // When the path ends makes a difference where an end appears, and where parameters were cut meanwhile.
        let ends_at = |level: u8| occurs(b'?', level) || occurs(b'#', level);
        let later = |end: u8| *cuts.end() > 0 && (1..=end).any(ends_at);
        let ends: Vec<u8> = (0..=depth).filter(|&end| end == 0 || ends_at(end) || later(end)).collect();
        let ways = cuts.flat_map(move |cut| ends.clone().into_iter().map(move |end| (cut, end)));
        ways.flat_map(move |(cut, end)| {
            let slashes = slashes.clone();
            backslashes
                .clone()
                .into_iter()
                .flat_map(move |backslash| slashes.clone().into_iter().map(move |slash| Self { slash, backslash, cut, end }))
        })
    }
}

/// What to do with a `%` that no two hexadecimal digits follow.
#[derive(Clone, Copy)]
enum Malformed {
    Refuse,
    Keep,
}

/// Unreserved and sub-delim bytes without `;`, `:` and `@` (RFC 3986, section 3.3), no dot segment, no empty segment
/// but the last.
fn is_plain(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let (mut length, mut dots) = (0_usize, 0_usize);
    for byte in rest.bytes() {
        match byte {
            b'/' if length == 0 || (dots == length && length <= 2) => return false,
            b'/' => (length, dots) = (0, 0),
            b'.' => (length, dots) = (length + 1, dots + 1),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => length += 1,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => length += 1,
            _ => return false,
        }
    }
    length == 0 || dots != length || length > 2
}

/// Undoes one percent-encoding. What is decoded gets `level`.
fn decode(octets: &[Octet], level: u8, malformed: Malformed) -> Result<Vec<Octet>, PathError> {
    let mut out = Vec::with_capacity(octets.len());
    let mut rest = octets;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first.byte != b'%' {
            out.push(first);
        } else if let [high, low, after @ ..] = tail
            && let (Some(high), Some(low)) = (hex(high.byte), hex(low.byte))
        {
            out.push(Octet { byte: high << 4 | low, level });
            rest = after;
        } else {
            match malformed {
                Malformed::Refuse => return Err(PathError::MalformedPercent),
                Malformed::Keep => out.push(first),
            }
        }
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// What no reading may hold. The fully decoded path, split at everything that anybody takes for a separator, shows
/// it for all readings at once: a reading has fewer separators and cuts less, so its segments are made of these, and
/// a dot segment of its own is one of these.
fn refuse_always(octets: &[Octet]) -> Result<(), PathError> {
    if octets.iter().any(|octet| octet.byte.is_ascii_control()) {
        return Err(PathError::Control);
    }
    let next = octets.iter().skip(1).map(|octet| octet.byte).chain([0]);
    for (byte, next) in octets.iter().map(|octet| octet.byte).zip(next) {
        match (byte, next) {
            (0xC0 | 0xC1, _) | (0xE0, 0x80..=0x9F) | (0xF0, 0x80..=0x8F) | (0xF8, 0x80..=0x87) | (0xFC, 0x80..=0x83) => {
                return Err(PathError::Encoding);
            }
            (0xED, 0xA0..=0xBF) => return Err(PathError::Encoding),
            // U+0080 to U+009F.
            (0xC2, 0x80..=0x9F) => return Err(PathError::Control),
            _ => {}
        }
    }
    for segment in octets.split(|octet| matches!(octet.byte, b'/' | b'\\')) {
        let mut name = segment.iter().map(|octet| octet.byte).take_while(|&byte| byte != b';');
        match (name.next(), name.next(), name.next()) {
            (Some(b'.'), None, None) | (Some(b'.'), Some(b'.'), None | Some(b'?' | b'#')) => return Err(PathError::DotSegment),
            // `.#name` is what editors call a lock: see `render`.
            _ => {}
        }
    }
    Ok(())
}

/// The path as a server with these limits sees it.
fn render(octets: &[Octet], limits: Limits) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut in_parameter = false;
    for &Octet { byte, level } in octets {
        let separates = match byte {
            b'/' => level < limits.slash,
            b'\\' => level < limits.backslash,
            _ => false,
        };
        let ends = matches!(byte, b'?' | b'#') && level <= limits.end && (!in_parameter || limits.end < limits.cut);
        if ends {
            if out.ends_with(b"/.") {
                out.pop();
            }
            break;
        }
        in_parameter = (in_parameter && !(separates && level < limits.cut)) || (byte == b';' && level < limits.cut);
        match byte {
            _ if in_parameter => {}
            _ if separates => out.push(b'/'),
            b'/' => out.extend_from_slice(b"%2F"),
            _ => out.push(byte),
        }
    }
    out
}

/// The bytes as text: one, unless they are not UTF-8.
fn texts(bytes: Vec<u8>) -> Vec<String> {
    match String::from_utf8(bytes) {
        Ok(text) => vec![text],
        Err(error) => {
            let mut opaque = String::with_capacity(error.as_bytes().len() * 2);
            for chunk in error.as_bytes().utf8_chunks() {
                opaque.push_str(chunk.valid());
                opaque.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
            }
            vec![opaque, error.as_bytes().iter().copied().map(char::from).collect()]
        }
    }
}

/// The path as who takes the target for a relative reference (RFC 3986, section 4.2) sees it: behind `//` stands a host.
/// So does Node's `new URL(request.url, base)`, which takes any number of slashes for two, and PHP's `parse_url`.
fn behind_authority(text: &str) -> Option<String> {
    let authority = text.strip_prefix("//")?.trim_start_matches('/');
    Some(authority.split_once('/').map_or_else(|| "/".to_owned(), |(_, path)| format!("/{path}")))
}

/// `//` as `/`.
fn merge_slashes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

fn add(readings: &mut Vec<String>, reading: String) {
    if !readings.contains(&reading) {
        readings.push(reading);
    }
}

#[cfg(test)]
mod tests;
