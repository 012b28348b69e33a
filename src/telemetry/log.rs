//! The program's own log, on standard error. The access log is a thing of its own: see [`super::access`].

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(config: &Log) {
    let level = LevelFilter::from_level(config.level);
    // The libraries below us say much at `debug`, and some of it is headers: they stay at `warn`.
    let filter = Targets::new().with_default(LevelFilter::WARN.min(level)).with_target("nullpass", level);
    let layer = match config.format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && no_color_is_unset();
            fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(false).boxed(),
    };
    let _already_started = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

/// <https://no-color.org>: any non-empty value means no colour.
fn no_color_is_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
