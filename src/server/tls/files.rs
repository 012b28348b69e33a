//! The PEM files of `[server.tls]`, read once and together: what is compared is what is used.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, crypto::CryptoProvider};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::certificate::Certificate;
use crate::config::{CertificateFiles, ServerTls};
use crate::server::Error;

/// No chain, key or list of authorities is longer, in bytes.
const LONGEST: u64 = 4 << 20;

/// The files' contents at one moment.
pub(super) struct Files {
    read: BTreeMap<PathBuf, Result<Zeroizing<Vec<u8>>, String>>,
}

impl Files {
    /// Reads every file that `settings` name. One that can't be read is an error only for whoever wants it.
    pub(super) fn read(settings: &ServerTls) -> Self {
        let pairs = settings.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        let client = settings.client.iter().map(|client| &client.ca);
        let directory = settings.acme.iter().filter_map(|acme| acme.directory_ca.as_ref());
        let read = pairs.chain(client).chain(directory).map(|path| (path.clone(), content(path).map_err(|error| error.to_string())));
        Self { read: read.collect() }
    }

    /// Stands for the contents of all files; differs when one of them does.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut sum = Sha256::new();
        for (path, content) in &self.read {
            let part = match content {
                Ok(content) => Sha256::digest(content),
                Err(problem) => Sha256::digest(format!("unreadable: {problem}")),
            };
            sum.update(Sha256::digest(path.as_os_str().as_encoded_bytes()));
            sum.update(part);
        }
        sum.finalize().into()
    }

    /// Stands for the content of one file.
    pub(super) fn digest_of(&self, path: &Path) -> Result<[u8; 32], Error> {
        Ok(Sha256::digest(self.content(path)?).into())
    }

    /// A chain with the key that belongs to it.
    pub(super) fn certificate(&self, pair: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, Error> {
        let chain = self.certificates(&pair.cert)?;
        let key = PrivateKeyDer::from_pem_slice(self.content(&pair.key)?)
            .map_err(|error| problem(&pair.key, format!("holds no private key in PEM: {error}")))?;
        let mismatch = |error| problem(&pair.key, format!("does not fit the certificate in {}: {error}", pair.cert.display()));
        let key = rustls::sign::CertifiedKey::from_der(chain, key, provider).map_err(mismatch)?;
        Certificate::new(key).map_err(|cause| problem(&pair.cert, cause))
    }

    /// The authorities in a file; at least one (requirement CFG-3).
    pub(super) fn authorities(&self, path: &Path) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(path)? {
            roots.add(certificate).map_err(|error| problem(path, format!("holds what is no authority: {error}")))?;
        }
        Ok(roots)
    }

    fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.content(path)?).collect();
        let found = found.map_err(|error| problem(path, format!("is no PEM: {error}")))?;
        if found.is_empty() { Err(problem(path, "holds no certificate in PEM".to_owned())) } else { Ok(found) }
    }

    fn content(&self, path: &Path) -> Result<&[u8], Error> {
        match self.read.get(path) {
            Some(Ok(content)) => Ok(content),
            Some(Err(cause)) => Err(problem(path, format!("can't be read: {cause}"))),
            None => Err(problem(path, "was not read".to_owned())),
        }
    }
}

fn content(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST { Err(std::io::Error::other("it is longer than 4 MiB")) } else { Ok(content) }
}

fn problem(path: &Path, problem: String) -> Error {
    Error::Certificate { path: path.to_owned(), problem }
}
