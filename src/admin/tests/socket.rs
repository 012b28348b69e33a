//! Commands over the socket, and the socket itself.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::UnixStream;

use super::*;
use crate::admin::socket::{self, BindError, CallError, Listener};

/// A server with a socket at `path`.
async fn listen(house: &House, path: &Path) -> Tasks {
    let tasks = Tasks::new();
    let listener = Listener::bind(path).await.unwrap();
    tasks.spawn(socket::serve(listener, Arc::clone(&house.auth), house.clock.clone(), tasks.clone()));
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_over_the_socket() {
    let house = House::new().await;
    let path = house.socket();
    let tasks = listen(&house, &path).await;
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    let Ok(Answer::User(ada)) = socket::call(&path, &add("ada@example.com", PASSWORD)).await else { panic!("no account") };
    assert_eq!(house.user(Command::UserShow { who: Who::Id(ada.id) }).await, ada);
    let refused = socket::call(&path, &Command::UserShow { who: who("eve@example.com") }).await;
    assert!(matches!(&refused, Err(CallError::Command(CommandError::NoUser(who))) if who.to_string() == "eve@example.com"), "{refused:?}");

    tasks.stop();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();
    assert!(!path.exists());
    assert!(matches!(socket::call(&path, &Command::UserShow { who: Who::Id(ada.id) }).await, Err(CallError::NoServer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_takes_one_kind_of_request() {
    let house = House::new().await;
    let path = house.socket();
    let tasks = listen(&house, &path).await;
    let long = format!("POST /command HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\nConnection: close\r\n\r\n{}", "a".repeat(70_000));
    for (request, status) in [
        ("GET /command HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "404"),
        ("POST /command HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"x\":\"y\"}", "400"),
        (long.as_str(), "400"),
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The server may answer and close before it has read it all.
        let _broken = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _broken = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    tasks.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_replaced_only_when_nobody_answers() {
    let house = House::new().await;
    let path = house.socket();
    let tasks = listen(&house, &path).await;
    assert!(matches!(Listener::bind(&path).await, Err(BindError::InUse(_))));
    // The one that answers still does.
    assert!(socket::call(&path, &Command::UserList { search: None, group: None, after: None }).await.is_ok());
    tasks.stop();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();

    // What a crashed server leaves behind: std's listener does not remove its file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(matches!(socket::call(&path, &Command::UserShow { who: who("a@b.de") }).await, Err(CallError::NoServer)));
    drop(Listener::bind(&path).await.unwrap());

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&path).await, Err(BindError::NoSocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_socket_can_have_is_named() {
    let path = Path::new("/tmp").join("x".repeat(120));
    let error = Listener::bind(&path).await.unwrap_err();
    assert!(matches!(error, BindError::TooLong { bytes: 125, .. }), "{error}");
    assert!(error.to_string().contains("admin.socket"), "{error}");
    let error = socket::call(&path, &Command::UserShow { who: who("a@b.de") }).await.unwrap_err();
    assert!(matches!(error, CallError::Path(_)), "{error}");
}
