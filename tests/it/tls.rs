//! TLS that ends here: protocols, certificates by name and their swap, client certificates, tickets, and unix sockets
//! beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nullpass::config::{ClientCertificates, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{PATIENCE, Server};

/// A certificate for `name` and its key, as files in `folder`; the certificate in PEM.
fn certificate(folder: &Path, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(folder.join(format!("{name}.crt")), made.cert.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

/// `[server.tls]` with the certificate for `a.test`.
fn section(folder: &Path) -> String {
    let path = folder.display();
    format!("[server.tls]\ncert = \"{path}/a.test.crt\"\nkey = \"{path}/a.test.key\"\n")
}

/// An authority, as PEM in `folder/NAME.crt`.
fn authority(folder: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join(format!("{name}.crt")), made.pem()).unwrap();
    made
}

/// Somebody's certificate and key, good until `year`.
fn person(authority: &CertifiedIssuer<'static, KeyPair>, year: i32) -> (String, String) {
    let mut params = CertificateParams::new(["somebody".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// A TLS client that keeps its tickets.
struct Client(TlsConnector);

impl Client {
    fn new(
        trusted: &[&str],
        version: &'static rustls::SupportedProtocolVersion,
        protocols: &[&[u8]],
        own: Option<&(String, String)>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for trusted in trusted {
            roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(64);
        Self(TlsConnector::from(Arc::new(config)))
    }

    fn modern(trusted: &[&str]) -> Self {
        Self::new(trusted, &rustls::version::TLS13, &[], None)
    }

    async fn connect(&self, server: &Server, name: &str) -> Result<TlsStream<TcpStream>, std::io::Error> {
        let stream = TcpStream::connect(server.address).await?;
        self.0.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
    }

    /// One request on a connection of its own: the answer, and how the handshake went.
    async fn ask(&self, server: &Server, name: &str) -> Result<(String, HandshakeKind), std::io::Error> {
        let mut stream = self.connect(server, name).await?;
        let answer = request(&mut stream, name, "close").await?;
        Ok((answer, stream.get_ref().1.handshake_kind().unwrap()))
    }
}

/// `GET /_auth/api/health`, and the answer: whole when the connection is to close after it, else its first bytes.
async fn request<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, name: &str, connection: &str) -> Result<String, std::io::Error> {
    let request = format!("GET /_auth/api/health HTTP/1.1\r\nhost: {name}\r\nconnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    if connection == "close" {
        stream.read_to_end(&mut answer).await?;
    } else {
        answer.resize(4096, 0);
        let count = stream.read(&mut answer).await?;
        answer.truncate(count);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Waits until `holds`.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_protocols_by_alpn() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (certificate(folder.path(), "a.test"), certificate(folder.path(), "*.b.test"));
    let path = folder.path().display();
    let more = format!("more = [{{ cert = \"{path}/*.b.test.crt\", key = \"{path}/*.b.test.key\" }}]\n");
    let server = Server::start(&(section(folder.path()) + &more)).await;
    for (name, trusted) in [("a.test", &first), ("x.b.test", &second)] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let http1 = Client::new(&[trusted], version, &[b"http/1.1"], None);
            let mut stream = http1.connect(&server, name).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let answer = request(&mut stream, name, "close").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
            let both = Client::new(&[trusted], version, &[b"h2", b"http/1.1"], None).connect(&server, name).await.unwrap();
            assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        }
    }
    // Each name gets its own certificate and no other; a stranger gets the first.
    assert!(Client::modern(&[&first]).connect(&server, "x.b.test").await.is_err());
    let error = Client::modern(&[&first]).connect(&server, "stranger.test").await.unwrap_err().to_string();
    assert!(error.contains("not valid for name") && error.contains("a.test"), "{error}");
    // No protocol in common is no connection, not one that speaks something else.
    assert!(Client::new(&[&first], &rustls::version::TLS13, &[b"acme-tls/1"], None).connect(&server, "a.test").await.is_err());
    let hybrid = Client::modern(&[&first]).connect(&server, "a.test").await.unwrap();
    assert_eq!(hybrid.get_ref().1.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_unix_socket_beside_tls_speaks_plain_http() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path(), "a.test");
    let path = folder.path().display();
    let listen = format!("[server]\nlisten = [\"127.0.0.1:8080\", \"unix:{path}/http.sock\"]\n");
    let server = Server::start(&(listen + &section(folder.path()))).await;
    let mut stream = UnixStream::connect(folder.path().join("http.sock")).await.unwrap();
    let answer = request(&mut stream, "a.test", "close").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(server);
    // The file goes with the listener: who waits for it to come up again must not find the old one.
    until("the socket's file is gone", async || !folder.path().join("http.sock").exists()).await;
}

#[tokio::test]
async fn a_changed_pair_is_taken_without_dropping_anybody_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let old = certificate(folder.path(), "a.test");
    let server = Server::start(&section(folder.path())).await;
    let mut kept = Client::modern(&[&old]).connect(&server, "a.test").await.unwrap();
    assert!(request(&mut kept, "a.test", "keep-alive").await.unwrap().starts_with("HTTP/1.1 200 "));

    // Half written: the certificate is new, the key still old. The old pair goes on.
    let elsewhere = tempfile::tempdir().unwrap();
    let new = certificate(elsewhere.path(), "a.test");
    let (crt, key) = (folder.path().join("a.test.crt"), folder.path().join("a.test.key"));
    std::fs::copy(elsewhere.path().join("a.test.crt"), &crt).unwrap();
    until("the half is refused", async || server.metric("nullpass_tls_reloads{name=\"failed\"}").await == 1.0).await;
    assert!(Client::modern(&[&old]).ask(&server, "a.test").await.is_ok());

    // Whole again, and in use.
    std::fs::copy(elsewhere.path().join("a.test.key"), &key).unwrap();
    until("the new one is in use", async || Client::modern(&[&new]).ask(&server, "a.test").await.is_ok()).await;
    assert!(Client::modern(&[&old]).ask(&server, "a.test").await.is_err());
    assert_eq!(server.metric("nullpass_tls_reloads{name=\"ok\"}").await, 1.0);
    assert!(request(&mut kept, "a.test", "keep-alive").await.unwrap().starts_with("HTTP/1.1 200 "));

    // Whatever else is wrong is refused as well, with the file that is to blame.
    let settings = server.config.server.tls.clone().unwrap();
    let refused = |part: &str| {
        let shown = server.tls().reload(&settings).unwrap_err().to_string();
        assert!(shown.contains(part) && shown.contains(folder.path().to_str().unwrap()), "{shown}");
    };
    std::fs::write(&crt, "no certificate").unwrap();
    refused("a.test.crt: holds no certificate");
    std::fs::remove_file(&crt).unwrap();
    refused("a.test.crt: can't be read");
    std::fs::copy(elsewhere.path().join("a.test.crt"), &crt).unwrap();
    std::fs::write(&key, &new).unwrap();
    refused("a.test.key: holds no private key");
    std::fs::copy(elsewhere.path().join("a.test.key"), &key).unwrap();
    server.tls().reload(&settings).unwrap();
    assert!(Client::modern(&[&new]).ask(&server, "a.test").await.is_ok());
    assert!(server.metric("nullpass_tls_certificate_not_after_seconds{name=\"a.test\"}").await > 4e9);
}

#[tokio::test]
async fn a_swapped_symlink_is_seen() {
    // As kubelet writes a Secret: tls.crt -> ..data/tls.crt, and ..data -> a folder that is new each time.
    let folder = tempfile::tempdir().unwrap();
    let mut made = Vec::new();
    for version in ["..1", "..2"] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        made.push(certificate(&folder.path().join(version), "a.test"));
    }
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
    link("..1", "..data");
    link("..data/a.test.crt", "a.test.crt");
    link("..data/a.test.key", "a.test.key");
    let server = Server::start(&section(folder.path())).await;
    assert!(Client::modern(&[&made[0]]).ask(&server, "a.test").await.is_ok());
    link("..2", "..data_tmp");
    std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    until("the new one is in use", async || Client::modern(&[&made[1]]).ask(&server, "a.test").await.is_ok()).await;
}

#[tokio::test]
async fn a_session_resumes_also_after_a_swap() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let folder = tempfile::tempdir().unwrap();
        let old = certificate(folder.path(), "a.test");
        let server = Server::start(&section(folder.path())).await;
        let client = Client::new(&[&old], version, &[], None);
        let how = async || client.ask(&server, "a.test").await.unwrap().1;
        assert_ne!(how().await, HandshakeKind::Resumed);
        assert_eq!(how().await, HandshakeKind::Resumed);
        certificate(folder.path(), "a.test");
        server.tls().reload(server.config.server.tls.as_ref().unwrap()).unwrap();
        assert_eq!(how().await, HandshakeKind::Resumed);
        // A restart forgets the keys; the client shakes hands again.
    }
}

