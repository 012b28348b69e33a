//! From what is written to what holds: every rule that a single value or several together must keep. Reads no file and
//! no environment, and finds all problems in one run: where a value is wrong, its default stands in for the rest.

mod accounts;
mod identity;
mod keys;
mod routing;
mod server;
mod storage;
mod text;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::Report;
use super::raw::Raw;
use super::units::{format_duration, format_size, parse_duration, parse_rate, parse_size};
use super::{Access, Audit, Config, Log, LogFormat, Rate, Registration, Ui, schema};
use crate::model::Secret;

/// What the `*_file` keys led to.
#[derive(Debug, Default)]
pub(super) struct SecretFiles {
    /// `storage.master_key_file`.
    pub(super) master_key: Option<Secret<String>>,
    /// `storage.previous_master_key_file`.
    pub(super) previous_master_key: Option<Secret<String>>,
    /// `storage.url_file`.
    pub(super) database_url: Option<Secret<String>>,
    /// `accounts.bootstrap_admin.password_file`.
    pub(super) bootstrap_password: Option<Secret<String>>,
}

/// The outcome. The configuration holds only if the report has no problems.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) config: Config,
    /// A line for each setting that weakens something.
    pub(super) dangers: Vec<String>,
    /// Files that must be readable, with the keys that name them.
    pub(super) files: Vec<(String, PathBuf)>,
}

/// Checks everything.
pub(super) fn check(raw: &Raw, secrets: &SecretFiles, report: &mut Report) -> Checked {
    let mut checker = Checker { report, dangers: Vec::new(), files: Vec::new() };
    let c = &mut checker;
    let default = Config::default();

    let default_policy = c.choice(
        "default_policy",
        raw.default_policy.as_ref(),
        default.default_policy,
        &[
            ("authenticated", Choice::Is(Access::Authenticated)),
            ("two_factor", Choice::Is(Access::TwoFactor)),
            ("deny", Choice::Is(Access::Deny)),
            (
                "public",
                Choice::Refused("would leave open whatever no rule names; write a rule with policy = \"public\" for what may be open"),
            ),
        ],
    );
    let server = server::server(c, &raw.server);
    let config = Config {
        admin: server::admin(c, &raw.admin, &server),
        upstreams: routing::upstreams(c, &raw.upstreams, &server),
        default_policy,
        rules: routing::rules(c, &raw.rules, default_policy, &server),
        identity: identity::identity(c, &raw.identity),
        accounts: accounts::accounts(c, &raw.accounts, secrets),
        tokens: accounts::tokens(c, &raw.tokens),
        sessions: accounts::sessions(c, &raw.sessions, &server),
        two_factor: accounts::two_factor(c, &raw.two_factor),
        limits: accounts::limits(c, &raw.limits),
        storage: storage::storage(c, raw, secrets),
        audit: audit(c, raw),
        ui: ui(c, raw),
        log: log(c, raw),
        server,
    };
    across(c, &config);
    Checked { config, dangers: checker.dangers, files: checker.files }
}

/// What takes more than one section to see.
fn across(c: &mut Checker<'_>, config: &Config) {
    let (ttl, lifetime) = (config.tokens.ttl, config.sessions.max_lifetime);
    if ttl > lifetime && c.sound(&["tokens.ttl", "sessions.max_lifetime"]) {
        c.fail(
            "tokens.ttl",
            format!(
                "{} is longer than sessions.max_lifetime, {}: no session outlives that",
                format_duration(ttl),
                format_duration(lifetime)
            ),
        );
    }
    if config.accounts.registration == Registration::Open {
        c.danger("accounts.registration = \"open\": everybody who reaches the port can let themselves in under any address");
    }
    if config.limits.auth_per_ip.is_none() {
        c.danger("limits.auth_per_ip = \"\": attempts with passwords and codes are not limited per client address");
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        identity::upstream_headers(c, &config.identity, upstream, &format!("upstreams[{index}].headers"));
    }
}

fn audit(c: &mut Checker<'_>, raw: &Raw) -> Audit {
    let default = Audit::default();
    let retention = |text: &str| {
        if text.is_empty() {
            return Ok(None);
        }
        duration_in(text, &(Duration::from_hours(1)..=Duration::from_hours(100 * 365 * 24))).map(Some)
    };
    Audit {
        required: raw.audit.required.unwrap_or(default.required),
        retention: c.parsed("audit.retention", raw.audit.retention.as_ref(), default.retention, retention),
    }
}

fn ui(c: &mut Checker<'_>, raw: &Raw) -> Ui {
    let default = Ui::default();
    Ui {
        name: c.text("ui.name", raw.ui.name.as_ref(), &default.name, text::label),
        // The file is read where files are read: in `load`.
        logo: None,
        accent: c.text("ui.accent", raw.ui.accent.as_ref(), &default.accent, |text| {
            let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
            digits.map(|_| text.to_ascii_lowercase()).ok_or_else(|| format!("{text:?} is not a colour such as \"#3b5bdb\""))
        }),
        default_locale: c
            .choice("ui.default_locale", raw.ui.default_locale.as_ref(), "en", &Ui::LOCALES.map(|tag| (tag, Choice::Is(tag))))
            .to_owned(),
    }
}

fn log(c: &mut Checker<'_>, raw: &Raw) -> Log {
    let default = Log::default();
    Log {
        format: c.choice(
            "log.format",
            raw.log.format.as_ref(),
            default.format,
            &[("text", Choice::Is(LogFormat::Text)), ("json", Choice::Is(LogFormat::Json))],
        ),
        level: c.choice(
            "log.level",
            raw.log.level.as_ref(),
            default.level,
            &[
                ("error", Choice::Is(tracing::Level::ERROR)),
                ("warn", Choice::Is(tracing::Level::WARN)),
                ("info", Choice::Is(tracing::Level::INFO)),
                ("debug", Choice::Is(tracing::Level::DEBUG)),
                ("trace", Choice::Is(tracing::Level::TRACE)),
            ],
        ),
        access: raw.log.access.unwrap_or(default.access),
    }
}

