//! Upstreams that come, move and go while we run: late starts, names, reloads.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nullpass::config::{self, Preset, UpstreamUrl};
use nullpass::proxy::{Proxy, Resolver};
use nullpass::tasks::Tasks;
use tokio::net::TcpListener;

use super::support::*;

fn body(answer: &str) -> &str {
    answer.rsplit("\r\n\r\n").next().unwrap_or_default()
}

#[tokio::test]
async fn an_upstream_may_come_later_than_we_do() {
    let address = nobody().await;
    let front = front(upstream_at(address), How::default()).await;
    for _ in 0..3 {
        assert!(ask(&front, get("/")).await.starts_with("HTTP/1.1 502"));
    }
    let _here = named_at(TcpListener::bind(address).await.unwrap(), "here");
    for _ in 0..3 {
        assert_eq!(body(&ask(&front, get("/")).await), "here");
    }
}

/// Two listeners of one port at two addresses, and a name that has the addresses in the list.
struct Named {
    port: u16,
    addresses: Arc<Mutex<Vec<[u8; 4]>>>,
    listeners: Vec<TcpListener>,
}

async fn name() -> Named {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)).await {
            return Named { port, addresses: Arc::new(Mutex::new(vec![[127, 0, 0, 1]])), listeners: vec![first, second] };
        }
    }
}

impl Named {
    async fn front(&self) -> Front {
        let addresses = Arc::clone(&self.addresses);
        let lookup = move |_: &str, port: u16| -> nullpass::proxy::Lookup {
            let found = addresses.lock().unwrap().iter().map(|ip| SocketAddr::from((*ip, port))).collect();
            Box::pin(async move { Ok(found) })
        };
        let mut config = upstream_at("127.0.0.1:1".parse().unwrap());
        config.urls = vec![UpstreamUrl::Tcp { tls: false, host: "app.internal".to_owned(), port: self.port }];
        let tasks = Tasks::new();
        let resolver = Resolver::new(lookup, Duration::from_millis(50));
        let proxy = Proxy::with_resolver(&[config], &identity(), &admins(), None, tasks.clone(), resolver).unwrap();
        proxy.watch();
        let address = serve(proxy.worker(), How::default(), &tasks).await;
        Front { address, proxy, tasks }
    }
}