#[tokio::test]
async fn client_certificates_are_required_or_verified_when_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = certificate(folder.path(), "a.test");
    let (ours, theirs) = (authority(folder.path(), "ca"), authority(folder.path(), "other"));
    let ca = format!("client_ca = \"{}/ca.crt\"\n", folder.path().display());
    let (good, stranger, expired) = (person(&ours, 4000), person(&theirs, 4000), person(&ours, 2020));
    for (mode, without) in [("", false), ("client_cert = \"required\"\n", false), ("client_cert = \"optional\"\n", true)] {
        let server = Server::start(&(section(folder.path()) + &ca + mode)).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for (own, taken) in [(None, without), (Some(&good), true), (Some(&stranger), false), (Some(&expired), false)] {
                let client = Client::new(&[&trusted], version, &[], own);
                let answer = client.ask(&server, "a.test").await;
                assert_eq!(answer.is_ok(), taken, "{mode:?} {version:?} {answer:?}");
            }
        }
    }
}

// CFG-3
#[tokio::test]
async fn a_ticket_never_spares_a_client_certificate_that_is_asked_for_since() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = certificate(folder.path(), "a.test");
    let (ours, theirs) = (authority(folder.path(), "ca"), authority(folder.path(), "other"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = Server::start(&section(folder.path())).await;
        let plain = server.config.server.tls.clone().unwrap();
        let nobody = Client::new(&[&trusted], version, &[], None);
        assert!(nobody.ask(&server, "a.test").await.is_ok());
        let asking = |name: &str| ServerTls {
            client: Some(ClientCertificates { ca: folder.path().join(format!("{name}.crt")), required: true }),
            ..plain.clone()
        };
        server.tls().reload(&asking("ca")).unwrap();
        assert!(nobody.ask(&server, "a.test").await.is_err());
        let (first, second) = (person(&ours, 4000), person(&theirs, 4000));
        let first = Client::new(&[&trusted], version, &[], Some(&first));
        assert!(first.ask(&server, "a.test").await.is_ok());
        assert_eq!(first.ask(&server, "a.test").await.unwrap().1, HandshakeKind::Resumed);
        // Another authority: who was let in by the old one shows a certificate again, and it does not do.
        server.tls().reload(&asking("other")).unwrap();
        assert!(first.ask(&server, "a.test").await.is_err());
        assert!(Client::new(&[&trusted], version, &[], Some(&second)).ask(&server, "a.test").await.is_ok());
        // An authority that is gone does not let everybody in.
        server.tls().reload(&asking("missing")).unwrap_err();
        assert!(nobody.ask(&server, "a.test").await.is_err());
        std::fs::write(folder.path().join("empty.crt"), "").unwrap();
        server.tls().reload(&asking("empty")).unwrap_err();
        assert!(nobody.ask(&server, "a.test").await.is_err());
    }
}

// CFG-3
#[tokio::test]
async fn the_start_fails_without_usable_files() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path(), "a.test");
    certificate(folder.path(), "b.test");
    let mut server = Server::start(&section(folder.path())).await;
    server.end().await;
    let with = |change: &dyn Fn(&mut ServerTls)| {
        let mut config = server.config.clone();
        change(config.server.tls.as_mut().unwrap());
        config
    };
    let other_key = with(&|tls| tls.certificates[0].key = folder.path().join("b.test.key"));
    assert!(server.fails_to_start(&other_key, &server.time).await);
    let no_ca = with(&|tls| tls.client = Some(ClientCertificates { ca: folder.path().join("none"), required: true }));
    assert!(server.fails_to_start(&no_ca, &server.time).await);
    assert!(!server.fails_to_start(&server.config, &server.time).await);
}
