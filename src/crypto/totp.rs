//! Time-based one-time codes (RFC 6238): SHA-1, six digits, 30 seconds, which is what every authenticator application
//! understands. That a step is spent once only is the store's part: [`matching_step`] says which step to spend.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use qrcode::{Color, EcLevel, QrCode};
use totp_rs::{Algorithm, Builder};

use super::digest::same;
use super::random;
use crate::clock::Timestamp;
use crate::model::Secret;

/// Seconds in a step.
const STEP: u64 = 30;

/// Light modules around a QR code (ISO/IEC 18004, section 5.3.8).
const QUIET_ZONE: usize = 4;

/// Digits in a code.
const DIGITS: u8 = 6;

/// What an `otpauth` label and query may hold as it is (RFC 3986, unreserved).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A new secret: 20 random bytes, the length of the HMAC's output (RFC 4226, section 4, R6).
pub fn new_secret() -> Secret<Vec<u8>> {
    Secret::new(random::bytes::<20>().to_vec())
}

/// What an authenticator application reads from the QR code (Key Uri Format). Holds the secret.
///
/// A colon would end the issuer's part of the label, so it becomes a space.
pub fn otpauth_url(issuer: &str, account: &str, secret: &Secret<Vec<u8>>) -> String {
    let escaped = |text: &str| utf8_percent_encode(&text.replace(':', " "), ESCAPED).to_string();
    let (issuer, account, secret) = (escaped(issuer), escaped(account), base32(secret));
    let secret = secret.expose();
    format!("otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP}")
}

/// The secret as unpadded base 32 (RFC 4648), the form that applications take by hand.
pub fn base32(secret: &Secret<Vec<u8>>) -> Secret<String> {
    Secret::new(totp_rs::Secret::from(secret.expose().as_slice()).to_base32())
}

/// [`base32`] in groups of four, for people to type. Holds the secret.
pub fn manual_key(secret: &Secret<Vec<u8>>) -> String {
    let text = base32(secret);
    let mut groups = String::with_capacity(text.expose().len() * 5 / 4);
    for (place, character) in text.expose().chars().enumerate() {
        if place > 0 && place % 4 == 0 {
            groups.push(' ');
        }
        groups.push(character);
    }
    groups
}

/// A QR code of `url` as an `svg` element that can stand in a page: black on white, with its quiet zone, and without
/// style, script or reference to anything. Empty when the text is too long for any QR code (above 2953 bytes).
pub fn qr_svg(url: &str) -> String {
    let levels = [EcLevel::M, EcLevel::L];
    let Some(code) = levels.iter().find_map(|&level| QrCode::with_error_correction_level(url, level).ok()) else {
        return String::new();
    };
    let (width, modules) = (code.width(), code.to_colors());
    let size = width + 2 * QUIET_ZONE;
    let mut image = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="220" height="220" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h{size}v{size}H0z"/><path stroke="#000" d=""##
    );
    for (y, row) in modules.chunks(width).enumerate() {
        // A line through the middle of every run of dark modules: a third of what squares would take.
        let _infallible = write!(image, "M{QUIET_ZONE} {y}.5", y = y + QUIET_ZONE);
        for run in row.chunk_by(PartialEq::eq) {
            let _infallible = match run.first() {
                Some(Color::Dark) => write!(image, "h{}", run.len()),
                Some(Color::Light) | None => write!(image, "m{} 0", run.len()),
            };
        }
    }
    image.push_str(r#""/></svg>"#);
    image
}

/// [`qr_svg`] as a `data:` URL, for clients that show an image.
pub fn qr_data_url(url: &str) -> String {
    format!("data:image/svg+xml;base64,{}", STANDARD.encode(qr_svg(url)))
}

