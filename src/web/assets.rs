//! The one file that pages need besides themselves: the style sheet, with the operator's accent colour in it, under a
//! name that changes when it does.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("static/style.css");

/// The style sheet.
#[derive(Debug)]
pub(super) struct Style {
    /// Its file name.
    pub(super) name: String,
    /// Its text.
    pub(super) text: String,
}

impl Style {
    /// With this accent colour (`#rrggbb`).
    pub(super) fn new(accent: &str) -> Self {
        let (accent, on_accent) = parse(accent).map_or(("#3b5bdb".to_owned(), "#ffffff"), |rgb| (accent.to_owned(), readable_on(rgb)));
        let text = format!(":root{{--accent:{accent};--on-accent:{on_accent}}}\n{STYLE}");
        let mut name = String::with_capacity(20);
        for byte in Sha256::digest(text.as_bytes()).iter().take(8) {
            let _infallible = write!(name, "{byte:02x}");
        }
        name.push_str(".css");
        Self { name, text }
    }
}

/// The three parts of `#rrggbb`.
fn parse(colour: &str) -> Option<[u8; 3]> {
    let digits = colour.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let [_, r, g, b] = u32::from_str_radix(digits, 16).ok()?.to_be_bytes();
    Some([r, g, b])
}

/// Black or white, whichever has the better contrast on a colour (WCAG 2.2, relative luminance).
fn readable_on(rgb: [u8; 3]) -> &'static str {
    let [r, g, b] = rgb.map(|part| {
        let part = f64::from(part) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    });
    let luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) { "#000000" } else { "#ffffff" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_follows_the_text() {
        let (a, b) = (Style::new("#3b5bdb"), Style::new("#ff0000"));
        assert_ne!(a.name, b.name);
        assert_eq!(a.name, Style::new("#3b5bdb").name);
        assert!(b.text.starts_with(":root{--accent:#ff0000;--on-accent:"));
    }

    #[test]
    fn buttons_can_be_read() {
        assert_eq!(readable_on([255, 255, 0]), "#000000");
        assert_eq!(readable_on([0x3b, 0x5b, 0xdb]), "#ffffff");
    }

    #[test]
    fn an_odd_colour_writes_no_style() {
        assert!(Style::new("red;}body{display:none").text.starts_with(":root{--accent:#3b5bdb;"));
    }
}
