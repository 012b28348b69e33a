//! Several endpoints behind one upstream: who gets what, who is taken out and who comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nullpass::config::UpstreamUrl;
use nullpass::proxy::UpstreamCounters;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::support::*;

const POST: &str = "POST / HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";

/// The answer's status and body.
async fn told(front: &Front, request: impl AsRef<[u8]>) -> (String, String) {
    let answer = ask(front, request).await;
    let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    (status, answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}

fn counters(front: &Front) -> &UpstreamCounters {
    &front.proxy.counters().upstreams()[0]
}

fn endpoints_in(front: &Front) -> usize {
    front.proxy.endpoints_in(front.proxy.route("a", "/").unwrap())
}

#[tokio::test]
async fn requests_are_spread_over_all() {
    let (one, two, three) = (named("one").await, named("two").await, named("three").await);
    let front = front(upstream_at_all(&[one.0, two.0, three.0]), How::default()).await;
    for _ in 0..90 {
        assert_eq!(told(&front, get("/")).await.0, "200");
    }
    for (_, connections, requests) in [one, two, three] {
        assert!(requests.get() >= 10, "{}", requests.get());
        assert!(connections.get() <= 2, "connections are kept for each: {}", connections.get());
    }
}

#[tokio::test]
async fn one_that_is_busy_gets_nothing_while_another_is_free() {
    let stuck = Count::default();
    let seen = stuck.clone();
    let slow = upstream(move |mut socket, _| {
        let seen = seen.clone();
        async move {
            if !head(&mut socket).await.is_empty() {
                seen.add(1);
                std::future::pending::<()>().await;
            }
        }
    })
    .await;
    let (fast, _, served) = named("fast").await;
    let front = front(upstream_at_all(&[slow, fast]), How::default()).await;
    let mut open = Vec::new();
    for sent in 1..=30 {
        open.push(send(&front, get("/")).await);
        eventually(|| stuck.get() + served.get() == sent && counters(&front).in_flight.load(Ordering::Relaxed) <= 1).await;
    }
    // Chance picks the slow one first with a probability of all but 2^-30.
    assert_eq!((stuck.get(), served.get()), (1, 29));
}

#[tokio::test]
async fn one_that_is_gone_costs_no_request_and_is_ejected_until_it_is_back() {
    let gone = nobody().await;
    let (here, _, _) = named("here").await;
    let front = front(upstream_at_all(&[gone, here]), How::default()).await;
    let start = Instant::now();
    // Nothing was sent, so any request may be tried again.
    for _ in 0..40 {
        assert_eq!(told(&front, POST).await, ("200".to_owned(), "here".to_owned()));
    }
    // Five failures in a row, and one more each time that it came back meanwhile.
    let ejections = counters(&front).ejections.load(Ordering::Relaxed);
    assert!(ejections >= 1);
    assert!((4 + ejections..=5 + ejections).contains(&counters(&front).retries.load(Ordering::Relaxed)));
    assert!(endpoints_in(&front) == 1 || start.elapsed() >= Duration::from_secs(1));

    let back = named_at(TcpListener::bind(gone).await.unwrap(), "back");
    eventually(|| endpoints_in(&front) == 2).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    within(async {
        while back.2.get() == 0 {
            assert_eq!(told(&front, get("/")).await.0, "200");
        }
    })
    .await;
}

#[tokio::test]
async fn when_all_are_ejected_the_answer_is_503_and_then_they_are_tried_again() {
    let front = front(upstream_at_all(&[nobody().await, nobody().await]), How::default()).await;
    for _ in 0..5 {
        assert_eq!(told(&front, get("/")).await.0, "502");
    }
    let start = Instant::now();
    assert_eq!(told(&front, get("/")).await, ("503".to_owned(), "TakenOut".to_owned()));
    assert_eq!(endpoints_in(&front), 0);
    eventually(|| endpoints_in(&front) > 0).await;
    assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < Duration::from_secs(10));
    assert_eq!(told(&front, get("/")).await.0, "502");
}

#[tokio::test]
async fn what_the_application_says_ejects_nobody_and_neither_does_a_client_that_stalls() {
    let unwell = upstream(|mut socket, _| async move {
        while !head(&mut socket).await.is_empty() {
            socket.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nmine").await.unwrap();
        }
    })
    .await;
    let silent = || upstream(|mut socket, _| async move { drop(until(&mut socket, b"never").await) });
    let front_unwell = front(upstream_at_all(&[unwell, nobody().await]), How::default()).await;
    for _ in 0..40 {
        assert_eq!(told(&front_unwell, get("/")).await, ("503".to_owned(), "mine".to_owned()));
    }
    assert!(endpoints_in(&front_unwell) >= 1);

    let mut config = upstream_at_all(&[silent().await, silent().await]);
    config.stream_idle_timeout = Duration::from_millis(50);
    let front = front(config, How::default()).await;
    for _ in 0..15 {
        assert_eq!(told(&front, POST.replace("hi", "")).await.0, "504");
    }
    assert_eq!((endpoints_in(&front), counters(&front).ejections.load(Ordering::Relaxed)), (2, 0));
}