/// The step that `code` is right for, among the one of `now` and `skew` steps either side; the latest, should several
/// match. `None`: the code is wrong.
///
/// A code is six ASCII digits; spaces are passed over, as applications show codes in two groups. Every step is computed
/// and compared whatever the others gave, so the time tells nothing.
pub fn matching_step(secret: &[u8], code: &str, now: Timestamp, skew: u8) -> Option<u64> {
    let code: String = code.chars().filter(|character| *character != ' ').take(usize::from(DIGITS) + 1).collect();
    if code.len() != usize::from(DIGITS) || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A secret of less than 128 bits is refused here (RFC 4226, section 4, R6).
    let totp =
        Builder::new().with_algorithm(Algorithm::SHA1).with_digits(DIGITS).with_step_duration(STEP).with_secret(secret).build().ok()?;
    let current = u64::try_from(now.as_secs()).ok()? / STEP;
    let mut matched = None;
    for step in current.saturating_sub(skew.into())..=current.saturating_add(skew.into()) {
        let expected = totp.generate(step.checked_mul(STEP)?).to_string();
        if same(expected.as_bytes(), code.as_bytes()) {
            matched = Some(step);
        }
    }
    matched
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use totp_rs::Totp;

    use super::*;

    /// The secret of RFC 6238, appendix B.
    const SECRET: &[u8] = b"12345678901234567890";

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn vectors_of_rfc_6238() {
        // Appendix B, SHA-1; the last six of the eight digits.
        for (secs, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(matching_step(SECRET, code, at(secs), 0), u64::try_from(secs / 30).ok(), "{secs}");
        }
    }

    // NP-5: one step either side and no more.
    #[test]
    fn skew_is_as_wide_as_it_says() {
        let code = "287082"; // of step 1: seconds 30 to 59
        for (secs, skew, right) in [
            (30, 0, true),
            (59, 0, true),
            (29, 0, false),
            (60, 0, false),
            (0, 1, true),
            (29, 1, true),
            (89, 1, true),
            (90, 1, false),
            (119, 2, true),
            (120, 2, false),
        ] {
            assert_eq!(matching_step(SECRET, code, at(secs), skew), right.then_some(1), "{secs} ±{skew}");
        }
    }

    #[test]
    fn codes_are_six_ascii_digits() {
        assert_eq!(matching_step(SECRET, " 287 082 ", at(59), 0), Some(1));
        for bad in [
            "",
            "287",
            "28708",
            "2870820",
            "287082\n",
            "+87082",
            "-87082",
            "２８７０８２",
            "28708a",
            "287082 287082",
            "0x2870",
            "287\u{a0}082",
        ] {
            assert_eq!(matching_step(SECRET, bad, at(59), 9), None, "{bad:?}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        assert_eq!(matching_step(&SECRET[..15], "287082", at(59), 1), None);
        assert_eq!(matching_step(b"", "000000", at(59), 1), None);
        assert_eq!(matching_step(SECRET, "287082", at(-59), 1), None);
        assert_eq!(matching_step(SECRET, "287082", Timestamp::MAX, 255), None);
    }

    #[test]
    fn secrets_are_new_and_shown_in_groups() {
        assert_ne!(new_secret(), new_secret());
        assert_eq!(new_secret().expose().len(), 20);
        let secret = Secret::new(SECRET.to_vec());
        assert_eq!(base32(&secret).expose(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(manual_key(&secret), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ");
    }

    #[test]
    fn applications_understand_the_url() {
        let secret = Secret::new(SECRET.to_vec());
        let url = otpauth_url("Büro: & Co?", "ada+1@example.com", &secret);
        let read = Totp::from_url(&url).unwrap();
        assert_eq!((read.issuer(), read.account_name()), (Some("Büro  & Co?"), "ada+1@example.com"));
        assert_eq!((read.secret().as_bytes(), read.digits(), read.step()), (SECRET, 6, 30));
        assert!(url.starts_with("otpauth://totp/B%C3%BCro%20%20%26%20Co%3F:ada%2B1%40example.com?secret=GEZD"));
    }

    // XSS-2: the picture brings nothing along.
    #[test]
    fn the_picture_refers_to_nothing() {
        let svg = qr_svg("otpauth://totp/\"><script>alert(1)</script>?secret=AAAA");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>"));
        for bad in ["script", "href", "style", "url(", "<?", "alert"] {
            assert!(!svg.contains(bad), "{bad}");
        }
        let data = qr_data_url("x");
        let inner = data.strip_prefix("data:image/svg+xml;base64,").unwrap();
        assert_eq!(STANDARD.decode(inner).unwrap(), qr_svg("x").into_bytes());
        assert!(!qr_svg(&"x".repeat(2900)).is_empty());
        assert_eq!(qr_svg(&"x".repeat(3000)), "");
    }

    // As a reader sees it: the drawn lines are the modules, within a quiet zone.
    #[test]
    fn the_picture_is_the_code() {
        let url = otpauth_url("nullpass", "ada@example.com", &Secret::new(SECRET.to_vec()));
        let code = QrCode::with_error_correction_level(&url, EcLevel::M).unwrap();
        let svg = qr_svg(&url);
        let path = svg.split("stroke=\"#000\" d=\"M").nth(1).unwrap().split('"').next().unwrap();
        let mut drawn = vec![false; code.width() * code.width()];
        for (y, row) in path.split('M').enumerate() {
            let rest = row.strip_prefix(&format!("{QUIET_ZONE} {}.5", y + QUIET_ZONE)).unwrap();
            let mut x = 0;
            let (steps, lengths) = (rest.matches(char::is_alphabetic), rest.split(char::is_alphabetic).skip(1));
            for (step, length) in steps.zip(lengths) {
                let length: usize = length.trim_end_matches(" 0").parse().unwrap();
                if step == "h" {
                    drawn[y * code.width() + x..][..length].fill(true);
                }
                x += length;
            }
            assert_eq!(x, code.width());
        }
        assert_eq!(drawn, code.to_colors().into_iter().map(|color| color == Color::Dark).collect::<Vec<_>>());
        assert!(svg.len() < 6000, "{}", svg.len());
    }

    proptest! {
        #[test]
        fn own_codes_match_and_nothing_panics(secret in prop::collection::vec(any::<u8>(), 16..40), secs in 0_i64..1 << 40, text in ".*", digits in "[0-9]{6}") {
            let totp = Builder::new().with_secret(secret.as_slice()).build().unwrap();
            let code = totp.generate(u64::try_from(secs).unwrap()).to_string();
            let step = u64::try_from(secs).unwrap() / 30;
            prop_assert_eq!(matching_step(&secret, &code, at(secs), 0), Some(step));
            prop_assert_eq!(matching_step(&secret, &digits, at(secs), 0), (digits == code).then_some(step));
            let _: Option<u64> = matching_step(&secret, &text, at(secs), 1);
        }

        #[test]
        fn urls_of_any_names_can_be_read(issuer in "\\PC{1,40}", account in "\\PC{1,40}") {
            let secret = new_secret();
            let url = otpauth_url(&issuer, &account, &secret);
            prop_assert!(url.is_ascii());
            let read = Totp::from_url(&url).map_err(|error| TestCaseError::fail(format!("{url}: {error}")))?;
            prop_assert_eq!(read.secret().as_bytes(), secret.expose().as_slice());
        }
    }
}
