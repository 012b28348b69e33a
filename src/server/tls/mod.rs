//! TLS that ends here, by rustls: TLS 1.2 and 1.3 with its default suites (forward secrecy and AEAD only, X25519MLKEM768
//! preferred), HTTP/2 and HTTP/1.1 by ALPN, session tickets, no early data.
//!
//! A handshake takes whatever [`Tls`] holds at that moment, and a connection keeps what it began with, so that a swap
//! drops nobody. `files` reads the PEM files, `certificate` chooses by name, `acme` gets a certificate by itself, `watch`
//! looks whether anything changed.

mod acme;
mod certificate;
mod files;
mod measure;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{Acceptor, NoClientAuth, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use self::acme::{Acme, Work};
use self::certificate::{Certificate, Certificates, Slot};
use self::files::Files;
use super::Error;
use crate::clock::{Clock, Timestamp};
use crate::config::{ClientCertificates, ServerTls};
use crate::tasks::Tasks;
use crate::trust;

/// The TLS of the listeners, swapped as a whole.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Current>,
    /// What `current` was made from; held by whoever changes it.
    loaded: Mutex<Loaded>,
    /// ACME's certificate outlives a reload, so that there is one until the next is brought.
    slot: Slot,
    /// What ACME goes on with, on its way to the task that does it.
    new_work: Mutex<Option<Work>>,
    work_changed: Notify,
    data: PathBuf,
    clock: Clock,
    counters: Counters,
}

/// Counted since the start.
#[derive(Debug, Default)]
struct Counters {
    /// Changed files or settings that were put to use.
    reloads: AtomicU64,
    /// Those that were refused: the old ones stay.
    reloads_failed: AtomicU64,
    /// Certificates that ACME brought.
    acme_orders: AtomicU64,
    /// Steps of ACME that failed.
    acme_failures: AtomicU64,
}

/// What a handshake takes.
struct Current {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    acme: Option<Arc<Acme>>,
    tickets: Tickets,
}

/// The keys that seal session tickets, and who was let in when they did. A ticket spares its owner the client
/// certificate, so whenever somebody else is let in, no old ticket may count (as in nginx's CVE-2025-23419).
#[derive(Clone)]
struct Tickets {
    keys: Arc<dyn ProducesTickets>,
    clients: Option<(ClientCertificates, [u8; 32])>,
}

struct Loaded {
    settings: ServerTls,
    digest: [u8; 32],
    /// What was refused last, so that it is said once.
    refused: Option<[u8; 32]>,
}

impl Tls {
    /// Reads all files; any that is wrong is an error (requirement CFG-3). `data` is the data folder, which need not be
    /// there yet.
    pub fn new(settings: &ServerTls, data: PathBuf, clock: Clock) -> Result<Arc<Self>, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files::read(settings);
        let slot = Slot::default();
        let (current, work) = build(settings, &files, None, &slot, &data, &provider)?;
        Ok(Arc::new(Self {
            provider,
            current: ArcSwap::from_pointee(current),
            loaded: Mutex::new(Loaded { settings: settings.clone(), digest: files.digest(), refused: None }),
            slot,
            new_work: Mutex::new(work),
            work_changed: Notify::new(),
            data,
            clock,
            counters: Counters::default(),
        }))
    }

    /// Begins to watch the files and to drive ACME. The data folder must be there.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) -> Result<(), Error> {
        if let Some(acme) = &self.current.load().acme {
            self.make_folder(acme)?;
        }
        watch::start(self, tasks);
        Ok(())
    }

    /// Shakes hands. `None`: it was an ACME authority's validation, which carries no request (RFC 8737, section 3).
    pub async fn accept<S>(&self, stream: S) -> io::Result<Option<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (config, challenge) = {
            let current = self.current.load();
            (Arc::clone(&current.config), current.acme.as_ref().map(|acme| Arc::clone(&acme.challenge)))
        };
        let Some(challenge) = challenge else {
            return TlsAcceptor::from(config).accept(stream).await.map(Some);
        };
        // Only with ACME is the client's greeting read before it is known who answers.
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        if rustls_acme::is_tls_alpn_challenge(&start.client_hello()) {
            start.into_stream(challenge).await?.shutdown().await?;
            return Ok(None);
        }
        start.into_stream(config).await.map(Some)
    }

    /// Puts other settings and the files' present contents to use. On any error everything stays as it was. Reads a few
    /// small files.
    pub fn reload(&self, settings: &ServerTls) -> Result<(), Error> {
        let files = Files::read(settings);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(&mut loaded, settings.clone(), &files)
    }

    /// The names of the certificates in use, each the first that it has, with the time until which they are good: of two
    /// with one name the one that ends first.
    pub fn not_after(&self) -> BTreeMap<String, Timestamp> {
        let mut ends = BTreeMap::new();
        for (certificate, _) in self.each_certificate() {
            let end = ends.entry(certificate.name().to_owned()).or_insert(certificate.not_after);
            *end = certificate.not_after.min(*end);
        }
        ends
    }

    /// Looks at the files again.
    fn look(&self) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let files = Files::read(&loaded.settings);
        let digest = files.digest();
        if digest == loaded.digest {
            // Somebody put the old ones back: nothing is refused any more.
            loaded.refused = None;
        } else if loaded.refused != Some(digest) {
            let settings = loaded.settings.clone();
            // Said where it failed; the next look tries again what changes until then.
            drop(self.take(&mut loaded, settings, &files));
        }
    }

    fn take(&self, loaded: &mut Loaded, settings: ServerTls, files: &Files) -> Result<(), Error> {
        let old = self.current.load_full();
        let built = build(&settings, files, Some(&old), &self.slot, &self.data, &self.provider).and_then(|(current, work)| {
            if let (Some(Work::Orders(_)), Some(acme)) = (&work, &current.acme) {
                self.make_folder(acme)?;
            }
            Ok((current, work))
        });
        let (current, work) = match built {
            Ok(built) => built,
            Err(error) => {
                loaded.refused = Some(files.digest());
                self.counters.reloads_failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "[server.tls] has changed but can't be used: what was in use stays");
                return Err(error);
            }
        };
        *loaded = Loaded { settings, digest: files.digest(), refused: None };
        if current.acme.is_none() {
            self.slot.store(None);
        }
        self.current.store(Arc::new(current));
        if work.is_some() {
            *self.new_work.lock().unwrap_or_else(PoisonError::into_inner) = work;
            self.work_changed.notify_one();
        }
        self.counters.reloads.fetch_add(1, Ordering::Relaxed);
        for (name, not_after) in self.not_after() {
            tracing::info!(name, %not_after, "TLS: this certificate is in use from now on");
        }
        Ok(())
    }

    /// All certificates in use, and whether they are ACME's.
    fn each_certificate(&self) -> Vec<(Arc<Certificate>, bool)> {
        let files = self.current.load().certificates.files().to_vec();
        files.into_iter().map(|certificate| (certificate, false)).chain(self.slot.load_full().map(|brought| (brought, true))).collect()
    }

    fn make_folder(&self, acme: &Acme) -> Result<(), Error> {
        let wrong = |error: io::Error| Error::Certificate { path: acme.settings.cache.clone(), problem: error.to_string() };
        acme::make_folder(&acme.settings, &self.data).map_err(wrong)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.not_after()).finish_non_exhaustive()
    }
}

