//! Which upstream serves a host and path.

use std::cmp::Reverse;

use crate::config;

/// The upstreams' hosts and paths, most specific first.
#[derive(Debug)]
pub(super) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    host: Host,
    /// Without a slash at the end, so `/` is empty.
    path: String,
    upstream: usize,
}

#[derive(Debug)]
enum Host {
    Exact(String),
    /// `.example.com`: any name below it.
    Below(String),
    Any,
}

impl Routes {
    pub(super) fn new(upstreams: &[config::Upstream]) -> Self {
        let route = |(at, upstream): (usize, &config::Upstream)| Route {
            host: match upstream.host.as_deref() {
                None => Host::Any,
                Some(host) => host.strip_prefix('*').map_or_else(|| Host::Exact(host.to_owned()), |below| Host::Below(below.to_owned())),
            },
            path: upstream.path.trim_end_matches('/').to_owned(),
            upstream: at,
        };
        let mut routes: Vec<Route> = upstreams.iter().enumerate().map(route).collect();
        // The sort is stable: of two that are equal the first in the file wins.
        routes.sort_by_key(|route| (Reverse(route.host.weight()), Reverse(route.path.len())));
        Self(routes)
    }

    pub(super) fn find(&self, host: &str, path: &str) -> Option<usize> {
        self.0.iter().find(|route| route.host.covers(host) && covers(&route.path, path)).map(|route| route.upstream)
    }
}

impl Host {
    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Below(below) => host.len() > below.len() && host.ends_with(below.as_str()),
            Self::Any => true,
        }
    }

    fn weight(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Below(below) => (1, below.len()),
            Self::Any => (0, 0),
        }
    }
}

/// Whether `path` is `prefix` or lies below it, in whole segments.
pub(super) fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(upstreams: &[(Option<&str>, &str)]) -> Routes {
        let base = super::super::request::tests::upstream();
        let upstreams: Vec<config::Upstream> = upstreams
            .iter()
            .map(|(host, path)| config::Upstream { host: host.map(str::to_owned), path: (*path).to_owned(), ..base.clone() })
            .collect();
        Routes::new(&upstreams)
    }

    #[test]
    fn the_longest_path_in_whole_segments_wins() {
        let routes = routes(&[(None, "/"), (None, "/app"), (None, "/app/admin/")]);
        for (path, expected) in [
            ("/", 0),
            ("/apple", 0),
            ("/app", 1),
            ("/app/", 1),
            ("/app/x", 1),
            ("/app/adminx", 1),
            ("/app/admin", 2),
            ("/app/admin/x", 2),
            ("/APP", 0),
        ] {
            assert_eq!(routes.find("any", path), Some(expected), "{path}");
        }
    }

    #[test]
    fn an_exact_host_beats_a_wildcard_beats_any() {
        let routes =
            routes(&[(None, "/long/path"), (Some("*.example.com"), "/"), (Some("app.example.com"), "/"), (Some("*.b.example.com"), "/")]);
        for (host, path, expected) in [
            ("app.example.com", "/long/path", Some(2)),
            ("x.example.com", "/long/path", Some(1)),
            ("x.b.example.com", "/", Some(3)),
            ("example.com", "/", None),
            (".example.com", "/", None),
            ("notexample.com", "/", None),
            ("other", "/long/path/x", Some(0)),
        ] {
            assert_eq!(routes.find(host, path), expected, "{host}{path}");
        }
    }

    #[test]
    fn nobody_serves_what_no_path_covers() {
        assert_eq!(routes(&[(None, "/app")]).find("any", "/"), None);
    }
}
