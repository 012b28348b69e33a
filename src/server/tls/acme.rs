//! A certificate by ACME (RFC 8555), proven by TLS-ALPN-01 (RFC 8737) on the listener itself, renewed when a third of
//! its life is left. The protocol is `rustls-acme`'s; here are its settings, what it keeps on disk, and what it brings.

use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_core::Stream as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_acme::{AccountCache, AcmeConfig, AcmeState, CertCache, EventError, EventOk};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::certificate::{Certificate, Slot};
use crate::config;

/// Orders, waits and renews as long as it is polled.
pub(super) type Orders = Pin<Box<AcmeState<io::Error, io::Error>>>;

/// What the listener needs to know of an order.
#[derive(Debug)]
pub(super) struct Acme {
    /// What it was made from.
    pub(super) settings: config::Acme,
    /// Stands for the content of `directory_ca`.
    pub(super) trust: Option<[u8; 32]>,
    /// Answers the authority's validation handshakes, and nobody else's.
    pub(super) challenge: Arc<ServerConfig>,
}

/// Prepares an order. `data` is the data folder, `roots` what the directory's own certificate must chain to, and the
/// certificate goes into `slot`, at once if there is one on disk. Nothing happens before [`next`] is awaited.
pub(super) fn prepare(
    settings: &config::Acme,
    trust: Option<[u8; 32]>,
    roots: RootCertStore,
    data: &Path,
    slot: Slot,
    provider: &Arc<CryptoProvider>,
) -> Result<(Acme, Orders), rustls::Error> {
    let client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let cache = Cache { folder: data.join(&settings.cache), slot, provider: Arc::clone(provider) };
    let state = AcmeConfig::new_with_client_config(&settings.domains, Arc::new(client))
        .contact(&settings.contact)
        .directory(&settings.directory)
        .cache(cache)
        .state();
    let challenge = state.challenge_rustls_config_with_provider(Arc::clone(provider));
    Ok((Acme { settings: settings.clone(), trust, challenge }, Box::pin(state)))
}

/// Makes the folder of account key and certificate, for us alone.
pub(super) fn make_folder(settings: &config::Acme, data: &Path) -> io::Result<()> {
    let folder = data.join(&settings.cache);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // It may have been there with a wider mode.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// What an order came to.
pub(super) enum Step {
    /// A certificate is in use: a new one, or the one from disk.
    Deployed { new: bool },
    /// Something was kept on disk.
    Kept,
    /// It did not work; it is tried again, later each time.
    Failed(String),
}

/// What there is to do.
pub(super) enum Work {
    /// To get a certificate and to renew it.
    Orders(Orders),
    /// Nothing.
    Nothing,
}

/// The next step of `work`; never, when there is none.
pub(super) async fn next(work: &mut Work) -> Step {
    let orders = match work {
        Work::Orders(orders) => orders,
        Work::Nothing => return std::future::pending().await,
    };
    match poll_fn(|context| orders.as_mut().poll_next(context)).await {
        Some(Ok(EventOk::DeployedNewCert)) => Step::Deployed { new: true },
        Some(Ok(EventOk::DeployedCachedCert)) => Step::Deployed { new: false },
        Some(Ok(EventOk::CertCacheStore | EventOk::AccountCacheStore)) => Step::Kept,
        Some(Err(error @ (EventError::CertCacheLoad(_) | EventError::AccountCacheLoad(_)))) => Step::Failed(error.to_string()),
        Some(Err(error @ (EventError::CertCacheStore(_) | EventError::AccountCacheStore(_)))) => Step::Failed(error.to_string()),
        Some(Err(error @ (EventError::CachedCertParse(_) | EventError::Order(_) | EventError::NewCertParse(_)))) => {
            Step::Failed(error.to_string())
        }
        // Its stream has no end.
        None => std::future::pending().await,
    }
}

/// Account key and certificate on disk, mode 0600; a certificate that passes through is put to use.
struct Cache {
    folder: PathBuf,
    slot: Slot,
    provider: Arc<CryptoProvider>,
}

impl Cache {
    /// A file's name says whose it is: another contact, other domains or another directory have files of their own.
    fn path(&self, kind: &str, of: &[String], directory: &str) -> PathBuf {
        let mut sum = Sha256::new();
        for part in of.iter().map(String::as_str).chain([directory]) {
            sum.update(Sha256::digest(part));
        }
        self.folder.join(format!("{kind}-{}", URL_SAFE_NO_PAD.encode(sum.finalize())))
    }

    /// rustls-acme keeps its certificate to itself; this is where it comes by: key first, then the chain, in PEM.
    fn deploy(&self, pem: &[u8]) -> Result<(), String> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(|error| error.to_string())?;
        let key = CertifiedKey::from_der(chain, key, &self.provider).map_err(|error| error.to_string())?;
        self.slot.store(Some(Arc::new(Certificate::new(key)?)));
        Ok(())
    }
}

