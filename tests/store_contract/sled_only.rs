//! What only the embedded store promises: its folder, its recovery, and what is left after a hard stop.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nullpass::model::{Action, EventId, Generation, LockChange, LockKey, LockPolicy, Session, SessionId, SessionTouch, UserId};
use nullpass::store::sled::SledStore;
use nullpass::store::{AuditQuery, Error, Purpose, SessionSelector, Store};
use tokio::task::JoinSet;

use super::fixtures::{at, digest, email, event, session, token, user};

/// Where the other process finds the folder; unset in an ordinary run.
const FOLDER: &str = "STORE_CONTRACT_FOLDER";
/// Where its numbers begin, so that rounds don't repeat them.
const FIRST: &str = "STORE_CONTRACT_FIRST";

fn writer_process(folder: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sled_only::a_killed_process_loses_nothing_it_acknowledged", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The other process: writes for ever and says on stdout what was acknowledged.
fn writer() {
    let (Some(folder), Some(first)) = (std::env::var_os(FOLDER), std::env::var_os(FIRST)) else { return };
    let first: u64 = first.to_str().unwrap().parse().unwrap();
    let store = match SledStore::open(Path::new(&folder)) {
        Ok(store) => Arc::new(store),
        Err(error) => {
            println!("refused {error:?}");
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks: JoinSet<()> = (0..16).map(|task| write_for_ever(Arc::clone(&store), first + task * 100_000)).collect();
        tasks.join_all().await;
    });
}

/// Says what was done, to what, and the number that it belongs to.
fn say(what: &str, id: impl Display, number: u64) {
    println!("{what} {id} {number}");
}

/// Every third user is deleted in the end.
fn is_deleted_later(number: u64) -> bool {
    number.is_multiple_of(3)
}

async fn write_for_ever(store: Arc<SledStore>, first: u64) {
    let policy = LockPolicy { after: 5, base: Duration::ZERO, max: Duration::ZERO };
    for number in first.. {
        let owner = user(UserId::new(), email(number));
        store.insert_user(&owner, false).await.unwrap();
        say("user", owner.id, number);
        let (kept, ended) = (SessionId::new(), SessionId::new());
        for id in [ended, kept] {
            store.insert_session(&session(id, owner.id, at(1000)), None).await.unwrap();
        }
        say("session", kept, number);
        store.rotate_session(kept, Generation(0), token(number, 1), Duration::ZERO, at(2)).await.unwrap();
        say("rotated", kept, number);
        store.delete_sessions(SessionSelector::One(ended)).await.unwrap();
        say("ended", ended, number);
        assert!(store.spend_once(Purpose::PendingLogin, digest(number), at(1000)).await.unwrap());
        say("spent", "-", number);
        assert!(store.spend_totp_step(owner.id, number).await.unwrap());
        say("step", owner.id, number);
        store.update_lock(LockKey::Account(digest(number)), LockChange::Fail(policy), at(2)).await.unwrap();
        say("failure", "-", number);
        let event = event(EventId::new(), at(2), Action::UserLogin, Some(owner.id));
        store.append_audit(&event).await.unwrap();
        say("event", event.id, number);
        if is_deleted_later(number) {
            store.delete_user(owner.id, at(3)).await.unwrap();
            say("deleted", owner.id, number);
        }
    }
}

/// Contract, section 8: nothing that was acknowledged is lost when the process is killed.
#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    // The test starts itself again as the process that writes.
    if std::env::var_os(FOLDER).is_some() {
        return writer();
    }
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut acknowledged = Vec::new();
    for (round, lines) in [60, 900, 5, 333, 1700, 128].into_iter().enumerate() {
        let mut child = writer_process(folder.path(), u64::try_from(round).unwrap() * 10_000_000);
        let output = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The first lines are the test harness's.
        let mut output = output.filter(|line| line.split(' ').count() == 3 && !line.starts_with("running"));
        let mut said: Vec<String> = output.by_ref().take(lines).collect();
        // SIGKILL. What is still in the pipe was acknowledged as well.
        child.kill().unwrap();
        said.extend(output);
        child.wait().unwrap();
        assert!(said.len() >= lines, "{said:?}");
        acknowledged.extend(said);
        let store = SledStore::open(folder.path()).unwrap();
        runtime.block_on(check_acknowledged(&store, &acknowledged));
    }
}

