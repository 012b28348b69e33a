//! The few files that pages need besides themselves: the style sheet with the operator's accent colour in it, one small
//! script that no page depends on, and the operator's logo. Each has a name that changes when it does, so browsers may
//! keep them for ever.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue};
use http::{Response, StatusCode};
use sha2::{Digest as _, Sha256};

use super::reply;
use crate::config;
use crate::wire::body::Body;

const STYLE: &str = include_str!("static/style.css");
const SCRIPT: &str = include_str!("static/script.js");

/// A file.
#[derive(Debug)]
pub(super) struct Asset {
    /// Its name below `P/static/`.
    pub(super) name: String,
    kind: &'static str,
    bytes: Bytes,
}

/// The files.
#[derive(Debug)]
pub(super) struct Assets {
    /// The style sheet.
    pub(super) style: Asset,
    /// The script.
    pub(super) script: Asset,
    /// The operator's picture.
    pub(super) logo: Option<Asset>,
}

impl Assets {
    /// As `[ui]` wants them.
    pub(super) fn new(ui: &config::Ui) -> Self {
        Self {
            style: Asset::new("css", "text/css; charset=utf-8", style(&ui.accent).into()),
            script: Asset::new("js", "text/javascript; charset=utf-8", without_indentation(SCRIPT).into()),
            logo: ui
                .logo
                .as_ref()
                .map(|logo| Asset::new(logo.kind.extension(), logo.kind.media_type(), Bytes::copy_from_slice(&logo.bytes))),
        }
    }

    /// The file of that name.
    pub(super) fn find(&self, name: &str) -> Option<&Asset> {
        [Some(&self.style), Some(&self.script), self.logo.as_ref()].into_iter().flatten().find(|asset| asset.name == name)
    }
}

impl Asset {
    fn new(extension: &str, kind: &'static str, bytes: Bytes) -> Self {
        let mut name = String::with_capacity(24);
        for byte in Sha256::digest(&bytes).iter().take(8) {
            let _infallible = write!(name, "{byte:02x}");
        }
        name.push('.');
        name.push_str(extension);
        Self { name, kind, bytes }
    }

