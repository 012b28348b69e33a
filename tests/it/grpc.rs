//! gRPC: what is refused here is said as gRPC says it.

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Server};

const TOML: &str =
    "[[rules]]\npath = \"/never.Service/**\"\npolicy = \"deny\"\n[[rules]]\npath = \"/pkg.Public/**\"\npolicy = \"public\"\n";

async fn call(server: &Server, path: &str, fields: &[(&str, &str)]) -> (u16, HeaderMap, Option<HeaderMap>) {
    let (mut sender, connection) = h2::client::handshake(TcpStream::connect(server.address).await.unwrap()).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    let request =
        Request::post(format!("http://app.example.com{path}")).header("content-type", "application/grpc").header("te", "trailers");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let (answer, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    // Who refuses a call may do so before its message has come.
    let _over = stream.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true);
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").unwrap();
    let (parts, mut body) = answer.into_parts();
    while let Some(Ok(_)) = body.data().await {}
    (parts.status.as_u16(), parts.headers, body.trailers().await.unwrap_or_default())
}

// The contract's statuses, with gRPC's own beside them in a head that is the whole answer ("Trailers-Only").
#[tokio::test]
async fn refusals_are_said_as_grpc_says_them() {
    let server = Server::start(TOML).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let refused = |(status, headers, trailers): (u16, HeaderMap, Option<HeaderMap>)| {
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["cache-control"], "no-store");
        assert!(trailers.is_none() && !headers["grpc-message"].is_empty());
        assert!(headers["grpc-message"].to_str().unwrap().bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        (status, headers["grpc-status"].to_str().unwrap().to_owned())
    };
    assert_eq!(refused(call(&server, "/pkg.Service/Get", &[]).await), (401, "16".to_owned()));
    assert_eq!(refused(call(&server, "/pkg.Service/Get", &[("authorization", "Bearer np_x")]).await), (401, "16".to_owned()));
    assert_eq!(refused(call(&server, "/never.Service/Get", &[("authorization", &bearer)]).await), (403, "7".to_owned()));
    server.upstream.answer(|_| Vec::new());
    assert_eq!(refused(call(&server, "/pkg.Service/Get", &[("authorization", &bearer)]).await), (502, "14".to_owned()));
    server.set_store_away(true).await;
    let unknown = format!("Bearer {}", token.replace(&token[token.len() - 6..], "AAAAAA"));
    let (status, code) = refused(call(&server, "/pkg.Service/Get", &[("authorization", &unknown)]).await);
    assert!((status, code.as_str()) == (503, "14") || (status, code.as_str()) == (401, "16"), "{status} {code}");
    server.set_store_away(false).await;
}