#[async_trait]
impl CertCache for Cache {
    type EC = io::Error;

    async fn load_cert(&self, domains: &[String], directory_url: &str) -> Result<Option<Vec<u8>>, io::Error> {
        let found = read(&self.path("certificate", domains, directory_url))?;
        // Without the one on disk a new one is ordered.
        let found = found.filter(|pem| self.deploy(pem).inspect_err(|error| tracing::warn!(error, "ACME: the kept certificate")).is_ok());
        Ok(found)
    }

    async fn store_cert(&self, domains: &[String], directory_url: &str, cert: &[u8]) -> Result<(), io::Error> {
        self.deploy(cert).map_err(io::Error::other)?;
        write(&self.path("certificate", domains, directory_url), cert)
    }
}

#[async_trait]
impl AccountCache for Cache {
    type EA = io::Error;

    async fn load_account(&self, contact: &[String], directory_url: &str) -> Result<Option<Vec<u8>>, io::Error> {
        read(&self.path("account", contact, directory_url))
    }

    async fn store_account(&self, contact: &[String], directory_url: &str, account: &[u8]) -> Result<(), io::Error> {
        write(&self.path("account", contact, directory_url), account)
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, whatever happens in between.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let content = Zeroizing::new(content.to_vec());
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    io::Write::write_all(&mut file, &content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_what_it_is_given_for_us_alone() {
        let data = tempfile::tempdir().unwrap();
        let settings = config::Acme {
            domains: vec!["a.test".to_owned()],
            contact: None,
            cache: "acme".into(),
            directory: "https://ca.test/directory".parse().unwrap(),
            directory_ca: None,
        };
        let folder = data.path().join("acme");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        make_folder(&settings, data.path()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);

        let slot = Slot::default();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let cache = Cache { folder: folder.clone(), slot: Arc::clone(&slot), provider };
        let (domains, directory) = (settings.domains.as_slice(), settings.directory.as_str());
        assert_eq!(cache.load_cert(domains, directory).await.unwrap(), None);
        let made = rcgen::generate_simple_self_signed(domains).unwrap();
        let pem = [made.signing_key.serialize_pem(), made.cert.pem()].concat();
        cache.store_cert(domains, directory, pem.as_bytes()).await.unwrap();
        assert!(slot.swap(None).is_some());
        assert_eq!(cache.load_cert(domains, directory).await.unwrap().as_deref(), Some(pem.as_bytes()));
        assert!(slot.load().is_some());
        assert_eq!(cache.load_cert(domains, "https://other.test/").await.unwrap(), None);
        assert_eq!(cache.load_cert(&["b.test".to_owned()], directory).await.unwrap(), None);

        cache.store_account(&[], directory, b"key").await.unwrap();
        assert_eq!(cache.load_account(&[], directory).await.unwrap().as_deref(), Some(&b"key"[..]));
        for entry in std::fs::read_dir(&folder).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
        // A damaged one is as good as none.
        std::fs::write(cache.path("certificate", domains, directory), "damaged").unwrap();
        assert_eq!(cache.load_cert(domains, directory).await.unwrap(), None);
        assert!(cache.store_cert(domains, directory, b"damaged").await.is_err());
    }
}