    /// The answer that has it. Who opens a picture by its address gets a document without rights: an SVG may hold
    /// script.
    pub(super) fn answer(&self) -> Response<Body> {
        let mut response = reply::with_body(StatusCode::OK, self.kind, self.bytes.clone());
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
        headers.insert(reply::CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        response
    }
}

/// The grounds that links stand on, in each scheme the one with less contrast, as in the style sheet.
const LIGHT_GROUND: Colour = Colour([0xf4, 0xf5, 0xf7]);
const DARK_GROUND: Colour = Colour([0x1e, 0x21, 0x27]);

/// The style sheet in the operator's colour (`#rrggbb`): as it is for buttons, with a text colour that can be read on it;
/// for links and focus rings darker or lighter until it can be read on the page.
fn style(accent: &str) -> String {
    let accent = Colour::parse(accent).unwrap_or(Colour([0x3b, 0x5b, 0xdb]));
    let (light, dark) = (accent.readable_on(LIGHT_GROUND, Colour::BLACK), accent.readable_on(DARK_GROUND, Colour::WHITE));
    format!(
        ":root{{--accent:{};--on-accent:{};--link:{}}}\n@media (prefers-color-scheme:dark){{:root{{--link:{}}}}}\n{}",
        accent.css(),
        accent.text_on().css(),
        light.css(),
        dark.css(),
        without_spaces(STYLE),
    )
}

/// Our style sheet without what is there for its readers; a page with everything is to stay small.
fn without_spaces(style: &str) -> String {
    let lines: String = style.lines().map(str::trim).filter(|line| !line.starts_with("/*")).collect();
    let spaced = [(" {", "{"), ("{ ", "{"), ("; ", ";"), (" }", "}"), (";}", "}"), (": ", ":"), (", ", ",")];
    spaced.into_iter().fold(lines, |text, (from, to)| text.replace(from, to))
}

/// Our script without its indentation and comments, which have lines of their own.
fn without_indentation(script: &str) -> String {
    script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

/// The least contrast of text (WCAG 2.2, success criterion 1.4.3), with a little over for rounding.
const LEAST_CONTRAST: f64 = 4.6;

/// Red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Colour([u8; 3]);

impl Colour {
    const BLACK: Self = Self([0; 3]);
    const WHITE: Self = Self([0xff; 3]);

    /// From `#rrggbb`.
    fn parse(colour: &str) -> Option<Self> {
        let digits = colour.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let [_, r, g, b] = u32::from_str_radix(digits, 16).ok()?.to_be_bytes();
        Some(Self([r, g, b]))
    }

    fn css(self) -> String {
        let [r, g, b] = self.0;
        format!("#{r:02x}{g:02x}{b:02x}")
    }

    /// Relative luminance (WCAG 2.2).
    fn luminance(self) -> f64 {
        let [r, g, b] = self.0.map(|part| {
            let part = f64::from(part) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// Contrast ratio (WCAG 2.2): 1 to 21.
    fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance() + 0.05, other.luminance() + 0.05);
        if a > b { a / b } else { b / a }
    }

    /// Black or white, whichever can be read better on this.
    fn text_on(self) -> Self {
        if self.contrast(Self::BLACK) > self.contrast(Self::WHITE) { Self::BLACK } else { Self::WHITE }
    }

    /// This colour, mixed with as much of `towards` as it takes to be read on `ground`.
    fn readable_on(self, ground: Self, towards: Self) -> Self {
        (0..=20).map(|part| self.mixed(towards, part)).find(|colour| colour.contrast(ground) >= LEAST_CONTRAST).unwrap_or(towards)
    }

    /// With `part` twentieths of `other`.
    fn mixed(self, other: Self, part: u16) -> Self {
        let mix = |own: u8, other: u8| u8::try_from((u16::from(own) * (20 - part) + u16::from(other) * part) / 20).unwrap_or(other);
        let ([red, green, blue], [other_red, other_green, other_blue]) = (self.0, other.0);
        Self([mix(red, other_red), mix(green, other_green), mix(blue, other_blue)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ui(accent: &str) -> config::Ui {
        config::Ui { accent: accent.to_owned(), ..config::Ui::default() }
    }

    #[test]
    fn the_name_follows_the_text() {
        let (a, b) = (Assets::new(&ui("#3b5bdb")), Assets::new(&ui("#ff0000")));
        assert_ne!(a.style.name, b.style.name);
        assert_eq!(a.style.name, Assets::new(&ui("#3b5bdb")).style.name);
        assert_eq!(a.script.name, b.script.name);
        assert!(a.find(&a.style.name).is_some() && a.find(&b.style.name).is_none() && a.logo.is_none());
    }

    // XSS-2: an SVG is a document that may hold script.
    #[test]
    fn a_logo_opened_by_its_address_may_do_nothing() {
        let logo = config::Logo::parse(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>").unwrap();
        let assets = Assets::new(&config::Ui { logo: Some(logo), ..config::Ui::default() });
        let logo = assets.logo.as_ref().unwrap();
        assert_eq!(logo.name.split('.').nth(1), Some("svg"));
        let answer = logo.answer();
        assert_eq!(answer.headers()["content-type"], "image/svg+xml");
        assert_eq!(answer.headers()["content-security-policy"], "default-src 'none'; sandbox");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }

    #[test]
    fn an_odd_colour_writes_no_style() {
        assert!(style("red;}body{display:none").starts_with(":root{--accent:#3b5bdb;"));
    }

    #[test]
    fn the_grounds_are_those_of_the_style_sheet() {
        assert!(STYLE.contains(&format!("--paper: {}", LIGHT_GROUND.css())) && STYLE.contains(&format!("--card: {}", DARK_GROUND.css())));
    }

    proptest! {
        // WCAG 2.2, 1.4.3
        #[test]
        fn whatever_the_accent_is_text_can_be_read(rgb: [u8; 3]) {
            let accent = Colour(rgb);
            prop_assert!(accent.contrast(accent.text_on()) >= 4.5);
            prop_assert!(accent.readable_on(LIGHT_GROUND, Colour::BLACK).contrast(LIGHT_GROUND) >= 4.5);
            prop_assert!(accent.readable_on(LIGHT_GROUND, Colour::BLACK).contrast(Colour::WHITE) >= 4.5);
            prop_assert!(accent.readable_on(DARK_GROUND, Colour::WHITE).contrast(DARK_GROUND) >= 4.5);
        }
    }
}
