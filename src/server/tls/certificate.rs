//! Certificates, and which of them a client gets: the one that names the host it asks for, else the first.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock::Timestamp;

/// A chain with its key, and what its leaf says.
#[derive(Debug)]
pub(super) struct Certificate {
    key: Arc<CertifiedKey>,
    /// Lower case; `*.` in front stands for one label (RFC 9525, section 6.3).
    names: Vec<String>,
    /// From when it is good.
    pub(super) not_before: Timestamp,
    /// Until when it is good.
    pub(super) not_after: Timestamp,
}

impl Certificate {
    /// Reads the leaf; `Err` says what is wrong with it.
    pub(super) fn new(key: CertifiedKey) -> Result<Self, String> {
        let leaf = key.cert.first().ok_or_else(|| "holds no certificate".to_owned())?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| format!("holds what is no certificate: {error}"))?;
        let alternatives = parsed.subject_alternative_name().map_err(|error| format!("has names that can't be read: {error}"))?;
        let mut names = Vec::new();
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let (not_before, not_after) = (Timestamp::from_secs(not_before), Timestamp::from_secs(not_after));
        Ok(Self { key: Arc::new(key), names, not_before, not_after })
    }

    /// What it is called in metrics and in the log: its first DNS name.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("(no name)", String::as_str)
    }

    fn fits(&self, host: &str) -> bool {
        let wildcard = wildcard(host);
        self.names.iter().any(|name| name == host || Some(name) == wildcard.as_ref())
    }
}

/// The one that ACME got us, shared with whoever orders the next.
pub(super) type Slot = Arc<ArcSwapOption<Certificate>>;

/// All certificates of the moment.
#[derive(Debug)]
pub(super) struct Certificates {
    files: Vec<Arc<Certificate>>,
    /// Names of those, wildcards among them; the first certificate that has a name keeps it.
    by_name: HashMap<String, usize>,
    acme: Slot,
}

impl Certificates {
    /// The first of `files` is the default, before the one in `acme`.
    pub(super) fn new(files: Vec<Certificate>, acme: Slot) -> Self {
        let mut by_name = HashMap::new();
        for (index, certificate) in files.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_insert(index);
            }
        }
        Self { files: files.into_iter().map(Arc::new).collect(), by_name, acme }
    }

    /// Those from files.
    pub(super) fn files(&self) -> &[Arc<Certificate>] {
        &self.files
    }

    /// The certificate for a host in lower case: an exact name beats a wildcard, and ACME's beats a file's.
    fn choose(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let acme = self.acme.load();
        if let Some(host) = host {
            if let Some(acme) = acme.as_ref().filter(|acme| acme.fits(host)) {
                return Some(Arc::clone(&acme.key));
            }
            let index = self.by_name.get(host).or_else(|| self.by_name.get(&wildcard(host)?));
            if let Some(found) = index.and_then(|index| self.files.get(*index)) {
                return Some(Arc::clone(&found.key));
            }
        }
        self.files.first().or(acme.as_ref()).map(|certificate| Arc::clone(&certificate.key))
    }
}

impl ResolvesServerCert for Certificates {
    /// `None`, which ends the handshake with `access_denied`, only while ACME has not brought the first one.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has checked the name and made it lower case.
        self.choose(hello.server_name())
    }
}

/// `*.example.com` for `app.example.com`.
fn wildcard(host: &str) -> Option<String> {
    host.split_once('.').map(|(_, parent)| format!("*.{parent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Certificate::new(CertifiedKey::from_der(vec![made.cert.into()], key, &provider).unwrap()).unwrap()
    }

    #[test]
    fn exact_names_beat_wildcards_and_the_first_is_the_default() {
        let files = vec![certificate(&["*.A.test", "a.test"]), certificate(&["b.a.test"]), certificate(&["a.test", "d.test"])];
        let acme = Slot::default();
        let all = Certificates::new(files, Arc::clone(&acme));
        let index = |host: Option<&str>| {
            let found = all.choose(host).unwrap();
            all.files.iter().position(|file| Arc::ptr_eq(&file.key, &found))
        };
        for (host, expected) in
            [("x.a.test", 0), ("b.a.test", 1), ("a.test", 0), ("d.test", 2), ("x.b.a.test", 0), ("other.test", 0), ("test", 0), ("", 0)]
        {
            assert_eq!(index(Some(host)), Some(expected), "{host}");
        }
        assert_eq!(index(None), Some(0));
        acme.store(Some(Arc::new(certificate(&["b.a.test", "e.test"]))));
        assert_eq!((index(Some("b.a.test")), index(Some("e.test"))), (None, None));
        assert_eq!((index(Some("x.a.test")), index(Some("other.test")), index(None)), (Some(0), Some(0), Some(0)));
    }

    #[test]
    fn acme_alone_has_nothing_until_it_has() {
        let acme = Slot::default();
        let all = Certificates::new(Vec::new(), Arc::clone(&acme));
        assert!(all.choose(Some("a.test")).is_none());
        acme.store(Some(Arc::new(certificate(&["a.test"]))));
        assert!(all.choose(Some("a.test")).is_some() && all.choose(Some("other.test")).is_some() && all.choose(None).is_some());
    }

    #[test]
    fn what_the_leaf_says_is_read() {
        let found = certificate(&["A.test", "b.test"]);
        assert_eq!(found.name(), "a.test");
        assert!(found.not_before < found.not_after);
    }
}