#[tokio::test]
async fn a_name_that_moves_is_followed_and_its_old_connections_are_closed() {
    let mut named = name().await;
    let front = named.front().await;
    let second = named_at(named.listeners.pop().unwrap(), "second");
    let first = named_at(named.listeners.pop().unwrap(), "first");
    for _ in 0..3 {
        assert_eq!(body(&ask(&front, get("/")).await), "first");
    }
    assert_eq!(first.1.get(), 1);
    *named.addresses.lock().unwrap() = vec![[127, 0, 0, 2]];
    within(async { while body(&ask(&front, get("/")).await) != "second" {} }).await;
    let old = first.2.get();
    for _ in 0..3 {
        assert_eq!(body(&ask(&front, get("/")).await), "second");
    }
    assert_eq!((first.2.get(), second.1.get()), (old, 1));
    eventually(|| front.proxy.counters().upstreams()[0].open.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn the_addresses_of_a_name_share_connections_and_stand_in_for_each_other() {
    let mut named = name().await;
    *named.addresses.lock().unwrap() = vec![[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]];
    let front = named.front().await;
    let mut listeners = named.listeners.drain(..);
    // Nobody listens at the third. Connections that are closed after each answer begin with another address each time.
    let count = [Count::default(), Count::default()];
    for count in &count {
        let count = count.clone();
        let listener = listeners.next().unwrap();
        upstream_on(listener, move |mut socket, _| {
            let count = count.clone();
            async move {
                drop(head(&mut socket).await);
                count.add(1);
                tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    .await
                    .unwrap();
            }
        });
    }
    for _ in 0..12 {
        assert_eq!(body(&ask(&front, get("/")).await), "ok");
    }
    assert!(count.iter().all(|count| count.get() >= 3), "{} {}", count[0].get(), count[1].get());
}

#[tokio::test]
async fn a_reload_keeps_what_has_not_changed() {
    let (kept, changed, gone) = (named("kept").await, named("changed").await, named("gone").await);
    let config = |address: SocketAddr, name: &str| config::Upstream {
        name: name.to_owned(),
        host: Some(format!("{name}.example.com")),
        health_interval: Some(Duration::from_secs(3600)),
        ..upstream_at(address)
    };
    let before = [config(gone.0, "gone"), config(changed.0, "changed"), config(kept.0, "kept")];
    let tasks = Tasks::new();
    let proxy = Proxy::new(&before, &identity(), &admins(), None, tasks.clone()).unwrap();
    proxy.watch();
    let worker = proxy.worker();
    let front = Front { address: serve(Arc::clone(&worker), How::default(), &tasks).await, proxy, tasks };
    let request = |name: &str| get("/").replace("app.", &format!("{name}."));
    for name in ["kept", "changed", "gone"] {
        assert_eq!(body(&ask(&front, request(name)).await), name);
    }
    let mut other = config(changed.0, "changed");
    other.retries = 3;
    let after = [config(kept.0, "kept"), other, config(kept.0, "new")];
    let bad = config::Upstream {
        urls: vec![UpstreamUrl::Tcp { tls: true, host: "x".to_owned(), port: 1 }],
        tls: config::UpstreamTls { ca: Some("/nowhere/ca.pem".into()), ..Default::default() },
        ..config(kept.0, "bad")
    };
    assert!(front.proxy.reloaded(&[bad], &identity(), &admins(), None).is_err());
    let next = front.proxy.reloaded(&after, &identity(), &admins(), None).unwrap();
    next.watch();
    let next_worker = next.worker_like(&worker);
    let next_front = Front { address: serve(next_worker, How::default(), &front.tasks).await, proxy: next, tasks: front.tasks.clone() };

    for name in ["kept", "changed", "kept"] {
        assert_eq!(body(&ask(&next_front, request(name)).await), name);
    }
    assert_eq!(kept.1.get(), 1, "its connection was kept");
    assert_eq!(changed.1.get(), 2);
    let requests = |front: &Front| -> Vec<u64> {
        front.proxy.counters().upstreams().iter().map(|counters| counters.requests.load(Ordering::Relaxed)).collect()
    };
    assert_eq!(requests(&next_front), [3, 2, 0]);
    // What the old one has is still served by it.
    assert_eq!(body(&ask(&front, request("gone")).await), "gone");
    assert_eq!(requests(&front), [2, 2, 3]);

    assert!(Arc::ptr_eq(&front.proxy.counters().upstreams()[2], &next_front.proxy.counters().upstreams()[0]));
}

// HDR-1: what was made for one configuration is never told under another.
#[tokio::test]
async fn an_identity_is_told_as_the_configuration_of_its_request_says() {
    let address = echo_heads().await;
    let config = |name: &str, preset| config::Upstream { name: name.to_owned(), preset, path: format!("/{name}"), ..upstream_at(address) };
    let tasks = Tasks::new();
    let first = Proxy::new(&[config("a", None), config("b", Some(Preset::Remote))], &identity(), &admins(), None, tasks.clone()).unwrap();
    // The same upstreams the other way round, one more, and then other names for the same facts.
    let turned = [config("b", Some(Preset::Remote)), config("c", None), config("a", None)];
    let second = first.reloaded(&turned, &identity(), &admins(), None).unwrap();
    let renamed = config::IdentityHeaders { preset: Preset::AuthRequest, ..identity() };
    let third = second.reloaded(&turned, &renamed, &admins(), None).unwrap();
    let fourth = third.reloaded(&turned, &renamed, &admins(), None).unwrap();
    // One that outlives them all, as a session's does.
    let how = How { identity: Some(ann()), ..How::default() };
    let mut fronts = Vec::new();
    for (proxy, a) in
        [(&first, "x-forwarded-user"), (&second, "x-forwarded-user"), (&third, "x-auth-request-user"), (&fourth, "x-auth-request-user")]
    {
        let address = serve(proxy.worker(), how.clone(), &tasks).await;
        fronts.push((Front { address, proxy: Arc::clone(proxy), tasks: tasks.clone() }, a));
    }
    for _ in 0..2 {
        for (front, a) in &fronts {
            for (path, name) in [("/a", *a), ("/b", "remote-user")] {
                let told = ask(front, get(path)).await;
                for known in ["x-forwarded-user", "x-auth-request-user", "remote-user"] {
                    assert_eq!(told.contains(&format!("\r\n{known}: ")), known == name, "{path} {known}: {told}");
                }
            }
        }
    }
}

#[tokio::test]
async fn nobody_watches_an_upstream_that_is_gone() {
    let tasks = Tasks::new();
    let upstream = |name: &str| config::Upstream {
        name: name.to_owned(),
        urls: vec![UpstreamUrl::Tcp { tls: false, host: "app.internal".to_owned(), port: 1 }],
        health_interval: Some(Duration::from_secs(3600)),
        ..upstream_at("127.0.0.1:1".parse().unwrap())
    };
    let proxy = Proxy::new(&[upstream("a"), upstream("b")], &identity(), &admins(), None, tasks.clone()).unwrap();
    proxy.watch();
    assert_eq!(tasks.len(), 4, "a probe and a name for each");
    let next = proxy.reloaded(&[upstream("b")], &identity(), &admins(), None).unwrap();
    next.watch();
    drop(proxy);
    eventually(|| tasks.len() == 2).await;
    drop(next);
    eventually(|| tasks.is_empty()).await;
}