async fn check_acknowledged(store: &SledStore, acknowledged: &[String]) {
    let log = store.audit(&AuditQuery { limit: usize::MAX, ..AuditQuery::default() }).await.unwrap();
    let events: BTreeSet<String> = log.iter().map(|event| event.id.to_string()).collect();
    for line in acknowledged {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, id, number] = words[..] else { panic!("{line}") };
        let number: u64 = number.parse().unwrap();
        // A deletion that was not acknowledged may or may not have happened.
        let stays = !is_deleted_later(number);
        match what {
            "user" => assert!(store.user(id.parse().unwrap()).await.unwrap().is_some() || !stays, "{line}"),
            "session" => assert!(store.session(id.parse().unwrap()).await.unwrap().is_some() || !stays, "{line}"),
            "rotated" => {
                let session = store.session(id.parse().unwrap()).await.unwrap();
                assert!(session.is_none_or(|session| session.generation == Generation(1)), "{line}");
            }
            "ended" => assert_eq!(store.session(id.parse().unwrap()).await.unwrap(), None, "{line}"),
            "spent" => assert!(!store.spend_once(Purpose::PendingLogin, digest(number), at(1000)).await.unwrap(), "{line}"),
            "step" => assert!(!store.spend_totp_step(id.parse().unwrap(), number).await.unwrap(), "{line}"),
            "failure" => assert_eq!(store.lock(LockKey::Account(digest(number))).await.unwrap().failures, 1, "{line}"),
            "event" => assert!(events.contains(id), "{line}"),
            "deleted" => {
                assert_eq!(store.user(id.parse().unwrap()).await.unwrap(), None, "{line}");
                let again = user(UserId::new(), email(number));
                assert!(matches!(store.insert_user(&again, false).await, Err(Error::Retired)), "{line}");
            }
            _ => panic!("{line}"),
        }
    }
    // Not half of any write is left: each session has its user and is found through it.
    let mut sessions = Vec::new();
    let mut keep = |session: Session| {
        sessions.push(session);
        ControlFlow::Continue(())
    };
    store.scan_sessions(&mut keep).await.unwrap();
    for session in &sessions {
        let owner = store.user(session.user).await.unwrap().unwrap();
        assert_eq!(store.user_by_email(&owner.email).await.unwrap().unwrap().id, owner.id);
        assert!(store.sessions_of(owner.id).await.unwrap().contains(session));
    }
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    assert!(matches!(SledStore::open(folder.path()), Err(Error::InUse(path)) if path == folder.path()));
    let mut other = writer_process(folder.path(), 0);
    let output = BufReader::new(other.stdout.take().unwrap());
    let said: Vec<String> = output.lines().map(Result::unwrap).filter(|line| line.contains("refused")).collect();
    other.wait().unwrap();
    assert!(said.len() == 1 && said[0].contains("InUse"), "{said:?}");
    drop(store);
    SledStore::open(folder.path()).unwrap();
}

/// spacejam/sled#1533: a hard stop can leave a snapshot that sled then refuses to start with.
#[tokio::test]
async fn a_damaged_snapshot_costs_nothing() {
    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |file| fs::write(file, b"").unwrap(),
        |file| fs::write(file, [0xa5; 300]).unwrap(),
        |file| {
            let half = fs::read(file).unwrap();
            fs::write(file, &half[..half.len() / 2]).unwrap();
        },
    ];
    for damage in damages {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut users = Vec::new();
        for round in 0..3 {
            let store = SledStore::open(&data).unwrap();
            for number in 0..20 {
                let owner = user(UserId::new(), email(round * 100 + number));
                store.insert_user(&owner, false).await.unwrap();
                store.insert_session(&session(SessionId::new(), owner.id, at(1000)), None).await.unwrap();
                users.push(owner);
            }
        }
        let snapshots = files(&data, "snap.");
        assert!(!snapshots.is_empty());
        for file in &snapshots {
            damage(file);
        }
        fs::write(data.join("master.key"), "not sled's").unwrap();

        let store = SledStore::open(&data).unwrap();
        for owner in &users {
            assert_eq!(store.user_by_email(&owner.email).await.unwrap().as_ref(), Some(owner));
            assert_eq!(store.sessions_of(owner.id).await.unwrap().len(), 1);
        }
        store.ping().await.unwrap();
        let copies = files(folder.path(), "data.damaged-");
        assert_eq!(copies.len(), 1);
        assert!(copies[0].join("db").exists() && copies[0].join("blobs").exists() && !files(&copies[0], "snap.").is_empty());
        assert!(!copies[0].join("master.key").exists(), "only what is sled's is copied");
        drop(store);
        SledStore::open(&data).unwrap();
        assert_eq!(files(folder.path(), "data.damaged-").len(), 1, "the next start finds nothing wrong");
    }
}

#[tokio::test]
async fn what_is_written_behind_is_there_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let owner = user(UserId::new(), email(1));
    let id = SessionId::new();
    {
        let store = SledStore::open(folder.path()).unwrap();
        store.insert_user(&owner, false).await.unwrap();
        store.insert_session(&session(id, owner.id, at(1000)), None).await.unwrap();
        let touch = SessionTouch { id, last_seen_at: at(77), successor_seen_at: None, renewed: None };
        store.touch_sessions(&[touch]).await.unwrap();
    }
    let store = SledStore::open(folder.path()).unwrap();
    assert_eq!(store.session(id).await.unwrap().unwrap().last_seen_at, at(77));
}

fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect()
}
