//! The audit log's chains, as both stores keep them: written with what they tell of, by many at once, cut by retention,
//! carried to another store, and never changed unnoticed.

use std::sync::Arc;
use std::time::Duration;

use nullpass::admin::migrate::carry;
use nullpass::clock::Timestamp;
use nullpass::model::{Action, ApiTokenId, AuditEvent, EventId, Generation, Rotation, SessionId, User, UserId};
use nullpass::store::chain::{Chain, ChainKey, Fault, Walk, WriterId};
use nullpass::store::sled::SledStore;
use nullpass::store::transfer::{Item, MARKER, Transfer};
use nullpass::store::{AuditQuery, Error, SessionSelector, Store};

use super::Backend;
use super::fixtures::{api_token, at, chain_key, email, event, session, token, user};

async fn open<B: Backend>(folder: &tempfile::TempDir) -> Arc<dyn Transfer> {
    let store = B::open_whole(folder.path()).await;
    store.set_chain_key(chain_key());
    store
}

fn happened(secs: i64, user: Option<UserId>) -> AuditEvent {
    event(EventId::new(), at(secs), Action::UserLogin, user)
}

/// Walks along all chains. Says how many events hold, or the first fault.
async fn verify(store: &dyn Store) -> Result<u64, (WriterId, Fault)> {
    let key = chain_key();
    let mut count = 0;
    for chain in store.chains().await.unwrap() {
        count += follow(store, &key, &chain).await.map_err(|fault| (chain.writer, fault))?;
    }
    Ok(count)
}

async fn follow(store: &dyn Store, key: &ChainKey, chain: &Chain) -> Result<u64, Fault> {
    let mut walk = Walk::begin(key, chain)?;
    let base = walk.seq;
    loop {
        // A few at a time, so that the pages are shown to fit together.
        let some = store.chained(chain.writer, walk.seq, 7).await.unwrap();
        for event in &some {
            walk.step(key, chain.writer, event)?;
        }
        if some.is_empty() {
            walk.arrive(chain)?;
            return Ok(walk.seq - base);
        }
    }
}

async fn log(store: &dyn Store) -> Vec<EventId> {
    let all = store.audit(&AuditQuery { limit: usize::MAX, ..AuditQuery::default() }).await.unwrap();
    all.iter().map(|event| event.id).collect()
}

async fn owner(store: &dyn Store, number: u64) -> User {
    let owner = user(UserId::new(), email(number));
    store.insert_user(&owner, false).await.unwrap();
    owner
}

pub(crate) async fn an_event_is_written_with_what_it_tells_of<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = open::<B>(&folder).await;
    let ada = owner(&*store, 1).await;
    let mut expected = Vec::new();
    let mut tell = |count: usize| {
        let events: Vec<AuditEvent> = (0..count).map(|_| happened(5, Some(ada.id))).collect();
        expected.extend(events.iter().map(|event| event.id));
        store.recording(events)
    };
    let (eve, id, api) = (user(UserId::new(), email(2)), SessionId::new(), api_token(ApiTokenId::new(), ada.id, None));
    tell(1).insert_user(&eve, false).await.unwrap();
    tell(1).replace_user(&ada).await.unwrap();
    tell(2).insert_session(&session(id, ada.id, at(1000)), None).await.unwrap();
    let minute = Duration::from_mins(1);
    assert!(matches!(tell(1).rotate_session(id, Generation(0), token(1, 1), minute, at(2)).await.unwrap(), Rotation::Rotated(_)));
    tell(1).insert_api_token(&api).await.unwrap();
    assert!(tell(1).delete_api_token(ada.id, api.id).await.unwrap());
    tell(1).delete_sessions(SessionSelector::OfUser(ada.id)).await.unwrap();
    assert!(tell(1).delete_user(eve.id, at(3)).await.unwrap().is_some());
    let mut found = log(&*store).await;
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);

    // What was not done is not told of.
    let never = || store.recording(vec![happened(6, Some(ada.id))]);
    assert!(matches!(never().insert_user(&ada, false).await, Err(Error::Conflict)));
    assert!(matches!(never().replace_user(&ada).await, Err(Error::Stale)));
    assert!(matches!(never().insert_session(&session(id, eve.id, at(9)), None).await, Err(Error::Stale)));
    assert_eq!(never().rotate_session(id, Generation(0), token(1, 1), minute, at(2)).await.unwrap(), Rotation::Gone);
    assert!(!never().delete_api_token(ada.id, api.id).await.unwrap());
    assert!(never().delete_user(eve.id, at(3)).await.unwrap().is_none());
    assert_eq!(log(&*store).await.len(), expected.len());

    // And what can't be told of is not done.
    let there = store.audit(&AuditQuery { limit: 1, ..AuditQuery::default() }).await.unwrap();
    let twice = store.recording(there).insert_session(&session(id, ada.id, at(1000)), None).await;
    assert!(matches!(&twice, Err(Error::Unrecorded(why)) if matches!(**why, Error::Conflict)), "{twice:?}");
    let large = AuditEvent { actor: Some("x".repeat(20_000)), ..happened(7, None) };
    let large = store.recording(vec![large]).insert_session(&session(id, ada.id, at(1000)), None).await;
    assert!(matches!(&large, Err(Error::Unrecorded(why)) if matches!(**why, Error::TooLarge(_))), "{large:?}");
    assert!(store.session(id).await.unwrap().is_none());
    assert_eq!(verify(&*store).await, Ok(u64::try_from(expected.len()).unwrap()));
    assert!(store.unchained(9).await.unwrap().is_empty());
}

