//! `nullpass health`: for container health checks in an image without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{ConfigFile, Failure, output, state};

/// How long the server may take. Less than the shortest usual patience of a health check.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) fn run(file: &ConfigFile) -> Result<(), Failure> {
    let config = state::load(file)?;
    let Some(listen) = config.admin.listen else {
        return Err(Failure::Usage("admin.listen is \"\", so that nobody can be asked: set it, such as to \"127.0.0.1:9090\"".to_owned()));
    };
    let address = reachable(listen);
    let (status, body) = state::runtime()?
        .block_on(async { tokio::time::timeout(PATIENCE, ask(address)).await })
        .map_err(|_| Failure::Failed(format!("not ready: {address} does not answer within {} s", PATIENCE.as_secs())))?
        .map_err(|error| Failure::Failed(format!("not ready: {address}: {error}: is the server running?")))?;
    if status == StatusCode::OK { output::line("ready") } else { Err(Failure::Failed(format!("not ready ({status}): {body}"))) }
}

/// Where a listener on every address is reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(address: SocketAddr) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let request = Request::get("/readyz").header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), 64 << 10).collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        result = exchange.as_mut() => result,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("127.0.0.1:9090", "127.0.0.1:9090"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
