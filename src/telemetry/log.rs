//! The program's own log, on standard error. The access log is a thing of its own: see [`super::access`].

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes how much is logged while the process runs.
#[derive(Clone, Debug)]
pub struct Level(Option<reload::Handle<Targets, Registry>>);

impl Level {
    /// For a process whose log somebody else has started.
    pub const fn fixed() -> Self {
        Self(None)
    }

    /// From now on.
    pub fn set(&self, level: tracing::Level) {
        if let Some(handle) = &self.0
            && let Err(error) = handle.reload(filter(level))
        {
            tracing::error!(%error, "the log's level could not be changed");
        }
    }
}

/// The libraries below us say much at `debug`, and some of it is headers: they stay at `warn`.
fn filter(level: tracing::Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new().with_default(LevelFilter::WARN.min(level)).with_target("nullpass", level)
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(config: &Log) -> Level {
    let (filter, handle) = reload::Layer::new(filter(config.level));
    let layer = match config.format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && no_color_is_unset();
            fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(false).boxed(),
    };
    match tracing_subscriber::registry().with(layer.with_filter(filter)).try_init() {
        Ok(()) => Level(Some(handle)),
        Err(_already_started) => Level::fixed(),
    }
}

/// <https://no-color.org>: any non-empty value means no colour.
fn no_color_is_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