/// One of the texts that a key takes.
#[derive(Clone, Copy)]
enum Choice<T> {
    /// It means this.
    Is(T),
    /// It is known, but this release does not do it.
    Later,
    /// It is known, and refused for this reason.
    Refused(&'static str),
}

/// Collects what the checks find.
struct Checker<'a> {
    report: &'a mut Report,
    dangers: Vec<String>,
    files: Vec<(String, PathBuf)>,
}

impl Checker<'_> {
    fn fail(&mut self, key: &str, message: impl Into<String>) {
        self.report.add(key, message);
    }

    /// Whether what was made of these keys is what was written: a default that stands in for something wrong must not
    /// cause a second problem.
    fn sound(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.report.is_sound(key))
    }

    fn danger(&mut self, line: impl Into<String>) {
        self.dangers.push(line.into());
    }

    /// The value that `parse` makes of `raw`; the default when there is none or it is wrong.
    fn parsed<T>(&mut self, key: &str, raw: Option<&String>, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        match raw.map(|raw| parse(raw)) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(message)) => {
                self.fail(key, message);
                default
            }
        }
    }

    /// [`Self::parsed`] for text.
    fn text(&mut self, key: &str, raw: Option<&String>, default: &str, parse: impl FnOnce(&str) -> Result<String, String>) -> String {
        self.parsed(key, raw, default.to_owned(), parse)
    }

    /// Where `""` means none.
    fn optional<T>(&mut self, key: &str, raw: Option<&String>, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let raw = raw.filter(|raw| !raw.is_empty());
        self.parsed(key, raw, None, |text| parse(text).map(Some))
    }

    /// Each text of a list; wrong ones are reported one by one and left out.
    fn each<T>(&mut self, key: &str, raw: Option<&Vec<String>>, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.each_with_index(key, raw, parse).into_iter().map(|(_, value)| value).collect()
    }

    /// [`Self::each`] with the places in the list as it is written.
    fn each_with_index<T>(&mut self, key: &str, raw: Option<&Vec<String>>, parse: impl Fn(&str) -> Result<T, String>) -> Vec<(usize, T)> {
        let mut values = Vec::new();
        for (index, text) in raw.into_iter().flatten().enumerate() {
            match parse(text) {
                Ok(value) => values.push((index, value)),
                Err(message) => self.fail(&format!("{key}[{index}]"), message),
            }
        }
        values
    }

    fn choice<T: Copy>(&mut self, key: &str, raw: Option<&String>, default: T, choices: &[(&str, Choice<T>)]) -> T {
        self.parsed(key, raw, default, |text| match choices.iter().find(|(name, _)| *name == text) {
            Some((_, Choice::Is(value))) => Ok(*value),
            Some((_, Choice::Later)) => Err(format!("{text:?} is not built yet in this release; accepted: {}", accepted(choices))),
            Some((_, Choice::Refused(reason))) => Err(format!("{text:?} {reason}")),
            None => match schema::nearest(text, choices.iter().map(|(name, _)| *name)) {
                Some(near) => Err(format!("{text:?} is unknown; did you mean {near:?}? accepted: {}", accepted(choices))),
                None => Err(format!("{text:?} is unknown; accepted: {}", accepted(choices))),
            },
        })
    }

    fn integer<T: TryFrom<i64>>(&mut self, key: &str, raw: Option<i64>, default: T, range: RangeInclusive<i64>) -> T {
        let Some(value) = raw else { return default };
        match T::try_from(value) {
            Ok(typed) if range.contains(&value) => typed,
            Ok(_) | Err(_) => {
                self.fail(key, format!("{value} is out of range; {}", between(range.start(), range.end())));
                default
            }
        }
    }

    fn duration(&mut self, key: &str, raw: Option<&String>, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.parsed(key, raw, default, |text| duration_in(text, &range))
    }

    fn optional_duration(&mut self, key: &str, raw: Option<&String>, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.optional(key, raw, |text| duration_in(text, &range))
    }

    fn size(&mut self, key: &str, raw: Option<&String>, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.parsed(key, raw, default, |text| match parse_size(text)? {
            size if range.contains(&size) => Ok(size),
            _ => Err(format!("{text:?} is out of range; {}", between(format_size(*range.start()), format_size(*range.end())))),
        })
    }

    /// Where `""` means no limit; absent means `default`.
    fn rate(&mut self, key: &str, raw: Option<&String>, default: Option<Rate>) -> Option<Rate> {
        self.parsed(key, raw, default, |text| if text.is_empty() { Ok(None) } else { parse_rate(text).map(Some) })
    }

    /// A file that must be readable when the configuration is loaded.
    fn file(&mut self, key: &str, raw: Option<&String>) -> Option<PathBuf> {
        let path = self.optional(key, raw, text::path).map(PathBuf::from)?;
        self.files.push((key.to_owned(), path.clone()));
        Some(path)
    }
}

fn duration_in(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    match parse_duration(text)? {
        duration if range.contains(&duration) => Ok(duration),
        _ => Err(format!("{text:?} is out of range; {}", between(format_duration(*range.start()), format_duration(*range.end())))),
    }
}

fn between(low: impl Display, high: impl Display) -> String {
    format!("accepted: {low} to {high}")
}

/// The choices that can be made, for people.
fn accepted<T>(choices: &[(&str, Choice<T>)]) -> String {
    choices.iter().filter(|(_, choice)| matches!(choice, Choice::Is(_))).map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
