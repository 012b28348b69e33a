//! How many descriptors the process may have. When they run out, nobody can connect and no application can be reached, so
//! that a few hundred connections which only sit there would keep everybody out: the bound must be ours
//! (`server.max_connections`), not the system's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// For what is open beside connections: the store, listeners, logs, the admin listener's connections.
const OTHERS: u64 = 256;

/// Raises the process's limit as far as it may itself. The usual limit of 1024 is for programs that call select(2), of
/// which this is none. A word in the log when it is not enough for the configured numbers of connections.
pub(super) fn raise(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None`: there is no limit.
    let granted =
        if current == maximum || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() { maximum } else { current };
    let needed = needed(config);
    if granted.is_some_and(|granted| granted < needed) {
        tracing::warn!(
            may = granted,
            needs = needed,
            "the system allows fewer open files than server.max_connections and the upstreams' need: raise the limit (ulimit -n, LimitNOFILE) or lower them"
        );
    }
}

/// As many as all connections that the configuration allows.
fn needed(config: &Config) -> u64 {
    let upstreams: usize = config.upstreams.iter().map(|upstream| upstream.max_connections).sum();
    u64::try_from(config.server.max_connections.saturating_add(upstreams)).unwrap_or(u64::MAX).saturating_add(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_may_be() {
        let config = Config::default();
        raise(&config);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(needed(&config), 10_000 + OTHERS);
    }
}
