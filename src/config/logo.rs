//! `ui.logo`: a picture in a file, known by its content and not by its name.

use std::fmt;
use std::sync::Arc;

/// The picture beside the name on pages.
#[derive(Clone, PartialEq, Eq)]
pub struct Logo {
    /// The file's bytes.
    pub bytes: Arc<[u8]>,
    /// What they are.
    pub kind: LogoKind,
}

/// What kinds of pictures there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoKind {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    WebP,
    /// SVG.
    Svg,
}

impl LogoKind {
    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
            Self::Svg => "image/svg+xml",
        }
    }

    /// How its file's name ends.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
            Self::Svg => "svg",
        }
    }
}

impl Logo {
    /// The largest picture, in bytes: every sign-in on an old phone loads it.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Tells a picture by its first bytes (WHATWG MIME Sniffing, section 6.1; for SVG its root element).
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() > Self::MAX_BYTES {
            return Err("is larger than 64 KiB");
        }
        let kind = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            LogoKind::Png
        } else if bytes.starts_with(b"\xff\xd8\xff") {
            LogoKind::Jpeg
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..14) == Some(b"WEBPVP") {
            LogoKind::WebP
        } else if is_svg(bytes) {
            LogoKind::Svg
        } else {
            return Err("is no PNG, JPEG, WebP or SVG picture");
        };
        Ok(Self { bytes: bytes.into(), kind })
    }
}

/// Whether a text's root element is `svg`, after a byte order mark, an XML declaration, comments and a document type.
fn is_svg(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let end = if rest.starts_with("<?") {
            "?>"
        } else if rest.starts_with("<!--") {
            "-->"
        } else if rest.starts_with("<!DOCTYPE svg") {
            ">"
        } else {
            return rest.strip_prefix("<svg").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '>'));
        };
        let Some((_, after)) = rest.split_once(end) else { return false };
        rest = after.trim_start();
    }
}

impl fmt::Debug for Logo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logo({:?}, {} bytes)", self.kind, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_content() {
        let kind = |bytes: &[u8]| Logo::parse(bytes).map(|logo| logo.kind).ok();
        assert_eq!(kind(b"\x89PNG\r\n\x1a\n\0"), Some(LogoKind::Png));
        assert_eq!(kind(b"\xff\xd8\xff\xe0"), Some(LogoKind::Jpeg));
        assert_eq!(kind(b"RIFF\x01\0\0\0WEBPVP8 "), Some(LogoKind::WebP));
        for svg in ["<svg xmlns='http://www.w3.org/2000/svg'/>", "\u{feff}<?xml version=\"1.0\"?>\n<!-- x > -->\n<!DOCTYPE svg>\n<svg\n>"] {
            assert_eq!(kind(svg.as_bytes()), Some(LogoKind::Svg), "{svg}");
        }
        for bad in ["", "GIF89a", "<html><svg>", "<svgx>", "<!-- <svg ", "<!DOCTYPE html><svg>", "PNG"] {
            assert_eq!(kind(bad.as_bytes()), None, "{bad}");
        }
        assert!(Logo::parse(&[b"\x89PNG\r\n\x1a\n".as_slice(), vec![0; Logo::MAX_BYTES].as_slice()].concat()).is_err());
    }
}