#[tokio::test]
async fn those_that_are_too_slow_are_ejected() {
    let silent = || upstream(|mut socket, _| async move { drop(until(&mut socket, b"never").await) });
    let mut config = upstream_at_all(&[silent().await, silent().await]);
    config.response_timeout = Duration::from_millis(20);
    let front = front(config, How::default()).await;
    within(async {
        while endpoints_in(&front) > 0 {
            // Never tried again: it was sent.
            assert!(["504", "503"].contains(&told(&front, get("/")).await.0.as_str()));
        }
    })
    .await;
    assert_eq!(counters(&front).retries.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn one_that_accepts_and_does_not_greet_costs_its_time_and_then_another_is_asked() {
    let silent = upstream(|mut socket, _| async move { drop(until(&mut socket, b"never").await) }).await;
    let https = UpstreamUrl::Tcp { tls: true, host: "127.0.0.1".to_owned(), port: silent.port() };
    let (good, _, _) = named("good").await;
    let mut config = upstream_at(good);
    config.tls.insecure = true;
    config.connect_timeout = Duration::from_millis(100);
    config.urls = vec![https.clone()];
    assert_eq!(told(&front(config.clone(), How::default()).await, POST).await, ("504".to_owned(), "TooSlow".to_owned()));
    config.urls = [vec![https], upstream_at(good).urls].concat();
    let front = front(config, How::default()).await;
    for _ in 0..20 {
        assert_eq!(told(&front, POST).await, ("200".to_owned(), "good".to_owned()));
    }
    assert_eq!(counters(&front).open.load(Ordering::Relaxed), 1, "what never greeted is closed");
}

#[tokio::test]
async fn a_single_one_is_never_ejected() {
    let front = front(upstream_at(nobody().await), How::default()).await;
    for _ in 0..15 {
        assert_eq!(told(&front, get("/")).await, ("502".to_owned(), "Unreachable".to_owned()));
    }
    assert_eq!(endpoints_in(&front), 1);
}

#[tokio::test]
async fn further_tries_have_a_budget() {
    let mut config = upstream_at(nobody().await);
    config.retries = 4;
    let front = front(config, How::default()).await;
    for _ in 0..10 {
        assert_eq!(told(&front, get("/")).await.0, "502");
    }
    let (made, refused) = (&counters(&front).retries, &counters(&front).retries_refused);
    // Ten, and one for each five requests since the first.
    assert_eq!(made.load(Ordering::Relaxed), 11);
    assert!(refused.load(Ordering::Relaxed) >= 5);
}

#[tokio::test]
async fn probes_take_out_and_bring_back_each_by_itself() {
    let well = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&well);
    let ill = upstream(move |mut socket, _| {
        let says = Arc::clone(&says);
        async move {
            loop {
                let head = head(&mut socket).await;
                let status = match (head.starts_with("GET /healthz "), says.load(Ordering::SeqCst)) {
                    (true, false) => "500 Ill",
                    (true, true) | (false, _) => "200 OK",
                };
                if head.is_empty()
                    || socket.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nill").as_bytes()).await.is_err()
                {
                    return;
                }
            }
        }
    })
    .await;
    let (good, _, _) = named("good").await;
    let mut config = upstream_at_all(&[ill, good]);
    config.health_interval = Some(Duration::from_millis(30));
    let front = front(config, How::default()).await;
    front.proxy.watch();
    front.proxy.watch();
    assert_eq!(front.tasks.len(), 3, "each is probed once, whoever asks for it");
    eventually(|| endpoints_in(&front) == 1).await;
    assert_eq!(counters(&front).ejections.load(Ordering::Relaxed), 1);
    for _ in 0..20 {
        assert_eq!(told(&front, get("/")).await, ("200".to_owned(), "good".to_owned()));
    }
    // The passed-through probe asks one that is in service.
    let index = front.proxy.route("a", "/").unwrap();
    assert!(within(front.proxy.probe(index)).await.unwrap().is_success());
    well.store(true, Ordering::SeqCst);
    eventually(|| endpoints_in(&front) == 2).await;
}

#[tokio::test]
async fn the_cap_is_one_over_all_and_each_is_called_by_its_own_name() {
    let (one, two) = (echo_heads().await, echo_heads().await);
    let mut config = upstream_at_all(&[one, two]);
    config.max_connections = 1;
    config.pass_host = false;
    let front = front(config, How::default()).await;
    let mut hosts = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let answer = ask(&front, get("/")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        hosts.insert(answer.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned());
        assert!(counters(&front).open.load(Ordering::Relaxed) <= 1);
    }
    assert_eq!(hosts, [one.to_string(), two.to_string()].into());
}

#[tokio::test]
async fn an_upstream_says_how_long_it_keeps_a_connection() {
    for (field, connections, closed_within) in [("timeout=1, max=100", 3, 900), ("timeout=2", 1, 1900), ("timeout=20", 1, 60_000)] {
        let (count, closed) = (Count::default(), Count::default());
        let counts = (count.clone(), closed.clone());
        let upstream = upstream(move |mut socket, _| {
            let (count, closed) = counts.clone();
            async move {
                count.add(1);
                while !head(&mut socket).await.is_empty() {
                    let answer = format!("HTTP/1.1 200 OK\r\nKeep-Alive: {field}\r\nContent-Length: 2\r\n\r\nok");
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
                closed.add(1);
            }
        })
        .await;
        let front = front(upstream_at(upstream), How::default()).await;
        for _ in 0..3 {
            let answer = ask(&front, get("/")).await;
            assert!(!answer.contains("timeout"), "{answer}");
        }
        let idle_since = Instant::now();
        assert_eq!(count.get(), connections, "{field}");
        if closed_within < 10_000 {
            eventually(|| closed.get() == connections).await;
            assert!(idle_since.elapsed() < Duration::from_millis(closed_within), "{field}: {:?}", idle_since.elapsed());
        } else {
            sleep(Duration::from_millis(4500)).await;
            assert_eq!(closed.get(), 0, "{field}");
        }
    }
}
