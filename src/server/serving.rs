//! What requests are served with at this moment. A reload swaps it as a whole, so that a request sees one configuration
//! from front to back, and connections stay.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::connection::Settings;
use super::gateway::Gateway;
use crate::proxy::{self, Proxy};

/// One configuration, as one worker serves it.
#[derive(Debug)]
pub struct Serving {
    /// What a request meets.
    pub gateway: Arc<Gateway>,
    /// The worker's upstream connections.
    pub upstreams: Arc<proxy::Worker>,
    /// What a new connection needs to know.
    pub settings: Arc<Settings>,
}

/// A worker's present [`Serving`].
#[derive(Clone, Debug)]
pub struct Current(Arc<ArcSwap<Serving>>);

impl Current {
    /// The first.
    pub fn new(gateway: &Arc<Gateway>, proxy: &Arc<Proxy>, settings: &Arc<Settings>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Serving {
            gateway: Arc::clone(gateway),
            upstreams: proxy.worker(),
            settings: Arc::clone(settings),
        })))
    }

    /// What the next request is served with, to its end.
    pub fn get(&self) -> Arc<Serving> {
        self.0.load_full()
    }

    /// The next. Connections to upstreams that did not change are kept.
    fn swap(&self, gateway: &Arc<Gateway>, proxy: &Arc<Proxy>, settings: &Arc<Settings>) {
        self.0.store(Arc::new(Serving {
            gateway: Arc::clone(gateway),
            upstreams: proxy.worker_like(&self.get().upstreams),
            settings: Arc::clone(settings),
        }));
    }
}

/// Every worker's, for whoever reloads.
#[derive(Debug)]
pub struct Everywhere(pub(super) Vec<Current>);

impl Everywhere {
    /// From now on requests meet these; those that are under way end as they began.
    pub fn swap(&self, gateway: &Arc<Gateway>, proxy: &Arc<Proxy>, settings: &Arc<Settings>) {
        for worker in &self.0 {
            worker.swap(gateway, proxy, settings);
        }
    }
}
