//! Several sidecars on one state: what one of them does counts for all.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use nullpass::model::{Amr, Group, SessionId, UserId};
use nullpass::store::{AuditQuery, UserQuery};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Answer, Connection, Mood, PASSWORD, Replicas, Server, code, soon};

const PUBLIC: &str = "[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n";

fn token_of(answer: Answer) -> String {
    answer.is(200).json()["token"].as_str().unwrap().to_owned()
}

async fn refresh(server: &Server, token: &str) -> Answer {
    server.api("POST", "/auth/refresh", Some(token), &Value::Null).await
}

/// What a token says.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn sid(token: &str) -> SessionId {
    claims(token)["sid"].as_str().unwrap().parse().unwrap()
}

/// Three that start on an empty state have one key, one administrator and one set-up link.
#[tokio::test]
async fn who_starts_at_once_agrees() {
    let replicas =
        Replicas::start("[accounts.bootstrap_admin]\nemail = \"ops@example.com\"\npassword = \"plum-Orchard-19-window\"\n").await;
    assert_eq!(replicas.store().signing_keys().await.unwrap().len(), 1);
    let mut keys = Vec::new();
    for server in &replicas.servers {
        keys.push(server.get("/_auth/.well-known/jwks.json", &[]).await.is(200).json());
    }
    assert!(keys.iter().all(|found| *found == keys[0] && found["keys"].as_array().unwrap().len() == 1), "{keys:?}");
    let users = replicas.store().users(&UserQuery { limit: 10, ..UserQuery::default() }).await.unwrap();
    assert_eq!(users.len(), 1);
    assert!(users[0].groups.contains(&Group::default_admin()));

    let replicas = Replicas::start("[tokens]\nalgorithm = \"HS256\"\n").await;
    assert_eq!(replicas.store().signing_keys().await.unwrap().len(), 2, "one to sign with, and one for assertions");
    let mut codes = Vec::new();
    for server in &replicas.servers {
        codes.push(server.auth().new_setup_code(server.now()).await.unwrap().expose().clone());
    }
    assert!(codes.iter().all(|code| *code == codes[0]), "every log shows a link that works");
    for server in &replicas.servers {
        server.auth().check_setup_code(&codes[0], server.now()).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_is_good_everywhere_at_once_and_looked_up_once() {
    let replicas = Replicas::start("").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    for member in &replicas.members {
        member.asked("session_with_user");
    }
    let asking: JoinSet<u16> = (0..40)
        .map(|_| {
            let (server, token) = (Arc::clone(&replicas.servers[1]), token.clone());
            async move { server.status(&token).await }
        })
        .collect();
    assert!(asking.join_all().await.iter().all(|status| *status == 200));
    for _ in 0..3 {
        assert_eq!(replicas.statuses(&token).await, [200, 200, 200]);
    }
    let asked: Vec<usize> = replicas.members.iter().map(|member| member.asked("session_with_user")).collect();
    assert_eq!(asked, [0, 1, 1], "where it began it is known, elsewhere one look is enough for all");
    // The whole of the account's own pages works there as well.
    let listed = replicas.servers[2].api("GET", "/auth/sessions", Some(&token), &Value::Null).await.is(200).json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 1);
    replicas.servers[1].api("POST", "/auth/verify", None, &json!({ "token": token })).await.is(200);
}

// What we have not signed, or what has ended, costs the store nothing, however often it comes.
#[tokio::test]
async fn garbage_does_not_reach_the_store() {
    let replicas = Replicas::start("").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    let (server, member) = (&replicas.servers[1], &replicas.members[1]);
    let looks = || member.asked("session_with_user") + member.asked("api_token_with_user");
    let (head, tail) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", tail.chars().rev().collect::<String>());
    for bad in [forged.as_str(), "np_0000000000000000000000000000000000000000000000000", "x.y.z"] {
        assert_eq!(server.status(bad).await, 401, "{bad}");
    }
    assert_eq!(looks(), 0);
    assert_eq!(server.status(&token).await, 200);
    replicas.servers[0].api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(200);
    replicas.all_say(&token, 401).await;
    looks();
    for _ in 0..50 {
        assert_eq!(server.status(&token).await, 401);
    }
    assert!(looks() <= 1, "an ended session is remembered");
}

// SES-3, contract 4: an end counts everywhere within two seconds; open WebSockets and streams close on all of them.
#[tokio::test]
async fn what_ends_on_one_ends_on_all() {
    let replicas = Replicas::start("").await;
    let (id, _) = replicas.servers[0].signed_in("ada@example.com").await;
    for end in ["logout", "revoke", "disable", "password"] {
        replicas.servers[2].auth().enable_user(id, "test", replicas.servers[2].now()).await.unwrap();
        let token = replicas.servers[0].log_in("ada@example.com").await;
        let bearer = format!("Bearer {token}");
        let mut open = Vec::new();
        for server in &replicas.servers {
            server.upstream.answer(|request| {
                if request.one("upgrade").is_some() {
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec()
                } else {
                    b"HTTP/1.1 200 OK\r\nX-Endless: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
                }
            });
            let mut socket = server.connect().await;
            let fields = [("authorization", bearer.as_str()), ("connection", "upgrade"), ("upgrade", "websocket")];
            socket.send("GET", "/ws", &fields, b"").await.is(101);
            socket.write(b"hello").await;
            assert_eq!(socket.read().await, b"hello");
            let mut stream = server.connect().await;
            stream.write(format!("GET /events HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\n\r\n").as_bytes()).await;
            assert!(stream.read().await.starts_with(b"HTTP/1.1 200"));
            open.extend([socket, stream]);
        }
        // What nobody uses any more leaves memory, but not under what is open.
        if end == "logout" {
            for server in &replicas.servers {
                server.auth().drop_unused(server.now().plus(Duration::from_secs(7200)));
            }
            tokio::time::sleep(Duration::from_millis(1200)).await;
            for socket in open.iter_mut().step_by(2) {
                socket.write(b"again").await;
                assert_eq!(socket.read().await, b"again");
            }
        }
        let (server, now) = (&replicas.servers[0], replicas.servers[0].now());
        match end {
            "logout" => drop(server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(200)),
            "revoke" => drop(server.auth().revoke_sessions(id, "test", now).await.unwrap()),
            "disable" => drop(server.auth().disable_user(id, "test", now).await.unwrap()),
            _ => {
                let body = json!({ "currentPassword": PASSWORD, "newPassword": PASSWORD });
                drop(server.api("POST", "/auth/password", Some(&token), &body).await.is(200));
            }
        }
        let ended: JoinSet<Duration> = open.into_iter().map(|mut open| async move { open.ended().await }).collect();
        for took in ended.join_all().await {
            assert!(took < Duration::from_millis(2500), "{end}: {took:?}");
        }
        for server in &replicas.servers {
            server.upstream.answer(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
        }
        replicas.all_say(&token, 401).await;
    }
}

// SES-3: a look at the store that is overtaken by the end of its session does not bring it back.
#[tokio::test]
async fn no_look_brings_back_what_has_ended() {
    let replicas = Replicas::start("").await;
    let user = replicas.servers[0].account("ada@example.com", &[]).await;
    let mut tokens = Vec::new();
    for _ in 0..60 {
        tokens.push(replicas.servers[0].log_in("ada@example.com").await);
    }
    let mut racing = JoinSet::new();
    for token in tokens.clone() {
        let (one, other) = (Arc::clone(&replicas.servers[0]), Arc::clone(&replicas.servers[1]));
        let ended = token.clone();
        racing.spawn(async move {
            other.status(&token).await;
        });
        racing.spawn(async move { one.auth().revoke_session(sid(&ended), "test", one.now()).await.unwrap() });
    }
    racing.join_all().await;
    assert!(replicas.store().sessions_of(user.id).await.unwrap().is_empty());
    for token in &tokens {
        replicas.all_say(token, 401).await;
    }
    // The same, one step at a time: read, ended, told, and only then answered.
    let (server, member) = (Arc::clone(&replicas.servers[1]), &replicas.members[1]);
    for change in ["session", "account"] {
        let token = replicas.servers[0].log_in("ada@example.com").await;
        member.set_slow(Duration::from_millis(400));
        member.asked("session_with_user");
        let asking = {
            let (server, token) = (Arc::clone(&server), token.clone());
            JoinSet::from_iter([async move { server.status(&token).await }])
        };
        while member.asked("session_with_user") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (auth, now) = (replicas.servers[0].auth(), replicas.servers[0].now());
        if change == "session" {
            auth.revoke_session(sid(&token), "test", now).await.unwrap();
        } else {
            auth.disable_user(user.id, "test", now).await.unwrap();
        }
        member.set_slow(Duration::ZERO);
        assert_eq!(asking.join_all().await, [401], "{change}");
        assert_eq!(server.status(&token).await, 401, "{change}");
    }
}

// SES-2: groups, address and a disabled account count on the others within two seconds; a deleted one is nobody.
#[tokio::test]
async fn accounts_are_the_same_everywhere() {
    let replicas = Replicas::start("[[rules]]\npath = \"/staff/**\"\npolicy = \"authenticated\"\ngroups = [\"staff\"]\n").await;
    let (id, token) = replicas.servers[0].signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let staff = async |status: u16| {
        soon("the groups count", async || {
            let mut all = true;
            for server in &replicas.servers {
                all &= server.get("/staff/a", &[("authorization", &bearer)]).await.status == status;
            }
            all
        })
        .await;
    };
    staff(403).await;
    let groups = |names: &[&str]| names.iter().map(|name| Group::parse(name).unwrap()).collect();
    let now = replicas.servers[0].now();
    replicas.servers[1].auth().set_groups(id, groups(&["staff"]), "test", now).await.unwrap();
    staff(200).await;
    for server in &replicas.servers {
        assert!(server.upstream.take().iter().all(|request| request.one("x-forwarded-groups").as_deref() == Some("staff")));
    }
    replicas.servers[2].auth().set_groups(id, groups(&[]), "test", now).await.unwrap();
    staff(403).await;

    let asked = json!({ "name": "backup", "currentPassword": PASSWORD });
    let api = replicas.servers[0].api("POST", "/auth/tokens", Some(&token), &asked).await.is(201).json();
    let api_token = api["token"].as_str().unwrap();
    replicas.all_say(api_token, 200).await;
    replicas.servers[2].auth().disable_user(id, "test", now).await.unwrap();
    replicas.all_say(api_token, 401).await;
    replicas.all_say(&token, 401).await;
    replicas.servers[0].auth().enable_user(id, "test", now).await.unwrap();
    replicas.all_say(api_token, 200).await;
    let token_id = replicas.store().api_tokens_of(id).await.unwrap()[0].id;
    replicas.servers[1].auth().revoke_token_of(id, token_id, "test", now).await.unwrap();
    replicas.all_say(api_token, 401).await;

    let token = replicas.servers[1].log_in("ada@example.com").await;
    replicas.all_say(&token, 200).await;
    replicas.servers[0].auth().remove_user(id, "test", now).await.unwrap();
    replicas.all_say(&token, 401).await;
    replicas.servers[1].try_log_in("ada@example.com", PASSWORD).await.is(401);
}

// Who was let in by a password is not let in on the others' old word.
#[tokio::test]
async fn passwords_by_basic_are_followed() {
    let replicas = Replicas::start("[[rules]]\npath = \"/dav/**\"\npolicy = \"authenticated\"\nbasic = true\n").await;
    let user = replicas.servers[0].account("ada@example.com", &[]).await;
    let basic = crate::support::basic("ada@example.com", PASSWORD);
    let all = async |status: u16| {
        soon("the password counts", async || {
            let mut all = true;
            for server in &replicas.servers {
                all &= server.get("/dav/a", &[("authorization", &basic)]).await.status == status;
            }
            all
        })
        .await;
    };
    let now = replicas.servers[0].now();
    all(200).await;
    replicas.servers[1].auth().disable_user(user.id, "test", now).await.unwrap();
    all(401).await;
    replicas.servers[2].auth().enable_user(user.id, "test", now).await.unwrap();
    all(200).await;
    let new = nullpass::model::Secret::new("another-Orchard-20-door".to_owned());
    replicas.servers[0].auth().reset_password(user.id, new, "test", now).await.unwrap();
    all(401).await;
}

// Keys that another process made are known as soon as one of their tokens comes, also when the news of them are late.
#[tokio::test]
async fn signing_keys_are_followed() {
    let mut replicas = Replicas::start("").await;
    let (_, before) = replicas.servers[0].signed_in("ada@example.com").await;
    replicas.members[1].set_mute(true);
    replicas.add("[tokens]\nalgorithm = \"ES256\"\n").await;
    let after = replicas.servers[3].log_in("ada@example.com").await;
    assert_eq!(replicas.statuses(&after).await, [200, 200, 200, 200]);
    assert_eq!(replicas.statuses(&before).await, [200, 200, 200, 200]);
    // Those that know of no such algorithm sign with the key there is.
    for place in 0..3 {
        let token = replicas.servers[place].log_in("ada@example.com").await;
        assert_eq!(replicas.statuses(&token).await, [200, 200, 200, 200]);
    }
    assert_eq!(replicas.store().signing_keys().await.unwrap().len(), 2);
    // A key that there is not is asked for once a second at most, and only by what says to be ours.
    replicas.members[0].asked("signing_keys");
    let (_, rest) = after.split_once('.').unwrap();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"made-up"}"#);
    let made_up = format!("{header}.{rest}");
    let asking: JoinSet<u16> = (0..20)
        .map(|_| {
            let (server, token) = (Arc::clone(&replicas.servers[0]), made_up.clone());
            async move { server.status(&token).await }
        })
        .collect();
    assert!(asking.join_all().await.iter().all(|status| *status == 401));
    assert!(replicas.members[0].asked("signing_keys") < 12);
}

// What was told while nobody listened is not believed to be as before.
#[tokio::test]
async fn lost_news_are_made_up_for() {
    let replicas = Replicas::start("").await;
    let (_, kept) = replicas.servers[0].signed_in("ada@example.com").await;
    let (_, ended) = replicas.servers[0].signed_in("eve@example.com").await;
    let open = replicas.servers[0].log_in("eve@example.com").await;
    replicas.all_say(&kept, 200).await;
    replicas.all_say(&ended, 200).await;
    replicas.servers[1].upstream.answer(|_| b"HTTP/1.1 200 OK\r\nX-Endless: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec());
    let mut stream = replicas.servers[1].connect().await;
    stream.write(format!("GET /events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {open}\r\n\r\n").as_bytes()).await;
    assert!(stream.read().await.starts_with(b"HTTP/1.1 200"));
    replicas.servers[1].upstream.answer(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    replicas.members[1].set_mute(true);
    for token in [&ended, &open] {
        replicas.servers[0].api("POST", "/auth/logout", Some(token), &Value::Null).await.is(200);
    }
    assert_eq!(replicas.servers[2].status(&kept).await, 200);
    assert_eq!(replicas.servers[1].status(&ended).await, 200, "it was told that there is nothing");
    replicas.members[1].set_mute(false);
    replicas.all_say(&ended, 401).await;
    replicas.all_say(&kept, 200).await;
    assert!(stream.ended().await < Duration::from_millis(4500), "also what nobody asks about");
}

/// The status of `/readyz`.
async fn ready(server: &Server) -> u16 {
    Connection::to(server.admin_address()).await.send("GET", "/readyz", &[], b"").await.status
}

// FAIL-2: a store that says nothing is away after two seconds, whether it fails or hangs: what was seen goes on for
// `stale_ttl`, what is not known is 503, and nobody is taken for signed in or signed out.
#[tokio::test]
async fn a_store_that_is_away_is_noticed() {
    for mood in [Mood::Fails, Mood::Hangs] {
        let replicas = Replicas::start(&format!("[sessions]\nstale_ttl = \"60s\"\n{PUBLIC}")).await;
        let (server, member) = (&replicas.servers[1], &replicas.members[1]);
        let (_, seen) = replicas.servers[0].signed_in("ada@example.com").await;
        let unseen = replicas.servers[0].log_in("ada@example.com").await;
        assert_eq!(server.status(&seen).await, 200);
        member.set_store(mood);
        member.set_feed(mood);
        let bearer = format!("Bearer {unseen}");
        let refused = server.get("/private", &[("authorization", &bearer)]).await.is(503);
        assert!(!refused.field("retry-after").is_empty(), "also before it is known to be away");
        soon("it is away", async || server.auth().live().is_store_away()).await;
        assert_eq!((server.status(&seen).await, server.status(&unseen).await), (200, 503), "{mood:?}");
        let cookie = format!("nullpass={unseen}");
        let page = server.get("/private", &[("cookie", &cookie), ("accept", "text/html")]).await.is(503);
        assert!(page.cookie("nullpass").is_none(), "the cookie is not taken away");
        server.upstream.take();
        server.get("/public/a", &[("authorization", &bearer)]).await.is(200);
        assert_eq!(server.upstream.only().one("x-forwarded-user"), None, "nobody is announced unverified");
        assert_eq!(server.status("x.y.z").await, 401, "what is no token of ours is none, store or not");
        assert_eq!(ready(server).await, 503);
        assert_eq!(ready(&replicas.servers[0]).await, 200, "the others have theirs");
        replicas.wait(61);
        assert_eq!(server.status(&seen).await, 503);
        // Ended elsewhere meanwhile: nothing that was only honoured without the store is honoured any longer.
        replicas.servers[0].api("POST", "/auth/logout", Some(&seen), &Value::Null).await.is(200);
        member.set_store(Mood::Well);
        member.set_feed(Mood::Well);
        let back = async || !server.auth().live().is_store_away();
        for _ in 0..500 {
            if back().await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((server.status(&seen).await, server.status(&unseen).await), (401, 200), "{mood:?}");
        assert_eq!(ready(server).await, 200);
    }
}

// FAIL-2: news that stay away are enough: without them an end elsewhere would not be noticed.
#[tokio::test]
async fn silence_is_absence() {
    let replicas = Replicas::start("[sessions]\nstale_ttl = \"0s\"\n").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    replicas.all_say(&token, 200).await;
    replicas.members[1].set_feed(Mood::Hangs);
    replicas.servers[0].api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(200);
    let from = tokio::time::Instant::now();
    while replicas.servers[1].status(&token).await == 200 {
        assert!(from.elapsed() < Duration::from_secs(4));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(replicas.servers[1].status(&token).await, 503);
    replicas.members[1].set_feed(Mood::Well);
    for _ in 0..500 {
        if replicas.servers[1].status(&token).await != 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(replicas.servers[1].status(&token).await, 401);
}

// RL-1: guesses that are spread over all of them are one attack.
#[tokio::test]
async fn guesses_are_counted_together() {
    let replicas = Replicas::start("[limits]\naccount_backoff = { after = 5, base = \"1s\", max = \"15m\" }\n").await;
    replicas.servers[0].account("ada@example.com", &[]).await;
    let guessing: JoinSet<u16> = (0..60)
        .map(|guess| {
            let server = Arc::clone(&replicas.servers[guess % 3]);
            async move { server.try_log_in("ada@example.com", &format!("wrong-{guess}")).await.status }
        })
        .collect();
    let statuses = guessing.join_all().await;
    let checked = statuses.iter().filter(|status| **status == 401).count();
    assert!(checked <= 6, "{checked} of 60 guesses were checked: {statuses:?}");
    for server in &replicas.servers {
        server.try_log_in("ada@example.com", PASSWORD).await.is(429);
    }
}

// JWT-2, RFC 6238, section 5.2: a code counts once, and so does a pending login, wherever they are used.
#[tokio::test]
async fn codes_and_pending_logins_count_once() {
    let replicas = Replicas::start("").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    let (secret, _) = replicas.servers[0].enrol(&token).await;
    replicas.wait(60);
    let pending = async |server: &Server| {
        let begun = server.try_log_in("ada@example.com", PASSWORD).await.is(200).json();
        begun["pendingToken"].as_str().unwrap().to_owned()
    };
    let now_code = code(&secret, replicas.servers[0].now());
    // One pending login each, and the same code for all of them at once.
    let mut racing = JoinSet::new();
    for server in &replicas.servers {
        let body = json!({ "pendingToken": pending(server).await, "verificationCode": now_code });
        let server = Arc::clone(server);
        racing.spawn(async move { server.api("POST", "/auth/login/2fa", None, &body).await.status });
    }
    let mut statuses = racing.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401, 401]);
    // One pending login, begun on the first, finished on another and then on none.
    replicas.wait(60);
    let begun = pending(&replicas.servers[0]).await;
    let body = |code: &str| json!({ "pendingToken": begun, "verificationCode": code });
    let done = replicas.servers[1].api("POST", "/auth/login/2fa", None, &body(&code(&secret, replicas.servers[1].now()))).await;
    let token = token_of(done);
    replicas.all_say(&token, 200).await;
    replicas.wait(30);
    replicas.servers[2].api("POST", "/auth/login/2fa", None, &body(&code(&secret, replicas.servers[2].now()))).await.is(401);
    // Five wrong codes end it, wherever they are sent.
    let begun = pending(&replicas.servers[0]).await;
    let body = |code: &str| json!({ "pendingToken": begun, "verificationCode": code });
    for guess in 0..5 {
        replicas.servers[guess % 3].api("POST", "/auth/login/2fa", None, &body("000000")).await.is(401);
    }
    replicas.wait(3600);
    replicas.servers[1].api("POST", "/auth/login/2fa", None, &body(&code(&secret, replicas.servers[1].now()))).await.is(401);
}

// A second factor that was set up on one: the session is as good on the others, and other sessions are over.
#[tokio::test]
async fn a_second_factor_counts_everywhere() {
    let replicas = Replicas::start("[[rules]]\npath = \"/vault/**\"\npolicy = \"two_factor\"\n").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    let other = replicas.servers[1].log_in("ada@example.com").await;
    replicas.all_say(&token, 200).await;
    replicas.all_say(&other, 200).await;
    replicas.servers[2].enrol(&token).await;
    replicas.all_say(&other, 401).await;
    let bearer = format!("Bearer {token}");
    soon("the vault opens", async || {
        let mut all = true;
        for server in &replicas.servers {
            all &= server.get("/vault/a", &[("authorization", &bearer)]).await.status == 200;
        }
        all
    })
    .await;
    let stored = replicas.store().session(sid(&token)).await.unwrap().unwrap();
    assert!(stored.amr.has(Amr::OTP));
}

// Contract 4: an exchange has one winner, and the token before is good for the grace everywhere and theft after it.
#[tokio::test]
async fn exchanges_are_one_and_theft_is_noticed_elsewhere() {
    let replicas = Replicas::start("").await;
    let (id, first) = replicas.servers[0].signed_in("ada@example.com").await;
    replicas.all_say(&first, 200).await;
    let racing: JoinSet<Answer> = (0..9)
        .map(|place| {
            let (server, token) = (Arc::clone(&replicas.servers[place % 3]), first.clone());
            async move { refresh(&server, &token).await }
        })
        .collect();
    let seconds: Vec<String> = racing.join_all().await.into_iter().map(token_of).collect();
    assert!(seconds.iter().all(|token| claims(token)["gen"] == 1), "all are of the one generation");
    assert_eq!(replicas.store().session(sid(&first)).await.unwrap().unwrap().generation.0, 1);
    for token in seconds.iter().chain([&first]) {
        assert_eq!(replicas.statuses(token).await, [200, 200, 200]);
    }
    // Presented again within the grace, on another.
    token_of(refresh(&replicas.servers[2], &first).await);
    replicas.servers[1].auth().write_behind().await.unwrap();
    replicas.wait(62);
    // The theft is noticed by one that never saw the exchange itself.
    soon("the first token is over", async || replicas.servers[2].status(&first).await == 401).await;
    for token in &seconds {
        replicas.all_say(token, 401).await;
    }
    let query = AuditQuery { user: Some(id), limit: 100, ..AuditQuery::default() };
    soon("the audit log says so", async || {
        let events = replicas.store().audit(&query).await.unwrap();
        events.iter().any(|event| event.action.to_string() == "TOKEN_REUSE")
    })
    .await;
}

// A token of a generation that this one has not heard of yet is no theft.
#[tokio::test]
async fn a_newer_generation_is_looked_up() {
    let replicas = Replicas::start("").await;
    let (_, first) = replicas.servers[0].signed_in("ada@example.com").await;
    replicas.all_say(&first, 200).await;
    replicas.members[1].set_mute(true);
    let second = token_of(refresh(&replicas.servers[0], &first).await);
    assert_eq!(replicas.statuses(&second).await, [200, 200, 200]);
    let third = token_of(refresh(&replicas.servers[0], &second).await);
    assert_eq!(replicas.statuses(&third).await, [200, 200, 200]);
}

// A session that is used on one is not idle on the others.
#[tokio::test]
async fn idleness_is_everybodys() {
    let replicas = Replicas::start("[sessions]\nidle_timeout = \"10m\"\n").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    assert_eq!(replicas.statuses(&token).await, [200, 200, 200]);
    for _ in 0..3 {
        replicas.wait(8 * 60);
        assert_eq!(replicas.servers[0].status(&token).await, 200);
        replicas.servers[0].auth().write_behind().await.unwrap();
    }
    assert_eq!(replicas.servers[1].status(&token).await, 200);
    replicas.wait(10 * 60);
    assert_eq!(replicas.statuses(&token).await, [401, 401, 401]);
}

// Memory follows use: what is not asked for any more leaves, and comes back with the next request.
#[tokio::test]
async fn unused_sessions_leave_memory() {
    let replicas = Replicas::start("").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    let server = &replicas.servers[1];
    assert_eq!(server.status(&token).await, 200);
    assert_eq!(server.auth().live().len(), 1);
    server.auth().drop_unused(server.now());
    assert_eq!(server.auth().live().len(), 1);
    replicas.wait(3601);
    server.auth().drop_unused(server.now());
    assert_eq!(server.auth().live().len(), 0);
    assert_eq!(server.status(&token).await, 200);
    assert_eq!(server.auth().live().len(), 1);
}

// Contract 4: a session that is tied to its address is so on the others.
#[tokio::test]
async fn sessions_are_tied_to_their_address_everywhere() {
    let replicas = Replicas::start("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[sessions]\nbind_ip = \"exact\"\n").await;
    replicas.servers[0].account("ada@example.com", &[]).await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD }).to_string();
    let fields = [("content-type", "application/json"), ("x-forwarded-for", "203.0.113.7")];
    let token = token_of(replicas.servers[0].send("POST", "/_auth/api/auth/login", &fields, body.as_bytes()).await);
    let bearer = format!("Bearer {token}");
    for server in &replicas.servers {
        let from = async |ip: &str| server.get("/private", &[("authorization", &bearer), ("x-forwarded-for", ip)]).await.status;
        assert_eq!((from("203.0.113.7").await, from("203.0.113.8").await), (200, 401));
    }
}

// One address, registered on all three at once, is one account.
#[tokio::test]
async fn an_address_becomes_one_account() {
    let replicas = Replicas::start("[accounts]\nregistration = \"open\"\n").await;
    let registering: JoinSet<u16> = (0..12)
        .map(|place| {
            let server = Arc::clone(&replicas.servers[place % 3]);
            let body = json!({ "email": "ada@example.com", "password": PASSWORD });
            async move { server.api("POST", "/auth/register", None, &body).await.status }
        })
        .collect();
    let statuses = registering.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    assert_eq!(replicas.store().users(&UserQuery { limit: 10, ..UserQuery::default() }).await.unwrap().len(), 1);
}

// RACE-1: a thousand people who sign in at once, each asking elsewhere than where they signed in, are never mixed up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_sign_ins_are_not_mixed_up() {
    let replicas = Replicas::start("[server]\nmax_connections = 10000\n").await;
    let mut users = Vec::new();
    for number in 0..1000 {
        users.push(replicas.servers[number % 3].account(&format!("user{number}@example.com"), &[]).await.id);
    }
    let replicas = Arc::new(replicas);
    let places = Arc::new(tokio::sync::Semaphore::new(64));
    let signing: JoinSet<(UserId, String)> = users
        .iter()
        .enumerate()
        .map(|(number, id)| {
            let (replicas, places, id) = (Arc::clone(&replicas), Arc::clone(&places), *id);
            async move {
                let _place = places.acquire().await.unwrap();
                let email = format!("user{number}@example.com");
                let token = loop {
                    let answer = replicas.servers[number % 3].try_log_in(&email, PASSWORD).await;
                    // More at once than the machine may hash is said so, and nothing else.
                    if answer.status != 503 {
                        break token_of(answer);
                    }
                };
                let bearer = format!("Bearer {token}");
                for place in 1..3 {
                    let server = &replicas.servers[(number + place) % 3];
                    let me = server.api("GET", "/auth/me", Some(&token), &Value::Null).await.is(200).json();
                    assert_eq!(me["user"]["email"], email.as_str());
                    server.get(&format!("/private/{number}"), &[("authorization", &bearer)]).await.is(200);
                }
                (id, email)
            }
        })
        .collect();
    assert_eq!(signing.join_all().await.len(), 1000);
    for server in &replicas.servers {
        for request in server.upstream.take() {
            let number = request.target().rsplit('/').next().unwrap().to_owned();
            assert_eq!(request.one("x-forwarded-user"), Some(format!("user{number}@example.com")));
        }
    }
}
