//! Names to addresses, and what a name had when it was last asked.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long what a name had may be used.
const AGAIN: Duration = Duration::from_secs(10);

/// A look-up on its way.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

type Lookups = dyn Fn(&str, u16) -> Lookup + Send + Sync;

/// How names become addresses, and how often they are asked again.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<Lookups>,
    again: Duration,
}

impl Resolver {
    /// As the system does it (`/etc/hosts`, DNS …), asked again every ten seconds while there are connections.
    pub fn system() -> Self {
        Self::new(
            |name, port| {
                let name = name.to_owned();
                Box::pin(async move { tokio::net::lookup_host((name, port)).await.map(Iterator::collect) })
            },
            AGAIN,
        )
    }

    /// With a function of a name and a port; an answer is used for `again`.
    pub fn new(lookup: impl Fn(&str, u16) -> Lookup + Send + Sync + 'static, again: Duration) -> Self {
        Self { lookup: Arc::new(lookup), again }
    }

    pub(super) const fn again(&self) -> Duration {
        self.again
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolver({:?})", self.again)
    }
}

/// A host and port, and the addresses they had when last asked.
#[derive(Debug)]
pub(super) struct Name {
    resolver: Resolver,
    host: String,
    port: u16,
    known: Mutex<Known>,
    /// How often an address was lost.
    losses: AtomicUsize,
    /// Where the next connection begins to try, so that connections spread over the addresses.
    next: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    since: Option<Instant>,
}

/// Which of a name's addresses a connection leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    address: SocketAddr,
    losses: usize,
}

impl Name {
    pub(super) fn new(host: &str, port: u16, resolver: &Resolver) -> Self {
        Self {
            resolver: resolver.clone(),
            host: host.to_owned(),
            port,
            known: Mutex::default(),
            losses: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// The addresses, each time beginning with another one, and whether they were looked up just now.
    pub(super) async fn addresses(&self) -> io::Result<(Vec<SocketAddr>, bool)> {
        let known = {
            let known = self.known();
            let young = known.since.is_some_and(|since| since.elapsed() < self.resolver.again);
            young.then(|| known.addresses.clone())
        };
        let (mut addresses, fresh) = match known {
            Some(known) => (known, false),
            None => (self.look_up().await?, true),
        };
        let first = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(first);
        Ok((addresses, fresh))
    }

    /// Asks again. When that fails what was known stays: a name server that is away is no reason to close connections.
    pub(super) async fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses = (self.resolver.lookup)(&self.host, self.port).await?;
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        addresses.sort_unstable();
        addresses.dedup();
        let mut known = self.known();
        let lost = known.addresses.iter().any(|address| !addresses.contains(address));
        known.addresses.clone_from(&addresses);
        known.since = Some(Instant::now());
        if lost {
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
        drop(known);
        if lost {
            tracing::info!(host = self.host, "the name has lost an address: connections to it are closed");
        }
        Ok(addresses)
    }

    /// For a connection that is made now.
    pub(super) fn origin(&self, address: SocketAddr) -> Origin {
        Origin { address, losses: self.losses.load(Ordering::Relaxed) }
    }

    /// Whether the name still has the address that a connection leads to. Costs next to nothing while nothing changes.
    pub(super) fn still_has(&self, origin: &Origin) -> bool {
        origin.losses == self.losses.load(Ordering::Relaxed) || self.known().addresses.contains(&origin.address)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_address_is_noticed_and_a_failure_changes_nothing() {
        let answer: Arc<Mutex<Option<Vec<&str>>>> = Arc::default();
        let told = Arc::clone(&answer);
        let lookup = move |_: &str, _: u16| -> Lookup {
            let answer = told.lock().unwrap().clone();
            Box::pin(async move {
                answer.map(|texts| texts.into_iter().map(address).collect()).ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
            })
        };
        let name = Name::new("app", 1, &Resolver::new(lookup, Duration::from_secs(10)));
        assert!(name.addresses().await.is_err());
        *answer.lock().unwrap() = Some(vec!["127.0.0.1:1", "127.0.0.2:1"]);
        let (first, fresh) = name.addresses().await.unwrap();
        assert!(fresh && first.len() == 2);
        let (second, fresh) = name.addresses().await.unwrap();
        assert!(!fresh && second[0] != first[0], "spread over the addresses");
        let (one, two) = (name.origin(address("127.0.0.1:1")), name.origin(address("127.0.0.2:1")));

        *answer.lock().unwrap() = Some(vec!["127.0.0.2:1", "127.0.0.3:1"]);
        assert!(name.still_has(&one), "not asked again yet");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(name.addresses().await.unwrap().1);
        assert!(!name.still_has(&one) && name.still_has(&two));

        for nothing in [None, Some(vec![])] {
            *answer.lock().unwrap() = nothing;
            assert!(name.look_up().await.is_err());
            assert!(name.still_has(&two));
        }
    }
}