/// Nobody waits for another's turn, and nobody loses a place.
#[expect(clippy::disallowed_methods, reason = "the test waits for all of them itself")]
pub(crate) async fn what_writers_at_once_leave_holds<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let one = open::<B>(&folder).await;
    let ada = owner(&*one, 1).await.id;
    let writers: Vec<_> = (0..24)
        .map(|number: i64| {
            let store = Arc::clone(&one);
            tokio::spawn(async move {
                for round in 0..5 {
                    let event = happened(number * 10 + round, Some(ada));
                    if number % 2 == 0 {
                        store.append_audit(&event).await.unwrap();
                    } else {
                        let made = session(SessionId::new(), ada, at(1000));
                        store.recording(vec![event]).insert_session(&made, None).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(verify(&*one).await, Ok(120));
    assert_eq!(log(&*one).await.len(), 120);
    let chains = one.chains().await.unwrap();
    assert!(chains.iter().zip(1..).all(|(chain, number)| chain.writer == WriterId(number)), "{chains:?}");
    // Whoever opens it next goes on where these stopped.
    drop(one);
    let next = open::<B>(&folder).await;
    next.append_audit(&happened(1, None)).await.unwrap();
    assert_eq!(verify(&*next).await, Ok(121));
    assert_eq!(next.chains().await.unwrap().len(), chains.len(), "no chain more");
}

pub(crate) async fn retention_cuts_a_chain_and_it_goes_on<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = open::<B>(&folder).await;
    let ada = owner(&*store, 1).await.id;
    for secs in [1, 2, 3, 10, 4, 11] {
        store.append_audit(&happened(secs, Some(ada))).await.unwrap();
    }
    assert_eq!(store.purge(at(20), Some(at(1))).await.unwrap().others, 0);
    assert_eq!(store.chains().await.unwrap()[0].base.seq, 0);
    assert_eq!(store.purge(at(20), Some(at(3))).await.unwrap().others, 2);
    assert_eq!((verify(&*store).await, log(&*store).await.len()), (Ok(4), 4));
    // Not past one that has to stay: it would leave a hole.
    assert_eq!(store.purge(at(20), Some(at(10))).await.unwrap().others, 1);
    let chain = store.chains().await.unwrap()[0];
    assert_eq!((chain.base.seq, chain.base.at, chain.head.seq), (3, at(20), 6));
    store.append_audit(&happened(12, Some(ada))).await.unwrap();
    assert_eq!((verify(&*store).await, log(&*store).await.len()), (Ok(4), 4));
    // To the end, and on from there.
    assert_eq!(store.purge(at(30), Some(at(30))).await.unwrap().others, 4);
    assert_eq!((verify(&*store).await, log(&*store).await.len()), (Ok(0), 0));
    let of_ada = AuditQuery { user: Some(ada), limit: 9, ..AuditQuery::default() };
    assert!(store.audit(&of_ada).await.unwrap().is_empty());
    store.append_audit(&happened(31, Some(ada))).await.unwrap();
    assert_eq!((verify(&*store).await, store.chains().await.unwrap()[0].head.seq), (Ok(1), 8));
    assert_eq!(store.audit(&of_ada).await.unwrap().len(), 1);
}

/// What somebody can do who may write the store: here by the one way that writes what it is told.
pub(crate) async fn what_is_taken_away_or_put_in_is_found<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = open::<B>(&folder).await;
    for secs in 1..=6 {
        store.append_audit(&happened(secs, None)).await.unwrap();
    }
    let items = everything(&*store).await;
    let events: Vec<_> =
        items.iter().filter_map(|item| if let Item::AuditEvent(stored) = item { Some(stored.clone()) } else { None }).collect();
    let third = events.iter().find(|stored| stored.place.unwrap().seq == 3).unwrap().clone();
    let id = third.event().unwrap().id;
    let first = WriterId::FIRST;

    let target = async |items: &[Item]| {
        let folder = tempfile::tempdir().unwrap();
        let store = open::<B>(&folder).await;
        fill(&*store, items).await;
        let found = (verify(&*store).await, store.unchained(9).await.unwrap());
        drop(store);
        found
    };
    assert_eq!(target(&items).await, (Ok(6), Vec::new()));
    let without: Vec<Item> = items.iter().filter(|item| **item != Item::AuditEvent(third.clone())).cloned().collect();
    assert_eq!(target(&without).await.0, Err((first, Fault::Missing { seq: 3 })));
    let mut changed = without.clone();
    let mut event = third.event().unwrap();
    event.outcome = nullpass::model::Outcome::Failure;
    let record = nullpass::store::record::encode(&event).unwrap();
    changed.push(Item::AuditEvent(nullpass::store::chain::StoredEvent { record, ..third.clone() }));
    assert_eq!(target(&changed).await.0, Err((first, Fault::Changed { seq: 3, id: Some(id) })));
    // One that stands nowhere, and one that stands after the end.
    let mut more = items.clone();
    let stranger = happened(3, None);
    more.push(Item::AuditEvent(nullpass::store::chain::StoredEvent::unchained(&stranger).unwrap()));
    assert_eq!(target(&more).await, (Ok(6), vec![stranger.id]));
    // The newest are cut off, and the chain's end is set back to match.
    let mut cut = items.clone();
    cut.retain(|item| !matches!(item, Item::AuditEvent(stored) if stored.place.unwrap().seq > 4));
    let fourth = events.iter().find(|stored| stored.place.unwrap().seq == 4).unwrap().place.unwrap();
    for item in &mut cut {
        if let Item::AuditChain(chain) = item {
            (chain.head.seq, chain.head.link) = (fourth.seq, fourth.link);
        }
    }
    assert_eq!(target(&cut).await.0, Err((first, Fault::Head)));
}

pub(crate) async fn the_log_is_read_a_page_at_a_time<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = open::<B>(&folder).await;
    let ada = owner(&*store, 1).await.id;
    for number in 0..23 {
        store.append_audit(&happened(number / 4, (number % 3 == 0).then_some(ada))).await.unwrap();
    }
    for user in [None, Some(ada)] {
        let query = AuditQuery { user, since: Some(at(1)), limit: usize::MAX, ..AuditQuery::default() };
        let whole = store.audit(&query).await.unwrap();
        let (mut paged, mut before): (Vec<AuditEvent>, Option<(Timestamp, EventId)>) = (Vec::new(), None);
        loop {
            let page = store.audit(&AuditQuery { before, limit: 3, ..query.clone() }).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some((last.at, last.id));
            paged.extend(page);
        }
        assert_eq!(paged, whole);
        assert!(whole.len() >= 6);
    }
}

pub(crate) async fn a_chain_is_carried_whole<B: Backend>() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (from, back) = (open::<B>(&folders[0]).await, open::<B>(&folders[2]).await);
    let to: Arc<dyn Transfer> = Arc::new(SledStore::open(folders[1].path()).unwrap());
    to.set_chain_key(chain_key());
    for secs in 1..=9 {
        from.append_audit(&happened(secs, None)).await.unwrap();
    }
    from.purge(at(20), Some(at(4))).await.unwrap();
    carry(&*from, "x", &*to, &mut |_| {}).await.unwrap();
    assert_eq!(verify(&*to).await, Ok(6));
    // It goes on in the other store, and in the first again.
    to.append_audit(&happened(21, None)).await.unwrap();
    carry(&*to, "x", &*back, &mut |_| {}).await.unwrap();
    back.append_audit(&happened(22, None)).await.unwrap();
    assert_eq!(verify(&*back).await, Ok(8));
    assert_eq!(back.chains().await.unwrap().len(), 1);
    assert_eq!(back.purge(at(30), Some(at(6))).await.unwrap().others, 2);
    assert_eq!((verify(&*back).await, back.unchained(9).await.unwrap()), (Ok(6), Vec::new()));
}

async fn everything(store: &dyn Transfer) -> Vec<Item> {
    let mut export = store.export().await.unwrap();
    let mut items = Vec::new();
    loop {
        let some = export.next().await.unwrap();
        if some.is_empty() {
            return items;
        }
        items.extend(some);
    }
}

async fn fill(store: &dyn Transfer, items: &[Item]) {
    assert!(store.swap_meta(MARKER, None, Some(b"x")).await.unwrap());
    store.import(b"x", items).await.unwrap();
    assert!(store.swap_meta(MARKER, Some(b"x"), None).await.unwrap());
}