/// Everything anew but what must outlive `old`. With it, where that changed, what ACME goes on with.
fn build(
    settings: &ServerTls,
    files: &Files,
    old: Option<&Current>,
    slot: &Slot,
    data: &std::path::Path,
    provider: &Arc<CryptoProvider>,
) -> Result<(Current, Option<Work>), Error> {
    let from_files: Result<Vec<_>, _> = settings.certificates.iter().map(|pair| files.certificate(pair, provider)).collect();
    let certificates = Arc::new(Certificates::new(from_files?, Arc::clone(slot)));
    let clients = match &settings.client {
        Some(client) => Some((client.clone(), files.digest_of(&client.ca)?)),
        None => None,
    };
    let tickets = match old.map(|old| &old.tickets).filter(|old| old.clients == clients) {
        Some(tickets) => tickets.clone(),
        None => Tickets { keys: aws_lc_rs::Ticketer::new().map_err(|error| internal(&error))?, clients },
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| internal(&error))?;
    let verifier = verifier(settings.client.as_ref(), files, provider)?;
    let resolver = Arc::<Certificates>::clone(&certificates);
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::clone(&tickets.keys);

    let old_acme = old.and_then(|old| old.acme.as_ref());
    let (acme, work) = match &settings.acme {
        None => (None, old_acme.map(|_| Work::Nothing)),
        Some(acme) => {
            let trust = acme.directory_ca.as_ref().map(|path| files.digest_of(path)).transpose()?;
            match old_acme.filter(|old| old.settings == *acme && old.trust == trust) {
                Some(old) => (Some(Arc::clone(old)), None),
                None => {
                    let roots = directory_roots(acme.directory_ca.as_deref(), files)?;
                    let (acme, orders) =
                        acme::prepare(acme, trust, roots, data, Arc::clone(slot), provider).map_err(|error| internal(&error))?;
                    (Some(Arc::new(acme)), Some(Work::Orders(orders)))
                }
            }
        }
    };
    Ok((Current { config: Arc::new(config), certificates, acme, tickets }, work))
}

/// Who must show a certificate. An authority that can't be read never becomes "nobody is asked" (requirement CFG-3).
fn verifier(
    client: Option<&ClientCertificates>,
    files: &Files,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let Some(client) = client else { return Ok(Arc::new(NoClientAuth)) };
    let roots = Arc::new(files.authorities(&client.ca)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    let builder = if client.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| Error::Certificate { path: client.ca.clone(), problem: error.to_string() })
}

/// What the certificate of ACME's own server must chain to.
fn directory_roots(ca: Option<&std::path::Path>, files: &Files) -> Result<RootCertStore, Error> {
    if let Some(path) = ca {
        return files.authorities(path);
    }
    let none = |error| Error::Certificate { path: "server.tls.acme".into(), problem: format!("{error}; name some with directory_ca") };
    trust::authorities(None).map_err(none)
}

fn internal(error: &rustls::Error) -> Error {
    Error::Certificate { path: "server.tls".into(), problem: error.to_string() }
}
