//! What becomes of damaged files: every record is there, or the store says that it is damaged. Never a start without a
//! word and without what was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nullpass::model::{Secret, Session, SessionId, User, UserId};
use nullpass::store::sled::SledStore;
use nullpass::store::{Error, Purpose, Store};
use tokio::task::JoinSet;

use super::fixtures::{at, digest, email, session, user};

/// sled's unit: what is in the middle of many is lost in another way than what is at the end.
const SEGMENT: usize = 512 * 1024;

/// How many places are damaged in each way, by default; `STORE_CONTRACT_PLACES` asks for more.
const PLACES: usize = 8;

/// Everything that was acknowledged.
#[derive(Debug, Default, PartialEq)]
struct State {
    users: BTreeMap<String, String>,
    sessions: BTreeMap<String, String>,
    spent: Vec<u64>,
}

async fn fill(store: &Arc<SledStore>, numbers: std::ops::Range<u64>) {
    let mut tasks = JoinSet::new();
    for number in numbers {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut owner = user(UserId::new(), email(number));
            owner.password = Secret::from("h".repeat(600).as_str());
            store.insert_user(&owner, false).await.unwrap();
            store.insert_session(&session(SessionId::new(), owner.id, at(1000)), None).await.unwrap();
            assert!(store.spend_once(Purpose::PendingLogin, digest(number), at(1_000_000)).await.unwrap());
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn state(store: &SledStore, numbers: u64) -> Result<State, Error> {
    let mut state = State::default();
    let mut users = |user: User| {
        state.users.insert(user.id.to_string(), format!("{user:?}"));
        ControlFlow::Continue(())
    };
    store.scan_users(&mut users).await?;
    let mut sessions = |session: Session| {
        state.sessions.insert(session.id.to_string(), format!("{session:?}"));
        ControlFlow::Continue(())
    };
    store.scan_sessions(&mut sessions).await?;
    for number in 0..numbers {
        // Last, since this writes what it does not find.
        if !store.spend_once(Purpose::PendingLogin, digest(number), at(1_000_000)).await? {
            state.spent.push(number);
        }
    }
    Ok(state)
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A folder as a killed process leaves it: half of it a snapshot knows, half is only in the log.
struct Killed {
    folder: tempfile::TempDir,
    state: State,
    numbers: u64,
}

impl Killed {
    async fn new(numbers: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("live");
        fill(&Arc::new(SledStore::open(&live).unwrap()), 0..numbers / 2).await;
        let store = Arc::new(SledStore::open(&live).unwrap());
        fill(&store, numbers / 2..numbers).await;
        copied(&live, &folder.path().join("killed"));
        let state = state(&store, numbers).await.unwrap();
        assert!(state.spent.iter().copied().eq(0..numbers) && state.users.len() == state.spent.len());
        Self { folder, state, numbers }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("killed")
    }

    /// What becomes of a copy that is damaged in this way: all is there (`None`), or what it says.
    async fn after(&self, damage: impl FnOnce(&Path)) -> Option<String> {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        copied(&self.path(), &data);
        damage(&data);
        let said = match SledStore::open(&data) {
            Err(error) => error,
            Ok(store) => match state(&store, self.numbers).await {
                Err(error) => error,
                Ok(found) => {
                    assert!(found == self.state, "a start without a word, and something is missing");
                    return None;
                }
            },
        };
        let (Error::Corrupt(why) | Error::Unavailable(why)) = said else { panic!("{said:?}") };
        assert!(!why.contains("panicked") && !why.contains("unwrap"), "{why}");
        Some(why)
    }
}

fn length(file: &Path) -> usize {
    usize::try_from(fs::metadata(file).unwrap().len()).unwrap()
}

fn places(length: usize) -> impl Iterator<Item = usize> {
    let count = std::env::var_os("STORE_CONTRACT_PLACES").map_or(PLACES, |count| count.to_str().unwrap().parse().unwrap());
    // Spread evenly, and at another offset within its page each time.
    (0..count).map(move |number| (number * length / count + number * 7919 % 4096).min(length - 1))
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(file).unwrap();
    change(&mut content);
    fs::write(file, content).unwrap();
}

/// What is done to a file at a place.
type Damage = fn(&mut Vec<u8>, usize);

#[tokio::test]
async fn nothing_is_missing_without_a_word() {
    let killed = Killed::new(1400).await;
    assert_eq!(killed.after(|_| {}).await, None, "a kill alone costs nothing");
    let size = length(&killed.path().join("db"));
    assert!(size > 6 * SEGMENT, "{size}");
    let mut noticed = BTreeMap::<&str, (usize, usize)>::new();
    let mut why = BTreeMap::<String, usize>::new();
    for place in places(size) {
        let damages: [(&str, Damage); 4] = [
            ("flipped bit", |content, place| content[place] ^= 0x10),
            ("zeroed page", |content, place| {
                let page = place / 4096 * 4096;
                let end = (page + 4096).min(content.len());
                content[page..end].fill(0);
            }),
            ("zeroed tail", |content, place| content[place..].fill(0)),
            ("torn tail", |content, place| content.truncate(place)),
        ];
        for (name, damage) in damages {
            let said = killed.after(|data| change(&data.join("db"), |content| damage(content, place))).await;
            let count = noticed.entry(name).or_default();
            match said {
                Some(said) => {
                    count.0 += 1;
                    *why.entry(said.split(|c: char| c.is_ascii_digit()).collect()).or_default() += 1;
                }
                None => count.1 += 1,
            }
        }
    }
    println!("damage: (refused, nothing missing) {noticed:?}\n{why:#?}");
    for (name, (refused, _)) in noticed {
        assert!(refused > 0, "{name}: never noticed, so that this test shows nothing");
    }
}

#[tokio::test]
async fn every_missing_or_damaged_file_gets_a_word_or_costs_nothing() {
    let killed = Killed::new(60).await;
    let snapshot = |data: &Path| {
        let mut found: Vec<PathBuf> = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap."));
        found.pop().unwrap()
    };
    let remove = |file: &Path| fs::remove_file(file).unwrap();
    // What is gone without anything being lost.
    assert_eq!(killed.after(|data| remove(&data.join("lock"))).await, None);
    assert_eq!(killed.after(|data| fs::remove_dir_all(data.join("blobs")).unwrap()).await, None);
    assert_eq!(killed.after(|data| remove(&snapshot(data))).await, None);
    assert_eq!(killed.after(|data| remove(&data.join("durable"))).await, None, "what is there is all there was");
    for place in places(length(&snapshot(&killed.path()))) {
        let _said = killed.after(|data| change(&snapshot(data), |content| content[place] ^= 1)).await;
        let _said = killed.after(|data| change(&snapshot(data), |content| content.truncate(place))).await;
    }
    for place in 0..length(&killed.path().join("conf")) {
        let _said = killed.after(|data| change(&data.join("conf"), |content| content[place] ^= 1)).await;
    }
    let _said = killed.after(|data| remove(&data.join("conf"))).await;
    // What must be said.
    let said = killed.after(|data| remove(&data.join("db"))).await.unwrap();
    assert!(said.contains("db is missing"), "{said}");
    let said = killed.after(|data| fs::write(data.join("db"), "").unwrap()).await.unwrap();
    assert!(said.contains("missing or empty"), "{said}");
    for bad in [&b""[..], b"00000000000000000001", &[0; 26]] {
        let said = killed.after(|data| fs::write(data.join("durable"), bad).unwrap()).await.unwrap();
        assert!(said.contains("`durable` is damaged"), "{said}");
    }
}

/// An operator who has no other copy goes on with what is left, by a deed that can't happen by itself.
#[tokio::test]
async fn what_is_left_is_served_once_an_operator_says_so() {
    let killed = Killed::new(60).await;
    let size = length(&killed.path().join("db"));
    for cut in (0..size).step_by(3000) {
        let data = killed.folder.path().join(format!("cut{cut}"));
        copied(&killed.path(), &data);
        change(&data.join("db"), |content| content.truncate(size - cut));
        let Err(error) = SledStore::open(&data) else { continue };
        // Cut off where a record ends, or begins.
        assert!(error.to_string().contains("writes that were durable are missing"), "{error}");
        let again = SledStore::open(&data).unwrap_err().to_string();
        assert!(again.contains("remove its file `durable`"), "{again}");
        fs::remove_file(data.join("durable")).unwrap();
        let store = SledStore::open(&data).unwrap();
        let found = state(&store, killed.numbers).await.unwrap();
        assert!(!found.users.is_empty() && found != killed.state);
        drop(store);
        return drop(SledStore::open(&data).unwrap());
    }
    panic!("nothing was noticed");
}
