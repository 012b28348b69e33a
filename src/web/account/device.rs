//! A session's device in words, from what its browser says it is. Browsers pretend to be each other, so the more special
//! name counts; what is not known is not guessed.

/// What a `User-Agent` says, as far as anybody would recognise it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// The browser or program.
    pub(super) program: Option<String>,
    /// The operating system or the kind of device.
    pub(super) system: Option<&'static str>,
}

/// What gives a browser away, the more special ones first: an Edge says that it is a Chrome, which says that it is a
/// Safari, which says that it is a Mozilla.
const BROWSERS: &[(&str, &str)] = &[
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("Edge/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("SeaMonkey/", "SeaMonkey"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("Chromium/", "Chromium"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Epiphany/", "GNOME Web"),
    ("MSIE ", "Internet Explorer"),
    ("Trident/", "Internet Explorer"),
    ("Safari/", "Safari"),
];

/// As for browsers: an Android says that it is a Linux, an iPhone that it is like a Mac.
const SYSTEMS: &[(&str, &str)] = &[
    ("Windows Phone", "Windows Phone"),
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("Mac OS X", "macOS"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("Linux", "Linux"),
];

/// The longest name of a program that is shown, in bytes.
const MAX_NAME: usize = 32;

impl Device {
    /// Reads a `User-Agent` (RFC 9110, section 10.1.5).
    pub(super) fn read(user_agent: &str) -> Self {
        let named = |names: &[(&str, &'static str)]| names.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name);
        let program = if user_agent.starts_with("Mozilla/") {
            named(BROWSERS).map(str::to_owned)
        } else {
            // A program names itself first: `curl/8.5.0`.
            let name = user_agent.split(['/', ' ', '(']).next().unwrap_or_default();
            let plain =
                !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if user_agent.starts_with("Opera/") { Some("Opera".to_owned()) } else { plain.then(|| name.to_owned()) }
        };
        Self { program, system: named(SYSTEMS) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_browsers_are_told_apart() {
        for (user_agent, program, system) in [
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox", "Windows"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox", "Linux"),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
                "Chrome",
                "Windows",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
                "Edge",
                "Windows",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
                "Safari",
                "macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
                "Safari",
                "iPhone",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1",
                "Chrome",
                "iPhone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
                "Chrome",
                "Android",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SAMSUNG SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36",
                "Samsung Internet",
                "Android",
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 OPR/112.0.0.0",
                "Opera",
                "ChromeOS",
            ),
            ("Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko", "Internet Explorer", "Windows"),
        ] {
            let device = Device::read(user_agent);
            assert_eq!((device.program.as_deref(), device.system), (Some(program), Some(system)), "{user_agent}");
        }
    }

    #[test]
    fn programs_name_themselves_and_what_is_odd_is_not_shown() {
        assert_eq!(Device::read("curl/8.5.0"), Device { program: Some("curl".into()), system: None });
        assert_eq!(Device::read("python-requests/2.32"), Device { program: Some("python-requests".into()), system: None });
        for odd in ["", "Mozilla/5.0", "<script>alert(1)</script>", "\u{202e}evil/1", &"x".repeat(200), "/1"] {
            assert_eq!(Device::read(odd), Device { program: None, system: None }, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn nothing_odd_gets_out(user_agent in any::<String>()) {
            let program = Device::read(&user_agent).program.unwrap_or_default();
            prop_assert!(program.len() <= MAX_NAME && program.chars().all(|c| c.is_ascii_graphic() || c == ' '));
        }
    }
}
