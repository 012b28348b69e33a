//! TLS that ends here: protocols, certificates by name, and unix sockets beside it.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::support::Server;

/// A certificate for `name` and its key, as files in `folder`; the certificate in PEM.
fn certificate(folder: &std::path::Path, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(folder.join(format!("{name}.crt")), made.cert.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

/// The first bytes of an answer to `GET /_auth/api/health` and the protocol that was agreed on.
async fn ask(server: &Server, name: &str, trusted: &str, protocols: &[&[u8]]) -> Result<(String, Option<Vec<u8>>), std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(server.address).await?;
    let name_to_verify = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name_to_verify, stream).await?;
    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    if protocol.as_deref() == Some(b"h2") {
        return Ok((String::new(), protocol));
    }
    let request = format!("GET /_auth/api/health HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok((String::from_utf8_lossy(&answer).into_owned(), protocol))
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_protocols_by_alpn() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (certificate(folder.path(), "a.test"), certificate(folder.path(), "b.test"));
    let path = folder.path().display();
    let server = Server::start(&format!(
        "[server.tls]\ncert = \"{path}/a.test.crt\"\nkey = \"{path}/a.test.key\"\n\
         more = [{{ cert = \"{path}/b.test.crt\", key = \"{path}/b.test.key\" }}]\n"
    ))
    .await;
    for (name, trusted) in [("a.test", &first), ("b.test", &second)] {
        let (answer, protocol) = ask(&server, name, trusted, &[b"http/1.1"]).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
        assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]));
        let (_, protocol) = ask(&server, name, trusted, &[b"h2", b"http/1.1"]).await.unwrap();
        assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
    }
    // Each name gets its own certificate and no other.
    assert!(ask(&server, "b.test", &first, &[]).await.is_err());
}

#[tokio::test]
async fn a_unix_socket_beside_tls_speaks_plain_http() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path(), "a.test");
    let path = folder.path().display();
    let server = Server::start(&format!(
        "[server]\nlisten = [\"127.0.0.1:8080\", \"unix:{path}/http.sock\"]\n\
         [server.tls]\ncert = \"{path}/a.test.crt\"\nkey = \"{path}/a.test.key\"\n"
    ))
    .await;
    let mut stream = UnixStream::connect(folder.path().join("http.sock")).await.unwrap();
    stream.write_all(b"GET /_auth/api/health HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(server);
    // The file goes with the listener: who waits for it to come up again must not find the old one.
    for _ in 0..100 {
        if !folder.path().join("http.sock").exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the socket's file is still there");
}
